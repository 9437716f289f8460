// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMirror: what the registry has arrives, says which way it came, and is
// counted.
func TestMirror(t *testing.T) {
	g := newRegistry(t, httptest.NewServer)
	path := g.add(bytes.Repeat([]byte("blob"), 1000))
	d := start(t, "", "--registry", g.URL)
	for at, via := range map[string]string{path: "source", "/v2/library/app/manifests/latest": "direct", "/v2/none": "direct"} {
		if resp, body := d.get(at); resp.Header.Get(viaHeader) != via || (resp.StatusCode == 200) == (at == "/v2/none") {
			t.Errorf("%s: %d via %s: %d bytes", at, resp.StatusCode, resp.Header.Get(viaHeader), len(body))
		}
	}
	for _, r := range g.asked() {
		if strings.Contains(r.URL.Path, "/manifests/") && !strings.HasPrefix(r.Header.Get("Via"), "1.1 dragonfly-") {
			t.Errorf("Via: %q", r.Header.Get("Via"))
		}
	}
	var text string
	until(t, "the answers are counted", func() bool {
		_, text = d.get("/metrics")
		return strings.Contains(text, `requests_total{code="4xx",via="direct"} 1`)
	})
	contains(t, "the metrics", text, `dragonfly_dfdaemon_requests_total{code="2xx",via="source"} 1`, `dragonfly_dfdaemon_requests_total{code="2xx",via="direct"} 1`,
		`dragonfly_dfdaemon_bytes_total{via="source"} 4000`, `dragonfly_dfdaemon_first_byte_seconds_count{via="source"} 1`, "dragonfly_dfdaemon_build_info", "dragonfly_dfdaemon_tunnels 0")
}

// TestMirrorDirect: with registry_mirror.direct no blob is stored.
func TestMirrorDirect(t *testing.T) {
	g := newRegistry(t, httptest.NewServer)
	path := g.add([]byte("blob"))
	d := start(t, "registry_mirror: {remote: '"+g.URL+"', direct: true}\n")
	for range 2 {
		if resp, body := d.get(path); body != "blob" || resp.Header.Get(viaHeader) != "direct" {
			t.Errorf("%q via %s", body, resp.Header.Get(viaHeader))
		}
	}
	if n := len(g.asked()); n < 2 {
		t.Errorf("the registry was asked %d times", n)
	}
}

// TestProxy: rules, tunnels, interception with what gen-ca made, and the trust
// that hosts are given.
func TestProxy(t *testing.T) {
	dir := t.TempDir()
	cert, key, roots0 := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"), filepath.Join(dir, "roots.crt")
	if code, _, stderr := call(t, nil, "gen-ca", "--key-output", key, "--cert-output", cert); code != 0 {
		t.Fatal(stderr)
	}
	ours, err := pair("", cert, key)
	if err != nil {
		t.Fatal(err)
	}
	plain, opened, closed := newRegistry(t, httptest.NewServer), newRegistry(t, httptest.NewTLSServer), newRegistry(t, httptest.NewTLSServer)
	if err := os.WriteFile(roots0, pemOf(opened.Certificate()), 0o600); err != nil {
		t.Fatal(err)
	}
	path := plain.add([]byte("plain"))
	opened.add([]byte("plain"))
	closed.add([]byte("plain"))
	host := func(g *registry) string { return g.Listener.Addr().String() }
	d := start(t, fmt.Sprintf(`
proxies:
- regx: ^http://old.example/
  redirect: %s
- regx: ^http://secure.example/
  redirect: %s
  use_https: true
  direct: true
- regx: ^https://%s/v2/.*/blobs/sha256
hijack_https:
  cert: %s
  key: %s
  hosts:
  - regx: ^%s$
    certs: [%s]
`, host(plain), host(opened), host(opened), cert, key, host(opened), roots0), "--registry", plain.URL)
	c := d.through(roots(ours.Leaf, closed.Certificate()))
	for at, via := range map[string]string{
		"http://old.example" + path: "source", "http://secure.example" + path: "proxy", plain.URL + path: "proxy", opened.URL + path: "source",
		opened.URL + "/v2/": "proxy", closed.URL + path: "",
	} {
		resp, body := fetch(t, c, at)
		if body != "plain" && !strings.HasSuffix(at, "/v2/") || resp.StatusCode != 200 || resp.Header.Get(viaHeader) != via {
			t.Errorf("%s: %d via %q: %s", at, resp.StatusCode, resp.Header.Get(viaHeader), body)
		}
		if strings.HasPrefix(at, opened.URL) && resp.TLS.PeerCertificates[0].Issuer.String() != ours.Leaf.Subject.String() {
			t.Errorf("the certificate is of %s", resp.TLS.PeerCertificates[0].Issuer)
		}
	}
	direct := d.through(nil)
	if _, body := fetch(t, direct, "http://old.example"+path, "Range", "bytes=1-2"); body != "la" {
		t.Errorf("a part: %q", body)
	}
	var text string
	until(t, "a tunnel is open and its end counted", func() bool {
		c.CloseIdleConnections()
		_, text = d.get("/metrics")
		// A page of metrics is no one moment: its counters are read one after the other.
		return strings.Contains(text, `requests_total{code="2xx",via="tunnel"} 2`) && strings.Contains(text, "dragonfly_dfdaemon_tunnels 0") &&
			strings.Contains(text, `bytes_total{via="tunnel"}`)
	})
	contains(t, "the metrics", text, "dragonfly_dfdaemon_certificates_total 1", `requests_total{code="2xx",via="proxy"}`, `bytes_total{via="tunnel"}`)

	// Neither tunnels nor requests come back.
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", d.addr)
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusLoopDetected {
		t.Errorf("%v %v", resp, err)
	}
	if resp, _ := fetch(t, c, "http://"+d.addr+"/v2/"); resp.StatusCode != http.StatusLoopDetected {
		t.Error(resp.StatusCode)
	}
}

