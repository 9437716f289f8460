// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"dragonfly/mirror"
	"dragonfly/peer"
	"dragonfly/source"
)

// TestRegistriesAtOnce: through one mirror a client pulls from two registries
// with tokens, from one with a password and from one that wants nothing, all at
// the same time and each with its own credentials; the registries see what they
// would see straight.
func TestRegistriesAtOnce(t *testing.T) {
	blob := random(3, 4000)
	engine := &fakeEngine{content: blob}
	s := newStand(t, engine, nil)
	all := []*guarded{
		newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "one", user: "ann", password: secret + "1"}),
		newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "two", user: "bob", password: secret + "2"}),
		newGuarded(t, &guarded{scheme: source.SchemeBasic, user: "cyd", password: secret + "3"}),
		newGuarded(t, &guarded{scheme: source.SchemeNone, user: "dan", password: secret + "4"}),
	}
	var wg sync.WaitGroup
	for _, g := range all {
		g.registry.add(blob)
		wg.Go(func() {
			name := g.host() + "/own/er/app"
			token := pathClient{t, s.server.URL, g.user, g.password}.login(name)
			for path, want := range map[string]string{"/manifests/latest": manifest, "/blobs/" + digest(blob): string(blob)} {
				resp, got, err := s.get("/v2/"+name+path, "Authorization: Bearer "+token, "Docker-Distribution-Api-Version: registry/2.0")
				if err != nil || resp.StatusCode != http.StatusOK || string(got) != want {
					t.Errorf("%s: %d with %d bytes, %v", g.service, resp.StatusCode, len(got), err)
				}
			}
		})
	}
	wg.Wait()
	for _, g := range all {
		for _, r := range g.registry.asked() {
			sent := r.Header.Get("Authorization")
			user, password, _ := r.BasicAuth()
			if strings.Contains(r.URL.Path, "127.0.0.1") || strings.Contains(sent, "dfdaemon") || g.scheme == source.SchemeNone && sent != "" ||
				g.scheme == source.SchemeBasic && r.URL.Path != "/v2/" && (user != "cyd" || password != secret+"3") {
				t.Errorf("%s was asked for %s with Authorization %q", g.service, r.URL, sent)
			}
		}
	}
	want := "GET ann account=ann&fixed=1&scope=repository%3Aown%2Fer%2Fapp%3Apull&service=one"
	if got := all[0].realmAsked(); len(got) != 1 || got[0] != want {
		t.Errorf("the first realm was asked %q, want %q", got, want)
	}
	if jobs := engine.started(); len(jobs) == 0 || !slices.ContainsFunc(jobs, func(j peer.Job) bool { return strings.Contains(j.Request.URL, all[3].host()) }) {
		t.Errorf("the blob of the registry that wants nothing did not come through the engine: %d jobs", len(jobs))
	}
}

// TestPing: only clients that name registries in the path get the mirror's own
// challenge; docker and whoever else pings gets the registry's.
func TestPing(t *testing.T) {
	own := "Docker-Distribution-Api-Version: registry/2.0"
	for name, v := range map[string]struct {
		path   string
		header []string
		own    bool
	}{
		"docker":       {"/v2/", []string{"User-Agent: docker/28.2.2"}, false},
		"no name":      {"/v2/", nil, false},
		"podman":       {"/v2/", []string{own, "User-Agent: containers/5.23.1 (github.com/containers/image)"}, true},
		"skopeo":       {"/v2/", []string{own, "User-Agent: skopeo/1.9.3"}, true},
		"named by ns":  {"/v2/?ns=NAME", []string{own}, false},
		"with a token": {"/v2/", []string{own, "Authorization: Bearer x"}, false},
		"a manifest":   {"/v2/library/app/manifests/1", []string{own}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, &fakeEngine{}, nil)
			s.registry.set(func() { s.registry.private = true })
			resp, _, _ := s.get(strings.Replace(v.path, "NAME", s.origin.Listener.Addr().String(), 1), v.header...)
			want := challenge
			if v.own {
				want = `Bearer realm="` + s.server.URL + `/token",service="dfdaemon"`
			}
			if got := resp.Header.Get("Www-Authenticate"); resp.StatusCode != http.StatusUnauthorized || got != want {
				t.Errorf("%d with %q, want %q", resp.StatusCode, got, want)
			}
			if n := len(s.registry.asked()); (n == 0) != v.own {
				t.Errorf("the registry was asked %d times", n)
			}
		})
	}
}

