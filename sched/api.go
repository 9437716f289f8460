// SPDX-License-Identifier: Apache-2.0

// Package sched decides who fetches what from whom. A Machine is a pure value:
// Step takes the time and one event and returns actions, Next says when it
// wants to be stepped without one. It does no I/O, knows no clock, starts no
// goroutine, takes no lock, draws randomness only from its own seed and never
// decides by map order: the same events always give the same actions, so a run
// can be recorded, replayed and simulated.
//
// Invariants: no assignment to a parent that neither holds nor receives the
// span; no cycle among receivers; loads within limits; every waiting peer has
// a reason out of the closed list Reason; nothing is lost when a parent leaves
// while a copy or the source exists.
package sched

import (
	"time"

	"dragonfly"
)

// Instant is monotonic time in nanoseconds since an epoch of the caller's.
type Instant int64

// Add returns i + d.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Peer and Task are handles given by the caller, never used twice. A Task is
// one version of one task's content. Source is the parent that stands for the
// source of any task.
type (
	Peer uint32
	Task uint32
)

// Source as a parent: the origin itself. Real peers are numbered from 1.
const Source Peer = 0

// Config are the limits of the scheduler; the zero value of a field means its
// default.
type Config struct {
	Down        int           // pieces of one task in work at a peer: 4 (FAQ: sequence of distribution)
	Up          int           // children that a peer serves at once: 5 (v1 peerUpLimit)
	SeedUp      int           // children that the seed serves at once in each task: 4 (v1-protocol 11.1)
	SourceDown  int           // source pieces in work at the seed per task: 4
	Units       int           // that a task has at least, its pieces parted where they are fewer, as far as they are long enough: 128; 1: pieces are not parted
	Elimination int           // transport failures by different hosts that put a parent on the global blacklist: 5 (v1 eliminationLimit)
	Failures    int           // consecutive failures with peers after which a child isolates itself: 5 (v1 failureCountLimit)
	Ack         time.Duration // an assignment not acknowledged for this long returns to the pool: 2 s
	Silent      time.Duration // no open sync: no new assignments: 3 s
	Gone        time.Duration // no open sync: out of the books: 10 s
	Kept        time.Duration // state kept for a cheap return after Gone: 3 min
	Ramp        time.Duration // a newcomer to a crowd gets one span at a time for so long: 20 ms; below 0: not at all
	Probation   time.Duration // blacklists, quarantine and isolation end: 1 min, doubled each time
	Seed        uint64        // of the machine's own PCG
}

// EventKind says what an Event is about.
type EventKind uint8

const (
	PeerJoined   EventKind = iota + 1 // Peer, Where, Up (0 = Config), Serves, Seed, Whole
	PeerLeft                          // Peer: closed its session
	PollOpened                        // Peer has an open sync; Free is what it would take beside what it acknowledged
	PollClosed                        // Peer's sync was answered or broke
	TaskOpened                        // Task, Layout (unknown length allowed); its source is open
	TaskEnded                         // Task: forget it
	LengthKnown                       // Task, Layout
	SourceClosed                      // Task: the source gives nothing until SourceOpened
	SourceOpened                      // Task
	Wanted                            // Peer wants Task, or of it Want and what it wanted before; Held is what it has; Slots (0 = Config.Down); Serves
	Holding                           // Peer only serves Task; Held. Of the seed: it reads the source for others from now on
	Stopped                           // Peer wants Task no more, serves on
	Dropped                           // Peer neither wants nor holds Task
	Position                          // Peer reads Task at Piece next: it goes before rarer ones
	Acked                             // Assignment was received by Peer
	Verified                          // Peer holds Piece of Task; ends Assignment if not 0
	Received                          // Peer has all bytes of Assignment's span, not verified
	Failed                            // Assignment failed for Reason; bytes up to Offset are there
	Lost                              // Peer holds Piece no more
	Intact                            // Peer re-verified Piece
	Tick                              // nothing happened but time
)

// Event is one thing that happened. Which fields count depends on Kind.
type Event struct {
	Kind       EventKind
	Peer       Peer
	Task       Task
	Piece      dragonfly.PieceNum
	Assignment dragonfly.AssignmentID
	Reason     dragonfly.FailReason
	Offset     int64 // in the content
	Layout     dragonfly.Layout
	Held       dragonfly.PieceSet
	Want       dragonfly.PieceSet // empty: all
	Where      Where
	Up         int
	Slots      int
	Free       int
	Serves     bool
	Seed       bool
	Whole      bool // the peer knows whole pieces only (v1): it gets them in one span from holders and serves what it holds
}

// Where places a peer. Host decides what counts as "different hosts" for
// charges; the supernode takes it from the accepted address.
type Where struct{ Host, Rack, Zone string }

// ActionKind says what an Action asks for.
type ActionKind uint8

const (
	Assign      ActionKind = iota + 1 // Peer fetches Span of Piece of Task from Parent under Assignment
	Cancel                            // Peer drops Assignment
	Reverify                          // ask Peer whether Piece of Task is still good
	Quarantined                       // Peer serves nobody until Released; Why
	Isolated                          // Peer gets from the seed only and serves nobody; Why
	Released                          // Peer is back in the books
	Exhausted                         // Task: a peer waits, no copy, no source: the caller decides
	Forgotten                         // Peer did not listen for Gone + Kept: it left, its handle is dead
)

// Action is one thing for the caller to do.
type Action struct {
	Kind       ActionKind
	Peer       Peer
	Task       Task
	Piece      dragonfly.PieceNum
	Span       dragonfly.Span // content offsets
	Parent     Peer           // Source, or a peer
	Assignment dragonfly.AssignmentID
	More       bool // of the source: the piece after it is wanted from there, too
	Why        string
}

// Reason is why a waiting peer waits: a closed list, shown by the supernode's
// JSON state.
type Reason string

const (
	WaitNothing    Reason = ""                  // it does not wait
	WaitSlots      Reason = "own-slots"         // all its slots are in work
	WaitSource     Reason = "source"            // the seed still reads the source
	WaitParents    Reason = "parents-busy"      // all holders are at their limit
	WaitBlacklist  Reason = "blacklist"         // the only holders are on its blacklist
	WaitIsolated   Reason = "isolated"          // it gets from the seed only, and the seed is busy
	WaitSilent     Reason = "no-open-sync"      // it does not listen
	WaitClosed     Reason = "source-closed"     // the source is over its budget or failed
	WaitFree       Reason = "receive-queue"     // its receive queue is full
	WaitUnverified Reason = "awaiting-manifest" // all bytes are here, digests are not
	WaitPause      Reason = "pause"             // it could not write, or gave up by itself, a moment ago
)
