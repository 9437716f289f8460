// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
)

func dialTo(address string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
}

// piped is a network in memory on which serve answers each connection, after
// its first request was read.
func piped(serve func(net.Conn)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			if _, err := http.ReadRequest(bufio.NewReader(far)); err == nil {
				serve(far)
			}
		}()
		return near, nil
	}
}

// hang waits until the other side goes away.
func hang(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }

func TestTimeouts(t *testing.T) {
	for name, test := range map[string]struct {
		url   string
		dial  func(context.Context, string, string) (net.Conn, error)
		after time.Duration
		text  string
	}{
		"dial": {"http://h.test/", func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, 3 * time.Second, "h.test does not accept a connection within 3s"},
		"handshake": {"https://h.test/", func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, far) }()
			return near, nil
		}, 5 * time.Second, "h.test does not finish the TLS handshake within 5s"},
		"header": {"http://h.test/", piped(hang), 10 * time.Second, "h.test does not answer within 10s"},
		"body": {"http://h.test/", piped(func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
			hang(c)
		}), 30 * time.Second, "h.test/ sent nothing for 30s"},
		"end of a body": {"http://h.test/", piped(func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 206 x\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-2/3\r\n\r\n3\r\nabc\r\n")
			hang(c)
		}), 30 * time.Second, "h.test/ sent nothing for 30s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(Options{Dial: test.dial})
				defer c.Close()
				start := time.Now()
				_, _, err := read(t, c, request(test.url), 0, Condition{})
				wantKind(t, err, dragonfly.SourceFailed, test.text)
				if took := time.Since(start); took != test.after {
					t.Errorf("after %s, want %s", took, test.after)
				}
			})
		})
	}
}

// TestSlowIsNotIdle: neither a source that sends a byte now and then nor a
// reader that takes its time is ended.
func TestSlowIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Dial: piped(func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
			for range 5 {
				<-time.After(29 * time.Second)
				_, _ = io.WriteString(conn, "x")
			}
		})})
		defer c.Close()
		b, err := c.Open(t.Context(), request("http://h.test/"), 0, Condition{})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		var one [1]byte
		for range 4 {
			if _, err := b.Read(one[:]); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Hour)
		rest, err := io.ReadAll(b)
		if err != nil || len(rest) != 1 {
			t.Errorf("%q, %v", rest, err)
		}
	})
}

func TestDeadlineOfTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Dial: piped(hang)})
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Open(ctx, request("http://h.test/"), 0, Condition{})
		wantKind(t, err, dragonfly.SourceFailed, "in the time set for it")
	})
}

func TestThrottledEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Dial: piped(func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 429 x\r\nRetry-After: 60\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		})})
		defer c.Close()
		const u = "http://h.test/"
		_, _, err := read(t, c, request(u), 0, Condition{})
		wantKind(t, err, dragonfly.Throttled, "1m0s")
		if until := c.ThrottledUntil(u); !until.Equal(time.Now().Add(time.Minute)) {
			t.Error(until)
		}
		<-time.After(time.Minute)
		if until := c.ThrottledUntil(u); !until.IsZero() {
			t.Error(until)
		}
	})
}

// TestRedirectBodyThatHangs: what comes with a redirect is not waited for.
func TestRedirectBodyThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan string, 2)
		answers <- "HTTP/1.1 302 x\r\nLocation: /there\r\nContent-Length: 10\r\n\r\nabc"
		answers <- "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
		c := New(Options{Dial: piped(func(conn net.Conn) {
			_, _ = io.WriteString(conn, <-answers)
			hang(conn)
		})})
		defer c.Close()
		start := time.Now()
		data, info, err := read(t, c, request("http://h.test/"), 0, Condition{})
		if err != nil || string(data) != "abc" || info.URL != "http://h.test/there" || time.Since(start) > time.Second {
			t.Errorf("%q, %v, %v, %s", data, info, err, time.Since(start))
		}
	})
}

// endless is a body that fills every buffer.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (endless) Close() error               { return nil }

// TestReadAllocatesNothing: a Read costs the source's own and no more, and
// goes into the caller's buffer at full size.
func TestReadAllocatesNothing(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	a := &answer{resp: &http.Response{StatusCode: http.StatusOK, Body: endless{}}, url: &url.URL{}, ctx: ctx, cancel: cancel}
	r := newReader(a, cut{length: unknown, skip: 100, left: unknown}, time.Hour)
	defer r.Close()
	buf := make([]byte, 1<<20)
	if n, err := r.Read(buf); n != len(buf)-100 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if n, err := r.Read(buf); n != len(buf) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}); n != 0 {
		t.Errorf("%g allocations per Read", n)
	}
}
