// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"dragonfly/source"
)

// hostName is what a first path element must look like to be a registry's.
// Clients cannot write a colon into the name of a repository: host_port means
// host:port, as no name of a host has an underscore.
var hostName = regexp.MustCompile(`^(\[[0-9a-fA-F:.]+\]|[0-9a-zA-Z](?:[0-9a-zA-Z.-]*[0-9a-zA-Z])?)(?:[:_]([0-9]{1,5}))?$`)

// splitHost cuts the registry off the front of a repository's name, or of what
// comes behind /v2/ in a path. element is how it stands there, host how it is
// meant; both are empty where there is none: a registry has a dot or a port in
// its name or is localhost, as in the names of images.
func splitHost(name string) (element, host, rest string) {
	element, rest, ok := strings.Cut(name, "/")
	m := hostName.FindStringSubmatch(element)
	if !ok || m == nil {
		return "", "", name
	}
	host, port := m[1], m[2]
	if !strings.ContainsAny(host, ".:") && host != "localhost" && !strings.Contains(element, ":") {
		return "", "", name
	}
	if port != "" {
		host += ":" + port
	}
	return element, host, rest
}

// resource finds the kind of a resource in what comes behind /v2/; what is
// before it is the name of the repository.
var resource = regexp.MustCompile(`^(?:(.+)/)?(?:manifests|blobs|tags|referrers)/`)

// byPath finds the registry in a path. inner is the path that this registry
// knows: a URL with nothing but Path and RawPath.
func byPath(u *url.URL) (element, host string, inner url.URL) {
	behind, ok := strings.CutPrefix(u.Path, "/v2/")
	if !ok {
		return "", "", *u
	}
	element, host, rest := splitHost(behind)
	if m := resource.FindStringSubmatch(rest); element == "" || m != nil && m[1] == "" {
		return "", "", *u // a repository may be called ghcr.io at the mirror's own registry
	}
	inner.Path = "/v2/" + rest
	if u.RawPath != "" {
		first, raw, ok := strings.Cut(strings.TrimPrefix(u.RawPath, "/v2/"), "/")
		if plain, err := url.PathUnescape(first); !ok || err != nil || plain != element {
			return "", "", *u
		}
		inner.RawPath = "/v2/" + raw
	}
	return element, host, inner
}

// repository is the name in a path of the registry API; empty if it has none.
func repository(path string) string {
	m := resource.FindStringSubmatch(strings.TrimPrefix(path, "/v2/"))
	if m == nil {
		return ""
	}
	return m[1]
}

// translate turns what a registry says of itself into what the client knows it
// by: the challenge, and where it points to itself.
func (m *Mirror) translate(to route, out *http.Request, resp *http.Response) {
	if to.element == "" && to.ns == "" {
		return
	}
	for i, location := range resp.Header.Values("Location") {
		resp.Header["Location"][i] = to.translate(out.URL, location)
	}
	for i, link := range resp.Header.Values("Link") {
		if target, attributes, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">"); ok && strings.HasPrefix(link, "<") {
			resp.Header["Link"][i] = "<" + to.translate(out.URL, target) + ">" + attributes
		}
	}
	if to.element == "" || resp.StatusCode != http.StatusUnauthorized {
		return
	}
	c := source.ParseChallenge(resp.Header.Values("Www-Authenticate"))
	switch {
	case c.Scheme == source.SchemeBearer:
		m.realms.Learn(m.registry(to), c)
	case !to.sealed:
		return // the client asked with a password or without, and may go on so
	}
	scope := to.scope(out)
	if c.Scope != "" {
		scope = mapScopes(c.Scope, to.full)
	}
	resp.Header["Www-Authenticate"] = []string{to.challenge(scope, c.Problem)}
}

// full is the name by which the client knows a repository of the registry.
func (to route) full(name string) string {
	if to.element == "" {
		return name
	}
	return to.element + "/" + name
}

// scope is what pulling needs of which r asks for something; empty if r is not
// about a repository.
func (to route) scope(r *http.Request) string {
	name := to.repository(r)
	if name == "" {
		return ""
	}
	return "repository:" + to.full(name) + ":pull"
}

// repository is what r is about at the registry; empty if that is no
// repository.
func (to route) repository(r *http.Request) string {
	return repository(strings.TrimPrefix(r.URL.Path, strings.TrimSuffix(to.registry.Path, "/")))
}

// translate gives the target of a redirect or of a link as the client can
// follow it; asked is what it was the answer to. What leads to another host, or
// out of the registry's API, is left to the client.
func (to route) translate(asked *url.URL, target string) string {
	u, err := asked.Parse(target)
	if err != nil || u.User != nil || u.Scheme != asked.Scheme || u.Host != asked.Host {
		return target
	}
	base := strings.TrimSuffix(to.registry.Path, "/")
	behind, ok := strings.CutPrefix(u.EscapedPath(), base+"/v2/")
	if !ok {
		return u.String()
	}
	query := u.RawQuery
	path := "/v2/" + behind
	if to.element != "" {
		path = "/v2/" + to.element + "/" + behind
	} else {
		if query != "" {
			query += "&"
		}
		query += "ns=" + url.QueryEscape(to.ns)
	}
	if query != "" {
		path += "?" + query
	}
	return path
}

// mapScopes changes the names of repositories in a list of scopes.
func mapScopes(scopes string, change func(name string) string) string {
	all := strings.Fields(scopes)
	for i, scope := range all {
		kind, rest, ok := strings.Cut(scope, ":")
		if end := strings.LastIndex(rest, ":"); ok && end > 0 && isRepository(kind) {
			all[i] = kind + ":" + change(rest[:end]) + rest[end:]
		}
	}
	return strings.Join(all, " ")
}

// isRepository says that a scope of this kind has the name of a repository:
// repository, or repository(plugin) and the like.
func isRepository(kind string) bool {
	kind, _, _ = strings.Cut(kind, "(")
	return kind == "repository"
}
