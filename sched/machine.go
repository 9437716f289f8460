// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"dragonfly"
)

// Machine is the scheduler. It is not safe for concurrent use.
type Machine struct {
	cfg      Config
	random   *rand.Rand
	now      Instant
	names    map[string]int32 // of hosts, racks and zones
	lastName int32

	peers    map[Peer]*peer
	order    []*peer // as they joined
	departed int     // of order
	tasks    map[Task]*task

	live    map[dragonfly.AssignmentID]*assignment
	lastID  dragonfly.AssignmentID
	timers  timers
	acks    []ackDue
	ackHead int

	agenda
	scratch
	visit    uint64 // number of the present search through receivers
	counts   Counts
	observer func(Decision) // nil: nobody wants reasons
}

// agenda is what a step still has to look at. It is empty between steps.
type agenda struct {
	out       []Action
	retries   []*member // may be able to take something
	breaks    []unitOf  // do not get on with a unit that others get from them
	broken    int       // of breaks, looked at already
	again     []*member // did not take what hangs below a break
	feeds     []*task   // whose seed may have to read something
	offerings []*member // have a free slot or something new
	lostZones []zoneOf  // have less to give
}

// scratch is memory that is used again.
type scratch struct {
	wanted, offered set[unit]
	exhaustive      bool // parentFor looks at all providers
	turn            turn
	avoid           *member // parentFor does not take it
	spareWork       []*assignment
	spareArrivals   []*arrival
}

// New makes a machine without peers and tasks.
func New(cfg Config) *Machine {
	cfg.Down = cmp.Or(cfg.Down, 4)
	cfg.Up = cmp.Or(cfg.Up, 5)
	cfg.SeedUp = cmp.Or(cfg.SeedUp, 4)
	cfg.SourceDown = cmp.Or(cfg.SourceDown, 4)
	cfg.Units = cmp.Or(cfg.Units, 128)
	cfg.Elimination = cmp.Or(cfg.Elimination, 5)
	cfg.Failures = cmp.Or(cfg.Failures, 5)
	cfg.Ack = cmp.Or(cfg.Ack, 2*time.Second)
	cfg.Silent = cmp.Or(cfg.Silent, 3*time.Second)
	cfg.Gone = cmp.Or(cfg.Gone, 10*time.Second)
	cfg.Kept = cmp.Or(cfg.Kept, 3*time.Minute)
	cfg.Ramp = cmp.Or(cfg.Ramp, 20*time.Millisecond)
	cfg.Probation = cmp.Or(cfg.Probation, time.Minute)
	return &Machine{
		cfg: cfg, random: rand.New(rand.NewPCG(cfg.Seed, 0)), names: map[string]int32{},
		peers: map[Peer]*peer{}, tasks: map[Task]*task{}, live: map[dragonfly.AssignmentID]*assignment{},
	}
}

// Step takes the time, which never runs back, and one event, and appends to
// out what is to be done. An event about a peer, task or assignment that the
// machine does not know changes nothing.
func (k *Machine) Step(now Instant, ev Event, out []Action) []Action {
	k.now = max(k.now, now)
	k.out = out
	k.counts.Steps++
	k.elapse()
	k.apply(&ev)
	k.settle()
	if k.observer != nil {
		k.tellRest(k.out[len(out):])
	}
	out, k.out = k.out, nil
	return out
}

func (k *Machine) apply(ev *Event) {
	switch ev.Kind {
	case PeerJoined:
		k.joined(ev)
		return
	case TaskOpened:
		k.taskOpened(ev)
		return
	case Tick:
		return
	}
	p, t := k.peers[ev.Peer], k.tasks[ev.Task]
	switch ev.Kind {
	case PeerLeft, PollOpened, PollClosed, Acked:
		if p != nil {
			k.ofPeer(p, ev)
		}
		return
	}
	if t == nil {
		return
	}
	switch ev.Kind {
	case TaskEnded:
		k.taskEnded(t)
	case LengthKnown:
		k.lengthKnown(t, ev.Layout)
	case SourceClosed:
		t.source.closed = true
		k.feed(t)
	case SourceOpened:
		t.source = origin{cursor: t.source.cursor}
		t.exhausted = false
		k.feed(t)
	case Wanted, Holding:
		if p != nil {
			k.registered(p, t, ev)
		}
	default:
		if m := t.of[ev.Peer]; m != nil {
			k.ofMember(m, ev)
		}
	}
}

func (k *Machine) ofPeer(p *peer, ev *Event) {
	switch ev.Kind {
	case PeerLeft:
		k.leave(p)
	case PollOpened:
		k.hears(p, ev.Free)
	case PollClosed:
		k.hearsNoMore(p)
	case Acked:
		if a := k.live[ev.Assignment]; a != nil && a.child.p == p {
			k.heard(a)
		}
	}
}

