// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"net/url"
	"path/filepath"
	"slices"

	"dragonfly/mirror"
)

// trusts fills in by what registries and this host know one another, but for
// what is about the certificate of the mirror's own registry.
func (c *config) trusts(o *mirror.Options, lookup func(string) (string, bool)) error {
	shown, err := pair("registry_mirror.client_cert and client_key", c.Mirror.ClientCert, c.Mirror.ClientKey)
	if err != nil {
		return err
	}
	if shown != nil {
		o.Certificates = []tls.Certificate{*shown}
	}
	o.Plain = func(host string) bool { return slices.Contains(c.Plain, host) }
	if o.CertDirs = c.CertDirs; len(o.CertDirs) == 0 {
		o.CertDirs = []string{"/etc/docker/certs.d", "/etc/containers/certs.d"}
		if home, _ := lookup("HOME"); home != "" { // of engines without root
			o.CertDirs = append(o.CertDirs, filepath.Join(home, ".config", "docker", "certs.d"), filepath.Join(home, ".config", "containers", "certs.d"))
		}
	}
	return nil
}

// checkTrust finds what is wrong with these settings without looking at files.
func (c *config) checkTrust(add func(code int, format string, args ...any)) {
	if (c.Mirror.ClientCert == "") != (c.Mirror.ClientKey == "") {
		add(exitConfig, "registry_mirror.client_cert and client_key: give both or none")
	}
	for _, dir := range c.CertDirs {
		if !filepath.IsAbs(dir) {
			add(exitConfig, "certs_dirs %s: want absolute paths", dir)
		}
	}
	for _, host := range c.Plain {
		if u, err := url.Parse("//" + host); err != nil || u.Host != host || u.Hostname() == "" || u.User != nil {
			add(exitConfig, "insecure_registries: want hosts as in registry.example:5000")
		}
	}
}
