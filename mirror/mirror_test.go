// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"dragonfly/mirror"
)

// TestPassThrough: whatever is not a plain GET of a blob is answered by the
// registry as if nothing were between, and the engine hears nothing of it.
func TestPassThrough(t *testing.T) {
	blob := random(1, 5000)
	blobPath := "/v2/library/app/blobs/" + digest(blob)
	for name, v := range map[string]struct {
		method, path, body string
		header             []string
	}{
		"ping":            {"GET", "/v2/", "", nil},
		"manifest":        {"GET", "/v2/library/app/manifests/latest", "", []string{"Accept: application/vnd.oci.image.manifest.v1+json"}},
		"manifest's head": {"HEAD", "/v2/library/app/manifests/latest", "", nil},
		"blob's head":     {"HEAD", blobPath, "", nil},
		"condition":       {"GET", blobPath, "", []string{`If-None-Match: "` + digest(blob) + `"`}},
		"signed":          {"GET", blobPath + "?token=" + secret, "", nil},
		"upload":          {"POST", "/v2/library/app/blobs/uploads/", "", nil},
		"upload's end":    {"PUT", "/v2/library/app/blobs/uploads/1?state=" + secret, "layer", nil},
		"unclean":         {"GET", "/v2/library/../app/blobs/" + digest(blob), "", nil},
		"upper case":      {"GET", "/v2/library/app/blobs/sha256:" + strings.ToUpper(digest(blob)[7:]), "", nil},
		"escaped":         {"GET", "/v2/library/app/blobs/" + strings.Replace(digest(blob), ":", "%3A", 1), "", nil},
		"elsewhere":       {"GET", "/tokens?service=x", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			engine := &fakeEngine{content: blob}
			s := newStand(t, engine, nil)
			s.registry.add(blob)
			ask := func(base string) (*http.Response, []byte) {
				resp := do(t, base, v.method, v.path, strings.NewReader(v.body), v.header...)
				got, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp, got
			}
			want, wantBody := ask(s.origin.URL)
			got, gotBody := ask(s.server.URL)
			if via := got.Header.Get("X-Dragonfly-Via"); via != "direct" {
				t.Errorf("it came by %q", via)
			}
			for _, h := range []http.Header{want.Header, got.Header} {
				h.Del("X-Dragonfly-Via")
				h.Del("Date")
				h.Del("Connection")
			}
			if got.StatusCode != want.StatusCode || !bytes.Equal(gotBody, wantBody) {
				t.Errorf("%d with %d bytes, and straight %d with %d", got.StatusCode, len(gotBody), want.StatusCode, len(wantBody))
			}
			if !maps.EqualFunc(got.Header, want.Header, func(a, b []string) bool { return strings.Join(a, "\n") == strings.Join(b, "\n") }) {
				t.Errorf("headers %v, and straight %v", got.Header, want.Header)
			}
			if n := len(engine.started()); n != 0 {
				t.Errorf("the engine was given %d jobs", n)
			}
			asked := s.registry.asked()
			if a, b := asked[0], asked[1]; a.RequestURI != b.RequestURI || a.Method != b.Method || a.Host != b.Host {
				t.Errorf("the registry was asked %s %s, and straight %s %s", b.Method, b.RequestURI, a.Method, a.RequestURI)
			}
		})
	}
}

// TestHeadersToRegistry: what concerns only the way to the mirror does not go
// on, nobody is told who asked, and everything else goes as it came.
func TestHeadersToRegistry(t *testing.T) {
	s := newStand(t, &fakeEngine{}, nil)
	s.get("/v2/", "X-Forwarded-For: 10.1.2.3", "Forwarded: for=10.1.2.3", "Proxy-Authorization: Basic "+secret, "Te: gzip", "Keep-Alive: 3",
		"Authorization: Bearer "+secret, "User-Agent: docker/28", "Accept-Encoding: zstd")
	h := s.registry.asked()[0].Header
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Proxy-Authorization", "Keep-Alive", "Te"} {
		if v := h.Get(name); v != "" {
			t.Errorf("%s: %s went on", name, v)
		}
	}
	for name, want := range map[string]string{"Authorization": "Bearer " + secret, "User-Agent": "docker/28", "Accept-Encoding": "zstd"} {
		if got := h.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
}

