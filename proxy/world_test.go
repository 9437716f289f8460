// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"dragonfly/proxy"
)

const secret = "c3VwZXItc2VjcmV0"

// site is a host that remembers what it was asked and echoes it.
type site struct {
	*httptest.Server
	mu   sync.Mutex // guards asked
	seen []*http.Request
}

func newSite(t *testing.T, start func(http.Handler) *httptest.Server) *site {
	s := &site{}
	s.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.seen = append(s.seen, r)
		s.mu.Unlock()
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Site", "yes")
		w.Header().Set("X-Dragonfly-Task", "not ours")
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
		w.Header().Set("X-Sum", "42")
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *site) asked() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.seen...)
}

func (s *site) host() string { return s.Listener.Addr().String() }

// swarm answers with what it was asked.
type swarm struct {
	mu    sync.Mutex // guards below
	trust []proxy.Trust
	seen  []*http.Request
}

func (s *swarm) ServeURL(w http.ResponseWriter, r *http.Request, trust proxy.Trust) {
	s.mu.Lock()
	s.trust, s.seen = append(s.trust, trust), append(s.seen, r)
	s.mu.Unlock()
	w.Header().Set("X-Dragonfly-Via", "swarm")
	fmt.Fprintf(w, "swarm %s", r.URL)
}

// watched counts what a Proxy tells.
type watched struct {
	mu                   sync.Mutex // guards below
	opened, closed, made int
	sent, received       int64
	change               chan struct{} // receives without blocking
}

func newWatched() *watched { return &watched{change: make(chan struct{}, 100)} }

func (o *watched) tell(f func()) {
	o.mu.Lock()
	f()
	o.mu.Unlock()
	select {
	case o.change <- struct{}{}:
	default:
	}
}

func (o *watched) TunnelOpened()    { o.tell(func() { o.opened++ }) }
func (o *watched) CertificateMade() { o.tell(func() { o.made++ }) }
func (o *watched) TunnelClosed(sent, received int64) {
	o.tell(func() { o.closed++; o.sent += sent; o.received += received })
}

// until waits for a state that an observer tells of.
func (o *watched) until(t *testing.T, what string, f func() bool) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		o.mu.Lock()
		ok := f()
		o.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-o.change:
		case <-late:
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}

// serve runs a Proxy until the test ends. from, if given, is where its clients
// seem to be.
func serve(t *testing.T, o proxy.Options, from ...string) (*proxy.Proxy, *url.URL) {
	t.Helper()
	p, err := proxy.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(from) > 0 {
			r.RemoteAddr = from[0]
		}
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		ended := make(chan error, 1)
		go func() { ended <- p.Close() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Close does not return")
		}
		server.Close()
	})
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return p, u
}

// client goes through a proxy and trusts roots.
func client(t *testing.T, through *url.URL, roots ...*x509.Certificate) *http.Client {
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(through), TLSClientConfig: &tls.Config{RootCAs: pool}, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// do asks and gives status, header and body.
func do(t *testing.T, c *http.Client, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	var from io.Reader
	if body != "" {
		from = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, from)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(got)
}

// dial opens a connection for a raw exchange.
func dial(t *testing.T, to *url.URL) *net.TCPConn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", to.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

func match(pattern string) *regexp.Regexp { return regexp.MustCompile(pattern) }