// TestRealmIsHTTPS: a client that came by TLS is sent back by TLS.
func TestRealmIsHTTPS(t *testing.T) {
	s := newStand(t, &fakeEngine{}, nil)
	r := httptest.NewRequest("GET", "https://mirror.example:65001/v2/", nil)
	r.URL.Scheme, r.URL.Host = "", ""
	r.Header.Set("Docker-Distribution-Api-Version", "registry/2.0")
	w := httptest.NewRecorder()
	s.mirror.ServeHTTP(w, r)
	if got := w.Header().Get("Www-Authenticate"); !strings.HasPrefix(got, `Bearer realm="https://mirror.example:65001/token"`) {
		t.Errorf("the challenge is %q", got)
	}
}

// TestOwnTokens: one of the mirror's own tokens is good at this mirror, for the
// one registry that it was given for, and is never sent anywhere.
func TestOwnTokens(t *testing.T) {
	basic := newGuarded(t, &guarded{scheme: source.SchemeBasic, user: "cyd", password: secret})
	other := newGuarded(t, &guarded{scheme: source.SchemeBasic, user: "cyd", password: secret})
	open := newGuarded(t, &guarded{scheme: source.SchemeNone})
	s, restarted := newStand(t, &fakeEngine{}, nil), newStand(t, &fakeEngine{}, nil)
	token := pathClient{t, s.server.URL, "cyd", secret}.login(basic.host() + "/a/b")
	if plain, err := base64.RawURLEncoding.DecodeString(token[strings.Index(token, ".")+1:]); err != nil || bytes.Contains(plain, []byte(secret)) || bytes.Contains(plain, []byte(base64.StdEncoding.EncodeToString([]byte("cyd:"+secret)))) {
		t.Errorf("the token can be read: %v", err)
	}
	wrong := pathClient{t, s.server.URL, "cyd", "wrong"}.login(basic.host() + "/a/b")
	manifest := func(g *guarded) string { return "/v2/" + g.host() + "/a/b/manifests/1" }
	altered := []byte(token)
	altered[len(altered)-5] ^= 1
	for name, v := range map[string]struct {
		at          *stand
		path, token string
		status      int
		scope       string // of the mirror's own challenge
	}{
		"good":                 {s, manifest(basic), token, 200, ""},
		"ping":                 {s, "/v2/", token, 200, ""},
		"wrong password":       {s, manifest(basic), wrong, 401, basic.host() + "/a/b"},
		"another registry":     {s, manifest(other), token, 401, other.host() + "/a/b"},
		"an open registry":     {s, manifest(open), token, 401, open.host() + "/a/b"},
		"the mirror's own":     {s, "/v2/library/app/manifests/1", token, 401, "library/app"},
		"by ns":                {s, "/v2/a/b/manifests/1?ns=" + other.host(), token, 401, "a/b"},
		"altered":              {s, manifest(basic), string(altered), 401, basic.host() + "/a/b"},
		"after a restart":      {restarted, manifest(basic), token, 401, basic.host() + "/a/b"},
		"ping after a restart": {restarted, "/v2/", token, 401, "-"},
		"nonsense":             {s, manifest(basic), "dfdaemon-1.x", 401, basic.host() + "/a/b"},
	} {
		before := len(other.registry.asked()) + len(open.registry.asked()) + len(s.registry.asked()) + len(restarted.registry.asked())
		resp, body, _ := v.at.get(v.path, "Authorization: Bearer "+v.token)
		got := resp.Header.Get("Www-Authenticate")
		want := ""
		if v.scope != "" {
			want = `Bearer realm="` + v.at.server.URL + `/token",service="dfdaemon"`
			if v.scope != "-" {
				want += `,scope="repository:` + v.scope + `:pull"`
			}
		}
		if resp.StatusCode != v.status || strings.TrimSuffix(got, `,error="invalid_token"`) != want {
			t.Errorf("%s: %d with %q, want %d with %q: %s", name, resp.StatusCode, got, v.status, want, body)
		}
		if after := len(other.registry.asked()) + len(open.registry.asked()) + len(s.registry.asked()) + len(restarted.registry.asked()); after != before {
			t.Errorf("%s: a registry was asked", name)
		}
	}
}

