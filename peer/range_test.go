// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// wants is a job for a part of the content.
func wants(j peer.Job, spans ...dragonfly.Span) peer.Job {
	j.Want = spans
	return j
}

// read reads a span of a download to its end.
func read(t *testing.T, d *peer.Download, span dragonfly.Span) ([]byte, error) {
	t.Helper()
	r, err := d.Reader(t.Context(), span)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// TestRangeFetchesTouchedPieces: neither the peer nor the seed fetches more, and
// the source is not asked for more (design 9).
func TestRangeFetchesTouchedPieces(t *testing.T) {
	t.Parallel()
	const from = 3*pieceLen + 10
	for name, k := range map[string]struct {
		spans  []dragonfly.Span
		pieces []dragonfly.PieceNum
		asked  []string // of the source
	}{
		"in a piece": {[]dragonfly.Span{{From: from, To: from + 20}}, []dragonfly.PieceNum{3}, []string{"bytes=12582897-16777195"}},
		"two pieces": {[]dragonfly.Span{{From: from, To: from + pieceLen}}, []dragonfly.PieceNum{3, 4}, []string{"bytes=12582897-20971494"}},
		"to the end": {[]dragonfly.Span{{From: 5 * pieceLen, To: dragonfly.UnknownLength}}, []dragonfly.PieceNum{5, 6}, []string{"bytes=20971495-"}},
		"the start":  {[]dragonfly.Span{{From: 0, To: 1}}, []dragonfly.PieceNum{0}, []string{"bytes=0-4194298"}},
		"several":    {[]dragonfly.Span{{From: 5, To: 6}, {From: from, To: from + 1}}, []dragonfly.PieceNum{0, 3}, []string{"bytes=0-4194298", "bytes=12582897-16777195"}},
		"behind it":  {[]dragonfly.Span{{From: 7 * pieceLen, To: 7*pieceLen + 1}}, nil, nil},
	} {
		for _, alone := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					w.origin.set(func(o *origin) { o.content = random(9, 6*pieceLen+mib) })
					var nodes []*node
					if !alone {
						nodes = append(nodes, w.node(nodeA))
					}
					total := int64(0)
					for _, n := range k.pieces {
						total += int64(min(pieceLen, len(w.origin.content)-int(n)*pieceLen))
					}
					for i, m := range w.hosts(3) {
						if alone && i > 0 {
							break
						}
						d := m.start(wants(job(nodes...), k.spans...))
						for _, s := range k.spans {
							to := s.To
							if to < 0 || to > int64(len(w.origin.content)) {
								to = int64(len(w.origin.content))
							}
							got, err := read(t, d, s)
							if err != nil || !bytes.Equal(got, w.origin.content[min(s.From, to):to]) {
								t.Fatalf("%v: %d bytes, %v", s, len(got), err)
							}
						}
						if err := w.wait(d); err != nil {
							t.Fatal(err)
						}
						if got := received(d.Progress()); got != total {
							t.Errorf("host %d received %d bytes, want %d", i, got, total)
						}
						if _, err := d.File(); err == nil {
							t.Error("a part has a file")
						}
					}
					if k.pieces == nil {
						return // how the source is asked for what it does not have is its business
					}
					w.origin.mu.Lock()
					asked, sent := slices.Clone(w.origin.asked), w.origin.sent
					w.origin.mu.Unlock()
					if sent != total || !slices.Equal(asked, k.asked) {
						t.Errorf("the source sent %d bytes, want %d, and was asked for %q", sent, total, asked)
					}
				})
			})
		}
	}
}

// TestRangesAddUp: what a part brought is not fetched again for the whole, and
// neither holds the other up for good.
func TestRangesAddUp(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.set(func(o *origin) { o.content = random(9, 20*pieceLen) })
		n := w.node(nodeA)
		w.net.limit(originHost, mib)
		m := w.host("10.0.1.1")
		part := m.start(wants(job(n), dragonfly.Span{From: 15 * pieceLen, To: 15*pieceLen + 1}))
		all := m.start(job(n))
		other := w.host("10.0.1.2").start(wants(job(n), dragonfly.Span{From: 17 * pieceLen, To: 17*pieceLen + 1}))
		for from, d := range map[int64]*peer.Download{15 * pieceLen: part, 17 * pieceLen: other} {
			if got, err := read(t, d, dragonfly.Span{From: from, To: from + 1}); err != nil || got[0] != w.origin.content[from] {
				t.Fatal(got, err)
			}
			if err := w.wait(d); err != nil {
				t.Fatal(err)
			}
		}
		w.succeed(all, w.origin.content)
		if sent := w.origin.Sent(); sent > int64(len(w.origin.content))+mib {
			t.Errorf("the source sent %d bytes for %d", sent, len(w.origin.content))
		}
	})
}

