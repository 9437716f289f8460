// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"testing"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

func TestOnePeerCold(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		m := w.host("10.0.1.1")
		d := m.start(job(n))
		w.succeed(d, w.origin.content)
		if sent := w.origin.Sent(); sent != int64(len(w.origin.content)) {
			t.Errorf("the origin sent %d bytes for a content of %d", sent, len(w.origin.content))
		}
		if got := received(d.Progress()); got != int64(len(w.origin.content)) {
			t.Errorf("the peer received %d bytes for a content of %d", got, len(w.origin.content))
		}
		<-time.After(time.Second) // the last report is on its way
		m.close()
		var verified dragonfly.PieceSet
		for _, ev := range m.told() {
			if ev.Kind == dragonfly.EventVerified {
				verified.Add(ev.Piece)
			}
		}
		if verified.Count() != 3 {
			t.Errorf("%d of 3 pieces were reported as verified", verified.Count())
		}
	})
}

func TestTwentyPeersAtOnce(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		size := int64(len(w.origin.content))
		var downloads []*peer.Download
		for _, m := range w.hosts(20) {
			downloads = append(downloads, m.start(job(n)))
		}
		for _, d := range downloads {
			w.succeed(d, w.origin.content)
			if got := received(d.Progress()); got != size {
				t.Errorf("a peer received %d bytes for a content of %d", got, size)
			}
		}
		if sent := w.origin.Sent(); sent != size {
			t.Errorf("the origin sent %d bytes for a content of %d", sent, size)
		}
	})
}
