// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"strings"

	"dragonfly/proxy"
)

// front gives each request to the part that answers it. There is no ServeMux:
// it would answer names that registries allow with a redirect.
type front struct {
	pages    map[string]http.Handler
	registry http.Handler
	proxy    http.Handler
	guarded  bool // clients on other hosts must give the proxy's password
}

func (f front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect || r.URL.IsAbs() {
		f.proxy.ServeHTTP(w, r)
		return
	}
	if page := f.page(r.URL.Path); page != nil {
		if a, ok := w.(*answer); ok {
			a.own = true
		}
		page.ServeHTTP(w, r)
		return
	}
	if f.guarded && !proxy.Near(r) {
		// A registry's password is in the place where this one would be.
		http.Error(w, "this dfdaemon wants a password of clients on other hosts, which they cannot give to a registry mirror: "+
			"take it as an HTTP proxy, HTTP_PROXY=http://USER:PASSWORD@HOST:PORT, or run a dfdaemon on this host", http.StatusForbidden)
		return
	}
	f.registry.ServeHTTP(w, r)
}

// page is dfdaemon's own page at a path; nil: there is none.
func (f front) page(path string) http.Handler {
	if page, ok := f.pages[path]; ok {
		return page
	}
	const profiles = "/debug/pprof/"
	if strings.HasPrefix(path, profiles) {
		return f.pages[profiles]
	}
	return nil
}
