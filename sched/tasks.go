// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"cmp"
	"slices"

	"dragonfly"
)

// task is the book of one version of a content.
type task struct {
	id     Task
	layout dragonfly.Layout
	pieces int // of an unknown length: those that were asked of the source or are held
	parts  int // units of each piece but the last, which may have fewer
	units  int

	seed    *member
	members []*member
	seats   []*member // by seat; nil: vacant
	vacant  []seat
	of      map[Peer]*member
	wanters int
	wholes  int // members that get whole pieces from holders only

	providers [][]seat                // by unit: listed holders and receivers, the seed not counted
	offers    []*member               // listed members with a free slot, the seed not counted
	racks     map[int32][]*member     // by peer.near
	zones     map[int32]*zone         // by peer.zone, of those that have a name
	lack      []int32                 // by piece: members that want and do not hold it
	lacked    set[dragonfly.PieceNum] // pieces with lack > 0
	pull      set[unit]               // units that the seed is to get although peers have them

	waiters queue
	starved []int32   // by unit: waiters that need it
	hungry  set[unit] // units with starved > 0

	source    origin
	exhausted bool  // said so already
	feeding   bool  // in Machine.feeds
	pace      pace  // of its assignments
	pacedBy   *peer // whose assignments it was first learned from
	compared  bool  // it was learned from others, too
	watched   bool  // a timer looks at them
	looked    int   // at whose last, an index of members
	ended     bool
}

// origin is the source of a task as a parent.
type origin struct {
	closed  bool
	pause   Instant // not asked before
	stumble int     // failures in a row
	cursor  unit
}

// member is one peer in one task.
type member struct {
	p *peer
	t *task

	wants  bool
	only   set[dragonfly.PieceNum] // the pieces that it wants; nil: all
	serves bool
	listed bool // its pieces are in the books
	slots  int

	have      set[dragonfly.PieceNum] // verified
	need      set[unit]               // wanted, and nothing on the way; of the seed: not there and not on the way
	needs     int                     // size of need
	lack      set[dragonfly.PieceNum] // wanted and not held
	give      set[unit]               // listed, and held or on the way: what others may get from it
	place     []int32                 // by unit of give: index in task.providers
	offer     int                     // index in task.offers, -1: not there
	index     int                     // in task.members
	seat      seat
	zone      *zone   // in task.zones; nil: nobody knows where it is
	zonePlace []int32 // by unit of give: index in zone.providers

	arrivals []*arrival
	load     int // children in this task
	working  int // assignments in work
	sourcing int // of those, from the source
	discards []discard
	accused  []accusation

	position   dragonfly.PieceNum // of the reader, -1: unknown
	last       dragonfly.PieceNum // came last
	waiting    bool
	prev, then *member // in task.waiters
	retrying   bool    // in Machine.retries
	offered    bool    // in Machine.offerings
	before     *member // gave the last span
	pace       pace
	ramp       Instant // it gets one span at a time before
	visited    uint64  // Machine.visit of the search that came here last
	gone       bool
}

// crowd is the number of peers that want a task from which on newcomers get one
// span at a time for Config.Ramp. A peer that got four pieces from the one before
// it at once would be a link of one long chain, all of which is as slow as its
// slowest; so they begin with different pieces, and each piece has its own tree.
const crowd = 4

// fewLeft is the number of providers from which on each one that goes makes
// the blacklists of those who wait be looked at again.
const fewLeft = 8

// queue is a list of waiting members, the longest waiting first.
type queue struct {
	head, tail *member
	n          int
}

func (q *queue) push(m *member) {
	m.prev, m.then = q.tail, nil
	if q.tail != nil {
		q.tail.then = m
	} else {
		q.head = m
	}
	q.tail = m
	q.n++
}

func (q *queue) remove(m *member) {
	if m.prev != nil {
		m.prev.then = m.then
	} else {
		q.head = m.then
	}
	if m.then != nil {
		m.then.prev = m.prev
	} else {
		q.tail = m.prev
	}
	m.prev, m.then = nil, nil
	q.n--
}

func (k *Machine) taskOpened(ev *Event) {
	if k.tasks[ev.Task] != nil {
		return
	}
	t := &task{id: ev.Task, layout: ev.Layout, of: map[Peer]*member{}, racks: map[int32][]*member{}, zones: map[int32]*zone{}}
	t.parts = k.split(t.layout)
	k.tasks[t.id] = t
	k.grow(t, t.layout.Pieces())
}

