// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"testing"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// with are credentials.
func with(r dragonfly.Registration, token string) dragonfly.Registration {
	r.Request.Header = dragonfly.Header{"Authorization": {"Bearer " + token}}
	return r
}

// news are the last words about a task that a peer hears now.
func (p *client) news() (info dragonfly.TaskInfo) {
	p.Helper()
	for {
		work, ok := p.next()
		if !ok {
			return info
		}
		for _, i := range work.Tasks {
			info = i
		}
	}
}

// TestFreshCredentials: when the source refuses the credentials in mid-task, one
// waiting peer after the other is asked for fresh ones, the newest first, and
// the seed goes on with them.
func TestFreshCredentials(t *testing.T) {
	for _, kind := range []*dragonfly.Error{said(dragonfly.Unauthorized, 401), said(dragonfly.Forbidden, 403)} {
		inTime(t, nil, func(w *world) {
			url, o := w.source("a", 8)
			o.pace = time.Second
			older, newer := w.peer(), w.peer()
			older.register(with(older.wants(url), "old"))
			w.wait(time.Millisecond)
			newer.register(with(newer.wants(url), "new"))
			older.news()
			newer.news()
			w.change(o, func(o *origin) { o.broken = kind })
			w.wait(1500 * time.Millisecond)
			if got := newer.questions(dragonfly.AskCredentials); got != 1 {
				w.Errorf("%d: the newest is asked %d times", kind.Status, got)
			}
			if got := older.questions(dragonfly.AskCredentials); got != 0 {
				w.Errorf("%d: the other is asked %d times", kind.Status, got)
			}
			if d := w.detail(url); d.Trouble != kind.Kind || d.Source != "closed" {
				w.Errorf("%+v", d.TaskState)
			}
			// No answer: the next one.
			w.wait(6 * time.Second)
			if got := older.questions(dragonfly.AskCredentials); got != 1 {
				w.Errorf("%d: the next is asked %d times", kind.Status, got)
			}
			w.change(o, func(o *origin) { o.broken = nil })
			older.register(with(older.wants(url), "fresh"))
			if got := o.header["Authorization"][0]; got != "Bearer fresh" {
				w.Errorf("%d: asked with %s", kind.Status, got)
			}
			older.later(older.report())
			w.wait(5 * time.Second)
			if d := w.detail(url); d.Trouble != "" || d.Source != "open" || d.SeedHeld == 0 {
				w.Errorf("%+v", d.TaskState)
			}
		})
	}
}

// TestNobodyHasFreshCredentials: then those who wait hear what the source said,
// and do not wait for ever.
func TestNobodyHasFreshCredentials(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 8)
		o.pace, o.broken = time.Second, said(dragonfly.Unauthorized, 401)
		p, q := w.peer(), w.peer()
		p.register(p.wants(url))
		q.register(q.wants(url))
		p.news()
		q.news()
		w.wait(15 * time.Second)
		for _, x := range []*client{p, q} {
			info := x.news()
			if info.Failed == nil || info.Failed.Kind != dragonfly.Unauthorized || info.Failed.Status != 401 || info.Grant != "" {
				w.Errorf("%+v", info)
			}
		}
		if d := w.detail(url); d.Waiting != 0 {
			w.Errorf("%+v", d.TaskState)
		}
		if got := w.metric(`dragonfly_supernode_cdn_download_failed_total`); got != "1" {
			w.Errorf("%s failures", got)
		}
	})
}

