// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"dragonfly"
)

// at starts a server on an address of the loopback network of its own.
func at(t *testing.T, address string, h http.HandlerFunc) *origin {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err)
	}
	o := &origin{}
	o.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.requests = append(o.requests, r.Clone(r.Context()))
		o.mu.Unlock()
		h(w, r)
	}))
	o.Listener.Close()
	o.Listener = l
	o.Start()
	t.Cleanup(o.Close)
	return o
}

func to(target *string, status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", *target)
		w.WriteHeader(status)
		_, _ = w.Write([]byte("moved"))
	}
}

func TestWrongURLs(t *testing.T) {
	c := newClient(t, Options{})
	for u, text := range map[string]string{
		"ftp://h/f":                    "use http or https",
		"/f":                           "use http or https",
		"h.test/f":                     "use http or https",
		"":                             "use http or https",
		"http:///f":                    "no host",
		"http://:80/f":                 "no host",
		"http:f":                       "no host",
		"http://u:secret/f":            "cannot be parsed",
		"http://u:secret@h/%zz?secret": "cannot be parsed",
		"http://h/\x00secret":          "cannot be parsed",
	} {
		_, err := c.Open(t.Context(), request(u), 0, Condition{})
		wantKind(t, err, dragonfly.Invalid, text)
	}
	for _, r := range []dragonfly.Request{
		{URL: "http://h/", Header: dragonfly.Header{"A b": {"secret"}}},
		{URL: "http://h/", Header: dragonfly.Header{"": {"secret"}}},
		{URL: "http://h/", Header: dragonfly.Header{"A": {"secret\r\nB: c"}}},
		{URL: "http://h/", Header: dragonfly.Header{"Range": {"bytes=1-2,3-4"}}},
		{URL: "https://h/", RootCAs: []byte("secret, not PEM")},
	} {
		_, err := c.Open(t.Context(), r, 0, Condition{})
		wantKind(t, err, dragonfly.Invalid)
	}
}

func TestSchemeInUpperCase(t *testing.T) {
	o := serve(t, file)
	_, _, err := read(t, newClient(t, Options{}), request(strings.Replace(o.URL, "http", "HTTP", 1)), 0, Condition{})
	if err != nil {
		t.Error(err)
	}
}

func TestIPv6(t *testing.T) {
	o := at(t, "[::1]:0", file)
	data, _, err := read(t, newClient(t, Options{Guard: true}), request(o.URL), 5, Condition{ETag: tag})
	if err != nil || !bytes.Equal(data, content[5:]) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

var secrets = []string{
	"Authorization: Bearer secret", "Cookie: s=secret", "Proxy-Authorization: Basic secret", "X-Token: secret",
	"Host: virtual.test", "Accept: a/b", "User-Agent: mine",
}

// given says which of the secrets a request carries.
func given(r *http.Request) (names []string) {
	for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization", "X-Token", "Referer"} {
		if r.Header.Get(name) != "" {
			names = append(names, name)
		}
	}
	if r.Host == "virtual.test" {
		names = append(names, "Host")
	}
	return names
}

func TestCredentialsStayAtTheirHost(t *testing.T) {
	const all = "[Authorization Cookie Proxy-Authorization X-Token Host]"
	for _, status := range []int{301, 302, 303, 307, 308} {
		var there, back, further string
		other := at(t, "127.0.0.2:0", to(&back, status))
		own := serve(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/start":
				to(&further, status)(w, r)
			case "/further":
				to(&there, status)(w, r)
			default:
				file(w, r)
			}
		})
		further, there, back = "further?x=1", other.URL+"/there", own.URL+"/back"
		data, info, err := read(t, newClient(t, Options{}), request(own.URL+"/start?sig=secret", secrets...), 5, Condition{ETag: tag})
		if err != nil || !bytes.Equal(data, content[5:]) {
			t.Fatalf("%d bytes, %v", len(data), err)
		}
		if info.URL != back {
			t.Errorf("URL %s", info.URL)
		}
		asked := own.asked()
		for i, want := range []string{all, all, "[]"} {
			if got := fmt.Sprint(given(asked[i])); got != want {
				t.Errorf("%d: request %d to the host carries %s, want %s", status, i, got, want)
			}
		}
		r := other.asked()[0]
		if names := given(r); names != nil {
			t.Errorf("%d: the other host was given %v", status, names)
		}
		if r.Header.Get("Accept") != "a/b" || r.Header.Get("User-Agent") != "mine" || r.Header.Get("Range") != "bytes=5-" ||
			r.Header.Get("If-Range") != tag || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("%d: the other host was asked with %v", status, r.Header)
		}
	}
}

