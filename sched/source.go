// SPDX-License-Identifier: Apache-2.0

package sched

import (
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
		u := k.nextFromSource(t)
		if u < 0 {
			return
		}
		t.source.cursor = u + 1
		k.give(s, u, nil)
	}
}

// seedReads is willing for the seed: its slots are SourceDown, per task.
func (k *Machine) seedReads(s *member) bool {
	l := &s.p.listen
	return !s.gone && !l.silent && !l.gone && l.free > 0 && k.now >= l.pause
}

// nextFromSource is the unit that the seed reads next, -1 if there is none.
func (k *Machine) nextFromSource(t *task) unit {
	s := t.seed
	for _, ar := range s.arrivals {
		for u := t.first(ar.piece); u < t.behind(ar.piece) && t.lacked.has(ar.piece); u++ {
			if s.need.has(u) {
				return u
			}
		}
	}
	from := t.source.cursor
	u := k.sourceable(t, from)
	if u < 0 && from > 0 {
		u = k.sourceable(t, 0)
	}
	if u < 0 && !t.layout.Known() && t.wanters > 0 {
		u = unit(t.units) // its pieces are not parted
		k.grow(t, t.pieces+1)
	}
	return u
}

// readFrom makes the seed go on at n, where a reader stands, if only the source
// can give it. Who reads behind the seed changes nothing.
func (k *Machine) readFrom(t *task, n dragonfly.PieceNum) {
	u := t.first(n)
	if s := t.seed; s != nil && s.need.has(u) && len(t.providers[u]) == 0 {
		t.source.cursor = u
		k.feed(t)
	}
}

// sourceable is the first unit from u on that somebody lacks and only the
// source can give.
func (k *Machine) sourceable(t *task, u unit) unit {
	for u = t.seed.need.next(u); u >= 0; u = t.seed.need.next(u + 1) {
		if k.onlySource(t, u) {
			return u
		}
	}
	return -1
}

// onlySource says that somebody lacks u and only the source can give it.
func (k *Machine) onlySource(t *task, u unit) bool {
	return t.seed.need.has(u) && t.lacked.has(t.pieceOf(u)) && (len(t.providers[u]) == 0 || t.pull.has(u))
}

// pullFor notes what m may get only from a seed that does not have it: m is
// isolated, or all that have it are on its blacklist.
func (k *Machine) pullFor(m *member) {
	t := m.t
	if t.seed == nil || !m.p.under(isolated) && len(m.p.conduct.bans) == 0 {
		return
	}
	for u := m.need.next(0); u >= 0; u = m.need.next(u + 1) {
		if len(t.providers[u]) == 0 || !t.seed.need.has(u) || t.pull.has(u) || !m.p.under(isolated) && k.allows(m, u) {
			continue
		}
		t.pull.put(u, true)
		k.feed(t)
	}
}

// allows says whether some provider of u is not on m's blacklist.
func (k *Machine) allows(m *member, u unit) bool {
	for _, at := range m.t.providers[u] {
		if o := m.t.seats[at]; o != m && !k.banned(m.p, o.p, false) {
			return true
		}
	}
	return false
}

// pulled lets the seed fetch from peers what it is to get from them.
func (k *Machine) pulled(t *task) {
	s := t.seed
	for u := t.pull.next(0); u >= 0; u = t.pull.next(u + 1) {
		if !s.need.has(u) || !t.lacked.has(t.pieceOf(u)) {
			t.pull.put(u, false)
			continue
		}
		if s.working-s.sourcing >= s.slots || !k.seedReads(s) {
			return
		}
		if parent := k.parentFor(s, u); parent != nil {
			k.give(s, u, parent)
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
	for u := t.hungry.next(0); u >= 0; u = t.hungry.next(u + 1) {
		if len(t.providers[u]) == 0 && (t.seed == nil || t.seed.need.has(u)) {
			if !t.exhausted {
				t.exhausted = true
				k.out = append(k.out, Action{Kind: Exhausted, Task: t.id, Piece: t.pieceOf(u), Why: "no copy and the source is closed"})
			}
			return
		}
	}
	t.exhausted = false
}
