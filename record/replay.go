// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"dragonfly/sched"
)

const (
	// maxLine is the longest line: two full bitmaps and some.
	maxLine = 1 << 20
	// maxBooked bounds the pieces of all tasks that a replay has at once.
	maxBooked = 1 << 25
)

// Visitor looks at a record. Its fields may be nil.
type Visitor struct {
	Run  func(Run)
	Task func(Task)
	Peer func(Peer)
	// Step is called after each event. m is nil unless the record is run again; it
	// must not be stepped.
	Step func(at sched.Instant, ev sched.Event, m *sched.Machine)
	// Decide is told each decision before Step is called with its event.
	Decide func(sched.Decision)
}

// Outcome is what came of running one run of a record again.
type Outcome struct {
	Run     Run
	Peers   int // that joined
	Tasks   int // that were opened
	Span    time.Duration
	Steps   uint64            // events, all kinds together
	Events  map[string]uint64 // by kind
	Actions map[string]uint64 // by kind, that this machine took
	Costs   Costs             // of the machine's steps, here
	Parted  *Parting          // nil: it took the recorded actions
	End     string            // why nothing follows; empty: the supernode was killed, or is at work
	Torn    bool              // the last line was cut off and is left out
}

// Parting is where a machine decided otherwise than the recorded one. From there
// on the peers answer what the recorded one told them.
type Parting struct {
	Step    uint64            // the first event with other actions, from 1
	At      time.Duration     // in the run
	Kind    string            // of the event
	Actions map[string]uint64 // by kind, that this machine took; the recorded one took others
	Steps   uint64            // events with other actions, from there to the end
}

// Read visits what a record says, without running it again.
func Read(in io.Reader, v Visitor) error {
	return read(in, reader{line: func(l *line) error {
		v.names(l)
		if l.Event == nil {
			return nil
		}
		ev, err := l.Event.event()
		if err == nil && v.Step != nil {
			v.Step(l.Event.At, ev, nil)
		}
		return err
	}})
}

func (v Visitor) names(l *line) {
	switch {
	case l.Run != nil && v.Run != nil:
		v.Run(*l.Run)
	case l.Task != nil && v.Task != nil:
		v.Task(*l.Task)
	case l.Peer != nil && v.Peer != nil:
		v.Peer(*l.Peer)
	}
}

// Replay runs all of a record again and says for each run in it what came of it,
// as far as it could be read when there is an error.
func Replay(in io.Reader, v Visitor) ([]*Outcome, error) {
	p := player{visitor: v}
	err := read(in, reader{p.play, p.torn})
	return p.outcomes, err
}

// player runs one run after another.
type player struct {
	visitor  Visitor
	outcomes []*Outcome
	*Outcome // the last one
	machine  *sched.Machine
	hash     hasher
	actions  []sched.Action
	booked   map[sched.Task]int // pieces
	pieces   int
}

func (p *player) torn() { p.Torn = true }

func (p *player) play(l *line) error {
	p.visitor.names(l)
	switch {
	case l.Run != nil:
		p.Outcome = &Outcome{Run: *l.Run, Events: map[string]uint64{}, Actions: map[string]uint64{}}
		p.outcomes = append(p.outcomes, p.Outcome)
		p.machine, p.booked, p.pieces = sched.New(l.Run.Config), map[sched.Task]int{}, 0
		p.machine.Observe(p.visitor.Decide)
	case l.Event != nil:
		return p.step(l.Event)
	case l.End != nil:
		if l.End.Events != p.Steps {
			return fmt.Errorf("%d events are there, %d were recorded: lines are missing", p.Steps, l.End.Events)
		}
		p.End = l.End.Why
	}
	return nil
}

func (p *player) step(e *event) error {
	ev, err := e.event()
	if err != nil {
		return err
	}
	switch ev.Kind {
	case sched.PeerJoined:
		p.Peers++
	case sched.TaskOpened:
		p.Tasks++
		p.book(ev)
	case sched.LengthKnown:
		p.book(ev)
	case sched.TaskEnded:
		p.pieces -= p.booked[ev.Task]
		delete(p.booked, ev.Task)
	}
	if p.pieces > maxBooked {
		return fmt.Errorf("the tasks have %d pieces, more than %d: too many to run again", p.pieces, maxBooked)
	}
	began := time.Now()
	p.actions = p.machine.Step(e.At, ev, p.actions[:0])
	p.Costs.add(time.Since(began))
	p.Steps++
	p.Span = time.Duration(e.At)
	p.Events[e.Kind]++
	for i := range p.actions {
		p.Actions[actionKinds[p.actions[i].Kind]]++
	}
	if p.hash.of(p.actions) != e.Hash {
		p.part(e)
	}
	if p.visitor.Step != nil {
		p.visitor.Step(e.At, ev, p.machine)
	}
	return nil
}

func (p *player) part(e *event) {
	if p.Parted == nil {
		p.Parted = &Parting{Step: p.Steps, At: time.Duration(e.At), Kind: e.Kind, Actions: map[string]uint64{}}
		for i := range p.actions {
			p.Parted.Actions[actionKinds[p.actions[i].Kind]]++
		}
	}
	p.Parted.Steps++
}

func (p *player) book(ev sched.Event) {
	n := ev.Layout.Pieces()
	p.pieces += n - p.booked[ev.Task]
	p.booked[ev.Task] = n
}

// reader gets the lines of a record, and is told when the last line of a run is
// cut off. torn may be nil.
type reader struct {
	line func(*line) error
	torn func()
}

// read gives the lines of a record to r. A line that was cut off by the end of a
// process is left out: nothing follows it but the end or another run.
func read(in io.Reader, r reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	var torn error
	begun := false
	for number := 1; lines.Scan(); number++ {
		at := func(err error) error { return fmt.Errorf("line %d: %w", number, err) }
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		l := line{}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			switch {
			case !begun:
				return fmt.Errorf("%w: this is no record of a supernode", at(err))
			case torn != nil:
				return torn
			}
			torn = at(err)
			continue
		}
		if err := l.check(); err != nil {
			return at(err)
		}
		if l.Run != nil {
			if torn != nil && r.torn != nil {
				r.torn()
			}
			begun, torn = true, nil
		}
		switch {
		case torn != nil:
			return torn
		case !begun:
			return at(errors.New("a record begins with a run: this is none, or its beginning is lost"))
		}
		if err := r.line(&l); err != nil {
			return at(err)
		}
	}
	if torn != nil && r.torn != nil {
		r.torn()
	}
	return lines.Err()
}