// grow makes room for n pieces.
func (k *Machine) grow(t *task, n int) {
	old := t.pieces
	if n <= old {
		return
	}
	more := -t.units
	t.pieces = n
	t.units = t.count()
	more += t.units
	t.providers = append(t.providers, make([][]seat, more)...)
	t.lack = append(t.lack, make([]int32, n-old)...)
	t.starved = append(t.starved, make([]int32, more)...)
	for _, m := range t.members {
		k.refreshRange(m, old, n)
		if m.wants {
			k.retry(m)
		}
	}
}

// lengthKnown ends the growth: what lies behind the end goes.
func (k *Machine) lengthKnown(t *task, layout dragonfly.Layout) {
	if t.layout.Known() || !layout.Known() {
		return
	}
	n := layout.Pieces()
	k.grow(t, n)
	t.layout.Length = layout.Length
	for _, m := range t.members {
		for i := dragonfly.PieceNum(n); int(i) < t.pieces; i++ {
			k.cancelPiece(m, i)
			m.have.put(i, false)
			k.refresh(m, i)
		}
		for _, ar := range m.arrivals {
			k.shorten(m, ar)
		}
		if m.wants {
			k.retry(m)
		}
	}
	t.pieces, t.units = n, n // its pieces are not parted
	t.providers, t.lack, t.starved = t.providers[:n], t.lack[:n], t.starved[:n]
	k.feed(t)
}

func (k *Machine) taskEnded(t *task) {
	t.ended = true
	for len(t.members) > 0 {
		k.dropMember(t.members[len(t.members)-1], true)
	}
	delete(k.tasks, t.id)
}

// valid says whether n can be a piece of t.
func (t *task) valid(n dragonfly.PieceNum) bool { return n >= 0 && int(n) < t.pieces }

// enter makes p a member of t, or finds it there.
func (k *Machine) enter(p *peer, t *task) *member {
	if m := t.of[p.id]; m != nil {
		return m
	}
	m := &member{p: p, t: t, offer: -1, index: len(t.members), position: -1, slots: k.cfg.Down}
	t.of[p.id] = m
	t.members = append(t.members, m)
	t.sit(m)
	p.members = append(p.members, m)
	if p.zone != 0 {
		if t.zones[p.zone] == nil {
			t.zones[p.zone] = &zone{}
		}
		m.zone = t.zones[p.zone]
		m.zone.members++
	}
	if !p.seed {
		t.racks[p.near()] = append(t.racks[p.near()], m)
	}
	if p.seed && t.seed == nil {
		t.seed = m
	}
	if p.whole {
		t.wholes++
	}
	return m
}

// seat numbers a member as long as it is one. Lists of providers are of seats: at
// thousands of peers they are most of the memory, which is half as much as with
// pointers, and nothing for the collector of garbage to look through.
type seat int32

// sit gives m a seat.
func (t *task) sit(m *member) {
	if last := len(t.vacant) - 1; last >= 0 {
		m.seat, t.vacant = t.vacant[last], t.vacant[:last]
		t.seats[m.seat] = m
		return
	}
	m.seat = seat(len(t.seats))
	t.seats = append(t.seats, m)
}

// registered books Wanted and Holding.
func (k *Machine) registered(p *peer, t *task, ev *Event) {
	m := k.enter(p, t)
	if ev.Kind == Wanted {
		m.serves = m.serves || ev.Serves
		slots := cmp.Or(max(0, ev.Slots), k.cfg.Down)
		if m.wants {
			slots = max(slots, m.slots) // another job of the same peer
		}
		m.slots = slots
	} else {
		m.serves = true
		k.cancelAll(m)
	}
	wants := ev.Kind == Wanted && !p.seed
	if wants {
		m.narrow(ev.Want)
	}
	if wants && !m.wants && k.cfg.Ramp > 0 && t.wanters >= crowd {
		m.ramp = k.now.Add(k.cfg.Ramp)
		k.wakeAt(p, m.ramp)
	}
	if wants != m.wants {
		if m.wants = wants; wants {
			t.wanters++
		} else {
			k.fewer(t)
		}
	}
	for n := range ev.Held.All() {
		if t.layout.Known() && int(n) >= t.pieces {
			break
		}
		k.grow(t, int(n)+1)
		if !m.have.has(n) {
			m.have.put(n, true)
			k.dropArrival(m, n)
		}
	}
	m.listed = (m.serves || p.seed) && p.trusted()
	k.refreshRange(m, 0, t.pieces)
	t.offer(m, m.listed && !p.full())
	k.offering(m)
	k.retry(m)
	k.feed(t)
}