// TestSourceFailsInMidTask: it is tried again after pauses, and goes on where it
// was; a source that stays away lets the waiting peers go: to try themselves,
// if it gave no answer, with its answer else.
func TestSourceFailsInMidTask(t *testing.T) {
	for _, c := range []struct {
		fail  *dragonfly.Error
		grant bool
	}{{said(dragonfly.SourceFailed, 500), false}, {&dragonfly.Error{Kind: dragonfly.SourceFailed, Message: "no route"}, true}} {
		inTime(t, nil, func(w *world) {
			url, o := w.source("a", 8)
			o.pace = 100 * time.Millisecond
			p := w.peer()
			info := p.register(p.wants(url))
			p.news()
			w.wait(150 * time.Millisecond)
			w.change(o, func(o *origin) { o.broken = c.fail })
			w.wait(4 * time.Second)
			w.change(o, func(o *origin) { o.broken = nil })
			w.wait(6 * time.Second)
			if d := w.detail(url); d.SeedHeld != 8 || d.Trouble != "" {
				w.Errorf("did not go on: %+v", d.TaskState)
			}
			if n, most := w.reads(o); n != 8 || most != 1 {
				w.Errorf("%d pieces read, one %d times", n, most)
			}

			if err := p.Close(w.Context(), ""); err != nil { // it took slots of the seed
				w.Fatal(err)
			}
			p = w.peer()
			url, o = w.source("b", 8)
			o.broken = c.fail
			p.register(p.wants(url))
			p.news()
			w.wait(25 * time.Second)
			if x := p.news(); x.Failed != nil || x.Grant != "" {
				w.Errorf("gave up early: %+v", x)
			}
			p.later(p.report())
			w.wait(20 * time.Second)
			got := p.news()
			if c.grant && (got.Grant != dragonfly.GrantDirect || got.Failed != nil) || !c.grant && (got.Failed == nil || got.Failed.Status != 500 || got.Grant != "") {
				w.Errorf("%+v", got)
			}
			if d := w.detail(url); d.Waiting != 0 || got.Version == info.Version {
				w.Errorf("%+v", d.TaskState)
			}
			// Who comes next has the source asked anew.
			w.change(o, func(o *origin) { o.broken = nil })
			asked := w.asked(o)
			next := w.peer()
			next.register(next.wants(url))
			next.finish()
			if w.asked(o) == asked || next.seen(url).Held != 8 {
				w.Errorf("asked %d times, holds %d", w.asked(o), next.seen(url).Held)
			}
		})
	}
}

// TestThrottled: peers wait for a source that asks to be left alone for a while,
// they are not sent there themselves; but not for ever.
func TestThrottled(t *testing.T) {
	for _, ends := range []bool{true, false} {
		inTime(t, nil, func(w *world) {
			url, o := w.source("a", 8)
			o.broken = said(dragonfly.Throttled, 429)
			p := w.agent(1)
			p.want(url)
			w.wait(2 * time.Minute)
			if d := w.detail(url); d.Waiting != 1 || d.Trouble != dragonfly.Throttled || d.Everyone[1].Waits != sched.WaitClosed {
				w.Errorf("%+v", d)
			}
			if ends {
				w.change(o, func(o *origin) { o.broken = nil })
				w.wait(time.Minute)
				if !p.has(url) {
					w.Errorf("%+v", w.detail(url))
				}
				return
			}
			w.wait(15 * time.Minute)
			p.mu.Lock()
			defer p.mu.Unlock()
			if got := p.over[taskOf(url)]; got != said(dragonfly.Throttled, 429).Message {
				w.Errorf("let go with %q", got)
			}
		})
	}
}

// TestGoneInMidTask: a source that says 404 ends the task; what was there of it
// is given to nobody.
func TestGoneInMidTask(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 8)
		o.pace, o.broken = time.Second, said(dragonfly.NotFound, 410)
		p := w.peer()
		p.register(p.wants(url))
		p.news()
		w.wait(2 * time.Second)
		if info := p.news(); info.Failed == nil || info.Failed.Kind != dragonfly.NotFound || !info.Ticket.IsZero() {
			w.Errorf("%+v", info)
		}
		if got := p.fails(p.wants(url)); got != dragonfly.NotFound {
			w.Errorf("%s", got)
		}
		if d := w.detail(url); d.Status != "SOURCEERROR" || d.Waiting != 0 {
			w.Errorf("%+v", d)
		}
	})
}

// TestContentChangesInMidTask: the seed says that the version cannot be
// continued; the source is asked, and everybody starts with what is there now.
func TestContentChangesInMidTask(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 8)
		o.pace = time.Second
		p := w.peer()
		before := p.register(p.wants(url))
		p.news()
		w.wait(1500 * time.Millisecond)
		w.change(o, func(o *origin) { o.version = versionOf("b") })
		w.seed.agent.say(dragonfly.Event{Kind: dragonfly.EventVoid, Task: before.Task, Version: before.Version, Reason: dragonfly.FailSource,
			Failure: &dragonfly.Error{Kind: dragonfly.SourceChanged}})
		w.wait(time.Millisecond)
		info := p.news()
		if info.Version != versionOf("b") || info.Failed != nil || info.Ticket == before.Ticket {
			w.Errorf("%+v", info)
		}
		if d := w.detail(url); d.Version != info.Version || d.Waiting != 1 || w.asked(o) != 2 {
			w.Errorf("%+v, asked %d times", d.TaskState, w.asked(o))
		}
	})
}

