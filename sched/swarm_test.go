// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dragonfly"
)

// swarm is a world for a machine: peers that do what they are told, in virtual
// time. A piece takes transfer from a holder, and hop longer than the parent's
// own end from a receiver.
type swarm struct {
	m        *Machine
	now      Instant
	queue    deeds
	seq      int
	work     map[dragonfly.AssignmentID]Action
	held     map[pieceAt]bool
	got      map[pieceAt]*arrival // of pieces that are not held yet
	seed     Peer
	transfer time.Duration
	hop      time.Duration
	actions  []Action
	events   int
	seedOut  int // pieces that left the seed
	source   int // pieces read from the source
	left     int // pieces that peers still want
	free     map[Peer]int
	observe  func() error
	// outcome says how a transfer ends; nil: all succeed.
	outcome func(Action) dragonfly.FailReason
	judged  map[Peer]bool // quarantined
	depart  []Peer        // leave before the next transfer ends
}

type pieceAt struct {
	p Peer
	t Task
	n dragonfly.PieceNum
}

type deed struct {
	at  Instant
	seq int
	a   Action
}

type deeds []deed

func (d deeds) Len() int { return len(d) }
func (d deeds) Less(i, j int) bool {
	return d[i].at < d[j].at || d[i].at == d[j].at && d[i].seq < d[j].seq
}
func (d deeds) Swap(i, j int) { d[i], d[j] = d[j], d[i] }
func (d *deeds) Push(x any)   { *d = append(*d, x.(deed)) }
func (d *deeds) Pop() any     { o := *d; x := o[len(o)-1]; *d = o[:len(o)-1]; return x }

func newSwarm(cfg Config) *swarm {
	return &swarm{m: New(cfg), seed: 1, transfer: 100 * time.Millisecond, hop: 2 * time.Millisecond,
		work: map[dragonfly.AssignmentID]Action{}, held: map[pieceAt]bool{}, got: map[pieceAt]*arrival{}, judged: map[Peer]bool{}, free: map[Peer]int{}}
}

const enough = 1 << 20

func (s *swarm) step(ev Event) error {
	s.events++
	from := len(s.actions)
	s.actions = s.m.Step(s.now, ev, s.actions)
	if s.observe != nil {
		if err := s.observe(); err != nil {
			return fmt.Errorf("after %+v: %w", ev, err)
		}
	}
	for i := from; i < len(s.actions); i++ {
		switch a := s.actions[i]; a.Kind {
		case Assign:
			s.work[a.Assignment] = a
			s.later(a, s.transfer*time.Duration(a.Span.Len())/mib)
		case Cancel:
			delete(s.work, a.Assignment)
		case Quarantined:
			s.judged[a.Peer] = true
		}
	}
	if from == 0 {
		// All that this step and its acknowledgements gave is here.
		for i := 0; i < len(s.actions); i++ {
			var ev Event
			switch a := s.actions[i]; a.Kind {
			case Assign:
				ev = Event{Kind: Acked, Peer: a.Peer, Assignment: a.Assignment}
			case Reverify: // disks do not rot here
				ev = Event{Kind: Intact, Peer: a.Peer, Task: a.Task, Piece: a.Piece}
			default:
				continue
			}
			if err := s.step(ev); err != nil {
				return err
			}
		}
		s.actions = s.actions[:0]
	}
	return nil
}

func (s *swarm) later(a Action, d time.Duration) {
	s.seq++
	heap.Push(&s.queue, deed{s.now.Add(d), s.seq, a})
}

func (s *swarm) join(p Peer, seed bool, where Where) error {
	if err := s.step(Event{Kind: PeerJoined, Peer: p, Seed: seed, Serves: true, Where: where}); err != nil {
		return err
	}
	return s.step(Event{Kind: PollOpened, Peer: p, Free: enough})
}

// arrived enters bytes of a piece, has says whether all of a span are there.
func (s *swarm) arrived(at pieceAt, span dragonfly.Span) {
	if s.got[at] == nil {
		s.got[at] = &arrival{}
	}
	s.got[at].here(span)
}

func (s *swarm) has(at pieceAt, span dragonfly.Span) bool {
	return s.held[at] || s.got[at] != nil && s.got[at].covered(span)
}

