// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// change makes the origin have another content from now on, and breaks what is
// being read.
func (w *world) change(content []byte, etag string) {
	w.origin.set(func(o *origin) { o.content, o.etag = content, etag })
	w.net.each(originHost, func(p *pipe) { p.err = io.ErrUnexpectedEOF })
}

// TestContentChangesInMidDownload: all peers get the new bytes, and none of
// them a mixture.
func TestContentChangesInMidDownload(t *testing.T) {
	t.Parallel()
	for _, etags := range [][2]string{{`"one"`, `"two"`}, {"", ""}} {
		t.Run(fmt.Sprintf("validator %q", etags[0]), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.origin.etag = etags[0]
				n := w.node(nodeA)
				w.net.limit(originHost, 4*mib)
				var downloads []*peer.Download
				for _, m := range w.hosts(4) {
					downloads = append(downloads, m.start(job(n)))
				}
				w.middle(downloads[0])
				next := random(7, 2*pieceLen)
				w.change(next, etags[1])
				for _, d := range downloads {
					w.succeed(d, next)
				}
			})
		})
	}
}

func TestContentChangesInMidDownloadWithoutSupernode(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.net.limit(originHost, 4*mib)
		d := w.host("10.0.1.1").start(job())
		w.middle(d)
		next := random(7, 2*pieceLen)
		w.change(next, `"two"`)
		w.succeed(d, next)
	})
}

// TestRevalidation: a content that a host and the seed have is asked about once
// per 10 s, and fetched again only when it changed.
func TestRevalidation(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		a, b := w.host("10.0.1.1"), w.host("10.0.1.2")
		w.succeed(a.start(job(n)), w.origin.content)
		asked, sent := w.origin.Asked(), w.origin.Sent()
		w.succeed(b.start(job(n)), w.origin.content)
		if w.origin.Asked() != asked {
			t.Error("the source was asked again at once")
		}
		<-time.After(11 * time.Second)
		d := a.start(job(n))
		w.succeed(d, w.origin.content)
		if w.origin.Asked() != asked+1 || w.origin.Sent() != sent || received(d.Progress()) != 0 {
			t.Errorf("unchanged: asked %d times, %d bytes sent, %d received", w.origin.Asked()-asked, w.origin.Sent()-sent, received(d.Progress()))
		}
		<-time.After(11 * time.Second)
		next := random(7, pieceLen+mib)
		w.change(next, `"two"`)
		w.succeed(a.start(job(n)), next)
		w.succeed(b.start(job(n)), next)
		if again := w.origin.Sent() - sent; again != int64(len(next)) {
			t.Errorf("changed: the origin sent %d bytes for a content of %d", again, len(next))
		}
	})
}

func TestRevalidationWithoutSupernode(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		m := w.host("10.0.1.1")
		w.succeed(m.start(job()), w.origin.content)
		sent := w.origin.Sent()
		w.succeed(m.start(job()), w.origin.content)
		if w.origin.Sent() != sent {
			t.Errorf("%d bytes were sent again", w.origin.Sent()-sent)
		}
		next := random(7, pieceLen+mib)
		w.change(next, `"two"`)
		w.succeed(m.start(job()), next)
	})
}

func digestOf(t *testing.T, text string) dragonfly.Digest {
	d, err := dragonfly.ParseDigest(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestWrongDigestFailsThatJobOnly: another job for the same URL without the
// expectation, and one with the right digest, succeed.
func TestWrongDigestFailsThatJobOnly(t *testing.T) {
	t.Parallel()
	for _, swarm := range []bool{true, false} {
		for _, algorithm := range []string{"md5", "sha256"} {
			t.Run(fmt.Sprint(algorithm, " swarm ", swarm), func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					plain := job()
					if swarm {
						plain = job(w.node(nodeA))
					}
					right, wrong := plain, plain
					if algorithm == "md5" {
						right.Request.Digest = digestOf(t, fmt.Sprintf("%x", md5.Sum(w.origin.content)))
						wrong.Request.Digest = digestOf(t, strings.Repeat("ab", 16))
					} else {
						right.Request.Digest = digestOf(t, fmt.Sprintf("sha256:%x", sha256.Sum256(w.origin.content)))
						wrong.Request.Digest = digestOf(t, "sha256:"+strings.Repeat("ab", 32))
					}
					m := w.host("10.0.1.1")
					downloads := []*peer.Download{m.start(plain), m.start(right), m.start(wrong)}
					w.succeed(downloads[0], w.origin.content)
					w.succeed(downloads[1], w.origin.content)
					err := w.wait(downloads[2])
					if dragonfly.KindOf(err) != dragonfly.DigestMismatch {
						t.Errorf("the wrong digest: %v", err)
					}
					if _, ferr := downloads[2].File(); ferr == nil {
						t.Error("a file was given out")
					}
				})
			})
		}
	}
}

