// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"testing"
	"time"

	"dragonfly"
)

// verify reports everything that was assigned as verified.
func (p *client) verify(w dragonfly.Work) (events []dragonfly.Event) {
	for _, a := range w.Assignments {
		events = append(events, about(dragonfly.EventVerified, a))
	}
	return events
}

// finish verifies whatever is assigned until nothing is.
func (p *client) finish() {
	p.Helper()
	for {
		work, ok := p.next()
		if !ok {
			return
		}
		p.later(p.report(p.verify(work)...))
	}
}

// TestNewVersionReplacesTheOld: when the content at the source changed and the
// older one is not all among the peers, everybody starts with the new one.
func TestNewVersionReplacesTheOld(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 3)
		o.pace = time.Minute
		p, q := w.peer(), w.peer()
		before := p.register(p.wants(url))
		old := p.sync()
		p.later(p.report())
		if len(old.Assignments) != 3 {
			w.Fatalf("%+v", old)
		}
		w.wait(11 * time.Second)
		w.change(o, func(o *origin) { o.version = versionOf("b") })
		x := p.later(p.report())
		after := q.register(q.wants(url))
		<-x.done
		if after.Version == before.Version || after.Ticket == before.Ticket {
			w.Errorf("%+v", after)
		}
		p.ack = x.work.Seq
		work := x.work
		if len(work.Tasks) != 1 || work.Tasks[0].Version != after.Version || work.Tasks[0].Ticket != after.Ticket {
			w.Errorf("news %+v", work.Tasks)
		}
		if len(work.Cancellations) != 3 {
			w.Errorf("cancelled %v", work.Cancellations)
		}
		for _, a := range work.Assignments {
			if a.Version != after.Version {
				w.Errorf("a piece of the old version: %+v", a)
			}
		}
		// Late reports about the old one change nothing.
		p.later(p.report(p.verify(old)...))
		if got := p.seen(url); got.Held != 0 || got.Older {
			w.Errorf("%+v", got)
		}
		if d := w.detail(url); d.Version != after.Version || d.Finishing || d.Waiting != 2 {
			w.Errorf("%+v", d)
		}
	})
}

// TestOlderVersionIsFinished: if its pieces are all among the peers, those in
// the middle of it finish it, while others start with the new one.
func TestOlderVersionIsFinished(t *testing.T) {
	for _, holderStays := range []bool{true, false} {
		inTime(t, nil, func(w *world) {
			url, o := w.source("a", 5)
			before := o.version
			holder, middle := w.peer(), w.peer()
			holder.register(holder.wants(url))
			holder.finish()
			r := middle.wants(url)
			r.Slots = 1
			middle.register(r)
			work := middle.sync()
			w.wait(11 * time.Second)
			holder.later(holder.report())
			w.change(o, func(o *origin) { o.version = versionOf("b") })
			late := w.peer()
			info := late.register(late.wants(url))
			if info.Version == before {
				w.Fatal("the version did not change")
			}
			if d := w.detail(url); !d.Finishing || !middle.seen(url).Older || late.seen(url).Older {
				w.Errorf("%+v", d)
			}
			for i := range 4 {
				work = middle.sync(middle.verify(work)...)
				if i == 1 && !holderStays {
					break
				}
				if len(work.Assignments) != 1 || work.Assignments[0].Version != before || work.Assignments[0].Parent.Kind != dragonfly.ParentPeer {
					w.Fatalf("round %d: %+v", i, work)
				}
			}
			// Registering again for it, as after a lost answer, is no change.
			again := middle.has(url, o, 2)
			again.Version = before
			if info := middle.register(again); info.Version != before {
				w.Errorf("%+v", info)
			}
			if holderStays {
				x := middle.later(middle.report(middle.verify(work)...))
				if got := middle.seen(url); got.Held != 5 || got.Status != "SUCCESS" {
					w.Errorf("%+v", got)
				}
				w.wait(2 * time.Second)
				if d := w.detail(url); d.Finishing {
					w.Errorf("the older version is kept: %+v", d)
				}
				if x.over() && len(x.work.Assignments) > 0 {
					w.Errorf("it has the older version, which is what it asked for: %+v", x.work)
				}
				return
			}
			// The only holder goes: who is in the middle starts with the new one.
			if err := holder.Close(w.Context(), "killed"); err != nil {
				w.Fatal(err)
			}
			news := dragonfly.Version{}
			for range 4 {
				work := middle.sync()
				for _, info := range work.Tasks {
					news = info.Version
				}
			}
			if news != info.Version {
				w.Errorf("still at %s", news)
			}
		})
	}
}

