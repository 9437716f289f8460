// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"dragonfly/mirror"
	"dragonfly/source"
)

// logins writes a docker config.json with a login for host.
func logins(t *testing.T, host, user, password string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "config.json")
	text := `{"auths":{"` + host + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + `"}}}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lending starts a mirror of g that logs in with a password.
func lending(t *testing.T, g *guarded, e mirror.Engine, password string, change func(*mirror.Options)) *stand {
	t.Helper()
	return newStand(t, e, func(o *mirror.Options) {
		o.Remote, _ = url.Parse(g.server.URL)
		o.Logins = logins(t, g.host(), "ann", password)
		if change != nil {
			change(o)
		}
	})
}

// TestLent: a client that sends no credentials, as docker, pulls a private image
// with those of the mirror's host, whatever the registry wants, and is not asked
// for any. One token serves all.
func TestLent(t *testing.T) {
	for name, g := range map[string]*guarded{
		"token":    {scheme: source.SchemeBearer, service: "one", user: "ann", password: secret},
		"late":     {scheme: source.SchemeBearer, service: "one", user: "ann", password: secret, silent: true},
		"password": {scheme: source.SchemeBasic, user: "ann", password: secret},
		"nothing":  {scheme: source.SchemeNone},
	} {
		t.Run(name, func(t *testing.T) {
			blob := random(4, 3000)
			s := lending(t, newGuarded(t, g), &fakeEngine{refuse: os.ErrPermission}, secret, nil)
			path := strings.Replace(g.registry.add(blob), "/v2/", "/v2/private/", 1)
			if resp, _, _ := s.get("/v2/", "User-Agent: docker/28"); resp.StatusCode != http.StatusOK {
				t.Errorf("the ping gives %d", resp.StatusCode)
			}
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					for path, want := range map[string]string{"/v2/private/library/app/manifests/1": manifest, path: string(blob)} {
						if resp, got, err := s.get(path); err != nil || resp.StatusCode != http.StatusOK || string(got) != want {
							t.Errorf("%s: %d with %d bytes, %v", path, resp.StatusCode, len(got), err)
						}
					}
					if resp := do(t, s.server.URL, "HEAD", path, nil); resp.StatusCode != http.StatusOK {
						t.Errorf("the head gives %d", resp.StatusCode)
					}
				})
			}
			wg.Wait()
			if asked := g.realmAsked(); len(asked) > 2 || len(asked) > 0 && g.scheme != source.SchemeBearer {
				t.Errorf("the realm was asked %q", asked)
			}
		})
	}
}

// TestLentRefused: what the registry says to who has no login, or one that it
// does not take, is the client's answer; the log says what to do.
func TestLentRefused(t *testing.T) {
	g := newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "one", user: "ann", password: secret})
	for name, s := range map[string]*stand{"wrong password": lending(t, g, &fakeEngine{}, "wrong", nil), "no login": newStand(t, &fakeEngine{}, func(o *mirror.Options) {
		o.Remote, _ = url.Parse(g.server.URL)
		o.Logins = logins(t, "other.example", "ann", secret)
	})} {
		straight := do(t, g.server.URL, "GET", "/v2/a/manifests/1", nil)
		resp, body, _ := s.get("/v2/a/manifests/1")
		if got, want := resp.Header.Get("Www-Authenticate"), straight.Header.Get("Www-Authenticate"); resp.StatusCode != http.StatusUnauthorized || got != want || string(body) != denied {
			t.Errorf("%s: %d with %q, and straight %q", name, resp.StatusCode, got, want)
		}
		if logged := strings.Contains(s.log.String(), "docker login"); logged != (name == "wrong password") {
			t.Errorf("%s: the log says %s", name, s.log)
		}
	}
}

// TestNotLent: nothing is lent to who has credentials or names a registry, for
// another registry, for what is no pull, and where the options say so.
func TestNotLent(t *testing.T) {
	g := newGuarded(t, &guarded{scheme: source.SchemeBearer, service: "one", user: "ann", password: secret})
	other := newGuarded(t, &guarded{scheme: source.SchemeBasic, user: "ann", password: secret})
	s := lending(t, g, &fakeEngine{}, secret, func(o *mirror.Options) {
		o.Lend = func(r *http.Request) bool { return r.Header.Get("User-Agent") != "a stranger" }
	})
	for name, v := range map[string]struct {
		method, path string
		header       []string
	}{
		"credentials":     {"GET", "/v2/a/manifests/1", []string{"Authorization: Bearer own"}},
		"no credentials":  {"GET", "/v2/a/manifests/1", []string{"Authorization: "}},
		"dropped":         {"GET", "/v2/a/manifests/1", []string{"Authorization: x", "Connection: Authorization"}},
		"ns":              {"GET", "/v2/a/manifests/1?ns=" + g.host(), nil},
		"path":            {"GET", "/v2/" + g.host() + "/a/manifests/1", nil},
		"other by ns":     {"GET", "/v2/a/manifests/1?ns=" + other.host(), nil},
		"other by path":   {"GET", "/v2/" + other.host() + "/a/manifests/1", nil},
		"push":            {"POST", "/v2/a/blobs/uploads/", nil},
		"deletion":        {"DELETE", "/v2/a/manifests/1", nil},
		"no registry":     {"GET", "/v1/a", nil},
		"the options say": {"GET", "/v2/a/manifests/1", []string{"User-Agent: a stranger"}},
	} {
		if resp := do(t, s.server.URL, v.method, v.path, nil, v.header...); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
	if asked := g.realmAsked(); len(asked) > 0 {
		t.Errorf("the realm was asked %q", asked)
	}
	for _, r := range other.registry.asked() {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("the other registry got %q", r.Header.Get("Authorization"))
		}
	}
	if resp, _, _ := s.get("/v2/a/manifests/1"); resp.StatusCode != http.StatusOK {
		t.Errorf("and who may borrow gets %d", resp.StatusCode)
	}
}
