// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"net/http"
	"net/url"

	"dragonfly"
	"dragonfly/source"
)

// ServeURL answers a request for an absolute URL, whatever it is of: a GET
// through the engine where that can be, everything else straight. The server is
// trusted as the mirror trusts registries, and besides as insecure and roots
// (PEM) say. It is for a proxy that lets some of its requests go through the
// swarm. Of a content that no digest names, the engine checks that all hosts
// get the same; headers other than those of the content's extent are lost.
func (m *Mirror) ServeURL(w http.ResponseWriter, r *http.Request, insecure bool, roots []byte) {
	server := &url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host}
	way := m.ways.to(server.Host, trust{insecure: insecure, roots: roots})
	to := route{registry: server, through: way.through, insecure: way.insecure, roots: way.roots, straight: len(way.own) > 0}
	if to.fetch = !to.straight && fetched(r); to.fetch {
		to.blob, _ = source.ContentAddressed(r.URL.String())
	}
	m.forwarder.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), routeKey{}, to)))
}

// notPassed are headers that are about the way or the moment and not about the
// content, or that the engine sets.
var notPassed = map[string]bool{
	"Accept-Encoding": true, "Connection": true, "If-Range": true, "Range": true, "Te": true, "Via": true,
	"Forwarded": true, "X-Forwarded-For": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true,
}

// secrets are the headers that the engine's request to the source carries: those
// by which a registry decides who may read, and all that can matter to another
// server.
func secrets(to route, out *http.Request) dragonfly.Header {
	h := dragonfly.Header{}
	for name, values := range out.Header {
		if to.blob.IsZero() && !notPassed[name] || name == "Authorization" || name == "Cookie" {
			h[name] = values
		}
	}
	return h
}
