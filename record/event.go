// SPDX-License-Identifier: Apache-2.0

package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"

	"dragonfly"
	"dragonfly/sched"
)

// event is a sched.Event as it is written.
type event struct {
	At         sched.Instant          `json:"t"`
	Kind       string                 `json:"k"`
	Hash       uint32                 `json:"h,omitempty"` // of the actions that came of it; 0: none did
	Peer       sched.Peer             `json:"p,omitempty"`
	Task       sched.Task             `json:"q,omitempty"`
	Piece      dragonfly.PieceNum     `json:"n,omitempty"`
	Assignment dragonfly.AssignmentID `json:"a,omitempty"`
	Reason     dragonfly.FailReason   `json:"why,omitempty"`
	Offset     int64                  `json:"off,omitempty"`
	Layout     *dragonfly.Layout      `json:"layout,omitempty"`
	Held       string                 `json:"held,omitempty"` // base64 of the bitmap
	Want       string                 `json:"want,omitempty"`
	Where      *sched.Where           `json:"where,omitempty"`
	Up         int                    `json:"up,omitempty"`
	Slots      int                    `json:"slots,omitempty"`
	Free       int                    `json:"free,omitempty"`
	Serves     bool                   `json:"serves,omitempty"`
	Seed       bool                   `json:"seed,omitempty"`
	Whole      bool                   `json:"whole,omitempty"`
}

// kinds and actionKinds are names, which outlive their numbers.
var kinds = []string{
	sched.PeerJoined: "joined", sched.PeerLeft: "left", sched.PollOpened: "poll", sched.PollClosed: "polled",
	sched.TaskOpened: "opened", sched.TaskEnded: "ended", sched.LengthKnown: "length",
	sched.SourceClosed: "source-closed", sched.SourceOpened: "source-opened",
	sched.Wanted: "wanted", sched.Holding: "holding", sched.Stopped: "stopped", sched.Dropped: "dropped", sched.Position: "position",
	sched.Acked: "acked", sched.Verified: "verified", sched.Received: "received", sched.Failed: "failed",
	sched.Lost: "lost", sched.Intact: "intact", sched.Tick: "tick",
}

var actionKinds = []string{
	sched.Assign: "assign", sched.Cancel: "cancel", sched.Reverify: "reverify", sched.Quarantined: "quarantine",
	sched.Isolated: "isolate", sched.Released: "release", sched.Exhausted: "exhausted", sched.Forgotten: "forget",
}

func lined(at sched.Instant, ev *sched.Event) *event {
	e := &event{At: at, Kind: kinds[ev.Kind], Peer: ev.Peer, Task: ev.Task, Piece: ev.Piece, Assignment: ev.Assignment,
		Reason: ev.Reason, Offset: ev.Offset, Held: written(ev.Held), Want: written(ev.Want),
		Up: ev.Up, Slots: ev.Slots, Free: ev.Free, Serves: ev.Serves, Seed: ev.Seed, Whole: ev.Whole}
	if ev.Layout != (dragonfly.Layout{}) {
		e.Layout = &ev.Layout
	}
	if ev.Where != (sched.Where{}) {
		e.Where = &ev.Where
	}
	return e
}

// written is a set as text. A set's text has no error.
func written(s dragonfly.PieceSet) string {
	text, _ := s.MarshalText()
	return string(text)
}

// event reads what lined made. It is checked: a machine believes its caller.
func (e *event) event() (sched.Event, error) {
	kind := slices.Index(kinds, e.Kind)
	ev := sched.Event{Kind: sched.EventKind(kind), Peer: e.Peer, Task: e.Task, Piece: e.Piece, Assignment: e.Assignment,
		Reason: e.Reason, Offset: e.Offset, Up: e.Up, Slots: e.Slots, Free: e.Free, Serves: e.Serves, Seed: e.Seed, Whole: e.Whole}
	var err error
	if ev.Held, err = readSet(e.Held); err != nil {
		return ev, err
	}
	if ev.Want, err = readSet(e.Want); err != nil {
		return ev, err
	}
	if e.Where != nil {
		ev.Where = *e.Where
	}
	if e.Layout != nil {
		ev.Layout = *e.Layout
	}
	l := ev.Layout
	hasLayout := ev.Kind == sched.TaskOpened || ev.Kind == sched.LengthKnown
	switch {
	case kind < 1:
		return ev, fmt.Errorf("no event is called %.20q: use the build that wrote it", e.Kind)
	case hasLayout && (l.PieceLen < 1 || l.PieceLen > maxLength || l.Length < dragonfly.UnknownLength || l.Length > maxLength || l.Pieces() > maxPieces):
		return ev, fmt.Errorf("no layout: %d bytes in pieces of %d", l.Length, l.PieceLen)
	case ev.Kind == sched.PeerJoined && ev.Peer == sched.Source:
		return ev, errors.New("peer 0 is the source and does not join")
	case ev.Reason != "" && !ev.Reason.Listed():
		return ev, fmt.Errorf("%.20q is no reason to fail", ev.Reason)
	case !plain(ev.Where.Host, ev.Where.Rack, ev.Where.Zone):
		return ev, errUnprintable
	case ev.Piece < 0 || ev.Piece >= maxPieces:
		return ev, fmt.Errorf("piece %d is out of range", ev.Piece)
	}
	return ev, nil
}

func readSet(text string) (s dragonfly.PieceSet, err error) {
	if len(text) > maxPieces/8*4/3+8 {
		return s, fmt.Errorf("a set of more than %d pieces", maxPieces)
	}
	return s, s.UnmarshalText([]byte(text))
}

// hasher hashes actions. It is not safe for concurrent use.
type hasher struct{ b []byte }

// of is the hash of what came of one event: 0 if nothing did, and nothing else
// has 0.
func (h *hasher) of(actions []sched.Action) uint32 {
	if len(actions) == 0 {
		return 0
	}
	put := binary.LittleEndian
	b := h.b[:0]
	for i := range actions {
		a := &actions[i]
		more := byte(0)
		if a.More {
			more = 1
		}
		b = append(b, byte(a.Kind), more)
		b = put.AppendUint32(b, uint32(a.Peer))
		b = put.AppendUint32(b, uint32(a.Task))
		b = put.AppendUint64(b, uint64(a.Piece))
		b = put.AppendUint64(b, uint64(a.Span.From))
		b = put.AppendUint64(b, uint64(a.Span.To))
		b = put.AppendUint32(b, uint32(a.Parent))
		b = put.AppendUint64(b, uint64(a.Assignment))
		b = put.AppendUint32(b, uint32(len(a.Why)))
		b = append(b, a.Why...)
	}
	h.b = b
	sum := fnv.New32a()
	sum.Write(b)
	return max(1, sum.Sum32())
}
