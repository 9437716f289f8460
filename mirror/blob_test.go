// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
	"dragonfly/mirror"
	"dragonfly/peer"
)

const mib = 1 << 20

var errLost = &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the swarm is lost"}

// TestBlobThroughEngine: a blob comes whole from the engine, with the headers
// of a registry, and the registry is not asked.
func TestBlobThroughEngine(t *testing.T) {
	for _, unknown := range []bool{false, true} {
		for _, size := range []int{0, 1, 1000, 3*mib + 17} {
			blob := random(3, size)
			engine := &fakeEngine{content: blob, unknown: unknown}
			s := newStand(t, engine, func(o *mirror.Options) {
				o.Insecure = true
				o.Job = func(job *peer.Job) { job.ID = "completed" }
			})
			path := s.registry.add(blob)
			resp, got, err := s.get(path)
			if err != nil || !bytes.Equal(got, blob) {
				t.Fatalf("%d bytes of %d, %v", len(got), size, err)
			}
			task := dragonfly.Request{URL: s.origin.URL + path}.TaskID().String()
			want := map[string]string{
				"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest(blob), "Etag": `"` + digest(blob) + `"`,
				"Accept-Ranges": "bytes", "X-Dragonfly-Via": "swarm", "X-Dragonfly-Task": task, "Content-Length": strconv.Itoa(size),
			}
			if unknown && size > 0 {
				want["Content-Length"] = ""
			}
			for name, value := range want {
				if got := resp.Header.Get(name); got != value {
					t.Errorf("%s: %q, want %q", name, got, value)
				}
			}
			if n := len(s.registry.asked()); n != 0 {
				t.Errorf("the registry was asked %d times", n)
			}
			job := engine.started()[0]
			if job.ID != "completed" || job.Pattern != peer.PatternP2P || job.Request.URL != s.origin.URL+path || !job.Request.Insecure || len(job.Request.Header) > 0 {
				t.Errorf("the job is %+v", job)
			}
		}
	}
}

// TestBytesAsTheyCome: the client has the first bytes while the engine still
// waits for the others.
func TestBytesAsTheyCome(t *testing.T) {
	blob := random(4, 2*mib)
	engine := &fakeEngine{content: blob, gate: make(chan struct{}), gateAt: mib}
	s := newStand(t, engine, nil)
	resp := do(t, s.server.URL, "GET", s.registry.add(blob), nil)
	half := make([]byte, mib)
	if _, err := io.ReadFull(resp.Body, half); err != nil || !bytes.Equal(half, blob[:mib]) {
		t.Fatal("the first half is not there", err)
	}
	close(engine.gate)
	if rest, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(rest, blob[mib:]) {
		t.Errorf("the second half has %d bytes, %v", len(rest), err)
	}
}

// TestEngineCannotBegin: what the engine cannot begin, for whatever reason, is
// answered by the registry, challenge and errors unaltered.
func TestEngineCannotBegin(t *testing.T) {
	blob := random(5, 3000)
	for _, e := range []*fakeEngine{
		{refuse: errors.New("closed")},
		{fail: &dragonfly.Error{Kind: dragonfly.Unauthorized, Message: "401"}},
		{fail: &dragonfly.Error{Kind: dragonfly.NotFound, Message: "404"}},
		{fail: &dragonfly.Error{Kind: dragonfly.NoSpace, Message: "the disk is full"}},
		{content: random(6, 3000)}, // not what was asked for
		{content: random(6, 2999)},
		{content: random(5, 3000), lostAt: 1, lost: errLost, gateAt: 0}, // goes on
	} {
		s := newStand(t, e, nil)
		path := s.registry.add(blob)
		if resp, got, err := s.get(path); err != nil || resp.StatusCode != 200 || !bytes.Equal(got, blob) {
			t.Errorf("%d with %d bytes, %v", resp.StatusCode, len(got), err)
		}
		if e.lost != nil {
			continue
		}
		resp, got, _ := s.get("/v2/library/app/blobs/" + digest([]byte("none")))
		if resp.StatusCode != http.StatusNotFound || string(got) != absent {
			t.Errorf("%d: %s", resp.StatusCode, got)
		}
		s.registry.set(func() { s.registry.private = true })
		resp, got, _ = s.get(path)
		if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("Www-Authenticate") != challenge || string(got) != denied ||
			resp.Header.Get("X-Dragonfly-Via") != "direct" {
			t.Errorf("%d, %v: %s", resp.StatusCode, resp.Header, got)
		}
	}
}

