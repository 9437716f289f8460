// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"

	"dragonfly"
	"dragonfly/sched"
)

// host is a peer, the seed, or the source, with its links. Hosts are numbered
// like the scheduler's peers.
type host struct {
	perByte float64 // of the uplink, nanoseconds
	down    link
	zone    int

	lies, slow             bool
	joined, vanished, left bool
	judged                 bool          // a liar that was found
	doomed                 bool          // will vanish or leave
	arrived, done          sched.Instant // done: 0 while it lacks something

	out        []int32 // streams that it serves
	turn       int     // of out, who is next
	sending    bool
	current    int32 // the stream that a quantum is being sent of
	currentGen uint32
	egress     int64
	twice      int64 // bytes that came again

	in    []int32 // streams that it receives
	have  []uint64
	count int
	parts []*partial

	// its reports
	open    int // at the supernode or on the way
	news    bool
	waiting bool // for company
	events  []sched.Event
	acks    []dragonfly.AssignmentID

	// at the supernode
	polling bool
	polled  sched.Instant
	touched bool
	outbox  []sched.Action
}

const (
	source int32 = 0
	seed   int32 = 1
)

// partial is a piece that a peer has some of, in quanta.
type partial struct {
	piece   int32
	missing int
	got     []uint64
	bad     []uint64
	senders []sender
	waits   bool // whole, its digest is not known
	last    dragonfly.AssignmentID
}

// sender is who brought what, for blame.
type sender struct {
	id       dragonfly.AssignmentID
	parent   int32
	from, to int64
	bad      bool
}

func (h *host) holds(n int32) bool { return h.have[n>>6]&(1<<(n&63)) != 0 }

func (h *host) partial(n int32) *partial {
	for _, p := range h.parts {
		if p.piece == n {
			return p
		}
	}
	return nil
}

// offers says whether a quantum of a piece is there.
func (h *host) offers(n int32, unit int64) bool {
	if h.holds(n) {
		return true
	}
	p := h.partial(n)
	return p != nil && p.got[unit>>6]&(1<<(unit&63)) != 0
}

func (h *host) tainted(n int32, unit int64) bool {
	if h.holds(n) {
		return false
	}
	p := h.partial(n)
	return p != nil && p.bad[unit>>6]&(1<<(unit&63)) != 0
}

// take enters a quantum; false: it was there.
func (p *partial) take(unit int64, bad bool) bool {
	w, bit := unit>>6, uint64(1)<<(unit&63)
	if p.got[w]&bit != 0 {
		return false
	}
	p.got[w] |= bit
	if bad {
		p.bad[w] |= bit
	}
	p.missing--
	return true
}

// credit notes that a stream brought what landed last.
func (p *partial) credit(s *stream, bad bool) {
	for i := range p.senders {
		if x := &p.senders[i]; x.id == s.id {
			x.to = s.landed
			x.bad = x.bad || bad
			return
		}
	}
	p.senders = append(p.senders, sender{s.id, s.parent, s.from, s.landed, bad})
}

// arrive is the partial of a piece, a new one if there is none.
func (w *world) arrive(h *host, n int32) *partial {
	if p := h.partial(n); p != nil {
		return p
	}
	var p *partial
	if k := len(w.spareParts); k > 0 {
		p, w.spareParts = w.spareParts[k-1], w.spareParts[:k-1]
		clear(p.got)
		clear(p.bad)
		*p = partial{got: p.got, bad: p.bad, senders: p.senders[:0]}
	} else {
		words := (w.units + 63) / 64
		p = &partial{got: make([]uint64, words), bad: make([]uint64, words)}
	}
	p.piece, p.missing = n, w.units
	h.parts = append(h.parts, p)
	return p
}

func (w *world) discard(h *host, p *partial) {
	h.parts = slices.Delete(h.parts, slices.Index(h.parts, p), slices.Index(h.parts, p)+1)
	w.spareParts = append(w.spareParts, p)
}

// assigned begins what a peer was told to fetch: what is still missing of it.
func (w *world) assigned(who int32, a *sched.Action) {
	h, n := &w.hosts[who], int32(a.Piece)
	if h.holds(n) {
		w.report(who, sched.Event{Kind: sched.Verified, Piece: a.Piece, Assignment: a.Assignment})
		return
	}
	p := w.arrive(h, n)
	start := int64(n) * w.PieceLen
	from, to := a.Span.From-start, a.Span.To-start
	for from < to && p.got[from/w.Quantum>>6]&(1<<(from/w.Quantum&63)) != 0 {
		from += w.Quantum
	}
	if from >= to {
		w.whole(who, p, a.Assignment)
		return
	}
	w.begin(a.Assignment, who, int32(a.Parent), n, from, to)
}

func (w *world) cancelled(who int32, id dragonfly.AssignmentID) {
	for _, i := range w.hosts[who].in {
		if w.streams[i].id == id {
			w.finish(i)
			return
		}
	}
}

// land ends a stream that brought all.
func (w *world) land(who, i int32) {
	s := w.streams[i]
	w.finish(i)
	if h := &w.hosts[who]; h.holds(s.piece) {
		w.report(who, sched.Event{Kind: sched.Verified, Piece: dragonfly.PieceNum(s.piece), Assignment: s.id})
	} else {
		w.whole(who, h.partial(s.piece), s.id)
	}
}

