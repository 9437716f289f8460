// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Containerd is a running containerd, asked by ctr.
type Containerd struct {
	*daemon
	HostsDir string // as in ctr's --hosts-dir
	dir      string
}

// StartContainerd starts a containerd that keeps all in dir, whose path must
// be short, and returns when it answers.
func StartContainerd(ctx context.Context, dir string) (*Containerd, error) {
	c := &Containerd{dir: dir, HostsDir: filepath.Join(dir, "hosts")}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.socket())
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	var err error
	c.daemon, err = start(ctx, func() error {
		_, err := c.ctr(ctx, "version")
		return err
	}, environment(dir), "containerd", "--config", config)
	return c, err
}

func (c *Containerd) socket() string { return filepath.Join(c.dir, "c.sock") }

func (c *Containerd) ctr(ctx context.Context, args ...string) (string, error) {
	return run(ctx, environment(c.dir), "ctr", append([]string{"--address", c.socket(), "--namespace", "test"}, args...)...)
}

// Hosts writes the hosts.toml of a registry (or of _default), with what would
// follow the server line.
func (c *Containerd) Hosts(registry, text string) error {
	dir := filepath.Join(c.HostsDir, registry)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644)
}

// Mirror is what hosts.toml says about a mirror.
func Mirror(url string) string {
	return fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", url)
}

// Pull pulls an image by the hosts that were written.
func (c *Containerd) Pull(ctx context.Context, ref string, args ...string) error {
	_, err := c.ctr(ctx, append(append([]string{"images", "pull", "--hosts-dir", c.HostsDir}, args...), ref)...)
	return err
}

// Has says whether the content store holds a blob.
func (c *Containerd) Has(ctx context.Context, digest string) (bool, error) {
	text, err := c.ctr(ctx, "content", "ls", "-q")
	return strings.Contains(text, digest), err
}

// Remove removes an image and its content.
func (c *Containerd) Remove(ctx context.Context, ref string) error {
	_, err := c.ctr(ctx, "images", "rm", "--sync", ref)
	return err
}

// Stop ends the daemon.
func (c *Containerd) Stop() { c.stop(15 * time.Second) }
