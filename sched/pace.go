// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"time"

	"dragonfly"
)

const (
	// tardy is how many times longer than usual an assignment takes before its
	// child is given another parent for the rest.
	tardy = 3
	// grace is how much longer it takes at least: reports come with delays.
	grace = 500 * time.Millisecond
	// paceEvery is how often each member's work is looked at, paceAtOnce how
	// many members a step looks at.
	paceEvery  = time.Second
	paceAtOnce = 64
)

// pace is how long a KiB takes in one assignment, as a running median.
type pace time.Duration

// learn moves a median towards a sample: by a sixteenth, whatever the sample,
// so that a few that stand out count no more than others.
func (p *pace) learn(sample pace) {
	switch {
	case *p == 0:
		*p = sample
	case sample > *p:
		*p += *p/16 + 1
	case sample < *p:
		*p -= *p / 16
	}
}

// usual is the pace that m's assignments have: that of the swarm, or m's own if
// it is slower.
func (m *member) usual() pace { return max(m.pace, m.t.pace) }

// timed learns from an assignment that brought its span. A parent that held
// the piece and took much longer than usual serves fewer children from now on,
// as many as its uplink seems to feed; one that is faster serves more.
func (k *Machine) timed(a *assignment) {
	kib := a.span.Len() >> 10
	if a.parent == nil || kib < dragonfly.BlockLen>>10 {
		return
	}
	m, p := a.child, a.parent.p
	took := max(1, pace(k.now-a.began)/pace(kib))
	usual := m.usual()
	m.pace.learn(took)
	m.t.pace.learn(took)
	if usual == 0 || p.seed {
		return
	}
	p.sent += kib
	together := pace(k.now-p.since) / pace(p.sent) // of all its children
	over := k.now > p.since.Add(4*time.Duration(usual)*time.Duration(m.t.layout.PieceLen>>10))
	switch children := len(p.children); {
	case took > 2*usual && a.held:
		k.ease(p, max(1, min(p.ease-1, int(pace(children)*usual/took))))
	case took < usual*5/4 && p.ease < k.cfg.Down, over && together*pace(p.ease)*3/2 < usual:
		k.ease(p, p.ease+1)
	}
	if over {
		p.sent, p.since = 0, k.now
	}
}

// ease sets how many children p serves at once.
func (k *Machine) ease(p *peer, n int) {
	was := p.full()
	p.ease = min(n, p.up)
	switch {
	case p.full() == was:
	case was:
		k.unloaded(p)
	default:
		k.loaded(p)
	}
}

// overdue says that an assignment takes much longer than its child's do.
func (k *Machine) overdue(a *assignment) bool {
	usual := a.child.usual()
	return usual > 0 && a.parent != nil && k.now > a.began.Add(grace+tardy*time.Duration(usual)*time.Duration(a.span.Len()>>10))
}

// watch looks at the work of a task's members from time to time.
func (k *Machine) watch(t *task) {
	if !t.watched {
		t.watched = true
		every := paceEvery * paceAtOnce / time.Duration(max(paceAtOnce, len(t.members)))
		k.timers.push(timer{at: k.now.Add(every), kind: paces, task: t})
	}
}

// lookAround gives members another parent where one takes too long.
func (k *Machine) lookAround(t *task) {
	t.watched = false
	if t.ended {
		return
	}
	for range min(paceAtOnce, len(t.members)) {
		t.looked++
		if t.looked >= len(t.members) {
			t.looked = 0
		}
		k.hurry(t.members[t.looked])
	}
	if t.wanters > 0 {
		k.watch(t)
	}
}

// hurry replaces the parent of one overdue assignment of m, if somebody else can
// give the rest. One that waits for an overdue assignment of its own is left:
// that is where the trouble is.
func (k *Machine) hurry(m *member) {
	for _, ar := range m.arrivals {
		for _, a := range ar.work {
			if !k.overdue(a) || a.parent.p.seed || m.p.seed {
				continue
			}
			parent, n := a.parent, a.piece
			if up := parent.arrival(n); up != nil && k.late(up, a.span) {
				continue
			}
			u := m.t.unitAt(n, a.span.From)
			k.avoid = parent
			other := k.parentFor(m, u)
			k.avoid = nil
			if other == nil {
				continue
			}
			k.ban(m.p, parent.p, !a.held)
			if a.held || parent.pace > 2*m.t.pace {
				k.ease(parent.p, max(1, parent.p.ease-1))
			}
			k.counts.Hurried++
			k.end(a, true)
			k.give(m, u, other)
			k.retry(m) // it may have been more than u
			return
		}
	}
}

// late says that something of a span of an arrival is overdue.
func (k *Machine) late(ar *arrival, span dragonfly.Span) bool {
	for _, a := range ar.work {
		if overlap(a.span, span) && k.overdue(a) {
			return true
		}
	}
	return false
}