// TestConsumersGetBytesAtOnce: what comes straight from the source or the seed
// is given before its piece is whole (design 5).
func TestConsumersGetBytesAtOnce(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world) {
			var nodes []*node
			if !alone {
				nodes = append(nodes, w.node(nodeA))
			}
			w.net.limit(originHost, mib) // 4 s for a piece
			began := time.Now()
			d := w.host("10.0.1.1").start(job(nodes...))
			r, err := d.Reader(t.Context(), dragonfly.Span{To: dragonfly.UnknownLength})
			if err != nil {
				t.Fatal(err)
			}
			first := make([]byte, dragonfly.BlockLen)
			if _, err := io.ReadFull(r, first); err != nil || !bytes.Equal(first, w.origin.content[:len(first)]) {
				t.Fatal(err)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("the first block came after %s", took)
			}
			rest, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(rest, w.origin.content[len(first):]) {
				t.Errorf("%d bytes more, %v", len(rest), err)
			}
			w.succeed(d, w.origin.content)
		})
	}
}

// TestGuardedJobs: who shares a host's engine with somebody else is given only
// what the source gives to him, whatever is here already.
func TestGuardedJobs(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world) {
			const blob = "http://origin/v2/team/app/blobs/sha256:"
			w.origin.set(func(o *origin) {
				o.handle = func(rw http.ResponseWriter, r *http.Request) bool {
					if r.Header.Get("Authorization") != "mine" {
						rw.WriteHeader(http.StatusUnauthorized)
						return true
					}
					return false
				}
			})
			var nodes []*node
			if !alone {
				nodes = append(nodes, w.node(nodeA))
			}
			w.net.limit(originHost, mib)
			j := job(nodes...)
			j.Request.URL = blob + "x"
			j.Guarded = true
			mine, other := j, j
			mine.Request.Header = dragonfly.Header{"Authorization": {"mine"}}
			m := w.host("10.0.1.1")
			d := m.start(mine)
			r, err := d.Reader(t.Context(), dragonfly.Span{To: dragonfly.UnknownLength})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, mib)); err != nil {
				t.Fatal(err)
			}
			refused := func(when string) {
				for _, token := range []string{"", "wrong"} {
					other.Request.Header = nil
					if token != "" {
						other.Request.Header = dragonfly.Header{"Authorization": {token}}
					}
					d := m.start(other)
					got, err := read(t, d, dragonfly.Span{To: dragonfly.UnknownLength})
					if len(got) > 0 || dragonfly.KindOf(err) != dragonfly.Unauthorized {
						t.Errorf("%s %q is given %d bytes, %v", when, token, len(got), err)
					}
					if err := w.wait(d); dragonfly.KindOf(err) != dragonfly.Unauthorized {
						t.Errorf("%s %q: %v", when, token, err)
					}
				}
			}
			refused("in the middle")
			w.succeed(d, w.origin.content)
			refused("at the end")
			w.succeed(m.start(mine), w.origin.content)
		})
	}
}

// TestGuardedWithoutSource: what was found out lately counts when neither
// supernode nor source can be asked.
func TestGuardedWithoutSource(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		j := job(n)
		j.Request.URL, j.Guarded = fmt.Sprintf("http://origin/v2/library/one/blobs/sha256:%x", sha256.Sum256(w.origin.content)), true
		m := w.host("10.0.1.1")
		w.succeed(m.start(j), w.origin.content)
		n.kill()
		w.net.cut(originHost, true)
		w.succeed(m.start(j), w.origin.content)
	})
}

// TestFreshCredentials: when the source refuses in mid-task what it took at the
// beginning, the seed gets what the job has then.
func TestFreshCredentials(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		token := "old"
		w.origin.set(func(o *origin) {
			o.cutAfter = pieceLen + mib
			o.handle = func(rw http.ResponseWriter, r *http.Request) bool {
				if got := r.Header.Get("Authorization"); got != token {
					rw.WriteHeader(http.StatusUnauthorized)
					return true
				}
				token = "new"
				return false
			}
		})
		j := job(n)
		j.Request.Header = dragonfly.Header{"Authorization": {"old"}}
		asked := 0
		j.Fresh = func(context.Context) dragonfly.Header {
			asked++
			return dragonfly.Header{"Authorization": {"new"}}
		}
		d := w.host("10.0.1.1").start(j)
		w.succeed(d, w.origin.content)
		if p := d.Progress(); asked == 0 || p.FromSource > 0 {
			t.Errorf("asked %d times, %+v", asked, p)
		}
	})
}

// TestManyRanges: however many jobs want parts, a registration takes them.
func TestManyRanges(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		m := w.host("10.0.1.1")
		w.net.limit(originHost, 4*mib)
		var downloads []*peer.Download
		for i := range int64(3 * dragonfly.MaxWant) {
			downloads = append(downloads, m.start(wants(job(n), dragonfly.Span{From: 10_000 * i, To: 10_000*i + 100})))
		}
		for _, d := range downloads {
			if err := w.wait(d); err != nil || d.Progress().Reason != peer.ReasonNone {
				t.Fatal(err, d.Progress())
			}
		}
	})
}