// run plays until nothing is in work.
func (s *swarm) run() error {
	for s.queue.Len() > 0 {
		for len(s.depart) > 0 {
			p := s.depart[0]
			s.depart = s.depart[1:]
			if err := s.step(Event{Kind: PeerLeft, Peer: p}); err != nil {
				return err
			}
		}
		d := heap.Pop(&s.queue).(deed)
		a := d.a
		if s.work[a.Assignment] != a {
			continue
		}
		s.now = d.at
		if a.Parent != Source && !s.has(pieceAt{a.Parent, a.Task, a.Piece}, a.Span) {
			s.later(a, s.hop)
			continue
		}
		delete(s.work, a.Assignment)
		at := pieceAt{a.Peer, a.Task, a.Piece}
		kind, reason, offset := Received, dragonfly.FailReason(""), int64(0)
		if s.outcome != nil {
			reason = s.outcome(a)
		}
		if reason == dragonfly.FailMismatch {
			kind, offset = Failed, int64(a.Piece)*mib
			delete(s.got, at)
		} else if reason != "" {
			kind, offset = Failed, a.Span.From+a.Span.Len()/2/dragonfly.BlockLen*dragonfly.BlockLen
			s.arrived(at, dragonfly.Span{From: a.Span.From, To: offset})
		} else if s.arrived(at, a.Span); s.has(at, dragonfly.Span{From: int64(a.Piece) * mib, To: int64(a.Piece+1) * mib}) {
			kind = Verified
			delete(s.got, at)
			s.held[at] = true
			if a.Peer != s.seed {
				s.left--
			}
		}
		switch {
		case reason != "":
		case a.Parent == Source:
			s.source++
		case a.Parent == s.seed:
			s.seedOut++
		}
		for _, ev := range []Event{
			{Kind: kind, Peer: a.Peer, Task: a.Task, Piece: a.Piece, Assignment: a.Assignment, Reason: reason, Offset: offset},
			{Kind: PollClosed, Peer: a.Peer},
			{Kind: PollOpened, Peer: a.Peer, Free: enough},
		} {
			if err := s.step(ev); err != nil {
				return err
			}
		}
	}
	return nil
}

// everybody lets peers 2 to n+1 want a task of so many pieces at once.
func (s *swarm) everybody(n, pieces int) error {
	if err := s.join(s.seed, true, Where{Host: "seed"}); err != nil {
		return err
	}
	evs := []Event{
		{Kind: TaskOpened, Task: 1, Layout: dragonfly.Layout{Length: int64(pieces) * mib, PieceLen: mib}},
		{Kind: Holding, Peer: s.seed, Task: 1},
	}
	for _, ev := range evs {
		if err := s.step(ev); err != nil {
			return err
		}
	}
	for i := range n {
		p := Peer(i + 2)
		where := Where{Host: fmt.Sprint("h", i), Rack: fmt.Sprint("r", i/40), Zone: fmt.Sprint("z", i/2000)}
		if err := s.join(p, false, where); err != nil {
			return err
		}
		if err := s.step(Event{Kind: Wanted, Peer: p, Task: 1, Serves: true}); err != nil {
			return err
		}
	}
	s.left += n * pieces
	return nil
}

// TestSwarm: a hundred peers that want the same at once all get it, the source
// is read once, and the seed's uplink carries each byte about once.
func TestSwarm(t *testing.T) {
	s := newSwarm(Config{Seed: 7, Units: 1})
	s.observe = func() error {
		if s.events%50 == 0 {
			return s.m.Check()
		}
		return nil
	}
	const peers, pieces = 100, 64
	if err := s.everybody(peers, pieces); err != nil {
		t.Fatal(err)
	}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if s.left != 0 {
		t.Errorf("%d pieces did not arrive", s.left)
	}
	if s.source != pieces {
		t.Errorf("%d pieces were read from the source, want each once: %d", s.source, pieces)
	}
	if s.seedOut > 3*pieces {
		t.Errorf("%d pieces left the seed, want about %d", s.seedOut, pieces)
	}
	t.Logf("%d peers, %d pieces: seed sent %.2f × the content, %d events, %v", peers, pieces,
		float64(s.seedOut)/pieces, s.events, time.Duration(s.now))
}

// TestSwarmLarge is the same at a size where parents are sampled. The books
// are compared at the end only.
func TestSwarmLarge(t *testing.T) {
	s := newSwarm(Config{Seed: 7, Units: 1})
	const peers, pieces = 1000, 48
	if err := s.everybody(peers, pieces); err != nil {
		t.Fatal(err)
	}
	s.observe = func() error {
		if s.events%10_000 == 0 {
			return s.m.Check()
		}
		return nil
	}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if s.left != 0 || s.source != pieces {
		t.Errorf("%d pieces did not arrive, %d were read from the source", s.left, s.source)
	}
	t.Logf("%d peers, %d pieces: seed sent %.2f × the content, %d events, %v", peers, pieces,
		float64(s.seedOut)/pieces, s.events, time.Duration(s.now))
}

