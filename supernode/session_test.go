// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/sched"

	"github.com/google/go-cmp/cmp"
)

// TestOpenReplacesTheOlderSession: a process has one session; opening again
// ends the older one, also where it waits.
func TestOpenReplacesTheOlderSession(t *testing.T) {
	inTime(t, nil, func(w *world) {
		old := w.peer()
		waiting := old.later(old.report())
		other := w.peer()
		again := w.peerAt(old.host)
		if !waiting.over() {
			<-waiting.done
		}
		if got := kindOf(waiting.err); got != dragonfly.UnknownSession {
			w.Errorf("the older session's sync got %s", got)
		}
		if _, err := old.Sync(w.Context(), old.report()); kindOf(err) != dragonfly.UnknownSession {
			w.Errorf("the older session goes on: %v", err)
		}
		if _, err := old.Register(w.Context(), old.wants("http://origin.test/a")); kindOf(err) != dragonfly.UnknownSession {
			w.Errorf("the older session registers: %v", err)
		}
		if again.Welcome().Session == old.Welcome().Session {
			w.Error("a session id was used twice")
		}
		// Closing the older one touches neither the newer nor others.
		if err := old.Close(w.Context(), "late"); err != nil {
			w.Error(err)
		}
		for _, p := range []*client{again, other} {
			if x := p.later(p.report()); x.over() {
				w.Errorf("host %d does not wait: %v", p.host, x.err)
			}
		}
	})
}

func TestHelloIsChecked(t *testing.T) {
	inTime(t, nil, func(w *world) {
		for name, c := range map[string]struct {
			change func(*dragonfly.Hello)
			want   dragonfly.Kind
		}{
			"older protocol":   {func(h *dragonfly.Hello) { h.Protocol-- }, dragonfly.ProtocolMismatch},
			"newer protocol":   {func(h *dragonfly.Hello) { h.Protocol++ }, dragonfly.ProtocolMismatch},
			"no agent":         {func(h *dragonfly.Hello) { h.Agent = "" }, dragonfly.Invalid},
			"short agent":      {func(h *dragonfly.Hello) { h.Agent = "abcd" }, dragonfly.Invalid},
			"agent not hex":    {func(h *dragonfly.Hello) { h.Agent = strings.Repeat("g", 32) }, dragonfly.Invalid},
			"control in name":  {func(h *dragonfly.Hello) { h.Host.Name = "a\nlevel=error" }, dragonfly.Invalid},
			"endless zone":     {func(h *dragonfly.Hello) { h.Host.Zone = strings.Repeat("z", 257) }, dragonfly.Invalid},
			"negative uploads": {func(h *dragonfly.Hello) { h.Host.Uploads = -1 }, dragonfly.Invalid},
			"endless uploads":  {func(h *dragonfly.Hello) { h.Host.Uploads = 1 << 20 }, dragonfly.Invalid},
		} {
			ctx, h := hello(50)
			c.change(&h)
			if _, err := w.sn.Open(ctx, h); kindOf(err) != c.want {
				w.Errorf("%s: %v, want %s", name, err, c.want)
			}
		}
	})
}

func TestWelcome(t *testing.T) {
	inTime(t, nil, func(w *world) {
		p := w.peer()
		got := p.Welcome()
		if got.Node.ID != "sn1" || len(got.Members) != 1 || got.IP.String() != "10.0.0.11" {
			w.Errorf("%+v", got)
		}
		if len(got.Session) != 32 {
			w.Errorf("a session id of %d characters can be guessed", len(got.Session))
		}
	})
}

// TestPollEndsAfterPollAndJitter: an idle sync is answered after 20 s and up to
// a tenth more, not at the same time for everybody, and never later than the
// peer was told.
func TestPollEndsAfterPollAndJitter(t *testing.T) {
	inTime(t, nil, func(w *world) {
		p := w.peer()
		took := map[time.Duration]bool{}
		for range 5 {
			began := time.Now()
			if work := p.sync(); !cmp.Equal(work, dragonfly.Work{}, same) {
				w.Errorf("work out of nothing: %+v", work)
			}
			d := time.Since(began)
			took[d] = true
			if d < 20*time.Second || d > 22*time.Second || d > p.Welcome().Poll {
				w.Errorf("answered after %v, told %v", d, p.Welcome().Poll)
			}
		}
		if len(took) < 2 {
			w.Error("no jitter")
		}
	})
}

