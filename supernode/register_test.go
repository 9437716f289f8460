// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
)

// said is an error of the source with its HTTP status.
func said(kind dragonfly.Kind, status int) *dragonfly.Error {
	return &dragonfly.Error{Kind: kind, Status: status, Message: fmt.Sprintf("the source says %d", status)}
}

// attempt is a registration in the background.
type attempt struct {
	done chan struct{}
	info dragonfly.TaskInfo
	err  error
}

func (p *client) attempt(r dragonfly.Registration) *attempt {
	x := &attempt{done: make(chan struct{})}
	go func() {
		x.info, x.err = p.Register(p.Context(), r)
		close(x.done)
	}()
	synctest.Wait()
	return x
}

func (x *attempt) over() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// TestRegisterIsIdempotent: per task and job. A lost answer is asked for again
// and the same comes; the peer is in the task once.
func TestRegisterIsIdempotent(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 2)
		p := w.peer()
		first := p.register(p.wants(url))
		if first.Task != taskOf(url) || first.Version != o.version || first.Layout != o.layout() || first.Ticket.IsZero() || first.Failed != nil || first.Grant != "" {
			w.Errorf("%+v", first)
		}
		work := p.sync()
		for range 3 {
			if again := p.register(p.wants(url)); again.Ticket != first.Ticket || again.Version != first.Version {
				w.Errorf("%+v", again)
			}
		}
		d := w.detail(url)
		if d.Peers != 1 || len(d.Everyone) != 2 || p.seen(url).InWork != 2 || len(work.Assignments) != 2 {
			w.Errorf("%+v", d)
		}
		if x := p.later(p.report()); x.over() && len(x.work.Assignments) > 0 {
			w.Errorf("registering again gave %+v", x.work)
		}
	})
}

// TestConcurrentRegistrationsShareOnePrepare: all wait for it, whoever goes away
// meanwhile does not end it.
func TestConcurrentRegistrationsShareOnePrepare(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		o.latency = 3 * time.Second
		var all []*attempt
		for range 20 {
			p := w.peer()
			all = append(all, p.attempt(p.wants(url)))
		}
		first := w.peerAt(11) // opens again: its registration is void
		w.wait(2 * time.Second)
		for _, x := range all {
			if x.over() {
				w.Fatalf("did not wait: %+v %v", x.info, x.err)
			}
		}
		w.wait(2 * time.Second)
		for i, x := range all {
			if !x.over() {
				w.Fatal("still waits")
			}
			if i == 0 {
				if kindOf(x.err) != dragonfly.UnknownSession {
					w.Errorf("a registration of a session that is gone: %v", x.err)
				}
			} else if x.err != nil || x.info.Version != o.version {
				w.Errorf("%+v %v", x.info, x.err)
			}
		}
		first.register(first.wants(url))
		if got := w.asked(o); got != 1 {
			w.Errorf("the source was asked %d times", got)
		}
	})
}

// TestErrorsOfTheSourceReachAllWaiters: with their kind, once asked.
func TestErrorsOfTheSourceReachAllWaiters(t *testing.T) {
	for _, fail := range []*dragonfly.Error{
		said(dragonfly.Unauthorized, 401), said(dragonfly.Forbidden, 403), said(dragonfly.NotFound, 404),
		said(dragonfly.SourceFailed, 502), said(dragonfly.Throttled, 429), said(dragonfly.DigestMismatch, 200),
		{Kind: dragonfly.Invalid, Message: "redirected to ftp"}, {Kind: dragonfly.Forbidden, Message: "a link-local address"},
	} {
		inTime(t, nil, func(w *world) {
			url, o := w.source("a", 1)
			o.latency, o.fail = time.Second, fail
			var all []*attempt
			for range 5 {
				p := w.peer()
				all = append(all, p.attempt(p.wants(url)))
			}
			w.wait(2 * time.Second)
			for _, x := range all {
				e, _ := x.err.(*dragonfly.Error)
				if e == nil || e.Kind != fail.Kind || e.Status != fail.Status || e.Message != fail.Message {
					w.Errorf("%s %d: %v", fail.Kind, fail.Status, x.err)
				}
			}
			if got := w.asked(o); got != 1 {
				w.Errorf("%s: asked %d times", fail.Kind, got)
			}
			if got := w.metric(`dragonfly_supernode_dfgettasks_failed_total{callsystem=""}`); got != "5" {
				w.Errorf("%s: %q failures counted", fail.Kind, got)
			}
		})
	}
}

