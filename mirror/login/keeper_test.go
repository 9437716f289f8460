// SPDX-License-Identifier: Apache-2.0

package login

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// realm is a registry with its realm, in memory.
type realm struct {
	challenge string
	password  string // that is right
	answer    string // with one %d for the number of the token

	mu    sync.Mutex // guards all below
	asked []string   // tokens: user and query or form
	pings int
}

func (g *realm) RoundTrip(r *http.Request) (*http.Response, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}
	if r.URL.Path == "/v2/" {
		g.pings++
		resp.StatusCode = 401
		resp.Header.Set("Www-Authenticate", g.challenge)
		return resp, nil
	}
	user, password, _ := r.BasicAuth()
	text := r.URL.RawQuery
	if r.Method == http.MethodPost {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		text, password = string(body), form.Get("refresh_token")
	}
	g.asked = append(g.asked, r.Method+" "+user+" "+text)
	if password != g.password {
		resp.StatusCode = 401
		return resp, nil
	}
	answer := g.answer
	if strings.Contains(answer, "%d") {
		answer = fmt.Sprintf(answer, len(g.asked))
	}
	resp.Body = io.NopCloser(strings.NewReader(answer))
	return resp, nil
}

const bearer = `Bearer realm="https://auth.example/token",service="r"`

// keeper makes a Keeper with a configuration for r.example.
func keeper(t *testing.T, g *realm, config string) (*Keeper, Registry, *bytes.Buffer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log := new(bytes.Buffer)
	t.Cleanup(func() {
		if strings.Contains(log.String(), secret) {
			t.Errorf("a secret is in the log:\n%s", log)
		}
	})
	return NewKeeper(path, new(Realms), slog.New(slog.NewTextHandler(log, nil))),
		Registry{URL: &url.URL{Scheme: "https", Host: "r.example"}, Through: g}, log
}

func annConfig(password string) string {
	return `{"auths":{"r.example":{"auth":"` + b64("ann:"+password) + `"}}}`
}

// TestAuthorize: what a registry gets to see, by what it wants and what the
// configuration has.
func TestAuthorize(t *testing.T) {
	const token = `{"token":"` + secret + `-%d"}`
	basic := "Basic " + b64("ann:"+secret)
	for name, v := range map[string]struct {
		challenge, config, answer string
		want                      string
		asked                     string // of the realm
		logs                      string
	}{
		"token":          {bearer, annConfig(secret), token, "Bearer " + secret + "-1", "GET ann account=ann&scope=repository%3Aa%2Fb%3Apull&service=r", ""},
		"access token":   {bearer, annConfig(secret), `{"access_token":"x"}`, "Bearer x", "GET ann account=ann&scope=repository%3Aa%2Fb%3Apull&service=r", ""},
		"identity token": {bearer, `{"auths":{"r.example":{"identitytoken":"` + secret + `"}}}`, token, "Bearer " + secret + "-1", "POST  client_id=dfdaemon&grant_type=refresh_token&refresh_token=" + secret + "&scope=repository%3Aa%2Fb%3Apull&service=r", ""},
		"own token":      {bearer, `{"auths":{"r.example":{"registrytoken":"` + secret + `"}}}`, token, "Bearer " + secret, "", ""},
		"password":       {`Basic realm="x"`, annConfig(secret), "", basic, "", ""},
		"wants nothing":  {"", annConfig(secret), "", "", "", ""},
		"has nothing":    {bearer, `{}`, token, "", "", ""},
		"wrong password": {bearer, annConfig(secret + "x"), token, "", "GET ann account=ann&scope=repository%3Aa%2Fb%3Apull&service=r", "auth.example answers 401"},
		"token only":     {`Basic realm="x"`, `{"auths":{"r.example":{"identitytoken":"` + secret + `"}}}`, "", "", "", "a token only"},
		"token of user":  {`Basic realm="x"`, `{"auths":{"r.example":{"auth":"` + b64("ann:") + `","identitytoken":"` + secret + `"}}}`, "", "", "", "a token only"},
		"no token":       {bearer, annConfig(secret), `{}`, "", "GET ann account=ann&scope=repository%3Aa%2Fb%3Apull&service=r", "gives no token"},
		"bad token":      {bearer, annConfig(secret), `{"token":"a\nb"}`, "", "GET ann account=ann&scope=repository%3Aa%2Fb%3Apull&service=r", "gives no token"},
		"no JSON":        {bearer, annConfig(secret), secret, "", "GET ann account=ann&scope=repository%3Aa%2Fb%3Apull&service=r", "as JSON"},
		"long":           {bearer, annConfig(secret), `{"token":"` + strings.Repeat("x", maxToken) + `"}`, "", "GET ann account=ann&scope=repository%3Aa%2Fb%3Apull&service=r", "more than"},
		"realm is here":  {`Bearer realm="https://localhost/token"`, annConfig(secret), token, "", "", "a realm on this host"},
		"bad file":       {bearer, secret, token, "", "", "docker login"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &realm{challenge: v.challenge, password: secret, answer: v.answer}
			k, r, log := keeper(t, g, v.config)
			for range 2 {
				if got := k.Authorize(t.Context(), r, "a/b"); got != v.want {
					t.Errorf("%q, want %q", got, v.want)
				}
			}
			if v.asked != "" && (len(g.asked) != 1 || g.asked[0] != v.asked) || v.asked == "" && len(g.asked) > 0 {
				t.Errorf("the realm was asked %q, want %q", g.asked, v.asked)
			}
			if lines := strings.Count(log.String(), "\n"); !strings.Contains(log.String(), v.logs) || (v.logs != "") != (lines == 1) {
				t.Errorf("the log says %q", log)
			}
		})
	}
}

