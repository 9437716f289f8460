// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Swarm answers GET requests that a rule sends to it. r.URL is absolute and as
// the rule made it; trust is for its host. An answer says in X-Dragonfly-Via
// which way it came.
type Swarm interface {
	ServeURL(w http.ResponseWriter, r *http.Request, trust Trust)
}

// Trust says whom to believe that he is a host.
type Trust struct {
	Insecure bool   // its certificate is not checked
	RootCAs  []byte // PEM, additional roots
}

// Host is a host that is named by a pattern.
type Host struct {
	Match     *regexp.Regexp // against host:port
	Intercept bool           // connections to it are opened, if there is a Certificate
	Trust     Trust          // on the way to it
}

// Options of a Proxy. All may be left out.
type Options struct {
	Rules []Rule // the first that matches counts
	Swarm Swarm  // nil: everything is forwarded

	Hosts []Host // the first that matches counts
	// Certificate is what intercepted hosts show: that of an authority, which
	// signs one for each host, or else the very one.
	Certificate *tls.Certificate
	// Wrap is put around the handler of what is intercepted, which no handler
	// around the Proxy sees.
	Wrap func(http.Handler) http.Handler

	Passwords *Passwords // nil: nobody is asked
	// Self says that this process listens there; nil: nowhere.
	Self func(netip.AddrPort) bool
	// Upstream says which proxy a request goes through, nil for none, as in
	// http.Transport.
	Upstream func(*http.Request) (*url.URL, error)
	// TunnelIdle is how long a tunnel may carry nothing; 0: an hour.
	TunnelIdle time.Duration
	Observer   Observer     // nil: none
	Log        *slog.Logger // nil: none
}

// Observer is told what no answer shows. It is called from many goroutines.
type Observer interface {
	TunnelOpened()
	// TunnelClosed tells the bytes that came from the client and from the host.
	TunnelClosed(sent, received int64)
	CertificateMade()
}

type nobody struct{}

func (nobody) TunnelOpened()             {}
func (nobody) TunnelClosed(int64, int64) {}
func (nobody) CertificateMade()          {}

// Proxy is an http.Handler. Close it when its server has stopped.
type Proxy struct {
	o         Options
	forwarder *httputil.ReverseProxy
	roads     []road // of Options.Hosts, and the last for all other hosts
	refuse    func(netip.Addr) string
	inside    *inside // nil: nothing is intercepted
	tunnels   atomic.Int64

	ctx    context.Context // of tunnels and intercepted connections
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed, and wg against being begun at its end
	closed bool
	wg     sync.WaitGroup
}

// New makes a Proxy. An error names what is wrong with o.
func New(o Options) (*Proxy, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.Wrap == nil {
		o.Wrap = func(h http.Handler) http.Handler { return h }
	}
	o.TunnelIdle = cmp.Or(o.TunnelIdle, time.Hour)
	p := &Proxy{o: o, refuse: notFromAfar()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for _, h := range append(o.Hosts, Host{}) {
		r, err := p.road(h.Trust)
		if err != nil {
			return nil, err
		}
		p.roads = append(p.roads, r)
	}
	p.forwarder = p.newForwarder()
	if o.Certificate != nil {
		certs, err := newCertificates(*o.Certificate, o.Observer.CertificateMade)
		if err != nil {
			return nil, err
		}
		p.inside = p.openInside(certs)
	}
	return p, nil
}

// Close ends tunnels and intercepted connections and returns after their end.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	var err error
	if p.inside != nil {
		err = p.inside.close()
	}
	p.wg.Wait()
	for _, r := range p.roads {
		r.close()
	}
	return err
}

var errClosed = errors.New("the proxy is being closed")

// begin makes Close wait until done is called.
func (p *Proxy) begin() (done func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	p.wg.Add(1)
	return p.wg.Done, nil
}

const viaHeader, taskHeader = "X-Dragonfly-Via", "X-Dragonfly-Task"

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.o.Passwords.Admit(r) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="dfdaemon", charset="UTF-8"`)
		const text = "this proxy wants a user and a password: set them in the proxy's URL, as in http://USER:PASSWORD@HOST:PORT"
		if strings.HasPrefix(r.URL.Path, "/v2/") { // container engines show what they can parse
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusProxyAuthRequired)
			fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":%q}]}`+"\n", text)
			return
		}
		http.Error(w, text, http.StatusProxyAuthRequired)
		return
	}
	switch {
	case r.Method == http.MethodConnect:
		p.connect(w, r)
	case r.URL.IsAbs():
		p.exchange(w, r)
	default:
		http.Error(w, "this is a proxy: a request must name a whole URL, as in GET http://host/path", http.StatusBadRequest)
	}
}

// exchange answers a request with an absolute URL.
func (p *Proxy) exchange(w http.ResponseWriter, r *http.Request) {
	if r.URL.Host == "" || r.URL.Hostname() == "" || r.URL.Scheme != "http" && r.URL.Scheme != "https" {
		http.Error(w, "this proxy knows URLs of the form http://host/path and https://host/path only", http.StatusBadRequest)
		return
	}
	done, err := p.begin()
	if err != nil {
		p.failed(w, r, err)
		return
	}
	defer done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	r, through := p.applied(r.WithContext(ctx))
	r.Header.Del("Proxy-Authorization")
	r.Header.Del("Proxy-Connection")
	if !through {
		p.forwarder.ServeHTTP(w, r)
		return
	}
	if err := p.admit(r); err != nil {
		p.failed(w, r, err)
		return
	}
	p.o.Swarm.ServeURL(w, r, p.trust(r.URL))
}