// TestRedirect: a redirect to an object store reaches the client.
func TestRedirect(t *testing.T) {
	s := newStand(t, &fakeEngine{fail: errors.New("the swarm is away")}, nil)
	store := "https://store.example/blob?signature=" + secret
	s.registry.handle = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, store, http.StatusTemporaryRedirect)
		return true
	}
	resp, _, _ := s.get("/v2/a/blobs/" + digest(nil))
	if resp.StatusCode != http.StatusTemporaryRedirect || resp.Header.Get("Location") != store || resp.Header.Get("X-Dragonfly-Via") != "direct" {
		t.Errorf("%d to %s by %s", resp.StatusCode, resp.Header.Get("Location"), resp.Header.Get("X-Dragonfly-Via"))
	}
}

// TestRegistryDown: a registry that cannot be reached gives 502, one that does
// not answer in time 504; the body says what and where, and holds no secret.
func TestRegistryDown(t *testing.T) {
	down := &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrPermission}
	late := &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
	for _, v := range []struct {
		err    error
		status int
		says   string
	}{
		{down, http.StatusBadGateway, "cannot be reached"},
		{late, http.StatusGatewayTimeout, "does not answer in time"},
		{&url.Error{Op: "Get", URL: "https://x/?" + secret, Err: down}, http.StatusBadGateway, "cannot be reached"},
	} {
		s := newStand(t, &fakeEngine{}, func(o *mirror.Options) {
			o.Transport = roundTripper(func(*http.Request) (*http.Response, error) { return nil, v.err })
		})
		resp, body, _ := s.get("/v2/library/app/blobs/uploads/1?state="+secret, "Authorization: Bearer "+secret)
		text := string(body)
		if resp.StatusCode != v.status || !strings.Contains(text, v.says) || !strings.Contains(text, s.origin.Listener.Addr().String()) ||
			!strings.Contains(text, `{"errors":[{"code":"UNAVAILABLE"`) {
			t.Errorf("%v gives %d: %s", v.err, resp.StatusCode, text)
		}
		if strings.Contains(text, secret) {
			t.Errorf("a secret is in %s", text)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestNamedRegistry: ns, or else a first path element that looks like a host,
// says which registry is meant and is not passed on. It is asked by https unless it is on loopback or the options say otherwise, and
// all names of Docker Hub are one registry.
func TestNamedRegistry(t *testing.T) {
	for _, v := range []struct{ remote, request, want string }{
		{"https://index.docker.io", "/v2/a/manifests/b", "https://index.docker.io/v2/a/manifests/b"},
		{"https://index.docker.io", "/v2/a/manifests/b?ns=ghcr.io", "https://ghcr.io/v2/a/manifests/b"},
		{"https://index.docker.io", "/v2/a/tags/list?n=2&ns=ghcr.io&last=x", "https://ghcr.io/v2/a/tags/list?n=2&last=x"},
		{"https://index.docker.io", "/v2/a/manifests/b?ns=127.0.0.1:5000", "http://127.0.0.1:5000/v2/a/manifests/b"},
		{"https://index.docker.io", "/v2/a/manifests/b?ns=[::1]:5000", "http://[::1]:5000/v2/a/manifests/b"},
		{"https://index.docker.io", "/v2/a/manifests/b?ns=localhost", "http://localhost/v2/a/manifests/b"},
		{"https://index.docker.io", "/v2/a/manifests/b?ns=plain.example:80", "http://plain.example:80/v2/a/manifests/b"},
		{"https://index.docker.io", "/v2/a/manifests/b?ns=docker.io", "https://index.docker.io/v2/a/manifests/b"},
		{"https://own.example", "/v2/a/manifests/b?ns=docker.io", "https://registry-1.docker.io/v2/a/manifests/b"},
		{"http://own.example", "/v2/a/manifests/b?ns=own.example", "http://own.example/v2/a/manifests/b"},
		{"https://user:" + secret + "@own.example/under?x=" + secret, "/v2/a/manifests/b", "https://own.example/under/v2/a/manifests/b"},
		{"https://own.example", "/tokens?ns=x", "https://own.example/tokens?ns=x"},
		{"https://index.docker.io", "/v2/ghcr.io/a/b/manifests/c", "https://ghcr.io/v2/a/b/manifests/c"},
		{"https://index.docker.io", "/v2/ghcr.io/a/b/manifests/c?x=y", "https://ghcr.io/v2/a/b/manifests/c?x=y"},
		{"https://index.docker.io", "/v2/ghcr.io/a/manifests/c?ns=quay.io", "https://quay.io/v2/ghcr.io/a/manifests/c"},
		{"https://index.docker.io", "/v2/docker.io/library/a/manifests/c", "https://index.docker.io/v2/library/a/manifests/c"},
		{"https://own.example", "/v2/docker.io/library/a/manifests/c", "https://registry-1.docker.io/v2/library/a/manifests/c"},
		{"https://own.example/under", "/v2/own.example/a/manifests/c", "https://own.example/under/v2/a/manifests/c"},
		{"https://own.example:5000", "/v2/own.example_5000/a/manifests/c", "https://own.example:5000/v2/a/manifests/c"},
		{"https://own.example", "/v2/plain.example_80/a/manifests/c", "http://plain.example:80/v2/a/manifests/c"},
		{"https://own.example", "/v2/localhost:5000/a/manifests/c", "http://localhost:5000/v2/a/manifests/c"},
		{"https://own.example", "/v2/localhost/a/manifests/c", "http://localhost/v2/a/manifests/c"},
		{"https://own.example", "/v2/localhost_5000/a/manifests/c", "http://localhost:5000/v2/a/manifests/c"},
		{"https://own.example", "/v2/127.0.0.1_5000/a/manifests/c", "http://127.0.0.1:5000/v2/a/manifests/c"},
		{"https://own.example", "/v2/[::1]:5000/a/manifests/c", "http://[::1]:5000/v2/a/manifests/c"},
		{"https://own.example", "/v2/%5B::1%5D:5000/a%2Fb/manifests/c", "http://[::1]:5000/v2/a%2Fb/manifests/c"},
		{"https://own.example", "/v2/registry:5000/a/tags/list?n=1", "https://registry:5000/v2/a/tags/list?n=1"},
		{"https://own.example", "/v2/ghcr.io/", "https://ghcr.io/v2/"},
		{"https://own.example", "/v2/library/a.b/manifests/c", "https://own.example/v2/library/a.b/manifests/c"},
		{"https://own.example", "/v2/a_5000/b/manifests/c", "https://own.example/v2/a_5000/b/manifests/c"},
		{"https://own.example", "/v2/ghcr.io/manifests/c", "https://own.example/v2/ghcr.io/manifests/c"},
		{"https://own.example", "/v2/ghcr.io", "https://own.example/v2/ghcr.io"},
		{"https://own.example", "/v2/../a/manifests/c", "https://own.example/v2/../a/manifests/c"},
		{"https://own.example", "/v1/ghcr.io/a/manifests/c", "https://own.example/v1/ghcr.io/a/manifests/c"},
	} {
		var asked string
		s := newStand(t, &fakeEngine{}, func(o *mirror.Options) {
			o.Remote, _ = url.Parse(v.remote)
			o.Plain = func(host string) bool { return host == "plain.example:80" }
			o.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				asked = r.URL.String()
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
			})
		})
		if resp, body, _ := s.get(v.request); asked != v.want {
			t.Errorf("%s at the mirror of %s asks %q, want %q: %d %s", v.request, v.remote, asked, v.want, resp.StatusCode, body)
		}
	}
}

