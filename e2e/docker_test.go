// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"sync"
	"testing"

	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// TestDockerPull: a pull through a registry mirror arrives whole and by the
// swarm; the next host's costs the registry no blob (FAQ: is it used?).
func TestDockerPull(t *testing.T) {
	w := startEngines(t, "dockerd", "docker")
	s := w.site(registry.Options{})
	image := w.push(s, "library/one", usual)
	tracker := w.supernode(swarm.SupernodeOptions{})
	first, second := w.node(s.URL, "--node", tracker.Addr), w.node(s.URL, "--node", tracker.Addr)

	d := w.docker(first.addr)
	w.must(d.Pull(w.ctx, "one"))
	w.isPulled(d, "one", image)
	w.cost(s, image.Platforms[0].Bytes)
	w.tookPart(first)

	s.Reset()
	d = w.docker(second.addr)
	w.must(d.Pull(w.ctx, "one"))
	w.isPulled(d, "one", image)
	w.cost(s, 0)
	w.tookPart(second)
}

// tookPart is the check that users are told of: grep 'downloading piece'.
func (w *world) tookPart(n *node) {
	w.Helper()
	lines := w.grep("downloading piece", n.Host)
	if len(lines) == 0 {
		w.Errorf("%s: no line 'downloading piece' in dfclient.log", n.IP)
	}
	for _, line := range lines {
		if !logLine.MatchString(line) || strings.Contains(line, `"dstCid":"source:`) {
			w.Errorf("%s: %s", n.IP, line)
		}
	}
}

// TestThreeDockersAtOnce: three hosts that pull at the same time cost the
// registry one image.
func TestThreeDockersAtOnce(t *testing.T) {
	w := startEngines(t, "dockerd", "docker")
	s := w.site(registry.Options{})
	image := w.push(s, "library/one", usual)
	tracker := w.supernode(swarm.SupernodeOptions{})
	var wg sync.WaitGroup
	for range 3 {
		d := w.docker(w.node(s.URL, "--node", tracker.Addr).addr)
		wg.Go(func() {
			if err := d.Pull(w.ctx, "one"); err != nil {
				t.Error(err)
				return
			}
			if got, err := d.Layers(w.ctx, "one"); err != nil || len(got) != len(image.Platforms[0].DiffIDs) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	w.cost(s, image.Platforms[0].Bytes)
}