// TestDigestInTheURL: a content that is not what its URL says is given to
// nobody; one that is succeeds, and is not asked about again.
func TestDigestInTheURL(t *testing.T) {
	t.Parallel()
	for _, right := range []bool{true, false} {
		t.Run(fmt.Sprint("right ", right), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				n := w.node(nodeA)
				j := job(n)
				sum := sha256.Sum256(w.origin.content)
				if !right {
					sum[0] ^= 1
				}
				j.Request.URL = fmt.Sprintf("http://origin/v2/image/blobs/sha256:%x", sum)
				hosts := w.hosts(3)
				var downloads []*peer.Download
				for _, m := range hosts {
					downloads = append(downloads, m.start(j))
				}
				for _, d := range downloads {
					if right {
						w.succeed(d, w.origin.content)
					} else if err := w.wait(d); dragonfly.KindOf(err) != dragonfly.DigestMismatch {
						t.Errorf("ended with %v", err)
					}
				}
				if !right {
					return
				}
				asked := w.origin.Asked()
				<-time.After(time.Minute)
				w.succeed(hosts[0].start(j), w.origin.content)
				if w.origin.Asked() != asked {
					t.Error("a content that cannot change was asked about again")
				}
			})
		})
	}
}

// TestReaderGivesVerifiedBytesInOrder: as they come, from any offset.
func TestReaderGivesVerifiedBytesInOrder(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		w.net.limit(nodeA, 4*mib)
		m := w.host("10.0.1.1")
		d := m.start(job(n))
		for _, from := range []int64{0, 5, pieceLen + 7, int64(len(w.origin.content))} {
			r, err := d.Reader(t.Context(), dragonfly.Span{From: from, To: dragonfly.UnknownLength})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, w.origin.content[from:]) {
				t.Errorf("from %d: %d bytes, %v", from, len(got), err)
			}
		}
		w.succeed(d, w.origin.content)
	})
}

func TestReaderGivesFirstPiecesBeforeTheEnd(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.net.limit(originHost, mib)
		d := w.host("10.0.1.1").start(job())
		r, err := d.Reader(t.Context(), dragonfly.Span{To: dragonfly.UnknownLength})
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, pieceLen)
		if _, err := io.ReadFull(r, first); err != nil || !bytes.Equal(first, w.origin.content[:pieceLen]) {
			t.Fatalf("the first piece: %v", err)
		}
		select {
		case <-d.Done():
			t.Error("the first piece came with the last")
		default:
		}
		w.succeed(d, w.origin.content)
	})
}

// TestFailedDownloadNeverEndsCleanly: a reader of it gets an error, not io.EOF.
func TestFailedDownloadNeverEndsCleanly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		fail func(w *world, m *machine, d *peer.Download)
	}{
		{"cancelled", func(_ *world, _ *machine, d *peer.Download) { d.Close() }},
		{"engine closed", func(_ *world, m *machine, _ *peer.Download) { m.engine.Close() }},
		{"source gone", func(w *world, _ *machine, d *peer.Download) {
			w.origin.set(func(o *origin) {
				o.handle = func(w http.ResponseWriter, _ *http.Request) bool {
					w.WriteHeader(http.StatusNotFound)
					return true
				}
			})
			w.net.each(originHost, func(p *pipe) { p.err = io.ErrUnexpectedEOF })
		}},
		{"content changed", func(w *world, _ *machine, d *peer.Download) { w.change(random(9, 2*pieceLen), `"two"`) }},
	} {
		for _, swarm := range []bool{true, false} {
			t.Run(fmt.Sprint(test.name, " swarm ", swarm), func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					w.net.limit(originHost, 4*mib)
					j := job()
					if swarm {
						j = job(w.node(nodeA))
					}
					m := w.host("10.0.1.1")
					d := m.start(j)
					r, err := d.Reader(t.Context(), dragonfly.Span{To: dragonfly.UnknownLength})
					if err != nil {
						t.Fatal(err)
					}
					result := make(chan error, 1)
					go func() {
						_, err := io.Copy(io.Discard, r) // nil: a clean end
						result <- err
					}()
					w.middle(d)
					test.fail(w, m, d)
					select {
					case err := <-result:
						if err == nil {
							t.Error("a part of the content ended cleanly")
						}
					case <-time.After(5 * time.Minute):
						t.Error("the reader waits for ever")
						d.Close()
						m.engine.Close()
						<-result
					}
					w.wait(d)
				})
			})
		}
	}
}

func TestReaderOfTheWrongContentDoesNotEndCleanly(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		j := job()
		j.Request.Digest = digestOf(t, "sha256:"+strings.Repeat("ab", 32))
		d := w.host("10.0.1.1").start(j)
		r, err := d.Reader(t.Context(), dragonfly.Span{To: dragonfly.UnknownLength})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); dragonfly.KindOf(err) != dragonfly.DigestMismatch {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestReaderEndsWithItsContext(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.net.limit(originHost, mib)
		d := w.host("10.0.1.1").start(job())
		ctx, cancel := context.WithCancelCause(t.Context())
		r, err := d.Reader(ctx, dragonfly.Span{To: dragonfly.UnknownLength})
		if err != nil {
			t.Fatal(err)
		}
		why := errors.New("the reader left")
		time.AfterFunc(time.Second, func() { cancel(why) })
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, why) {
			t.Errorf("ended with %v", err)
		}
		synctest.Wait()
		w.succeed(d, w.origin.content)
	})
}
