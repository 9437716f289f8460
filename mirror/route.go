// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"dragonfly"
	"dragonfly/mirror/login"
)

// route is where a request goes.
type route struct {
	registry *url.URL
	remote   bool             // it is Options.Remote
	blob     dragonfly.Digest // of what the engine may bring; zero: nothing

	through  http.RoundTripper // to the registry
	insecure bool              // the registry's certificate is not checked
	roots    []byte            // PEM, additional roots for the registry
	// straight says that the registry wants a certificate of this host: nobody
	// else can fetch from it in this host's place.
	straight bool
	fetch    bool // the engine may bring it although no digest names it

	own     string // URL of the mirror as the client calls it
	element string // of the path, by which the client named the registry; empty: it did not
	ns      string // by which the client named the registry
	sealed  bool   // the client brought one of the mirror's own tokens
	stale   error  // why that is not good; nil: it is
	lend    bool   // the mirror logs in for the client
}

type routeKey struct{}

// route decides where a request goes and what it is there: in is r without what
// is only for the mirror. Else it gives a status and the reason.
func (m *Mirror) route(r *http.Request) (to route, in *http.Request, status int, err error) {
	to = m.way(m.remote, true)
	u := *r.URL
	query := dragonfly.FilterURL("?"+u.RawQuery, []string{"ns"})
	if names, ok := u.Query()["ns"]; ok && strings.HasPrefix(u.Path, "/v2/") {
		if len(names) != 1 {
			return route{}, nil, http.StatusBadRequest, errors.New("the request names several registries: give ns once")
		}
		if to, err = m.named(names[0]); err != nil {
			return route{}, nil, http.StatusBadRequest, err
		}
		to.ns = names[0]
		u.RawQuery = strings.TrimPrefix(query, "?")
	} else if element, host, inner := byPath(&u); element != "" {
		if to, err = m.named(host); err != nil {
			return route{}, nil, http.StatusBadRequest, err
		}
		to.element = element
		u.Path, u.RawPath = inner.Path, inner.RawPath
	}
	if err := m.mayName(r, to); err != nil {
		return route{}, nil, http.StatusForbidden, err
	}
	to.own = ownURL(r)
	in = r.WithContext(r.Context()) // a shallow copy
	in.URL = &u
	if p, own, err := m.seal.open(r.Header.Get("Authorization"), time.Now()); own {
		to.sealed = true
		in.Header = r.Header.Clone()
		in.Header.Del("Authorization")
		switch {
		case err != nil:
			to.stale = err
		case p.Registry == to.registry.Host:
			if p.Authorization != "" {
				in.Header.Set("Authorization", p.Authorization)
			}
		case !ping(r):
			to.stale = errors.New("the token is for another registry: fetch one for this")
		}
	}
	to.lend = m.lends(to, r)
	if !to.straight && (query == "" || query == "?") {
		to.blob = blob(in)
	}
	return to, in, 0, nil
}

// mayName keeps what this host keeps to itself from those who reach the mirror
// from other hosts. A name that only resolves to this host is asked by https and
// must have a certificate for that name: what has one is there for others.
func (m *Mirror) mayName(r *http.Request, to route) error {
	if to.remote || !login.Local(to.registry.Hostname()) {
		return nil
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !from.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("the registry %s is on the mirror's own host: only clients on that host may name it", to.registry.Host)
	}
	return nil
}

// named is the registry that a client names.
func (m *Mirror) named(name string) (route, error) {
	u, err := url.Parse("//" + name)
	if err != nil || u.Host != name || u.Hostname() == "" || u.User != nil {
		return route{}, errors.New("the registry that the request names must look like host or host:port")
	}
	if name == m.remote.Host || login.IsHub(name) && login.IsHub(m.remote.Host) {
		return m.way(m.remote, true), nil
	}
	if name == "docker.io" {
		name = "registry-1.docker.io" // docker.io itself is a web page
	}
	scheme := "https"
	if loopback(u.Hostname()) && !m.ways.laidDown(name) || m.o.Plain != nil && m.o.Plain(name) {
		scheme = "http"
	}
	return m.way(&url.URL{Scheme: scheme, Host: name}, false), nil
}

// way is the route to a registry.
func (m *Mirror) way(registry *url.URL, remote bool) route {
	var given trust
	if remote {
		given = m.given()
	}
	w := m.ways.to(registry.Host, given)
	return route{registry: registry, remote: remote, through: w.through, insecure: w.insecure, roots: w.roots, straight: len(w.own) > 0}
}

// given is how the options say that Remote is to be trusted.
func (m *Mirror) given() trust {
	return trust{insecure: m.o.Insecure, roots: m.o.RootCAs, own: m.o.Certificates}
}

// registry is where a route leads, as its realm is asked.
func (m *Mirror) registry(to route) login.Registry {
	return login.Registry{URL: to.registry, Through: m.transport(to), Trusted: to.remote}
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// rewrite makes the request to the registry. Hop-by-hop and X-Forwarded
// headers are gone already.
func rewrite(r *httputil.ProxyRequest) {
	r.SetURL(r.In.Context().Value(routeKey{}).(route).registry)
}
