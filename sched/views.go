// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"dragonfly"
)

// Counts are totals since New.
type Counts struct {
	Steps       uint64
	FromPeers   uint64 // assignments by kind of parent
	FromSeed    uint64
	FromSource  uint64
	Cancelled   uint64 // assignments
	Failed      uint64 // assignments, mismatches not counted
	Hurried     uint64 // assignments that were given to another parent
	Mismatched  uint64 // pieces
	Charged     uint64
	Quarantined uint64
	Isolated    uint64
}

// Counts returns the totals so far.
func (k *Machine) Counts() Counts { return k.counts }

// Config returns the limits that the machine keeps, defaults filled in. A machine
// made with them decides alike.
func (k *Machine) Config() Config { return k.cfg }

// PeerState is what the books say about a peer.
type PeerState struct {
	Peer        Peer
	Where       Where
	Seed        bool
	Listens     bool // has an open sync
	Listed      bool // its pieces are in the books
	Tasks       int
	Load        int // children that it serves
	Up          int // of at most
	Charges     int // by different hosts
	Failures    int // hosts that failed to fetch from it
	Banned      int // entries of its own blacklist
	Quarantined bool
	Isolated    bool
	Unreachable bool
}

// Peers yields all peers in the order in which they joined.
func (k *Machine) Peers() iter.Seq[PeerState] {
	return func(yield func(PeerState) bool) {
		for _, p := range k.order {
			if !p.left && !yield(p.state(k.now)) {
				return
			}
		}
	}
}

func (p *peer) state(now Instant) PeerState {
	banned := 0
	for _, b := range p.conduct.bans {
		if now < b.until {
			banned++
		}
	}
	return PeerState{
		Peer: p.id, Where: p.where, Seed: p.seed, Listens: p.listen.open, Listed: p.trusted(),
		Tasks: len(p.members), Load: len(p.children), Up: p.up,
		Charges: len(p.conduct.charges), Failures: len(p.conduct.transport), Banned: banned,
		Quarantined: p.under(quarantined), Isolated: p.under(isolated), Unreachable: p.under(unreachable),
	}
}

// TaskState is what the books say about a task.
type TaskState struct {
	Task         Task
	Layout       dragonfly.Layout
	Members      int
	Wanting      int
	Waiting      int  // members that could take more than there is for them
	Working      int  // assignments in work
	SourceClosed bool // or pausing after a failure
	// Pieces has an entry for each piece: how many listed peers hold or
	// receive all of it, the seed not counted; of a piece in parts, its rarest.
	Pieces []int
}

// Tasks yields all tasks in ascending order.
func (k *Machine) Tasks() iter.Seq[TaskState] {
	return func(yield func(TaskState) bool) {
		for _, id := range slices.Sorted(maps.Keys(k.tasks)) {
			t := k.tasks[id]
			s := TaskState{
				Task: id, Layout: t.layout, Members: len(t.members), Wanting: t.wanters, Waiting: t.waiters.n,
				SourceClosed: t.source.closed || k.now < t.source.pause, Pieces: make([]int, t.pieces),
			}
			for n := range s.Pieces {
				s.Pieces[n] = len(t.members)
				for u := t.first(dragonfly.PieceNum(n)); u < t.behind(dragonfly.PieceNum(n)); u++ {
					s.Pieces[n] = min(s.Pieces[n], len(t.providers[u]))
				}
			}
			for _, m := range t.members {
				s.Working += m.working
			}
			if !yield(s) {
				return
			}
		}
	}
}

// MemberState is what the books say about one peer in one task.
type MemberState struct {
	Peer    Peer
	Wants   bool
	Held    int // pieces
	Working int // assignments
	Why     Reason
}

// Members yields the peers of a task in ascending order.
func (k *Machine) Members(task Task) iter.Seq[MemberState] {
	return func(yield func(MemberState) bool) {
		t := k.tasks[task]
		if t == nil {
			return
		}
		members := slices.SortedFunc(slices.Values(t.members), func(a, b *member) int { return cmp.Compare(a.p.id, b.p.id) })
		for _, m := range members {
			if !yield(MemberState{m.p.id, m.wants, m.have.count(), m.working, k.why(m)}) {
				return
			}
		}
	}
}

// AssignmentState is one assignment in work.
type AssignmentState struct {
	ID     dragonfly.AssignmentID
	Peer   Peer
	Parent Peer
	Piece  dragonfly.PieceNum
	Span   dragonfly.Span
	Acked  bool
}

// Assignments yields what is in work for a task, in no particular order.
func (k *Machine) Assignments(task Task) iter.Seq[AssignmentState] {
	return func(yield func(AssignmentState) bool) {
		t := k.tasks[task]
		if t == nil {
			return
		}
		for _, m := range t.members {
			for _, ar := range m.arrivals {
				for _, a := range ar.work {
					s := AssignmentState{ID: a.id, Peer: m.p.id, Piece: a.piece, Span: a.span, Acked: a.acked}
					if a.parent != nil {
						s.Parent = a.parent.p.id
					}
					if !yield(s) {
						return
					}
				}
			}
		}
	}
}

// Why says why a peer gets no more of a task just now.
func (k *Machine) Why(task Task, peer Peer) Reason {
	t := k.tasks[task]
	if t == nil || t.of[peer] == nil {
		return WaitNothing
	}
	return k.why(t.of[peer])
}

func (k *Machine) why(m *member) Reason {
	l := &m.p.listen
	switch {
	case !m.wants || m.lack.next(0) < 0 && m.t.layout.Known():
		return WaitNothing
	case l.silent || l.gone:
		return WaitSilent
	case k.now < l.pause:
		return WaitPause
	case m.working >= m.slots, m.needs > 0 && m.working > 0 && k.now < m.ramp:
		return WaitSlots
	case m.needs == 0 && m.working == 0 && m.lack.next(0) >= 0:
		return WaitUnverified
	case m.needs == 0 && m.t.layout.Known():
		return WaitNothing
	case l.free <= 0:
		return WaitFree
	case m.p.under(isolated):
		return WaitIsolated
	}
	return k.scarce(m)
}

// scarce is why a peer that would take more finds nothing: the least grave
// reason of all pieces that it needs.
func (k *Machine) scarce(m *member) Reason {
	t := m.t
	blacklisted := false
	for u := m.need.next(0); u >= 0; u = m.need.next(u + 1) {
		if k.allows(m, u) || t.seed != nil && t.seed.give.has(u) {
			return WaitParents
		}
		for _, o := range t.providers[u] {
			blacklisted = blacklisted || o != m.seat
		}
	}
	switch {
	case blacklisted:
		return WaitBlacklist
	case t.source.closed || k.now < t.source.pause:
		return WaitClosed
	}
	return WaitSource
}
