// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"dragonfly/e2e/engine"
	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// dfdaemonSays runs a subcommand of dfdaemon that must succeed.
func (w *world) dfdaemonSays(n *node, args ...string) string {
	w.Helper()
	args = append(args, "--config", filepath.Join(n.Home, "dfdaemon.yml"), "--port", fmt.Sprint(n.o.Port))
	cmd := exec.CommandContext(w.ctx, filepath.Join(w.Dir, "dfdaemon"), args...)
	cmd.Env = append(swarm.Environment(n.Home), "PATH=/usr/sbin:/usr/bin:/sbin:/bin") // it looks for engines
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Fatalf("dfdaemon %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestSetup: what setup writes leads each engine through dfdaemon, doctor is
// content with it, and undo leaves nothing.
func TestSetup(t *testing.T) {
	w := startEngines(t, "dockerd", "docker", "containerd", "ctr", "skopeo")
	s := w.site(registry.Options{})
	image := w.push(s, "library/one", usual)
	n := w.node(s.URL, "--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	root := w.short()
	for _, dir := range []string{"docker", "containerd", "containers"} {
		w.must(os.MkdirAll(filepath.Join(root, "etc", dir), 0o755))
	}
	for _, engine := range []string{"docker", "containerd", "podman"} {
		w.dfdaemonSays(n, "setup", engine, "--root", root, "--registries", s.Addr, "--write")
	}
	d := w.dockerWith(engine.DockerOptions{Config: filepath.Join(root, "etc/docker/daemon.json")})
	w.must(d.Pull(w.ctx, "one"))
	w.isPulled(d, "one", image)
	w.cost(s, image.Platforms[0].Bytes)
	w.tookPart(n)

	s.Reset()
	ref := s.Addr + "/library/one:latest"
	t.Log(w.dfdaemonSays(n, "doctor", "--root", root, "--docker-socket", d.Socket(), ref))
	c := w.containerd()
	c.HostsDir = filepath.Join(root, "etc/containerd/certs.d")
	w.must(c.Pull(w.ctx, ref))
	f := engine.Files{Dir: w.short()}
	text, err := os.ReadFile(filepath.Join(root, "etc/containers/registries.conf.d/50-dragonfly.conf"))
	w.must(err)
	w.must(f.Registries(string(text)))
	dir, err := f.Copy(w.ctx, ref, "one")
	w.must(err)
	w.isCopied(dir, image)
	w.cost(s, 0) // all of it was on this host

	for _, engine := range []string{"docker", "containerd", "podman"} {
		w.dfdaemonSays(n, "setup", engine, "--root", root, "--undo")
	}
	w.must(filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("undo left %s", path)
		}
		return err
	}))
}