// TestContinuesFromRegistry: a stream that the engine loses goes on from the
// registry at the byte that it had reached, whether that serves ranges, ignores
// them or redirects.
func TestContinuesFromRegistry(t *testing.T) {
	blob := random(7, 2*mib)
	for name, v := range map[string]struct {
		handle func(http.ResponseWriter, *http.Request) bool
		sent   int64
	}{
		"ranges": {nil, mib},
		"no ranges": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Write(blob)
			return true
		}, 0},
		"redirect": {func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/store/") {
				return false
			}
			http.Redirect(w, r, "/store/"+digest(blob)+"?signature="+secret, http.StatusTemporaryRedirect)
			return true
		}, mib},
	} {
		for _, unknown := range []bool{false, true} {
			t.Run(fmt.Sprint(name, unknown), func(t *testing.T) {
				s := newStand(t, &fakeEngine{content: blob, lostAt: mib, lost: errLost, unknown: unknown}, nil)
				path := s.registry.add(blob)
				s.registry.handle = v.handle
				resp, got, err := s.get(path)
				if err != nil || !bytes.Equal(got, blob) || resp.Header.Get("X-Dragonfly-Via") != "swarm" {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				for _, r := range s.registry.asked() {
					want := "bytes=1048576-2097151"
					if unknown {
						want = "bytes=1048576-"
					}
					if got := r.Header.Get("Range"); got != want {
						t.Errorf("Range: %s", got)
					}
				}
				if got := s.registry.sentBytes(); got != v.sent {
					t.Errorf("the registry sent %d bytes, want %d", got, v.sent)
				}
			})
		}
	}
}

// TestAborted: a stream that cannot be ended rightly is broken off: the client
// sees neither a clean end nor all of the bytes.
func TestAborted(t *testing.T) {
	blob := random(8, 2*mib)
	wrong := bytes.Clone(blob)
	wrong[len(wrong)-1] ^= 1
	answer := func(status int, contentRange string, body []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if contentRange != "" {
				w.Header().Set("Content-Range", contentRange)
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.WriteHeader(status)
			w.Write(body)
			return true
		}
	}
	lost := &fakeEngine{content: blob, lostAt: mib, lost: errLost}
	for name, v := range map[string]struct {
		engine *fakeEngine
		handle func(http.ResponseWriter, *http.Request) bool
	}{
		"wrong content":                {&fakeEngine{content: wrong}, nil},
		"the engine finds it wrong":    {&fakeEngine{content: blob, lostAt: mib, lost: &dragonfly.Error{Kind: dragonfly.DigestMismatch, Message: "wrong"}}, nil},
		"the registry is short":        {lost, answer(206, "bytes 1048576-2097151/2097152", blob[mib:2*mib-1])},
		"the registry starts at 0":     {lost, answer(206, "bytes 0-1048575/2097152", blob[:mib])},
		"the registry has another":     {lost, answer(206, "bytes 1048576-2097152/2097153", blob[mib:])},
		"the registry has another all": {lost, answer(200, "", append(bytes.Clone(blob), 0))},
		"the registry refuses":         {lost, answer(503, "", nil)},
		"the object store refuses": {lost, func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/store/") {
				w.WriteHeader(http.StatusForbidden)
			} else {
				http.Redirect(w, r, "/store/x?signature="+secret, http.StatusTemporaryRedirect)
			}
			return true
		}},
		"the object store is away": {lost, func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://127.0.0.1:1/x?signature="+secret, http.StatusTemporaryRedirect)
			return true
		}},
		"the registry breaks off": {lost, func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Range", "bytes 1048576-2097151/2097152")
			w.Header().Set("Content-Length", "1048576")
			w.WriteHeader(206)
			w.Write(blob[mib : mib+1000])
			panic(http.ErrAbortHandler)
		}},
	} {
		for _, unknown := range []bool{false, true} {
			if unknown && slices.Contains([]string{"the registry has another", "the registry has another all", "the registry is short"}, name) {
				continue // only the length tells
			}
			t.Run(fmt.Sprint(name, unknown), func(t *testing.T) {
				e := &fakeEngine{content: v.engine.content, lostAt: v.engine.lostAt, lost: v.engine.lost, unknown: unknown}
				s := newStand(t, e, nil)
				path := s.registry.add(blob)
				s.registry.handle = v.handle
				resp, got, err := s.get(path)
				if resp.StatusCode != 200 || err == nil || !unknown && len(got) >= len(blob) {
					t.Errorf("%d with %d bytes ends with %v", resp.StatusCode, len(got), err)
				}
			})
		}
	}
}

