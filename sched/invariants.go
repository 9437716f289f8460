// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"fmt"
	"slices"

	"dragonfly"
)

// Check compares the machine with what the package comment promises, and its
// indices with what they are made from. It looks at everything, which takes
// long in a large swarm: tests and simulations call it, between two steps.
func (k *Machine) Check() error {
	if n := len(k.retries) + len(k.breaks) + len(k.feeds) + len(k.offerings) + len(k.lostZones); n > 0 {
		return fmt.Errorf("%d things are left to do", n)
	}
	work := 0
	for _, t := range k.tasks {
		if err := k.checkTask(t); err != nil {
			return fmt.Errorf("task %d: %w", t.id, err)
		}
		for _, m := range t.members {
			work += m.working
		}
	}
	if work != len(k.live) {
		return fmt.Errorf("%d assignments in work, %d booked", len(k.live), work)
	}
	load := 0
	for _, p := range k.peers {
		unacked := 0
		for _, a := range k.live {
			if a.child.p == p && !a.acked {
				unacked++
			}
		}
		if unacked != p.listen.unacked {
			return fmt.Errorf("peer %d: %d unacknowledged, %d booked", p.id, unacked, p.listen.unacked)
		}
		if !p.seed && len(p.children) > p.up {
			return fmt.Errorf("peer %d serves %d of %d", p.id, len(p.children), p.up)
		}
		load += len(p.children)
		for i, a := range p.children {
			if a.slot != i || k.live[a.id] != a {
				return fmt.Errorf("peer %d: child %d is not booked", p.id, i)
			}
		}
		if (p.under(quarantined) || p.under(isolated)) && len(p.children) > 0 {
			return fmt.Errorf("peer %d is out of the books and serves", p.id)
		}
	}
	for _, a := range k.live {
		if a.parent == nil {
			load++
		}
	}
	if load != len(k.live) {
		return fmt.Errorf("%d assignments, load %d", len(k.live), load)
	}
	return nil
}

func (k *Machine) checkTask(t *task) error {
	lack, starved := make([]int32, t.pieces), make([]int32, t.units)
	wanters, waiting := 0, 0
	for i, m := range t.members {
		if t.seats[m.seat] != m {
			return fmt.Errorf("peer %d: another one has its seat", m.p.id)
		}
		if m.index != i || t.of[m.p.id] != m || m.p.left {
			return fmt.Errorf("peer %d is booked wrongly", m.p.id)
		}
		if m.wants {
			wanters++
		}
		if m.waiting {
			waiting++
		}
		if err := k.checkMember(m); err != nil {
			return fmt.Errorf("peer %d: %w", m.p.id, err)
		}
		for n := range dragonfly.PieceNum(t.pieces) {
			if m.lack.has(n) {
				lack[n]++
			}
		}
		for u := range unit(t.units) {
			if m.waiting && m.need.has(u) {
				starved[u]++
			}
			if listed := slices.Contains(t.providers[u], m.seat); listed != (m.give.has(u) && !m.p.seed) {
				return fmt.Errorf("peer %d: provider of %d: %v", m.p.id, u, listed)
			}
		}
		if offers := m.listed && !m.p.full() && !m.p.seed; offers != (m.offer >= 0) || offers && t.offers[m.offer] != m {
			return fmt.Errorf("peer %d: offers %v", m.p.id, offers)
		}
	}
	for n := range dragonfly.PieceNum(t.pieces) {
		if lack[n] != t.lack[n] || t.lacked.has(n) != (lack[n] > 0) {
			return fmt.Errorf("piece %d: counts are wrong", n)
		}
	}
	for u := range unit(t.units) {
		if starved[u] != t.starved[u] || t.hungry.has(u) != (starved[u] > 0) {
			return fmt.Errorf("unit %d: counts are wrong", u)
		}
	}
	if wanters != t.wanters || waiting != t.waiters.n {
		return fmt.Errorf("%d want, %d booked; %d wait, %d booked", wanters, t.wanters, waiting, t.waiters.n)
	}
	return k.checkSource(t)
}

