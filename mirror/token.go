// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"dragonfly/source"
)

const (
	tokenPath = "/token"
	// service is what challenges of the mirror's own call it.
	service = "dfdaemon"
	// maxForm bounds what a client may send, maxToken what a realm may answer.
	maxForm  = 64 << 10
	maxToken = 1 << 20
)

// pings says that r is the ping of a client that names registries in the path,
// which the mirror answers itself.
//
// Every client of github.com/containers/image (podman, skopeo, buildah, CRI-O)
// asks for /v2/ once, before it has said which registry it means, and brings
// tokens to all registries behind the mirror only if that answer is a challenge:
// one that comes later, with a manifest, is not followed. None of them has one
// name in User-Agent, but all of them send the header
// Docker-Distribution-Api-Version, which else only registries do. docker, whose
// ping is for the mirror's own registry, does not send it, and containerd does
// not ping.
func pings(r *http.Request) bool {
	return ping(r) && r.Header.Get("Docker-Distribution-Api-Version") != "" && r.Header.Get("Authorization") == "" && !r.URL.Query().Has("ns")
}

func ping(r *http.Request) bool {
	return (r.URL.Path == "/v2/" || r.URL.Path == "/v2") && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// ownURL is the mirror as the client of r calls it.
func ownURL(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return (&url.URL{Scheme: scheme, Host: r.Host}).String()
}

// challenge is the mirror's own, for which it gives tokens itself.
func (to route) challenge(scope, problem string) string {
	b := new(strings.Builder)
	add := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, `,%s="%s"`, name, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value))
		}
	}
	add("realm", to.own+tokenPath)
	add("service", service)
	add("scope", scope)
	add("error", problem)
	return "Bearer " + b.String()[1:]
}

// demand answers with a challenge of the mirror's own.
func (to route) demand(w http.ResponseWriter, scope, problem, message string) {
	w.Header().Set("Www-Authenticate", to.challenge(scope, problem))
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", message)
}

// pong answers a ping with one of the mirror's own tokens.
func pong(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	_, _ = io.WriteString(w, "{}") // the client may be gone
}

// token gives a client that names registries in the path a token for one of
// them: the registry's own, from its own realm with the client's own
// credentials; or, where the registry wants no token, one of the mirror's.
func (m *Mirror) token(w http.ResponseWriter, r *http.Request) {
	q, post, err := tokenQuery(w, r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "UNSUPPORTED", err.Error())
		return
	}
	to, scopes, status, err := m.scoped(r, q["scope"])
	if err != nil {
		refuse(w, status, "NAME_INVALID", err.Error())
		return
	}
	if to.registry == nil {
		// A login. Which registry it is for shows only when something is
		// pulled: until then nobody is given the password.
		m.issue(w, pass{})
		return
	}
	c, err := m.realms.Challenge(r.Context(), m.registry(to))
	if err != nil {
		m.noToken(w, to, err)
		return
	}
	switch c.Scheme {
	case source.SchemeNone:
		m.issue(w, pass{Registry: to.registry.Host})
		return
	case source.SchemeBasic:
		m.issue(w, pass{Registry: to.registry.Host, Authorization: basic(r, q)})
		return
	}
	q.Del("scope")
	q.Del("service")
	if c.Service != "" {
		q.Set("service", c.Service)
	}
	if post && len(scopes) > 0 {
		q.Set("scope", strings.Join(scopes, " ")) // as RFC 6749 has it
	} else {
		q["scope"] = scopes
	}
	resp, err := m.registry(to).Ask(r.Context(), c, q, post, basic(r, nil))
	if err != nil {
		m.noToken(w, to, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil || len(body) > maxToken {
		m.noToken(w, to, fmt.Errorf("%s breaks off while it gives a token, or gives more than %d bytes", c.Realm.Host, maxToken))
		return
	}
	for _, name := range []string{"Content-Type", "Retry-After"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set(viaHeader, "direct")
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body) // the client may be gone
}

// noToken answers a client whose registry or realm did not. It is logged too,
// since clients show the status only.
func (m *Mirror) noToken(w http.ResponseWriter, to route, err error) {
	m.o.Log.Warn("a client gets no token for a registry", "registry", to.registry.Host, "why", err)
	refuse(w, http.StatusBadGateway, "UNAVAILABLE", err.Error()+"; check that this host can reach it")
}

// tokenQuery is what a client asks for, in the query or in a form.
func tokenQuery(w http.ResponseWriter, r *http.Request) (q url.Values, post bool, err error) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		q, err = url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return nil, false, errors.New("the query of the request for a token cannot be read")
		}
		return q, false, nil
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Method != http.MethodPost || kind != "application/x-www-form-urlencoded" {
		return nil, false, errors.New("a token is asked for by GET, or by POST with a form")
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err == nil {
		q, err = url.ParseQuery(string(text))
	}
	if err != nil {
		return nil, true, fmt.Errorf("the form of the request for a token cannot be read, or has more than %d bytes", maxForm)
	}
	return q, true, nil
}

// scoped finds the registry that scopes are for, and the scopes as it knows
// them. There is no registry where there are no scopes. An error has a status.
func (m *Mirror) scoped(r *http.Request, lists []string) (to route, scopes []string, status int, err error) {
	for _, scope := range strings.Fields(strings.Join(lists, " ")) {
		var host string
		inner := mapScopes(scope, func(name string) string {
			element, found, rest := splitHost(name)
			if element == "" {
				return name
			}
			host = found
			return rest
		})
		next := m.way(m.remote, true)
		if host != "" {
			if next, err = m.named(host); err != nil {
				return route{}, nil, http.StatusBadRequest, err
			}
			if err := m.mayName(r, next); err != nil {
				return route{}, nil, http.StatusForbidden, err
			}
		}
		if to.registry != nil && next.registry.Host != to.registry.Host {
			return route{}, nil, http.StatusBadRequest, errors.New("the token is for several registries: ask for one at a time")
		}
		to, scopes = next, append(scopes, inner)
	}
	return to, scopes, 0, nil
}

// basic is user and password of a client that wants a token, as an
// Authorization header for a registry that wants these.
func basic(r *http.Request, form url.Values) string {
	if h := r.Header.Get("Authorization"); strings.HasPrefix(strings.ToLower(h), "basic ") {
		return h
	}
	if user, password := form.Get("username"), form.Get("password"); form.Get("grant_type") == "password" && user != "" {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	return ""
}

// issue gives one of the mirror's own tokens.
func (m *Mirror) issue(w http.ResponseWriter, p pass) {
	now := time.Now()
	p.Until = now.Add(sealedLife)
	token, err := m.seal.close(p)
	if err != nil {
		refuse(w, http.StatusBadRequest, "UNSUPPORTED", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client may be gone
		"token": token, "access_token": token, "expires_in": int(sealedLife / time.Second), "issued_at": now.UTC().Format(time.RFC3339),
	})
}