// TestNotFoundIsRemembered: 404 and 410 for failAccessInterval and no longer;
// what else the source says is asked again at once.
func TestNotFoundIsRemembered(t *testing.T) {
	for _, c := range []struct {
		fail       *dragonfly.Error
		remembered bool
	}{
		{said(dragonfly.NotFound, 404), true}, {said(dragonfly.NotFound, 410), true},
		{said(dragonfly.SourceFailed, 503), false}, {said(dragonfly.Forbidden, 403), false},
	} {
		inTime(t, func(cfg *Config) { cfg.FailAccess = time.Minute }, func(w *world) {
			url, o := w.source("a", 1)
			o.fail = c.fail
			p := w.peer()
			p.later(p.report()) // it stays
			if got := p.fails(p.wants(url)); got != c.fail.Kind {
				w.Errorf("%s", got)
			}
			w.change(o, func(o *origin) { o.fail = nil })
			w.wait(59 * time.Second)
			if c.remembered {
				if got := p.fails(p.wants(url)); got != dragonfly.NotFound || w.asked(o) != 1 {
					w.Errorf("%d: not remembered: %s, asked %d times", c.fail.Status, got, w.asked(o))
				}
				if state := w.detail(url); state.Status != "SOURCEERROR" || state.Failed != dragonfly.NotFound {
					w.Errorf("shown as %s, %s", state.Status, state.Failed)
				}
				w.wait(2 * time.Second)
			}
			p.register(p.wants(url))
			if w.asked(o) != 2 {
				w.Errorf("%d: asked %d times", c.fail.Status, w.asked(o))
			}
		})
	}
}

// TestCredentialsOfOthers: that somebody's were refused says nothing about
// others', not even of those who waited for the answer; the same are not tried
// again for everybody who waits.
func TestCredentialsOfOthers(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		o.latency, o.fail = time.Second, said(dragonfly.Unauthorized, 401)
		bad, same, good := w.peer(), w.peer(), w.peer()
		first, second := bad.attempt(bad.wants(url)), same.attempt(same.wants(url))
		r := good.wants(url)
		r.Request.Header = dragonfly.Header{"Authorization": {"Bearer good"}}
		third := good.attempt(r)
		w.wait(1500 * time.Millisecond)
		w.change(o, func(o *origin) { o.fail = nil })
		w.wait(time.Second)
		if kindOf(first.err) != dragonfly.Unauthorized || kindOf(second.err) != dragonfly.Unauthorized {
			w.Errorf("%v, %v", first.err, second.err)
		}
		if !third.over() || third.err != nil || o.header["Authorization"][0] != "Bearer good" {
			w.Errorf("%v, asked with %v", third.err, o.header)
		}
		if w.asked(o) != 2 {
			w.Errorf("asked %d times", w.asked(o))
		}
	})
}

// TestRevalidation: at most once in 10 s however many register, and never for
// content that its URL names by digest.
func TestRevalidation(t *testing.T) {
	for _, c := range []struct {
		name string
		want int
	}{
		{"file", 3}, {"v2/library/x/manifests/latest", 3}, // at 0, 10 and 20 s
		{"v2/library/x/blobs/sha256:" + strings.Repeat("ab", 32), 1},
		{"v2/library/x/blobs/sha512:" + strings.Repeat("ab", 64), 1},
		{"v2/library/x/blobs/sha256:abcd", 3}, // no digest
		{"blobs/" + strings.Repeat("ab", 16), 3},
	} {
		inTime(t, nil, func(w *world) {
			url, o := w.source(c.name, 1)
			for range 30 {
				p := w.peer()
				p.register(p.wants(url))
				w.wait(time.Second)
			}
			if got := w.asked(o); got != c.want {
				w.Errorf("%s: asked %d times in 30 s, want %d", c.name, got, c.want)
			}
		})
	}
}