// paced is a mirror in virtual time whose registry and engine take theirs.
type paced struct {
	t        *testing.T
	engine   *fakeEngine
	mirror   *mirror.Mirror
	blob     []byte
	answers  time.Duration // until the registry answers
	status   int           // of the registry
	asked    []time.Duration
	began    time.Time
	canceled int  // questions to the registry that were taken back
	hang     bool // its body never comes
}

func newPaced(t *testing.T, engineTakes, answers time.Duration, status int, fail error) *paced {
	p := &paced{t: t, blob: random(9, 5000), answers: answers, status: status, began: time.Now()}
	p.engine = &fakeEngine{content: p.blob, gate: make(chan struct{}), fail: fail}
	time.AfterFunc(engineTakes, func() { close(p.engine.gate) })
	var err error
	p.mirror, err = mirror.New(mirror.Options{Engine: p.engine, Transport: roundTripper(p.roundTrip), Remote: &url.URL{Scheme: "https", Host: "registry"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *paced) roundTrip(r *http.Request) (*http.Response, error) {
	p.asked = append(p.asked, time.Since(p.began))
	select {
	case <-time.After(p.answers):
	case <-r.Context().Done():
		p.canceled++
		return nil, r.Context().Err()
	}
	w := httptest.NewRecorder()
	w.WriteHeader(p.status)
	if p.status == http.StatusOK {
		w.Write(p.blob)
	}
	resp := w.Result()
	resp.Request = r
	if p.hang {
		return hung(resp), nil
	}
	return resp, nil
}

// get is the answer and when it came; nothing is left at work behind it.
func (p *paced) get(ctx context.Context) (*httptest.ResponseRecorder, time.Duration) {
	w := httptest.NewRecorder()
	p.mirror.ServeHTTP(w, httptest.NewRequest("GET", "/v2/a/blobs/"+digest(p.blob), nil).WithContext(ctx))
	took := time.Since(p.began)
	synctest.Wait()
	p.engine.mu.Lock()
	if p.engine.open != 0 {
		p.t.Errorf("%d downloads are still open", p.engine.open)
	}
	p.engine.mu.Unlock()
	p.mirror.Close()
	return w, took
}

// TestSlowEngine: after a second without a byte of the engine the registry is
// asked as well, and who is first serves. A registry that is out of order does
// not count as first.
func TestSlowEngine(t *testing.T) {
	const s = time.Second
	for name, v := range map[string]struct {
		engine, registry time.Duration
		flow             int64
		status           int
		fail             error
		want             int
		via              string
		took             time.Duration
		asked            int
	}{
		"in time":                      {engine: s - 1, registry: 0, status: 200, want: 200, via: "swarm", took: s - 1},
		"never":                        {engine: 60 * s, registry: 0, status: 200, want: 200, via: "direct", took: s, asked: 1},
		"it receives":                  {engine: 4 * s, flow: 100 << 10, registry: 0, status: 200, want: 200, via: "swarm", took: 4 * s},
		"it receives next to nothing":  {engine: 4 * s, flow: 10 << 10, registry: 0, status: 200, want: 200, via: "direct", took: s, asked: 1},
		"it receives for ever":         {engine: 60 * s, flow: 100 << 10, registry: 0, status: 200, want: 200, via: "direct", took: 10 * s, asked: 1},
		"the registry takes longer":    {engine: 2 * s, registry: 3 * s, status: 200, want: 200, via: "swarm", took: 2 * s, asked: 1},
		"the registry is first":        {engine: 4 * s, registry: 2 * s, status: 200, want: 200, via: "direct", took: 3 * s, asked: 1},
		"the registry refuses":         {engine: 4 * s, registry: 0, status: 401, want: 401, via: "direct", took: s, asked: 1},
		"the registry redirects":       {engine: 4 * s, registry: 0, status: 307, want: 307, via: "direct", took: s, asked: 1},
		"the registry is out of order": {engine: 4 * s, registry: 0, status: 503, want: 200, via: "swarm", took: 4 * s, asked: 1},
		"both are out of order":        {engine: 4 * s, registry: 0, status: 503, fail: errLost, want: 503, via: "direct", took: 4 * s, asked: 1},
		"the engine fails at once":     {engine: 0, registry: s / 2, status: 200, fail: errLost, want: 200, via: "direct", took: s / 2, asked: 1},
		"the engine fails while it asks": {engine: 2 * s, registry: 2 * s, status: 200, fail: errLost, want: 200, via: "direct",
			took: 3 * s, asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPaced(t, v.engine, v.registry, v.status, v.fail)
				p.engine.flow = v.flow
				w, took := p.get(t.Context())
				if w.Code != v.want || w.Header().Get("X-Dragonfly-Via") != v.via || took != v.took {
					t.Errorf("%d by %s after %v", w.Code, w.Header().Get("X-Dragonfly-Via"), took)
				}
				if v.want == 200 && !bytes.Equal(w.Body.Bytes(), p.blob) {
					t.Errorf("%d bytes of %d", w.Body.Len(), len(p.blob))
				}
				if len(p.asked) != v.asked {
					t.Errorf("the registry was asked at %v", p.asked)
				}
			})
		})
	}
}

