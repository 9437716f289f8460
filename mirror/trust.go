// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Operators lay down by which certificates a registry is known, and by which
// this host is known to it, in a directory per registry, as docker and podman
// read them:
//
//	DIR/host[:port]/*.crt           certificates of authorities, besides the system's
//	DIR/host[:port]/*.cert, *.key   a certificate of this host and its key

const (
	maxCertFile  = 1 << 20
	maxCertFiles = 64 // of one registry
)

// trust is what a registry and this host know one another by.
type trust struct {
	insecure bool
	roots    []byte // PEM, besides the system's
	own      []tls.Certificate
}

// key tells t from others that are given for the same host.
func (t trust) key() string {
	sum := sha256.Sum256(t.roots)
	return fmt.Sprintf(" %v %x %d", t.insecure, sum[:8], len(t.own))
}

// config is t for a connection.
func (t trust) config() (*tls.Config, error) {
	c := &tls.Config{InsecureSkipVerify: t.insecure, Certificates: t.own}
	if len(t.roots) == 0 {
		return c, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(t.roots) {
		return nil, errors.New("the certificates for the registry hold no PEM certificate")
	}
	c.RootCAs = pool
	return c, nil
}

// way is how a registry is reached.
type way struct {
	trust
	through http.RoundTripper
	state   string // of the files that it was made of
}

// ways keeps one for each registry that has a trust of its own.
type ways struct {
	dirs []string
	make func(*tls.Config) http.RoundTripper

	mu  sync.Mutex // guards all below
	all map[string]way
}

// to is the way to the registry at host; given is what it is trusted by without
// a directory. Files are read when they are first needed, and again when they
// have changed. A way that cannot be used gives the reason to its callers.
func (w *ways) to(host string, given trust) way {
	files := certFiles(w.dirs, host)
	key, state := host+given.key(), describe(files)
	if state == "" && !given.insecure && len(given.roots)+len(given.own) == 0 {
		key = "" // one for all
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if found, ok := w.all[key]; ok && found.state == state {
		return found
	}
	next := way{trust: given, state: state}
	err := next.read(files)
	if err == nil {
		var c *tls.Config
		if c, err = next.config(); err == nil {
			next.through = w.make(c)
		}
	}
	if err != nil {
		next.through = roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("the certificates for %s: %w", host, err)
		})
	}
	if w.all == nil {
		w.all = map[string]way{}
	}
	closeIdle(w.all[key].through)
	w.all[key] = next
	return next
}

// laidDown says that there are certificates for a registry.
func (w *ways) laidDown(host string) bool { return len(certFiles(w.dirs, host)) > 0 }

// close lets idle connections go.
func (w *ways) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, found := range w.all {
		closeIdle(found.through)
	}
}

func closeIdle(t http.RoundTripper) {
	if t, ok := t.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// certFile is a file of a registry's directory.
type certFile struct {
	path string
	info os.FileInfo
}

// certFiles are the files in the directories for host.
func certFiles(dirs []string, host string) (files []certFile) {
	if !hostName.MatchString(host) { // it comes from a client
		return nil
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(dir, host))
		if err != nil {
			continue // most registries have none
		}
		for _, e := range entries {
			path := filepath.Join(dir, host, e.Name())
			if !slices.Contains([]string{".crt", ".cert", ".key"}, filepath.Ext(path)) || len(files) == maxCertFiles {
				continue
			}
			if info, err := os.Stat(path); err == nil { // they may be links
				files = append(files, certFile{path, info})
			}
		}
	}
	return files
}

// describe tells files from others, and from themselves after a change.
func describe(files []certFile) string {
	var b strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "%s %d %s\n", f.path, f.info.Size(), f.info.ModTime().Format(time.RFC3339Nano))
	}
	return b.String()
}

// read adds what is in files.
func (t *trust) read(files []certFile) error {
	t.roots, t.own = bytes.Clone(t.roots), slices.Clone(t.own)
	for _, f := range files {
		base, kind := strings.TrimSuffix(f.path, filepath.Ext(f.path)), filepath.Ext(f.path)
		other := map[string]string{".cert": base + ".key", ".key": base + ".cert"}[kind]
		if other != "" && !slices.ContainsFunc(files, func(f certFile) bool { return f.path == other }) {
			return fmt.Errorf("%s is not complete without %s", f.path, other)
		}
		if kind == ".key" {
			continue
		}
		text, err := readPEM(f.path)
		if err != nil {
			return err
		}
		if kind == ".crt" {
			t.roots = append(append(t.roots, text...), '\n')
			continue
		}
		key, err := readPEM(other)
		if err != nil {
			return err
		}
		pair, err := tls.X509KeyPair(text, key)
		if err != nil {
			return fmt.Errorf("%s and its key: %w", f.path, err)
		}
		t.own = append(t.own, pair)
	}
	return nil
}

func readPEM(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w; let the user of dfdaemon read it", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCertFile+1))
	switch block, _ := pem.Decode(text); {
	case err != nil:
		return nil, err
	case len(text) > maxCertFile:
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxCertFile)
	case block == nil:
		return nil, fmt.Errorf("%s holds no PEM", path)
	}
	return text, nil
}