// whole settles an assignment that brought its bytes.
func (w *world) whole(who int32, p *partial, id dragonfly.AssignmentID) {
	h, n := &w.hosts[who], dragonfly.PieceNum(p.piece)
	known := who == seed || w.published[n]
	switch {
	case p.missing > 0:
		w.report(who, sched.Event{Kind: sched.Received, Piece: n, Assignment: id})
	case !known:
		p.last = id
		if !p.waits {
			p.waits = true
			w.awaiting[n] = append(w.awaiting[n], who)
		}
		w.report(who, sched.Event{Kind: sched.Received, Piece: n, Assignment: id})
	case slices.ContainsFunc(p.bad, func(x uint64) bool { return x != 0 }):
		w.accuse(who, p, id)
	default:
		w.discard(h, p)
		h.have[n>>6] |= 1 << (n & 63)
		h.count++
		w.report(who, sched.Event{Kind: sched.Verified, Piece: n, Assignment: id})
		if h.count == w.Pieces && h.done == 0 {
			h.done = w.now
			if who != seed {
				w.finished(who)
				w.report(who, sched.Event{Kind: sched.Stopped})
			}
		}
	}
}

// accuse throws a bad piece away, resets those who follow, and names who sent
// the first bad quantum, as far as somebody among the senders can prove it.
func (w *world) accuse(who int32, p *partial, id dragonfly.AssignmentID) {
	h, n := &w.hosts[who], p.piece
	w.mismatches++
	blamed, proved := dragonfly.AssignmentID(0), len(p.senders) == 1
	first := int64(1) << 62
	for _, s := range p.senders {
		if o := &w.hosts[s.parent]; s.parent != source && o.holds(n) && !o.vanished && !o.left {
			proved = true
		}
		if s.bad && s.from < first {
			first, blamed = s.from, s.id
		}
	}
	w.discard(h, p)
	for k := len(h.in) - 1; k >= 0; k-- {
		if w.streams[h.in[k]].piece == n {
			w.finish(h.in[k])
		}
	}
	for _, i := range h.out {
		if s := &w.streams[i]; s.piece == n {
			w.plan(event{kind: broken, who: i, gen: s.gen, size: reset}, w.Latency)
			s.to, s.at = max(s.to, s.at+1), s.to // nothing more is sent
		}
	}
	ev := sched.Event{Kind: sched.Failed, Piece: dragonfly.PieceNum(n), Offset: int64(n) * w.PieceLen}
	if proved {
		ev.Assignment, ev.Reason = blamed, dragonfly.FailMismatch
		w.report(who, ev)
	}
	if !proved || blamed != id {
		ev.Assignment, ev.Reason = id, dragonfly.FailCanceled
		w.report(who, ev)
	}
}

// fail ends a stream that did not bring all.
func (w *world) fail(i int32, why dragonfly.FailReason) {
	s := w.streams[i]
	w.finish(i)
	if h := &w.hosts[s.child]; h.vanished || h.left {
		return
	}
	offset := s.landed - s.landed%dragonfly.BlockLen
	w.report(s.child, sched.Event{Kind: sched.Failed, Piece: dragonfly.PieceNum(s.piece), Assignment: s.id, Reason: why,
		Offset: int64(s.piece)*w.PieceLen + max(offset, s.from)})
}

// report queues an event for the supernode.
func (w *world) report(who int32, ev sched.Event) {
	h := &w.hosts[who]
	ev.Peer, ev.Task = sched.Peer(who), task
	h.events = append(h.events, ev)
	h.news = true
	w.talk(who, false)
}

// talk sends a report if there is reason to and one may be sent. alone: it had
// company long enough.
func (w *world) talk(who int32, alone bool) {
	h := &w.hosts[who]
	if h.vanished || h.left || !(h.open == 0 || h.open == 1 && h.news) {
		return
	}
	if w.Company > 0 && h.open == 1 && len(h.in) > 0 && !alone {
		if !h.waiting {
			h.waiting = true
			w.plan(event{kind: spoke, who: who}, w.Company)
		}
		return
	}
	h.open++
	h.news = false
	m := message{host: who, events: h.events, acks: h.acks, free: max(0, inWork-len(h.in))}
	h.events, h.acks = nil, nil
	w.reports++
	w.mail(reported, m)
}

// inWork is how many assignments a peer takes at once.
const inWork = 32

// told acts on an answer of the supernode.
func (w *world) told(m *message) {
	h := &w.hosts[m.host]
	if h.vanished || h.left {
		return
	}
	h.open--
	for i := range m.actions {
		switch a := &m.actions[i]; a.Kind {
		case sched.Cancel:
			w.cancelled(m.host, a.Assignment)
		case sched.Assign:
			h.acks = append(h.acks, a.Assignment)
			h.news = true
			w.assigned(m.host, a)
		case sched.Reverify:
			kind := sched.Intact
			if !h.holds(int32(a.Piece)) {
				kind = sched.Lost
			}
			w.report(m.host, sched.Event{Kind: kind, Piece: a.Piece})
		}
	}
	w.talk(m.host, false)
}