// TestTickets: drawn for each version of each task, the same for everybody who
// is admitted, and known to the seed first.
func TestTickets(t *testing.T) {
	inTime(t, nil, func(w *world) {
		tickets := map[dragonfly.Ticket]string{}
		for _, name := range []string{"a", "b", "c"} {
			url, o := w.source(name, 1)
			for _, version := range []string{name, name + "2"} {
				w.change(o, func(o *origin) { o.version = versionOf(version) })
				w.wait(11 * time.Second)
				p, q := w.peer(), w.peer()
				one, other := p.register(p.wants(url)), q.register(q.wants(url))
				if one.Ticket != other.Ticket || one.Ticket.IsZero() || w.seed.tickets[one.Version] != one.Ticket {
					w.Errorf("%s: tickets differ", version)
				}
				if before := tickets[one.Ticket]; before != "" {
					w.Errorf("%s has the ticket of %s", version, before)
				}
				tickets[one.Ticket] = version
			}
		}
	})
}

// TestLengthLearnedAtTheEnd: a source that does not say its length is read until
// it ends; then everybody hears the length and is done.
func TestLengthLearnedAtTheEnd(t *testing.T) {
	for _, pieces := range []int{1, 4, 6, 11} {
		inTime(t, nil, func(w *world) {
			url, o := w.source("a", pieces)
			o.known, o.pace = false, 10*time.Millisecond
			a, b := w.agent(1), w.agent(2)
			a.want(url)
			w.wait(25 * time.Millisecond)
			b.want(url)
			if got := w.detail(url); got.Length != dragonfly.UnknownLength || got.Pieces != 0 || got.Waiting != 2 {
				w.Errorf("%+v", got.TaskState)
			}
			w.wait(5 * time.Second)
			if !a.has(url) || !b.has(url) {
				w.Errorf("%d pieces: a done %v, b done %v: %+v", pieces, a.has(url), b.has(url), w.detail(url))
			}
			if got := w.detail(url); got.Length != int64(pieces)*block || got.Manifest != pieces {
				w.Errorf("%+v", got.TaskState)
			}
			if n, most := w.reads(o); n != pieces || most != 1 {
				w.Errorf("%d pieces read, one %d times", n, most)
			}
			if got := w.metric(`dragonfly_dfget_download_total{callsystem=""}`); got != "2" {
				w.Errorf("%s downloads counted", got)
			}
		})
	}
}

// TestOnlyTheSeedKnowsTheSource: what a peer says about the length or the end of
// a version is not believed.
func TestOnlyTheSeedKnowsTheSource(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 3)
		o.known, o.pace = false, time.Minute
		p := w.peer()
		info := p.register(p.wants(url))
		event := dragonfly.Event{Task: info.Task, Version: info.Version, Offset: 5, Failure: said(dragonfly.DigestMismatch, 0)}
		event.Kind = dragonfly.EventLength
		p.later(p.report(event))
		event.Kind = dragonfly.EventVoid
		p.later(p.report(event))
		if d := w.detail(url); d.Length != dragonfly.UnknownLength || d.Version != info.Version || w.asked(o) != 1 {
			w.Errorf("%+v", d)
		}
	})
}
