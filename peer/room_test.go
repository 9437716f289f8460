// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"path/filepath"
	"testing"

	"dragonfly/peer"
)

// TestRoom: what is only served makes room for what is wanted, the least recently
// used first, and what is being downloaded does not.
func TestRoom(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		m := w.machine("10.0.1.1", filepath.Join(w.dir, "10.0.1.1"), options{quota: 25 * mib})
		other := func(name string) peer.Job {
			j := job(n)
			j.Request.URL += name
			return j
		}
		for _, name := range []string{"", "1", "2", "", "3", ""} {
			w.succeed(m.start(other(name)), w.origin.content)
		}
		if all := m.store.Contents(); len(all) != 2 {
			t.Errorf("%d contents", len(all))
		}
		if asked := w.origin.Asked(); asked != 4 {
			t.Errorf("the source was asked %d times", asked)
		}
		w.net.limit(originHost, mib/4)
		first, second := m.start(other("4")), m.start(other("5"))
		w.middle(first)
		w.middle(second)
		third := m.start(other("6"))
		if err := w.wait(third); err == nil {
			t.Error("there was room for three")
		}
		w.succeed(first, w.origin.content)
		w.succeed(second, w.origin.content)
	})
}
