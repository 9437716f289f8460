// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"math/bits"
	"time"

	"dragonfly"
)

const (
	// fewOffers is up to how many peers with a free slot are all looked at. Of
	// more, those of the child's rack and a sample of each piece's providers
	// are, all of them only when that found nobody.
	fewOffers = 48
	// sampled providers of a piece: scanned at most, and free ones compared.
	scanned  = 64
	compared = 8
	// attempts at single pieces before all offers are looked at.
	attempts = 6
	// briefly is less than an assignment should take, at the pace of its task.
	briefly = 10 * time.Millisecond
	// deep is the number of hops that a small swarm may have.
	deep = 16
	// doubtful is the cost from which on a parent is taken only for want of a
	// better one: it is deep or silent.
	doubtful = 1 << 40
)

// willing says whether m would take another assignment now.
func (k *Machine) willing(m *member) bool {
	l := &m.p.listen
	return (m.wants || m.p.seed) && !m.gone && !l.silent && !l.gone && l.free > 0 &&
		(m.working == 0 || m.working < m.slots && k.now >= m.ramp) && k.now >= l.pause
}

// schedule gives m whatever it can get now. What it still could take when
// there is nothing for it makes it wait for somebody to offer it.
func (k *Machine) schedule(m *member) {
	if m.gone {
		return
	}
	if m.p.seed {
		k.feed(m.t)
		return
	}
	given := false
	for m.needs > 0 && k.willing(m) {
		u, parent := k.pick(m)
		if parent == nil {
			if given {
				k.unwait(m) // others go first next time
			}
			k.wait(m)
			k.pullFor(m)
			if s := m.t.seed; s != nil && k.turn == noTurn && s.give.meets(m.need) {
				k.offering(s)
			}
			return
		}
		k.give(m, u, parent)
		given = true
	}
	k.unwait(m)
}

// give assigns what is missing of u to m, who gets it from parent, nil for the source, and what
// follows in the piece where that takes no time to speak of. Who knows whole pieces
// only gets the piece.
func (k *Machine) give(m *member, u unit, parent *member) {
	t := m.t
	n, span := t.pieceOf(u), t.span(u)
	if m.p.whole {
		span = t.extent(n)
	}
	for v := u + 1; v < t.behind(n) && m.need.has(v) && parent != nil && !m.p.whole && t.brief(span) && k.extends(parent, m, v); v++ {
		span.To = t.span(v).To
	}
	if span, open := m.arrival(n).gap(span); open {
		k.assign(m, n, parent, span)
	}
}

// extends says that m may get u, which follows what it gets from parent, there, too.
func (k *Machine) extends(parent, m *member, u unit) bool {
	home := k.home(m, u)
	return parent.give.has(u) && (home == nil || parent.zone == home) && k.supplied(parent, m, u)
}

// brief says that a span is worth no assignment of its own: each costs round trips
// to the scheduler and the parent. Nobody follows who is alone.
func (t *task) brief(s dragonfly.Span) bool {
	return t.pace > 0 && (t.wanters <= 1 || time.Duration(t.pace)*time.Duration(s.Len()>>10) < briefly)
}

// pick chooses the next unit for m and whom it comes from, nil if nobody can
// give any: first what is begun, so that those who follow m on it go on, then
// the piece that a reader waits for, then «the pieces with the smallest number
// in the entire P2P network», of those «the piece closest to the piece
// currently being downloaded» (FAQ: peer scheduling).
func (k *Machine) pick(m *member) (unit, *member) {
	t := m.t
	for _, ar := range m.arrivals {
		for u := t.first(ar.piece); u < t.behind(ar.piece); u++ {
			if m.need.has(u) && t.begun(ar, u) {
				if parent := k.parentFor(m, u); parent != nil {
					return u, parent
				}
			}
		}
	}
	if m.position >= 0 {
		for u := t.first(m.position); u < t.behind(m.position); u++ {
			if m.need.has(u) {
				if parent := k.parentFor(m, u); parent != nil {
					return u, parent
				}
			}
		}
	}
	if len(t.offers) > fewOffers && !m.p.under(isolated) {
		k.wanted = append(k.wanted[:0], m.need...)
		missed := false // a sample may have missed the ones who give
		for range attempts {
			u := k.rarest(m, k.wanted, false)
			if u < 0 {
				break
			}
			if parent := k.parentFor(m, u); parent != nil {
				return u, parent
			}
			k.wanted.put(u, false)
			missed = true
		}
		if !missed {
			return 0, nil
		}
	}
	k.exhaustive = true
	defer func() { k.exhaustive = false }()
	for k.onlyOffered(m); ; {
		u := k.rarest(m, k.wanted, true)
		if u < 0 {
			return 0, nil
		}
		if parent := k.parentFor(m, u); parent != nil {
			return u, parent
		}
		k.wanted.put(u, false)
	}
}

