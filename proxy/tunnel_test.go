// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"dragonfly/proxy"
)

// host accepts connections and gives each to handle.
func host(t *testing.T, handle func(*net.TCPConn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String()
}

// connect opens a tunnel; more is sent with the request.
func connect(t *testing.T, at *url.URL, target, more string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	conn := dial(t, at)
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n%s", target, target, more)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT %s: %v %v", target, resp, err)
	}
	return conn, in
}

// TestTunnel: both ways, many bytes, the end of one way is not that of the
// other, and nothing is left.
func TestTunnel(t *testing.T) {
	const size = 3 << 20
	sent := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	to := host(t, func(c *net.TCPConn) { // answers only after the end of what it is sent
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		_, _ = c.Write(bytes.Repeat([]byte("z"), size)) // the client looks at it
	})
	seen := newWatched()
	_, at := serve(t, proxy.Options{Observer: seen})
	conn, in := connect(t, at, to, string(sent[:100])) // some bytes come before the answer
	if _, err := conn.Write(sent[100:]); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(in); err != nil || len(got) != size {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	seen.until(t, "the tunnel is closed", func() bool { return seen.closed == 1 })
	if seen.opened != 1 || seen.sent != size || seen.received != size {
		t.Errorf("%d opened, %d bytes sent, %d received", seen.opened, seen.sent, seen.received)
	}
}

// TestTunnelEnds: a client that goes, a host that goes, nothing that moves, and
// a proxy that is closed.
func TestTunnelEnds(t *testing.T) {
	wait := func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) } // until the tunnel ends
	t.Run("client", func(t *testing.T) {
		seen := newWatched()
		_, at := serve(t, proxy.Options{Observer: seen})
		conn, _ := connect(t, at, host(t, wait), "")
		conn.SetLinger(0)
		conn.Close()
		seen.until(t, "the tunnel is closed", func() bool { return seen.closed == 1 })
	})
	t.Run("host", func(t *testing.T) {
		seen := newWatched()
		_, at := serve(t, proxy.Options{Observer: seen})
		_, in := connect(t, at, host(t, func(c *net.TCPConn) { c.SetLinger(0) }), "")
		_, _ = in.ReadByte() // the end, either way
		seen.until(t, "the tunnel is closed", func() bool { return seen.closed == 1 })
	})
	t.Run("idle", func(t *testing.T) {
		seen := newWatched()
		_, at := serve(t, proxy.Options{Observer: seen, TunnelIdle: 100 * time.Millisecond})
		_, in := connect(t, at, host(t, wait), "")
		if _, err := in.ReadByte(); err == nil {
			t.Error("a byte out of nothing")
		}
		seen.until(t, "the tunnel is closed", func() bool { return seen.closed == 1 })
	})
	t.Run("busy one way", func(t *testing.T) {
		const idle, beats = time.Second, 10
		_, at := serve(t, proxy.Options{TunnelIdle: idle})
		_, in := connect(t, at, host(t, func(c *net.TCPConn) {
			for range beats {
				<-time.After(idle / 6)
				if _, err := c.Write([]byte("x")); err != nil {
					return
				}
			}
		}), "")
		if got, err := io.ReadAll(in); err != nil || len(got) != beats {
			t.Errorf("%d bytes of %d: %v", len(got), beats, err)
		}
	})
	t.Run("proxy", func(t *testing.T) {
		p, at := serve(t, proxy.Options{})
		_, in := connect(t, at, host(t, wait), "")
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := in.ReadByte(); err == nil {
			t.Error("the tunnel is open")
		}
		conn := dial(t, at)
		fmt.Fprint(conn, "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("after Close: %v %v", resp, err)
		}
	})
}

// TestTunnelFails: 503 and a text that says what and where (v1-protocol 10.3).
func TestTunnelFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, at := serve(t, proxy.Options{})
	conn := dial(t, at)
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", l.Addr())
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 503 || !strings.Contains(string(body), "CONNECT "+l.Addr().String()) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// TestUpstream: requests and tunnels go through another proxy, with its
// password and with what that one refuses.
func TestUpstream(t *testing.T) {
	plain, secure := newSite(t, httptest.NewServer), newSite(t, httptest.NewTLSServer)
	passwords, err := proxy.ParsePasswords(strings.NewReader("ann:" + secret))
	if err != nil {
		t.Fatal(err)
	}
	seen := newWatched()
	_, upper := serve(t, proxy.Options{Passwords: passwords, Observer: seen})
	for password, ok := range map[string]bool{secret: true, "wrong" + secret: false} {
		to := *upper
		to.User = url.UserPassword("ann", password)
		_, at := serve(t, proxy.Options{Upstream: http.ProxyURL(&to)})
		c := client(t, at, secure.Certificate())
		if resp, body := do(t, c, "GET", plain.URL+"/a", ""); ok != (resp.StatusCode == 200) || strings.Contains(body, secret) {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		resp, err := c.Get(secure.URL + "/b")
		if ok != (err == nil) {
			t.Error(err)
		}
		if err == nil {
			resp.Body.Close()
		}
		conn := dial(t, at)
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", secure.host())
		resp, err = http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "CONNECT"})
		if err != nil || ok != (resp.StatusCode == 200) {
			t.Fatal(resp, err)
		}
		if !ok {
			body, _ := io.ReadAll(resp.Body)
			if !strings.Contains(string(body), "through the upstream proxy "+upper.Host+": it answers 407") || strings.Contains(string(body), secret) {
				t.Errorf("%s", body)
			}
		}
		conn.Close()
	}
	seen.until(t, "its tunnels are closed", func() bool { return seen.opened > 1 && seen.closed >= 1 })
}
