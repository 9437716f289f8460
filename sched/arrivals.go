// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"slices"

	"dragonfly"
)

// assignment is one in work.
type assignment struct {
	id     dragonfly.AssignmentID
	child  *member
	parent *member // nil: the source
	slot   int     // in parent's peer.children
	piece  dragonfly.PieceNum
	span   dragonfly.Span
	copy   int // which of the parent's copies of the piece: its discards so far
	acked  bool
	ready  Instant // since when all of it is at the parent; 0: it is on its way there
	slow   bool    // from a slow parent, or through one
	began  Instant // when the child heard of it, or it was made
	depth  int     // hops to the nearest holder, about
}

// arrival is a piece on its way to a member: what is there of it, what is in
// work, and who brought it.
type arrival struct {
	piece    dragonfly.PieceNum
	done     []dragonfly.Span // there, not verified; ascending, disjoint
	work     []*assignment
	past     []edge // ended assignments that brought bytes of it
	received bool   // an empty piece is there
}

// edge is who was assigned to bring bytes to whom.
type edge struct {
	id     dragonfly.AssignmentID
	parent Peer
	copy   int
	span   dragonfly.Span
}

// maxPast bounds the memory of one arrival for past assignments.
const maxPast = 16

// discard counts the copies of a piece that a member had to throw away: who
// got bytes of an older copy does not accuse it of the newer.
type discard struct {
	piece dragonfly.PieceNum
	times int
}

func (m *member) arrival(n dragonfly.PieceNum) *arrival {
	for _, ar := range m.arrivals {
		if ar.piece == n {
			return ar
		}
	}
	return nil
}

// gap is the first span of the piece that is neither there nor on its way.
func (ar *arrival) gap(extent dragonfly.Span) (dragonfly.Span, bool) {
	if ar == nil {
		return extent, true
	}
	if extent.Len() == 0 {
		return extent, len(ar.work) == 0 && !ar.received
	}
	at := extent.From
	for moved := true; moved; {
		moved = false
		for _, s := range ar.done {
			if s.From <= at && at < s.To {
				at, moved = s.To, true
			}
		}
		for _, a := range ar.work {
			if a.span.From <= at && at < a.span.To {
				at, moved = a.span.To, true
			}
		}
	}
	if at >= extent.To {
		return dragonfly.Span{}, false
	}
	g := dragonfly.Span{From: at, To: extent.To}
	for _, s := range ar.done {
		if s.From > at {
			g.To = min(g.To, s.From)
		}
	}
	for _, a := range ar.work {
		if a.span.From > at {
			g.To = min(g.To, a.span.From)
		}
	}
	return g, true
}

func (ar *arrival) covered(extent dragonfly.Span) bool {
	_, open := ar.gap(extent)
	return !open
}

// here adds s to what is there.
func (ar *arrival) here(s dragonfly.Span) {
	if s.Len() <= 0 {
		return
	}
	ar.done = append(ar.done, s)
	slices.SortFunc(ar.done, bySpan)
	merged := ar.done[:1]
	for _, s := range ar.done[1:] {
		if last := &merged[len(merged)-1]; s.From <= last.To {
			last.To = max(last.To, s.To)
		} else {
			merged = append(merged, s)
		}
	}
	ar.done = merged
}

// cut takes away what is there from off on.
func (ar *arrival) cut(off int64) {
	ar.done = slices.DeleteFunc(ar.done, func(s dragonfly.Span) bool { return s.From >= off })
	if n := len(ar.done); n > 0 {
		ar.done[n-1].To = min(ar.done[n-1].To, off)
	}
}

func (ar *arrival) remember(a *assignment) {
	if len(ar.past) == maxPast {
		ar.past = slices.Delete(ar.past, 0, 1)
	}
	e := edge{id: a.id, copy: a.copy, span: a.span}
	if a.parent != nil {
		e.parent = a.parent.p.id
	}
	ar.past = append(ar.past, e)
}

// possesses says that all of a span of n is at m, verified or not.
func (m *member) possesses(n dragonfly.PieceNum, span dragonfly.Span) bool {
	if m.have.has(n) {
		return true
	}
	ar := m.arrival(n)
	return ar != nil && slices.ContainsFunc(ar.done, func(s dragonfly.Span) bool { return s.From <= span.From && span.To <= s.To })
}

