// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"fmt"
	"slices"

	"dragonfly"
)

const (
	chargesMax  = 2 // by different hosts, then a parent is quarantined
	aloneMax    = 3 // verified parents accused alone, then a child is isolated
	refusalsMax = 2 // children that were refused, then a parent is unreachable
)

// accusation says that child got a bad piece from the member that holds it.
// It is decided when that member's own copy is decided.
type accusation struct {
	child *peer
	piece dragonfly.PieceNum
	asked bool // the accused was asked to look again
	at    Instant
}

// failed books the end of an assignment that did not bring its span.
func (k *Machine) failed(m *member, ev *Event) {
	a := k.live[ev.Assignment]
	if a != nil && (a.child != m || a.piece != ev.Piece) {
		return
	}
	n := ev.Piece
	ar := m.arrival(n)
	if ar == nil {
		return
	}
	if ev.Reason == dragonfly.FailMismatch {
		k.mismatch(m, ar, ev.Assignment)
		return
	}
	if a == nil {
		return
	}
	k.heard(a)
	parent, span := a.parent, a.span
	if offset := m.t.blockStart(n, min(ev.Offset, span.To)); offset > span.From && !m.p.whole {
		ar.here(dragonfly.Span{From: span.From, To: offset})
	}
	k.end(a, false)
	k.counts.Failed++
	switch ev.Reason {
	case dragonfly.FailStore, dragonfly.FailCanceled:
		k.stumbled(m.p)
	case dragonfly.FailSource:
		if parent == nil {
			k.sourceFailed(m.t)
		}
	default:
		if parent == nil {
			k.sourceFailed(m.t)
		} else {
			k.unfetched(m.p, parent.p, ev.Reason, parent.have.has(n))
		}
	}
	k.tidy(m, n)
	k.refresh(m, n)
	k.retry(m)
}

// stumbled pauses a peer that failed by itself, longer each time in a row.
func (k *Machine) stumbled(p *peer) {
	l := &p.listen
	l.pause = k.now.Add(backoff(k.cfg.Ack/2, l.stumble, 30*k.cfg.Ack))
	l.stumble++
	k.wakeAt(p, l.pause)
}

// unfetched books a transport failure against both ends. A stream that broke or
// stalled says little about a parent that did not hold the piece: the trouble
// may lie above it, and it had to throw its copy away or waits itself.
func (k *Machine) unfetched(child, parent *peer, why dragonfly.FailReason, held bool) {
	above := !held && (why == dragonfly.FailReset || why == dragonfly.FailStalled)
	k.ban(child, parent, above)
	if parent.seed || above {
		return
	}
	c := &parent.conduct
	c.transport = addOnce(c.transport, child.host)
	if why == dragonfly.FailRefused || why == dragonfly.FailIdentity {
		c.refused = addOnce(c.refused, child.id)
	}
	child.conduct.failing = addOnce(child.conduct.failing, parent.id)
	switch {
	case len(c.transport) >= k.cfg.Elimination:
		k.sentence(parent, quarantined, fmt.Sprintf("transport failures at %d hosts", len(c.transport)))
	case len(c.refused) >= refusalsMax:
		k.sentence(parent, unreachable, "refuses connections")
	}
	if len(child.conduct.failing) >= k.cfg.Failures {
		k.sentence(child, isolated, fmt.Sprintf("failed with %d parents in a row", len(child.conduct.failing)))
	}
}

// fetched books a success between both ends.
func (k *Machine) fetched(child, parent *peer) {
	child.listen.stumble = 0
	child.conduct.failing = child.conduct.failing[:0]
	if len(parent.conduct.transport) > 0 {
		parent.conduct.transport = without(parent.conduct.transport, child.host)
	}
	if len(parent.conduct.refused) > 0 {
		parent.conduct.refused = without(parent.conduct.refused, child.id)
	}
}

// mismatch books that m's copy of a piece proved bad: all of it goes, those
// who got it from m start again, accusations of m over it are dropped, and m
// accuses the one who sent it.
func (k *Machine) mismatch(m *member, ar *arrival, blamed dragonfly.AssignmentID) {
	n := ar.piece
	if a := k.live[blamed]; a != nil && a.child == m && a.piece == n {
		k.heard(a)
		k.end(a, false) // remembers it
	}
	i := slices.IndexFunc(ar.past, func(e edge) bool { return e.id == blamed })
	if i < 0 { // forgotten, or about an older copy
		k.lostPiece(m, n)
		return
	}
	from := ar.past[i]
	k.counts.Mismatched++
	k.giveUp(m, n)
	if from.parent == Source {
		k.sourceFailed(m.t)
	} else {
		k.accuse(m, from, n)
	}
	k.refresh(m, n)
	k.retry(m)
}

// discard ends what others got or get of m's copy of n.
func (k *Machine) discard(m *member, n dragonfly.PieceNum) {
	m.discarded(n)
	k.withdraw(m, n)
	k.orphan(m, n, m.t.extent(n))
}

