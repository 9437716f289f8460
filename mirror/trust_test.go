// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"dragonfly/mirror"
)

// secured is a registry with a certificate for example.com that nobody knows,
// and a proxy that leads everybody to it.
type secured struct {
	*registry
	cert, key []byte // PEM
	pair      tls.Certificate
	proxy     *url.URL
}

func newSecured(t *testing.T, clients tls.ClientAuthType) *secured {
	t.Helper()
	s := &secured{registry: &registry{}}
	server := httptest.NewUnstartedServer(s.registry)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.TLS = &tls.Config{ClientAuth: clients}
	server.StartTLS()
	t.Cleanup(server.Close)
	s.pair = server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(s.pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	s.cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	s.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	proxy := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer from.Close()
		io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(to, from); to.Close() })
		wg.Go(func() { io.Copy(from, to); from.Close() })
		wg.Wait()
	}))
	s.proxy, err = url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCertDirs: the files that docker and podman know registries by are used
// for registries that are named and for the mirror's own, as soon as they are
// there; what is wrong with them is said.
func TestCertDirs(t *testing.T) {
	for name, v := range map[string]struct {
		files   []string // of the registry: crt, cert, key
		clients tls.ClientAuthType
		status  int
		says    string
	}{
		"nothing":               {nil, tls.NoClientCert, 502, "certificate"},
		"authority":             {[]string{"ca.crt"}, tls.NoClientCert, 200, ""},
		"client, not asked":     {[]string{"ca.crt", "own.cert", "own.key"}, tls.NoClientCert, 200, ""},
		"client":                {[]string{"ca.crt", "own.cert", "own.key"}, tls.RequireAnyClientCert, 200, ""},
		"no client":             {[]string{"ca.crt"}, tls.RequireAnyClientCert, 502, "certificate required"},
		"no key":                {[]string{"ca.crt", "own.cert"}, tls.RequireAnyClientCert, 502, "own.cert is not complete without"},
		"key only":              {[]string{"ca.crt", "own.key"}, tls.RequireAnyClientCert, 502, "own.key is not complete without"},
		"no PEM":                {[]string{"ca.crt", "bad.crt"}, tls.NoClientCert, 502, "bad.crt holds no PEM"},
		"other files":           {[]string{"ca.crt", "README"}, tls.NoClientCert, 200, ""},
		"of another registry":   {[]string{"../other.example/ca.crt"}, tls.NoClientCert, 502, "certificate"},
		"in the directory's":    {[]string{"../ca.crt"}, tls.NoClientCert, 502, "certificate"},
		"certificate and no CA": {[]string{"ca.cert", "ca.key"}, tls.NoClientCert, 502, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			registry := newSecured(t, v.clients)
			dirs := []string{filepath.Join(t.TempDir(), "absent"), t.TempDir()}
			engine := &fakeEngine{refuse: errors.New("busy")}
			for _, remote := range []string{"https://other.example", "https://example.com"} {
				s := newStand(t, engine, func(o *mirror.Options) {
					o.Remote, _ = url.Parse(remote)
					o.CertDirs = dirs
					o.Proxy = func(*http.Request) (*url.URL, error) { return registry.proxy, nil }
				})
				os.RemoveAll(filepath.Join(dirs[1], "example.com"))
				paths := []string{"/v2/a/manifests/1?ns=example.com", "/v2/example.com/a/manifests/1"}
				if remote == "https://example.com" {
					paths = append(paths, "/v2/a/manifests/1")
				}
				for _, path := range paths {
					if resp, body, _ := s.get(path); resp.StatusCode != http.StatusBadGateway {
						t.Errorf("%s gives %d before the files are there: %s", path, resp.StatusCode, body)
					}
				}
				for _, file := range v.files {
					text := map[string][]byte{".crt": registry.cert, ".cert": registry.cert, ".key": registry.key}[filepath.Ext(file)]
					if file == "bad.crt" {
						text = []byte("x")
					}
					path := filepath.Join(dirs[1], "example.com", file)
					if err := errors.Join(os.MkdirAll(filepath.Join(dirs[1], "example.com"), 0o700), os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, text, 0o600)); err != nil {
						t.Fatal(err)
					}
				}
				for _, path := range paths {
					if resp, body, _ := s.get(path); resp.StatusCode != v.status || !strings.Contains(string(body), v.says) {
						t.Errorf("%s gives %d, want %d: %s", path, resp.StatusCode, v.status, body)
					}
				}
				if v.status != http.StatusOK {
					continue
				}
				before := len(engine.started())
				blob := random(5, 100)
				resp, _, _ := s.get(registry.add(blob) + "?ns=example.com")
				if mine := len(v.files) > 1 && v.files[1] == "own.cert"; resp.StatusCode != http.StatusOK || (len(engine.started()) == before) != mine {
					t.Errorf("a blob gives %d, the engine was asked for it: %t", resp.StatusCode, len(engine.started()) > before)
				}
			}
		})
	}
}

