// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"dragonfly/proxy"
)

// TestRules: the first that matches the whole URL decides (v1-protocol 10.2).
func TestRules(t *testing.T) {
	plain, secure := newSite(t, httptest.NewServer), newSite(t, httptest.NewTLSServer)
	sw := &swarm{}
	_, at := serve(t, proxy.Options{Swarm: sw, Hosts: []proxy.Host{{Match: match("^" + secure.host() + "$"), Trust: proxy.Trust{Insecure: true}}},
		Rules: []proxy.Rule{
			{Match: match(`/direct/`), Direct: true},
			{Match: match(`/blobs/sha256:`)},
			{Match: match(`^http://secure.example/`), UseHTTPS: true, Redirect: secure.host()},
			{Match: match(`^http://plain.example/past`), Redirect: plain.host(), Direct: true},
			{Match: match(`[?]q=1$`)},
			{Match: match(`.*/blobs/.*`), Redirect: "nowhere.invalid"},
		}})
	c := client(t, at)
	for _, v := range []struct {
		method, url, body, want string
		header                  []string
	}{
		{"GET", plain.URL + "/other", "", "GET /other ", nil},
		{"GET", plain.URL + "/blobs/sha256:1", "", "swarm " + plain.URL + "/blobs/sha256:1", nil},
		{"GET", plain.URL + "/direct/blobs/sha256:1", "", "GET /direct/blobs/sha256:1 ", nil},
		{"HEAD", plain.URL + "/blobs/sha256:1", "", "", nil},
		{"POST", plain.URL + "/blobs/sha256:1", "text", "POST /blobs/sha256:1 text", nil},
		{"GET", plain.URL + "/blobs/sha256:1", "text", "GET /blobs/sha256:1 text", nil},
		{"GET", plain.URL + "/blobs/sha256:1", "", "GET /blobs/sha256:1 ", []string{"Upgrade", "x", "Connection", "Upgrade"}},
		{"GET", "http://secure.example/v2/", "", "swarm https://" + secure.host() + "/v2/", nil},
		{"PUT", "http://secure.example/v2/", "x", "PUT /v2/ x", nil},
		{"GET", "http://plain.example/past", "", "GET /past ", nil},
		{"GET", plain.URL + "/?q=1", "", "swarm " + plain.URL + "/?q=1", nil},
		{"GET", plain.URL + "/?q=12", "", "GET /?q=12 ", nil},
	} {
		resp, got := do(t, c, v.method, v.url, v.body, v.header...)
		via := "proxy"
		if strings.HasPrefix(v.want, "swarm") {
			via = "swarm"
		}
		if got != v.want || resp.StatusCode != 200 || resp.Header.Get("X-Dragonfly-Via") != via {
			t.Errorf("%s %s: %d %q via %q, want %q via %s", v.method, v.url, resp.StatusCode, got, resp.Header.Get("X-Dragonfly-Via"), v.want, via)
		}
	}
	for i, r := range sw.seen {
		if insecure := r.URL.Host == secure.host(); sw.trust[i].Insecure != insecure || r.URL.IsAbs() != true {
			t.Errorf("%s: trust %v", r.URL, sw.trust[i])
		}
	}
	if last := secure.asked(); last[0].Host != secure.host() {
		t.Errorf("a redirected request asks for the host %q", last[0].Host)
	}
}

// TestForward: what is the client's reaches the host, what is the proxy's does
// not, and the answer comes back with trailer.
func TestForward(t *testing.T) {
	s := newSite(t, httptest.NewServer)
	_, at := serve(t, proxy.Options{})
	conn := dial(t, at)
	fmt.Fprintf(conn, "GET http://user:%s@%s/a%%2Fb?x=1;y&z HTTP/1.1\r\nHost: else.example\r\nProxy-Authorization: Basic %s\r\nProxy-Connection: keep-alive\r\n"+
		"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Forwarded-For: 192.0.2.1\r\nX-Keep: 1\r\n\r\n", secret, s.host(), secret)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "GET /a%2Fb?x=1;y&z " || resp.Header.Get("X-Site") != "yes" || resp.Trailer.Get("X-Sum") != "42" {
		t.Errorf("%v %q %v %v", err, body, resp.Header, resp.Trailer)
	}
	if resp.Header.Get("X-Dragonfly-Task") != "" {
		t.Error("the host can say which task it was")
	}
	r := s.asked()[0]
	for _, name := range []string{"Proxy-Authorization", "Proxy-Connection", "X-Hop", "Keep-Alive", "User-Agent", "Accept-Encoding"} {
		if v := r.Header.Get(name); v != "" {
			t.Errorf("the host got %s: %q", name, v)
		}
	}
	user, password, _ := r.BasicAuth()
	if r.Header.Get("X-Forwarded-For") != "192.0.2.1" || r.Header.Get("X-Keep") != "1" || user != "user" || password != secret || r.Host != s.host() {
		t.Errorf("the host %s got %v", r.Host, r.Header)
	}
}