// TestLoginIsKept: a login says no registry; nobody is given its password, and
// the client's ping afterwards is answered.
func TestLoginIsKept(t *testing.T) {
	s := newStand(t, &fakeEngine{}, nil)
	token := pathClient{t, s.server.URL, "ann", secret}.login("")
	if resp, body, _ := s.get("/v2/", "Authorization: Bearer "+token, "Docker-Distribution-Api-Version: registry/2.0"); resp.StatusCode != 200 {
		t.Errorf("the ping of the login gives %d: %s", resp.StatusCode, body)
	}
	if n := len(s.registry.asked()); n != 0 {
		t.Errorf("the registry was asked %d times", n)
	}
}

// TestRemoteInPath: what names no registry, or the mirror's own, gets tokens of
// the own registry's realm.
func TestRemoteInPath(t *testing.T) {
	g := newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "hub"})
	s := newStand(t, &fakeEngine{}, func(o *mirror.Options) { o.Remote, _ = url.Parse(g.server.URL) })
	for _, name := range []string{"library/app", g.host() + "/library/app", strings.Replace(g.host(), ":", "_", 1) + "/library/app"} {
		token := pathClient{t, s.server.URL, "", ""}.login(name)
		if resp, body, _ := s.get("/v2/"+name+"/manifests/1", "Authorization: Bearer "+token); resp.StatusCode != 200 {
			t.Errorf("%s gives %d: %s", name, resp.StatusCode, body)
		}
	}
	for _, asked := range g.realmAsked() {
		if asked != "GET  fixed=1&scope=repository%3Alibrary%2Fapp%3Apull&service=hub" {
			t.Errorf("the realm was asked %q", asked)
		}
	}
}

// TestRefreshToken: a client with an identity token asks by a form.
func TestRefreshToken(t *testing.T) {
	g := newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "one", user: "ann", password: secret})
	s := newStand(t, &fakeEngine{}, nil)
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {secret}, "client_id": {"x"}, "service": {"dfdaemon"},
		"scope": {"repository:" + g.host() + "/a/b:pull"}}
	resp := do(t, s.server.URL, "POST", "/token", strings.NewReader(form.Encode()), "Content-Type: application/x-www-form-urlencoded")
	token := given(t, resp)
	if resp, body, _ := s.get("/v2/"+g.host()+"/a/b/manifests/1", "Authorization: Bearer "+token); resp.StatusCode != 200 {
		t.Errorf("%d: %s", resp.StatusCode, body)
	}
}

// TestTokenRefused: what a realm says against a client reaches it.
func TestTokenRefused(t *testing.T) {
	g := newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "one", user: "ann", password: secret})
	s := newStand(t, &fakeEngine{}, nil)
	resp, body, _ := s.get("/token?scope=repository:" + g.host() + "/a/b:pull")
	if resp.StatusCode != http.StatusUnauthorized || string(body) != `{"details":"wrong"}` {
		t.Errorf("%d: %s", resp.StatusCode, body)
	}
}

// TestChallengesOnce: a registry is asked once for its challenge, however many
// clients want tokens.
func TestChallengesOnce(t *testing.T) {
	g := newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "one"})
	s := newStand(t, &fakeEngine{}, nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { given(t, do(t, s.server.URL, "GET", "/token?scope=repository:"+g.host()+"/a/b:pull", nil)) })
	}
	wg.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pings != 1 || len(g.asked) != 20 {
		t.Errorf("%d pings and %d requests for tokens", g.pings, len(g.asked))
	}
}