// TestSwarmOfTrouble: connections break, peers leave, two peers send bad pieces.
// The others get everything, the two are found, nobody else is judged, and the
// source is read once.
func TestSwarmOfTrouble(t *testing.T) {
	for seed := range uint64(5) {
		s := newSwarm(Config{Seed: seed, Units: 1})
		const peers, pieces = 80, 40
		if err := s.everybody(peers, pieces); err != nil {
			t.Fatal(err)
		}
		luck := rand.New(rand.NewPCG(seed, 1))
		liars := []Peer{5, 17}
		departed := map[Peer]bool{}
		s.outcome = func(a Action) dragonfly.FailReason {
			switch {
			case slices.Contains(liars, a.Parent):
				return dragonfly.FailMismatch
			case a.Parent != Source && luck.IntN(100) == 0:
				return dragonfly.FailReset
			}
			return ""
		}
		s.observe = func() error {
			if s.events%1000 == 0 && len(departed) < 20 {
				if p := Peer(20 + luck.IntN(peers-20)); !departed[p] {
					departed[p] = true
					for id, a := range s.work {
						if a.Peer == p {
							delete(s.work, id)
						}
					}
					for n := range dragonfly.PieceNum(pieces) {
						if !s.held[pieceAt{p, 1, n}] {
							s.left--
						}
						s.held[pieceAt{p, 1, n}] = false
					}
					s.depart = append(s.depart, p)
				}
			}
			if s.events%500 == 0 {
				return s.m.Check()
			}
			return nil
		}
		if err := s.run(); err != nil {
			t.Fatal(err)
		}
		if s.left != 0 || s.source != pieces {
			for m := range s.m.Members(1) {
				if m.Wants && m.Held < pieces {
					t.Logf("%+v", m)
				}
			}
			t.Errorf("seed %d: %d pieces did not arrive, %d were read from the source", seed, s.left, s.source)
		}
		for _, p := range liars {
			if !s.judged[p] {
				t.Errorf("seed %d: liar %d was not found", seed, p)
			}
			delete(s.judged, p)
		}
		if len(s.judged) > 0 {
			t.Errorf("seed %d: quarantined for nothing: %v", seed, s.judged)
		}
		t.Logf("seed %d: %+v, seed sent %.2f × the content", seed, s.m.Counts(), float64(s.seedOut)/pieces)
	}
}

// TestSwarmOnePiece: of the only piece everybody gets parts from several
// parents, and nobody serves more than its share.
func TestSwarmOnePiece(t *testing.T) {
	const units = 8 // of at least 128 KiB
	s := newSwarm(Config{Seed: 7})
	const peers = 500
	if err := s.everybody(peers, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.m.Check(); err != nil {
		t.Fatal(err)
	}
	parts, deepest, load := 0, 0, map[int]int{}
	for _, m := range s.m.tasks[1].members {
		for _, ar := range m.arrivals {
			parts += len(ar.work)
			for _, a := range ar.work {
				deepest = max(deepest, a.depth)
			}
		}
		load[len(m.p.children)]++
	}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if s.left != 0 || s.source != units || s.seedOut > 2*units {
		t.Errorf("%d pieces did not arrive, %d parts were read from the source, %d left the seed", s.left, s.source, s.seedOut)
	}
	t.Logf("%d parts for %d peers, %d hops, peers by load: %v", parts, peers, deepest, load)
}

func benchmarkStep(b *testing.B, peers, pieces int) {
	b.ReportAllocs()
	events := 0
	for b.Loop() {
		s := newSwarm(Config{Seed: 7})
		if err := s.everybody(peers, pieces); err != nil {
			b.Fatal(err)
		}
		if err := s.run(); err != nil {
			b.Fatal(err)
		}
		if s.left != 0 {
			b.Fatalf("%d pieces did not arrive", s.left)
		}
		events += s.events
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
	b.ReportMetric(float64(events)/float64(b.N), "events/op")
}

func BenchmarkStep1000(b *testing.B)  { benchmarkStep(b, 1000, 256) }
func BenchmarkStep10000(b *testing.B) { benchmarkStep(b, 10_000, 256) }
