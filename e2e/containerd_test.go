// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"dragonfly/e2e/engine"
	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// TestContainerd: pulls by hosts.toml of one registry and of all, which name
// the registry in ns, one architecture or all, gzip or zstd; the second host's
// pulls cost the registry no blob.
func TestContainerd(t *testing.T) {
	w := startEngines(t, "containerd", "ctr")
	s := w.site(registry.Options{})
	tracker := w.supernode(swarm.SupernodeOptions{})
	two := usual
	two.Architectures = []string{"amd64", "arm64"}
	two.Zstd, two.Seed, two.Layers = true, 2, 2
	refs := map[string]*registry.Image{
		s.Addr + "/app/one:latest": w.push(s, "app/one", usual),
		s.Addr + "/app/two:latest": w.push(s, "app/two", two),
	}
	var bytes int64
	for _, image := range refs {
		for _, p := range image.Platforms {
			bytes += p.Bytes
		}
	}
	for i, hosts := range []string{"_default", s.Addr} {
		// The mirror's own registry is another one: only ns leads to this.
		n := w.node("http://127.0.0.1:1", "--node", tracker.Addr)
		c := w.containerd()
		w.must(c.Hosts(hosts, engine.Mirror(n.addr)))
		for ref, image := range refs {
			w.must(c.Pull(w.ctx, ref, "--all-platforms"))
			for _, p := range image.Platforms {
				for _, digest := range append(p.Layers, p.Config, p.Manifest) {
					if has, err := c.Has(w.ctx, digest); err != nil || !has {
						t.Errorf("%s: the blob %s is not there, %v", ref, digest, err)
					}
				}
			}
		}
		w.cost(s, []int64{bytes, 0}[i])
		w.tookPart(n)
		s.Reset()
	}
}