// readied books that more of n is at m now for its children.
func (k *Machine) readied(m *member, n dragonfly.PieceNum) {
	for _, a := range m.p.children {
		if a.parent == m && a.piece == n && a.ready == 0 && m.possesses(n, a.span) {
			a.ready = max(1, k.now)
		}
	}
}

// depth is how many hops a child of m is from the nearest holder of a span of
// n, about.
func (m *member) depth(n dragonfly.PieceNum, span dragonfly.Span) int {
	ar := m.arrival(n)
	if ar == nil || m.have.has(n) {
		return 0
	}
	depth := 0
	for _, a := range ar.work {
		if overlap(a.span, span) {
			depth = max(depth, a.depth)
		}
	}
	return depth + 1
}

// trickles says that some of a span comes to m from a slow parent: who followed m
// would keep a slot of it for long.
func (m *member) trickles(n dragonfly.PieceNum, span dragonfly.Span) bool {
	ar := m.arrival(n)
	return ar != nil && slices.ContainsFunc(ar.work, func(a *assignment) bool { return a.slow && overlap(a.span, span) })
}

// assign makes an assignment and tells child.
func (k *Machine) assign(child *member, n dragonfly.PieceNum, parent *member, span dragonfly.Span) {
	t := child.t
	ar := child.arrival(n)
	if ar == nil {
		ar = k.newArrival(n)
		child.arrivals = append(child.arrivals, ar)
	}
	var a *assignment
	if i := len(k.spareWork); i > 0 {
		a, k.spareWork = k.spareWork[i-1], k.spareWork[:i-1]
	} else {
		a = new(assignment)
	}
	k.lastID++
	*a = assignment{id: k.lastID, child: child, parent: parent, piece: n, span: span, began: k.now}
	ar.work = append(ar.work, a)
	child.working++
	child.p.listen.free--
	child.p.listen.unacked++
	act := Action{Kind: Assign, Peer: child.p.id, Task: t.id, Piece: n, Span: span, Parent: Source, Assignment: a.id,
		More: parent == nil && t.lacked.has(n+1)}
	if parent != nil {
		act.Parent = parent.p.id
	}
	if k.observer != nil {
		k.explainAssign(child, parent, act)
	}
	if parent == nil {
		child.sourcing++
		k.counts.FromSource++
	} else {
		a.copy = parent.copies(n)
		if parent.possesses(n, span) {
			a.ready = max(1, k.now)
		}
		a.slow = k.slow(parent.p) || parent.trickles(n, span)
		k.watch(t)
		a.slot = len(parent.p.children)
		parent.p.children = append(parent.p.children, a)
		parent.load++
		a.depth = parent.depth(n, span)
		if parent.p.full() {
			k.loaded(parent.p)
		}
		if parent.p.seed {
			k.counts.FromSeed++
		} else {
			k.counts.FromPeers++
		}
	}
	k.live[a.id] = a
	k.acks = append(k.acks, ackDue{k.now.Add(k.cfg.Ack), a.id})
	k.out = append(k.out, act)
	k.refresh(child, n)
}

// heard books that the child knows of its assignment.
func (k *Machine) heard(a *assignment) {
	if !a.acked {
		a.acked, a.began = true, k.now
		a.child.p.listen.unacked--
	}
}

// end takes an assignment out of work; cancel: the child is told. The caller
// refreshes the child's piece.
func (k *Machine) end(a *assignment, cancel bool) {
	child, l := a.child, &a.child.p.listen
	if cancel && k.observer != nil {
		k.explainCancel(a)
	}
	delete(k.live, a.id)
	child.working--
	if !a.acked {
		l.unacked--
		if cancel {
			// It never heard of it, or counts it when it does.
			if l.free++; l.free == 1 {
				k.retryAll(child.p)
			}
		}
	}
	if ar := child.arrival(a.piece); ar != nil {
		ar.work = slices.DeleteFunc(ar.work, func(o *assignment) bool { return o == a })
		if a.acked {
			ar.remember(a)
		}
	}
	if a.parent == nil {
		child.sourcing--
	} else {
		p := a.parent.p
		wasFull := a.parent.full()
		a.parent.load--
		last := p.children[len(p.children)-1]
		p.children[a.slot], last.slot = last, a.slot
		p.children[len(p.children)-1] = nil
		p.children = p.children[:len(p.children)-1]
		switch {
		case !wasFull || p.left || a.parent.full():
		case p.seed:
			k.offering(a.parent)
		default:
			k.unloaded(p)
		}
	}
	if cancel {
		k.counts.Cancelled++
		k.out = append(k.out, a.cancellation())
	}
	*a = assignment{}
	k.spareWork = append(k.spareWork, a)
}

