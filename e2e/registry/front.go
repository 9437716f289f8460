// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"sync"

	"dragonfly/internal/swarm"
)

// Front stands before a server: clients are told its address. It passes
// everything on, counts the bytes of blobs, and misbehaves on demand.
type Front struct {
	URL  string
	Addr string // host:port

	authority *Authority
	proxy     *httputil.ReverseProxy
	transport *http.Transport

	mu       sync.Mutex // guards all below
	server   *http.Server
	stopped  chan struct{}
	handle   func(http.ResponseWriter, *http.Request) bool
	progress func(r *http.Request, sent int64)
	bytes    map[string]int64 // sent by digest
	asked    []Asked
}

// discard takes what servers say about answers that were broken off on
// purpose.
var discard = log.New(io.Discard, "", 0)

// Asked is a request that a front saw.
type Asked struct {
	Method, Path, Query, Range, Authorization string
}

// Front puts a front before the server, with the same kind of TLS. Close it.
func (s *Server) Front() (*Front, error) {
	port, err := swarm.FreePort()
	if err != nil {
		return nil, err
	}
	f := &Front{Addr: fmt.Sprintf("127.0.0.1:%d", port), authority: s.o.Authority, transport: s.o.Authority.Transport(), bytes: map[string]int64{}}
	f.URL = (&url.URL{Scheme: s.URL.Scheme, Host: f.Addr}).String()
	f.proxy = &httputil.ReverseProxy{
		Transport: f.transport, FlushInterval: -1, ErrorLog: discard,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(s.URL)
			r.Out.Host = r.In.Host
		},
	}
	return f, f.Up()
}

// Up lets clients connect.
func (f *Front) Up() error {
	l, err := net.Listen("tcp", f.Addr)
	if err != nil {
		return err
	}
	if f.authority != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{f.authority.Certificate}, NextProtos: []string{"http/1.1"}})
	}
	server, stopped := &http.Server{Handler: http.HandlerFunc(f.serve), ErrorLog: discard}, make(chan struct{})
	f.mu.Lock()
	f.server, f.stopped = server, stopped
	f.mu.Unlock()
	go func() {
		defer close(stopped)
		_ = server.Serve(l) // Down ends it
	}()
	return nil
}

// Down breaks all connections off and refuses new ones.
func (f *Front) Down() {
	f.mu.Lock()
	server, stopped := f.server, f.stopped
	f.mu.Unlock()
	_ = server.Close() // nothing can be done about an error
	<-stopped
}

// Close ends the front.
func (f *Front) Close() {
	f.Down()
	f.transport.CloseIdleConnections()
}

// Handle lets h see requests first; what it answers, saying true, does not
// reach the server. nil: none.
func (f *Front) Handle(h func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handle = h
}

// Progress calls p before each write of a blob's bytes with how many that
// answer has had. p may wait, and may break the answer off by a panic with
// http.ErrAbortHandler. nil: none.
func (f *Front) Progress(p func(r *http.Request, sent int64)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.progress = p
}

// Reset forgets what was counted.
func (f *Front) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes, f.asked = map[string]int64{}, nil
}

// BlobBytes is how many bytes of blobs went out.
func (f *Front) BlobBytes() (n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, sent := range f.bytes {
		n += sent
	}
	return n
}

// BytesOf is how many bytes of one blob went out.
func (f *Front) BytesOf(digest string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes[digest]
}

// Asked are the requests so far.
func (f *Front) Asked() []Asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Asked(nil), f.asked...)
}

func (f *Front) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, Asked{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Range"), r.Header.Get("Authorization")})
	handle, progress := f.handle, f.progress
	f.mu.Unlock()
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
		w = &counted{ResponseWriter: w, f: f, r: r, digest: path.Base(r.URL.Path), progress: progress}
	}
	if handle != nil && handle(w, r) {
		return
	}
	f.proxy.ServeHTTP(w, r)
}

// counted counts what goes out of one answer with a blob.
type counted struct {
	http.ResponseWriter
	f        *Front
	r        *http.Request
	digest   string
	progress func(*http.Request, int64)
	ok       bool // the answer holds the blob, not an error or a redirect
	began    bool
	sent     int64
}

func (c *counted) WriteHeader(status int) {
	c.began, c.ok = true, status == http.StatusOK || status == http.StatusPartialContent
	c.ResponseWriter.WriteHeader(status)
}

func (c *counted) Write(b []byte) (int, error) {
	if !c.began {
		c.WriteHeader(http.StatusOK)
	}
	if !c.ok {
		return c.ResponseWriter.Write(b)
	}
	if c.progress != nil {
		c.progress(c.r, c.sent)
	}
	n, err := c.ResponseWriter.Write(b)
	c.sent += int64(n)
	c.f.mu.Lock()
	c.f.bytes[c.digest] += int64(n)
	c.f.mu.Unlock()
	return n, err
}

func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }
