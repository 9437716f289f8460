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

	"dragonfly"
)

// route is where a request goes.
type route struct {
	registry *url.URL
	remote   bool             // it is Options.Remote
	blob     dragonfly.Digest // of what the engine may bring; zero: nothing
}

type routeKey struct{}

// route decides where a request goes; else it gives a status and the reason.
func (m *Mirror) route(r *http.Request) (to route, status int, err error) {
	to = route{registry: m.remote, remote: true}
	query := dragonfly.FilterURL("?"+r.URL.RawQuery, []string{"ns"})
	if names, ok := r.URL.Query()["ns"]; ok && strings.HasPrefix(r.URL.Path, "/v2/") {
		if len(names) != 1 {
			return route{}, http.StatusBadRequest, errors.New("the request names several registries: give ns once")
		}
		if to, err = m.named(names[0]); err != nil {
			return route{}, http.StatusBadRequest, err
		}
		// Who can reach the mirror shall not reach by it what this host keeps to
		// itself.
		if from, err := netip.ParseAddrPort(r.RemoteAddr); !to.remote && loopback(to.registry.Hostname()) &&
			(err != nil || !from.Addr().Unmap().IsLoopback()) {
			return route{}, http.StatusForbidden, fmt.Errorf("the registry %s is on the mirror's own host: only clients on that host may name it", to.registry.Host)
		}
	}
	if query == "" || query == "?" {
		to.blob = blob(r)
	}
	return to, 0, nil
}

// named is the registry that ns names.
func (m *Mirror) named(ns string) (route, error) {
	u, err := url.Parse("//" + ns)
	if err != nil || u.Host != ns || u.Hostname() == "" || u.User != nil {
		return route{}, errors.New("the registry that ns names must look like host or host:port")
	}
	if ns == m.remote.Host || hub(ns) && hub(m.remote.Host) {
		return route{registry: m.remote, remote: true}, nil
	}
	if ns == "docker.io" {
		ns = "registry-1.docker.io" // docker.io itself is a web page
	}
	scheme := "https"
	if loopback(u.Hostname()) || m.o.Plain != nil && m.o.Plain(ns) {
		scheme = "http"
	}
	return route{registry: &url.URL{Scheme: scheme, Host: ns}}, nil
}

// hub says that host is one of the names of Docker Hub's registry.
func hub(host string) bool {
	return host == "docker.io" || host == "index.docker.io" || host == "registry-1.docker.io"
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// rewrite makes the request to the registry. Hop-by-hop and X-Forwarded
// headers are gone already.
func rewrite(r *httputil.ProxyRequest) {
	to := r.In.Context().Value(routeKey{}).(route)
	if strings.HasPrefix(r.In.URL.Path, "/v2/") {
		query := dragonfly.FilterURL("?"+r.Out.URL.RawQuery, []string{"ns"})
		r.Out.URL.RawQuery = strings.TrimPrefix(query, "?")
	}
	r.SetURL(to.registry)
}