func (a *assignment) cancellation() Action {
	return Action{Kind: Cancel, Peer: a.child.p.id, Task: a.child.t.id, Piece: a.piece, Span: a.span, Assignment: a.id}
}

// cancelPiece ends all work on piece n at m and forgets what is there of it.
func (k *Machine) cancelPiece(m *member, n dragonfly.PieceNum) {
	if ar := m.arrival(n); ar != nil {
		for len(ar.work) > 0 {
			k.end(ar.work[len(ar.work)-1], true)
		}
		k.dropArrival(m, n)
		k.refresh(m, n)
	}
}

// cancelAll ends all that m is getting.
func (k *Machine) cancelAll(m *member) {
	for len(m.arrivals) > 0 {
		k.cancelPiece(m, m.arrivals[len(m.arrivals)-1].piece)
	}
}

// orphan cancels what others get of a span of piece n (-1: of everything) from
// m. They look for other parents before their own children are told anything.
func (k *Machine) orphan(m *member, n dragonfly.PieceNum, span dragonfly.Span) {
	for i := len(m.p.children) - 1; i >= 0; i-- {
		if i >= len(m.p.children) {
			continue
		}
		if a := m.p.children[i]; a.parent == m && (n < 0 || a.piece == n && overlap(a.span, span)) {
			child, piece := a.child, a.piece
			k.end(a, true)
			k.tidy(child, piece)
			k.refresh(child, piece)
			k.retry(child)
		}
	}
}

// tidy forgets an arrival of which there is nothing.
func (k *Machine) tidy(m *member, n dragonfly.PieceNum) {
	if ar := m.arrival(n); ar != nil && len(ar.work) == 0 && len(ar.done) == 0 && len(ar.past) == 0 && !ar.received {
		k.dropArrival(m, n)
	}
}

func (k *Machine) newArrival(n dragonfly.PieceNum) *arrival {
	if i := len(k.spareArrivals); i > 0 {
		ar := k.spareArrivals[i-1]
		k.spareArrivals = k.spareArrivals[:i-1]
		*ar = arrival{piece: n, done: ar.done[:0], work: ar.work[:0], past: ar.past[:0]}
		return ar
	}
	return &arrival{piece: n}
}

func (k *Machine) dropArrival(m *member, n dragonfly.PieceNum) {
	for i, ar := range m.arrivals {
		if ar.piece == n {
			for len(ar.work) > 0 {
				k.end(ar.work[len(ar.work)-1], true)
			}
			m.arrivals = slices.Delete(m.arrivals, i, i+1)
			k.spareArrivals = append(k.spareArrivals, ar)
			return
		}
	}
}

// shorten fits an arrival to the end of the content that became known.
func (k *Machine) shorten(m *member, ar *arrival) {
	e := m.t.extent(ar.piece)
	ar.cut(e.To)
	for i := len(ar.work) - 1; i >= 0; i-- {
		if a := ar.work[i]; a.span.From >= e.To && a.span.From > e.From {
			k.end(a, true) // nothing of it is left
		} else {
			a.span.To = min(a.span.To, e.To)
		}
	}
	k.refresh(m, ar.piece)
}

// copies is which copy of a piece m has or gets: how many it threw away.
func (m *member) copies(n dragonfly.PieceNum) int {
	for _, d := range m.discards {
		if d.piece == n {
			return d.times
		}
	}
	return 0
}

// discarded counts a copy of n that m had to throw away.
func (m *member) discarded(n dragonfly.PieceNum) {
	for i := range m.discards {
		if m.discards[i].piece == n {
			m.discards[i].times++
			return
		}
	}
	m.discards = append(m.discards, discard{n, 1})
}
