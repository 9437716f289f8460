// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"dragonfly/source"
)

const (
	dialTime = 10 * time.Second // v1-protocol 10.3
	tlsTime  = 10 * time.Second
	// headerTime is from the end of a request to the header of its answer.
	// Others wait longer than engines do for a registry.
	headerTime = 5 * time.Minute
)

// road is how requests go to hosts of one trust. What was opened for clients on
// this host is not used for others.
type road struct {
	near, far *http.Transport // straight, for clients on this host and on others
	upstream  *http.Transport // through the upstream proxy
}

func (p *Proxy) road(t Trust) (road, error) {
	trust := &tls.Config{InsecureSkipVerify: t.Insecure}
	if len(t.RootCAs) > 0 {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(t.RootCAs) {
			return road{}, errors.New("the certificates for a host hold no PEM certificate")
		}
		trust.RootCAs = roots
	}
	// Answers are passed on as they are, and HTTP/1.1 carries every one of
	// them, protocol changes too.
	transport := func(dialer *net.Dialer) *http.Transport {
		return &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: trust, TLSHandshakeTimeout: tlsTime, DisableCompression: true,
			ResponseHeaderTimeout: headerTime, ExpectContinueTimeout: time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 8,
		}
	}
	r := road{transport(p.dialer(false)), transport(p.dialer(true)), transport(&net.Dialer{Timeout: dialTime})}
	r.upstream.Proxy = p.o.Upstream
	return r, nil
}

func (r road) close() {
	r.near.CloseIdleConnections()
	r.far.CloseIdleConnections()
	r.upstream.CloseIdleConnections()
}

// upstream is the proxy that r goes through; nil: none.
func (p *Proxy) upstream(r *http.Request) (*url.URL, error) {
	if p.o.Upstream == nil {
		return nil, nil
	}
	return p.o.Upstream(r)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (p *Proxy) newForwarder() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		// Hop-by-hop headers are gone before. What else was taken away is the
		// client's own business with its host.
		Rewrite: func(r *httputil.ProxyRequest) {
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := r.In.Header[name]; ok {
					r.Out.Header[name] = values
				}
			}
			r.Out.URL.RawQuery = r.In.URL.RawQuery
		},
		Transport:     roundTripper(p.roundTrip),
		FlushInterval: -1,
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Del(taskHeader)
			resp.Header.Set(viaHeader, "proxy")
			return nil
		},
		ErrorHandler: p.failed,
		ErrorLog:     slog.NewLogLogger(p.o.Log.Handler(), slog.LevelDebug),
	}
}

func (p *Proxy) roundTrip(out *http.Request) (*http.Response, error) {
	road := p.roads[p.host(hostPort(out.URL))]
	upstream, err := p.upstream(out)
	switch {
	case err != nil:
		return nil, err
	case upstream != nil:
		if err := p.checkName(out.URL.Hostname(), afar(out)); err != nil {
			return nil, err
		}
		return road.upstream.RoundTrip(out)
	case afar(out):
		return road.far.RoundTrip(out)
	}
	return road.near.RoundTrip(out)
}

// failed answers a request whose host did not, with v1's status.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set(viaHeader, "proxy")
	if no, ok := errors.AsType[*refusal](err); ok {
		http.Error(w, "dfdaemon: "+no.text, no.status)
		return
	}
	if r.Context().Err() == nil && !errors.Is(err, context.Canceled) {
		p.o.Log.Info("a request could not be forwarded", "method", r.Method, "url", source.Redact(r.URL.String()), "err", bare(err))
	}
	where := source.Redact(r.URL.String())
	if r.Method == http.MethodConnect {
		where = r.Host
	}
	what, remedy := "does not answer", "check that it runs and that this host can reach it"
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		what, remedy = "shows a certificate that is not trusted", "give its authority in certs of hijack_https.hosts"
	}
	http.Error(w, fmt.Sprintf("dfdaemon: the host %s: %s %s: %v; %s", what, r.Method, where, bare(err), remedy), http.StatusServiceUnavailable)
}

// bare is err without the URL that the HTTP client puts before it.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
