// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

// What a certificate of one host is (v1-protocol 10.3).
const (
	leavesMax  = 100 // that are kept
	leafBefore = time.Hour
	leafAfter  = 23 * time.Hour
	// leafRest is how long a kept one must still be good.
	leafRest = time.Hour
)

// certificates are what intercepted hosts show.
type certificates struct {
	given  tls.Certificate
	made   func() // is told of each one
	leaves *lru.Cache[string, *tls.Certificate]
	making singleflight.Group // by host
}

// newCertificates looks whether the given certificate is good for it.
func newCertificates(given tls.Certificate, made func()) (*certificates, error) {
	if given.Leaf == nil {
		leaf, err := x509.ParseCertificate(given.Certificate[0])
		if err != nil {
			return nil, err
		}
		given.Leaf = leaf
	}
	ca, now := given.Leaf, time.Now()
	switch {
	case now.After(ca.NotAfter):
		return nil, fmt.Errorf("the certificate for intercepted hosts was good until %s: make another", ca.NotAfter.Format(time.DateOnly))
	case now.Before(ca.NotBefore):
		return nil, fmt.Errorf("the certificate for intercepted hosts is good from %s: look at the clock", ca.NotBefore.Format(time.DateOnly))
	case ca.IsCA && ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("the authority for intercepted hosts may not sign certificates: make one with gen-ca")
	}
	leaves, err := lru.New[string, *tls.Certificate](leavesMax)
	return &certificates{given: given, made: made, leaves: leaves}, err
}

// of is the certificate that the host shows. Many may ask at once.
func (c *certificates) of(host string) (*tls.Certificate, error) {
	if !c.given.Leaf.IsCA {
		return &c.given, nil
	}
	if leaf, ok := c.leaves.Get(host); ok && time.Until(leaf.Leaf.NotAfter) > leafRest {
		return leaf, nil
	}
	leaf, err, _ := c.making.Do(host, func() (any, error) {
		leaf, err := c.make(host)
		if err != nil {
			return nil, fmt.Errorf("make a certificate for %.100q: %w", host, err)
		}
		c.leaves.Add(host, leaf)
		c.made()
		return leaf, nil
	})
	if err != nil {
		return nil, err
	}
	return leaf.(*tls.Certificate), nil
}

func (c *certificates) make(host string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: shortened(host)},
		NotBefore: now.Add(-leafBefore), NotAfter: now.Add(leafAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if last := c.given.Leaf.NotAfter; leaf.NotAfter.After(last) {
		leaf.NotAfter = last
	}
	if ip := net.ParseIP(host); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	} else {
		leaf.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, c.given.Leaf, key.Public(), c.given.PrivateKey)
	if err != nil {
		return nil, err
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, c.given.Certificate...), PrivateKey: key, Leaf: leaf}, nil
}

// NewAuthority makes a certificate that signs those of intercepted hosts, and
// its key, both PEM. commonName has 1 to 64 bytes; the certificate is good for
// the lifetime from now on, and from an hour ago.
func NewAuthority(commonName string, lifetime time.Duration) (cert, key []byte, err error) {
	if commonName == "" || len(commonName) > commonNameMax {
		return nil, nil, fmt.Errorf("the common name of an authority has 1 to %d bytes, and this one %d", commonNameMax, len(commonName))
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: commonName, Organization: []string{"Dragonfly"}},
		NotBefore: now.Add(-leafBefore), NotAfter: now.Add(lifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}

// commonNameMax is what X.520 allows.
const commonNameMax = 64

func shortened(name string) string { return name[:min(len(name), commonNameMax)] }

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
