// SPDX-License-Identifier: Apache-2.0

package login

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"dragonfly/source"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestWhereCredentialsGo: a realm is asked where its registry may send its
// clients, and redirects lead no further.
func TestWhereCredentialsGo(t *testing.T) {
	for _, v := range []struct {
		registry, realm string
		trusted         bool
		redirect        string // of the realm
		post            bool
		ok              bool
	}{
		{"https://r.example", "https://auth.example/t", false, "", false, true},
		{"https://r.example", "http://auth.example/t", false, "", false, false},
		{"http://r.example", "http://auth.example/t", false, "", false, true},
		{"https://r.example", "https://127.0.0.1/t", false, "", false, false},
		{"https://r.example", "https://localhost./t", false, "", false, false},
		{"https://r.example", "https://[::]/t", false, "", false, false},
		{"https://r.example", "https://[::ffff:127.0.0.1]/t", false, "", false, false},
		{"https://r.example", "https://127.0.0.1/t", true, "", false, true},
		{"http://127.0.0.1:5000", "http://127.0.0.1:5001/t", false, "", false, true},
		{"https://r.example", "https://169.254.169.254/t", true, "", false, false},
		{"https://r.example", "https://auth.example/t", false, "https://auth.example/u", false, true},
		{"https://r.example", "https://auth.example/t", false, "https://other.example/u", false, true},
		{"https://r.example", "https://auth.example/t", false, "http://auth.example/u", false, false},
		{"https://r.example", "https://auth.example/t", false, "https://localhost/u", false, false},
		{"https://r.example", "https://auth.example/t", false, "https://auth.example/t", false, false}, // for ever
		{"https://r.example", "https://auth.example/t", false, "https://auth.example/u", true, true},
		{"https://r.example", "https://auth.example/t", false, "https://other.example/u", true, false},
	} {
		var asked []*http.Request
		registry, _ := url.Parse(v.registry)
		realm, _ := url.Parse(v.realm)
		r := Registry{URL: registry, Trusted: v.trusted, Through: roundTripper(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r)
			resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}
			if v.redirect != "" && (len(asked) == 1 || r.URL.String() == v.redirect && strings.HasSuffix(v.redirect, "/t")) {
				resp.StatusCode = http.StatusTemporaryRedirect
				resp.Header.Set("Location", v.redirect)
			}
			return resp, nil
		})}
		resp, err := r.Ask(t.Context(), source.Challenge{Scheme: source.SchemeBearer, Realm: realm}, url.Values{"x": {secret}}, v.post, "Basic "+secret)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != v.ok || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%+v: %v", v, err)
		}
		for _, r := range asked {
			if r.URL.Host == "other.example" && r.Header.Get("Authorization") != "" {
				t.Errorf("%+v: %s got credentials", v, r.URL.Host)
			}
		}
		if len(asked) > maxRedirects+1 {
			t.Errorf("%+v: %d requests", v, len(asked))
		}
	}
	if _, err := (Registry{URL: &url.URL{Host: "r.example"}}).Ask(t.Context(), source.Challenge{Scheme: source.SchemeBasic}, nil, false, ""); err == nil {
		t.Error("a registry without a realm was asked for a token")
	}
}
