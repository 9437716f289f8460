// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dragonfly/internal/swarm"
)

const secret = "c3VwZXItc2VjcmV0"

// TestMain is dfdaemon itself when a test starts it as a process.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_IS_DFDAEMON") != "" {
		main()
	}
	os.Exit(m.Run())
}

// write makes a file in a directory of the test.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// call runs a command to its end, in an environment of HOME and more.
func call(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	p := program{lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok }, stdout: &out, stderr: &errs}
	code = p.execute(t.Context(), args)
	return code, out.String(), errs.String()
}

// running is a dfdaemon within the test.
type running struct {
	t      *testing.T
	addr   string // host:port
	home   string
	stderr *swarm.Tail
}

// start runs a dfdaemon with a configuration file until the test ends. There is
// no supernode unless args name one.
func start(t *testing.T, yaml string, args ...string) *running {
	t.Helper()
	port, err := swarm.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	d := &running{t: t, addr: fmt.Sprintf("127.0.0.1:%d", port), home: t.TempDir(), stderr: &swarm.Tail{}}
	env := map[string]string{"HOME": d.home}
	args = append([]string{"--config", write(t, "dfdaemon.yml", "localIP: 127.0.0.1\n"+yaml), "--port", fmt.Sprint(port), "--node", "127.0.0.1:1"}, args...)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		p := program{lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok }, stdout: io.Discard, stderr: d.stderr}
		ended <- p.execute(ctx, args)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case code := <-ended:
			if code != 0 {
				t.Errorf("exit code %d: %s", code, d.stderr)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("it does not end: %s", d.stderr)
		}
	})
	limited, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if err := d.stderr.WaitFor(limited, "dfdaemon serves", 1); err != nil {
		t.Fatalf("%v: %s", err, d.stderr)
	}
	return d
}

// until asks again and again.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick, late := time.NewTicker(10*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}

// get asks for a URL, or for a path of the dfdaemon.
func (d *running) get(at string, header ...string) (*http.Response, string) {
	d.t.Helper()
	if strings.HasPrefix(at, "/") {
		at = "http://" + d.addr + at
	}
	return fetch(d.t, http.DefaultClient, at, header...)
}

// through is a client that has the dfdaemon for a proxy.
func (d *running) through(roots *x509.CertPool) *http.Client {
	u := &url.URL{Scheme: "http", Host: d.addr}
	transport := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return u, nil }, TLSClientConfig: &tls.Config{RootCAs: roots}}
	d.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func fetch(t *testing.T, c *http.Client, at string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// registry is one with blobs, a manifest, and nothing else.
type registry struct {
	*httptest.Server
	mu    sync.Mutex // guards below
	blobs map[string][]byte
	seen  []*http.Request
}

// add stores a blob and gives its path.
func (g *registry) add(content []byte) string {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.blobs[digest] = content
	return "/v2/library/app/blobs/" + digest
}

func (g *registry) asked() []*http.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*http.Request(nil), g.seen...)
}

func newRegistry(t *testing.T, serve func(http.Handler) *httptest.Server) *registry {
	g := &registry{blobs: map[string][]byte{}}
	g.Server = serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.seen = append(g.seen, r)
		blob, ok := g.blobs[filepath.Base(r.URL.Path)]
		g.mu.Unlock()
		switch {
		case r.URL.Path == "/v2/":
			fmt.Fprint(w, "{}")
		case ok:
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("Docker-Content-Digest", filepath.Base(r.URL.Path))
			w.Header().Set("ETag", `"`+filepath.Base(r.URL.Path)+`"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
		case strings.Contains(r.URL.Path, "/manifests/"):
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			fmt.Fprint(w, `{"schemaVersion":2}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(func() { g.CloseClientConnections(); g.Close() })
	return g
}

// roots are the authorities of a TLS server.
func roots(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}

// contains says which parts a text lacks.
func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %q:\n%s", what, part, text)
		}
	}
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
