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
	// slowest is how many times slower than the swarm a peer may be before its
	// parents are suspected.
	slowest = 4
	// grace is how much longer it takes at least: reports come with delays.
	grace = 200 * time.Millisecond
	// rest is how long a peer serves nobody after it proved slow even for one
	// child, at first; every next time it is twice as long.
	rest    = 10 * time.Second
	maxRest = 5 * time.Minute
	// Each member's work is looked at about as often as it gets a piece, within
	// these bounds; a step looks at paceAtOnce members.
	paceOften  = 100 * time.Millisecond
	paceSeldom = time.Second
	paceAtOnce = 64
)

// pace is how long a KiB takes in one assignment: of those that there were, what
// the fastest quarter keeps to.
type pace time.Duration

// learn moves a pace towards a sample, always as far, so that a few that stand
// out count no more than others.
func (p *pace) learn(sample pace) {
	switch {
	case *p == 0:
		*p = sample
	case sample > *p:
		*p += *p/48 + 1
	case sample < *p:
		*p -= *p / 16
	}
}

// usual is the pace that m's assignments have: that of the swarm, or m's own if
// it is slower.
func (m *member) usual() pace { return max(m.t.pace, m.pace) }

// patience is the pace that m's assignments should have: as usual, within
// limits, since m may have had bad luck with its parents.
func (m *member) patience() pace { return max(m.t.pace, min(m.pace, slowest*m.t.pace)) }

// timed learns from an ended assignment that brought its span. A parent that had
// the piece and took much longer than usual serves fewer children from now on,
// as many as its uplink seems to feed; one that is faster serves more.
func (k *Machine) timed(a *assignment, resumed bool) {
	kib := a.span.Len() >> 10
	if a.parent == nil || resumed || kib < dragonfly.BlockLen>>10 {
		return
	}
	m, p := a.child, a.parent.p
	took := max(1, pace(k.now-a.began)/pace(kib))
	usual := m.usual()
	m.pace.learn(took)
	m.t.pace.learn(took)
	m.t.paced(p)
	if took > 2*m.t.pace {
		m.before = nil // another one may be faster
	}
	if usual == 0 || p.seed {
		return
	}
	p.sent += kib
	together := pace(k.now-p.since) / pace(p.sent) // of all its children
	over := k.now > p.since.Add(4*time.Duration(usual)*time.Duration(m.t.layout.PieceLen>>10))
	switch {
	case took > 2*usual && k.now > a.began.Add(grace) && a.lags(k.now):
		k.lagged(a, took, len(p.children)+1)
	case took <= 2*m.t.pace:
		p.complaint = 0
		if p.ease < k.cfg.Down || over && together*pace(p.ease)*3/2 < usual {
			k.ease(p, p.ease+1)
		}
	}
	if over {
		p.sent, p.since = 0, k.now
	}
}

// paced notes whom the task's pace was learned from: it says nothing about a
// parent that nobody was compared with.
func (t *task) paced(p *peer) {
	switch t.pacedBy {
	case nil:
		t.pacedBy = p
	case p:
	default:
		t.compared = true
	}
}

// lagged gives a parent as many children from now on as its uplink seems to feed
// at the usual pace, of which one of so many took more; one if that is at least a
// quarter as fast.
func (k *Machine) lagged(a *assignment, took pace, children int) {
	p, usual := a.parent.p, pace(children)*a.child.usual()
	fit := int(usual / took)
	if fit == 0 && 4*usual >= took {
		fit = 1
	}
	if fit < p.ease && a.child.t.compared && p.complained(a.child) {
		k.ease(p, fit)
	}
}

// complained notes that a child's stream from p is slow without a reason above
// p. It says true when another child found the same before, and none since that
// is content, or when m is known to be fast: else m may be slow itself.
func (p *peer) complained(m *member) bool {
	other := p.complaint != 0 && p.complaint != m.p.host
	p.complaint = m.p.host
	return other || m.pace > 0 && m.pace <= 2*m.t.pace
}

// lags says that the parent had all of it for more than half of the time that
// an assignment took so far: what slowed it is not above the parent.
func (a *assignment) lags(now Instant) bool {
	return a.ready != 0 && 2*(now-max(a.ready, a.began)) >= now-a.began
}

