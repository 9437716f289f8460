// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"dragonfly/mirror/login"
	"dragonfly/peer"
	"dragonfly/source"
)

// Options of a Mirror. Remote and Engine are required.
type Options struct {
	// Remote is the registry of requests that name none. Its path, if it has
	// one, comes before that of each request.
	Remote   *url.URL
	Insecure bool   // the certificate of Remote is not checked
	RootCAs  []byte // PEM, additional roots for Remote
	// Certificates are what this host shows to Remote if it asks.
	Certificates []tls.Certificate
	// CertDirs have a directory for each registry, Remote or another, that is
	// known by other certificates than the system's, or wants one of this host:
	// see docker's certs.d. They are looked into whenever they change and need
	// not exist.
	CertDirs []string
	// Plain says which registries named by ns speak plain HTTP, besides those on
	// loopback addresses; nil: none. host may have a port.
	Plain func(host string) bool

	// Logins is a docker config.json with which the mirror logs in at Remote for
	// who pulls from it, names no registry and brings no credentials, as docker
	// does; empty: it does not. The file is read again when it changes and need
	// not exist.
	Logins string
	// Lend says for which requests the mirror logs in; nil: for all.
	Lend func(*http.Request) bool

	Engine Engine
	// Job completes a job before it starts: supernodes, limits, id, observer;
	// nil: nothing to complete. It is called from many goroutines.
	Job func(job *peer.Job)

	// Proxy says which proxy a request to a registry goes through, nil for none,
	// as in http.Transport.
	Proxy func(*http.Request) (*url.URL, error)
	// Transport carries what goes straight to registries, instead of those that
	// are made of Insecure, RootCAs, Certificates, CertDirs and Proxy.
	Transport http.RoundTripper
	Log       *slog.Logger // nil: none
}

const (
	dialTime = 5 * time.Second
	tlsTime  = 10 * time.Second
	// headerTime is from the end of a request to the header of its answer. A
	// registry may take long to put an uploaded layer in its place.
	headerTime = time.Minute
)

const (
	viaHeader  = "X-Dragonfly-Via"
	taskHeader = "X-Dragonfly-Task"
)

// Mirror is an http.Handler. Close it when its server has stopped.
type Mirror struct {
	o         Options
	remote    *url.URL
	ways      ways
	forwarder *httputil.ReverseProxy
	realms    login.Realms
	seal      seal
	keeper    *login.Keeper // nil: nothing is lent

	ctx    context.Context // of all jobs
	cancel context.CancelFunc
	wg     sync.WaitGroup // of goroutines that outlive a request
}

// New makes a Mirror. An error names what is wrong with o.
func New(o Options) (*Mirror, error) {
	if o.Remote == nil || o.Remote.Host == "" || o.Remote.Scheme != "http" && o.Remote.Scheme != "https" {
		return nil, errors.New("the registry of the mirror must look like https://host")
	}
	if o.Engine == nil {
		return nil, errors.New("the mirror has no engine: set Options.Engine")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Mirror{o: o,
		// Neither userinfo nor query of the registry's URL goes anywhere.
		remote: &url.URL{Scheme: o.Remote.Scheme, Host: o.Remote.Host, Path: o.Remote.Path}}
	if _, err := m.given().config(); err != nil {
		return nil, err
	}
	if m.ways.make = func(*tls.Config) http.RoundTripper { return o.Transport }; o.Transport == nil {
		m.ways.dirs = o.CertDirs
		m.ways.make = func(c *tls.Config) http.RoundTripper { return transport(o.Proxy, c) }
	}
	var err error
	if m.seal, err = newSeal(); err != nil {
		return nil, err
	}
	if o.Logins != "" {
		m.keeper = login.NewKeeper(o.Logins, &m.realms, o.Log)
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.forwarder = &httputil.ReverseProxy{
		Rewrite:      rewrite,
		Transport:    roundTripper(m.roundTrip),
		BufferPool:   new(buffers),
		ErrorHandler: m.failed,
		ErrorLog:     slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	return m, nil
}

// transport passes answers on as they are.
func transport(proxy func(*http.Request) (*url.URL, error), trust *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy: proxy, TLSClientConfig: trust, ForceAttemptHTTP2: true, DisableCompression: true,
		DialContext:           (&net.Dialer{Timeout: dialTime}).DialContext,
		TLSHandshakeTimeout:   tlsTime,
		ResponseHeaderTimeout: headerTime,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   8,
	}
}

// Close ends all jobs and returns when nothing of the mirror runs any more. No
// request may be at work.
func (m *Mirror) Close() error {
	m.cancel()
	m.wg.Wait()
	if m.o.Transport == nil {
		m.ways.close()
	}
	return nil
}

func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect || r.URL.IsAbs() || r.URL.Host != "" {
		refuse(w, http.StatusBadRequest, "UNSUPPORTED", "this is a registry mirror and no proxy: ask it for /v2/…")
		return
	}
	if r.URL.Path == tokenPath {
		m.token(w, r)
		return
	}
	to, in, status, err := m.route(r)
	if err != nil {
		refuse(w, status, "NAME_INVALID", err.Error())
		return
	}
	if pings(r) {
		to.demand(w, "", "", "fetch a token")
		return
	}
	if to.stale != nil {
		to.demand(w, to.scope(in), "invalid_token", to.stale.Error())
		return
	}
	if to.sealed && ping(r) {
		pong(w)
		return
	}
	m.forwarder.ServeHTTP(w, in.WithContext(context.WithValue(in.Context(), routeKey{}, to)))
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (m *Mirror) roundTrip(out *http.Request) (*http.Response, error) {
	to := out.Context().Value(routeKey{}).(route)
	answer := m.blob
	if to.blob.IsZero() && !to.fetch {
		answer = m.direct
	}
	resp, err := m.lend(to, out, answer)
	if err != nil {
		return nil, err
	}
	m.translate(to, out, resp)
	return resp, nil
}

// transport carries what goes straight to a registry.
func (m *Mirror) transport(to route) http.RoundTripper { return to.through }

// direct is the registry's own answer.
func (m *Mirror) direct(to route, out *http.Request) (*http.Response, error) {
	resp, err := m.transport(to).RoundTrip(out)
	if err != nil {
		return nil, err
	}
	resp.Header.Del(taskHeader)
	resp.Header.Set(viaHeader, "direct")
	return resp, nil
}

// failed answers a request whose registry did not.
func (m *Mirror) failed(w http.ResponseWriter, out *http.Request, err error) {
	status, what := http.StatusBadGateway, "cannot be reached"
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		status, what = http.StatusGatewayTimeout, "does not answer in time"
	}
	behind := "the registry behind the mirror"
	if to, ok := out.Context().Value(routeKey{}).(route); ok && to.fetch && to.blob.IsZero() {
		behind = "the server"
	}
	w.Header().Set(viaHeader, "direct")
	refuse(w, status, "UNAVAILABLE", fmt.Sprintf("%s %s: %s %s: %v; check that it runs and that this host can reach it",
		behind, what, out.Method, source.Redact(out.URL.String()), bare(err)))
}

// bare is err without the URL that the HTTP client puts before it.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// refuse answers as registries do, so that engines show the message.
func refuse(w http.ResponseWriter, status int, code, message string) {
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]problem{"errors": {{code, message}}}) // the client may be gone
}

// buffers are what answers are copied with.
type buffers struct{ pool sync.Pool }

const bufferLen = 128 << 10

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferLen)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
