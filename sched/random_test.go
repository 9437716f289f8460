// SPDX-License-Identifier: Apache-2.0

package sched

import (
	order "cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"dragonfly"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// chaos draws events, sensible ones and others, for a small swarm. It knows
// what was assigned, so that most answers are about something.
type chaos struct {
	m, twin *Machine // the twin is observed, which must change nothing
	told    []Action // by the twin, in this step
	now     Instant
	work    []Action
	joined  []Peer // 1 is the seed while it is there
	seed    Peer
	last    Peer
}

const chaosTasks = 2

var reasons = []dragonfly.FailReason{
	dragonfly.FailRefused, dragonfly.FailReset, dragonfly.FailStalled, dragonfly.FailUnknown, dragonfly.FailVersion,
	dragonfly.FailIdentity, dragonfly.FailMismatch, dragonfly.FailMismatch, dragonfly.FailSource, dragonfly.FailStore, dragonfly.FailCanceled,
}

func (c *chaos) step(t *rapid.T, ev Event) {
	t.Helper()
	got := c.m.Step(c.now, ev, nil)
	if err := c.m.Check(); err != nil {
		t.Fatalf("after %+v: %v: %v", ev, got, err)
	}
	c.told = c.told[:0]
	if other := c.twin.Step(c.now, ev, nil); !slices.Equal(got, other) {
		t.Fatalf("after %+v the same machine decides otherwise:\n%s", ev, cmp.Diff(got, other))
	}
	if !slices.Equal(inOrder(got), inOrder(c.told)) {
		t.Fatalf("after %+v the observer was told otherwise:\n%s", ev, cmp.Diff(got, c.told))
	}
	for _, a := range got {
		switch a.Kind {
		case Forgotten:
			c.gone(a.Peer)
		case Assign:
			c.work = append(c.work, a)
		case Cancel:
			// Sometimes the peer hears of it late: keep a few.
			c.work = slices.DeleteFunc(c.work, func(w Action) bool { return w.Assignment == a.Assignment && w.Assignment%5 != 0 })
		}
	}
}

// inOrder sorts actions: an observer hears those with a reason of their own last.
func inOrder(actions []Action) []Action {
	return slices.SortedFunc(slices.Values(actions), func(a, b Action) int {
		return order.Or(order.Compare(a.Kind, b.Kind), order.Compare(a.Assignment, b.Assignment), order.Compare(a.Peer, b.Peer), order.Compare(a.Piece, b.Piece))
	})
}

func (c *chaos) peer(t *rapid.T) Peer {
	if len(c.joined) == 0 {
		return 0
	}
	return rapid.SampledFrom(c.joined).Draw(t, "peer")
}

func (c *chaos) join(t *rapid.T, seed bool) {
	c.last++
	c.joined = append(c.joined, c.last)
	if seed {
		c.seed = c.last
	}
	host := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", ""}).Draw(t, "host")
	c.step(t, Event{Kind: PeerJoined, Peer: c.last, Seed: seed, Serves: rapid.IntRange(0, 9).Draw(t, "serves") > 0,
		Whole: !seed && rapid.IntRange(0, 4).Draw(t, "whole") == 0,
		Up:    rapid.IntRange(0, 3).Draw(t, "up"),
		Where: Where{Host: host, Rack: rapid.SampledFrom([]string{"", "r", "q"}).Draw(t, "rack"),
			Zone: rapid.SampledFrom([]string{"", "y", "z"}).Draw(t, "zone")}})
	c.step(t, Event{Kind: PollOpened, Peer: c.last, Free: 8})
}

func (c *chaos) wait(t *rapid.T, d time.Duration) {
	end := c.now.Add(d)
	for {
		at, ok := c.m.Next()
		if !ok || at > end {
			break
		}
		c.now = max(c.now, at)
		c.step(t, Event{Kind: Tick})
	}
	c.now = end
}

func (c *chaos) gone(p Peer) {
	c.joined = slices.DeleteFunc(c.joined, func(o Peer) bool { return o == p })
	if p == c.seed {
		c.seed = 0
	}
}

func held(t *rapid.T) dragonfly.PieceSet {
	var s dragonfly.PieceSet
	for _, n := range rapid.SliceOfN(rapid.IntRange(0, 6), 0, 4).Draw(t, "held") {
		s.Add(dragonfly.PieceNum(n))
	}
	return s
}

// want is mostly nothing, which is all.
func want(t *rapid.T) dragonfly.PieceSet {
	if rapid.IntRange(0, 2).Draw(t, "all") > 0 {
		return dragonfly.PieceSet{}
	}
	return held(t)
}

// one draws and plays one event.
func (c *chaos) one(t *rapid.T) {
	task := Task(rapid.IntRange(1, chaosTasks).Draw(t, "task"))
	piece := dragonfly.PieceNum(rapid.IntRange(-1, 7).Draw(t, "piece"))
	switch rapid.IntRange(0, 39).Draw(t, "what") {
	case 0:
		if len(c.joined) < 14 {
			c.join(t, false)
		}
	case 1:
		if c.seed == 0 {
			c.join(t, true)
		}
	case 2:
		if p := c.peer(t); p != 0 && rapid.IntRange(0, 2).Draw(t, "really") == 0 {
			c.step(t, Event{Kind: PeerLeft, Peer: p})
			c.gone(p)
		}
	case 3:
		c.step(t, Event{Kind: PollClosed, Peer: c.peer(t)})
	case 4, 5, 6:
		c.step(t, Event{Kind: PollOpened, Peer: c.peer(t), Free: rapid.IntRange(0, 9).Draw(t, "free")})
	case 7:
		c.step(t, Event{Kind: SourceClosed, Task: task})
	case 8:
		c.step(t, Event{Kind: SourceOpened, Task: task})
	case 9, 10, 11:
		c.step(t, Event{Kind: Wanted, Peer: c.peer(t), Task: task, Held: held(t), Want: want(t), Serves: piece != 0, Slots: rapid.IntRange(0, 3).Draw(t, "slots")})
	case 12, 13:
		c.step(t, Event{Kind: Holding, Peer: c.peer(t), Task: task, Held: held(t)})
	case 14:
		c.step(t, Event{Kind: Stopped, Peer: c.peer(t), Task: task})
	case 15:
		c.step(t, Event{Kind: Dropped, Peer: c.peer(t), Task: task})
	case 16:
		c.step(t, Event{Kind: Position, Peer: c.peer(t), Task: task, Piece: piece})
	case 17:
		c.step(t, Event{Kind: Lost, Peer: c.peer(t), Task: task, Piece: piece})
	case 18:
		c.step(t, Event{Kind: Intact, Peer: c.peer(t), Task: task, Piece: piece})
	case 19:
		c.step(t, Event{Kind: Verified, Peer: c.peer(t), Task: task, Piece: piece})
	case 20:
		c.wait(t, time.Duration(rapid.IntRange(0, 15_000).Draw(t, "ms"))*time.Millisecond)
	case 21:
		c.step(t, Event{Kind: LengthKnown, Task: task, Layout: dragonfly.Layout{Length: int64(rapid.IntRange(0, 7*mib).Draw(t, "length")), PieceLen: mib}})
	default:
		c.answer(t)
	}
}

// answer reports something about an assignment.
func (c *chaos) answer(t *rapid.T) {
	if len(c.work) == 0 {
		return
	}
	i := rapid.IntRange(0, len(c.work)-1).Draw(t, "assignment")
	a := c.work[i]
	ev := Event{Peer: a.Peer, Task: a.Task, Piece: a.Piece, Assignment: a.Assignment}
	switch rapid.IntRange(0, 7).Draw(t, "outcome") {
	case 0, 1:
		ev.Kind = Acked
	case 2:
		ev.Kind = Received
	case 3, 4:
		ev.Kind = Failed
		ev.Reason = rapid.SampledFrom(reasons).Draw(t, "reason")
		ev.Offset = a.Span.From + rapid.Int64Range(-2, 16).Draw(t, "blocks")*dragonfly.BlockLen
		if ev.Reason == dragonfly.FailMismatch {
			ev.Offset = int64(a.Piece) * mib
		}
	default:
		ev.Kind = Verified
	}
	if ev.Kind != Acked && ev.Kind != Received {
		c.work = slices.Delete(c.work, i, i+1)
	}
	c.step(t, ev)
}

// TestRandomEvents: whatever happens, the promises of the package comment hold
// after every step, and two machines decide alike; and once it calms down,
// with a seed and a source, everybody gets everything.
func TestRandomEvents(t *testing.T) {
	var sum Counts // of all runs: a test that does nothing would be green too
	defer func() { t.Logf("%+v", sum) }()
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{Seed: rapid.Uint64().Draw(t, "seed"), Units: rapid.SampledFrom([]int{0, 1, 9}).Draw(t, "units"),
			Failures: rapid.IntRange(0, 2).Draw(t, "failures"), Elimination: rapid.IntRange(0, 2).Draw(t, "elimination")}
		c := &chaos{m: New(cfg), twin: New(cfg)}
		c.twin.Observe(func(d Decision) {
			if (d.Choice == ChoiceNone) == (d.Action.Kind == Assign || d.Action.Kind == Cancel) {
				t.Fatalf("a decision without a reason, or with two: %+v", d)
			}
			c.told = append(c.told, d.Action)
		})
		c.join(t, true)
		for range rapid.IntRange(0, 12).Draw(t, "peers") {
			c.join(t, false)
		}
		for id := range Task(chaosTasks) {
			length := rapid.SampledFrom([]int64{dragonfly.UnknownLength, 0, mib / 2, 3 * mib, 5*mib + 3}).Draw(t, "length")
			c.step(t, Event{Kind: TaskOpened, Task: id + 1, Layout: dragonfly.Layout{Length: length, PieceLen: mib}})
			c.step(t, Event{Kind: Holding, Peer: c.seed, Task: id + 1, Held: held(t)})
		}
		for range rapid.IntRange(100, 400).Draw(t, "events") {
			c.one(t)
		}
		c.calm(t)
		n := c.m.Counts()
		sum.Steps += n.Steps
		sum.FromPeers += n.FromPeers
		sum.FromSeed += n.FromSeed
		sum.FromSource += n.FromSource
		sum.Cancelled += n.Cancelled
		sum.Failed += n.Failed
		sum.Mismatched += n.Mismatched
		sum.Charged += n.Charged
		sum.Quarantined += n.Quarantined
		sum.Isolated += n.Isolated
	})
}