// TestNamedBlob: a blob of a named registry comes through the engine, whose job
// has the registry's own URL.
func TestNamedBlob(t *testing.T) {
	blob := random(2, 1000)
	engine := &fakeEngine{content: blob}
	s := newStand(t, engine, nil)
	_, got, err := s.get("/v2/a/b/blobs/" + digest(blob) + "?ns=ghcr.io")
	if err != nil || !bytes.Equal(got, blob) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if jobs := engine.started(); len(jobs) != 1 || jobs[0].Request.URL != "https://ghcr.io/v2/a/b/blobs/"+digest(blob) {
		t.Errorf("jobs %v", jobs)
	}
}

// TestBadName: what cannot be a registry is refused, and so are proxy requests.
func TestBadName(t *testing.T) {
	s := newStand(t, &fakeEngine{}, nil)
	for _, ns := range []string{"", "a/b", "user:" + secret + "@host", "a&ns=b", "%20", ":80", "http://a"} {
		resp, body, _ := s.get("/v2/a/manifests/b?ns=" + ns)
		if resp.StatusCode != http.StatusBadRequest || bytes.Contains(body, []byte(secret)) {
			t.Errorf("ns=%s gives %d: %s", ns, resp.StatusCode, body)
		}
	}
	for _, r := range []*http.Request{httptest.NewRequest("GET", "http://host/v2/", nil), httptest.NewRequest("CONNECT", "host:443", nil)} {
		w := httptest.NewRecorder()
		if s.mirror.ServeHTTP(w, r); w.Code != http.StatusBadRequest {
			t.Errorf("%s %s gives %d", r.Method, r.URL, w.Code)
		}
	}
	if n := len(s.registry.asked()); n != 0 {
		t.Errorf("the registry was asked %d times", n)
	}
}