// onlyOffered fills k.wanted with what m needs and somebody with a free slot
// could give.
func (k *Machine) onlyOffered(m *member) {
	t := m.t
	k.wanted = append(k.wanted[:0], m.need...)
	k.offered = k.offered[:0]
	if !m.p.under(isolated) {
		for _, o := range t.offers {
			if o != m {
				k.offered.join(o.give)
			}
		}
	}
	if k.seedGives(m) {
		k.offered.join(t.seed.give)
	}
	for i := range k.wanted {
		if i < len(k.offered) {
			k.wanted[i] &= k.offered[i]
		} else {
			k.wanted[i] = 0
		}
	}
}

// seedGives says whether the seed has a slot for m. No more than half of its
// slots go to one of several, and none to one that serves nobody while others
// wait for it: else everybody waits for what goes through one peer, however slow.
func (k *Machine) seedGives(m *member) bool {
	s := m.t.seed
	if s == nil || s == m || !s.listed || s.full() || k.banned(m.p, s.p, false) {
		return false
	}
	if m.t.wanters <= 1 || m.p.under(isolated) {
		return true
	}
	return m.spansFrom(s) < (s.p.up+1)/2 && (k.turn == lastTurn || m.spreads() && (k.turn == firstTurn || !s.offered))
}

// spreads says that others may get from m what it gets.
func (m *member) spreads() bool { return m.listed && m.p.ease > 0 }

// spansFrom counts what m gets from parent.
func (m *member) spansFrom(parent *member) (n int) {
	for _, ar := range m.arrivals {
		for _, a := range ar.work {
			if a.parent == parent {
				n++
			}
		}
	}
	return n
}

// rarest is the unit of from with the fewest providers, of equals the one
// nearest to where m is, -1 if there is none. all: units without a listed
// provider count although the seed may be busy.
func (k *Machine) rarest(m *member, from set[unit], all bool) unit {
	t := m.t
	at := m.position
	if at < 0 {
		at = m.last
	}
	here := t.first(at)
	seed := k.seedGives(m)
	best, fewest, nearest := unit(-1), 0, 0
	for i, w := range from {
		for ; w != 0; w &= w - 1 {
			u := unit(i<<6 + bits.TrailingZeros64(w))
			count := len(t.providers[u])
			if best >= 0 && count > fewest {
				continue
			}
			if count == 0 && !all && !(seed && t.seed.give.has(u)) {
				continue
			}
			distance := int(u - here)
			if distance < 0 {
				distance = t.units - distance
			}
			if best < 0 || count < fewest || distance < nearest {
				best, fewest, nearest = u, count, distance
			}
		}
	}
	return best
}

// parentFor chooses who gives m unit u: same host, rack, zone, any, among
// equals the least loaded for its capacity (FAQ: peer load balancing), the
// seed only when no peer can. A receiver counts like a holder, unless it is
// far behind one.
func (k *Machine) parentFor(m *member, u unit) *member {
	t := m.t
	n, home := t.pieceOf(u), k.home(m, u)
	var best *member
	bestCost := ^uint64(0)
	seen := 0
	consider := func(o *member) {
		if o == m || o == k.avoid || o.offer < 0 || !o.give.has(u) || m.p.whole && !o.have.has(n) || k.banned(m.p, o.p, k.onlyCopy(t, u)) || home != nil && o.zone != home {
			return
		}
		seen++
		if cost := k.cost(m, o, u); cost < bestCost && k.supplied(o, m, u) {
			best, bestCost = o, cost
		}
	}
	if b := m.before; b != nil && b.offer >= 0 && !m.p.under(isolated) {
		consider(b)
	}
	if !m.p.under(isolated) {
		providers := t.providers[u]
		if home != nil {
			providers = home.givers(u)
		}
		if len(t.offers) <= min(fewOffers, len(providers)) {
			for i := range t.offers {
				consider(t.offers[i])
			}
		} else if len(providers) > 0 {
			near := t.racks[m.p.near()]
			k.sample(len(near), func(i int) *member { return near[i] }, &seen, consider)
			if bestCost >= doubtful || len(providers) <= scanned {
				seen = 0
				k.sample(len(providers), func(i int) *member { return t.seats[providers[i]] }, &seen, consider)
			}
			if best == nil && len(providers) > scanned && k.exhaustive {
				for _, o := range providers {
					consider(t.seats[o])
				}
			}
		}
	}
	if s := t.seed; best == nil && k.seedGives(m) && s.give.has(u) && (s.have.has(n) || !m.p.whole) && (home == nil || s.zone == home) && k.supplied(s, m, u) {
		return t.seed
	}
	return best
}