// TestNewerSyncReleasesTheOlder: at once, and without a gap in listening.
func TestNewerSyncReleasesTheOlder(t *testing.T) {
	inTime(t, nil, func(w *world) {
		p := w.peer()
		began := time.Now()
		older := p.later(p.report())
		newer := p.later(p.report())
		if !older.over() || newer.over() || time.Since(began) != 0 {
			w.Fatalf("older over %v, newer over %v", older.over(), newer.over())
		}
		if older.err != nil || !cmp.Equal(older.work, dragonfly.Work{}, same) {
			w.Errorf("%+v %v", older.work, older.err)
		}
		w.wait(15 * time.Second)
		for _, x := range w.sn.Peers() {
			if x.Silent != 0 {
				w.Errorf("peer %d is silent for %v s", x.Peer, x.Silent)
			}
		}
		// The older report comes after the newer: it is taken in and answered.
		if late := p.later(dragonfly.Report{Seq: 1}); !late.over() || late.err != nil || newer.over() {
			w.Errorf("late report: over %v %v", late.over(), late.err)
		}
	})
}

// TestReleasedSyncAcknowledgesNothing: the answer to an overtaken sync is empty.
// It must not make the peer acknowledge what only the newer answer holds, which
// may be lost.
func TestReleasedSyncAcknowledgesNothing(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, _ := w.source("a", 1)
		p := w.peer()
		p.register(p.wants(url))
		older := p.report()
		first := p.send(older)
		if len(first.Assignments) != 1 {
			w.Fatalf("%+v", first)
		}
		p.ack = 0 // it was lost
		overtaken, err := p.Sync(w.Context(), p.report())
		if err != nil || overtaken.Seq == 0 {
			w.Fatalf("%+v %v", overtaken, err)
		}
		late, err := p.Sync(w.Context(), older)
		if err != nil || late.Seq != 0 {
			w.Errorf("an empty answer acknowledges %d (%v)", late.Seq, err)
		}
		p.ack = late.Seq
		if again := p.sync(); len(again.Assignments) != 1 || again.Assignments[0].ID != first.Assignments[0].ID {
			w.Errorf("the assignment is lost: %+v", again)
		}
	})
}

// TestSameSeqGetsTheSameAnswer: an answer that was lost is given again, with
// everything that was in it.
func TestSameSeqGetsTheSameAnswer(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, _ := w.source("a", 3)
		p := w.peer()
		p.register(p.wants(url))
		r := p.report()
		first := p.send(r)
		if len(first.Assignments) != 3 {
			w.Fatalf("%+v", first)
		}
		began := time.Now()
		second := p.send(r)
		if time.Since(began) != 0 {
			w.Error("the repeated answer took its time")
		}
		if diff := cmp.Diff(first.Assignments, second.Assignments, same); diff != "" {
			w.Errorf("repeated differently:\n%s", diff)
		}
		// Acknowledged, it is not said again.
		if x := p.later(p.report()); x.over() && len(x.work.Assignments) > 0 {
			w.Errorf("said again: %+v", x.work)
		}
	})
}

// TestEventsAreAppliedOnce: each (seq, index) counts once, also when a copy of
// the report comes after newer ones, and also with events added to it.
func TestEventsAreAppliedOnce(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 4)
		holder := w.peer()
		reg := holder.has(url, o, 4)
		reg.Holding = true
		holder.register(reg)
		p := w.peer()
		p.register(p.wants(url)) // makes it known
		event := func(kind dragonfly.EventKind, n dragonfly.PieceNum) dragonfly.Event {
			return dragonfly.Event{Kind: kind, Task: taskOf(url), Version: o.version, Piece: n}
		}
		lost := holder.report(event(dragonfly.EventLost, 0))
		holder.later(lost)
		if got := holder.seen(url).Held; got != 3 {
			w.Fatalf("holds %d", got)
		}
		holder.later(holder.report(event(dragonfly.EventVerified, 0)))
		if got := holder.seen(url).Held; got != 4 {
			w.Fatalf("holds %d", got)
		}
		holder.later(lost) // a copy
		if got := holder.seen(url).Held; got != 4 {
			w.Errorf("a loss was applied twice: holds %d", got)
		}
		lost.Events = append(lost.Events, event(dragonfly.EventLost, 1))
		holder.later(lost)
		holder.later(lost)
		if got := holder.seen(url); got.Held != 3 || got.Has.Has(1) {
			w.Errorf("what was added to a report: holds %d", got.Held)
		}
		// Reports older than the window are not taken in at all.
		for range syncWindow {
			holder.later(holder.report())
		}
		lost.Events = append(lost.Events, event(dragonfly.EventLost, 2))
		holder.later(lost)
		if got := holder.seen(url); got.Held != 3 {
			w.Errorf("an ancient report was applied: holds %d", got.Held)
		}
	})
}

