// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"dragonfly"
)

const blobOf = "/v2/team/app/blobs/sha256:"

// guarded is a registry that gives blobs to holders of the token, which its
// service gives to everybody, or to whoever has the password.
func guarded(t *testing.T, public bool) *origin {
	var o *origin
	o = at(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			if !public || r.URL.Query().Get("scope") != "repository:team/app:pull" || r.URL.Query().Get("service") != "the registry" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"token": "for-all"})
		case r.Header.Get("Authorization") != "Bearer for-all" && r.Header.Get("Authorization") != "Bearer mine":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="the registry",scope="repository:team/app:pull"`, o.URL))
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasSuffix(r.URL.Path, "none"):
			w.WriteHeader(http.StatusNotFound)
		case r.Method != http.MethodHead:
			t.Errorf("%s %s", r.Method, r.URL)
		case strings.HasSuffix(r.URL.Path, "elsewhere"):
			w.Header().Set("Location", "http://127.0.0.1:1/never")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	})
	return o
}

func TestAllowedByRegistry(t *testing.T) {
	c := newClient(t, Options{})
	for _, k := range []struct {
		name, blob, token string
		public            bool
		want              dragonfly.Kind // "": allowed
	}{
		{"public", "x", "", true, ""},
		{"public, redirected", "elsewhere", "", true, ""},
		{"public, no such blob", "none", "", true, dragonfly.NotFound},
		{"public, wrong token", "x", "Bearer wrong", true, dragonfly.Unauthorized},
		{"private", "x", "", false, dragonfly.Unauthorized},
		{"private, token", "x", "Bearer mine", false, ""},
		{"private, wrong token", "x", "Bearer wrong", false, dragonfly.Unauthorized},
	} {
		t.Run(k.name, func(t *testing.T) {
			o := guarded(t, k.public)
			r := request(o.URL + blobOf + k.blob)
			if k.token != "" {
				r.Header = dragonfly.Header{"Authorization": {k.token}}
			}
			err := c.Allowed(t.Context(), r)
			if k.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantKind(t, err, k.want)
		})
	}
}

// TestAllowedByServer reads no more than a byte of what is no registry's.
func TestAllowedByServer(t *testing.T) {
	o := at(t, "127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "k" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if r.Method != http.MethodGet || r.Header.Get("Range") != "bytes=0-0" {
			t.Errorf("%s %s", r.Method, r.Header.Get("Range"))
		}
		w.Header().Set("Content-Range", "bytes 0-0/9")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write([]byte("a"))
	})
	c := newClient(t, Options{})
	r := request(o.URL + "/file")
	wantKind(t, c.Allowed(t.Context(), r), dragonfly.Forbidden)
	r.Header = dragonfly.Header{"X-Key": {"k"}}
	if err := c.Allowed(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// TestAllowedIsNotMoved: that a registry is elsewhere says nothing about what it
// gives to whom.
func TestAllowedIsNotMoved(t *testing.T) {
	private := guarded(t, false)
	var target string
	moved := at(t, "127.0.0.2:0", to(&target, http.StatusMovedPermanently))
	c := newClient(t, Options{})
	for _, target = range []string{private.URL + blobOf + "x", "/v2/team/app/blobs/./sha256:x"} {
		if err := c.Allowed(t.Context(), request(moved.URL+blobOf+"x")); err == nil {
			t.Errorf("allowed by a redirect to %s", target)
		}
	}
	// Credentials do not go along.
	r := request(moved.URL + blobOf + "x")
	r.Header, target = dragonfly.Header{"Authorization": {"Bearer mine"}}, private.URL+blobOf+"x"
	wantKind(t, c.Allowed(t.Context(), r), dragonfly.Unauthorized)
}

func TestRepository(t *testing.T) {
	for text, want := range map[string]string{
		"https://h/v2/a/b/blobs/sha256:1":         "a/b",
		"https://h/x/v2/a/manifests/latest":       "a",
		"https://h/v2/blobs/blobs/blobs/sha256:1": "blobs/blobs",
		"https://h/v2/a/blobs/file":               "",
		"https://h/v2/a/blobs/sha256:1/file":      "",
		"https://h/v2/a%2Fb/blobs/sha256:1":       "",
		"https://h/v2/a/tags/list":                "",
		"https://h/file":                          "",
		"https://h/v2//blobs/":                    "",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := repository(u); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
