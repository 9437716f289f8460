// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// reasons is the closed list of why a peer may wait.
var reasons = []sched.Reason{
	sched.WaitSlots, sched.WaitSource, sched.WaitParents, sched.WaitBlacklist, sched.WaitIsolated, sched.WaitSilent,
	sched.WaitClosed, sched.WaitFree, sched.WaitUnverified, sched.WaitPause,
}

// get asks the state's handler.
func (w *world) get(path string) (int, string) {
	synctest.Wait()
	rec := httptest.NewRecorder()
	w.sn.Admin().ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	return rec.Code, rec.Body.String()
}

func TestState(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 3)
		o.pace = time.Second
		p, q := w.peer(), w.peer()
		p.register(p.wants(url))
		work := p.sync()
		w.wait(1500 * time.Millisecond) // the seed has all
		p.later(p.report(about(dragonfly.EventVerified, work.Assignments[0])))
		q.register(q.wants(url))

		code, body := w.get("/p2p/v1/state/tasks")
		var tasks struct{ Tasks []TaskState }
		if err := json.Unmarshal([]byte(body), &tasks); err != nil || code != 200 || len(tasks.Tasks) != 1 {
			w.Fatalf("%d %v: %s", code, err, body)
		}
		got := tasks.Tasks[0]
		if got.ID != taskOf(url) || got.URL != url || got.Status != "SUCCESS" || got.Version != o.version || got.Length != 3*block ||
			got.PieceLen != block || got.Pieces != 3 || got.SeedHeld != 3 || got.Manifest != 3 || got.Waiting != 2 || got.Peers != 2 || got.Source != "open" {
			w.Errorf("%+v", got)
		}

		code, body = w.get("/p2p/v1/state/tasks/" + got.ID.String())
		var detail TaskDetail
		if err := json.Unmarshal([]byte(body), &detail); err != nil || code != 200 {
			w.Fatalf("%d %v: %s", code, err, body)
		}
		if n := work.Assignments[0].Piece; detail.Holders[n] != 2 || detail.Holders[(n+1)%3] != 1 {
			w.Errorf("the piece map: %v", detail.Holders)
		}
		if len(detail.Everyone) != 3 || !detail.Everyone[0].Seed || detail.Everyone[0].Has.Count() != 3 {
			w.Fatalf("%+v", detail.Everyone)
		}
		if x := detail.Everyone[1]; x.Host != "host11" || x.Job != p.job() || x.Status != "RUNNING" || x.Held != 1 || !x.Has.Has(work.Assignments[0].Piece) || x.InWork != 2 || !x.Serves {
			w.Errorf("%+v", x)
		}

		code, body = w.get("/p2p/v1/state/peers")
		var peers struct{ Peers []PeerState }
		if err := json.Unmarshal([]byte(body), &peers); err != nil || code != 200 || len(peers.Peers) != 3 {
			w.Fatalf("%d %v: %s", code, err, body)
		}
		if x := peers.Peers[2]; x.Peer != 3 || x.Host != "host12" || x.IP != netip.MustParseAddr("10.0.0.12") || len(x.Addrs) != 1 ||
			x.Zone != "z" || x.Build != "test" || x.Tasks != 1 || x.Silent < 1.4 || peers.Peers[1].Silent != 0 || !peers.Peers[0].Seed {
			w.Errorf("%+v", peers.Peers)
		}

		for path, want := range map[string]int{
			"/p2p/v1/state/tasks/nonsense":                   400,
			"/p2p/v1/state/tasks/" + strings.Repeat("0", 64): 404,
			"/p2p/v1/state/else":                             404,
		} {
			if code, body := w.get(path); code != want {
				w.Errorf("%s: %d %s", path, code, body)
			}
		}
	})
	// Nothing is there yet: lists, not null.
	inTime(t, nil, func(w *world) {
		if _, body := w.get("/p2p/v1/state/tasks"); !strings.Contains(body, `"tasks": []`) {
			w.Errorf("%s", body)
		}
	})
}

