// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Authority is a private certificate authority with one certificate for
// 127.0.0.1, localhost and what else it was made for.
type Authority struct {
	CA   string // file, PEM
	Cert string // file, PEM
	Key  string // file, PEM

	Roots       *x509.CertPool
	Certificate tls.Certificate
}

// NewAuthority makes an authority whose files lie in dir. hosts are names and
// addresses for the certificate, besides those of this machine.
func NewAuthority(dir string, hosts ...string) (*Authority, error) {
	a := &Authority{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key")}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test registry"},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range append([]string{"localhost", "127.0.0.1"}, hosts...) {
		if ip := net.ParseIP(h); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, h)
		}
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return nil, err
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	certPEM, keyPEM, caPEM := block("CERTIFICATE", leafDER), block("PRIVATE KEY", keyDER), block("CERTIFICATE", rootDER)
	err = errors.Join(os.WriteFile(a.CA, caPEM, 0o644), os.WriteFile(a.Cert, certPEM, 0o644), os.WriteFile(a.Key, keyPEM, 0o600))
	if err != nil {
		return nil, err
	}
	a.Roots = x509.NewCertPool()
	a.Roots.AppendCertsFromPEM(caPEM)
	a.Certificate, err = tls.X509KeyPair(certPEM, keyPEM)
	return a, err
}

// Transport trusts the authority; a nil authority gives a plain one.
func (a *Authority) Transport() *http.Transport {
	t := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16}
	if a != nil {
		t.TLSClientConfig = &tls.Config{RootCAs: a.Roots}
	}
	return t
}

// scheme is that of a server with the authority's certificate, or without.
func (a *Authority) scheme() string {
	if a != nil {
		return "https"
	}
	return "http"
}