// TestUnacknowledgedAssignmentReturns: after 2 s it goes to whoever can take it.
func TestUnacknowledgedAssignmentReturns(t *testing.T) {
	inTime(t, func(c *Config) { c.Sched.SeedUp = 1 }, func(w *world) {
		url, o := w.source("a", 1)
		o.held = true
		deaf, other := w.peer(), w.peer()
		deaf.register(deaf.wants(url))
		other.register(other.wants(url))
		lost := deaf.sync() // and never another
		if len(lost.Assignments) != 1 {
			w.Fatalf("%+v", lost)
		}
		x := other.later(other.report())
		w.wait(1900 * time.Millisecond)
		if got := deaf.seen(url).InWork; got != 1 || x.over() && x.work.Assignments[0].Parent.Kind == dragonfly.ParentSeed {
			w.Errorf("too early: %d in work, other %+v", got, x.work)
		}
		w.wait(200 * time.Millisecond)
		again := deaf.sync()
		if len(again.Cancellations) != 1 || again.Cancellations[0] != lost.Assignments[0].ID {
			w.Errorf("the old one is not taken back: %+v", again)
		}
	})
}

// TestClosedSessionIsUnknown: so is one that never was, after a restart.
func TestClosedSessionIsUnknown(t *testing.T) {
	inTime(t, nil, func(w *world) {
		p := w.peer()
		waiting := p.later(p.report())
		for range 2 { // it may be called twice
			if err := p.Close(w.Context(), "done\nlevel=error"); err != nil {
				w.Fatal(err)
			}
		}
		<-waiting.done
		if kindOf(waiting.err) != dragonfly.UnknownSession {
			w.Errorf("waiting: %v", waiting.err)
		}
		if _, err := p.Sync(w.Context(), p.report()); kindOf(err) != dragonfly.UnknownSession {
			w.Errorf("sync: %v", err)
		}
		if got := p.fails(p.wants("http://origin.test/a")); got != dragonfly.UnknownSession {
			w.Errorf("register: %s", got)
		}
		w.stop()
		if strings.Contains(w.logs.String(), "\nlevel=error") {
			w.Error("a peer's reason broke a line of the log")
		}
	})
}

// TestSilentPeer: without a sync a peer's pieces leave the books after 10 s; it
// may come back within 3 min more; after that its session is unknown. There is
// no moment at which the scheduler has forgotten it and its sync still waits.
func TestSilentPeer(t *testing.T) {
	kept := 10*time.Second + 3*time.Minute
	for _, after := range []time.Duration{kept - time.Millisecond, kept, kept + time.Millisecond, kept + 300*time.Millisecond, kept + time.Minute} {
		inTime(t, nil, func(w *world) {
			<-time.After(123 * time.Millisecond) // between two rounds of chores
			url, o := w.source("a", 1)
			p := w.peer()
			reg := p.has(url, o, 1)
			p.register(reg)
			w.wait(after)
			x := p.later(p.report())
			if after < kept {
				if x.err != nil {
					w.Errorf("%v: %v", after, x.err)
				}
				return
			}
			if !x.over() || kindOf(x.err) != dragonfly.UnknownSession {
				w.Errorf("%v: over %v, %v", after, x.over(), x.err)
			}
		})
	}
}

