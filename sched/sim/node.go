// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// task is the only one.
const task sched.Task = 1

// pollTime is how long the supernode leaves a report unanswered at most.
const pollTime = 20 * time.Second

// message is a report on its way up or an answer on its way down.
type message struct {
	host    int32
	events  []sched.Event
	acks    []dragonfly.AssignmentID
	free    int
	actions []sched.Action
}

func (w *world) mail(k kind, m message) {
	var i int32
	if n := len(w.spareMail); n > 0 {
		i, w.spareMail = w.spareMail[n-1], w.spareMail[:n-1]
	} else {
		i = int32(len(w.mails))
		w.mails = append(w.mails, message{})
	}
	w.mails[i] = m
	w.plan(event{kind: k, who: i}, w.Latency)
}

func (w *world) collect(i int32) message {
	m := w.mails[i]
	w.mails[i] = message{}
	w.spareMail = append(w.spareMail, i)
	return m
}

// step gives an event to the scheduler and its decisions to the outboxes.
func (w *world) step(ev sched.Event) {
	if w.Record != nil {
		w.Record(w.now, ev)
	}
	w.actions = w.machine.Step(w.now, ev, w.actions[:0])
	w.steps++
	if w.Check > 0 && w.steps%w.Check == 0 && w.err == nil {
		if err := w.machine.Check(); err != nil {
			w.err = fmt.Errorf("scenario %q, seed %d: at %v, after %+v: %w", w.Name, w.Seed, time.Duration(w.now), ev, err)
		}
	}
	for i := range w.actions {
		a := &w.actions[i]
		switch a.Kind {
		case sched.Assign, sched.Cancel, sched.Reverify:
			h := &w.hosts[a.Peer]
			h.outbox = append(h.outbox, *a)
			if !h.touched {
				h.touched = true
				w.touched = append(w.touched, int32(a.Peer))
			}
		case sched.Quarantined:
			w.judged(a, &w.quarantined)
		case sched.Isolated:
			w.judged(a, &w.isolated)
		}
	}
}

// judged counts a verdict, and whether it met an innocent: the vanished and the
// liars are not.
func (w *world) judged(a *sched.Action, total *int) {
	*total++
	h := &w.hosts[a.Peer]
	h.judged = h.judged || h.lies
	if !h.lies && !h.vanished && !h.left {
		w.innocent++
	}
}

// settle answers whoever has an open report and something to be told.
func (w *world) settle() {
	for i := 0; i < len(w.touched); i++ {
		who := w.touched[i]
		h := &w.hosts[who]
		h.touched = false
		if h.polling && len(h.outbox) > 0 {
			w.answer(who)
		}
	}
	w.touched = w.touched[:0]
	if at, ok := w.machine.Next(); ok && (w.armed == 0 || at < w.armed) {
		w.armed = max(at, w.now)
		w.queue.push(event{at: w.armed, kind: ticked})
	}
}

func (w *world) answer(who int32) {
	h := &w.hosts[who]
	h.polling = false
	w.step(sched.Event{Kind: sched.PollClosed, Peer: sched.Peer(who)})
	m := message{host: who, actions: h.outbox}
	h.outbox = nil
	w.mail(answered, m)
}

// heard takes in a report.
func (w *world) heard(m *message) {
	h := &w.hosts[m.host]
	if h.left {
		return
	}
	for _, id := range m.acks {
		w.step(sched.Event{Kind: sched.Acked, Peer: sched.Peer(m.host), Assignment: id})
	}
	for _, ev := range m.events {
		if m.host == seed && ev.Kind == sched.Verified {
			w.plan(event{kind: published, who: int32(ev.Piece)}, w.Latency)
		}
		w.step(ev)
	}
	if h.polling {
		w.mail(answered, message{host: m.host}) // a newer report releases the older
	}
	h.polling = true
	h.polled = w.now
	w.step(sched.Event{Kind: sched.PollOpened, Peer: sched.Peer(m.host), Free: m.free})
	if len(h.outbox) > 0 {
		w.answer(m.host)
	}
}

// expire ends the open report of a peer that vanished.
func (w *world) expire(who int32) {
	switch h := &w.hosts[who]; {
	case !h.polling:
	case w.now < h.polled.Add(pollTime):
		w.plan(event{kind: expired, who: who}, time.Duration(h.polled-w.now)+pollTime)
	default:
		h.polling = false
		w.step(sched.Event{Kind: sched.PollClosed, Peer: sched.Peer(who)})
	}
}

// publish lets the peers settle what waited for a digest.
func (w *world) publish(n int32) {
	if w.published[n] {
		return
	}
	w.published[n] = true
	for _, who := range w.awaiting[n] {
		h := &w.hosts[who]
		if p := h.partial(n); p != nil && p.waits && p.missing == 0 && !h.vanished && !h.left {
			p.waits = false
			w.whole(who, p, p.last)
		}
	}
	w.awaiting[n] = nil
}
