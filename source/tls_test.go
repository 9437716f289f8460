// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"dragonfly"
)

// authority signs certificates for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.key = a.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert = a.sign(template, template, &a.key.PublicKey)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) sign(template, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// certify makes a certificate for 127.0.0.1 that ends at a time.
func (a *authority) certify(end time.Time) tls.Certificate {
	key := a.newKey()
	cert := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"},
		NotBefore: end.Add(-2 * time.Hour), NotAfter: end, IPAddresses: []net.IP{{127, 0, 0, 1}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// secure serves with TLS and keeps the failed handshakes to itself.
func secure(t *testing.T, config *tls.Config, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.TLS = config
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestPrivateAuthority(t *testing.T) {
	a := newAuthority(t)
	var protocol string
	s := secure(t, &tls.Config{Certificates: []tls.Certificate{a.certify(time.Now().Add(time.Hour))}}, func(w http.ResponseWriter, r *http.Request) {
		protocol = r.Proto
		file(w, r)
	})
	plain := serve(t, to(&s.URL, 302))
	c := newClient(t, Options{})
	for _, u := range []string{s.URL, plain.URL} {
		r := request(u)
		_, _, err := read(t, c, r, 0, Condition{})
		wantKind(t, err, dragonfly.SourceFailed, "give its CA with --cacerts or use --insecure", "127.0.0.1")

		r.RootCAs = append(newAuthority(t).pem(), a.pem()...) // the second block counts as well
		data, _, err := read(t, c, r, 5, Condition{ETag: tag, To: 50})
		if err != nil || !bytes.Equal(data, content[5:50]) {
			t.Errorf("%s with CA: %d bytes, %v", u, len(data), err)
		}
		if protocol != "HTTP/2.0" {
			t.Errorf("%s: %s", u, protocol)
		}

		r.RootCAs, r.Insecure = nil, true
		if _, _, err := read(t, c, r, 0, Condition{}); err != nil {
			t.Errorf("%s insecurely: %v", u, err)
		}
		// Leave to be insecure is not inherited by the next request.
		r.Insecure = false
		_, _, err = read(t, c, r, 0, Condition{})
		wantKind(t, err, dragonfly.SourceFailed, "--cacerts")
	}
}

func TestWrongCertificates(t *testing.T) {
	a := newAuthority(t)
	c := newClient(t, Options{})
	old := secure(t, &tls.Config{Certificates: []tls.Certificate{a.certify(time.Now().Add(-time.Hour))}}, file)
	_, _, err := read(t, c, dragonfly.Request{URL: old.URL, RootCAs: a.pem()}, 0, Condition{})
	wantKind(t, err, dragonfly.SourceFailed, "not valid at this time", "--insecure")

	good := secure(t, &tls.Config{Certificates: []tls.Certificate{a.certify(time.Now().Add(time.Hour))}}, file)
	_, port, _ := net.SplitHostPort(good.Listener.Addr().String())
	elsewhere := newClient(t, Options{Dial: dialTo(good.Listener.Addr().String())})
	_, _, err = read(t, elsewhere, dragonfly.Request{URL: "https://127.0.0.2:" + port, RootCAs: a.pem()}, 0, Condition{})
	wantKind(t, err, dragonfly.SourceFailed, "for another host")

	plain := serve(t, file)
	_, _, err = read(t, c, request("https"+plain.URL[len("http"):]), 0, Condition{})
	wantKind(t, err, dragonfly.SourceFailed, "does not speak TLS: use http://")
}

func TestClientCertificate(t *testing.T) {
	a := newAuthority(t)
	mine := a.certify(time.Now().Add(time.Hour))
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	config := func(auth tls.ClientAuthType) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{mine}, ClientAuth: auth, ClientCAs: clients}
	}
	var shown int
	curious := secure(t, config(tls.RequestClientCert), func(w http.ResponseWriter, r *http.Request) {
		shown += len(r.TLS.PeerCertificates)
		file(w, r)
	})
	strict := secure(t, config(tls.RequireAndVerifyClientCert), to(&curious.URL, 302))
	r := dragonfly.Request{URL: strict.URL, RootCAs: a.pem()}
	if _, _, err := read(t, newClient(t, Options{Certificates: []tls.Certificate{mine}}), r, 0, Condition{}); err != nil {
		t.Error(err)
	}
	if shown != 0 {
		t.Error("shown to the host that a redirect led to")
	}
	_, _, err := read(t, newClient(t, Options{}), r, 0, Condition{})
	wantKind(t, err, dragonfly.SourceFailed, "client certificate")
}

func TestConnectionsAreReused(t *testing.T) {
	connections := make(chan struct{}, 100)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		file(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections <- struct{}{}
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	c := newClient(t, Options{})
	for i, cond := range []Condition{{}, {To: 100}, {ETag: tag, IfChanged: true}, {}} {
		read(t, c, request(s.URL), 0, cond)
		read(t, c, request(s.URL+"/absent"), 0, cond)
		if len(connections) != 1 {
			t.Fatalf("%d connections after round %d", len(connections), i)
		}
	}
}

func TestTransportsAreBounded(t *testing.T) {
	c := newClient(t, Options{})
	a := newAuthority(t)
	roots := a.pem()
	first, err := c.transport(dragonfly.Request{}, true)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * maxTransports {
		roots = append(roots, '\n') // other settings, same certificates
		if _, err := c.transport(dragonfly.Request{RootCAs: roots}, true); err != nil {
			t.Fatal(err)
		}
		if again, _ := c.transport(dragonfly.Request{}, true); again != first {
			t.Fatal("the transport in use made room")
		}
	}
	if n := len(c.transports.list); n != maxTransports {
		t.Errorf("%d transports", n)
	}
}

func TestBodyBreaksOffOverHTTP2(t *testing.T) {
	a := newAuthority(t)
	config := func() *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{a.certify(time.Now().Add(time.Hour))}}
	}
	for _, header := range []string{"100", ""} {
		s := secure(t, config(), func(w http.ResponseWriter, r *http.Request) {
			if header != "" {
				w.Header().Set("Content-Length", header)
			}
			_, _ = w.Write(content[:50])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
		_, _, err := read(t, newClient(t, Options{}), dragonfly.Request{URL: s.URL, RootCAs: a.pem()}, 0, Condition{})
		wantKind(t, err, dragonfly.SourceFailed, "broke off")
	}
}

// TestTunnel reads an HTTPS source through a proxy that connects.
func TestTunnel(t *testing.T) {
	a := newAuthority(t)
	s := secure(t, &tls.Config{Certificates: []tls.Certificate{a.certify(time.Now().Add(time.Hour))}}, file)
	var target string
	p := serve(t, func(w http.ResponseWriter, r *http.Request) {
		target = r.Host
		up, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer up.Close()
		down, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer down.Close()
		_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(up, buffered) }()
		_, _ = io.Copy(down, up)
	})
	c := newClient(t, Options{Guard: true, Proxy: through(p.URL)})
	data, _, err := read(t, c, dragonfly.Request{URL: s.URL, RootCAs: a.pem(), Header: dragonfly.Header{"Authorization": {"secret"}}}, 0, Condition{})
	if err != nil || !bytes.Equal(data, content) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if asked := p.asked()[0]; given(asked) != nil || target != s.Listener.Addr().String() {
		t.Errorf("%s, %v", target, asked.Header)
	}
}
