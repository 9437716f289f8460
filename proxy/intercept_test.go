// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"dragonfly/proxy"
)

// authority makes one as gen-ca does.
func authority(t *testing.T) *tls.Certificate {
	t.Helper()
	cert, key, err := proxy.NewAuthority("test", time.Hour*48)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// TestIntercept: requests inside go by the rules as https URLs, over HTTP/1.1
// and HTTP/2, with a certificate of the host; other hosts are not opened.
func TestIntercept(t *testing.T) {
	s, closed := newSite(t, httptest.NewTLSServer), newSite(t, httptest.NewTLSServer)
	ca, sw, seen := authority(t), &swarm{}, newWatched()
	wrapped := 0
	_, at := serve(t, proxy.Options{Swarm: sw, Certificate: ca, Observer: seen,
		Hosts: []proxy.Host{
			{Match: match("^" + s.host() + "$"), Intercept: true, Trust: proxy.Trust{RootCAs: pemOf(s.Certificate())}},
			{Match: match("^" + closed.host() + "$")},
		},
		Rules: []proxy.Rule{{Match: match("^https://" + s.host() + "/v2/.*/blobs/sha256")}},
		Wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { wrapped++; h.ServeHTTP(w, r) })
		},
	})
	for _, h2 := range []bool{false, true} {
		c := client(t, at, ca.Leaf, closed.Certificate())
		c.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
		resp, body := do(t, c, "GET", s.URL+"/v2/a/blobs/sha256:1", "")
		if body != "swarm "+s.URL+"/v2/a/blobs/sha256:1" || h2 != (resp.ProtoMajor == 2) {
			t.Errorf("%s %d %s", resp.Proto, resp.StatusCode, body)
		}
		leaf := resp.TLS.PeerCertificates[0]
		if len(leaf.IPAddresses) != 1 || leaf.IPAddresses[0].String() != "127.0.0.1" || leaf.IsCA {
			t.Errorf("certificate for %v %v", leaf.DNSNames, leaf.IPAddresses)
		}
		if before, after := time.Since(leaf.NotBefore), time.Until(leaf.NotAfter); before.Round(time.Hour) != time.Hour || after.Round(time.Hour) != 23*time.Hour {
			t.Errorf("it was made %s ago and is good for %s", before, after)
		}
		resp, body = do(t, c, "POST", s.URL+"/v2/a/blobs/uploads/?x;y", "text")
		if body != "POST /v2/a/blobs/uploads/?x;y text" || resp.Header.Get("X-Site") != "yes" || resp.Trailer.Get("X-Sum") != "42" || resp.Header.Get("X-Dragonfly-Via") != "proxy" {
			t.Errorf("%s %v %v", body, resp.Header, resp.Trailer)
		}
		if resp, _ := do(t, c, "GET", closed.URL+"/v2/a/blobs/sha256:1", ""); resp.Header.Get("X-Dragonfly-Via") != "" || resp.TLS.PeerCertificates[0].Subject.String() != closed.Certificate().Subject.String() {
			t.Error("a host was opened that was not to be")
		}
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "other.example"
		resp, err = c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("another host's name: %d", resp.StatusCode)
		}
	}
	if seen.made != 1 || wrapped != 6 {
		t.Errorf("%d certificates were made, %d requests wrapped", seen.made, wrapped)
	}
	if got := sw.trust[0].RootCAs; string(got) != string(pemOf(s.Certificate())) {
		t.Errorf("the swarm trusts %q", got)
	}
}

// TestInterceptTrust: the host's own certificate is checked, unless it is not
// to be.
func TestInterceptTrust(t *testing.T) {
	s := newSite(t, httptest.NewTLSServer)
	ca := authority(t)
	for _, v := range []struct {
		trust  proxy.Trust
		status int
	}{{proxy.Trust{}, 503}, {proxy.Trust{Insecure: true}, 200}, {proxy.Trust{RootCAs: pemOf(s.Certificate())}, 200}} {
		_, at := serve(t, proxy.Options{Certificate: ca, Hosts: []proxy.Host{{Match: match("."), Intercept: true, Trust: v.trust}}})
		if resp, body := do(t, client(t, at, ca.Leaf), "GET", s.URL, ""); resp.StatusCode != v.status || v.status == 503 && !strings.Contains(body, "give its authority in certs") {
			t.Errorf("%v: %d %s", v.trust, resp.StatusCode, body)
		}
	}
	if _, err := proxy.New(proxy.Options{Hosts: []proxy.Host{{Match: match("."), Trust: proxy.Trust{RootCAs: []byte("none")}}}}); err == nil {
		t.Error("no PEM is trusted")
	}
}