// TestUnreachableSourceKeepsTheVersion: that the source cannot be asked says
// nothing against what the swarm has (v1-protocol 11.2); that it refuses does.
func TestUnreachableSourceKeepsTheVersion(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		p := w.peer()
		p.register(p.wants(url))
		for _, fail := range []*dragonfly.Error{{Kind: dragonfly.SourceFailed, Message: "no route"}, said(dragonfly.SourceFailed, 500), said(dragonfly.Throttled, 429)} {
			w.change(o, func(o *origin) { o.fail = fail })
			w.wait(11 * time.Second)
			if info := p.register(p.wants(url)); info.Version != o.version || info.Grant != "" {
				w.Errorf("%v: %+v", fail, info)
			}
		}
		w.change(o, func(o *origin) { o.fail = said(dragonfly.Unauthorized, 401) })
		w.wait(11 * time.Second)
		if got := p.fails(p.wants(url)); got != dragonfly.Unauthorized {
			w.Errorf("%s", got)
		}
	})
}

// TestInline: up to 64 KiB come inside the answer, if the peer asks for it and
// the seed has it all; nothing is scheduled for it then.
func TestInline(t *testing.T) {
	inTime(t, nil, func(w *world) {
		for _, c := range []struct {
			name   string
			length int64
			held   bool
			ask    bool
			inline bool
		}{
			{"limit", dragonfly.InlineMax, true, true, true},
			{"small", 1, true, true, true},
			{"larger", dragonfly.InlineMax + 1, true, true, false},
			{"not asked", 1, true, false, false},
			{"not there", 1, false, true, false},
		} {
			url, o := w.source(c.name, 1)
			o.length, o.held = c.length, c.held
			if c.length > block {
				o.pieces = 2
			}
			p := w.peer()
			r := p.wants(url)
			r.Inline = c.ask
			info := p.register(r)
			if info.Complete != c.inline || c.inline && !bytes.Equal(info.Inline, bytes.Repeat([]byte{'x'}, int(c.length))) {
				w.Errorf("%s: complete %v, %d bytes", c.name, info.Complete, len(info.Inline))
			}
			if info.Ticket.IsZero() || info.Version != o.version {
				w.Errorf("%s: not enough to serve it: %+v", c.name, info)
			}
			if x := p.later(p.report()); x.over() == c.inline {
				w.Errorf("%s: work %v", c.name, x.over())
			}
			if !c.inline {
				continue
			}
			// It becomes a holder when it says so.
			p.later(p.report(dragonfly.Event{Kind: dragonfly.EventVerified, Task: info.Task, Version: info.Version}))
			if got := p.seen(url); got.Held != 1 || got.Status != "SUCCESS" {
				w.Errorf("%s: %+v", c.name, got)
			}
			// And does not get it again.
			r.Version, r.Layout, r.Held = info.Version, info.Layout, dragonfly.NewPieceSet(1)
			if again := p.register(r); again.Complete {
				w.Errorf("%s: again", c.name)
			}
		}
	})
}