// TestForwardFails: v1's status and a text that says what and where, without
// secrets.
func TestForwardFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	log := &bytes.Buffer{} // written before the answer is
	_, at := serve(t, proxy.Options{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	c := client(t, at)
	resp, got := do(t, c, "GET", "http://user:"+secret+"@"+l.Addr().String()+"/path?token="+secret, "", "Authorization", secret, "Proxy-Authorization", secret)
	if text := log.String(); !strings.Contains(text, "could not be forwarded") || strings.Contains(text, secret) {
		t.Errorf("the log: %s", text)
	}
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(got, "GET http://"+l.Addr().String()+"/path") || !strings.Contains(got, "refused") || strings.Contains(got, secret) {
		t.Errorf("%d %s", resp.StatusCode, got)
	}
	for _, line := range []string{"GET /path HTTP/1.1", "GET ftp://x/y HTTP/1.1", "GET http:///y HTTP/1.1", "CONNECT x HTTP/1.1", "CONNECT x:0 HTTP/1.1", "CONNECT x:99999 HTTP/1.1", "CONNECT :80 HTTP/1.1"} {
		conn := dial(t, at)
		fmt.Fprintf(conn, "%s\r\nHost: x\r\n\r\n", line)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %v %v", line, resp, err)
		}
	}
}

// TestBodyIsSentOnce: a host that hangs up gets no second try.
func TestBodyIsSentOnce(t *testing.T) {
	asked := make(chan string, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked <- string(body)
		if len(body) > 0 {
			panic(http.ErrAbortHandler)
		}
	}))
	defer s.Close()
	_, at := serve(t, proxy.Options{})
	c := client(t, at)
	do(t, c, "GET", s.URL, "") // leaves a connection that is used again
	if resp, _ := do(t, c, "POST", s.URL, "once"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d", resp.StatusCode)
	}
	if first, second := <-asked, <-asked; first != "" || second != "once" || len(asked) != 0 {
		t.Errorf("%q, %q, and %d more", first, second, len(asked))
	}
}

// TestUpgrade: a protocol change goes through.
func TestUpgrade(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", r.Header.Get("Upgrade"))
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(conn, "echo "+line)
	}))
	defer s.Close()
	_, at := serve(t, proxy.Options{Swarm: &swarm{}, Rules: []proxy.Rule{{Match: match(".")}}})
	conn := dial(t, at)
	fmt.Fprintf(conn, "GET %s/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", s.URL)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := in.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("%q %v", line, err)
	}
}

