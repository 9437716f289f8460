// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dragonfly/internal/swarm"
)

// pulled is a registry with blobs only.
type pulled struct {
	*httptest.Server
	blobs map[string][]byte
	sent  atomic.Int64
}

type tally struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c tally) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

func newRegistry(t *testing.T, blobs ...[]byte) (*pulled, []string) {
	p := &pulled{blobs: map[string][]byte{}}
	var paths []string
	for _, b := range blobs {
		path := fmt.Sprintf("/v2/library/one/blobs/sha256:%x", sha256.Sum256(b))
		p.blobs[path], paths = b, append(paths, path)
	}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := p.blobs[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf("%q", filepath.Base(r.URL.Path)))
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		if r.Header.Get("Range") != "" {
			w.Header().Del("Content-Length")
			http.ServeContent(tally{w, &p.sent}, r, "", time.Time{}, bytes.NewReader(b))
			return
		}
		if r.Method != http.MethodHead {
			_, _ = tally{w, &p.sent}.Write(b)
		}
	}))
	t.Cleanup(func() { p.CloseClientConnections(); p.Close() })
	return p, paths
}

// daemon starts a dfdaemon of a host and gives its address.
func (w *world) daemon(h swarm.Host, registry string, args ...string) string {
	w.Helper()
	return w.dfdaemon(swarm.DaemonOptions{Home: h.Home, IP: h.IP, Registry: registry, Args: args}).Addr
}

// dfdaemon starts a dfdaemon.
func (w *world) dfdaemon(o swarm.DaemonOptions) *swarm.Daemon {
	w.Helper()
	d, err := w.StartDaemon(w.ctx, o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(d.Stop)
	return d
}

func (w *world) get(url string) (int, []byte) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, url, nil)
	if err != nil {
		w.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, body
}

// TestDaemons: a blob that two hosts pull costs the registry one; without the
// supernode the next one still comes; without the registry the client is told.
func TestDaemons(t *testing.T) {
	w := start(t)
	one, two := pattern(1, 2*piece), pattern(2, piece)
	registry, paths := newRegistry(t, one, two)
	node := w.supernode(swarm.SupernodeOptions{})
	first, second := w.host(), w.host()
	a, b := w.daemon(first, registry.URL, "--node", node.Addr), w.daemon(second, registry.URL, "--node", node.Addr)
	for _, addr := range []string{a, b} {
		if status, body := w.get(addr + paths[0]); status != http.StatusOK || !bytes.Equal(body, one) {
			t.Fatalf("status %d, %d bytes, want the %d of the blob", status, len(body), len(one))
		}
	}
	if n := registry.sent.Load(); n != int64(len(one)) {
		t.Errorf("the registry sent %d bytes for a blob of %d", n, len(one))
	}
	for _, h := range []swarm.Host{first, second} { // FAQ: block piece distributed
		for _, line := range w.grep("downloading piece", h) {
			if !logLine.MatchString(line) || strings.Contains(line, `"dstCid":"source:`) {
				t.Errorf("%s: %s", h.IP, line)
			}
		}
	}
	if status, _ := w.get(a + paths[0][:len(paths[0])-4] + "0000"); status != http.StatusNotFound {
		t.Errorf("a blob that is not there: status %d, want the registry's 404", status)
	}
	node.Kill()
	if status, body := w.get(a + paths[1]); status != http.StatusOK || !bytes.Equal(body, two) {
		t.Errorf("without the supernode: status %d, %d bytes", status, len(body))
	}
	registry.CloseClientConnections()
	registry.Close()
	if status, body := w.get(a + "/v2/library/one/manifests/latest"); status != http.StatusBadGateway || len(body) == 0 {
		t.Errorf("without the registry: status %d, %q", status, body)
	}
}