// TestOwnCertificate: with certpem and keypem it speaks TLS, as a mirror and as
// a proxy, and is healthy.
func TestOwnCertificate(t *testing.T) {
	g, secure := newRegistry(t, httptest.NewServer), newRegistry(t, httptest.NewTLSServer)
	path := g.add([]byte("blob"))
	f := newFiles(t) // an authority, which is a certificate too
	own, err := pair("", f.cert, f.key)
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, "", "--registry", g.URL, "--certpem", f.cert, "--keypem", f.key)
	trusting := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		if !s.PeerCertificates[0].Equal(own.Leaf) {
			return fmt.Errorf("another certificate")
		}
		return nil
	}}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting, ForceAttemptHTTP2: true}}
	defer c.CloseIdleConnections()
	if resp, body := fetch(t, c, "https://"+d.addr+path); body != "blob" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	until(t, "it is healthy", func() bool {
		resp, _ := fetch(t, c, "https://"+d.addr+"/healthy")
		return resp.StatusCode == 200
	})
	conn, err := tls.Dial("tcp", d.addr, trusting)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", secure.Listener.Addr())
	in := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(in, &http.Request{Method: "CONNECT"}); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	inner := tls.Client(conn, &tls.Config{RootCAs: roots(secure.Certificate()), ServerName: "127.0.0.1"})
	fmt.Fprint(inner, "GET /v2/ HTTP/1.0\r\n\r\n")
	if text, err := io.ReadAll(inner); err != nil || !strings.HasSuffix(string(text), "{}") {
		t.Errorf("%s %v", text, err)
	}
}

// TestRegistryTrust: certs and insecure are for the registry, and without them
// its certificate is checked.
func TestRegistryTrust(t *testing.T) {
	g := newRegistry(t, httptest.NewTLSServer)
	path := g.add([]byte("blob"))
	file := write(t, "roots.crt", string(pemOf(g.Certificate())))
	for yaml, status := range map[string]int{"": http.StatusBadGateway, "insecure: true": 200, "certs: [" + file + "]": 200} {
		d := start(t, "registry_mirror: {remote: '"+g.URL+"', "+yaml+"}\n")
		for _, at := range []string{path, "/v2/library/app/manifests/latest"} {
			if resp, body := d.get(at); resp.StatusCode != status {
				t.Errorf("%s %s: %d %s", yaml, at, resp.StatusCode, body)
			}
		}
		var said string
		until(t, "the registry was asked", func() bool { _, said = d.get("/healthy"); return strings.Contains(said, "registry ") })
		if got := strings.Contains(said, "registry "+g.URL+": answers"); got != (status == 200) {
			t.Errorf("%s: %s", yaml, said)
		}
	}
}

// TestStore: --quota and --expiretime reach it.
func TestStore(t *testing.T) {
	g := newRegistry(t, httptest.NewServer)
	path := g.add(bytes.Repeat([]byte("b"), 2<<20))
	d := start(t, "", "--registry", g.URL, "--quota", "1MB", "--expiretime", "5m")
	if err := d.stderr.WaitFor(t.Context(), "expireTime:5m0s", 1); err != nil {
		t.Error(err)
	}
	if resp, body := d.get(path); len(body) != 2<<20 {
		t.Errorf("%d, %d bytes via %s", resp.StatusCode, len(body), resp.Header.Get(viaHeader))
	}
	var held int64
	_ = filepath.Walk(filepath.Join(d.home, ".small-dragonfly", "dfdaemon", "data"), func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			held += info.Size()
		}
		return nil
	})
	if held > 1<<20 {
		t.Errorf("%d bytes are held", held)
	}
}

