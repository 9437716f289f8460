// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"container/heap"

	"dragonfly"
)

// timerKind says what is looked at when a timer is due. Timers are not
// withdrawn: what is looked at decides.
type timerKind uint8

const (
	hearing     timerKind = iota + 1 // does peer listen?
	probation                        // is a term of peer over?
	wake                             // may peer be given something again?
	sourceAgain                      // may the source of task be asked again?
	answerDue                        // did member answer about piece?
	paces                            // does something in task take too long?
	rested                           // peer serves again
)

type timer struct {
	at     Instant
	seq    uint64 // equal instants in the order of setting
	kind   timerKind
	peer   *peer
	task   *task
	member *member
	piece  dragonfly.PieceNum
}

// timers is a heap, the earliest first.
type timers struct {
	h   timerHeap
	seq uint64
}

type timerHeap []timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)   { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = timer{}
	*h = old[:len(old)-1]
	return x
}

func (t *timers) push(x timer) {
	t.seq++
	x.seq = t.seq
	heap.Push(&t.h, x)
}

// ackDue is when an assignment must have been acknowledged. All of them have
// the same time, so they are in order as they are made.
type ackDue struct {
	at Instant
	id dragonfly.AssignmentID
}

// Next says when the machine wants to be stepped even if nothing happens.
func (k *Machine) Next() (Instant, bool) {
	at, ok := Instant(0), false
	if len(k.timers.h) > 0 {
		at, ok = k.timers.h[0].at, true
	}
	if k.ackHead < len(k.acks) {
		if due := k.acks[k.ackHead].at; !ok || due < at {
			at, ok = due, true
		}
	}
	return at, ok
}

// elapse does what is due now.
func (k *Machine) elapse() {
	for k.ackHead < len(k.acks) {
		due := k.acks[k.ackHead]
		a := k.live[due.id]
		if a != nil && !a.acked {
			if due.at > k.now {
				break
			}
			k.unheard(a)
		}
		k.ackHead++
	}
	if k.ackHead > 1024 && k.ackHead > len(k.acks)/2 {
		k.acks = append(k.acks[:0], k.acks[k.ackHead:]...)
		k.ackHead = 0
	}
	for len(k.timers.h) > 0 && k.timers.h[0].at <= k.now {
		t := heap.Pop(&k.timers.h).(timer)
		switch p := t.peer; {
		case t.kind == sourceAgain:
			k.feed(t.task)
		case t.kind == paces:
			k.lookAround(t.task)
		case t.kind == answerDue:
			k.unanswered(t.member, t.piece)
		case p.left:
		case t.kind == hearing:
			k.listenTo(p)
		case t.kind == probation:
			k.release(p)
		case t.kind == rested:
			k.ease(p, max(1, p.ease))
		case t.kind == wake:
			k.retryAll(p)
		}
	}
}

// unheard returns an assignment to the pool that its child did not
// acknowledge.
func (k *Machine) unheard(a *assignment) {
	m, n := a.child, a.piece
	k.end(a, true)
	k.tidy(m, n)
	k.refresh(m, n)
	k.retry(m)
}

// unanswered takes silence about an accusation for the answer that the copy is
// good, while the accused is there to speak.
func (k *Machine) unanswered(m *member, n dragonfly.PieceNum) {
	if !m.gone && !m.p.listen.gone {
		k.intact(m, n)
	}
}

// wakeAt looks at p again when a pause or a ban is over.
func (k *Machine) wakeAt(p *peer, at Instant) {
	k.timers.push(timer{at: at, kind: wake, peer: p})
}

// hearsNoMore starts the clock of a peer without an open sync.
func (k *Machine) hearsNoMore(p *peer) {
	p.listen.open, p.listen.closed = false, k.now
	if !p.listen.armed {
		p.listen.armed = true
		k.timers.push(timer{at: k.now.Add(k.cfg.Silent), kind: hearing, peer: p})
	}
}

// hears books an open sync.
func (k *Machine) hears(p *peer, free int) {
	l := &p.listen
	l.open, l.silent = true, false
	l.free = free - l.unacked
	if l.gone {
		l.gone = false
		k.relist(p)
		for _, m := range p.members {
			k.offering(m)
		}
	}
	for _, m := range p.members {
		switch {
		case m.p.seed:
			k.feed(m.t)
		case m.wants && !m.waiting && m.needs > 0:
			k.retry(m)
		}
	}
}

// listenTo moves a peer that does not listen on to silent, gone and forgotten.
func (k *Machine) listenTo(p *peer) {
	l := &p.listen
	if l.open {
		l.armed = false
		return
	}
	due := l.closed.Add(k.cfg.Silent)
	if k.now >= due {
		l.silent = true
		due = l.closed.Add(k.cfg.Gone)
		for _, m := range p.members {
			k.unwait(m)
		}
	}
	if k.now >= due {
		if !l.gone {
			l.gone = true
			k.lost(p)
		}
		due = l.closed.Add(k.cfg.Gone + k.cfg.Kept)
	}
	if k.now >= due {
		k.leave(p)
		k.out = append(k.out, Action{Kind: Forgotten, Peer: p.id})
		return
	}
	k.timers.push(timer{at: due, kind: hearing, peer: p})
}

// lost takes a gone peer out of the books; what it held is remembered.
func (k *Machine) lost(p *peer) {
	k.relist(p)
	for _, m := range p.members {
		for len(m.arrivals) > 0 {
			k.cancelPiece(m, m.arrivals[len(m.arrivals)-1].piece)
		}
		for i := range m.accused {
			k.unban(m.accused[i].child, p.id)
		}
		m.accused = nil
		k.feed(m.t)
	}
}