// TestDirectGrant: where the seed cannot reach the source or has no room the
// peer may read it alone; what the source said itself counts for everybody.
func TestDirectGrant(t *testing.T) {
	for _, c := range []struct {
		fail  error
		grant bool
	}{
		{&dragonfly.Error{Kind: dragonfly.SourceFailed, Message: "connection refused"}, true},
		{&dragonfly.Error{Kind: dragonfly.NoSpace, Message: "the disk is full"}, true},
		{errors.New("a fault of ours"), true},
		{said(dragonfly.SourceFailed, 500), false},
		{said(dragonfly.Unauthorized, 401), false},
		{&dragonfly.Error{Kind: dragonfly.Forbidden, Message: "a link-local address"}, false},
	} {
		inTime(t, nil, func(w *world) {
			url, o := w.source("a", 1)
			o.fail = c.fail
			p := w.peer()
			info, err := p.Register(w.Context(), p.wants(url))
			granted := err == nil && info.Grant == dragonfly.GrantDirect && info.Ticket.IsZero() && info.Task == taskOf(url)
			if granted != c.grant {
				w.Errorf("%v: %+v %v", c.fail, info, err)
			}
			if len(w.sn.Tasks()) != 0 {
				w.Errorf("%v: a task stays", c.fail)
			}
		})
	}
}

// TestRegistrationIsChecked: what comes from outside is bounded, and the error
// quotes no secret.
func TestRegistrationIsChecked(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, change := range map[string]func(*dragonfly.Registration){
		"no job":            func(r *dragonfly.Registration) { r.Job = "" },
		"job of lines":      func(r *dragonfly.Registration) { r.Job = "a\nb" },
		"endless job":       func(r *dragonfly.Registration) { r.Job = dragonfly.JobID(long) },
		"no url":            func(r *dragonfly.Registration) { r.Request.URL = "" },
		"no host":           func(r *dragonfly.Registration) { r.Request.URL = "http:///secret" },
		"not http":          func(r *dragonfly.Registration) { r.Request.URL = "ftp://host/secret" },
		"file":              func(r *dragonfly.Registration) { r.Request.URL = "file:///secret" },
		"bad url":           func(r *dragonfly.Registration) { r.Request.URL = "http://host/%zz?secret" },
		"endless url":       func(r *dragonfly.Registration) { r.Request.URL += long },
		"endless task url":  func(r *dragonfly.Registration) { r.Request.TaskURL = long },
		"identifier":        func(r *dragonfly.Registration) { r.Request.Identifier = long },
		"root certificates": func(r *dragonfly.Registration) { r.Request.RootCAs = []byte(long + long) },
		"callsystem":        func(r *dragonfly.Registration) { r.Request.CallSystem = "a\"\n" },
		"endless system":    func(r *dragonfly.Registration) { r.Request.CallSystem = long },
		"slots":             func(r *dragonfly.Registration) { r.Slots = -1 },
		"many slots":        func(r *dragonfly.Registration) { r.Slots = 1 << 20 },
		"length":            func(r *dragonfly.Registration) { r.Layout.Length = -2 },
		"piece length":      func(r *dragonfly.Registration) { r.Layout.PieceLen = -1 },
		"huge pieces":       func(r *dragonfly.Registration) { r.Layout.PieceLen = 1 << 62 },
		"header name":       func(r *dragonfly.Registration) { r.Request.Header = dragonfly.Header{"a b": {"secret"}} },
		"empty header name": func(r *dragonfly.Registration) { r.Request.Header = dragonfly.Header{"": {"secret"}} },
		"header value":      func(r *dragonfly.Registration) { r.Request.Header = dragonfly.Header{"a": {"secret\r\nHost: b"}} },
		"long header":       func(r *dragonfly.Registration) { r.Request.Header = dragonfly.Header{"a": {long}} },
		"many headers": func(r *dragonfly.Registration) {
			r.Request.Header = dragonfly.Header{}
			for i := range 100 {
				r.Request.Header[fmt.Sprintf("h%d", i)] = []string{"secret"}
			}
		},
	} {
		r := dragonfly.Registration{Job: "10.0.0.9-1", Request: request("http://host/path")}
		if err := validate(r); err != nil {
			t.Fatal(err)
		}
		change(&r)
		err := validate(r)
		if kindOf(err) != dragonfly.Invalid || strings.Contains(err.Error(), "secret") || len(err.Error()) > 200 {
			t.Errorf("%s: %.300v", name, err)
		}
	}
	inTime(t, nil, func(w *world) {
		ctx, h := hello(100)
		s, err := w.sn.SeedTracker().Open(ctx, h)
		if err != nil {
			w.Fatal(err)
		}
		if _, err := s.Register(w.Context(), dragonfly.Registration{Job: "j", Request: request("http://host/path")}); kindOf(err) != dragonfly.Invalid {
			w.Errorf("the seed registers: %v", err)
		}
	})
}