// sample considers all of n members if they are few, else some from a random
// one on.
func (k *Machine) sample(n int, member func(int) *member, seen *int, consider func(*member)) {
	if n <= scanned {
		for i := range n {
			consider(member(i))
		}
		return
	}
	at := k.random.IntN(n)
	for range scanned {
		consider(member(at))
		if *seen >= compared {
			return
		}
		if at++; at == n {
			at = 0
		}
	}
}

// cost orders parents: smaller is better.
func (k *Machine) cost(m, o *member, u unit) uint64 {
	depth := o.depth(m.t.pieceOf(u), m.t.span(u))
	var far uint64
	switch {
	case o.p.host == m.p.host:
	case o.p.rack != 0 && o.p.rack == m.p.rack:
		far = 1
	case o.p.zone != 0 && o.p.zone == m.p.zone:
		far = 2
	default:
		far = 3
	}
	var doubts uint64
	limit := m.t.depth()
	if depth > limit {
		doubts++
	}
	if k.slow(o.p) {
		doubts++
	}
	if o.p.listen.silent {
		doubts += 4
	}
	// A hop is weighed against load so that those near the seed are full first.
	load := len(o.p.children)*64/o.p.up + min(depth, 127)*64
	if o != m.before {
		load += 8192
	}
	return doubts*doubtful | far<<36 | uint64(load)<<16 | uint64(min(depth, 0xffff))
}

// depth is the number of hops from a holder beyond which a receiver is taken
// only when nobody nearer to one is free. With four parts of a piece and five
// children, each level has at most 5/4 of the peers of the one above.
func (t *task) depth() int {
	return max(deep, 4*bits.Len(uint(t.wanters)))
}

// onlyCopy says that nobody but one peer has or gets u.
func (k *Machine) onlyCopy(t *task, u unit) bool {
	return len(t.providers[u]) == 1 && (t.seed == nil || !t.seed.give.has(u))
}

// follows says whether what o has of u comes, over however many hops, from m:
// such a parent would close a cycle.
func (k *Machine) follows(o, m *member, u unit) bool {
	n, span := m.t.pieceOf(u), m.t.span(u)
	for _, a := range m.p.children {
		if a.parent == m && a.piece == n && overlap(a.span, span) {
			k.visit++
			return k.below(o, m, n, span)
		}
	}
	return o == m
}

func (k *Machine) below(o, m *member, n dragonfly.PieceNum, span dragonfly.Span) bool {
	if o == m {
		return true
	}
	if o.have.has(n) || o.visited == k.visit {
		return false
	}
	o.visited = k.visit
	if ar := o.arrival(n); ar != nil {
		for _, a := range ar.work {
			if a.parent != nil && overlap(a.span, span) && k.below(a.parent, m, n, span) {
				return true
			}
		}
	}
	return false
}

// supplied says whether o gets u from somewhere, and not from m. While some
// receivers are without a parent in the middle of a step, what hangs below them
// is not taken: m looks again when they have found one or given up.
func (k *Machine) supplied(o, m *member, u unit) bool {
	if k.follows(o, m, u) {
		return false
	}
	if k.broken < len(k.breaks) {
		k.visit++
		if !k.rooted(o, u) {
			k.again = append(k.again, m)
			return false
		}
	}
	return true
}

// rooted says whether every receiver between o and a holder of u, or the
// source, is getting all of it.
func (k *Machine) rooted(o *member, u unit) bool {
	n := o.t.pieceOf(u)
	if o.have.has(n) || o.visited == k.visit {
		return true // or found wanting already, which ended the search
	}
	o.visited = k.visit
	ar := o.arrival(n)
	if ar == nil || !o.give.has(u) {
		return false
	}
	span := o.t.span(u)
	for _, a := range ar.work {
		if a.parent != nil && overlap(a.span, span) && !k.rooted(a.parent, u) {
			return false
		}
	}
	return true
}

// match finds children for a member that has a free slot or something new. What
// the seed gives goes to those first who give it on.
func (k *Machine) match(m *member) {
	if !m.p.seed {
		k.serve(m)
		return
	}
	for k.turn = firstTurn; k.turn <= lastTurn; k.turn++ {
		k.serve(m)
	}
	k.turn = noTurn
}

// turn is whom the seed serves now.
type turn int

const (
	noTurn    turn = iota // who comes, unless others waited for its slot
	firstTurn             // those who wait and give on
	lastTurn              // those who wait
)

func (k *Machine) serve(m *member) {
	t := m.t
	last := t.waiters.tail
	for w := t.waiters.head; w != nil && !m.gone && m.listed && !m.full() && m.give.meets(t.hungry); {
		next := w.then
		if w == last {
			next = nil
		}
		if w != m && m.give.meets(w.need) && (m.p.seed && w.spreads() == (k.turn == firstTurn) || !m.p.seed && !w.p.under(isolated)) {
			k.schedule(w)
		}
		w = next
	}
}