// TestSeedComesBack: a seed that was silent for so long that the scheduler has
// forgotten it hears that its session is unknown, and its next one is the seed.
func TestSeedComesBack(t *testing.T) {
	inTime(t, nil, func(w *world) {
		ctx, h := hello(99)
		s, err := w.sn.SeedTracker().Open(ctx, h) // takes the place of the agent's
		if err != nil {
			w.Fatal(err)
		}
		w.wait(4 * time.Minute)
		if _, err := s.Sync(w.Context(), dragonfly.Report{Seq: 1}); kindOf(err) != dragonfly.UnknownSession {
			w.Errorf("sync: %v", err)
		}
		w.seed.agent.start()
		url, _ := w.source("a", 1)
		p := w.peer()
		p.register(p.wants(url))
		if work := p.sync(); len(work.Assignments) != 1 || work.Assignments[0].Parent.Kind != dragonfly.ParentSeed {
			w.Errorf("%+v", work)
		}
	})
}

func TestReportIsChecked(t *testing.T) {
	inTime(t, nil, func(w *world) {
		p := w.peer()
		if _, err := p.Sync(w.Context(), dragonfly.Report{}); kindOf(err) != dragonfly.Invalid {
			w.Errorf("seq 0: %v", err)
		}
		// Acknowledging what was never said changes nothing.
		url, _ := w.source("a", 1)
		p.register(p.wants(url))
		if work := p.send(dragonfly.Report{Seq: 1, Ack: 1 << 40, Free: -3}); len(work.Assignments) != 0 {
			w.Errorf("negative free: %+v", work)
		}
		if work := p.send(dragonfly.Report{Seq: 2, Ack: 1 << 40, Free: 1}); len(work.Assignments) != 1 {
			w.Errorf("%+v", work)
		}
	})
}

// TestCallerGoesAway: a canceled sync returns and takes nothing with it.
func TestCallerGoesAway(t *testing.T) {
	inTime(t, nil, func(w *world) {
		p := w.peer()
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if _, err := p.Sync(ctx, p.report()); err == nil {
			w.Error("no error")
		}
		url, _ := w.source("a", 1)
		p.register(p.wants(url))
		if work := p.sync(); len(work.Assignments) != 1 {
			w.Errorf("%+v", work)
		}
	})
}

// TestLimits: sessions and tasks are bounded, with an error that sends the peer
// elsewhere. A process that opens again is no session more.
func TestLimits(t *testing.T) {
	inTime(t, func(c *Config) { c.MaxSessions, c.MaxTasks = 3, 2 }, func(w *world) {
		p := w.peer() // the seed is the first
		w.peer()
		ctx, h := hello(77)
		if _, err := w.sn.Open(ctx, h); kindOf(err) != dragonfly.Unavailable {
			w.Errorf("one session too many: %v", err)
		}
		p = w.peerAt(p.host)
		for _, name := range []string{"a", "b", "c"} {
			url, _ := w.source(name, 1)
			_, err := p.Register(w.Context(), p.wants(url))
			if (err != nil) != (name == "c") || err != nil && kindOf(err) != dragonfly.Unavailable {
				w.Errorf("task %s: %v", name, err)
			}
		}
		p.register(p.wants("http://origin.test/a")) // is there already
		if err := p.Close(w.Context(), ""); err != nil {
			w.Fatal(err)
		}
		w.peerAt(77)
	})
}

// TestTasksOfOnePeer: a peer has so many tasks and no more, and so many jobs are
// remembered of each.
func TestTasksOfOnePeer(t *testing.T) {
	inTime(t, nil, func(w *world) {
		p := w.peer()
		_, o := w.source("a", 1)
		for i := range maxTasksOf + 1 {
			r := p.has(fmt.Sprintf("http://origin.test/%d", i), o, 1)
			r.Holding = true
			if _, err := p.Register(w.Context(), r); (err != nil) != (i == maxTasksOf) || err != nil && kindOf(err) != dragonfly.Invalid {
				w.Fatalf("task %d: %v", i, err)
			}
		}
		q := w.peer()
		for i := range 2 * maxJobs {
			r := q.wants("http://origin.test/a")
			r.Job = dragonfly.JobID(fmt.Sprint(i))
			q.register(r)
		}
		if reg := w.sn.agents[fmt.Sprintf("%032x", q.host)].regs[taskOf("http://origin.test/a")]; len(reg.jobs) != maxJobs || reg.job() != dragonfly.JobID(fmt.Sprint(2*maxJobs-1)) {
			w.Errorf("%d jobs, the newest %s", len(reg.jobs), reg.job())
		}
	})
}