// TestInterceptEnds: a closed proxy leaves no intercepted connection.
func TestInterceptEnds(t *testing.T) {
	stuck, begun := make(chan struct{}), make(chan struct{}, 1)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		select {
		case <-stuck:
		case <-r.Context().Done():
		}
	}))
	defer s.Close()
	defer close(stuck)
	ca := authority(t)
	p, at := serve(t, proxy.Options{Certificate: ca, Hosts: []proxy.Host{{Match: match("."), Intercept: true, Trust: proxy.Trust{Insecure: true}}}})
	ended := make(chan error, 1)
	c := client(t, at, ca.Leaf)
	go func() {
		resp, err := c.Get(s.URL)
		if err == nil {
			resp.Body.Close()
		}
		ended <- err
	}()
	<-begun
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	<-ended // with an error or with 503: what was closed first
}

// TestCertificates: one per host however many ask, of the right name, and a
// hundred are kept.
func TestCertificates(t *testing.T) {
	ca, seen := authority(t), newWatched()
	_, at := serve(t, proxy.Options{Certificate: ca, Observer: seen, Hosts: []proxy.Host{{Match: match("."), Intercept: true}}})
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	show := func(target, name string) {
		conn, _ := connect(t, at, target, "")
		defer conn.Close()
		if err := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: name}).HandshakeContext(t.Context()); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { show("one.example:443", "one.example") })
	}
	all.Wait()
	show("ONE.example.:8443", "one.example")
	if seen.made != 1 {
		t.Errorf("%d certificates for one host", seen.made)
	}
	show("[::1]:443", "::1")
	show(strings.Repeat("long.", 20)+"example:443", strings.Repeat("long.", 20)+"example")
	for i := range 100 {
		show(fmt.Sprintf("h%d.example:443", i), fmt.Sprintf("h%d.example", i))
	}
	seen.mu.Lock()
	before := seen.made
	seen.mu.Unlock()
	show("h50.example:443", "h50.example")
	if seen.made != before {
		t.Error("a certificate that was kept is made again")
	}
	if show("one.example:443", "one.example"); seen.made != before+1 {
		t.Error("more than a hundred are kept")
	}
}

// TestGivenCertificate: what is no authority is shown as it is; what is no good
// is refused.
func TestGivenCertificate(t *testing.T) {
	s := newSite(t, httptest.NewTLSServer)
	own := s.TLS.Certificates[0] // for example.com and 127.0.0.1, and an authority as well
	pair := issued(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	_, at := serve(t, proxy.Options{Certificate: &pair, Hosts: []proxy.Host{{Match: match("."), Intercept: true, Trust: proxy.Trust{Insecure: true}}}})
	if resp, _ := do(t, client(t, at, pair.Leaf), "GET", s.URL, ""); resp.TLS.PeerCertificates[0].SerialNumber.Cmp(pair.Leaf.SerialNumber) != 0 {
		t.Error("another certificate is shown")
	}
	own.Leaf = nil
	if p, err := proxy.New(proxy.Options{Certificate: &own}); err != nil {
		t.Error(err)
	} else {
		p.Close()
	}
	for want, change := range map[string]func(*x509.Certificate){
		"was good until":                  func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"is good from":                    func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) },
		"may not sign certificates: make": func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true },
	} {
		pair := issued(t, change)
		if _, err := proxy.New(proxy.Options{Certificate: &pair}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, name := range []string{"", strings.Repeat("x", 65)} {
		if _, _, err := proxy.NewAuthority(name, time.Hour); err == nil {
			t.Errorf("an authority called %q", name)
		}
	}
}

// issued is a certificate that signs itself.
func issued(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour * 2), NotAfter: time.Now().Add(time.Hour * 2), KeyUsage: x509.KeyUsageDigitalSignature}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
