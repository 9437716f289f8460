// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dragonfly"
	"dragonfly/wire"
)

var hello = dragonfly.Hello{
	Protocol: dragonfly.ProtocolNumber,
	Agent:    "00112233445566778899aabbccddeeff",
	Build:    "test",
	Host:     dragonfly.Host{Name: "h1", Zone: "z1", Rack: "r1", Uploads: 5},
	Addrs:    []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:20301"), netip.MustParseAddrPort("[2001:db8::1]:20301")},
}

// serve puts a Server before t and gives its address.
func serve(t *testing.T, tr dragonfly.Tracker, o wire.ServerOptions) (addr string, _ *wire.Server) {
	t.Helper()
	s := wire.NewServer(tr, o)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	t.Cleanup(s.Close)
	return h.Listener.Addr().String(), s
}

func dial(t *testing.T, addr string) *wire.Client {
	t.Helper()
	c := wire.NewClient(addr, wire.ClientOptions{Build: "test"})
	t.Cleanup(c.Close)
	return c
}

func open(t *testing.T, tr dragonfly.Tracker) dragonfly.Session {
	t.Helper()
	s, err := tr.Open(t.Context(), hello)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestContract: a Tracker behaves the same in process and over HTTP.
func TestContract(t *testing.T) {
	type peer struct {
		name    string
		tracker *tracker
		client  dragonfly.Tracker
	}
	direct, remote := newTracker(time.Minute), newTracker(time.Minute)
	addr, _ := serve(t, remote, wire.ServerOptions{})
	for _, p := range []peer{{"in process", direct, direct}, {"over HTTP", remote, dial(t, addr)}} {
		t.Run(p.name, func(t *testing.T) {
			ctx := t.Context()
			s := open(t, p.client)
			w := s.Welcome()
			if w.Session != "session-1" || w.Poll != time.Minute || len(w.Members) != 2 || w.Node.Weight != 2 {
				t.Errorf("welcome %+v", w)
			}

			request := dragonfly.Request{URL: "http://o/f?a=1", TaskURL: "http://o/f", Header: dragonfly.Header{"Authorization": {"secret"}}}
			info, err := s.Register(ctx, dragonfly.Registration{Job: "j", Request: request, Held: dragonfly.NewPieceSet(3), Inline: true})
			if err != nil {
				t.Fatal(err)
			}
			want := dragonfly.TaskInfo{
				Task: request.TaskID(), Version: dragonfly.Version{1, 2, 3}, Ticket: dragonfly.Ticket{9, 8, 7},
				Layout: dragonfly.Layout{Length: 14, PieceLen: 4<<20 - 5}, Complete: true, Inline: []byte("http://o/f?a=1"),
			}
			if diff := cmp.Diff(want, info, cmp.Comparer(func(a, b dragonfly.Digest) bool { return a == b })); diff != "" {
				t.Error(diff)
			}

			work, err := s.Sync(ctx, dragonfly.Report{Seq: 1, Free: 4, Events: []dragonfly.Event{
				{Kind: dragonfly.EventVerified, Task: info.Task, Version: info.Version, Piece: 2, Offset: 8 << 20, Digest: dragonfly.PieceDigest{5}},
				{Kind: dragonfly.EventFailed, Task: info.Task, Version: info.Version, Failure: &dragonfly.Error{Kind: dragonfly.NotFound, Message: "gone"}},
			}})
			if err != nil || work.Seq != 1 || len(work.Assignments) != 2 || work.Assignments[0].Span != (dragonfly.Span{From: 8 << 20, To: 8<<20 + dragonfly.BlockLen}) {
				t.Errorf("work %+v, %v", work, err)
			}

			// A newer sync releases the older.
			older := make(chan error, 1)
			go func() {
				work, err := s.Sync(ctx, dragonfly.Report{Seq: 2})
				if err == nil && work.Seq != 2 {
					err = fmt.Errorf("answer %+v", work)
				}
				older <- err
			}()
			if err := p.tracker.await(ctx, 1); err != nil {
				t.Fatal(err)
			}
			newer, cancel := context.WithCancel(ctx)
			ended := make(chan error, 1)
			go func() { _, err := s.Sync(newer, dragonfly.Report{Seq: 3}); ended <- err }()
			if err := <-older; err != nil {
				t.Error(err)
			}
			// A sync that its user gives up ends at the tracker too.
			if err := p.tracker.await(ctx, 1); err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled sync: %v", err)
			}
			if err := p.tracker.await(ctx, 0); err != nil {
				t.Fatal(err)
			}

			// The same agent replaces its session; the old one is dead.
			again := open(t, p.client)
			if _, err := s.Sync(ctx, dragonfly.Report{Seq: 4}); dragonfly.KindOf(err) != dragonfly.UnknownSession {
				t.Errorf("sync of a replaced session: %v", err)
			}
			for range 2 {
				if err := again.Close(ctx, "done & gone"); err != nil {
					t.Error(err)
				}
			}
			if _, err := again.Register(ctx, dragonfly.Registration{}); dragonfly.KindOf(err) != dragonfly.UnknownSession {
				t.Errorf("register at a closed session: %v", err)
			}
			if err := s.Close(ctx, "replaced"); err != nil {
				t.Errorf("close of a dead session: %v", err)
			}
			if p.tracker.reasons[0] != "done & gone" {
				t.Errorf("reasons %q", p.tracker.reasons)
			}
		})
	}
	if got := remote.remote[0]; got != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("the tracker saw the address %v", got)
	}
}

