// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"path/filepath"
	"testing"

	"dragonfly"
	"dragonfly/peer"
)

// TestSeedKeepsContentsOfOneIDApart: what is stored under a TaskID is not taken
// for the content of other parts that give the same one, even if a server says
// of those that nothing changed.
func TestSeedKeepsContentsOfOneIDApart(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.content = w.origin.content[:dragonfly.InlineMax]
		m := w.machine(nodeA, filepath.Join(w.dir, nodeA), options{dial: func(dragonfly.Member) dragonfly.Tracker { return w.script("seed") }})
		seed := m.engine.Seed(dragonfly.Member{ID: "script", Addr: "script:8002", Weight: 1})
		whole := dragonfly.Request{URL: fileURL}
		parts := dragonfly.Request{URL: fileURL[:len(fileURL)-2], Identifier: fileURL[len(fileURL)-2:]}
		for i, r := range []dragonfly.Request{whole, whole, parts, parts, whole} {
			p, err := seed.Prepare(t.Context(), r, peer.Known{})
			if err != nil || !p.Complete || p.Task != whole.TaskID() {
				t.Fatal(p, err)
			}
			seed.Forget(p.Task)
			if want := []int64{1, 1, 2, 2, 3}[i] * dragonfly.InlineMax; w.origin.Sent() != want {
				t.Errorf("request %d: the source has sent %d bytes, want %d", i, w.origin.Sent(), want)
			}
		}
	})
}
