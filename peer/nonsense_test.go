// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"math"
	"testing"
	"time"

	"dragonfly"
)

// TestNonsenseFromASupernode: what no content has is refused, whoever gives it,
// and costs the host nothing else.
func TestNonsenseFromASupernode(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.set(func(o *origin) { o.content = random(1, 2*pieceLen) })
		s := w.script("nonsense")
		m := w.machine("10.0.1.1", t.TempDir(), options{dial: func(dragonfly.Member) dragonfly.Tracker { return s }})
		j := job()
		j.Nodes = []dragonfly.Member{{ID: "nonsense", Addr: "10.9.9.9:8002", Weight: 1}}
		d := m.start(j)
		parent := w.parent("10.0.1.9", w.origin.content)
		for _, a := range []struct {
			n    dragonfly.PieceNum
			span dragonfly.Span
		}{
			{-1, dragonfly.Span{From: 0, To: 100}},
			{7, dragonfly.Span{From: 7 * pieceLen, To: 8 * pieceLen}},
			{math.MaxInt32, dragonfly.Span{From: 0, To: 100}},
			{0, dragonfly.Span{From: 100, To: 50}},
			{0, dragonfly.Span{From: -100, To: 50}},
			{0, dragonfly.Span{From: 0, To: 2 * pieceLen}},
			{1, dragonfly.Span{From: 0, To: pieceLen}},
			{1, dragonfly.Span{From: pieceLen, To: math.MaxInt64}},
		} {
			for _, from := range []dragonfly.Parent{parent, fromSource} {
				w.hears(s, s.assign(a.n, a.span, from, w.digest(0)), dragonfly.EventFailed)
			}
		}
		s.say(dragonfly.Work{Manifest: []dragonfly.Entries{
			{Task: s.info.Task, Version: s.info.Version, First: -5, Digests: make([]dragonfly.PieceDigest, 3)},
			{Task: s.info.Task, Version: s.info.Version, First: math.MaxInt32, Digests: make([]dragonfly.PieceDigest, 3)},
		}})
		s.say(dragonfly.Work{Questions: []dragonfly.Question{{Kind: dragonfly.AskReverify, Task: s.info.Task, Version: s.info.Version, Piece: -3},
			{Kind: dragonfly.AskReverify, Task: s.info.Task, Version: s.info.Version, Piece: 1 << 30}}})
		<-time.After(time.Second)
		for n := range dragonfly.PieceNum(2) {
			s.whole(n, parent, w.digest(n))
		}
		w.succeed(d, w.origin.content)
	})
}
