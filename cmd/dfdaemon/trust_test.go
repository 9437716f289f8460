// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dragonfly/mirror"
)

// TestTrusts: the settings reach the mirror, and mistakes in them are said.
func TestTrusts(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	key, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "own.cert"), filepath.Join(dir, "own.key")
	if err := errors.Join(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)); err != nil {
		t.Fatal(err)
	}
	home := func(name string) (string, bool) { return "/h", name == "HOME" }

	c := defaultConfig()
	c.Mirror.ClientCert, c.Mirror.ClientKey = certFile, keyFile
	c.Plain = []string{"plain.example:5000"}
	var o mirror.Options
	if err := errors.Join(c.Validate(), c.trusts(&o, home)); err != nil {
		t.Fatal(err)
	}
	if len(o.Certificates) != 1 || !o.Plain("plain.example:5000") || o.Plain("plain.example") {
		t.Errorf("the mirror gets %+v", o)
	}
	if want := []string{"/etc/docker/certs.d", "/etc/containers/certs.d", "/h/.config/docker/certs.d", "/h/.config/containers/certs.d"}; !slices.Equal(o.CertDirs, want) {
		t.Errorf("directories %q", o.CertDirs)
	}
	c.CertDirs = []string{"/own"}
	if err := c.trusts(&o, home); err != nil || !slices.Equal(o.CertDirs, c.CertDirs) {
		t.Errorf("directories %q, %v", o.CertDirs, err)
	}

	for says, change := range map[string]func(*config){
		"give both or none":       func(c *config) { c.Mirror.ClientCert = certFile },
		"want absolute paths":     func(c *config) { c.CertDirs = []string{"here"} },
		"insecure_registries":     func(c *config) { c.Plain = []string{"http://u:geheim@x"} },
		"client_cert and client_": func(c *config) { c.Mirror.ClientCert, c.Mirror.ClientKey = certFile, certFile },
	} {
		c := defaultConfig()
		change(c)
		err := errors.Join(c.Validate(), c.trusts(new(mirror.Options), home))
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("want %q: %v", says, err)
		}
	}
}