// TestClientLeaves: the end of the client's request ends the job, and whatever
// was asked of the registry.
func TestClientLeaves(t *testing.T) {
	for _, after := range []time.Duration{time.Second / 2, 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			p := newPaced(t, time.Hour, time.Hour, 200, nil)
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			if _, took := p.get(ctx); took != after || p.canceled != len(p.asked) {
				t.Errorf("after %v, %d of %d questions were taken back", took, p.canceled, len(p.asked))
			}
		})
	}
}

// TestLeavesInMidStream: a client that goes away in mid-stream ends the job too.
func TestLeavesInMidStream(t *testing.T) {
	blob := random(4, 2*mib)
	engine := &fakeEngine{content: blob, gate: make(chan struct{}), gateAt: mib}
	s := newStand(t, engine, nil)
	resp := do(t, s.server.URL, "GET", s.registry.add(blob), nil)
	if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.server.Close() // waits for the request's end
	s.mirror.Close()
	if engine.open != 0 || engine.opened != 1 {
		t.Errorf("%d of %d downloads are open", engine.open, engine.opened)
	}
}

// withServer makes a broken answer abort the handler, as in a server.
func withServer(ctx context.Context) context.Context {
	return context.WithValue(ctx, http.ServerContextKey, &http.Server{})
}

// TestStallsInMidStream: an engine that gives nothing more for long is left, and
// the registry goes on; when that fails too the transfer is aborted.
func TestStallsInMidStream(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		synctest.Test(t, func(t *testing.T) {
			p := newPaced(t, time.Hour, time.Second, status, nil)
			p.engine.gateAt = 2000
			var (
				w     *httptest.ResponseRecorder
				took  time.Duration
				abort any
			)
			func() {
				defer func() { abort = recover() }()
				w, took = p.get(withServer(t.Context()))
			}()
			if status != http.StatusOK {
				p.mirror.Close()
				if abort != http.ErrAbortHandler {
					t.Errorf("it ends with %v", abort)
				}
				return
			}
			if w == nil || !bytes.Equal(w.Body.Bytes(), p.blob) || took != 13*time.Second {
				t.Errorf("after %v: %v", took, abort)
			}
		})
	}
}
