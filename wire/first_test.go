// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/wire"
)

// gated is a tracker whose registrations wait until they are let through.
type gated struct {
	*tracker
	through chan struct{}
}

type gatedSession struct {
	dragonfly.Session
	through chan struct{}
}

func (g gated) Open(ctx context.Context, h dragonfly.Hello) (dragonfly.Session, error) {
	s, err := g.tracker.Open(ctx, h)
	return gatedSession{s, g.through}, err
}

func (s gatedSession) Register(ctx context.Context, r dragonfly.Registration) (dragonfly.TaskInfo, error) {
	select {
	case <-s.through:
	case <-ctx.Done():
		return dragonfly.TaskInfo{}, context.Cause(ctx)
	}
	return s.Session.Register(ctx, r)
}

// counting serves h and notes the paths that were asked for.
func counting(t *testing.T, h http.Handler) (addr string, paths func() string) {
	var mu sync.Mutex
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/'):])
		mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(asked, " ")
	}
}

func registration(url string) dragonfly.Registration {
	return dragonfly.Registration{Job: "job", Request: dragonfly.Request{URL: url}}
}

// A session is there before its first registration is answered, and that
// answer costs no request of its own.
func TestFirstRegistrationComesWithTheSession(t *testing.T) {
	g := gated{newTracker(time.Second), make(chan struct{})}
	server := wire.NewServer(g, wire.ServerOptions{})
	addr, paths := counting(t, server)
	for name, v := range map[string]struct {
		first, asked string
		kind         dragonfly.Kind
		paths        string
	}{
		"the same":      {"http://a/1", "http://a/1", "", "/sessions"},
		"refused":       {"fail:not-found", "fail:not-found", dragonfly.NotFound, "/sessions"},
		"another":       {"http://a/1", "http://a/2", "", "/sessions /register"},
		"nothing first": {"", "http://a/1", "", "/sessions /register"},
	} {
		t.Run(name, func(t *testing.T) {
			before := paths()
			hello := dragonfly.Hello{Protocol: 1, Agent: name}
			if v.first != "" {
				r := registration(v.first)
				hello.First = &r
			}
			client := wire.NewClient(addr, wire.ClientOptions{})
			defer client.Close()
			s, err := client.Open(t.Context(), hello)
			if err != nil {
				t.Fatal(err) // it would wait for ever if the session waited for the registration
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range strings.Count(v.paths, "/register") + min(len(v.first), 1) {
					select {
					case g.through <- struct{}{}:
					case <-t.Context().Done():
						return
					}
					if v.first != v.asked {
						continue
					}
					return
				}
			}()
			info, err := s.Register(t.Context(), registration(v.asked))
			if kind := dragonfly.KindOf(err); err != nil && kind != v.kind || err == nil && (v.kind != "" || info.Task != (dragonfly.Request{URL: v.asked}).TaskID()) {
				t.Errorf("registered with %v, %v", info, err)
			}
			if got := strings.TrimSpace(strings.TrimPrefix(paths(), before)); got != v.paths {
				t.Errorf("asked for %s, want %s", got, v.paths)
			}
			if err := s.Close(t.Context(), "done"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A supernode that knows only sessions is asked again, and so is one that ends
// before the outcome.
func TestFirstRegistrationIsNotKnown(t *testing.T) {
	tr := newTracker(time.Second)
	server := wire.NewServer(tr, wire.ServerOptions{})
	addr, paths := counting(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/sessions") {
			var hello dragonfly.Hello
			if err := json.NewDecoder(r.Body).Decode(&hello); err != nil {
				t.Error(err)
			}
			hello.First = nil
			text, err := json.Marshal(hello)
			if err != nil {
				t.Error(err)
			}
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(text))), int64(len(text))
		}
		server.ServeHTTP(w, r)
	}))
	r := registration("http://a/1")
	s, err := wire.NewClient(addr, wire.ClientOptions{}).Open(t.Context(), dragonfly.Hello{Protocol: 1, Agent: "a", First: &r})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := s.Register(t.Context(), r); err != nil || info.Task != r.Request.TaskID() {
		t.Errorf("registered with %v, %v", info, err)
	}
	if got := paths(); got != "/sessions /register" {
		t.Errorf("asked for %s", got)
	}
}

// Who gives up while the first registration waits is not held.
func TestFirstRegistrationIsGivenUp(t *testing.T) {
	g := gated{newTracker(time.Second), make(chan struct{})}
	addr, _ := counting(t, wire.NewServer(g, wire.ServerOptions{}))
	r := registration("http://a/1")
	s, err := wire.NewClient(addr, wire.ClientOptions{}).Open(t.Context(), dragonfly.Hello{Protocol: 1, Agent: "a", First: &r})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Register(ctx, r); dragonfly.KindOf(err) != dragonfly.Canceled {
		t.Errorf("gave %v", err)
	}
}