// TestPeerThatCannotServe: one without addresses, and one that does not want to,
// are nobody's parents.
func TestPeerThatCannotServe(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		o.held = true
		ctx, h := hello(30)
		h.Addrs = nil
		s, err := w.sn.Open(ctx, h)
		if err != nil {
			w.Fatal(err)
		}
		deaf, shy := &client{world: w, Session: s, host: 30}, w.peer()
		deaf.register(deaf.has(url, o, 1))
		r := shy.has(url, o, 1)
		r.Serve = false // v1's pattern cdn
		shy.register(r)
		child := w.peer()
		child.register(child.wants(url))
		if work := child.sync(); len(work.Assignments) != 1 || work.Assignments[0].Parent.Kind != dragonfly.ParentSeed {
			w.Errorf("%+v", work)
		}
	})
}

// TestParentsInLogs: the name of a parent is what v1's logs show (FAQ: how to
// check if block piece is distributed among dfgets nodes).
func TestParentsInLogs(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		o.held = true
		a, b := w.peer(), w.peer()
		a.register(a.wants(url))
		work := a.sync()
		if got, want := work.Assignments[0].Parent.CID, "cdnnode:10.0.0.100~"+taskOf(url).String(); got != want {
			w.Errorf("the seed is %s, want %s", got, want)
		}
		a.later(a.report(about(dragonfly.EventVerified, work.Assignments[0])))
		b.register(b.wants(url))
		if got := b.sync().Assignments[0].Parent; got.CID != string(a.job()) || got.Session != a.Welcome().Session {
			w.Errorf("%+v", got)
		}
		other, o := w.source("b", 1)
		o.pace = time.Minute
		b.register(b.wants(other))
		w.seed.agent.die()
		ctx, h := hello(101)
		s, err := w.sn.SeedTracker().Open(ctx, h)
		if err != nil {
			w.Fatal(err)
		}
		seed := &client{world: w, Session: s, host: 101}
		if got := seed.sync().Assignments[0].Parent; got.Kind != dragonfly.ParentSource || got.CID != "source:origin.test" {
			w.Errorf("%+v", got)
		}
	})
}

// TestShutdownReleasesEverybody: with Unavailable, so that peers go elsewhere,
// and Run returns.
func TestShutdownReleasesEverybody(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		o.latency = time.Hour
		p, q := w.peer(), w.peer()
		sync := p.later(p.report())
		registered := make(chan error)
		go func() {
			_, err := q.Register(w.Context(), q.wants(url))
			registered <- err
		}()
		w.wait(time.Second)
		began := time.Now()
		w.stop()
		if err := <-registered; kindOf(err) != dragonfly.Unavailable {
			w.Errorf("register: %v", err)
		}
		<-sync.done
		if kindOf(sync.err) != dragonfly.Unavailable {
			w.Errorf("sync: %v", sync.err)
		}
		if d := time.Since(began); d != 0 {
			w.Errorf("took %v", d)
		}
		ctx, h := hello(60)
		if _, err := w.sn.Open(ctx, h); kindOf(err) != dragonfly.Unavailable {
			w.Errorf("open: %v", err)
		}
		if _, err := p.Sync(w.Context(), p.report()); kindOf(err) != dragonfly.Unavailable {
			w.Errorf("late sync: %v", err)
		}
		if got := p.fails(p.wants(url)); got != dragonfly.Unavailable {
			w.Errorf("late register: %s", got)
		}
		if err := p.Close(w.Context(), "over"); err != nil {
			w.Errorf("close: %v", err)
		}
	})
}