// TestOwnCertificate: the mirror shows the certificate of its options to its
// own registry and to no other.
func TestOwnCertificate(t *testing.T) {
	registry := newSecured(t, tls.RequireAnyClientCert)
	for remote, want := range map[string]int{"https://example.com": http.StatusOK, "https://other.example": http.StatusBadGateway} {
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "example.com"), 0o700), os.WriteFile(filepath.Join(dir, "example.com", "ca.crt"), registry.cert, 0o600)); err != nil {
			t.Fatal(err)
		}
		s := newStand(t, &fakeEngine{}, func(o *mirror.Options) {
			o.Remote, _ = url.Parse(remote)
			o.Certificates, o.CertDirs = []tls.Certificate{registry.pair}, []string{dir}
			o.Proxy = func(*http.Request) (*url.URL, error) { return registry.proxy, nil }
		})
		if resp, body, _ := s.get("/v2/a/manifests/1?ns=example.com"); resp.StatusCode != want {
			t.Errorf("the mirror of %s gives %d: %s", remote, resp.StatusCode, body)
		}
	}
}

// TestCertDirsStayInside: no name that a client gives leads out of the
// directories.
func TestCertDirsStayInside(t *testing.T) {
	registry := newSecured(t, tls.NoClientCert)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bad.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := newStand(t, &fakeEngine{}, func(o *mirror.Options) {
		o.CertDirs = []string{filepath.Join(dir, "inside")}
		o.Proxy = func(*http.Request) (*url.URL, error) { return registry.proxy, nil }
	})
	for _, ns := range []string{"..", ".", "..%2F..", "...", "%2e%2e"} {
		if _, body, _ := s.get("/v2/a/manifests/1?ns=" + ns); strings.Contains(string(body), "bad.crt") {
			t.Errorf("%s was looked up: %s", ns, body)
		}
	}
}

// TestCertDirOfLoopback: a registry on this host for which certificates are laid
// down is asked by HTTPS.
func TestCertDirOfLoopback(t *testing.T) {
	registry := httptest.NewUnstartedServer(&registry{})
	registry.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	registry.StartTLS()
	t.Cleanup(registry.Close)
	host := registry.Listener.Addr().String()
	dir := t.TempDir()
	s := newStand(t, &fakeEngine{}, func(o *mirror.Options) { o.CertDirs = []string{dir} })
	path := "/v2/a/manifests/1?ns=" + host
	if resp, _, _ := s.get(path); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("%d before the files are there", resp.StatusCode)
	}
	if err := os.Mkdir(filepath.Join(dir, host), 0o700); err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: registry.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, host, "ca.crt"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	if resp, body, _ := s.get(path); resp.StatusCode != http.StatusOK {
		t.Errorf("%d: %s", resp.StatusCode, body)
	}
}
