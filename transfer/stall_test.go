// SPDX-License-Identifier: Apache-2.0

package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/transfer"
)

// network is a network in memory with one parent on it, for virtual time.
type network struct {
	conns chan net.Conn
	done  chan struct{}
}

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	child, parent := net.Pipe()
	select {
	case n.conns <- parent:
		return child, nil
	case <-n.done:
		return nil, errors.New("the network is down")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case nc := <-n.conns:
		return nc, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error   { close(n.done); return nil }
func (n *network) Addr() net.Addr { return &net.TCPAddr{} }

var anywhere = netip.MustParseAddrPort("127.0.0.1:1")

// inMemory runs a parent and a client on a network in memory and calls test
// with the client, in a synctest bubble.
func inMemory(t *testing.T, s *transfer.Server, test func(t *testing.T, c *transfer.Client)) {
	patient(t, s, 0, test)
}

// patient is inMemory with another stall time of the client, under an
// http.Server that has time-outs of its own.
func patient(t *testing.T, s *transfer.Server, stall time.Duration, test func(t *testing.T, c *transfer.Client)) {
	n := &network{conns: make(chan net.Conn), done: make(chan struct{})}
	c := transfer.New(transfer.ClientOptions{Dial: n.dial, Stall: stall})
	h := &http.Server{Handler: s, ReadTimeout: 3 * time.Second, WriteTimeout: 3 * time.Second, IdleTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { h.Serve(n) })
	test(t, c)
	c.Close()
	h.Close()
	wg.Wait()
}

// TestStalledBody: a parent that sends nothing for 5 s is given up, and one
// that sends a byte now and then is not.
func TestStalledBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent := newContent(t, mib)
		inMemory(t, newServer(shelf{taskID: parent}), func(t *testing.T, c *transfer.Client) {
			body, err := c.Fetch(t.Context(), want(anywhere, 0, mib))
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			for off := range int64(20) {
				time.AfterFunc(4900*time.Millisecond, func() { parent.grow(t, off+1) })
				if n, err := body.Read(make([]byte, kib)); n != 1 || err != nil {
					t.Fatalf("byte %d: %d, %v", off, n, err)
				}
			}
			began := time.Now()
			_, err = body.Read(make([]byte, kib))
			if took := time.Since(began); reason(t, err) != dragonfly.FailStalled || took < 5*time.Second || took > 5625*time.Millisecond {
				t.Errorf("after %v: %v", took, err)
			}
		})
	})
}

// TestSlowParent: however long a parent waits for its own bytes, its stream
// lives, and ends cleanly where the content ends.
func TestSlowParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent := newContent(t, 100).unknown()
		patient(t, newServer(shelf{taskID: parent}), time.Hour, func(t *testing.T, c *transfer.Client) {
			body, err := c.Fetch(t.Context(), want(anywhere, 0, mib))
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			time.AfterFunc(time.Minute, func() { parent.grow(t, 100) })
			time.AfterFunc(2*time.Minute, parent.end)
			if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, parent.data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	})
}

// TestSlowChild: a child that takes its time between reads does not hold that
// against the parent.
func TestSlowChild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t, newServer(shelf{taskID: full(t, mib)}), func(t *testing.T, c *transfer.Client) {
			body, err := c.Fetch(t.Context(), want(anywhere, 0, mib))
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			for range 3 {
				pause(20 * time.Second)
				if _, err := io.ReadFull(body, make([]byte, 256*kib)); err != nil {
					t.Fatal(err)
				}
			}
		})
	})
}

// pause lets virtual time pass.
func pause(d time.Duration) { <-time.After(d) }

// TestDeadChild: a child that takes nothing for 30 s is cut, and its stream
// ends in the parent.
func TestDeadChild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(shelf{taskID: full(t, mib)})
		s.MaxStreams = 1
		inMemory(t, s, func(t *testing.T, c *transfer.Client) {
			body, err := c.Fetch(t.Context(), want(anywhere, 0, mib))
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			pause(29 * time.Second)
			if _, err := c.Fetch(t.Context(), want(anywhere, 0, mib)); reason(t, err) != dragonfly.FailStalled {
				t.Errorf("the only stream is taken: %v", err)
			}
			pause(2 * time.Second)
			second, err := c.Fetch(t.Context(), want(anywhere, 0, mib))
			if err != nil {
				t.Fatalf("the stream is still taken: %v", err)
			}
			second.Close()
			if got, err := io.ReadAll(body); reason(t, err) != dragonfly.FailReset || len(got) == mib {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	})
}