// calm brings everything to its end: all assignments succeed.
func (c *chaos) calm(t *rapid.T) {
	if c.seed == 0 {
		c.join(t, true)
	}
	for id := Task(1); id <= chaosTasks; id++ {
		c.step(t, Event{Kind: LengthKnown, Task: id, Layout: dragonfly.Layout{Length: 4 * mib, PieceLen: mib}})
		c.step(t, Event{Kind: SourceOpened, Task: id})
		c.step(t, Event{Kind: Holding, Peer: c.seed, Task: id})
	}
	for round := 0; ; round++ {
		for _, p := range slices.Clone(c.joined) {
			c.step(t, Event{Kind: PollOpened, Peer: p, Free: 100})
		}
		progress := false
		for _, tsk := range c.m.tasks {
			for _, m := range tsk.members {
				for _, ar := range slices.Clone(m.arrivals) {
					// What was received is verified now.
					if m.lack.has(ar.piece) && len(ar.work) == 0 && ar.covered(tsk.extent(ar.piece)) {
						c.work = append(c.work, Action{Peer: m.p.id, Task: tsk.id, Piece: ar.piece})
					}
				}
			}
		}
		work := c.work
		c.work = nil
		slices.SortFunc(work, func(a, b Action) int {
			return int(a.Assignment) - int(b.Assignment) + 100_000*(int(a.Task)-int(b.Task)) + 1000*(int(a.Piece)-int(b.Piece)) + 10*(int(a.Peer)-int(b.Peer))
		})
		for _, a := range work {
			if a.Assignment != 0 && c.m.live[a.Assignment] == nil {
				continue
			}
			c.step(t, Event{Kind: Verified, Peer: a.Peer, Task: a.Task, Piece: a.Piece, Assignment: a.Assignment})
			progress = true
		}
		lacking := 0
		for _, tsk := range c.m.tasks {
			for _, m := range tsk.members {
				lacking += m.lack.count()
			}
		}
		if lacking == 0 {
			return
		}
		if round > 2000 {
			for task := range c.m.Tasks() {
				for m := range c.m.Members(task.Task) {
					t.Logf("task %d %+v", task.Task, m)
				}
			}
			t.Fatalf("%d pieces never arrive", lacking)
		}
		if !progress {
			c.wait(t, time.Second)
		}
	}
}