// withdraw drops the accusations of m over n: nobody is charged.
func (k *Machine) withdraw(m *member, n dragonfly.PieceNum) {
	m.accused = slices.DeleteFunc(m.accused, func(a accusation) bool {
		if a.piece == n {
			k.unban(a.child, m.p.id)
		}
		return a.piece == n
	})
}

// accuse enters an accusation. It stands against the copy that the parent has
// now; if that was thrown away since, the parent is a victim itself.
func (k *Machine) accuse(child *member, e edge, n dragonfly.PieceNum) {
	parent := k.peers[e.parent]
	if parent == nil || parent.listen.gone {
		return
	}
	m := child.t.of[parent.id]
	if m == nil || m.copies(n) != e.copy {
		return
	}
	k.ban(child.p, parent, false)
	asked := slices.ContainsFunc(m.accused, func(a accusation) bool { return a.piece == n && a.asked })
	m.accused = append(m.accused, accusation{child: child.p, piece: n, asked: asked, at: k.now})
	if m.have.has(n) {
		k.ask(m, n)
	}
}

// ask puts the question whether m's verified copy of n is still good.
func (k *Machine) ask(m *member, n dragonfly.PieceNum) {
	fresh, open := false, false
	for i := range m.accused {
		if a := &m.accused[i]; a.piece == n {
			open = open || a.asked
			if !a.asked {
				a.asked, a.at, fresh = true, k.now, true
			}
		}
	}
	if fresh && !open {
		k.out = append(k.out, Action{Kind: Reverify, Peer: m.p.id, Task: m.t.id, Piece: n})
		k.timers.push(timer{at: k.now.Add(k.cfg.Gone), kind: answerDue, member: m, piece: n})
	}
}

// intact charges m for what it was accused of over n: its copy is good, so it
// changed what it sent.
func (k *Machine) intact(m *member, n dragonfly.PieceNum) {
	for {
		i := slices.IndexFunc(m.accused, func(a accusation) bool { return a.piece == n && a.asked })
		if i < 0 {
			return
		}
		a := m.accused[i]
		m.accused = slices.Delete(m.accused, i, i+1)
		k.charge(m.p, a.child)
	}
}

// charge counts against parent once per accusing host, and against a child
// that accuses one verified parent after the other alone.
func (k *Machine) charge(parent, child *peer) {
	c := &parent.conduct
	if !slices.ContainsFunc(c.charges, func(c charge) bool { return c.host == child.host }) {
		c.charges = append(c.charges, charge{child.host, child.id})
	}
	k.counts.Charged++
	if len(c.charges) == 1 || parent.seed {
		child.conduct.alone = addOnce(child.conduct.alone, parent.id)
	} else {
		for _, by := range c.charges {
			if p := k.peers[by.child]; p != nil {
				p.conduct.alone = without(p.conduct.alone, parent.id)
			}
		}
	}
	if len(child.conduct.alone) >= aloneMax {
		for _, id := range child.conduct.alone {
			if p := k.peers[id]; p != nil {
				p.conduct.charges = slices.DeleteFunc(p.conduct.charges, func(c charge) bool { return c.child == child.id })
			}
		}
		k.sentence(child, isolated, fmt.Sprintf("accuses %d verified parents alone", aloneMax))
		return
	}
	if len(c.charges) >= chargesMax && !parent.seed {
		k.sentence(parent, quarantined, fmt.Sprintf("bad pieces at %d hosts", len(c.charges)))
	}
}

// sentence puts p under a verdict for a term that doubles each time. The seed
// is never under one.
func (k *Machine) sentence(p *peer, v verdict, why string) {
	pen := &p.conduct.penalties[v]
	if p.seed || pen.until != 0 {
		return
	}
	pen.until = k.now.Add(backoff(k.cfg.Probation, pen.times, 64*k.cfg.Probation))
	pen.times++
	k.timers.push(timer{at: pen.until, kind: probation, peer: p})
	c := &p.conduct
	switch v {
	case quarantined:
		k.counts.Quarantined++
		c.charges, c.transport, c.refused = nil, nil, nil
		k.out = append(k.out, Action{Kind: Quarantined, Peer: p.id, Why: why})
	case isolated:
		k.counts.Isolated++
		c.failing, c.alone = nil, nil
		k.out = append(k.out, Action{Kind: Isolated, Peer: p.id, Why: why})
	case unreachable:
		c.refused = nil
	}
	k.relist(p)
	k.retryAll(p)
}

// release ends the verdicts whose term is over.
func (k *Machine) release(p *peer) {
	told := false
	for v := range p.conduct.penalties {
		pen := &p.conduct.penalties[v]
		if pen.until != 0 && k.now >= pen.until {
			pen.until = 0
			told = told || verdict(v) != unreachable
		}
	}
	if told && !p.under(quarantined) && !p.under(isolated) {
		k.out = append(k.out, Action{Kind: Released, Peer: p.id})
	}
	k.relist(p)
	for _, m := range p.members {
		k.offering(m)
	}
	k.retryAll(p)
}
