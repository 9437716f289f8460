// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// insideHeaderTime is how long a client may take for TLS or for a header.
	insideHeaderTime = 10 * time.Second
	// insideIdle must be longer than clients keep a connection, which is 90 s.
	insideIdle = 2 * time.Minute
	headerMax  = 1 << 20
)

// inside serves intercepted connections. It is the listener of its own server.
type inside struct {
	server *http.Server
	conns  chan net.Conn
	ended  chan struct{} // closed when no connection is taken any more
	served chan struct{} // closed when Serve has returned
	once   sync.Once
}

// openInside starts a server; inside.close ends it.
func (p *Proxy) openInside(certs *certificates) *inside {
	in := &inside{conns: make(chan net.Conn), ended: make(chan struct{}), served: make(chan struct{})}
	in.server = &http.Server{
		Handler: p.o.Wrap(http.HandlerFunc(p.insideRequest)),
		TLSConfig: &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certs.of(name(hello.Conn.(*opened).target))
		}},
		BaseContext: func(net.Listener) context.Context { return p.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, targetKey{}, c.(*tls.Conn).NetConn().(*opened).target)
		},
		ReadHeaderTimeout: insideHeaderTime, IdleTimeout: insideIdle, MaxHeaderBytes: headerMax,
		ErrorLog: slog.NewLogLogger(p.o.Log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(in.served)
		_ = in.server.ServeTLS(in, "", "") // the end is all that it tells
	}()
	return in
}

// Accept gives connections to the server.
func (in *inside) Accept() (net.Conn, error) {
	select {
	case c := <-in.conns:
		return c, nil
	case <-in.ended:
		return nil, net.ErrClosed
	}
}

// Close is for the server: it takes no more connections.
func (in *inside) Close() error {
	in.once.Do(func() { close(in.ended) })
	return nil
}

func (in *inside) Addr() net.Addr { return &net.TCPAddr{} }

// close ends server and connections; handlers end soon after.
func (in *inside) close() error {
	err := in.server.Close()
	in.Close() // also when the server had not begun
	<-in.served
	return err
}

type targetKey struct{}

// opened is a connection that is intercepted.
type opened struct {
	net.Conn
	in     io.Reader
	target string // host:port of its CONNECT
}

func (c *opened) Read(b []byte) (int, error) { return c.in.Read(b) }

// intercept gives a CONNECT's connection to the server inside.
func (p *Proxy) intercept(w http.ResponseWriter, r *http.Request) {
	conn, head, err := hijack(w)
	if err != nil {
		p.failed(w, r, err)
		return
	}
	c := &opened{Conn: conn, in: conn, target: r.Host}
	if len(head) > 0 {
		c.in = io.MultiReader(bytes.NewReader(head), conn)
	}
	select {
	case p.inside.conns <- c:
	case <-p.inside.ended:
		conn.Close()
	}
}

// insideRequest answers a request within an intercepted connection.
func (p *Proxy) insideRequest(w http.ResponseWriter, r *http.Request) {
	target := r.Context().Value(targetKey{}).(string)
	switch {
	case r.Method == http.MethodConnect || r.URL.IsAbs() || !strings.HasPrefix(r.URL.Path, "/"):
		http.Error(w, "dfdaemon: a request within a tunnel must look like GET /path", http.StatusBadRequest)
		return
	case canonical(r.Host) != canonical(target):
		// Rules and swarm go by the URL: it must be the one that the host
		// answers for.
		http.Error(w, "dfdaemon: this connection was opened to "+target+": ask it for nothing of another host", http.StatusMisdirectedRequest)
		return
	}
	out := new(*r)
	u := *r.URL
	u.Scheme, u.Host = "https", strings.TrimSuffix(canonical(target), ":443")
	out.URL = &u
	p.exchange(w, out)
}

// canonical is host[:port] of https with its port, for comparisons.
func canonical(host string) string {
	u := &url.URL{Scheme: "https", Host: strings.ToLower(host)}
	return net.JoinHostPort(strings.TrimSuffix(u.Hostname(), "."), port(u))
}

// name is the host of host:port, as certificates have it.
func name(target string) string {
	host, _, _ := net.SplitHostPort(canonical(target)) // made just now
	return host
}
