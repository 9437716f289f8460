// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

const secret = "c3VwZXItc2VjcmV0"

// random is n reproducible bytes.
func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// registry is a small OCI registry.
type registry struct {
	mu       sync.Mutex // guards all below
	blobs    map[string][]byte
	private  bool
	handle   func(http.ResponseWriter, *http.Request) (ok bool) // answers by itself if ok
	requests []*http.Request
	sent     int64 // bytes of blobs
}

// add stores a blob and gives its path.
func (g *registry) add(content []byte) (path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.blobs == nil {
		g.blobs = map[string][]byte{}
	}
	g.blobs[digest(content)] = content
	return "/v2/library/app/blobs/" + digest(content)
}

func (g *registry) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

// asked are the requests so far.
func (g *registry) asked() []*http.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*http.Request(nil), g.requests...)
}

func (g *registry) sentBytes() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sent
}

const (
	challenge = `Bearer realm="https://auth.example/token",service="registry"`
	manifest  = `{"schemaVersion":2}`
	denied    = `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`
	absent    = `{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}`
)

func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.requests = append(g.requests, r.Clone(r.Context()))
	handle, private := g.handle, g.private
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	blob, held := g.blobs[name]
	g.mu.Unlock()
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	switch {
	case handle != nil && handle(w, r):
	case private && r.Header.Get("Authorization") != "Bearer "+secret:
		w.Header().Set("Www-Authenticate", challenge)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, denied)
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", digest([]byte(manifest)))
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(manifest))
	case strings.HasSuffix(r.URL.Path, "/blobs/uploads/"):
		w.Header().Set("Location", "/v2/library/app/blobs/uploads/1?state="+secret)
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPut:
		content, _ := io.ReadAll(r.Body)
		g.add(content)
		w.Header().Set("Docker-Content-Digest", digest(content))
		w.WriteHeader(http.StatusCreated)
	case held:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Docker-Content-Digest", name)
		w.Header().Set("ETag", `"`+name+`"`)
		http.ServeContent(counted{w, g}, r, "", time.Time{}, bytes.NewReader(blob))
	case strings.HasSuffix(r.URL.Path, "/v2/"):
		io.WriteString(w, "{}")
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, absent)
	}
}

// counted counts the bytes of blobs.
type counted struct {
	http.ResponseWriter
	g *registry
}

func (c counted) Write(p []byte) (int, error) {
	c.g.set(func() { c.g.sent += int64(len(p)) }) // before the client may have them
	n, err := c.ResponseWriter.Write(p)
	c.g.set(func() { c.g.sent -= int64(len(p) - n) })
	return n, err
}

// serve runs a handler on loopback until the test ends.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}