func (k *Machine) checkMember(m *member) error {
	t := m.t
	working, sourcing := 0, 0
	for _, ar := range m.arrivals {
		if m.have.has(ar.piece) {
			return fmt.Errorf("piece %d is held and arrives", ar.piece)
		}
		spans := slices.Clone(ar.done)
		for _, a := range ar.work {
			spans = append(spans, a.span)
			working++
			if err := k.checkAssignment(a); err != nil {
				return fmt.Errorf("assignment %d: %w", a.id, err)
			}
			if a.parent == nil {
				sourcing++
			}
		}
		slices.SortFunc(spans, bySpan)
		for i := range spans {
			if i > 0 && spans[i].From < spans[i-1].To {
				return fmt.Errorf("piece %d: spans overlap: %v", ar.piece, spans)
			}
		}
	}
	load := 0
	for _, a := range m.p.children {
		if a.parent == m {
			load++
		}
	}
	if load != m.load || m.p.seed && load > m.p.up {
		return fmt.Errorf("serves %d in this task, %d booked, of %d", load, m.load, m.p.up)
	}
	if working != m.working || sourcing != m.sourcing || sourcing > k.cfg.SourceDown || !m.p.seed && working > m.slots {
		return fmt.Errorf("%d in work, %d booked, %d slots", working, m.working, m.slots)
	}
	for u := range unit(t.units) {
		n := t.pieceOf(u)
		covered := m.have.has(n)
		if ar := m.arrival(n); ar != nil {
			covered = ar.covered(t.span(u))
		}
		if need := (m.p.seed || m.seeks(n)) && !covered; need != m.need.has(u) {
			return fmt.Errorf("unit %d: needed %v", u, need)
		}
	}
	if m.need.count() != m.needs {
		return fmt.Errorf("%d needed, %d booked", m.need.count(), m.needs)
	}
	if m.wants && !m.p.seed {
		return k.checkConservation(m)
	}
	return nil
}

func (k *Machine) checkAssignment(a *assignment) error {
	m := a.child
	if a.parent == nil {
		if !m.p.seed {
			return fmt.Errorf("peer %d reads the source", m.p.id)
		}
		return nil
	}
	if a.child.p.whole && (!a.parent.have.has(a.piece) || a.span != a.child.t.extent(a.piece)) {
		return fmt.Errorf("peer %d gets a part, or not from a holder", m.p.id)
	}
	for u := m.t.unitAt(a.piece, a.span.From); u < m.t.behind(a.piece); u++ {
		if overlap(a.span, m.t.span(u)) {
			if err := m.t.checkPath(a, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkPath: what a brings of u comes from a holder or the source, without a cycle.
func (t *task) checkPath(a *assignment, u unit) error {
	m, n, span := a.child, a.piece, t.span(u)
	if a.parent == m || !a.parent.give.has(u) || !a.parent.listed {
		return fmt.Errorf("peer %d does not give %d", a.parent.p.id, u)
	}
	seen := map[*member]bool{m: true}
	var up func(o *member) error
	up = func(o *member) error {
		if o.have.has(n) {
			return nil
		}
		if o == m {
			return fmt.Errorf("cycle at peer %d, unit %d", o.p.id, u)
		}
		if seen[o] {
			return nil
		}
		seen[o] = true
		ar := o.arrival(n)
		if ar == nil {
			return fmt.Errorf("peer %d neither holds nor gets %d", o.p.id, u)
		}
		for _, b := range ar.work {
			if b.parent != nil && overlap(b.span, span) {
				if err := up(b.parent); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return up(a.parent)
}

// checkConservation: no willing downloader idles while somebody with a free
// slot has something it needs, and whoever lacks something has a reason.
func (k *Machine) checkConservation(m *member) error {
	why := k.why(m)
	if m.lack.count() > 0 && m.working == 0 && why == WaitNothing {
		return fmt.Errorf("lacks %d pieces without a reason", m.lack.count())
	}
	if !k.willing(m) || m.needs == 0 {
		return nil
	}
	k.turn = lastTurn
	defer func() { k.turn = noTurn }()
	if !m.waiting {
		return fmt.Errorf("could take more and does not wait")
	}
	for u := m.need.next(0); u >= 0; u = m.need.next(u + 1) {
		n, home := m.t.pieceOf(u), k.home(m, u)
		if s := m.t.seed; k.seedGives(m) && s.give.has(u) && (s.have.has(n) || !m.p.whole) && (home == nil || s.zone == home) && !k.follows(s, m, u) {
			return fmt.Errorf("idles while the seed could give %d", u)
		}
		for _, at := range m.t.providers[u] {
			if o := m.t.seats[at]; o != m && (o.have.has(n) || !m.p.whole) && !o.full() && !m.p.under(isolated) && !k.banned(m.p, o.p, k.onlyCopy(m.t, u)) && (home == nil || o.zone == home) && !k.follows(o, m, u) {
				return fmt.Errorf("idles while peer %d could give %d", o.p.id, u)
			}
		}
	}
	return nil
}

// checkSource: the seed reads what only the source has, and nothing else.
func (k *Machine) checkSource(t *task) error {
	s := t.seed
	if s == nil || t.source.closed || k.now < t.source.pause || !k.seedReads(s) || s.sourcing >= k.cfg.SourceDown {
		return nil
	}
	if u := k.sourceable(t, 0); u >= 0 {
		return fmt.Errorf("nobody reads unit %d", u)
	}
	return nil
}
