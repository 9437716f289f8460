// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dragonfly"
)

// remembered is how long an answer of the source counts (design 9).
const remembered = 5 * time.Minute

// doorman is a source that gives to some and counts who asked.
type doorman struct {
	mu      sync.Mutex
	asked   []string // credentials, "" for none
	good    []string
	latency time.Duration
	fail    error // instead of an answer
}

func (d *doorman) allowed(ctx context.Context, r dragonfly.Request) error {
	d.mu.Lock()
	token := strings.Join(r.Header["Authorization"], ",")
	if strings.Contains(r.URL, "sign=good") {
		token = "sign"
	}
	d.asked = append(d.asked, token)
	good, fail, latency := slices.Contains(d.good, token), d.fail, d.latency
	d.mu.Unlock()
	select {
	case <-time.After(latency):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch {
	case fail != nil:
		return fail
	case !good:
		return &dragonfly.Error{Kind: dragonfly.Unauthorized, Status: 401, Message: "wants credentials"}
	}
	return nil
}

// change changes who may read.
func (d *doorman) change(f func(*doorman)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// times are the questions since the last call.
func (d *doorman) times() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := d.asked
	d.asked = nil
	return asked
}

func (w *world) guard(good ...string) *doorman {
	d := &doorman{good: good}
	w.seed.mu.Lock()
	defer w.seed.mu.Unlock()
	w.seed.allowed = d.allowed
	return d
}

// blob makes a source of a repository.
func (w *world) blob(repository, name string) (string, *origin) {
	return w.source("v2/"+repository+"/blobs/sha256:"+strings.Repeat(name, 64), 2)
}

func bearing(r dragonfly.Registration, token string) dragonfly.Registration {
	if token != "" {
		r.Request.Header = dragonfly.Header{"Authorization": {token}}
	}
	return r
}

// TestStrangers: who knows URL and TaskID but is refused by the source gets
// nothing, whatever he asks for (design 4.3, 9).
func TestStrangers(t *testing.T) {
	inTime(t, nil, func(w *world) {
		door := w.guard("mine")
		url, o := w.blob("team/app", "a")
		owner := w.peer()
		if info := owner.register(bearing(owner.wants(url), "mine")); info.Ticket.IsZero() {
			w.Fatalf("%+v", info)
		}
		if asked := door.times(); len(asked) != 0 {
			w.Errorf("asked %q: reading was proof enough", asked)
		}
		stranger := w.peer()
		for name, change := range map[string]func(*dragonfly.Registration){
			"wants":             func(*dragonfly.Registration) {},
			"inline":            func(r *dragonfly.Registration) { r.Inline = true },
			"serves":            func(r *dragonfly.Registration) { *r = stranger.has(url, o, 2); r.Holding = true },
			"wrong credentials": func(r *dragonfly.Registration) { *r = bearing(*r, "other") },
			"another header":    func(r *dragonfly.Registration) { r.Request.Header = dragonfly.Header{"X-Key": {"k"}} },
			"another URL": func(r *dragonfly.Registration) {
				r.Request.URL, r.Request.TaskURL = "http://origin.test/public", url
			},
			"another query": func(r *dragonfly.Registration) {
				r.Request.TaskURL = url
				r.Request.URL = url + "x?a=b"
			},
		} {
			r := stranger.wants(url)
			change(&r)
			kind := stranger.fails(r)
			if want := dragonfly.Unauthorized; kind != want && !(kind == dragonfly.Invalid && strings.HasPrefix(name, "another")) {
				w.Errorf("%s: %s", name, kind)
			}
		}
		if work, told := stranger.next(); told && (len(work.Tasks) > 0 || len(work.Manifest) > 0 || len(work.Assignments) > 0) {
			w.Errorf("told: %+v", work)
		}
		if got := w.detail(url).Peers; got != 1 {
			w.Errorf("%d peers", got)
		}
	})
}

// TestStrangersBeforeTheTask: what nobody wants yet is no way in either.
func TestStrangersBeforeTheTask(t *testing.T) {
	inTime(t, nil, func(w *world) {
		w.guard("mine")
		url, o := w.blob("team/app", "a")
		stranger, friend := w.peer(), w.peer()
		for p, token := range map[*client]string{stranger: "", friend: "also mine"} {
			r := bearing(p.has(url, o, 2), token)
			r.Holding = true
			if info := p.register(r); !info.Ticket.IsZero() {
				w.Errorf("%+v", info)
			}
			p.later(p.report())
		}
		w.guard("mine", "also mine")
		owner := w.peer()
		owner.register(bearing(owner.wants(url), "mine"))
		w.wait(time.Second)
		if stranger.last.over() {
			w.Errorf("the stranger was told %+v", stranger.last.work)
		}
		if !friend.last.over() || len(friend.last.work.Tasks) != 1 || friend.last.work.Tasks[0].Ticket.IsZero() {
			w.Errorf("who may have it was told %+v", friend.last.work)
		}
		if got := w.detail(url).Peers; got != 2 {
			w.Errorf("%d peers", got)
		}
	})
}

// TestPublicIsAskedOnce: what the source gives to everybody costs one question
// for a repository, however many come with tokens of their own (design 9).
func TestPublicIsAskedOnce(t *testing.T) {
	inTime(t, nil, func(w *world) {
		door := w.guard("")
		door.latency = 50 * time.Millisecond
		url, _ := w.blob("library/one", "a")
		other, _ := w.blob("library/one", "b")
		first := w.peer()
		first.register(bearing(first.wants(url), "token of the first"))
		var pulls sync.WaitGroup
		for range 100 {
			p := w.peer()
			pulls.Go(func() {
				for _, u := range []string{url, other} {
					if _, err := p.Register(w.Context(), bearing(p.wants(u), "token of "+string(p.job()))); err != nil {
						w.Error(err)
					}
				}
			})
		}
		pulls.Wait()
		if asked := door.times(); !slices.Equal(asked, []string{""}) {
			w.Errorf("asked %q", asked)
		}
	})
}

// TestPrivateIsAskedForEachCredential: once in five minutes, however many ask
// at once (design 9).
func TestPrivateIsAskedForEachCredential(t *testing.T) {
	inTime(t, nil, func(w *world) {
		door := w.guard("one", "two")
		door.latency = 50 * time.Millisecond
		url, _ := w.blob("team/app", "a")
		ask := func(token string, peers int) {
			var pulls sync.WaitGroup
			for range peers {
				p := w.peer()
				pulls.Go(func() {
					if _, err := p.Register(w.Context(), bearing(p.wants(url), token)); err != nil {
						w.Error(err)
					}
				})
			}
			pulls.Wait()
		}
		ask("one", 1) // reads it
		ask("two", 20)
		if asked := door.times(); !slices.Equal(asked, []string{"", "two"}) {
			w.Errorf("asked %q", asked)
		}
		ask("two", 20)
		if asked := door.times(); len(asked) != 0 {
			w.Errorf("asked again: %q", asked)
		}
		w.wait(remembered)
		ask("two", 20)
		if asked := door.times(); !slices.Equal(asked, []string{"", "two"}) {
			w.Errorf("asked %q after five minutes", asked)
		}
		// Another repository is another right.
		url, _ = w.blob("team/other", "a")
		ask("one", 1)
		door.change(func(d *doorman) { d.good = []string{"one"} })
		p := w.peer()
		if kind := p.fails(bearing(p.wants(url), "two")); kind != dragonfly.Unauthorized {
			w.Error(kind)
		}
	})
}

// TestSignedURLs: parameters that do not enter the TaskID may be a signature.
func TestSignedURLs(t *testing.T) {
	inTime(t, nil, func(w *world) {
		w.guard("sign")
		url, o := w.source("file", 2)
		signed := func(p *client, query string) dragonfly.Registration {
			r := p.wants(url + "?" + query)
			r.Request.TaskURL = url
			w.seed.mu.Lock()
			w.seed.sources[r.Request.URL] = o
			w.seed.mu.Unlock()
			return r
		}
		a, b, c := w.peer(), w.peer(), w.peer()
		a.register(signed(a, "sign=good&at=1"))
		b.register(signed(b, "sign=good&at=2"))
		if kind := c.fails(signed(c, "sign=bad")); kind != dragonfly.Unauthorized {
			w.Error(kind)
		}
		if kind := c.fails(c.wants(url)); kind != dragonfly.Unauthorized {
			w.Error(kind)
		}
	})
}

// TestSourceCannotBeAsked: what was everybody's stays so while the source is
// away; of the rest nobody new gets anything but the leave to ask it.
func TestSourceCannotBeAsked(t *testing.T) {
	inTime(t, nil, func(w *world) {
		door := w.guard("")
		public, _ := w.blob("library/one", "a")
		p := w.peer()
		p.register(p.wants(public))
		private, _ := w.blob("team/app", "a")
		p.register(bearing(p.wants(private), "mine"))
		p.later(p.report())
		door.change(func(d *doorman) {
			d.fail = &dragonfly.Error{Kind: dragonfly.SourceFailed, Message: "no connection"}
		})
		w.wait(remembered + time.Minute)
		q := w.peer()
		if info := q.register(bearing(q.wants(public), "token")); info.Grant != dragonfly.GrantNone || info.Ticket.IsZero() {
			w.Errorf("public: %+v", info)
		}
		if info := q.register(bearing(q.wants(private), "mine")); info.Grant != dragonfly.GrantDirect || !info.Ticket.IsZero() {
			w.Errorf("private: %+v", info)
		}
	})
}

// TestRightsAtANewVersion: who was let to an older version is let to the next
// one if the source still gives it to him, and told so otherwise.
func TestRightsAtANewVersion(t *testing.T) {
	inTime(t, nil, func(w *world) {
		door := w.guard("mine", "also mine", "no more")
		door.latency = time.Second
		url, o := w.source("v2/team/app/manifests/latest", 3)
		o.pace = time.Hour
		owner, friend, stranger := w.peer(), w.peer(), w.peer()
		for p, token := range map[*client]string{owner: "mine", friend: "also mine", stranger: "no more"} {
			p.register(bearing(p.wants(url), token))
			p.sync()
			p.later(p.report())
		}
		for range 12 { // nobody falls silent
			w.wait(time.Minute / 2)
			for _, p := range []*client{owner, friend, stranger} {
				p.next()
			}
		}
		door.change(func(d *doorman) { d.good = []string{"mine", "also mine"} })
		w.change(o, func(o *origin) { o.version = versionOf("another") })
		info := owner.register(bearing(owner.wants(url), "mine"))
		w.detail(url) // while it is asked
		w.wait(3 * time.Second)
		if work, told := friend.next(); !told || len(work.Tasks) != 1 || work.Tasks[0].Ticket != info.Ticket {
			w.Errorf("who may have it was told %+v", work)
		}
		work, told := stranger.next()
		if !told || len(work.Tasks) != 1 || !work.Tasks[0].Ticket.IsZero() || work.Tasks[0].Failed == nil || work.Tasks[0].Failed.Kind != dragonfly.Unauthorized {
			w.Errorf("the stranger was told %+v", work)
		}
		if d := w.detail(url); d.Peers != 2 || d.Version != o.version {
			w.Errorf("%+v", d.TaskState)
		}
	})
}
