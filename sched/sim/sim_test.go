// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// small scenarios, each with the machine's invariants compared on the way.
var small = []struct {
	Scenario
	slowest float64 // at most
	seed    float64 // egress ÷ F at most
}{
	{Scenario{Name: "one peer", Peers: 1, Pieces: 8}, 1.05, 1},
	{Scenario{Name: "crowd", Peers: 40, Pieces: 48}, 1.12, 1.1},
	{Scenario{Name: "warm", Peers: 40, Pieces: 48, Warm: true}, 1.12, 1.1},
	{Scenario{Name: "few pieces", Peers: 32, Pieces: 8}, 1.1, 1.1},
	{Scenario{Name: "one piece", Peers: 200, Pieces: 1}, 1.25, 1.2},
	{Scenario{Name: "five pieces", Peers: 100, Pieces: 5}, 1.1, 1.1},
	{Scenario{Name: "arrivals", Peers: 40, Pieces: 48, Arrive: 20 * time.Second}, 1.15, 1.5},
	{Scenario{Name: "company", Peers: 40, Pieces: 48, Company: 20 * time.Millisecond}, 1.1, 1.1},
	{Scenario{Name: "leave", Peers: 40, Pieces: 48, Leave: 0.2}, 1.3, 2},
	{Scenario{Name: "vanish", Peers: 40, Pieces: 48, Vanish: 0.1}, 1.6, 2},
	{Scenario{Name: "slow", Peers: 40, Pieces: 48, Slow: 0.1}, 2.4, 2},
	{Scenario{Name: "lie", Peers: 40, Pieces: 48, Lie: 0.05}, 1.6, 3},
	{Scenario{Name: "zones", Peers: 40, Pieces: 48, Zones: 4, ZoneLink: 200 * Mbit}, 1.4, 1.5},
	{Scenario{Name: "mixed", Peers: 40, Pieces: 48, Up: []dragonfly.Rate{10 * Mbit, 100 * Mbit, 1000 * Mbit},
		Down: 1000 * Mbit, SeedUp: 1000 * Mbit, SeedDown: 1000 * Mbit}, 1.8, 4},
}

// TestScenarios: every healthy peer gets the content, the source sends it once,
// nobody who did nothing wrong is judged, and liars are found.
func TestScenarios(t *testing.T) {
	for _, c := range small {
		t.Run(c.Name, func(t *testing.T) {
			s := c.Scenario
			s.Seed, s.Check = 3, 1000
			r, err := Run(s)
			if err != nil {
				t.Fatal(err)
			}
			if missed := all(r); len(missed) > 0 {
				t.Errorf("%v", missed)
			}
			if r.Slowest > c.slowest || r.Median < 1 {
				t.Errorf("times ÷ bound: slowest %.3f, median %.3f; want at most %.2f, at least 1", r.Slowest, r.Median, c.slowest)
			}
			if r.SeedEgress > c.seed || r.SourceEgress > 1 && !s.Warm {
				t.Errorf("the seed sent %.2f × the content, the source %.2f ×; want at most %.2f and 1", r.SeedEgress, r.SourceEgress, c.seed)
			}
			if r.Found < r.Liars {
				t.Errorf("%d of %d liars found", r.Found, r.Liars)
			}
			t.Logf("times ÷ bound: slowest %.3f; the seed sent %.2f × the content", r.Slowest, r.SeedEgress)
		})
	}
}

// TestReproducible: the same scenario gives the same events and figures.
func TestReproducible(t *testing.T) {
	var events [2][]sched.Event
	var results [2]Result
	for i := range events {
		s := Scenario{Name: "twice", Peers: 30, Pieces: 16, Vanish: 0.1, Lie: 0.1, Seed: 9}
		s.Record = func(_ sched.Instant, ev sched.Event) { events[i] = append(events[i], ev) }
		var err error
		if results[i], err = Run(s); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(results[0], results[1]) {
		t.Errorf("results differ:\n%+v\n%+v", results[0], results[1])
	}
	if !reflect.DeepEqual(events[0], events[1]) {
		t.Error("events differ")
	}
}

// TestLinks: one peer takes as long as its link says: nothing is lost or made
// up by the model.
func TestLinks(t *testing.T) {
	for _, c := range []struct {
		up, down dragonfly.Rate
		want     time.Duration
	}{
		{100 * Mbit, 100 * Mbit, 2684 * time.Millisecond},
		{100 * Mbit, 10 * Mbit, 26844 * time.Millisecond},
		{10 * Mbit, 100 * Mbit, 26844 * time.Millisecond},
	} {
		r, err := Run(Scenario{Peers: 1, Pieces: 8, Warm: true, Down: c.down, SeedUp: c.up, SeedDown: 100 * Mbit})
		if err != nil {
			t.Fatal(err)
		}
		if r.Time < c.want || r.Time > c.want+c.want/100+20*time.Millisecond {
			t.Errorf("up %d, down %d: took %v, want %v", c.up, c.down, r.Time, c.want)
		}
	}
}

// TestQueue: events come out in the order of their times, those of the same
// time in the order in which they were planned.
func TestQueue(t *testing.T) {
	var q queue
	times := []sched.Instant{5, 3, 9, 3, 3, 1, 9, 0, 7, 5}
	for i, at := range times {
		q.push(event{at: at, who: int32(i)})
	}
	var got []int32
	for len(q.heap) > 0 {
		got = append(got, q.pop().who)
	}
	if want := []int32{7, 5, 1, 3, 4, 0, 9, 8, 2, 6}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestNonsense: a scenario that makes no sense is refused with what to do.
func TestNonsense(t *testing.T) {
	for _, s := range []Scenario{
		{Peers: -1}, {Pieces: -1}, {Zones: 2, Peers: 1}, {PieceLen: 1000}, {Quantum: 5000}, {Quantum: 2048}, {Down: -1}, {Up: []dragonfly.Rate{0}},
	} {
		if _, err := Run(s); err == nil {
			t.Errorf("%+v was played", s)
		}
	}
}

// TestGoals: each goal complains about a result that misses it.
func TestGoals(t *testing.T) {
	for _, g := range Goals() {
		bad := Result{Slowest: 9, P99: 9, Crossed: 99, SeedEgress: 9, Liars: 1}
		if len(g.Missed(bad)) == 0 {
			t.Errorf("%s: nothing missed by %+v", g.Name, bad)
		}
		if missed := g.Missed(Result{Slowest: 1, P99: 1, Crossed: 3, SeedEgress: 1}); len(missed) > 0 {
			t.Errorf("%s: %v", g.Name, missed)
		}
		if _, err := g.withDefaults(); err != nil {
			t.Error(err)
		}
	}
}