// TestLateChallenge: the challenge of a registry that says nothing at /v2/ is
// learnt from the first one that it gives.
func TestLateChallenge(t *testing.T) {
	g := newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "late", silent: true})
	s := newStand(t, &fakeEngine{}, nil)
	name := g.host() + "/a/b"
	for i, want := range []int{http.StatusUnauthorized, http.StatusOK} {
		token := given(t, do(t, s.server.URL, "GET", "/token?scope=repository:"+name+":pull", nil))
		if resp, body, _ := s.get("/v2/"+name+"/manifests/1", "Authorization: Bearer "+token); resp.StatusCode != want {
			t.Errorf("try %d gives %d: %s", i, resp.StatusCode, body)
		}
	}
}

// TestChallengeInPath: a registry's challenge reaches a client that named it in
// the path as one that it can follow, and every other client unaltered.
func TestChallengeInPath(t *testing.T) {
	const other = `Bearer realm="https://auth.example/token",service="x"`
	for _, v := range []struct{ name, challenge, want string }{
		{"token", other + `,scope="repository:a/b:pull repository:c:pull,push"`, `Bearer realm="OWN/token",service="dfdaemon",scope="repository:HOST/a/b:pull repository:HOST/c:pull,push"`},
		{"no scope", other, `Bearer realm="OWN/token",service="dfdaemon",scope="repository:HOST/a/b:pull"`},
		{"problem", other + `,error="insufficient_scope"`, `Bearer realm="OWN/token",service="dfdaemon",scope="repository:HOST/a/b:pull",error="insufficient_scope"`},
		{"password", `Basic realm="x"`, `Basic realm="x"`},
		{"unknown", `Negotiate`, `Negotiate`},
		{"none", ``, ``},
	} {
		t.Run(v.name, func(t *testing.T) {
			s := newStand(t, &fakeEngine{}, nil)
			g := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if v.challenge != "" {
					w.Header().Set("Www-Authenticate", v.challenge)
				}
				w.WriteHeader(http.StatusUnauthorized)
				io.WriteString(w, denied)
			}))
			host := g.Listener.Addr().String()
			for path, want := range map[string]string{
				"/v2/" + host + "/a/b/manifests/1":    strings.NewReplacer("OWN", s.server.URL, "HOST", host).Replace(v.want),
				"/v2/a/b/manifests/1?ns=" + host:      v.challenge,
				"/v2/" + host + "/a/b/blobs/sha256:1": strings.NewReplacer("OWN", s.server.URL, "HOST", host).Replace(v.want),
			} {
				resp, body, _ := s.get(path)
				if got := resp.Header.Get("Www-Authenticate"); resp.StatusCode != http.StatusUnauthorized || got != want || string(body) != denied {
					t.Errorf("%s: %d with %q, want %q", path, resp.StatusCode, got, want)
				}
			}
		})
	}
}

// TestPointers: where a registry points to itself, a client that named it comes
// back to it through the mirror; what leads elsewhere stays as it is.
func TestPointers(t *testing.T) {
	var header http.Header
	g := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	s := newStand(t, &fakeEngine{}, nil)
	host := g.Listener.Addr().String()
	for _, v := range []struct{ location, path, ns string }{
		{"https://store.example/x?sig=1", "https://store.example/x?sig=1", "https://store.example/x?sig=1"},
		{"/v2/c/d/blobs/x?a=b%20c", "/v2/HOST/c/d/blobs/x?a=b%20c", "/v2/c/d/blobs/x?a=b%20c&ns=HOST"},
		{"../blobs/x", "/v2/HOST/a/b/blobs/x", "/v2/a/b/blobs/x?ns=HOST"},
		{"http://HOST/v2/c/d/blobs/x", "/v2/HOST/c/d/blobs/x", "/v2/c/d/blobs/x?ns=HOST"},
		{"/store/x?sig=1", "http://HOST/store/x?sig=1", "http://HOST/store/x?sig=1"},
		{"//store.example/v2/x", "//store.example/v2/x", "//store.example/v2/x"},
	} {
		for path, want := range map[string]string{"/v2/" + host + "/a/b/manifests/1": v.path, "/v2/a/b/manifests/1?ns=" + url.QueryEscape(host): v.ns} {
			location := strings.Replace(v.location, "HOST", host, 1)
			header = http.Header{"Location": {location}, "Link": {"<" + location + `>; rel="next"`}}
			name := host
			if strings.HasSuffix(want, "ns=HOST") {
				name = url.QueryEscape(host)
			}
			want = strings.Replace(want, "HOST", name, 1)
			resp, _, _ := s.get(path)
			if got := resp.Header.Get("Location"); got != want {
				t.Errorf("%s: Location %s becomes %s, want %s", path, location, got, want)
			}
			if got := resp.Header.Get("Link"); got != "<"+want+`>; rel="next"` {
				t.Errorf("%s: Link to %s becomes %s", path, location, got)
			}
		}
	}
}