// TestStoppedJob: the last job that stops ends what the peer wants, whatever
// other jobs did before; until then it goes on. What it holds is served on.
func TestStoppedJob(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		o.pace = time.Hour
		p := w.peer()
		stop := func(job dragonfly.JobID) {
			w.Helper()
			x := p.later(p.report(dragonfly.Event{Kind: dragonfly.EventStopped, Task: taskOf(url), Version: o.version, Job: job}))
			if x.over() {
				p.ack = max(p.ack, x.work.Seq)
			}
		}
		start := func(job dragonfly.JobID) {
			r := p.wants(url)
			r.Job = job
			p.register(r)
		}
		wants := func(want bool) {
			w.Helper()
			if got := w.detail(url).Waiting == 1; got != want {
				w.Errorf("wants %v, must %v", got, want)
			}
		}
		start("a")
		start("b")
		wants(true)
		stop("b")
		wants(true)
		stop("b") // a copy
		wants(true)
		stop("a")
		wants(false)
		start("c")
		wants(true)
		stop("c")
		wants(false)
		start("d")
		start("e")
		stop("") // all of them
		wants(false)
		p.later(p.report(dragonfly.Event{Kind: dragonfly.EventDropped, Task: taskOf(url)}))
		if got := w.detail(url).Peers; got != 0 {
			w.Errorf("%d peers after it dropped the task", got)
		}
	})
}

// TestHoldersAreNotForgotten: who says that it serves a task is remembered until
// somebody wants it, and counts then, without the source being asked for it.
func TestHoldersAreNotForgotten(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 2)
		a, b := w.peer(), w.peer()
		for _, holder := range []*client{a, b} {
			r := holder.has(url, o, 2)
			r.Holding = true
			if info := holder.register(r); info.Version != o.version || !info.Ticket.IsZero() || w.asked(o) != 0 {
				w.Errorf("%+v, asked %d times", info, w.asked(o))
			}
			holder.later(holder.report())
		}
		child := w.peer()
		info := child.register(child.wants(url))
		work := child.sync()
		if len(work.Assignments) != 2 {
			w.Fatalf("%+v", work)
		}
		for _, x := range work.Assignments {
			if x.Parent.Kind != dragonfly.ParentPeer || x.Parent.CID == "" || len(x.Parent.Addrs) != 1 {
				w.Errorf("%+v", x.Parent)
			}
		}
		if got := w.detail(url); got.Holders[0] != 2 || got.Holders[1] != 2 {
			w.Errorf("holders %v", got.Holders)
		}
		// One ticket for all of this version, also for who came first.
		r := a.has(url, o, 2)
		r.Holding = true
		if again := a.register(r); again.Ticket != info.Ticket {
			w.Error("the holder has another ticket than the child")
		}
	})
}

// TestHoldingWhileForgetting: a registration that comes while the seed forgets
// the task is not lost with it.
func TestHoldingWhileForgetting(t *testing.T) {
	inTime(t, func(c *Config) { c.TaskExpire = 30 * time.Second }, func(w *world) {
		url, o := w.source("a", 1)
		w.seed.forgets = 10 * time.Second
		p := w.peer()
		stay := func() { p.later(p.report()) }
		r := p.has(url, o, 1)
		r.Holding = true
		p.register(r)
		q := w.peer()
		q.register(q.wants(url))
		if err := q.Close(w.Context(), "done"); err != nil {
			w.Fatal(err)
		}
		stay()
		w.wait(34 * time.Second)
		if d := w.detail(url); d.Peers != 0 {
			w.Fatalf("not being forgotten: %+v", d)
		}
		stay()
		p.register(r)
		waiting := w.peer()
		x := waiting.attempt(waiting.wants(url))
		w.wait(6500 * time.Millisecond)
		if !x.over() || x.err != nil {
			w.Fatalf("over %v: %v", x.over(), x.err)
		}
		if got := p.seen(url); got.Held != 1 {
			w.Errorf("%+v", got)
		}
		if len(w.seed.forgotten) != 1 {
			w.Errorf("forgotten %d times", len(w.seed.forgotten))
		}
	})
}