// TestFromAfar: what a client on another host does not reach, by whichever
// way, and what it does.
func TestFromAfar(t *testing.T) {
	s := newSite(t, httptest.NewServer)
	_, port, _ := net.SplitHostPort(s.host())
	sw := &swarm{}
	o := proxy.Options{Swarm: sw, Rules: []proxy.Rule{{Match: match("/swarm")}}}
	_, near := serve(t, o)
	_, far := serve(t, o, "192.0.2.7:1234")
	up := newSite(t, httptest.NewServer)
	upstream, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	o.Upstream = http.ProxyURL(upstream)
	_, through := serve(t, o, "192.0.2.7:1234")
	for _, v := range []struct {
		at             *url.URL
		method, target string
		status         int
	}{
		{near, "GET", "http://127.0.0.1:" + port + "/x", 200},
		{near, "GET", "http://127.0.0.1:" + port + "/swarm", 200},
		{near, "CONNECT", "127.0.0.1:" + port, 200},
		{far, "GET", "http://127.0.0.1:" + port + "/x", 403},
		{far, "GET", "http://localhost:" + port + "/x", 403},
		{far, "GET", "http://[::ffff:127.0.0.1]:" + port + "/x", 403},
		{far, "GET", "http://[::1]:" + port + "/x", 403},
		{far, "GET", "http://0.0.0.0:" + port + "/x", 403},
		{far, "GET", "http://169.254.169.254/latest/meta-data/", 403},
		{far, "GET", "http://[fe80::1]/", 403},
		{far, "GET", "http://[64:ff9b::7f00:1]/", 403},
		{far, "GET", "http://100.100.100.200/", 403},
		{far, "GET", "http://127.0.0.1:" + port + "/swarm", 403},
		{far, "GET", "http://localhost:" + port + "/swarm", 403},
		{far, "GET", "http://169.254.169.254/swarm", 403},
		{far, "GET", "http://192.0.2.9/swarm", 200},
		{far, "CONNECT", "127.0.0.1:" + port, 403},
		{far, "CONNECT", "localhost:" + port, 403},
		{far, "CONNECT", "169.254.169.254:80", 403},
		{through, "GET", "http://registry.invalid/x", 200},
		{through, "GET", "http://registry.invalid/swarm", 200},
		{through, "GET", "http://169.254.169.254/x", 403},
		{through, "GET", "http://169.254.43518/x", 403},
		{through, "GET", "http://0xa9fea9fe/x", 403},
		{through, "GET", "http://127.0.0.1/swarm", 403},
		{through, "GET", "http://metadata.google.internal/x", 403},
		{through, "CONNECT", "[::1]:80", 403},
	} {
		conn := dial(t, v.at)
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", v.method, v.target)
		resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: v.method})
		if err != nil {
			t.Errorf("%s %s: %v", v.method, v.target, err)
			continue
		}
		var body []byte
		if v.method != "CONNECT" || resp.StatusCode != 200 {
			body, _ = io.ReadAll(resp.Body)
		}
		if resp.StatusCode != v.status || v.status == 403 && !strings.Contains(string(body), "clients on other hosts") {
			t.Errorf("%s %s: %d %s, want %d", v.method, v.target, resp.StatusCode, body, v.status)
		}
		conn.Close()
	}
	// A connection that was kept from a client on this host is not used.
	if n := len(s.asked()); n != 1 {
		t.Errorf("the host was asked %d times, want once", n)
	}
}

// TestItself: no connection to the proxy's own port, by whichever name.
func TestItself(t *testing.T) {
	var own []netip.AddrPort
	_, at := serve(t, proxy.Options{Self: func(a netip.AddrPort) bool { return slices.Contains(own, a) }})
	own = append(own, netip.MustParseAddrPort(at.Host))
	for _, line := range []string{"CONNECT " + at.Host, "GET http://" + at.Host + "/healthy"} {
		conn := dial(t, at)
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\n\r\n", line)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusLoopDetected || !strings.Contains(string(body), "itself") {
			t.Errorf("%s: %d %s", line, resp.StatusCode, body)
		}
	}
}

// TestTrail: a request passes once, and those of other proxies' trails do.
func TestTrail(t *testing.T) {
	s := newSite(t, httptest.NewServer)
	p, err := proxy.New(proxy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	trail := proxy.NewTrail()
	front := httptest.NewServer(trail.Handler(p))
	defer front.Close()
	at, _ := url.Parse(front.URL)
	if resp, body := do(t, client(t, at), "GET", s.URL, "", "Via", "1.1 other, 1.0 dragonfly-0000000000000000 (comment)"); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	via := strings.Join(s.asked()[0].Header["Via"], ", ")
	if !strings.HasPrefix(via, "1.1 other, 1.0 dragonfly-0000000000000000 (comment), 1.1 dragonfly-") {
		t.Fatalf("Via: %s", via)
	}
	for _, header := range []string{via, via[strings.LastIndex(via, "1.1"):] + " (what is it),1.1 next"} {
		if resp, body := do(t, client(t, at), "GET", s.URL, "", "Via", header); resp.StatusCode != http.StatusLoopDetected || !strings.Contains(body, "go round") {
			t.Errorf("%s: %d %s", header, resp.StatusCode, body)
		}
	}
	if resp, _ := do(t, client(t, at), "GET", front.URL+"/healthy", ""); resp.StatusCode != http.StatusLoopDetected {
		t.Errorf("asked for itself: %d", resp.StatusCode)
	}
}

// TestNear: who is on this host.
func TestNear(t *testing.T) {
	for _, v := range []struct {
		from, to string
		near     bool
	}{
		{"127.0.0.1:1", "127.0.0.1:2", true}, {"[::1]:1", "[::1]:2", true}, {"[::ffff:127.0.0.9]:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.1:2", true}, {"192.0.2.1:1", "[::ffff:192.0.2.1]:2", true},
		{"192.0.2.2:1", "192.0.2.1:2", false}, {"192.0.2.2:1", "", false}, {"", "", false}, {"@", "", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = v.from
		if v.to != "" {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(v.to))))
		}
		if got := proxy.Near(r); got != v.near {
			t.Errorf("%s to %s: %v", v.from, v.to, got)
		}
	}
}
