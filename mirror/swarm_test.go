// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"testing"

	"dragonfly"
	"dragonfly/mirror"
	"dragonfly/peer"
	"dragonfly/sched"
	"dragonfly/source"
	"dragonfly/store"
	"dragonfly/supernode"
	"dragonfly/transfer"
)

// machine is a process with a real engine on loopback.
type machine struct {
	engine *peer.Engine
	close  func()
}

func newMachine(t *testing.T, name string, dial func(dragonfly.Member) dragonfly.Tracker) *machine {
	t.Helper()
	st, err := store.Open(store.Options{Dir: t.TempDir(), BootID: "this boot", HostName: name})
	if err != nil {
		t.Fatal(err)
	}
	origins, parents := source.New(source.Options{}), transfer.New(transfer.ClientOptions{})
	agent := sha256.Sum256([]byte(name))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{engine: peer.New(peer.Config{
		Store: st, Source: origins, Parents: parents, Dial: dial, Log: slog.New(slog.DiscardHandler),
		Hello: func() dragonfly.Hello {
			return dragonfly.Hello{Protocol: dragonfly.ProtocolNumber, Agent: hex.EncodeToString(agent[:16]),
				Host: dragonfly.Host{Name: name}, Addrs: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}}
		},
	})}
	data := &http.Server{Handler: &transfer.Server{Shelf: m.engine.Shelf(), Sessions: m.engine.Sessions}}
	var wg sync.WaitGroup
	wg.Go(func() { data.Serve(l) })
	m.close = sync.OnceFunc(func() {
		if err := m.engine.Close(); err != nil {
			t.Error(err)
		}
		data.Close()
		wg.Wait()
		parents.Close()
		origins.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(m.close)
	return m
}

// swarm is a supernode with its seed; hosts reach it in process.
type swarm struct {
	t      *testing.T
	sn     *supernode.Supernode
	member dragonfly.Member
	jobs   int
	mu     sync.Mutex // guards jobs
}

func newSwarm(t *testing.T) *swarm {
	t.Helper()
	w := &swarm{t: t, member: dragonfly.Member{ID: "127.0.0.1:8002", Addr: "127.0.0.1:8002", Weight: 1}}
	seed := newMachine(t, "seed", func(dragonfly.Member) dragonfly.Tracker { return w.sn.SeedTracker() })
	w.sn = supernode.New(supernode.Config{Self: w.member, Sched: sched.Config{Seed: 1}, Log: slog.New(slog.DiscardHandler)}, seed.engine.Seed(w.member))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.sn.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	if err := seed.engine.Seed(w.member).Open(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

// line is the way of a host on loopback to the supernode.
type line struct{ dragonfly.Tracker }

func (l line) Open(ctx context.Context, hello dragonfly.Hello) (dragonfly.Session, error) {
	return l.Tracker.Open(dragonfly.WithRemoteAddr(ctx, netip.MustParseAddr("127.0.0.1")), hello)
}

// unreachable is a supernode that is down.
type unreachable struct{}

func (unreachable) Open(context.Context, dragonfly.Hello) (dragonfly.Session, error) {
	return nil, &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the supernode is down"}
}

// stand is a mirror on a host of the swarm, with a registry of its own.
func (w *swarm) stand(name string, tracker dragonfly.Tracker) (*stand, *machine) {
	w.t.Helper()
	m := newMachine(w.t, name, func(dragonfly.Member) dragonfly.Tracker { return tracker })
	return newStand(w.t, mirror.EngineOf(m.engine), func(o *mirror.Options) {
		o.Job = func(job *peer.Job) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.jobs++
			job.ID, job.Nodes = dragonfly.JobID(fmt.Sprint(name, w.jobs)), []dragonfly.Member{w.member}
		}
	}), m
}

// TestTwentyClients: 20 clients that ask for one blob at once cost the registry
// one blob.
func TestTwentyClients(t *testing.T) {
	w := newSwarm(t)
	s, _ := w.stand("host", line{w.sn})
	blob := random(10, 10*mib+1)
	path := s.registry.add(blob)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			resp, err := client.Get(s.server.URL + path)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if via := resp.Header.Get("X-Dragonfly-Via"); err != nil || via != "swarm" || resp.ContentLength != int64(len(blob)) || !bytes.Equal(got, blob) {
				t.Errorf("%d bytes by %s, %v", len(got), via, err)
			}
		})
	}
	wg.Wait()
	if sent := s.registry.sentBytes(); sent != int64(len(blob)) {
		t.Errorf("the registry sent %d bytes for a blob of %d", sent, len(blob))
	}
}

