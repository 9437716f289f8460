// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"
	"time"

	"dragonfly/sched"
)

// Result is what came of a scenario.
type Result struct {
	Scenario string `json:"scenario"`
	Peers    int    `json:"peers"`
	Pieces   int    `json:"pieces"`

	// Bound is the least time in which the healthy peers could all have the
	// content: the largest of F/s, F/d and N·F/(s+Σu), where the content has F
	// bytes, the seed's uplink s, the N healthy peers downlinks d and uplinks u.
	Bound time.Duration `json:"bound"`
	// Of the healthy peers, each from its own arrival, as ratios to its own
	// bound: F/d, or what is left of the swarm's when it comes, if that is more.
	Slowest float64 `json:"slowest"`
	P99     float64 `json:"p99"`
	Median  float64 `json:"median"`
	// Unfinished healthy peers.
	Unfinished int `json:"unfinished"`

	SeedEgress   float64 `json:"seedEgress"`   // ÷ F
	SourceEgress float64 `json:"sourceEgress"` // ÷ F
	Crossed      float64 `json:"crossed"`      // bytes between zones ÷ F
	Twice        float64 `json:"twice"`        // bytes that came again ÷ all that were wanted

	Time    time.Duration `json:"time"`    // virtual
	Events  uint64        `json:"events"`  // of the machine
	Reports float64       `json:"reports"` // a second, of virtual time
	Quantum int64         `json:"quantum"`

	Mismatches  int          `json:"mismatches"` // bad pieces thrown away
	Liars       int          `json:"liars"`
	Found       int          `json:"found"` // liars quarantined or isolated
	Quarantined int          `json:"quarantined"`
	Isolated    int          `json:"isolated"`
	Innocent    int          `json:"innocent"` // verdicts against peers that did nothing wrong
	Counts      sched.Counts `json:"counts"`
}

// bounds are the least times that links allow.
type bounds struct {
	alone time.Duration // F/d
	swarm time.Duration // the largest of all three
}

// bound is that of the healthy peers, numbered from 0.
func (w *world) bound(healthy []int) bounds {
	f := float64(w.length())
	total := 1 / w.hosts[seed].perByte
	for _, i := range healthy {
		total += 1 / w.hosts[i+2].perByte
	}
	alone := f * perByte(w.Down)
	swarm := max(alone, f*w.hosts[seed].perByte, float64(len(healthy))*f/total)
	return bounds{time.Duration(alone), time.Duration(swarm)}
}

func (w *world) result() Result {
	f := float64(w.length())
	r := Result{
		Scenario: w.Name, Peers: w.Peers, Pieces: w.Pieces, Bound: w.bounds.swarm, Unfinished: w.left,
		SeedEgress: float64(w.hosts[seed].egress) / f, SourceEgress: float64(w.hosts[source].egress) / f, Crossed: float64(w.crossed) / f,
		Time: time.Duration(w.now), Events: w.machine.Counts().Steps, Reports: float64(w.reports) / max(1e-9, time.Duration(w.now).Seconds()),
		Quantum: w.Quantum, Mismatches: w.mismatches, Quarantined: w.quarantined, Isolated: w.isolated, Innocent: w.innocent,
		Counts: w.machine.Counts(),
	}
	var ratios []float64
	twice := int64(0)
	for i := range w.hosts[2:] {
		h := &w.hosts[i+2]
		twice += h.twice
		if h.lies {
			r.Liars++
			if h.judged {
				r.Found++
			}
		}
		if !h.healthy() {
			continue
		}
		done := h.done
		if done == 0 {
			done = w.now
		}
		own := max(w.bounds.alone, w.bounds.swarm-time.Duration(h.arrived))
		ratios = append(ratios, float64(done-h.arrived)/float64(own))
	}
	r.Twice = float64(twice) / (f * float64(w.Peers))
	slices.Sort(ratios)
	if n := len(ratios); n > 0 {
		r.Slowest, r.P99, r.Median = ratios[n-1], ratios[(n-1)*99/100], ratios[n/2]
	}
	return r
}