// TestTokenLimits: what is asked of /token and cannot or may not be done.
func TestTokenLimits(t *testing.T) {
	form := "Content-Type: application/x-www-form-urlencoded"
	inner := newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "inner"})
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	for name, v := range map[string]struct {
		method, query, body string
		header              []string
		from                string
		status              int
	}{
		"two registries":     {"GET", "scope=repository:a.example/a:pull&scope=repository:b.example/a:pull", "", nil, "", 400},
		"bad query":          {"GET", "scope=%zz", "", nil, "", 400},
		"method":             {"DELETE", "", "", nil, "", 400},
		"no form":            {"POST", "", "{}", []string{"Content-Type: application/json"}, "", 400},
		"long form":          {"POST", "", "scope=" + strings.Repeat("x", 64<<10), []string{form}, "", 400},
		"registry down":      {"GET", "scope=repository:" + down.Listener.Addr().String() + "/a:pull", "", nil, "127.0.0.1:1", 502},
		"inner registry":     {"GET", "scope=repository:" + inner.host() + "/a:pull", "", nil, "192.0.2.1:1", 403},
		"inner, own client":  {"GET", "scope=repository:" + inner.host() + "/a:pull", "", nil, "127.0.0.1:1", 200},
		"long password":      {"GET", "scope=repository:basic.example/a:pull", "", []string{"Authorization: Basic " + strings.Repeat("x", 17<<10)}, "", 400},
		"inner realm":        {"GET", "scope=repository:inner-realm.example/a:pull", "", nil, "", 502},
		"realm without TLS":  {"GET", "scope=repository:plain-realm.example/a:pull", "", nil, "", 502},
		"endless token":      {"GET", "scope=repository:endless.example/a:pull", "", nil, "", 502},
		"realm to elsewhere": {"GET", "scope=repository:moved.example/a:pull", "", nil, "", 502},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, &fakeEngine{}, func(o *mirror.Options) {
				o.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
					resp := &http.Response{StatusCode: 401, Header: http.Header{}, Body: http.NoBody, Request: r}
					switch r.URL.Host + r.URL.Path {
					case "basic.example/v2/":
						resp.Header.Set("Www-Authenticate", `Basic realm="x"`)
					case "inner-realm.example/v2/":
						resp.Header.Set("Www-Authenticate", `Bearer realm="https://127.0.0.1:1/token"`)
					case "plain-realm.example/v2/":
						resp.Header.Set("Www-Authenticate", `Bearer realm="http://auth.example/token"`)
					case "endless.example/v2/":
						resp.Header.Set("Www-Authenticate", `Bearer realm="https://auth.example/endless"`)
					case "auth.example/endless":
						resp.StatusCode, resp.Body = 200, io.NopCloser(endless{})
					case "moved.example/v2/":
						resp.Header.Set("Www-Authenticate", `Bearer realm="https://auth.example/moved"`)
					case "auth.example/moved":
						resp.StatusCode = http.StatusTemporaryRedirect
						resp.Header.Set("Location", "https://[::1]/token")
					default:
						return http.DefaultTransport.RoundTrip(r)
					}
					return resp, nil
				})
			})
			r := httptest.NewRequest(v.method, "/token?"+v.query, strings.NewReader(v.body))
			if v.from != "" {
				r.RemoteAddr = v.from
			}
			for _, line := range v.header {
				name, value, _ := strings.Cut(line, ": ")
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			if s.mirror.ServeHTTP(w, r); w.Code != v.status {
				t.Errorf("%d, want %d: %s", w.Code, v.status, w.Body)
			}
			if strings.Contains(w.Body.String(), "scope") {
				t.Errorf("the query is in the answer: %s", w.Body)
			}
		})
	}
}

// endless gives bytes for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