func TestUserinfo(t *testing.T) {
	other := at(t, "127.0.0.2:0", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	own := serve(t, to(&other.URL, 302))
	with := func(u, user string) string { return strings.Replace(u, "http://", "http://"+user+"@", 1) }
	_, _, err := read(t, newClient(t, Options{}), request(with(own.URL, "me:secret")), 0, Condition{})
	wantKind(t, err, dragonfly.NotFound, other.URL)
	if user, password, _ := own.asked()[0].BasicAuth(); user != "me" || password != "secret" {
		t.Errorf("%q, %q", user, password)
	}
	if names := given(other.asked()[0]); names != nil {
		t.Errorf("the other host was given %v", names)
	}
	// A location's own userinfo is for that location.
	location := with(other.URL, "you:secret")
	own = serve(t, to(&location, 302))
	_, _, err = read(t, newClient(t, Options{}), request(own.URL, secrets...), 0, Condition{})
	wantKind(t, err, dragonfly.NotFound)
	if user, _, _ := other.asked()[1].BasicAuth(); user != "you" {
		t.Errorf("%q", user)
	}
}

func TestSameHost(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"http://h/a", "http://H:80/b", true},
		{"https://h/a", "https://h:443/b", true},
		{"http://h/", "https://h/", true},
		{"https://h/", "http://h/", false},
		{"http://h:8080/", "https://h/", false},
		{"http://h/", "https://h:8443/", false},
		{"http://h/", "http://h:81/", false},
		{"http://h/", "http://x.h/", false},
		{"http://[::1]/", "http://[::1]:80/", true},
	} {
		a, _ := url.Parse(test.a)
		b, _ := url.Parse(test.b)
		if got := SameHost(a, b); got != test.same {
			t.Errorf("%s to %s: %t", test.a, test.b, got)
		}
	}
}

func TestRedirectsThatLeadNowhere(t *testing.T) {
	c := newClient(t, Options{})
	for name, test := range map[string]struct{ location, text string }{
		"none":      {"", "without saying where"},
		"itself":    {"/f?sig=secret", "in a loop"},
		"loop":      {"/f?sig=secret#x", "in a loop"},
		"scheme":    {"ftp://h/f", "only http and https"},
		"file":      {"file:///etc/passwd", "only http and https"},
		"no host":   {"http:///f", "only http and https"},
		"not a URL": {"http://u:secret/f", "cannot be parsed"},
	} {
		t.Run(name, func(t *testing.T) {
			o := serve(t, to(&test.location, 302))
			_, _, err := read(t, c, request(o.URL+"/f?sig=secret"), 0, Condition{})
			wantKind(t, err, dragonfly.SourceFailed, test.text)
		})
	}
	for n, kind := range map[int]dragonfly.Kind{maxRedirects: "", maxRedirects + 1: dragonfly.SourceFailed} {
		o := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if len(r.URL.Path) > n {
				file(w, r)
				return
			}
			location := r.URL.Path + "x"
			to(&location, 307)(w, r)
		})
		_, _, err := read(t, c, request(o.URL), 0, Condition{})
		if kind == "" && err != nil {
			t.Error(err)
		} else if kind != "" {
			wantKind(t, err, kind, "after 10 redirects")
		}
	}
}

func prefixes(texts ...string) (p []netip.Prefix) {
	for _, text := range texts {
		p = append(p, netip.MustParsePrefix(text))
	}
	return p
}