// TestWhyPeersWait: whoever waits has a reason, and it is the right one.
func TestWhyPeersWait(t *testing.T) {
	for _, c := range []struct {
		want sched.Reason
		do   func(w *world, p *client, o *origin, url string)
	}{
		{sched.WaitSource, func(w *world, p *client, o *origin, url string) { // an unknown length: what is not there is not given
			w.change(o, func(o *origin) { o.known = false })
			p.register(p.wants(url))
			p.later(p.report())
		}},
		{sched.WaitSlots, func(w *world, p *client, _ *origin, url string) {
			p.register(p.wants(url))
			p.news()
		}},
		{sched.WaitFree, func(w *world, p *client, _ *origin, url string) {
			p.register(p.wants(url))
			r := p.report()
			r.Free = 0
			p.later(r)
		}},
		{sched.WaitSilent, func(w *world, p *client, _ *origin, url string) {
			p.register(p.wants(url))
			w.wait(4 * time.Second)
		}},
		{sched.WaitParents, func(w *world, p *client, o *origin, url string) {
			x := w.peer() // takes the four slots of the seed and gives nothing
			r := x.wants(url)
			r.Serve = false
			x.register(r)
			x.news()
			p.register(p.wants(url))
			p.news()
		}},
		{sched.WaitPause, func(w *world, p *client, _ *origin, url string) {
			p.register(p.wants(url))
			work := p.sync()
			p.later(p.report(failure(work.Assignments[0], dragonfly.FailStore)))
		}},
		{sched.WaitClosed, func(w *world, p *client, o *origin, url string) {
			w.change(o, func(o *origin) { o.broken, o.pace = said(dragonfly.SourceFailed, 500), 0 })
			p.register(p.wants(url))
			p.news()
		}},
		{sched.WaitUnverified, func(w *world, p *client, _ *origin, url string) {
			p.register(p.wants(url))
			work := p.sync()
			p.later(p.report(about(dragonfly.EventReceived, work.Assignments[0]), about(dragonfly.EventReceived, work.Assignments[1])))
		}},
	} {
		inTime(t, nil, func(w *world) {
			url, o := w.source("a", 8)
			if c.want == sched.WaitUnverified {
				url, o = w.source("b", 2)
			}
			o.pace = time.Hour
			p := w.peer()
			c.do(w, p, o, url)
			if got := p.seen(url).Waits; got != c.want {
				w.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestNoSecretIsShown: session ids, tickets, headers, user info and the values
// of queries are in no state, log or metric.
func TestNoSecretIsShown(t *testing.T) {
	inTime(t, nil, func(w *world) {
		const secret = "s3cr3t"
		_, o := w.source("a", 2)
		raw := "http://user:" + secret + "@origin.test/a?token=" + secret + "&" + secret + "#" + secret
		for name, fail := range map[string]error{
			"good":        nil,
			"refused":     &dragonfly.Error{Kind: dragonfly.Unauthorized, Status: 401, Message: "no " + secret},
			"unreachable": &dragonfly.Error{Kind: dragonfly.SourceFailed, Err: &url.Error{Op: "Get", URL: raw, Err: fmt.Errorf("dial")}},
			"broken":      &url.Error{Op: "Get", URL: raw, Err: fmt.Errorf("dial")},
		} {
			w.seed.sources[raw+name] = &origin{version: versionOf(name), pieces: 2, known: true, fail: fail}
		}
		var tickets []string
		p := w.peer()
		for name := range w.seed.sources {
			r := with(p.wants(name), secret)
			r.Request.Header["Cookie"] = []string{secret}
			if info, err := p.Register(w.Context(), r); err == nil {
				tickets = append(tickets, info.Ticket.Secret())
			}
		}
		p.news()
		w.change(o, func(o *origin) { o.broken = said(dragonfly.Unauthorized, 401) })
		p.register(with(p.wants("http://origin.test/a"), secret))
		p.news()
		w.wait(30 * time.Second)
		q := w.peer()
		shown := w.scrape()
		for _, path := range []string{"/p2p/v1/state/tasks", "/p2p/v1/state/peers"} {
			_, body := w.get(path)
			shown += body
		}
		for _, task := range w.sn.Tasks() {
			_, body := w.get("/p2p/v1/state/tasks/" + task.ID.String())
			shown += body
		}
		if err := p.Close(w.Context(), "done"); err != nil {
			w.Error(err)
		}
		w.stop()
		shown += w.logs.String()
		if !strings.Contains(shown, "origin.test/a?token=") {
			w.Fatal("the test shows nothing")
		}
		secrets := append(tickets, secret, string(p.Welcome().Session), string(q.Welcome().Session))
		for line := range strings.Lines(shown) {
			for _, s := range secrets {
				if s != "" && strings.Contains(line, s) && !strings.Contains(s, strings.Repeat("0", 32)) {
					w.Errorf("shown: %s", line)
				}
			}
		}
	})
}

func TestRedact(t *testing.T) {
	for raw, want := range map[string]string{
		"http://host/a":                      "http://host/a",
		"https://host:1/a?b=c&d=e&f":         "https://host:1/a?b=…&d=…&…",
		"http://me:pw@host/a":                "http://%E2%80%A6@host/a",
		"http://host/a#frag":                 "http://host/a",
		"http://host/%zz?token=abc":          "?",
		"http://host/a?X-Amz-Signature=abcd": "http://host/a?X-Amz-Signature=…",
	} {
		if got := Redact(raw); got != want {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
	}
}

// everybodyHasAReason checks the state of a task: whoever waits with nothing in
// work says why, and says nothing else than what is on the list.
func (w *world) everybodyHasAReason(url string) {
	w.Helper()
	d, ok := w.sn.Task(taskOf(url))
	if !ok {
		return
	}
	for _, x := range d.Everyone {
		if x.Waits != sched.WaitNothing && !slices.Contains(reasons, x.Waits) {
			w.Errorf("peer %d waits for %q", x.Peer, x.Waits)
		}
		if x.Status == "RUNNING" && !x.Seed && x.InWork == 0 && x.Waits == sched.WaitNothing {
			w.Errorf("peer %d waits without a reason: %+v", x.Peer, x)
		}
	}
}
