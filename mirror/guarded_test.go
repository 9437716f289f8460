// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"dragonfly/source"
)

// guarded is a registry that wants to see something, with its realm.
type guarded struct {
	scheme         source.Scheme
	user, password string // empty: anybody gets a token
	service        string
	silent         bool // /v2/ says nothing, only contents are challenged
	registry       *registry
	server         *httptest.Server

	mu      sync.Mutex // guards all below
	tokens  map[string]string
	asked   []string // requests of its realm: method, user, query or form
	pings   int
	expired bool // no token is good
}

func newGuarded(t *testing.T, g *guarded) *guarded {
	t.Helper()
	g.registry, g.tokens = &registry{}, map[string]string{}
	g.server = serve(t, g)
	return g
}

func (g *guarded) host() string { return g.server.Listener.Addr().String() }

func (g *guarded) realmAsked() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.asked...)
}

func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/auth" {
		g.realm(w, r)
		return
	}
	g.mu.Lock()
	if r.URL.Path == "/v2/" {
		g.pings++
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	name, _, _ = strings.Cut(name, "/blobs/")
	scope := "repository:" + name + ":pull"
	sent := r.Header.Get("Authorization")
	granted, known := g.tokens[strings.TrimPrefix(sent, "Bearer ")]
	user, password, _ := r.BasicAuth()
	good := map[source.Scheme]bool{
		source.SchemeNone: sent == "", source.SchemeBasic: user == g.user && password == g.password,
		source.SchemeBearer: known && !g.expired && (r.URL.Path == "/v2/" || granted == scope) || g.silent && r.URL.Path == "/v2/",
	}[g.scheme]
	g.mu.Unlock()
	if good {
		g.registry.ServeHTTP(w, r)
		return
	}
	g.registry.set(func() { g.registry.requests = append(g.registry.requests, r.Clone(r.Context())) })
	challenge := `Basic realm="a registry"`
	if g.scheme == source.SchemeBearer {
		challenge = fmt.Sprintf(`Bearer realm="%s/auth?fixed=1",service="%s"`, g.server.URL, g.service)
		if r.URL.Path != "/v2/" {
			challenge += `,scope="` + scope + `"`
		}
		if known {
			challenge += `,error="invalid_token"`
		}
	}
	w.Header().Set("Www-Authenticate", challenge)
	w.WriteHeader(http.StatusUnauthorized)
	io.WriteString(w, denied)
}

// realm gives tokens.
func (g *guarded) realm(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	user, password, _ := r.BasicAuth()
	if err := r.ParseForm(); err != nil {
		panic(err)
	}
	g.asked = append(g.asked, r.Method+" "+user+" "+r.Form.Encode())
	if r.PostForm.Get("grant_type") == "refresh_token" {
		user, password = g.user, r.PostForm.Get("refresh_token")
	}
	if g.user != "" && (user != g.user || password != g.password) || r.Form.Get("service") != g.service || r.Form.Get("fixed") != "1" {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"details":"wrong"}`)
		return
	}
	token := fmt.Sprintf("%s-%d-%s", g.service, len(g.tokens), secret)
	g.tokens[token] = r.Form.Get("scope")
	fmt.Fprintf(w, `{"token":%q,"access_token":%q,"expires_in":300}`, token, token)
}

// pathClient does what clients do that name registries in the path.
type pathClient struct {
	t              *testing.T
	base           string
	user, password string
}

// login pings and fetches a token for a repository.
func (c pathClient) login(repository string) (token string) {
	c.t.Helper()
	resp := do(c.t, c.base, "GET", "/v2/", nil, "Docker-Distribution-Api-Version: registry/2.0")
	challenge := source.ParseChallenge(resp.Header.Values("Www-Authenticate"))
	if resp.StatusCode != http.StatusUnauthorized || challenge.Scheme != source.SchemeBearer {
		c.t.Fatalf("the ping gives %d and the challenge %q", resp.StatusCode, resp.Header["Www-Authenticate"])
	}
	if want := c.base + "/token"; challenge.Realm.String() != want {
		c.t.Fatalf("the realm is %s and not %s", challenge.Realm, want)
	}
	q := url.Values{"service": {challenge.Service}}
	if repository != "" {
		q.Set("scope", "repository:"+repository+":pull")
	}
	var header []string
	if c.user != "" {
		q.Set("account", c.user)
		header = []string{"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password))}
	}
	return given(c.t, do(c.t, c.base, "GET", "/token?"+q.Encode(), nil, header...))
}

// given is the token in an answer.
func given(t *testing.T, resp *http.Response) string {
	t.Helper()
	var answer struct {
		Token   string `json:"token"`
		Expires int    `json:"expires_in"`
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(body, &answer) != nil || answer.Token == "" || answer.Expires < 60 {
		t.Errorf("a request for a token gives %d: %s", resp.StatusCode, body)
	}
	return answer.Token
}
