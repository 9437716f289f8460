// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"dragonfly"
)

// maxTransports bounds how many TLS settings have connections kept for them.
const maxTransports = 16

// settings are what tells transports apart.
type settings struct {
	roots    [sha256.Size]byte // of the PEM text, zero for none
	insecure bool
	own      bool // the host that the request was made for: certificates are shown
}

// transports is a bounded set of transports, one per TLS settings, so that
// connections are reused only among requests with the same settings.
type transports struct {
	mu   sync.Mutex // guards list
	list []prepared // most recently used first
}

type prepared struct {
	settings
	*http.Transport
}

// get finds the transport for s or makes one. The one that was not used for
// the longest time makes room; bodies that are being read go on.
func (t *transports) get(s settings, make func() (*http.Transport, error)) (*http.Transport, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.list, func(p prepared) bool { return p.settings == s })
	if i >= 0 {
		p := t.list[i]
		t.list = slices.Insert(slices.Delete(t.list, i, i+1), 0, p)
		return p.Transport, nil
	}
	made, err := make()
	if err != nil {
		return nil, err
	}
	if len(t.list) == maxTransports {
		t.list[maxTransports-1].CloseIdleConnections()
		t.list = t.list[:maxTransports-1]
	}
	t.list = slices.Insert(t.list, 0, prepared{s, made})
	return made, nil
}

func (t *transports) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.list {
		p.CloseIdleConnections()
	}
}

// transport is the one for the TLS settings of r.
func (c *Client) transport(r dragonfly.Request, own bool) (*http.Transport, error) {
	s := settings{insecure: r.Insecure, own: own || len(c.options.Certificates) == 0}
	if len(r.RootCAs) > 0 {
		s.roots = sha256.Sum256(r.RootCAs)
	}
	return c.transports.get(s, func() (*http.Transport, error) {
		config := &tls.Config{InsecureSkipVerify: r.Insecure}
		if own {
			config.Certificates = c.options.Certificates
		}
		if len(r.RootCAs) > 0 {
			roots, err := x509.SystemCertPool()
			if err != nil {
				roots = x509.NewCertPool()
			}
			if !roots.AppendCertsFromPEM(r.RootCAs) {
				return nil, fault(dragonfly.Invalid, "the CA certificates for the source hold no certificate: give PEM files with --cacerts")
			}
			config.RootCAs = roots
		}
		return c.newTransport(config), nil
	})
}

func (c *Client) newTransport(config *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  c.proxy(),
		OnProxyConnectResponse: onConnect,
		DialContext:            c.dial(),
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    c.options.Timeouts.TLS,
		ResponseHeaderTimeout:  c.options.Timeouts.Header,
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    64, // many small files at once come from one host
		MaxIdleConns:           256,
		IdleConnTimeout:        60 * time.Second,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: 16 << 20, // keeps long fat links full
			SendPingTimeout:           15 * time.Second,
			PingTimeout:               15 * time.Second,
		},
	}
}

// onConnect judges a proxy's answer to CONNECT.
func onConnect(_ context.Context, proxy *url.URL, req *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	e := &dragonfly.Error{Status: resp.StatusCode}
	e.Kind, e.Message = dragonfly.SourceFailed, "does not connect"
	switch resp.StatusCode {
	case http.StatusProxyAuthRequired, http.StatusUnauthorized:
		e.Kind, e.Message = dragonfly.Unauthorized, "wants credentials, or other ones: put them into the proxy setting"
	case http.StatusForbidden:
		e.Kind, e.Message = dragonfly.Forbidden, "refuses to connect"
	}
	e.Message = fmt.Sprintf("proxy %s, on the way to source %s, %s", proxy.Host, req.Host, e.Message)
	e.Err = &StatusError{Status: resp.StatusCode, Header: http.Header{}, URL: redact(proxy)}
	return e
}