// fewer counts a member that wants t no more. The last one may have all slots of
// the seed.
func (k *Machine) fewer(t *task) {
	if t.wanters--; t.wanters == 1 && t.seed != nil {
		k.offering(t.seed)
	}
}

// narrow takes in which pieces m wants: those of a job and of earlier ones that
// it still has.
func (m *member) narrow(want dragonfly.PieceSet) {
	switch {
	case want.Count() == 0:
		m.only = nil
		return
	case m.wants && m.only == nil:
		return // another job wants all
	case !m.wants:
		m.only = set[dragonfly.PieceNum]{}
	}
	for n := range want.All() {
		m.only.put(n, true)
	}
}

// seeks says that m wants a piece, held or not.
func (m *member) seeks(n dragonfly.PieceNum) bool {
	return m.wants && (m.only == nil || m.only.has(n))
}

// stopped ends what m wants; it serves on.
func (k *Machine) stopped(m *member) {
	if !m.wants {
		return
	}
	m.wants = false
	k.fewer(m.t)
	k.unwait(m)
	k.cancelAll(m)
	k.refreshRange(m, 0, m.t.pieces)
}

// dropMember takes m out of its task. told: its own assignments are to be
// cancelled, it is still there to hear it.
func (k *Machine) dropMember(m *member, told bool) {
	t := m.t
	k.unwait(m)
	for len(m.arrivals) > 0 {
		ar := m.arrivals[len(m.arrivals)-1]
		for len(ar.work) > 0 {
			k.end(ar.work[len(ar.work)-1], told)
		}
		k.dropArrival(m, ar.piece)
	}
	if m.wants {
		m.wants = false
		k.fewer(t)
	}
	m.serves, m.gone = false, true
	if m.p.whole {
		t.wholes--
	}
	if t.seed == m {
		m.listed = false
		k.refreshRange(m, 0, t.pieces)
		t.seed = nil
		if i := slices.IndexFunc(t.members, func(o *member) bool { return o.p.seed && o != m }); i >= 0 {
			t.seed = t.members[i]
		}
	} else {
		k.list(m)
		k.refreshRange(m, 0, t.pieces)
	}
	k.orphan(m, -1, dragonfly.Span{})
	last := t.members[len(t.members)-1]
	t.members[m.index], last.index = last, m.index
	t.members = t.members[:len(t.members)-1]
	t.seats[m.seat] = nil
	t.vacant = append(t.vacant, m.seat)
	delete(t.of, m.p.id)
	if r := without(t.racks[m.p.near()], m); len(r) > 0 {
		t.racks[m.p.near()] = r
	} else {
		delete(t.racks, m.p.near())
	}
	if m.zone != nil {
		if m.zone.members--; m.zone.members == 0 {
			delete(t.zones, m.p.zone)
		}
	}
	m.p.members = without(m.p.members, m)
	k.feed(t)
}

// list brings the books in line with whether m's pieces count.
func (k *Machine) list(m *member) {
	listed := !m.gone && (m.serves || m.p.seed) && m.p.trusted()
	if listed == m.listed {
		return
	}
	m.listed = listed
	k.refreshRange(m, 0, m.t.pieces)
	m.t.offer(m, listed && !m.p.full())
	k.feed(m.t)
}

// offer puts m into the list of those with a free slot, or takes it out.
func (t *task) offer(m *member, on bool) {
	on = on && !m.p.seed
	switch {
	case on && m.offer < 0:
		m.offer = len(t.offers)
		t.offers = append(t.offers, m)
	case !on && m.offer >= 0:
		last := t.offers[len(t.offers)-1]
		t.offers[m.offer], last.offer = last, m.offer
		t.offers = t.offers[:len(t.offers)-1]
		m.offer = -1
	}
}

func (k *Machine) refreshRange(m *member, from, to int) {
	for n := from; n < to; n++ {
		k.refresh(m, dragonfly.PieceNum(n))
	}
}

