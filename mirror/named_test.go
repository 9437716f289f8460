// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestSealedLife: a token is good until its time has come, and only for what it
// says.
func TestSealedLife(t *testing.T) {
	s, err := newSeal()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	token, err := s.close(pass{Registry: "a.example", Authorization: "Basic x", Until: now.Add(sealedLife)})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		header string
		at     time.Duration
		own    bool
		good   bool
	}{
		{"Bearer " + token, 0, true, true},
		{"bearer  " + token, sealedLife - time.Second, true, true},
		{"Bearer " + token, sealedLife, true, false},
		{"Bearer " + token[:len(token)-1], 0, true, false},
		{"Bearer " + sealedMark, 0, true, false},
		{"Bearer x" + token, 0, false, true},
		{"Basic " + token, 0, false, true},
		{"", 0, false, true},
	} {
		p, own, err := s.open(v.header, now.Add(v.at))
		if own != v.own || (err == nil) != v.good || own && v.good && (p.Registry != "a.example" || p.Authorization != "Basic x") {
			t.Errorf("%s after %s: %+v, %t, %v", v.header, v.at, p, own, err)
		}
	}
}

// FuzzByPath: whatever stands in a path, a registry found in it is a host and
// nothing else, and what is left is the rest of the path.
func FuzzByPath(f *testing.F) {
	for _, path := range []string{"/v2/ghcr.io/a/b/manifests/c", "/v2/%5B::1%5D:5000/a%2Fb/blobs/x", "/v2/localhost_5000/a/tags/list", "/v2/a%2Eb/../x", "/v2/a.b%2Fc/d"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.Parse(path)
		if err != nil || u.Host != "" || u.Path == "" {
			return
		}
		element, host, inner := byPath(u)
		if element == "" {
			if host != "" || inner != *u {
				t.Errorf("%q: no registry, but %q and %q", path, host, inner.Path)
			}
			return
		}
		if strings.ContainsAny(host, "/@?#% ") || host == "" || strings.Trim(host, ".") == "" {
			t.Errorf("%q: the registry is %q", path, host)
		}
		if "/v2/"+element+strings.TrimPrefix(inner.Path, "/v2") != u.Path {
			t.Errorf("%q: %q and %q", path, element, inner.Path)
		}
		if plain, err := url.PathUnescape(inner.EscapedPath()); err != nil || plain != inner.Path {
			t.Errorf("%q: %q is not %q", path, inner.EscapedPath(), inner.Path)
		}
		if got := (&route{element: element}).full(repository(inner.Path)); repository(inner.Path) != "" && !strings.HasPrefix(u.Path, "/v2/"+got) {
			t.Errorf("%q: the repository is %q", path, got)
		}
	})
}

// FuzzMapScopes: names go there and back, and nothing else is changed.
func FuzzMapScopes(f *testing.F) {
	for _, scopes := range []string{"repository:a/b:pull", "repository(plugin):a:pull,push repository:b.example:5000/c:*", "registry:catalog:*", "repository::", ":"} {
		f.Add(scopes)
	}
	f.Fuzz(func(t *testing.T, scopes string) {
		there := mapScopes(scopes, func(name string) string { return "h.example/" + name })
		back := mapScopes(there, func(name string) string {
			element, host, rest := splitHost(name)
			if element != "h.example" || host != element {
				t.Errorf("%q: the registry of %q is %q", scopes, name, element)
			}
			return rest
		})
		if want := strings.Join(strings.Fields(scopes), " "); back != want {
			t.Errorf("%q becomes %q and %q", scopes, there, back)
		}
	})
}