// TestTokenLife: a token is fetched once for all who want it, kept until
// shortly before its end, and each repository has its own.
func TestTokenLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &realm{challenge: bearer, password: secret, answer: `{"token":"x-%d","expires_in":100}`}
		k, r, _ := keeper(t, g, annConfig(secret))
		for i, v := range []struct {
			after time.Duration
			want  int // tokens that were fetched
		}{{0, 1}, {74 * time.Second, 1}, {2 * time.Second, 2}, {100 * time.Second, 3}} {
			<-time.After(v.after)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if got := k.Authorize(t.Context(), r, "a"); got != fmt.Sprintf("Bearer x-%d", v.want) {
						t.Errorf("step %d: %q", i, got)
					}
				})
			}
			wg.Wait()
			if len(g.asked) != v.want {
				t.Errorf("step %d: %d tokens were fetched, want %d", i, len(g.asked), v.want)
			}
		}
		k.Authorize(t.Context(), r, "b")
		if got := g.asked[3]; !strings.Contains(got, "repository%3Ab%3Apull") {
			t.Errorf("the other repository got %q", got)
		}
	})
}

// TestRefused: a refused token is fetched anew, but not one that was fetched
// just now; a login that fails is not tried again for a while.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &realm{challenge: bearer, password: secret, answer: `{"token":"x-%d","expires_in":1000}`}
		k, r, log := keeper(t, g, annConfig(secret))
		first := k.Authorize(t.Context(), r, "a")
		if got := k.Refused(t.Context(), r, "a", first); got != "" || !strings.Contains(log.String(), "the registry refuses the login") {
			t.Errorf("a new token that is refused gives %q; the log says %s", got, log)
		}
		<-time.After(youth + time.Second)
		second := k.Refused(t.Context(), r, "a", first)
		if second != "Bearer x-2" {
			t.Errorf("after a while %q", second)
		}
		if got := k.Refused(t.Context(), r, "a", first); got != second {
			t.Errorf("who comes later with the old token gets %q", got)
		}
		g.password = "another"
		<-time.After(youth + time.Second)
		for range 5 {
			if got := k.Refused(t.Context(), r, "a", second); got != "" {
				t.Errorf("a login that fails gives %q", got)
			}
			if got := k.Authorize(t.Context(), r, "a"); got != "" {
				t.Errorf("a login that has failed gives %q", got)
			}
		}
		if len(g.asked) != 3 {
			t.Errorf("the realm was asked %d times: %q", len(g.asked), g.asked)
		}
		<-time.After(failureLife)
		if k.Authorize(t.Context(), r, "a"); len(g.asked) != 4 {
			t.Errorf("a minute later it was asked %d times", len(g.asked))
		}
	})
}

// TestDockerLogin: docker login while dfdaemon runs is noticed with the next
// request.
func TestDockerLogin(t *testing.T) {
	g := &realm{challenge: bearer, password: secret, answer: `{"token":"x-%d"}`}
	k, r, _ := keeper(t, g, annConfig("wrong"))
	if got := k.Authorize(t.Context(), r, "a"); got != "" {
		t.Errorf("before it %q", got)
	}
	if err := os.WriteFile(k.file.path, []byte(annConfig(secret)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := k.Authorize(t.Context(), r, "a"); got != "Bearer x-2" {
		t.Errorf("after it %q", got)
	}
	if g.pings != 1 {
		t.Errorf("the registry was pinged %d times", g.pings)
	}
}

// FuzzParseToken: what a realm answers is a token that fits into a header, or
// an error.
func FuzzParseToken(f *testing.F) {
	f.Add([]byte(`{"token":"x","expires_in":300}`))
	f.Add([]byte(`{"access_token":"x","expires_in":1e300}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		token, life, err := parseToken("r", text)
		if err == nil && (token == "" || strings.ContainsAny(token, " \r\n\x00") || life <= 0 || life > longestLife) {
			t.Errorf("%q gives %q for %s", text, token, life)
		}
	})
}