// TestLoopbackIsPrivate: only clients on the mirror's host may name a registry
// on it.
func TestLoopbackIsPrivate(t *testing.T) {
	s := newStand(t, &fakeEngine{}, nil)
	for from, want := range map[string]int{"192.0.2.1:99": http.StatusForbidden, "127.0.0.1:99": http.StatusNotFound} {
		other := serve(t, http.NotFoundHandler())
		for _, path := range []string{"/v2/x?ns=" + other.Listener.Addr().String(), "/v2/" + other.Listener.Addr().String() + "/x/manifests/y"} {
			r := httptest.NewRequest("GET", path, nil)
			r.RemoteAddr = from
			w := httptest.NewRecorder()
			if s.mirror.ServeHTTP(w, r); w.Code != want {
				t.Errorf("%s from %s: %d, want %d: %s", path, from, w.Code, want, w.Body)
			}
		}
	}
}

func init() { net.DefaultResolver.PreferGo = true } // it finds localhost. in the hosts file

// TestTrust: the certificate of the mirror's registry is checked with the roots
// of the options, or not at all if they say so; these say nothing about other
// registries, whose certificates are always checked.
func TestTrust(t *testing.T) {
	registry := httptest.NewUnstartedServer(&registry{})
	registry.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	registry.StartTLS()
	t.Cleanup(registry.Close)
	remote, err := url.Parse(registry.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: registry.Certificate().Raw})
	other := "?ns=0.0.0.0:" + remote.Port() // by https, since it does not look like loopback
	for _, v := range []struct {
		insecure bool
		roots    []byte
		want     int
	}{{false, nil, http.StatusBadGateway}, {true, nil, http.StatusOK}, {false, roots, http.StatusOK}} {
		s := newStand(t, &fakeEngine{}, func(o *mirror.Options) { o.Remote, o.Insecure, o.RootCAs = remote, v.insecure, v.roots })
		if resp, body, _ := s.get("/v2/"); resp.StatusCode != v.want {
			t.Errorf("%+v gives %d: %s", v, resp.StatusCode, body)
		}
		if resp, body, _ := s.get("/v2/" + other); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("another registry with %+v gives %d: %s", v, resp.StatusCode, body)
		}
	}
}

// TestOptions: what cannot work is said at once.
func TestOptions(t *testing.T) {
	good := &url.URL{Scheme: "https", Host: "registry"}
	for _, o := range []mirror.Options{
		{Engine: &fakeEngine{}},
		{Engine: &fakeEngine{}, Remote: &url.URL{Host: "registry"}},
		{Engine: &fakeEngine{}, Remote: &url.URL{Scheme: "ftp", Host: "registry"}},
		{Remote: good},
		{Engine: &fakeEngine{}, Remote: good, RootCAs: []byte("none")},
	} {
		if _, err := mirror.New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
