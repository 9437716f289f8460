// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// TestEveryKindOfOrigin: whatever an origin does not say, every peer gets the
// same bytes.
func TestEveryKindOfOrigin(t *testing.T) {
	t.Parallel()
	small := random(2, 100*kib)
	for _, test := range []struct {
		name   string
		origin func(o *origin)
	}{
		{"usual", func(o *origin) {}},
		{"without ranges", func(o *origin) { o.plain = true }},
		{"without ETag", func(o *origin) { o.etag, o.modified = "", time.Unix(1e9, 0) }},
		{"without validators", func(o *origin) { o.etag = "" }},
		{"without ranges and validators", func(o *origin) { o.plain, o.etag = true, "" }},
		{"without length", func(o *origin) { o.chunked = true }},
		{"without length and validators", func(o *origin) { o.chunked, o.etag = true, "" }},
		{"small without length", func(o *origin) { o.chunked, o.content = true, small }},
		{"whole pieces", func(o *origin) { o.content = o.content[:2*pieceLen] }},
		{"whole pieces without length", func(o *origin) { o.chunked, o.content = true, o.content[:2*pieceLen] }},
		{"one piece", func(o *origin) { o.content = o.content[:pieceLen] }},
		{"one piece without length", func(o *origin) { o.chunked, o.content = true, o.content[:pieceLen] }},
		{"a byte more without length", func(o *origin) { o.chunked, o.content = true, o.content[:pieceLen+1] }},
		{"small enough to come inside the answer", func(o *origin) { o.content = small[:20*kib] }},
		{"empty", func(o *origin) { o.content = nil }},
		{"empty without length", func(o *origin) { o.chunked, o.content = true, nil }},
		{"empty without validators", func(o *origin) { o.etag, o.content = "", nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.origin.set(test.origin)
				n := w.node(nodeA)
				hosts := w.hosts(4)
				var downloads []*peer.Download
				for _, m := range hosts {
					downloads = append(downloads, m.start(job(n)))
				}
				for i, d := range downloads {
					w.succeed(d, w.origin.content)
					if failed := hosts[i].failures(); len(failed) > 0 {
						t.Errorf("peer %d reported failures: %+v", i, failed)
					}
				}
				if sent := w.origin.Sent(); sent != int64(len(w.origin.content)) {
					t.Errorf("the origin sent %d bytes for a content of %d", sent, len(w.origin.content))
				}
			})
			inWorld(t, func(t *testing.T, w *world) {
				w.origin.set(test.origin)
				w.succeed(w.host("10.0.1.1").start(job()), w.origin.content)
				if sent := w.origin.Sent(); sent != int64(len(w.origin.content)) {
					t.Errorf("alone: the origin sent %d bytes for a content of %d", sent, len(w.origin.content))
				}
			})
		})
	}
}

// unended sends a chunked body and breaks the connection before its end.
func unended(content []byte) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w.(*body).ResponseWriter).Flush()
		io.Copy(w, bytes.NewReader(content))
		http.NewResponseController(w.(*body).ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestChunkedBodyWithoutItsEndIsAnError(t *testing.T) {
	t.Parallel()
	for _, swarm := range []bool{true, false} {
		t.Run(fmt.Sprint("swarm ", swarm), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.origin.handle = unended(w.origin.content)
				j := job()
				if swarm {
					j = job(w.node(nodeA))
				}
				d := w.host("10.0.1.1").start(j)
				if err := w.wait(d); dragonfly.KindOf(err) != dragonfly.SourceFailed && dragonfly.KindOf(err) != dragonfly.SourceChanged {
					t.Errorf("ended with %v", err)
				}
			})
		})
	}
}

// TestSourceErrors: what the source says reaches the job, with a supernode and
// without.
func TestSourceErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		want   dragonfly.Kind
	}{
		{http.StatusUnauthorized, dragonfly.Unauthorized},
		{http.StatusForbidden, dragonfly.Forbidden},
		{http.StatusNotFound, dragonfly.NotFound},
		{http.StatusGone, dragonfly.NotFound},
		{http.StatusInternalServerError, dragonfly.SourceFailed},
		{http.StatusBadGateway, dragonfly.SourceFailed},
	} {
		for _, swarm := range []bool{true, false} {
			t.Run(fmt.Sprint(test.status, " swarm ", swarm), func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					w.origin.handle = func(w http.ResponseWriter, _ *http.Request) bool {
						w.WriteHeader(test.status)
						return true
					}
					j := job()
					if swarm {
						j = job(w.node(nodeA))
					}
					began := time.Now()
					err := w.wait(w.host("10.0.1.1").start(j))
					if dragonfly.KindOf(err) != test.want {
						t.Errorf("ended with %s: %v", dragonfly.KindOf(err), err)
					}
					if took := time.Since(began); took > 20*time.Second {
						t.Errorf("ended after %v", took)
					}
				})
			})
		}
	}
}

