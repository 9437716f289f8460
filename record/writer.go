// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"dragonfly/sched"
)

const (
	// company is how long events wait for others: a crash loses so much.
	company = 100 * time.Millisecond
	// What may wait to be written.
	maxWaiting      = 1 << 17 // events and names
	maxWaitingBytes = 64 << 20
	// atOnce is how much is written in one call, about.
	atOnce = 256 << 10
	// reserve of the limit is for the last line.
	reserve = 256
)

// Why a record ends before its supernode does.
var (
	ErrFull   = errors.New("the record has reached its limit")
	ErrBehind = errors.New("the disk of the record does not keep up")
)

// Writer records one machine. Its methods may be called from several goroutines,
// but Step only in the order of the machine's steps. They never wait for the
// destination: what it does not take in time, or has no room for, ends the record,
// not the supernode.
type Writer struct {
	out   io.Writer
	left  int64 // bytes that may be written
	ended func(error)

	kick chan struct{} // capacity 1: something waits
	rush chan struct{} // capacity 1: much waits, or the end
	done chan struct{}

	mu      sync.Mutex // guards what follows
	waiting batch
	end     error // nothing is taken any more; errClosed: as it should

	// Of the goroutine:
	buf    bytes.Buffer
	lines  *json.Encoder // to buf
	hash   hasher
	events uint64
}

var (
	errClosed = errors.New("closed")
	errLost   = errors.New("the record cannot be written")
)

// entry is a line that waits to be written: an event, or a name.
type entry struct {
	at      sched.Instant
	event   sched.Event
	actions int   // of the batch, that came of the event
	name    *line // nil: the event
}

// batch is what waits to be written. Entries are values, so that whoever records
// allocates nothing in the long run.
type batch struct {
	entries []entry
	actions []sched.Action
	bytes   int // of names and sets
}

// NewWriter begins a record on out, which stands at the start of a line, and
// writes at most limit bytes. ended is told once, by a goroutine, why a record
// ended before Close: ErrFull, ErrBehind, or the error of out.
func NewWriter(out io.Writer, run Run, limit int64, ended func(error)) *Writer {
	run.Format = format
	w := &Writer{out: out, left: limit, ended: ended, kick: make(chan struct{}, 1), rush: make(chan struct{}, 1), done: make(chan struct{})}
	w.lines = json.NewEncoder(&w.buf)
	w.name(line{Run: &run}, 0)
	go w.work()
	return w
}

// Task says what a task of later events is.
func (w *Writer) Task(t Task) { w.name(line{Task: &t}, len(t.URL)) }

// Peer says who a peer of later events is.
func (w *Writer) Peer(p Peer) { w.name(line{Peer: &p}, len(p.Host)) }

func (w *Writer) name(l line, size int) { w.add(entry{name: &l}, nil, size) }

// Step records an event and what the machine decided. It keeps nothing of what it
// is given.
func (w *Writer) Step(at sched.Instant, ev sched.Event, actions []sched.Action) {
	ev.Held, ev.Want = ev.Held.Clone(), ev.Want.Clone()
	w.add(entry{at: at, event: ev}, actions, ev.Held.Count()+ev.Want.Count())
}

// Close writes what waits and the last line, and returns when that was tried. The
// destination stays open.
func (w *Writer) Close() {
	w.mu.Lock()
	w.stop(errClosed)
	w.mu.Unlock()
	<-w.done
}

func (w *Writer) add(e entry, actions []sched.Action, size int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != nil {
		return
	}
	b := &w.waiting
	if len(b.entries) >= maxWaiting || b.bytes+size > maxWaitingBytes {
		w.stop(ErrBehind)
		return
	}
	e.actions = len(actions)
	b.entries = append(b.entries, e)
	b.actions = append(b.actions, actions...)
	b.bytes += size
	knock(w.kick)
	if len(b.entries) > maxWaiting/4 || b.bytes > maxWaitingBytes/4 {
		knock(w.rush)
	}
}

// stop ends the taking; mu is held.
func (w *Writer) stop(why error) {
	if w.end == nil {
		w.end = why
	}
	knock(w.kick)
	knock(w.rush)
}

func knock(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// work writes until the end.
func (w *Writer) work() {
	defer close(w.done)
	timer := time.NewTimer(company)
	defer timer.Stop()
	var b batch
	for {
		<-w.kick
		timer.Reset(company)
		select {
		case <-timer.C:
		case <-w.rush:
		}
		w.mu.Lock()
		b, w.waiting = w.waiting, b
		end := w.end
		w.mu.Unlock()
		err := w.write(&b)
		if err = cmp.Or(err, end); err != nil {
			w.finish(err)
			return
		}
		b.empty()
	}
}

// empty keeps the memory of a batch, unless a rush made it large.
func (b *batch) empty() {
	if cap(b.entries) > maxWaiting/8 {
		*b = batch{}
		return
	}
	clear(b.entries) // it points to sets and names
	b.entries, b.actions, b.bytes = b.entries[:0], b.actions[:0], 0
}

// finish takes no more, and writes the last line unless the end may be torn or
// there is no room.
func (w *Writer) finish(why error) {
	w.mu.Lock()
	w.stop(why)
	w.waiting = batch{}
	w.mu.Unlock()
	w.encode(line{End: &end{Events: w.events, Why: why.Error()}})
	if !errors.Is(why, errLost) && int64(w.buf.Len()) <= w.left {
		if err := w.flush(); err != nil && why == errClosed {
			why = err
		}
	}
	if why != errClosed {
		w.ended(why)
	}
}

func (w *Writer) write(b *batch) error {
	actions := b.actions
	for i := range b.entries {
		e := &b.entries[i]
		size := w.buf.Len()
		if e.name != nil {
			w.encode(*e.name)
		} else {
			l := lined(e.at, &e.event)
			l.Hash = w.hash.of(actions[:e.actions])
			actions = actions[e.actions:]
			w.encode(line{Event: l})
		}
		if int64(w.buf.Len()+reserve) > w.left {
			w.buf.Truncate(size)
			if err := w.flush(); err != nil {
				return err
			}
			return ErrFull
		}
		if e.name == nil {
			w.events++
		}
		if w.buf.Len() >= atOnce {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return w.flush()
}

// encode appends a line to buf. Lines have nothing that cannot be encoded.
func (w *Writer) encode(l line) {
	if err := w.lines.Encode(l); err != nil {
		panic(fmt.Sprintf("record: %v", err))
	}
}

// flush hands buf to the destination. After an error nobody knows what arrived.
func (w *Writer) flush() error {
	if w.buf.Len() == 0 {
		return nil
	}
	w.left -= int64(w.buf.Len())
	_, err := w.out.Write(w.buf.Bytes())
	w.buf.Reset()
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return nil
}