// TestMembers: who asks the wrong supernode hears who is alive, and ranks them
// himself; news of members reach every peer.
func TestMembers(t *testing.T) {
	two := []dragonfly.Member{{ID: "sn1", Addr: "10.0.0.1:8002", Weight: 1}, {ID: "sn2", Addr: "10.0.0.2:8002", Weight: 1}}
	inTime(t, func(c *Config) { c.Members = two }, func(w *world) {
		p := w.peer()
		if got := p.Welcome().Members; !cmp.Equal(got, two) {
			w.Errorf("welcome: %v", got)
		}
		mine, foreign := 0, ""
		for _, name := range strings.Split("abcdefghijklmnopqrst", "") {
			url, _ := w.source(name, 1)
			_, err := p.Register(w.Context(), p.wants(url))
			if dragonfly.Rank(taskOf(url), two)[0].ID == "sn1" {
				mine++
				if err != nil {
					w.Errorf("%s: %v", name, err)
				}
				continue
			}
			foreign = url
			e, _ := err.(*dragonfly.Error)
			if e == nil || e.Kind != dragonfly.NotOwner || !cmp.Equal(e.Members, two) {
				w.Errorf("%s: %v", name, err)
			}
		}
		if mine == 0 || foreign == "" {
			w.Fatal("the test shows nothing")
		}
		for more := true; more; _, more = p.next() {
		}
		w.sn.SetMembers(two[:1])
		if work, _ := p.next(); !cmp.Equal(work.Members, two[:1]) {
			w.Errorf("news of members: %+v", work)
		}
		p.register(p.wants(foreign)) // the owner failed: it is ours now
		w.sn.SetMembers(nil)         // itself alone, which is no news
	})
}

// TestKilledPeerMakesWay: a process that was killed, which shows when its sync
// breaks, is forgotten when another one comes with its data port; one that
// still listens is not.
func TestKilledPeerMakesWay(t *testing.T) {
	inTime(t, nil, func(w *world) {
		sessions := func() int { return len(w.sn.Peers()) - 1 } // without the seed
		killed := w.peer()
		next := func(agent string) *client {
			ctx, h := hello(killed.host)
			h.Agent = strings.Repeat(agent, 32)
			s, err := w.sn.Open(ctx, h)
			if err != nil {
				w.Fatal(err)
			}
			return &client{world: w, Session: s, host: killed.host}
		}
		heir := next("b")
		if sessions() != 1 {
			w.Errorf("%d sessions, want the newer alone", sessions())
		}
		if waiting := heir.later(heir.report()); waiting.over() {
			w.Errorf("the newer one does not wait: %v", waiting.err)
		}
		next("c")
		if sessions() != 2 {
			w.Errorf("%d sessions: one that listens was forgotten", sessions())
		}
	})
}

// TestHostDecidesWhoIsDifferent: the address that was accepted, not the name
// that a peer gives itself.
func TestHostDecidesWhoIsDifferent(t *testing.T) {
	inTime(t, nil, func(w *world) {
		ctx, h := hello(20)
		for _, name := range []string{"first", "second"} {
			h.Host.Name = name
			h.Addrs = []netip.AddrPort{netip.AddrPortFrom(h.Addrs[0].Addr(), h.Addrs[0].Port()+1)}
			h.Agent = strings.Repeat(name[:1], 32)
			h.Agent = strings.NewReplacer("f", "a", "s", "b").Replace(h.Agent)
			if _, err := w.sn.Open(ctx, h); err != nil {
				w.Fatal(err)
			}
		}
		hosts := map[string]int{}
		for _, ss := range w.sn.sessions {
			hosts[ss.where.Host]++
		}
		if hosts["10.0.0.20"] != 2 {
			w.Errorf("%v", hosts)
		}
		if got := w.sn.Peers(); len(got) != 3 || got[1].Peer != sched.Peer(2) {
			w.Errorf("%+v", got)
		}
	})
}

// TestOvertakenReport: a report that says that a piece is lost may overtake the
// one that says that it is held. The piece is lost, and the assignment that
// brought it has ended.
func TestOvertakenReport(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		o.held = true
		p := w.peer()
		p.register(p.wants(url))
		work := p.sync()
		verified := p.report(about(dragonfly.EventVerified, work.Assignments[0]))
		lost := about(dragonfly.EventLost, work.Assignments[0])
		lost.Assignment = 0
		p.later(p.report(lost))
		late := p.later(verified)
		if !late.over() || late.err != nil {
			w.Errorf("over %v %v", late.over(), late.err)
		}
		again := p.sync()
		if len(again.Assignments) == 0 {
			again = p.sync() // after a pause
		}
		if len(again.Assignments) != 1 || again.Assignments[0].ID == work.Assignments[0].ID {
			w.Fatalf("not given again: %+v", again)
		}
		p.later(p.report(about(dragonfly.EventVerified, again.Assignments[0])))
		if got := p.seen(url); got.Held != 1 || got.InWork != 0 {
			w.Errorf("%+v", got)
		}
	})
}
