// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"math/bits"
	"time"

	"dragonfly"
)

// feed looks, at the end of the step, whether the seed should read something.
func (k *Machine) feed(t *task) {
	if !t.feeding && !t.ended {
		t.feeding = true
		k.feeds = append(k.feeds, t)
	}
}

// feedSeed gives the seed of a task what somebody wants and nobody has, in
// ascending order behind what it reads already, so that a run of pieces is one
// request at the source. Pieces that peers have are left to them, unless there
// is somebody who may get them from the seed only.
func (k *Machine) feedSeed(t *task) {
	s := t.seed
	if t.ended {
		return
	}
	if s != nil {
		k.pulled(t)
	}
	if t.source.closed {
		k.starving(t)
	}
	if s == nil || t.source.closed || k.now < t.source.pause {
		return
	}
	for s.sourcing < k.cfg.SourceDown && k.seedReads(s) {
		n := k.nextFromSource(t)
		if n < 0 {
			return
		}
		t.source.cursor = n + 1
		k.assignRest(s, n, nil)
	}
}

// seedReads is willing for the seed: its slots are SourceDown, per task.
func (k *Machine) seedReads(s *member) bool {
	l := &s.p.listen
	return !s.gone && !l.silent && !l.gone && l.free > 0 && k.now >= l.pause
}

// nextFromSource is the piece that the seed reads next, -1 if there is none.
func (k *Machine) nextFromSource(t *task) dragonfly.PieceNum {
	s := t.seed
	for _, ar := range s.arrivals {
		if s.need.has(ar.piece) && t.lacked.has(ar.piece) {
			return ar.piece
		}
	}
	from := t.source.cursor
	n := k.sourceable(t, from)
	if n < 0 && from > 0 {
		n = k.sourceable(t, 0)
	}
	if n < 0 && !t.layout.Known() && t.wanters > 0 {
		n = dragonfly.PieceNum(t.pieces)
		k.grow(t, t.pieces+1)
	}
	return n
}

// readFrom makes the seed go on at n, where a reader stands, if only the source
// can give it. Who reads behind the seed changes nothing.
func (k *Machine) readFrom(t *task, n dragonfly.PieceNum) {
	if s := t.seed; s != nil && s.need.has(n) && len(t.providers[n]) == 0 {
		t.source.cursor = n
		k.feed(t)
	}
}

// sourceable is the first piece from n on that somebody lacks and only the
// source can give.
func (k *Machine) sourceable(t *task, n dragonfly.PieceNum) dragonfly.PieceNum {
	s := t.seed
	for i := int(n) >> 6; i < min(len(s.need), len(t.lacked)); i++ {
		w := s.need[i] & t.lacked[i]
		if i == int(n)>>6 {
			w &^= 1<<(uint(n)&63) - 1
		}
		for ; w != 0; w &= w - 1 {
			p := dragonfly.PieceNum(i<<6 + bits.TrailingZeros64(w))
			if len(t.providers[p]) == 0 || t.pull.has(p) {
				return p
			}
		}
	}
	return -1
}

// pullFor notes what m may get only from a seed that does not have it: m is
// isolated, or all that have it are on its blacklist.
func (k *Machine) pullFor(m *member) {
	t := m.t
	if t.seed == nil || !m.p.under(isolated) && len(m.p.conduct.bans) == 0 {
		return
	}
	for n := m.need.next(0); n >= 0; n = m.need.next(n + 1) {
		if len(t.providers[n]) == 0 || !t.seed.need.has(n) || t.pull.has(n) || !m.p.under(isolated) && k.allows(m, n) {
			continue
		}
		t.pull.put(n, true)
		k.feed(t)
	}
}

// allows says whether some provider of n is not on m's blacklist.
func (k *Machine) allows(m *member, n dragonfly.PieceNum) bool {
	for _, o := range m.t.providers[n] {
		if o != m && !k.banned(m.p, o.p, false) {
			return true
		}
	}
	return false
}

// pulled lets the seed fetch from peers what it is to get from them.
func (k *Machine) pulled(t *task) {
	s := t.seed
	for n := t.pull.next(0); n >= 0; n = t.pull.next(n + 1) {
		if !s.need.has(n) || !t.lacked.has(n) {
			t.pull.put(n, false)
			continue
		}
		if s.working-s.sourcing >= s.slots || !k.seedReads(s) {
			return
		}
		if parent := k.parentFor(s, n); parent != nil {
			k.assignRest(s, n, parent)
		}
	}
}

// sourceFailed pauses the source after a failure, longer each time. The
// caller closes it when it knows better.
func (k *Machine) sourceFailed(t *task) {
	t.source.pause = k.now.Add(backoff(time.Second, t.source.stumble, 30*time.Second))
	t.source.stumble++
	k.timers.push(timer{at: t.source.pause, kind: sourceAgain, task: t})
}

// starving says once when somebody waits for what nobody has and a closed
// source does not give.
func (k *Machine) starving(t *task) {
	for n := t.hungry.next(0); n >= 0; n = t.hungry.next(n + 1) {
		if len(t.providers[n]) == 0 && (t.seed == nil || t.seed.need.has(n)) {
			if !t.exhausted {
				t.exhausted = true
				k.out = append(k.out, Action{Kind: Exhausted, Task: t.id, Piece: n, Why: "no copy and the source is closed"})
			}
			return
		}
	}
	t.exhausted = false
}