// TestBehindItself: an environment that leads to dfdaemon does not lead
// dfdaemon to itself.
func TestBehindItself(t *testing.T) {
	for at, want := range map[string]int{"127.0.0.1:65001": 2, "http://localhost:65001": 2, "http://127.0.0.1:3128": 0, "": 0, "http://[": 0} {
		env := map[string]string{"HTTP_PROXY": at, "https_proxy": at}
		s := self((&config{HostIP: "0.0.0.0", Port: 65001}).listens())
		if got := s.ownProxies(t.Context(), func(name string) (string, bool) { v, ok := env[name]; return v, ok }); len(got) != want {
			t.Errorf("%q: %q", at, got)
		}
	}
}

// TestFront: which part answers, and what clients on other hosts get.
func TestFront(t *testing.T) {
	part := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
	}
	c := defaultConfig()
	c.Profiler = true
	pages, err := newPages(c, nil, newTraffic(func() int64 { return 0 }), part("healthy"), part("blobs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		method, at  string
		far, secret bool
		want        string
	}{
		{"GET", "/v2/", false, true, "registry"},
		{"GET", "/v2/", true, false, "registry"},
		{"GET", "/v2/", true, true, "HTTP_PROXY=http://USER:PASSWORD@HOST:PORT"},
		{"GET", "/healthy/", false, false, "registry"},
		{"GET", "/healthy", true, true, "healthy"},
		{"GET", "/debug/version", true, true, "GoVersion"},
		{"GET", "http://other/", true, true, "proxy"},
		{"GET", "http://other/metrics", false, true, "proxy"},
		{"CONNECT", "other:443", true, true, "proxy"},
		{"GET", "/debug/blobs", false, false, "blobs"},
		{"GET", "/debug/blobs", true, false, "for clients on dfdaemon's own host"},
		{"GET", "/debug/pprof/", false, false, "goroutine"},
		{"GET", "/debug/pprof/cmdline", false, false, "see /args"},
		{"GET", "/debug/pprof/", true, false, "for clients on dfdaemon's own host"},
	} {
		r := httptest.NewRequest(v.method, v.at, nil)
		if !v.far {
			r.RemoteAddr = "127.0.0.1:1"
		}
		if !r.URL.IsAbs() {
			r.Host = "localhost:65001"
		}
		w := httptest.NewRecorder()
		front{pages, part("registry"), part("proxy"), v.secret}.ServeHTTP(w, r)
		if !strings.Contains(w.Body.String(), v.want) {
			t.Errorf("%s %s: %d %s, want %q", v.method, v.at, w.Code, w.Body, v.want)
		}
	}
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/debug/blobs", nil)
	r.RemoteAddr, r.Host = "127.0.0.1:1", "evil.example:65001"
	if (front{pages: pages}).ServeHTTP(w, r); w.Code != http.StatusForbidden {
		t.Errorf("a page in a browser reads %s", w.Body)
	}
	off, err := newPages(defaultConfig(), nil, newTraffic(func() int64 { return 0 }), part("healthy"), part("blobs"))
	if err != nil {
		t.Fatal(err)
	}
	w, r = httptest.NewRecorder(), httptest.NewRequest("GET", "/debug/pprof/heap", nil)
	if (front{pages: off}).ServeHTTP(w, r); w.Code != 404 || !strings.Contains(w.Body.String(), "--pprof") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestPagesKeepSecrets: /args and /env show the settings without what is in
// them.
func TestPagesKeepSecrets(t *testing.T) {
	f := newFiles(t)
	users, err := os.ReadFile(f.users)
	if err != nil || !strings.Contains(string(users), secret) {
		t.Fatal(err)
	}
	c := defaultConfig()
	c.Mirror.Remote = "https://u:" + secret + "@x/y"
	c.AuthFile = f.users
	c.Mirror.Certs = []string{"https://x/y?token=" + secret}
	pages, err := newPages(c, []string{"--registry", "https://u:" + secret + "@x/y", "--registry=https://u:" + secret + "@x/y"}, newTraffic(func() int64 { return 0 }), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/args": "--registry https://***@x/y --registry=https://***@x/y", "/env": `"proxyauthfile":"` + f.users + `"`} {
		w := httptest.NewRecorder()
		pages[path].ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if contains(t, path, w.Body.String(), want); strings.Contains(w.Body.String(), secret) {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
	d := start(t, "", "--registry", "http://127.0.0.1:1", "--proxy-auth-file", f.users)
	for _, path := range []string{"/args", "/env", "/metrics", "/healthy"} {
		if _, body := d.get(path); strings.Contains(body, secret) {
			t.Errorf("%s: %s", path, body)
		}
	}
	if resp, _ := fetch(t, d.through(nil), "http://127.0.0.1:1/"); resp.StatusCode != http.StatusProxyAuthRequired {
		t.Error(resp.StatusCode)
	}
	if resp, _ := d.get("/v2/"); resp.StatusCode != http.StatusBadGateway { // the mirror is for this host
		t.Error(resp.StatusCode)
	}
}
