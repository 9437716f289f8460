// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// world is a scenario being played.
type world struct {
	Scenario
	machine *sched.Machine
	luck    *rand.Rand
	queue   queue
	now     sched.Instant
	err     error

	hosts    []host
	zonesOut []link
	zonesIn  []link
	streams  []stream
	spare    []int32
	window   int // quanta of a stream under way
	units    int // quanta of a piece

	spareParts []*partial
	mails      []message
	spareMail  []int32
	actions    []sched.Action
	touched    []int32 // hosts whose outboxes changed
	armed      sched.Instant
	published  []bool    // by piece: the peers can know its digest
	awaiting   [][]int32 // by piece: who waits for its digest

	left    int // healthy peers that lack something
	bounds  bounds
	steps   int
	reports int
	crossed int64

	mismatches, quarantined, isolated, innocent int
}

// Run plays a scenario to its end: when every healthy peer has the content, or
// at its limit. An error is a scenario that makes no sense, or an invariant
// that does not hold.
func Run(s Scenario) (Result, error) {
	s, err := s.withDefaults()
	if err != nil {
		return Result{}, err
	}
	w := &world{Scenario: s, luck: rand.New(rand.NewPCG(s.Seed, 1))}
	s.Sched.Seed = s.Seed
	w.machine = sched.New(s.Sched)
	w.build()
	w.open()
	for len(w.queue.heap) > 0 && w.left > 0 && w.err == nil {
		e := w.queue.pop()
		w.now = e.at
		if w.now > sched.Instant(w.Limit) {
			break
		}
		w.happen(&e)
		w.settle()
	}
	if w.err == nil && w.Check > 0 {
		w.err = w.machine.Check()
	}
	return w.result(), w.err
}

// build draws the hosts.
func (w *world) build() {
	w.units = int((w.PieceLen + w.Quantum - 1) / w.Quantum)
	w.published, w.awaiting = make([]bool, w.Pieces), make([][]int32, w.Pieces)
	w.zonesOut, w.zonesIn = make([]link, w.Zones), make([]link, w.Zones)
	for z := range w.Zones {
		w.zonesOut[z].perByte, w.zonesIn[z].perByte = perByte(w.ZoneLink), perByte(w.ZoneLink)
	}
	words := (w.Pieces + 63) / 64
	bits := make([]uint64, words*(w.Peers+2))
	w.hosts = make([]host, w.Peers+2)
	fastest := w.SeedUp
	for i := range w.hosts {
		h := &w.hosts[i]
		h.have = bits[i*words : (i+1)*words]
		up, down := w.SeedUp, w.Down
		switch int32(i) {
		case source:
			up = 0
		case seed:
			down = w.SeedDown
		default:
			up = w.Up[w.luck.IntN(len(w.Up))]
			h.zone = (i - 2) % w.Zones
		}
		fastest = max(fastest, up)
		h.perByte, h.down.perByte = perByte(up), perByte(down)
	}
	for n := range w.Pieces {
		w.hosts[source].have[n>>6] |= 1 << (n & 63)
		if w.Warm {
			w.hosts[seed].have[n>>6] |= 1 << (n & 63)
			w.published[n] = true
		}
	}
	// As many quanta as are on the way of the fastest link, and one for each end.
	w.window = 2 + int(math.Ceil(2*float64(w.Latency)/(float64(w.Quantum)*perByte(fastest))))
	w.trouble()
}

// trouble draws who is what, and plans when.
func (w *world) trouble() {
	order := w.luck.Perm(w.Peers)
	take := func(share float64, do func(h *host, who int32)) {
		n := min(int(math.Round(share*float64(w.Peers))), len(order))
		for _, i := range order[:n] {
			do(&w.hosts[i+2], int32(i+2))
		}
		order = order[n:]
	}
	var gone []int32
	take(w.Vanish, func(_ *host, who int32) { gone = append(gone, who) })
	leaves := len(gone)
	take(w.Leave, func(_ *host, who int32) { gone = append(gone, who) })
	take(w.Slow, func(h *host, _ int32) { h.perByte *= 10; h.down.perByte *= 10; h.slow = true })
	take(w.Lie, func(h *host, _ int32) { h.lies = true })
	w.bounds = w.bound(order)
	if w.Limit == 0 {
		w.Limit = max(time.Minute, 20*w.bounds.swarm) + w.Arrive
	}
	for i, who := range gone {
		k := vanished
		if i >= leaves {
			k = left
		}
		w.hosts[who].doomed = true
		w.plan(event{kind: k, who: who}, time.Duration(w.luck.Int64N(int64(w.bounds.swarm))))
	}
	for i := range w.hosts[2:] {
		h := &w.hosts[i+2]
		if w.Arrive > 0 {
			h.arrived = sched.Instant(w.luck.Int64N(int64(w.Arrive)))
		}
		if h.healthy() {
			w.left++
		}
	}
}

