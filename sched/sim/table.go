// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"time"

	"dragonfly"
)

// Goal is a scenario with what is asked of the scheduler in it.
type Goal struct {
	Scenario
	Want   string                  // in words
	Missed func(r Result) []string // what of it was not reached; empty: nothing
}

// atMost complains where a figure is above its limit.
func atMost(name string, got, limit float64) []string {
	if got <= limit {
		return nil
	}
	return []string{fmt.Sprintf("%s %.3f, want at most %.2f", name, got, limit)}
}

func slowest(limit float64) func(Result) []string {
	return func(r Result) []string { return append(atMost("slowest", r.Slowest, limit), all(r)...) }
}

// all complains about healthy peers that did not finish and about verdicts
// against the innocent, which no scenario allows.
func all(r Result) (out []string) {
	if r.Unfinished > 0 {
		out = append(out, fmt.Sprintf("%d healthy peers did not finish", r.Unfinished))
	}
	if r.Innocent > 0 {
		out = append(out, fmt.Sprintf("%d verdicts against peers that did nothing wrong", r.Innocent))
	}
	return out
}

// Goals are the scenarios that the scheduler is tuned against.
func Goals() []Goal {
	var out []Goal
	add := func(s Scenario, want string, missed func(Result) []string) {
		out = append(out, Goal{s, want, missed})
	}
	for _, n := range []int{10, 100, 1000, 10_000} {
		add(Scenario{Name: fmt.Sprint("crowd-", n), Peers: n}, "slowest ≤ 1.10", slowest(1.10))
	}
	add(Scenario{Name: "few-pieces", Peers: 32, Pieces: 8}, "slowest ≤ 1.10", slowest(1.10))
	add(Scenario{Name: "one-piece", Peers: 1000, Pieces: 1}, "slowest ≤ 1.30", slowest(1.30))
	add(Scenario{Name: "mixed", Peers: 200, Up: []dragonfly.Rate{10 * Mbit, 100 * Mbit, 1000 * Mbit},
		Down: 1000 * Mbit, SeedUp: 1000 * Mbit, SeedDown: 1000 * Mbit}, "slowest ≤ 1.25", slowest(1.25))
	add(Scenario{Name: "arrivals", Peers: 200, Arrive: fileTime}, "p99 ≤ 1.15",
		func(r Result) []string { return append(atMost("p99", r.P99, 1.15), all(r)...) })
	add(Scenario{Name: "trouble", Peers: 400, Vanish: 0.05, Slow: 0.05, Lie: 0.01}, "slowest ≤ 1.35, liars found", func(r Result) []string {
		out := slowest(1.35)(r)
		if r.Found < r.Liars {
			out = append(out, fmt.Sprintf("%d of %d liars found", r.Found, r.Liars))
		}
		return out
	})
	add(Scenario{Name: "zones", Peers: 80, Zones: 4, ZoneLink: 200 * Mbit}, "crossed ≤ 3.6 F",
		func(r Result) []string { return append(atMost("crossed", r.Crossed, 1.2*3), all(r)...) })
	add(Scenario{Name: "fast-seed", Peers: 100, SeedUp: 400 * Mbit, SeedDown: 400 * Mbit}, "seed ≤ 1.5 F",
		func(r Result) []string { return append(atMost("seed egress", r.SeedEgress, 1.5), all(r)...) })
	return out
}

// fileTime is what 256 pieces of 4 MiB take at 100 Mbit/s.
const fileTime = 256 * (4 << 20) * time.Second / time.Duration(100*Mbit)