// slow says that p serves fewer children than a peer usually does, since it
// proved slow.
func (k *Machine) slow(p *peer) bool { return !p.seed && p.ease < min(k.cfg.Down, p.up) }

// ease sets how many children p serves at once.
func (k *Machine) ease(p *peer, n int) {
	was := p.full()
	p.ease = min(n, p.up)
	if p.ease == 0 {
		k.timers.push(timer{at: k.now.Add(backoff(rest, p.rests, maxRest)), kind: rested, peer: p})
		p.rests++
		k.vacate(p)
		for _, m := range p.members {
			k.lose(m.zone, m.t)
		}
	}
	switch {
	case p.full() == was:
	case was:
		k.unloaded(p)
	default:
		k.loaded(p)
	}
}

// vacate lets the children of p look elsewhere. What comes from others, too, may
// have to wait there for a slot, but not as long.
func (k *Machine) vacate(p *peer) {
	for i := len(p.children) - 1; i >= 0; i-- {
		if i >= len(p.children) {
			continue
		}
		a := p.children[i]
		m, n := a.child, a.piece
		u := m.t.unitAt(n, a.span.From)
		if s := m.t.seed; len(m.t.providers[u]) > fewLeft || s != nil && s.give.has(u) {
			k.counts.Hurried++
			k.end(a, true)
			k.tidy(m, n)
			k.refresh(m, n)
			k.retry(m)
		}
	}
}

// overdue says that an assignment takes much longer than its child's do.
func (k *Machine) overdue(a *assignment) bool {
	return a.parent != nil && k.longer(a, a.child.patience())
}

// longer says that an assignment took much longer so far than at some pace.
func (k *Machine) longer(a *assignment, than pace) bool {
	return than > 0 && k.now > a.began.Add(grace+tardy*time.Duration(than)*time.Duration(a.span.Len()>>10))
}

// watch looks at the work of a task's members from time to time.
func (k *Machine) watch(t *task) {
	if !t.watched {
		t.watched = true
		every := max(paceOften, min(paceSeldom, time.Duration(t.pace)*time.Duration(t.layout.PieceLen>>10)/4))
		every = every * paceAtOnce / time.Duration(max(paceAtOnce, len(t.members)))
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
			if m.p.seed || !k.overdue(a) {
				continue
			}
			if a.parent.p.seed {
				if a.lags(k.now) && !a.slow {
					a.slow = true // it is m who is slow: nobody is to wait for it
					k.refresh(m, a.piece)
				}
				continue
			}
			parent, n := a.parent, a.piece
			if up := parent.arrival(n); up != nil && k.late(up, a.span) {
				continue
			}
			slow := a.lags(k.now) && k.longer(a, m.usual())
			if slow && parent.p.ease > 0 {
				k.lagged(a, pace(k.now-a.began)/pace(max(1, a.span.Len()>>10)), len(parent.p.children))
				if parent.p.ease == 0 {
					return // it was cancelled
				}
			}
			u := m.t.unitAt(n, a.span.From)
			k.avoid = parent
			other := k.parentFor(m, u)
			k.avoid = nil
			if other == nil && !(slow && k.elsewhere(m, parent, u)) {
				continue
			}
			k.ban(m.p, parent.p, a.ready == 0)
			if parent.pace > slowest*m.t.pace && parent.p.ease > 1 {
				k.ease(parent.p, parent.p.ease-1)
			}
			k.counts.Hurried++
			k.end(a, true)
			if other != nil {
				k.give(m, u, other)
			} else {
				k.tidy(m, n)
				k.refresh(m, n)
			}
			k.retry(m)
			return
		}
	}
}

// elsewhere says that somebody but parent has u for m, though busy now.
func (k *Machine) elsewhere(m, parent *member, u unit) bool {
	if s := m.t.seed; s != nil && s.give.has(u) {
		return true
	}
	for _, at := range m.t.providers[u] {
		if o := m.t.seats[at]; o != m && o != parent && o.have.has(m.t.pieceOf(u)) && o.p.ease > 0 && !k.banned(m.p, o.p, false) {
			return true
		}
	}
	return false
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