func TestSourceThatCannotBeReached(t *testing.T) {
	t.Parallel()
	for _, swarm := range []bool{true, false} {
		t.Run(fmt.Sprint("swarm ", swarm), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				j := job()
				if swarm {
					j = job(w.node(nodeA))
				}
				w.net.cut(originHost, true)
				if err := w.wait(w.host("10.0.1.1").start(j)); dragonfly.KindOf(err) != dragonfly.SourceFailed {
					t.Errorf("ended with %v", err)
				}
			})
		})
	}
}

func TestSourceThatNeverAnswers(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.net.freeze(originHost, true)
		began := time.Now()
		if err := w.wait(w.host("10.0.1.1").start(job())); dragonfly.KindOf(err) != dragonfly.SourceFailed {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("ended after %v", took)
		}
	})
}

// TestSourceThatBreaksOffIsAskedForTheRest: with and without supernode the
// download goes on where the body broke off.
func TestSourceThatBreaksOffIsAskedForTheRest(t *testing.T) {
	t.Parallel()
	for _, swarm := range []bool{true, false} {
		t.Run(fmt.Sprint("swarm ", swarm), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.origin.cutAfter = 3 * mib
				j := job()
				if swarm {
					j = job(w.node(nodeA))
				}
				d := w.host("10.0.1.1").start(j)
				w.succeed(d, w.origin.content)
				size := int64(len(w.origin.content))
				if sent := w.origin.Sent(); sent > size+4*64*kib {
					t.Errorf("the origin sent %d bytes for a content of %d", sent, size)
				}
			})
		})
	}
}

func TestSourceIsAskedAgainAfterPauses(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		var times []time.Time
		w.origin.handle = func(rw http.ResponseWriter, r *http.Request) bool {
			w.origin.set(func(*origin) { times = append(times, time.Now()) })
			return false
		}
		// The first body breaks off at once, later ones give no byte.
		w.origin.cutAfter = mib
		d := w.host("10.0.1.1").start(job())
		w.until("the source was asked", func() bool { return w.origin.Asked() == 1 })
		w.origin.set(func(o *origin) {
			o.handle = func(rw http.ResponseWriter, r *http.Request) bool {
				o.set(func(*origin) { times = append(times, time.Now()) })
				rw.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
		})
		if err := w.wait(d); dragonfly.KindOf(err) != dragonfly.SourceFailed {
			t.Errorf("ended with %v", err)
		}
		var pauses []time.Duration
		for i := range times[1:] {
			pauses = append(pauses, times[i+1].Sub(times[i]).Round(500*time.Millisecond))
		}
		if !slices.IsSorted(pauses) || len(pauses) < 3 || pauses[0] < time.Second || pauses[len(pauses)-1] > 30*time.Second {
			t.Errorf("pauses between requests: %v", pauses)
		}
	})
}

// TestThrottledSourceIsLeftAlone: Retry-After is heeded.
func TestThrottledSourceIsLeftAlone(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.cutAfter = mib
		var refused, again time.Time
		w.origin.handle = func(rw http.ResponseWriter, r *http.Request) bool {
			switch w.origin.Asked() {
			case 2:
				refused = time.Now()
				rw.Header().Set("Retry-After", "7")
				rw.WriteHeader(http.StatusTooManyRequests)
				return true
			case 3:
				again = time.Now()
			}
			return false
		}
		w.succeed(w.host("10.0.1.1").start(job()), w.origin.content)
		if wait := again.Sub(refused); wait < 7*time.Second || wait > 8*time.Second {
			t.Errorf("asked again after %v", wait)
		}
	})
}

func TestNoSupernodeMeansTheSource(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		var watch watcher
		j := job()
		j.Observe = &watch
		d := w.host("10.0.1.1").start(j)
		w.succeed(d, w.origin.content)
		if p := d.Progress(); p.Reason != peer.ReasonNoNodes || p.FromSource != p.Length || !slices.Equal(watch.fallbacks, []int{peer.ReasonNoNodes}) {
			t.Errorf("%+v, fallbacks %v", p, watch.fallbacks)
		}
	})
}

func TestPatternSourceReadsTheSource(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		j := job(w.node(nodeA))
		j.Pattern = peer.PatternSource
		d := w.host("10.0.1.1").start(j)
		w.succeed(d, w.origin.content)
		if p := d.Progress(); p.Reason != peer.ReasonAsked || p.FromSource != p.Length {
			t.Errorf("%+v", p)
		}
	})
}

// TestGrantInMidDownload: when the seed cannot go on, the supernode leaves the
// source to the peer, which keeps what it has.
func TestGrantInMidDownload(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		w.net.limit(originHost, 4*mib)
		d := w.host("10.0.1.1").start(job(n))
		before := w.middle(d)
		w.origin.set(func(o *origin) {
			o.handle = func(_ http.ResponseWriter, r *http.Request) bool {
				if hostOf(r.RemoteAddr) == nodeA {
					panic(http.ErrAbortHandler)
				}
				return false
			}
		})
		w.net.each(originHost, func(p *pipe) { p.err = io.ErrUnexpectedEOF })
		w.succeed(d, w.origin.content)
		p := d.Progress()
		if again := received(p) - p.Length; again > 3*mib || p.Reason != peer.ReasonDownload {
			t.Errorf("%+v after %+v", p, before)
		}
	})
}