// healthy peers are those whose times count.
func (h *host) healthy() bool { return !h.doomed && !h.slow && !h.lies }

// open starts the seed and lets the peers come.
func (w *world) open() {
	w.hosts[seed].joined = true
	w.step(sched.Event{Kind: sched.PeerJoined, Peer: sched.Peer(seed), Seed: true, Serves: true, Where: sched.Where{Host: "seed", Zone: w.zoneName(0)}})
	w.step(sched.Event{Kind: sched.TaskOpened, Task: task, Layout: dragonfly.Layout{Length: w.length(), PieceLen: w.PieceLen}})
	ev := sched.Event{Kind: sched.Holding, Peer: sched.Peer(seed), Task: task}
	if w.Warm {
		ev.Held = dragonfly.NewPieceSet(w.Pieces)
	}
	w.step(ev)
	w.welcome(seed)
	for i := range w.hosts[2:] {
		h := &w.hosts[i+2]
		// It opens a session, and registers.
		w.plan(event{kind: joined, who: int32(i + 2)}, time.Duration(h.arrived)+3*w.Latency)
	}
	w.plan(event{kind: swept}, sweepEvery)
}

func (w *world) zoneName(z int) string {
	if w.Zones == 1 {
		return ""
	}
	return fmt.Sprint("z", z)
}

// welcome opens the first report of a host.
func (w *world) welcome(who int32) {
	h := &w.hosts[who]
	h.open, h.polling, h.polled = 1, true, w.now
	w.step(sched.Event{Kind: sched.PollOpened, Peer: sched.Peer(who), Free: inWork})
}

func (w *world) join(who int32) {
	h := &w.hosts[who]
	if h.vanished || h.left {
		return
	}
	h.joined = true
	p := sched.Peer(who)
	w.step(sched.Event{Kind: sched.PeerJoined, Peer: p, Serves: true, Where: sched.Where{Host: fmt.Sprint("h", who), Zone: w.zoneName(h.zone)}})
	w.step(sched.Event{Kind: sched.Wanted, Peer: p, Task: task, Serves: true})
	w.welcome(who)
}

// stop ends a host without a word, or its session.
func (w *world) stop(who int32, silent bool) {
	h := &w.hosts[who]
	if h.vanished || h.left {
		return
	}
	h.vanished, h.left = silent, !silent
	for len(h.in) > 0 {
		w.finish(h.in[0])
	}
	if silent {
		w.expire(who)
		return
	}
	for len(h.out) > 0 {
		i := h.out[0]
		s := &w.streams[i]
		h.out = h.out[1:]
		w.plan(event{kind: broken, who: i, gen: s.gen, size: reset}, w.Latency)
	}
	if h.joined {
		w.step(sched.Event{Kind: sched.PeerLeft, Peer: sched.Peer(who)})
	}
}

// finished counts a peer that has the content.
func (w *world) finished(who int32) {
	if w.hosts[who].healthy() {
		w.left--
	}
}

func (w *world) plan(e event, in time.Duration) {
	e.at = w.now.Add(in)
	w.queue.push(e)
}

func (w *world) happen(e *event) {
	switch e.kind {
	case sent:
		w.delivered(e)
	case arrived:
		if s := &w.streams[e.who]; s.gen == e.gen && s.live {
			w.landed(e.who, int64(e.size), e.bad)
		}
	case requested:
		if s := &w.streams[e.who]; s.gen == e.gen && s.live {
			w.started(e.who)
		}
	case broken:
		if s := &w.streams[e.who]; s.gen == e.gen && s.live {
			why := dragonfly.FailReset
			if e.size == refused {
				why = dragonfly.FailRefused
			}
			w.fail(e.who, why)
		}
	case reported:
		m := w.collect(e.who)
		w.heard(&m)
	case answered:
		m := w.collect(e.who)
		w.told(&m)
	case spoke:
		w.hosts[e.who].waiting = false
		w.talk(e.who, true)
	case joined:
		w.join(e.who)
	case vanished:
		w.stop(e.who, true)
	case left:
		w.stop(e.who, false)
	case expired:
		w.expire(e.who)
	case published:
		w.publish(e.who)
	case swept:
		w.sweep()
	case ticked:
		if e.at == w.armed {
			w.armed = 0
		}
		w.step(sched.Event{Kind: sched.Tick})
	}
}