// TestSecondHost: what one host has pulled costs the registry nothing when
// another one pulls it, small blobs included.
func TestSecondHost(t *testing.T) {
	w := newSwarm(t)
	first, _ := w.stand("first", line{w.sn})
	for _, size := range []int{1, 2000, 5 * mib} {
		blob := random(11, size)
		path := first.registry.add(blob)
		for _, name := range []string{"one", "two"} {
			s, _ := w.stand(fmt.Sprint(name, size), line{w.sn})
			remote, err := url.Parse(first.origin.URL)
			if err != nil {
				t.Fatal(err)
			}
			resp, got, err := s.get(path + "?ns=" + remote.Host)
			if err != nil || resp.Header.Get("X-Dragonfly-Via") != "swarm" || !bytes.Equal(got, blob) {
				t.Fatalf("%d bytes by %s, %v", len(got), resp.Header.Get("X-Dragonfly-Via"), err)
			}
		}
		if n := first.registry.sentBytes(); n != int64(size) {
			t.Errorf("the registry sent %d bytes for a blob of %d", n, size)
		}
		first.registry.set(func() { first.registry.sent = 0 })
	}
}

// TestSupernodeDown: without a supernode the engine reads the registry itself,
// or the registry's answer comes straight; the pull succeeds.
func TestSupernodeDown(t *testing.T) {
	w := newSwarm(t)
	s, _ := w.stand("host", unreachable{})
	blob := random(12, 5*mib)
	resp, got, err := s.get(s.registry.add(blob))
	if via := resp.Header.Get("X-Dragonfly-Via"); err != nil || via == "swarm" || !bytes.Equal(got, blob) {
		t.Errorf("%d bytes by %s, %v", len(got), via, err)
	}
}

// TestNoNodes: a host without any supernode reads the registry by itself and
// says so, and only once.
func TestNoNodes(t *testing.T) {
	m := newMachine(t, "host", nil)
	s := newStand(t, mirror.EngineOf(m.engine), nil)
	blob := random(13, 5*mib)
	path := s.registry.add(blob)
	for _, want := range []string{"source", "swarm"} {
		resp, got, err := s.get(path)
		if via := resp.Header.Get("X-Dragonfly-Via"); err != nil || via != want || !bytes.Equal(got, blob) {
			t.Errorf("%d bytes by %s, %v", len(got), via, err)
		}
	}
	if sent := s.registry.sentBytes(); sent != int64(len(blob)) {
		t.Errorf("the registry sent %d bytes for a blob of %d", sent, len(blob))
	}
}

// TestRealRefusals: with the real engine too, the registry's challenge and its
// 404 reach the client unaltered.
func TestRealRefusals(t *testing.T) {
	w := newSwarm(t)
	s, _ := w.stand("host", line{w.sn})
	blob := random(14, 1000)
	path := s.registry.add(blob)
	resp, got, err := s.get("/v2/library/app/blobs/" + digest([]byte("none")))
	if err != nil || resp.StatusCode != http.StatusNotFound || string(got) != absent {
		t.Errorf("%d %s, %v", resp.StatusCode, got, err)
	}
	s.registry.set(func() { s.registry.private = true })
	resp, got, err = s.get(path)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("Www-Authenticate") != challenge || string(got) != denied {
		t.Errorf("%d %s, %v", resp.StatusCode, got, err)
	}
	resp, got, err = s.get(path, "Authorization: Bearer "+secret)
	if err != nil || !bytes.Equal(got, blob) {
		t.Errorf("%d %s, %v", resp.StatusCode, got, err)
	}
}

// TestWrongAtRegistry: a blob that is wrong at the registry never comes to a
// clean end through the swarm.
func TestWrongAtRegistry(t *testing.T) {
	w := newSwarm(t)
	s, _ := w.stand("host", line{w.sn})
	blob := random(15, 5*mib)
	path := s.registry.add(blob)
	wrong := bytes.Clone(blob)
	wrong[len(wrong)-1] ^= 1
	s.registry.set(func() { s.registry.blobs[digest(blob)] = wrong })
	resp, got, err := s.get(path)
	if via := resp.Header.Get("X-Dragonfly-Via"); via == "swarm" && (err == nil || len(got) == len(blob)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestEngineEndsInMidStream: a stream whose engine is shut down goes on from
// the registry.
func TestEngineEndsInMidStream(t *testing.T) {
	w := newSwarm(t)
	s, m := w.stand("host", line{w.sn})
	blob := random(16, 60*mib)
	hold := make(chan struct{})
	path := s.registry.add(blob)
	s.registry.set(func() {
		s.registry.handle = func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") != "" {
				return false
			}
			rw.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			rw.Write(blob[:20*mib])
			select {
			case <-hold:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		}
	})
	resp := do(t, s.server.URL, "GET", path, nil)
	if via := resp.Header.Get("X-Dragonfly-Via"); via != "swarm" {
		t.Fatalf("it came by %s", via)
	}
	first := make([]byte, mib)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	m.close()
	close(hold)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(append(first, rest...), blob) {
		t.Errorf("%d bytes of %d, %v", len(rest)+len(first), len(blob), err)
	}
}