// refresh brings all books in line with the state of piece n at m. It is
// called after every change of that state and is the only place that changes
// need, lack, give and what is counted from them.
func (k *Machine) refresh(m *member, n dragonfly.PieceNum) {
	t := m.t
	held := m.have.has(n)
	inside := !t.layout.Known() || int(n) < t.layout.Pieces()

	if lack := m.seeks(n) && !held && inside; lack != m.lack.has(n) {
		m.lack.put(n, lack)
		if lack {
			if t.lack[n]++; t.lack[n] == 1 {
				t.lacked.put(n, true)
				k.feed(t)
			}
		} else if t.lack[n]--; t.lack[n] == 0 {
			t.lacked.put(n, false)
		}
	}
	ar := m.arrival(n)
	for u := t.first(n); u < t.behind(n); u++ {
		covered := held || ar != nil && ar.covered(t.span(u))
		k.needs(m, u, (m.p.seed || m.seeks(n)) && !covered && inside)
		// Of an unknown length only what the seed verified is given on, and what
		// comes from a slow parent when it is there.
		k.gives(m, u, covered && m.listed && (held || !m.p.whole && (t.layout.Known() || !m.p.seed) && !m.trickles(n, t.span(u))))
	}
}

// needs books whether m needs u.
func (k *Machine) needs(m *member, u unit, need bool) {
	if need == m.need.has(u) {
		return
	}
	m.need.put(u, need)
	if need {
		m.needs++
	} else {
		m.needs--
	}
	if m.waiting {
		m.t.starve(u, need)
	}
	if need && m.p.seed {
		k.feed(m.t)
	}
}

// gives books whether others may get u from m.
func (k *Machine) gives(m *member, u unit, give bool) {
	if give == m.give.has(u) {
		return
	}
	t := m.t
	m.give.put(u, give)
	if give {
		if !m.p.seed {
			if int(u) >= len(m.place) {
				m.place = append(make([]int32, 0, t.units), m.place...)[:t.units]
			}
			m.place[u] = int32(len(t.providers[u]))
			t.providers[u] = append(t.providers[u], m.seat)
			m.zone.gives(m, u)
		}
		k.offering(m)
		return
	}
	if !m.p.seed {
		l := t.providers[u]
		last := l[len(l)-1]
		l[m.place[u]], t.seats[last].place[u] = last, m.place[u]
		t.providers[u] = l[:len(l)-1]
		m.zone.givesNoMore(m, u)
		if len(t.providers[u]) == 0 {
			k.feed(t)
		}
	}
	if t.hungry.has(u) && len(m.zone.givers(u)) <= fewLeft {
		k.lose(m.zone, t) // these may be on their blacklists
	}
	if left := t.providers[u]; len(left) <= fewLeft && t.hungry.has(u) {
		for _, o := range left {
			k.offering(t.seats[o]) // to whom it is banned it may be the only one now
		}
	}
	if len(m.p.children) > 0 {
		k.breaks = append(k.breaks, unitOf{m, u})
	}
}

// starve counts a waiter that needs u, or does not any more.
func (t *task) starve(u unit, on bool) {
	if on {
		if t.starved[u]++; t.starved[u] == 1 {
			t.hungry.put(u, true)
		}
	} else if t.starved[u]--; t.starved[u] == 0 {
		t.hungry.put(u, false)
	}
}

// wait puts m at the end of the queue, or leaves it where it is.
func (k *Machine) wait(m *member) {
	if m.waiting {
		return
	}
	m.waiting = true
	m.t.waiters.push(m)
	if m.t.source.closed {
		k.feed(m.t)
	}
	for u := m.need.next(0); u >= 0; u = m.need.next(u + 1) {
		m.t.starve(u, true)
	}
}

func (k *Machine) unwait(m *member) {
	if !m.waiting {
		return
	}
	m.waiting = false
	m.t.waiters.remove(m)
	for u := m.need.next(0); u >= 0; u = m.need.next(u + 1) {
		m.t.starve(u, false)
	}
}

// extent is the span of a piece.
func (t *task) extent(n dragonfly.PieceNum) dragonfly.Span {
	from, to := t.layout.Extent(n)
	return dragonfly.Span{From: from, To: max(from, to)}
}

// blockStart rounds an offset in piece n down to a block of it, but for the
// end of the piece.
func (t *task) blockStart(n dragonfly.PieceNum, off int64) int64 {
	e := t.extent(n)
	if off >= e.To {
		return e.To
	}
	off = max(off, e.From)
	return off - (off-e.From)%dragonfly.BlockLen
}

func bySpan(a, b dragonfly.Span) int { return cmp.Compare(a.From, b.From) }
