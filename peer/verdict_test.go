// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"testing"

	"dragonfly"
	"dragonfly/peer"
)

// TestLyingSwarm: a supernode whose seed gives wrong bytes, wrong digests of
// them and its word for the whole is found out by the digest in the URL. What
// was passed on is aborted, and the content comes from the source, now and for a
// while.
func TestLyingSwarm(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.set(func(o *origin) { o.content = random(1, pieceLen) })
		j := job()
		j.Request.URL = fmt.Sprintf("http://origin/v2/library/one/blobs/sha256:%x", sha256.Sum256(w.origin.content))
		s := w.script("liar")
		s.info.Task = j.Request.TaskID()
		s.info.Whole, _ = dragonfly.NewDigest("sha256", sum(w.origin.content))
		m := w.machine("10.0.1.1", t.TempDir(), options{dial: func(dragonfly.Member) dragonfly.Tracker { return s }})
		j.Nodes = []dragonfly.Member{{ID: "liar", Addr: "10.9.9.9:8002", Weight: 1}}
		wrong := random(2, pieceLen)
		seed := w.parent("10.0.1.9", wrong)
		seed.Kind = dragonfly.ParentSeed

		d := m.start(j)
		r, err := d.Reader(t.Context(), dragonfly.Span{To: dragonfly.UnknownLength})
		if err != nil {
			t.Fatal(err)
		}
		right := w.origin.content
		w.origin.set(func(o *origin) { o.content = wrong })
		digest := w.digest(0)
		w.origin.set(func(o *origin) { o.content = right })
		s.whole(0, seed, digest)
		if got, err := io.ReadAll(r); dragonfly.KindOf(err) != dragonfly.DigestMismatch {
			t.Errorf("a reader was given %d bytes and %v", len(got), err)
		}
		w.succeed(d, w.origin.content)
		if p := d.Progress(); p.Reason != peer.ReasonDownload {
			t.Errorf("%+v", p)
		}
		again := m.start(j)
		w.succeed(again, w.origin.content)
		if p := again.Progress(); p.Reason != peer.ReasonDownload || p.FromSeed > 0 {
			t.Errorf("%+v", p)
		}
	})
}

// TestWrongAtSource: when the source's content is not what its name says, the
// hosts believe the supernode, and none of them asks the source.
func TestWrongAtSource(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		j := job(n)
		j.Request.URL = fmt.Sprintf("http://origin/v2/library/one/blobs/sha256:%x", sha256.Sum256(nil))
		for _, m := range w.hosts(3) {
			if err := w.wait(m.start(j)); dragonfly.KindOf(err) != dragonfly.DigestMismatch {
				t.Error(err)
			}
		}
		w.origin.mu.Lock()
		defer w.origin.mu.Unlock()
		for _, host := range w.origin.hosts {
			if host != nodeA {
				t.Errorf("%s asked the source", host)
			}
		}
	})
}

func sum(content []byte) []byte {
	s := sha256.Sum256(content)
	return s[:]
}