// TestNamesAreForgotten: hosts, racks and zones that come and go do not fill the
// memory; a name that is in use, or that a charge stands by, keeps its number.
func TestNamesAreForgotten(t *testing.T) {
	m := New(Config{})
	step := func(ev Event) { m.Step(0, ev, nil) }
	step(Event{Kind: PeerJoined, Peer: 1, Where: Where{Host: "stays", Rack: "r", Zone: "z"}})
	step(Event{Kind: PeerJoined, Peer: 2, Where: Where{Host: "accuser"}})
	m.charge(m.peers[1], m.peers[2])
	before := []int32{m.names["stays"], m.names["accuser"], m.peers[1].rack, m.peers[1].zone}
	step(Event{Kind: PeerLeft, Peer: 2})
	for i := range Peer(20_000) {
		name := fmt.Sprint(i)
		step(Event{Kind: PeerJoined, Peer: 3 + i, Where: Where{Host: name, Rack: name, Zone: name}})
		step(Event{Kind: PeerLeft, Peer: 3 + i})
	}
	if n := len(m.names); n > 2*manyNames {
		t.Errorf("%d names", n)
	}
	step(Event{Kind: PeerJoined, Peer: 30_000, Where: Where{Host: "accuser", Rack: "r", Zone: "z"}})
	after := []int32{m.names["stays"], m.peers[30_000].host, m.peers[30_000].rack, m.peers[30_000].zone}
	if !slices.Equal(before, after) {
		t.Errorf("numbers %v, before %v", after, before)
	}
}