func TestGuard(t *testing.T) {
	usual := newGuard(nil, nil)
	strict := newGuard(prefixes("10.1.0.0/16", "169.254.0.0/16", "169.254.169.254/32", "169.254.7.0/24", "::ffff:192.0.2.0/120"),
		prefixes("10.0.0.0/8", "192.0.0.0/8", "10.1.1.1/32"))
	for _, test := range []struct {
		g     *guard
		a     string
		taken bool
	}{
		{usual, "127.0.0.1", true}, {usual, "10.0.0.1", true}, {usual, "192.168.1.1", true}, {usual, "8.8.8.8", true},
		{usual, "::1", true}, {usual, "2001:db8::1", true}, {usual, "fd00::1", true}, {usual, "::ffff:8.8.8.8", true},
		{usual, "64:ff9b::8.8.8.8", true}, {usual, "100.100.100.201", true},
		{usual, "169.254.169.254", false}, {usual, "169.254.0.1", false}, {usual, "::ffff:169.254.169.254", false},
		{usual, "64:ff9b::169.254.169.254", false}, {usual, "2002:a9fe:a9fe::1", false}, {usual, "::169.254.169.254", false},
		{usual, "fe80::1", false}, {usual, "fe80::1%eth0", false}, {usual, "febf::1", false}, {usual, "fd00:ec2::254", false},
		{usual, "100.100.100.200", false}, {usual, "0.0.0.0", false}, {usual, "0.1.2.3", false}, {usual, "::", false},
		{usual, "224.0.0.1", false}, {usual, "ff02::1", false}, {usual, "255.255.255.255", false}, {usual, "::ffff:0.0.0.0", false},
		{strict, "10.0.0.1", false}, {strict, "10.1.0.1", true}, {strict, "10.1.1.1", false}, {strict, "192.0.2.1", true},
		{strict, "192.0.3.1", false}, {strict, "169.254.7.7", true}, {strict, "169.254.8.8", false},
		{strict, "169.254.169.254", false}, {strict, "8.8.8.8", true},
	} {
		if err := test.g.check(netip.MustParseAddr(test.a)); (err == nil) != test.taken {
			t.Errorf("%s: %v", test.a, err)
		} else if err != nil {
			wantKind(t, err, dragonfly.Forbidden, "not read from here")
		}
	}
}

func TestGuardedRequests(t *testing.T) {
	c := newClient(t, Options{Guard: true})
	for _, target := range []string{
		"http://169.254.169.254/latest/meta-data", "https://169.254.169.254/", "http://[fe80::1]/",
		"http://[::ffff:169.254.169.254]/", "http://0.0.0.0:1/", "http://100.100.100.200/", "http://[fd00:ec2::254]/",
	} {
		_, _, err := read(t, c, request(target), 0, Condition{})
		wantKind(t, err, dragonfly.Forbidden, "not read from here")
		o := serve(t, to(&target, 302))
		_, _, err = read(t, c, request(o.URL, secrets...), 0, Condition{})
		wantKind(t, err, dragonfly.Forbidden, "not read from here")
	}
}

// TestGuardAfterResolution: what a name stands for counts, not the name.
func TestGuardAfterResolution(t *testing.T) {
	o := serve(t, file)
	named := strings.Replace(o.URL, "127.0.0.1", "localhost", 1)
	c := newClient(t, Options{Guard: true, Deny: prefixes("127.0.0.0/8", "::1/128")})
	_, _, err := read(t, c, request(named), 0, Condition{})
	wantKind(t, err, dragonfly.Forbidden, "denied addresses")
	if len(o.asked()) != 0 {
		t.Error("asked nonetheless")
	}
	if _, _, err = read(t, newClient(t, Options{Deny: prefixes("127.0.0.0/8")}), request(o.URL), 0, Condition{}); err != nil {
		t.Errorf("no guard: %v", err)
	}
	reached := errors.New("reached")
	c = newClient(t, Options{Guard: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, reached }})
	if _, _, err := read(t, c, request("http://169.254.169.254/"), 0, Condition{}); errors.Is(err, reached) {
		t.Error("another network is not guarded")
	}
}