// TestErrorsCross: every kind arrives as it left, with message, status and
// members, without its cause; an error that is none of ours says nothing.
func TestErrorsCross(t *testing.T) {
	addr, _ := serve(t, newTracker(time.Hour), wire.ServerOptions{})
	s := open(t, dial(t, addr))
	for _, kind := range []dragonfly.Kind{
		dragonfly.Invalid, dragonfly.NotFound, dragonfly.Unauthorized, dragonfly.Forbidden, dragonfly.SourceFailed,
		dragonfly.SourceChanged, dragonfly.Throttled, dragonfly.DigestMismatch, dragonfly.NoSpace, dragonfly.Unavailable,
		dragonfly.NotOwner, dragonfly.ProtocolMismatch, dragonfly.Denied, dragonfly.Canceled, dragonfly.Internal,
		dragonfly.UnknownSession, // last: the session is forgotten
	} {
		_, err := s.Register(t.Context(), dragonfly.Registration{Request: dragonfly.Request{URL: "fail:" + string(kind)}})
		e, ok := errors.AsType[*dragonfly.Error](err)
		if !ok || e.Kind != kind || e.Message != "it is "+string(kind) || e.Status != 418 || len(e.Members) != 2 {
			t.Errorf("%s arrives as %+v", kind, err)
		}
		if status := wire.Status(kind); status < 400 || status == http.StatusInternalServerError && kind != dragonfly.Internal {
			t.Errorf("%s is status %d", kind, status)
		}
	}
	var log bytes.Buffer
	addr, _ = serve(t, newTracker(time.Hour), wire.ServerOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	s = open(t, dial(t, addr))
	_, err := s.Register(t.Context(), dragonfly.Registration{Request: dragonfly.Request{URL: "fail:bare"}})
	if dragonfly.KindOf(err) != dragonfly.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("a bare error arrives as %v", err)
	}
	if !strings.Contains(log.String(), "secret of the process") {
		t.Errorf("our own fault is not logged: %q", log.String())
	}
	if _, err := s.Register(t.Context(), dragonfly.Registration{Request: dragonfly.Request{URL: "fail:new-kind"}}); dragonfly.KindOf(err) != dragonfly.Internal {
		t.Errorf("a kind of the future arrives as %v", err)
	}
	if wire.Status("new-kind") != 500 {
		t.Errorf("a kind of the future is status %d", wire.Status("new-kind"))
	}
}

// TestForeignServer: whatever else listens on the port is unavailable, with a
// message that names the address; only a 404 says that v1 may be spoken.
func TestForeignServer(t *testing.T) {
	var answer http.HandlerFunc
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	t.Cleanup(h.Close)
	addr := h.Listener.Addr().String()
	write := func(status int, mediaType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			w.Header().Set("Server", "nginx/1.25")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for name, v := range map[string]struct {
		answer    http.HandlerFunc
		notNative bool
		message   string
	}{
		"nginx":            {write(404, "text/html", "<html>404</html>"), true, "nginx"},
		"v1":               {write(404, "text/plain", "404 page not found\n"), true, "404"},
		"v1 E2":            {write(404, "application/json", `{"code":404,"message":"no"}`), true, "404"},
		"post not allowed": {write(405, "text/html", "<html>405</html>"), false, "405"},
		"login page":       {write(200, "text/html", "<html>"), false, "text/html"},
		"other JSON":       {write(200, "application/json", `{"hello":"world"}`), false, "session"},
		"list":             {write(200, "application/json", `[]`), false, "read"},
		"two values":       {write(200, "application/json", `{} {}`), false, "read"},
		"empty":            {write(200, "application/json", ``), false, "read"},
		"no content":       {write(204, "", ""), false, "204"},
		"redirect":         {http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound).ServeHTTP, false, "302"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for chunk := bytes.Repeat([]byte(" "), 1<<20); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, false, "too long"},
		"cut off": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "{")
		}, false, "reached"},
		"bomb": {write(200, "application/json", `{"members":[`+strings.Repeat("0,", 1<<20)+`0]}`), false, "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			answer = v.answer
			_, err := dial(t, addr).Open(t.Context(), hello)
			if dragonfly.KindOf(err) != dragonfly.Unavailable || errors.Is(err, wire.ErrNotNative) != v.notNative {
				t.Errorf("error %v of kind %s, not native %t", err, dragonfly.KindOf(err), errors.Is(err, wire.ErrNotNative))
			}
			if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), v.message) {
				t.Errorf("error %q, want the address and %q", err, v.message)
			}
		})
	}
}