func (k *Machine) ofMember(m *member, ev *Event) {
	n := ev.Piece
	switch ev.Kind {
	case Stopped:
		k.stopped(m)
		return
	case Dropped:
		k.dropMember(m, true)
		return
	}
	if !m.t.valid(n) {
		return
	}
	switch ev.Kind {
	case Position:
		m.position = n
		k.readFrom(m.t, n)
		k.retry(m)
	case Verified:
		k.verified(m, ev)
	case Received:
		k.received(m, ev)
	case Failed:
		k.failed(m, ev)
	case Lost:
		k.lostPiece(m, n)
	case Intact:
		k.intact(m, n)
	}
}

// settled books the successful end of an assignment, if it is one.
func (k *Machine) settled(m *member, ev *Event) bool {
	a := k.live[ev.Assignment]
	if a == nil || a.child != m || a.piece != ev.Piece {
		return false
	}
	resumed := false
	if ar := m.arrival(ev.Piece); ar != nil {
		resumed = slices.ContainsFunc(ar.past, func(e edge) bool { return overlap(e.span, a.span) })
		ar.here(a.span)
		ar.received = true
		k.readied(m, ev.Piece)
	}
	if a.parent != nil {
		k.fetched(m.p, a.parent.p)
		m.before = a.parent
		m.ramp = 0
	} else {
		m.t.source.stumble = 0
	}
	k.heard(a)
	ended := *a
	k.end(a, false)
	k.timed(&ended, resumed)
	m.last = ev.Piece
	return true
}

func (k *Machine) verified(m *member, ev *Event) {
	n := ev.Piece
	k.settled(m, ev)
	m.have.put(n, true)
	k.readied(m, n)
	k.dropArrival(m, n)
	k.refresh(m, n)
	k.ask(m, n)
	k.retry(m)
	if m.t.wholes > 0 {
		k.offering(m) // some take it from now on only
	}
}

func (k *Machine) received(m *member, ev *Event) {
	if k.settled(m, ev) {
		k.refresh(m, ev.Piece)
		k.retry(m)
	}
}

// lostPiece books that m holds n no more, or gave up what it had received of it.
// Whoever accused m over it got bytes that m threw away itself.
func (k *Machine) lostPiece(m *member, n dragonfly.PieceNum) {
	if !m.have.has(n) {
		if m.arrival(n) == nil {
			return
		}
		k.stumbled(m.p)
	}
	m.have.put(n, false)
	k.giveUp(m, n)
	k.refresh(m, n)
	k.retry(m)
}

// giveUp ends all that m gets of n and what others got or get of it from m.
func (k *Machine) giveUp(m *member, n dragonfly.PieceNum) {
	k.dropArrival(m, n)
	k.discard(m, n)
}

func (k *Machine) retry(m *member) {
	if !m.retrying && !m.gone {
		m.retrying = true
		k.retries = append(k.retries, m)
	}
}

func (k *Machine) retryAll(p *peer) {
	for _, m := range p.members {
		if m.p.seed {
			k.feed(m.t)
		} else if m.wants && m.needs > 0 {
			k.retry(m)
		}
	}
}

func (k *Machine) offering(m *member) {
	if !m.offered && !m.gone && m.listed && m.t.waiters.n > 0 && !m.full() {
		m.offered = true
		k.offerings = append(k.offerings, m)
	}
}

// settle works the agenda off: first those who lost a parent look for another
// one, then those who found none let their own children go, then the seed is
// sent to the source, and last whoever has something to give finds takers.
func (k *Machine) settle() {
	var retries, feeds, offerings int
	for {
		switch {
		case retries < len(k.retries):
			m := k.retries[retries]
			retries++
			m.retrying = false
			k.schedule(m)
		case k.broken < len(k.breaks):
			b := k.breaks[k.broken]
			k.broken++
			if !b.m.give.has(b.u) {
				k.orphan(b.m, b.m.t.pieceOf(b.u), b.m.t.span(b.u))
			}
		case len(k.lostZones) > 0:
			l := k.lostZones[len(k.lostZones)-1]
			k.lostZones = k.lostZones[:len(k.lostZones)-1]
			k.lookAbroad(l)
		case len(k.again) > 0:
			for _, m := range k.again {
				k.retry(m)
			}
			k.again = k.again[:0]
		case feeds < len(k.feeds):
			t := k.feeds[feeds]
			feeds++
			t.feeding = false
			k.feedSeed(t)
		case offerings < len(k.offerings):
			m := k.offerings[offerings]
			offerings++
			m.offered = false
			k.match(m)
		default:
			k.retries, k.breaks, k.broken = k.retries[:0], k.breaks[:0], 0
			k.feeds, k.offerings = k.feeds[:0], k.offerings[:0]
			return
		}
	}
}