// TestTicketsOfHoldersAreBounded: a peer that claims to hold one version after
// the other does not fill the books.
func TestTicketsOfHoldersAreBounded(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		p, q := w.peer(), w.peer()
		r := q.has(url, o, 1)
		r.Holding = true
		kept := q.register(r).Ticket
		for i := range 1000 {
			r := p.has(url, o, 1)
			r.Holding = true
			r.Version = versionOf(fmt.Sprint(i))
			p.register(r)
		}
		if got := len(w.sn.tasks[taskOf(url)].tickets); got > 10 {
			w.Errorf("%d tickets", got)
		}
		if info := q.register(r); info.Ticket != kept {
			w.Error("an honest holder's ticket was lost")
		}
	})
}

// TestTaskExpires: one that nobody waits for is forgotten by the supernode and
// its seed after taskExpireTime; one that somebody waits for is not.
func TestTaskExpires(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, _ := w.source("a", 1)
		slow, o := w.source("slow", 1)
		o.pace = time.Hour
		p := w.peer()
		p.register(p.wants(url))
		p.register(p.wants(slow))
		for range 10 {
			for _, a := range p.sync().Assignments {
				if a.Task == taskOf(url) {
					p.sync(about(dragonfly.EventVerified, a))
				}
			}
		}
		w.wait(0)
		if _, ok := w.sn.Task(taskOf(url)); ok {
			w.Error("still there")
		}
		if _, ok := w.sn.Task(taskOf(slow)); !ok {
			w.Error("the other is gone")
		}
		if len(w.seed.forgotten) != 1 || w.metric("dragonfly_supernode_gc_tasks_total") != "1" {
			w.Errorf("%v", w.seed.forgotten)
		}
		p.register(p.wants(url))
	})
}

// TestKnownBytes: the seed hears what a peer that registers holds from the start
// on, so that it opens the source behind it.
func TestKnownBytes(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 5)
		p := w.peer()
		r := p.has(url, o, 3)
		r.Held.Add(4)
		p.register(r)
		if o.from.Version != o.version || o.from.From != 3*block {
			w.Errorf("%+v", o.from)
		}
	})
}

// TestRangeIsATask: a header spelled Range takes part in the task's identity,
// others are secrets of one registration.
func TestRangeIsATask(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, _ := w.source("a", 1)
		p := w.peer()
		whole := p.register(p.wants(url))
		r := p.wants(url)
		r.Request.Header = dragonfly.Header{"Range": {"bytes=0-9"}}
		if part := p.register(r); part.Task == whole.Task {
			w.Error("the range has the same task")
		}
		r.Request.Header = dragonfly.Header{"Authorization": {"Basic c2VjcmV0"}}
		if again := p.register(r); again.Task != whole.Task {
			w.Error("credentials make another task")
		}
	})
}

// TestBehindTheEnd: who asks for what lies behind the end gets nothing more than
// what he asked for before.
func TestBehindTheEnd(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, _ := w.source("a", 4)
		p := w.peer()
		r := p.wants(url)
		r.Want = []dragonfly.Span{{From: 0, To: 1}}
		p.register(r)
		r.Job, r.Want = "another", []dragonfly.Span{{From: 100 * block, To: 101 * block}}
		p.register(r)
		p.finish()
		if got := p.seen(url); got.Held != 1 {
			w.Errorf("%d pieces", got.Held)
		}
	})
}