// TestNobodyThere: a refused connection is unavailable; the message has no
// URL; an address that is none is invalid.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = dial(t, addr).Open(t.Context(), hello)
	if dragonfly.KindOf(err) != dragonfly.Unavailable || strings.Contains(err.Error(), "http://") || !strings.Contains(err.Error(), addr) {
		t.Errorf("error %v of kind %s", err, dragonfly.KindOf(err))
	}
	if _, err := dial(t, "no address").Open(t.Context(), hello); dragonfly.KindOf(err) != dragonfly.Invalid {
		t.Errorf("error %v of kind %s", err, dragonfly.KindOf(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dial(t, addr).Open(ctx, hello); dragonfly.KindOf(err) != dragonfly.Canceled || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of kind %s", err, dragonfly.KindOf(err))
	}
}

// TestBadRequests: what is no message is refused with its reason, before the
// tracker sees it, without being repeated.
func TestBadRequests(t *testing.T) {
	tr := newTracker(time.Hour)
	addr, _ := serve(t, tr, wire.ServerOptions{OpenLimit: 2000, RegisterLimit: 3000, SyncLimit: 4000})
	key := ""
	send := func(method, path, mediaType, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", mediaType)
		req.Header.Set("X-Dragonfly-Session", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	const good = `{"protocol":1,"agent":"a"}`
	key = send("POST", "/p2p/v1/sessions", "application/json", good).Header.Get("X-Dragonfly-Session")
	if len(key) != 64 {
		t.Fatalf("key %q", key)
	}
	const paths, session = "/p2p/v1/sessions", "/p2p/v1/session"
	long := func(n int) string { return `{"x":"` + strings.Repeat("s", n-8) + `"}` }
	for name, v := range map[string]struct {
		method, path, mediaType, body string
		status                        int
	}{
		"GET":                  {"GET", paths, "", "", 405},
		"PUT":                  {"PUT", session + "/sync", "application/json", "{}", 405},
		"POST to the session":  {"POST", session, "application/json", "{}", 405},
		"no such route":        {"POST", "/p2p/v1/other", "application/json", "{}", 404},
		"trailing slash":       {"POST", paths + "/", "application/json", good, 404},
		"form":                 {"POST", paths, "application/x-www-form-urlencoded", good, 415},
		"no type":              {"POST", paths, "", good, 415},
		"charset":              {"POST", paths, "application/json;charset=utf-8", `{"protocol":1,"agent":"d"}`, 200},
		"upper case":           {"POST", paths, "application/json", `{"PROTOCOL":1,"Agent":"b"}`, 200},
		"unknown members":      {"POST", paths, "application/json", `{"protocol":1,"agent":"c","later":{"deep":[[]]}}`, 200},
		"empty":                {"POST", paths, "application/json", "", 400},
		"broken":               {"POST", paths, "application/json", `{"agent":"s3cret`, 400},
		"wrong type":           {"POST", paths, "application/json", `{"agent":12345}`, 400},
		"wrong type of all":    {"POST", paths, "application/json", `"s3cret"`, 400},
		"bad address":          {"POST", paths, "application/json", `{"addrs":["s3cret"]}`, 400},
		"two values":           {"POST", paths, "application/json", good + good, 400},
		"deep":                 {"POST", session + "/sync", "application/json", strings.Repeat("[", 3900), 400},
		"exactly the limit":    {"POST", session + "/register", "application/json", long(3000), 200},
		"one more":             {"POST", session + "/register", "application/json", long(3001), 413},
		"open over its limit":  {"POST", paths, "application/json", long(5001), 413},
		"sync over its limit":  {"POST", session + "/sync", "application/json", long(4001), 413},
		"too many elements":    {"POST", session + "/sync", "application/json", `{"events":[` + strings.Repeat("0,", 500) + "0]}", 413},
		"bad ticket of events": {"POST", session + "/sync", "application/json", `{"events":[{"task":"s3cret"}]}`, 400},
	} {
		t.Run(name, func(t *testing.T) {
			resp := send(v.method, v.path, v.mediaType, v.body)
			var body bytes.Buffer
			body.ReadFrom(resp.Body)
			if resp.StatusCode != v.status || strings.Contains(body.String(), "s3cret") {
				t.Errorf("status %d, body %s", resp.StatusCode, &body)
			}
			if v.status >= 400 && (!strings.Contains(body.String(), `"kind":`) || resp.Header.Get("Content-Type") != "application/json") {
				t.Errorf("no error of ours: %s", &body)
			}
			if v.status == 405 && resp.Header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
	for _, wrong := range []string{"", "x", strings.Repeat("0", 64), strings.ToUpper(key) + " ", "session-1"} {
		key = wrong
		for _, v := range [][2]string{{"POST", session + "/register"}, {"POST", session + "/sync"}, {"DELETE", session}} {
			if resp := send(v[0], v[1], "application/json", "{}"); resp.StatusCode != http.StatusConflict {
				t.Errorf("%s %s with key %q: %d", v[0], v[1], wrong, resp.StatusCode)
			}
		}
	}
}

// bubble runs Server and Client over pipes, in virtual time.
func bubble(t *testing.T, tr dragonfly.Tracker, o wire.ServerOptions, f func(*testing.T, *wire.Client, *wire.Server)) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		s := wire.NewServer(tr, o)
		h := http.Server{Handler: s}
		h.RegisterOnShutdown(s.Close)
		var wg sync.WaitGroup
		wg.Go(func() { h.Serve(l) })
		c := wire.NewClient("supernode:8002", wire.ClientOptions{Dial: l.dial})
		f(t, c, s)
		c.Close()
		if err := h.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// pipes is a listener on nothing.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipes) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// TestPoll: a sync without news is answered after Welcome.Poll; one that is
// not answered fails ten seconds later; nothing is left of either.
func TestPoll(t *testing.T) {
	bubble(t, newTracker(20*time.Second), wire.ServerOptions{}, func(t *testing.T, c *wire.Client, _ *wire.Server) {
		s, start := open(t, c), time.Now()
		if _, err := s.Sync(t.Context(), dragonfly.Report{Seq: 1}); err != nil || time.Since(start) != 20*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
	tr := newTracker(20 * time.Second)
	bubble(t, late{tr}, wire.ServerOptions{}, func(t *testing.T, c *wire.Client, _ *wire.Server) {
		s, start := open(t, c), time.Now()
		_, err := s.Sync(t.Context(), dragonfly.Report{Seq: 1})
		if dragonfly.KindOf(err) != dragonfly.Unavailable || time.Since(start) != 30*time.Second || !strings.Contains(err.Error(), "30s") {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if err := tr.await(t.Context(), 0); err != nil {
			t.Error(err)
		}
	})
}

// late is a tracker that answers syncs only when their clients go.
type late struct{ *tracker }

func (l late) Open(ctx context.Context, h dragonfly.Hello) (dragonfly.Session, error) {
	s, err := l.tracker.Open(ctx, h)
	l.tracker.mu.Lock()
	l.tracker.poll = 0
	l.tracker.mu.Unlock()
	return s, err
}

// TestTwoSyncs: a Client holds a third sync back, and a Server that gets one
// nevertheless ends the oldest.
func TestTwoSyncs(t *testing.T) {
	tr := newTracker(time.Hour)
	bubble(t, tr, wire.ServerOptions{}, func(t *testing.T, c *wire.Client, _ *wire.Server) {
		s := open(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { s.Sync(ctx, dragonfly.Report{Seq: 7}) }) // the same Seq: none releases another
		}
		synctest.Wait()
		if err := tr.await(ctx, 2); err != nil {
			t.Error(err)
		}
		cancel()
		wg.Wait()
	})

	tr = newTracker(time.Hour)
	addr, _ := serve(t, tr, wire.ServerOptions{})
	key := openRaw(t, addr)
	answers := make(chan int, 3)
	for i := range 3 {
		go func() { answers <- post(t, addr, key, "/p2p/v1/session/sync", `{"seq":9}`) }()
		if err := tr.await(t.Context(), min(i+1, 2)); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-answers; got != http.StatusServiceUnavailable {
		t.Errorf("the oldest of three syncs is answered %d", got)
	}
	go post(t, addr, key, "/p2p/v1/session/sync", `{"seq":10}`) // lets the two others go
	for range 2 {
		if got := <-answers; got != http.StatusOK && got != http.StatusServiceUnavailable {
			t.Errorf("answer %d", got)
		}
	}
}

func openRaw(t *testing.T, addr string) (key string) {
	t.Helper()
	resp, err := http.Post("http://"+addr+"/p2p/v1/sessions", "application/json", strings.NewReader(`{"protocol":1,"agent":"raw"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.Header.Get("X-Dragonfly-Session")
}

func post(t *testing.T, addr, key, path, body string) (status int) {
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return -1
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Dragonfly-Session", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return -1
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestShutdown: closing the Server answers every open call, refuses the next,
// and leaves the sessions open.
func TestShutdown(t *testing.T) {
	tr := newTracker(time.Hour)
	bubble(t, tr, wire.ServerOptions{}, func(t *testing.T, c *wire.Client, server *wire.Server) {
		s := open(t, c)
		ended := make(chan error)
		go func() { _, err := s.Sync(t.Context(), dragonfly.Report{Seq: 1}); ended <- err }()
		synctest.Wait()
		server.Close()
		server.Close()
		if err := <-ended; dragonfly.KindOf(err) != dragonfly.Unavailable || !strings.Contains(err.Error(), "shutting down") {
			t.Errorf("an open sync ends with %v", err)
		}
		if _, err := s.Register(t.Context(), dragonfly.Registration{}); dragonfly.KindOf(err) != dragonfly.Unavailable {
			t.Errorf("register ends with %v", err)
		}
		if len(tr.reasons) != 0 {
			t.Errorf("sessions are closed: %q", tr.reasons)
		}
	})
}

// TestSilentSessions: a session without requests is closed when another one
// opens after Idle; the number of sessions is bounded.
func TestSilentSessions(t *testing.T) {
	tr := newTracker(20 * time.Second)
	bubble(t, tr, wire.ServerOptions{Sessions: 2, Idle: 10 * time.Minute}, func(t *testing.T, c *wire.Client, _ *wire.Server) {
		ctx := t.Context()
		busy := open(t, c)
		other := hello
		other.Agent = "silent"
		if _, err := c.Open(ctx, other); err != nil {
			t.Fatal(err)
		}
		other.Agent = "third"
		if _, err := c.Open(ctx, other); dragonfly.KindOf(err) != dragonfly.Unavailable || !strings.Contains(err.Error(), "limit") {
			t.Errorf("a session too many: %v", err)
		}
		for i := range uint64(31) {
			if _, err := busy.Sync(ctx, dragonfly.Report{Seq: i + 1}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Open(ctx, other); err != nil {
			t.Errorf("after %s: %v", 31*20*time.Second, err)
		}
		if !slices.Equal(tr.reasons, []string{"silent"}) {
			t.Errorf("closed: %q", tr.reasons)
		}
		if _, err := busy.Register(ctx, dragonfly.Registration{}); err != nil {
			t.Errorf("the busy session: %v", err)
		}
	})
}

// TestSlowBody: whoever does not send its body in time is let go.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		h := http.Server{Handler: wire.NewServer(newTracker(time.Hour), wire.ServerOptions{})}
		var wg sync.WaitGroup
		wg.Go(func() { h.Serve(l) })
		conn, err := l.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "POST /p2p/v1/sessions HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		start := time.Now()
		var answer bytes.Buffer
		_, _ = answer.ReadFrom(conn)
		if time.Since(start) != 30*time.Second || !strings.Contains(answer.String(), "in time") {
			t.Errorf("after %s: %s", time.Since(start), &answer)
		}
		conn.Close()
		h.Close()
		wg.Wait()
	})
}

// TestReuse: one connection carries one request after the other, also after
// an answer without a body.
func TestReuse(t *testing.T) {
	var mu sync.Mutex
	dialled := 0
	addr, _ := serve(t, newTracker(time.Hour), wire.ServerOptions{})
	c := wire.NewClient(addr, wire.ClientOptions{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		dialled++
		return new(net.Dialer).DialContext(ctx, network, addr)
	}})
	defer c.Close()
	for range 5 {
		s := open(t, c)
		if _, err := s.Register(t.Context(), dragonfly.Registration{}); err != nil {
			t.Error(err)
		}
		if err := s.Close(t.Context(), ""); err != nil {
			t.Error(err)
		}
	}
	if dialled != 1 {
		t.Errorf("%d connections", dialled)
	}
}