// TestWrongDigest: content that is not what was asked for ends the task for all
// who wait for it; the next request asks the source again.
func TestWrongDigest(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 8)
		o.pace = time.Second
		p := w.peer()
		before := p.register(p.wants(url))
		p.news()
		w.wait(1500 * time.Millisecond)
		w.seed.agent.say(dragonfly.Event{Kind: dragonfly.EventVoid, Task: before.Task, Version: before.Version, Reason: dragonfly.FailMismatch,
			Failure: said(dragonfly.DigestMismatch, 0)})
		w.wait(time.Millisecond)
		if info := p.news(); info.Failed == nil || info.Failed.Kind != dragonfly.DigestMismatch || !info.Ticket.IsZero() {
			w.Errorf("%+v", info)
		}
		if after := p.register(p.wants(url)); after.Ticket == before.Ticket || w.asked(o) != 2 {
			w.Errorf("asked %d times", w.asked(o))
		}
	})
}

// TestSeedCannotStore: its disk is full; the peers may read the source alone.
func TestSeedCannotStore(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 8)
		o.pace, o.broken = time.Second, &dragonfly.Error{Kind: dragonfly.NoSpace, Message: "the disk is full"}
		p := w.peer()
		p.register(p.wants(url))
		p.news()
		w.wait(2 * time.Second)
		if info := p.news(); info.Grant != dragonfly.GrantDirect || info.Version != o.version || info.Ticket.IsZero() {
			w.Errorf("%+v", info)
		}
	})
}

// TestSeedIsReplaced: what waits for the older seed's work goes on with the next
// one's, without what the peers hold being read again.
func TestSeedIsReplaced(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 6)
		o.pace = 500 * time.Millisecond
		p := w.agent(1)
		p.want(url)
		w.wait(700 * time.Millisecond)
		w.seed.agent.die()
		w.wait(time.Second)
		next := newAgent(w, 101, 2)
		next.seed = w.seed
		w.seed.mu.Lock()
		w.seed.agent = next
		w.seed.mu.Unlock()
		next.start()
		w.wait(5 * time.Second)
		if n, most := w.reads(o); !p.has(url) || n != 6 || most != 1 {
			w.Errorf("done %v, %d pieces read, one %d times: %+v", p.has(url), n, most, w.detail(url))
		}
	})
}

// TestAccusationAfterAFailure: a parent whose stream broke may have sent bad
// bytes before. It is accused when the piece is whole, which is after its
// assignment ended, and the piece is fetched again.
func TestAccusationAfterAFailure(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		a, b, child := w.peer(), w.peer(), w.peer()
		for _, p := range []*client{a, b} {
			r := p.has(url, o, 1)
			r.Holding = true
			p.register(r)
			p.later(p.report(p.entries(url, o, "a", 1)...))
		}
		child.register(child.wants(url))
		for _, p := range []*client{a, b} {
			p.later(p.report(p.entries(url, o, "a", 1)...))
			p.news()
		}
		first := child.sync()
		if len(first.Assignments) != 1 {
			w.Fatalf("%+v", first)
		}
		broken := failure(first.Assignments[0], dragonfly.FailReset)
		second := child.sync(broken)
		if len(second.Assignments) != 1 || second.Assignments[0].Parent.Session == first.Assignments[0].Parent.Session {
			w.Fatalf("%+v", second)
		}
		liar := a
		if first.Assignments[0].Parent.Session == b.Welcome().Session {
			liar = b
		}
		third := child.sync(failure(first.Assignments[0], dragonfly.FailMismatch), failure(second.Assignments[0], dragonfly.FailCanceled))
		if got := liar.questions(dragonfly.AskReverify); got != 1 {
			w.Errorf("the liar is asked %d times", got)
		}
		if len(third.Assignments) != 1 || third.Assignments[0].Parent.Session == first.Assignments[0].Parent.Session {
			w.Errorf("%+v", third)
		}
		if got := w.metric(`dragonfly_supernode_piece_failures_total{reason="mismatch"}`); got != "1" {
			w.Errorf("%q mismatches", got)
		}
	})
}

// TestThrownAway: a peer that received a piece before its digest, and throws it
// away without knowing whom to blame, gets it again.
func TestThrownAway(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		o.pace = time.Second
		p := w.peer()
		p.register(p.wants(url))
		first := p.sync()
		if len(first.Assignments) != 1 || !first.Assignments[0].Digest.IsZero() {
			w.Fatalf("%+v", first)
		}
		p.later(p.report(about(dragonfly.EventReceived, first.Assignments[0])))
		w.wait(2 * time.Second) // the digest came
		lost := about(dragonfly.EventLost, first.Assignments[0])
		lost.Assignment = 0
		p.later(p.report(lost))
		w.wait(2 * time.Second)
		var again []dragonfly.Assignment
		for work, ok := p.next(); ok; work, ok = p.next() {
			again = append(again, work.Assignments...)
		}
		if len(again) != 1 || again[0].Digest != digestOf(o.version, 0) {
			w.Errorf("%+v", again)
		}
	})
}
