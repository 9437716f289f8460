// SPDX-License-Identifier: Apache-2.0

// Package sim plays swarms in virtual time: the real scheduler, and peers,
// links and a source that are made up. It is as pure as the scheduler: no
// clock, no goroutine, one seeded generator, so a run is reproducible from its
// Scenario alone.
//
// Links carry quanta of a few KiB in turn. A host's uplink takes one quantum
// of each of its streams that has something to send, a downlink takes quanta
// as they come, a stream never has more than a window of them under way. This
// approaches max-min fair shares; what it adds to a fluid model is at most one
// quantum's time per stream of a link at each hop, so it errs on the slow side.
// The seed reads one stream of the source, in order.
// A quantum is sent on as soon as it is there (cut-through), hence invariant: a
// child is never ahead of its parent. Reports and work reach the other side
// after the latency, and a peer has at most two reports open, as in reality.
package sim

import (
	"fmt"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// Mbit is a rate of a million bits per second.
const Mbit = dragonfly.Rate(1_000_000 / 8)

// Scenario is a swarm to play. The zero value of a field means its default.
type Scenario struct {
	Name     string
	Peers    int   // that download, beside the seed: 32
	Pieces   int   // of the content: 256
	PieceLen int64 // bytes, a multiple of 64 KiB: 4 MiB

	Up       []dragonfly.Rate // uplinks, drawn for each peer with equal chances: 100 Mbit/s
	Down     dragonfly.Rate   // of each peer: 100 Mbit/s
	SeedUp   dragonfly.Rate   // 100 Mbit/s
	SeedDown dragonfly.Rate   // from the source: 100 Mbit/s
	Latency  time.Duration    // of each hop, data and control: 1 ms
	Zones    int              // peers are in turns in one of these; the seed is in the first: 1
	ZoneLink dragonfly.Rate   // into and out of each zone; 0: no limit

	Warm    bool          // the seed holds the content when the peers come
	Arrive  time.Duration // the peers come at random within it: all at once
	Company time.Duration // a report of a peer that has work waits so long for others: 0

	// Shares of the peers, each between 0 and 1. A peer is only one of these.
	Vanish float64 // stop saying anything, at random within the time that the content takes
	Leave  float64 // close their sessions, likewise
	Slow   float64 // have a tenth of the rates
	Lie    float64 // send garbage

	Stall   time.Duration // a parent may send nothing for this long: 5 s
	Quantum int64         // bytes, a power of two from 4 KiB to 64 KiB; 0: as fine as 20 million of them allow
	Limit   time.Duration // of virtual time: 20 times the bound, at least a minute
	Check   int           // the machine's invariants are compared each so many events; 0: never
	Seed    uint64        // of all that is drawn
	Sched   sched.Config
	// Record is given every event before the machine is; it may be nil.
	Record func(sched.Instant, sched.Event)
}

const (
	minQuantum = 4 << 10
	maxQuanta  = 20_000_000
	maxPeers   = 1 << 20
	maxPieces  = 1 << 20
)

// withDefaults fills in what was left open.
func (s Scenario) withDefaults() (Scenario, error) {
	if s.Peers == 0 {
		s.Peers = 32
	}
	if s.Pieces == 0 {
		s.Pieces = 256
	}
	if s.PieceLen == 0 {
		s.PieceLen = 4 << 20
	}
	if len(s.Up) == 0 {
		s.Up = []dragonfly.Rate{100 * Mbit}
	}
	for _, r := range []*dragonfly.Rate{&s.Down, &s.SeedUp, &s.SeedDown} {
		if *r == 0 {
			*r = 100 * Mbit
		}
	}
	for _, r := range append([]dragonfly.Rate{s.Down, s.SeedUp, s.SeedDown}, s.Up...) {
		if r <= 0 {
			return s, fmt.Errorf("scenario %q: a link of %d bytes per second: give it a positive rate", s.Name, r)
		}
	}
	if s.Latency == 0 {
		s.Latency = time.Millisecond
	}
	if s.Zones == 0 {
		s.Zones = 1
	}
	if s.Stall == 0 {
		s.Stall = 5 * time.Second
	}
	if s.Peers < 1 || s.Peers > maxPeers || s.Pieces < 1 || s.Pieces > maxPieces || s.Zones < 1 || s.Zones > s.Peers {
		return s, fmt.Errorf("scenario %q: %d peers, %d pieces, %d zones: want 1 to %d peers and pieces, no more zones than peers",
			s.Name, s.Peers, s.Pieces, s.Zones, maxPeers)
	}
	if s.PieceLen < dragonfly.BlockLen || s.PieceLen%dragonfly.BlockLen != 0 || s.PieceLen > 64<<20 {
		return s, fmt.Errorf("scenario %q: pieces of %d bytes: want a multiple of %d, at most 64 MiB", s.Name, s.PieceLen, dragonfly.BlockLen)
	}
	if s.Quantum == 0 {
		s.Quantum = minQuantum
		for s.Quantum < dragonfly.BlockLen && int64(s.Peers)*s.length()/s.Quantum > maxQuanta {
			s.Quantum *= 2
		}
	}
	if s.Quantum < minQuantum || s.Quantum > dragonfly.BlockLen || s.Quantum&(s.Quantum-1) != 0 {
		return s, fmt.Errorf("scenario %q: a quantum of %d bytes: want a power of two from %d to %d", s.Name, s.Quantum, minQuantum, dragonfly.BlockLen)
	}
	return s, nil
}

func (s Scenario) length() int64 { return int64(s.Pieces) * s.PieceLen }
