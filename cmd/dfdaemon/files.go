// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"os"

	"dragonfly/proxy"
)

// fileMax bounds the files that settings name, in bytes.
const fileMax = 1 << 20

// readFile reads a file that the setting key names.
func readFile(key, name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, wrong(exitConfig, "%s: %w", key, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, fileMax+1))
	if err != nil {
		return nil, wrong(exitConfig, "%s: %w", key, err)
	}
	if len(text) > fileMax {
		return nil, wrong(exitConfig, "%s: %s: longer than %d bytes", key, name, fileMax)
	}
	return text, nil
}

// authorities reads files of certificates into one bundle.
func authorities(key string, names []string) (bundle []byte, err error) {
	for _, name := range names {
		text, err := readFile(key, name)
		if err != nil {
			return nil, err
		}
		if block, _ := pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
			return nil, wrong(exitConfig, "%s: %s: there is no certificate in it: want PEM", key, name)
		}
		bundle = append(append(bundle, text...), '\n')
	}
	return bundle, nil
}

// pair reads a certificate and its key, which must fit; nil: none is set.
func pair(key, certFile, keyFile string) (*tls.Certificate, error) {
	if certFile == "" {
		return nil, nil
	}
	cert, err := readFile(key, certFile)
	if err != nil {
		return nil, err
	}
	private, err := readFile(key, keyFile)
	if err != nil {
		return nil, err
	}
	p, err := tls.X509KeyPair(cert, private)
	if err != nil {
		return nil, wrong(exitConfig, "%s: certificate %s and key %s do not make a pair: %w", key, certFile, keyFile, err)
	}
	return &p, nil
}

// passwords reads the users of the proxy; nil: it asks nobody.
func (c *config) passwords() (*proxy.Passwords, error) {
	const key = "proxyAuthFile (--proxy-auth-file)"
	if c.AuthFile == "" {
		return nil, nil
	}
	file, err := os.Open(c.AuthFile)
	if err != nil {
		return nil, wrong(exitConfig, "%s: %w", key, err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, wrong(exitConfig, "%s: %w", key, err)
	case !info.Mode().IsRegular():
		return nil, wrong(exitConfig, "%s: %s is no file", key, c.AuthFile)
	case info.Mode()&0o007 != 0:
		return nil, wrong(exitConfig, "%s: everybody on this host may use %s: chmod 600 it, and change the passwords", key, c.AuthFile)
	}
	p, err := proxy.ParsePasswords(file)
	if err != nil {
		return nil, wrong(exitConfig, "%s: %s: %w", key, c.AuthFile, err)
	}
	return p, nil
}