// forwarder is a proxy: absolute requests are answered by h, CONNECT with
// status.
func forwarder(t *testing.T, status int, h http.HandlerFunc) *origin {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			w.WriteHeader(status)
			return
		}
		h(w, r)
	})
}

func through(proxy string) func(*http.Request) (*url.URL, error) {
	return func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }
}

func TestProxy(t *testing.T) {
	p := forwarder(t, 0, file)
	proxy := strings.Replace(p.URL, "http://", "http://me:secret@", 1)
	c := newClient(t, Options{Guard: true, Proxy: through(proxy)})
	data, _, err := read(t, c, request("http://h.test/f"), 0, Condition{})
	if err != nil || !bytes.Equal(data, content) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	r := p.asked()[0]
	if r.RequestURI != "http://h.test/f" || r.Header.Get("Proxy-Authorization") == "" {
		t.Errorf("%s %v", r.RequestURI, r.Header)
	}
	for _, target := range []string{
		"http://169.254.169.254/", "https://169.254.169.254./", "http://2852039166/", "http://0xa9fea9fe/", "http://169.254.43518/",
		"http://[fe80::1]/", "http://metadata.google.internal/",
	} {
		_, _, err := read(t, c, request(target), 0, Condition{})
		wantKind(t, err, dragonfly.Forbidden)
	}
	if len(p.asked()) != 1 {
		t.Error("the proxy was asked nonetheless")
	}
	denied := newClient(t, Options{Guard: true, Proxy: through(proxy), Deny: prefixes("127.0.0.0/8")})
	_, _, err = read(t, denied, request("http://h.test/f"), 0, Condition{})
	wantKind(t, err, dragonfly.Forbidden, "denied addresses")

	broken := newClient(t, Options{Proxy: func(*http.Request) (*url.URL, error) { return nil, errors.New("invalid proxy secret") }})
	_, _, err = read(t, broken, request("http://h.test/f"), 0, Condition{})
	wantKind(t, err, dragonfly.SourceFailed, "check the proxy settings")
}

func TestProxyThatDoesNotConnect(t *testing.T) {
	for status, kind := range map[int]dragonfly.Kind{
		407: dragonfly.Unauthorized, 403: dragonfly.Forbidden, 502: dragonfly.SourceFailed,
	} {
		p := forwarder(t, status, file)
		proxy := strings.Replace(p.URL, "http://", "http://me:secret@", 1)
		_, _, err := read(t, newClient(t, Options{Proxy: through(proxy)}), request("https://h.test/f"), 0, Condition{})
		wantKind(t, err, kind, "h.test:443", strings.TrimPrefix(p.URL, "http://"))
		if e, ok := errors.AsType[*StatusError](err); !ok || e.Status != status {
			t.Errorf("%v", e)
		}
	}
	gone := serve(t, file)
	gone.Close()
	_, _, err := read(t, newClient(t, Options{Proxy: through(gone.URL)}), request("https://h.test/f"), 0, Condition{})
	wantKind(t, err, dragonfly.SourceFailed, "through a proxy")
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://u:secret@h:8/a%20b?x=secret&y&z=#secret": "https://h:8/a%20b?x=…&…&z=…",
		"http://h/f":                           "http://h/f",
		"http://u:secret/":                     "(a URL that cannot be parsed)",
		"http://h/" + strings.Repeat("é", 400): "",
	} {
		got := Redact(in)
		if want != "" && got != want || strings.Contains(got, "secret") || len(got) > maxText+len("…") {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestInfoLogsNoHeader(t *testing.T) {
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "info", Info{Header: http.Header{"Set-Cookie": {"secret"}}, URL: "http://h"})
	if strings.Contains(b.String(), "secret") || !strings.Contains(b.String(), "http://h") {
		t.Error(b.String())
	}
}
