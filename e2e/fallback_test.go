// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"io"
	"net"
	"net/http"
	"path"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// firstByte is how long the first byte of a blob takes.
func (w *world) firstByte(url string) time.Duration {
	w.Helper()
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, url, nil)
	w.must(err)
	began := time.Now()
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	w.must(err)
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, make([]byte, 1))
	w.must(err)
	return time.Since(began)
}

// late is what the start of a blob may take beside a swarm that does not work:
// a second, and something for a machine that is busy.
const late = 2 * time.Second

// TestBadSupernodes: pulls succeed, and begin about as soon as straight, when
// the supernode is away, says nothing, or is something else.
func TestBadSupernodes(t *testing.T) {
	w := startEngines(t)
	s := w.site(registry.Options{})
	image := w.push(s, "library/one", usual)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connections wait there for ever
	w.must(err)
	defer silent.Close()
	stopped := w.supernode(swarm.SupernodeOptions{})
	w.must(stopped.Cmd.Process.Signal(syscall.SIGSTOP))
	for name, addr := range map[string]string{
		"away": "127.0.0.1:1", "silent": silent.Addr().String(), "a registry": s.server.Addr, "stopped": stopped.Addr,
	} {
		n := w.node(s.URL, "--node", addr)
		urls := blobs(n.addr, "library/one", image)
		if took := w.firstByte(urls[0]); took > late {
			t.Errorf("%s: the first byte took %v", name, took)
		}
		w.isBlob(w.ask("GET", urls[1]), image.Blob(path.Base(urls[1])))
	}
}

// TestSupernodeStopsTalking: a blob whose supernode stops in the middle, as a
// machine does that hangs, arrives all the same.
func TestSupernodeStopsTalking(t *testing.T) {
	w, s, image, tracker, nodes := openSite(t, 1)
	reached, release := w.halfway(s, 3*mib)
	url := blobs(nodes[0].addr, "library/one", image)[0]
	got := make(chan answer, 1)
	go func() { got <- w.ask("GET", url) }()
	w.arrived("the middle of a blob", reached)
	w.must(tracker.Cmd.Process.Signal(syscall.SIGSTOP))
	release()
	began := time.Now()
	w.isBlob(<-got, image.Blob(path.Base(url)))
	t.Logf("went on after %v", time.Since(began))
}

// TestDaemonDiskFull: where there is no room for blobs they pass through.
func TestDaemonDiskFull(t *testing.T) {
	w, s, image, tracker, _ := openSite(t, 0)
	n := w.node(s.URL, "--node", tracker.Addr, "--localrepo", filepath.Join(w.smallDisk("small", "size=2m"), "data"))
	for _, url := range blobs(n.addr, "library/one", image) {
		w.isBlob(w.ask("GET", url), image.Blob(path.Base(url)))
	}
}