// TestStalledHeader: a parent that takes a request and says nothing, or says
// it letter by letter.
func TestStalledHeader(t *testing.T) {
	for _, dribble := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var wg sync.WaitGroup
			defer wg.Wait()
			c := transfer.New(transfer.ClientOptions{Dial: func(context.Context, string, string) (net.Conn, error) {
				child, parent := net.Pipe()
				wg.Go(func() {
					defer parent.Close()
					if _, err := parent.Read(make([]byte, 4*kib)); err != nil || !dribble {
						io.Copy(io.Discard, parent)
						return
					}
					for {
						pause(time.Second)
						if _, err := parent.Write([]byte("H")); err != nil {
							return
						}
					}
				})
				return child, nil
			}})
			began := time.Now()
			_, err := c.Fetch(t.Context(), want(anywhere, 0, mib))
			if took := time.Since(began); reason(t, err) != dragonfly.FailStalled || took < 5*time.Second || took > 5625*time.Millisecond {
				t.Errorf("after %v: %v", took, err)
			}
			c.Close()
		})
	}
}

// TestDialStalls: an address that swallows connections is no connection, and
// does not keep a good one from being used.
func TestDialStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{conns: make(chan net.Conn), done: make(chan struct{})}
		h := &http.Server{Handler: newServer(shelf{taskID: full(t, 100)})}
		var wg sync.WaitGroup
		wg.Go(func() { h.Serve(n) })
		hole := netip.MustParseAddrPort("[::1]:1")
		c := transfer.New(transfer.ClientOptions{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == hole.String() {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
			return n.dial(ctx, network, address)
		}})
		began := time.Now()
		_, err := c.Fetch(t.Context(), want(hole, 0, 100))
		if reason(t, err) != dragonfly.FailRefused || time.Since(began) != 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		began = time.Now()
		f := want(hole, 0, 100)
		f.Addrs = append(f.Addrs, anywhere)
		if _, err := fetchAll(t, c, f); err != nil || time.Since(began) != 250*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Fetch(ctx, want(hole, 0, 100)); reason(t, err) != dragonfly.FailCanceled {
			t.Errorf("a dial that the caller gave up: %v", err)
		}
		c.Close()
		h.Close()
		wg.Wait()
	})
}

// TestIdleTimeout: a connection is kept over a pause that is longer than the
// stall time, and is not kept for ever.
func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{conns: make(chan net.Conn), done: make(chan struct{})}
		h := &http.Server{Handler: newServer(shelf{taskID: full(t, 100)})}
		var wg sync.WaitGroup
		wg.Go(func() { h.Serve(n) })
		dials := 0
		c := transfer.New(transfer.ClientOptions{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return n.dial(ctx, network, address)
		}})
		for i, v := range []struct {
			pause time.Duration
			dials int
		}{{0, 1}, {59 * time.Second, 1}, {59 * time.Second, 1}, {61 * time.Second, 2}} {
			pause(v.pause)
			if _, err := fetchAll(t, c, want(anywhere, 0, 100)); err != nil || dials != v.dials {
				t.Errorf("fetch %d: %d dials, %v", i, dials, err)
			}
		}
		c.Close()
		h.Close()
		wg.Wait()
	})
}

// TestLimit: all streams together keep to the limit, and a low limit is no
// stall.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent := full(t, 100*kib)
		s := newServer(shelf{taskID: parent})
		s.Limit = rate.NewLimiter(2*kib, 16*kib)
		s.Limit.AllowN(time.Now(), 16*kib)
		inMemory(t, s, func(t *testing.T, c *transfer.Client) {
			began := time.Now()
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if got, err := fetchAll(t, c, want(anywhere, 0, 100*kib)); err != nil || !bytes.Equal(got, parent.data) {
						t.Errorf("%d bytes, %v", len(got), err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(began).Round(time.Second); took != 100*time.Second {
				t.Errorf("200 KiB at 2 KiB/s took %v", took)
			}
		})
	})
}

// TestHangUpWhileWaiting: a stream that waits for bytes ends when its child
// hangs up.
func TestHangUpWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(shelf{taskID: newContent(t, 100)})
		s.MaxStreams = 1
		inMemory(t, s, func(t *testing.T, c *transfer.Client) {
			for range 3 { // each finds the stream free that the one before left
				body, err := c.Fetch(t.Context(), want(anywhere, 0, 100))
				if err != nil {
					t.Fatal(err)
				}
				body.Close()
				synctest.Wait()
			}
		})
	})
}

// TestFetchErrorText names the reason and the cause.
func TestFetchErrorText(t *testing.T) {
	err := &transfer.FetchError{Reason: dragonfly.FailReset, Err: io.ErrUnexpectedEOF}
	if !strings.Contains(err.Error(), "reset") || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}
