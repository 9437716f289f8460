// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"dragonfly/e2e/engine"
	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// buildRegistry compiles the registry beside the commands, once for all tests.
var buildRegistry = sync.OnceValue(func() error {
	programs, err := build()
	if err != nil {
		return err
	}
	return registry.Build(context.Background(), programs.Dir)
})

// startEngines is start for a test that needs the named programs of container
// engines and a registry. Where they are missing it is skipped, unless
// DRAGONFLY_ENGINES=required.
func startEngines(t *testing.T, programs ...string) *world {
	t.Helper()
	w := start(t)
	if err := engine.Missing(programs...); err != nil {
		if os.Getenv("DRAGONFLY_ENGINES") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err := buildRegistry(); err != nil {
		t.Fatal(err)
	}
	return w
}

// short is a directory whose path leaves room for the names of sockets.
func (w *world) short() string {
	w.Helper()
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			w.Error(err)
		}
	})
	return dir
}

// site is a registry and the front that clients know.
type site struct {
	*registry.Front
	server *registry.Server
}

// site starts a registry. Its program and directory are filled in.
func (w *world) site(o registry.Options) *site {
	w.Helper()
	o.Program, o.Dir = filepath.Join(w.Dir, "registry"), filepath.Join(w.short(), "registry")
	if err := os.Mkdir(o.Dir, 0o755); err != nil {
		w.Fatal(err)
	}
	server, err := registry.Start(w.ctx, o)
	w.must(err)
	w.Cleanup(server.Kill)
	front, err := server.Front()
	w.must(err)
	w.Cleanup(front.Close)
	return &site{front, server}
}

const mib = 1 << 20

// usual is an image with five layers of two pieces each.
var usual = registry.ImageOptions{Seed: 1, Layers: 5, LayerLen: 8 * mib}

// push puts a new image into a site.
func (w *world) push(s *site, repository string, o registry.ImageOptions) *registry.Image {
	w.Helper()
	image, err := registry.NewImage(o)
	if err != nil {
		w.Fatal(err)
	}
	if err := s.server.Push(w.ctx, repository, "latest", image); err != nil {
		w.Fatal(err)
	}
	return image
}

// docker starts a dockerd with mirrors.
func (w *world) docker(mirrors ...string) *engine.Docker {
	w.Helper()
	return w.dockerWith(engine.DockerOptions{Mirrors: mirrors})
}

// dockerWith starts a dockerd in a directory of its own.
func (w *world) dockerWith(o engine.DockerOptions) *engine.Docker {
	w.Helper()
	o.Dir = w.short()
	d, err := engine.StartDocker(w.ctx, o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		d.Stop()
		if w.Failed() {
			w.Logf("dockerd:\n%s", lastLines(d.Log.String(), 60))
		}
	})
	return d
}

// containerd starts one.
func (w *world) containerd() *engine.Containerd {
	w.Helper()
	c, err := engine.StartContainerd(w.ctx, w.short())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		c.Stop()
		if w.Failed() {
			w.Logf("containerd:\n%s", lastLines(c.Log.String(), 60))
		}
	})
	return c
}

// must ends the test with an error.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// isPulled checks that an engine of docker's has all layers of an image.
func (w *world) isPulled(d *engine.Docker, ref string, image *registry.Image) {
	w.Helper()
	got, err := d.Layers(w.ctx, ref)
	if err != nil {
		w.Fatal(err)
	}
	if want := image.Platforms[0].DiffIDs; !slices.Equal(got, want) {
		w.Errorf("%s has the layers\n%q, want\n%q", ref, got, want)
	}
}

// cost checks how many blob bytes a registry sent since the last Reset.
func (w *world) cost(s *site, want int64) {
	w.Helper()
	if got := s.BlobBytes(); got != want {
		w.Errorf("the registry sent %d blob bytes, want %d", got, want)
	}
}

// node is a host with a dfdaemon.
type node struct {
	swarm.Host
	*swarm.Daemon
	addr string // of the dfdaemon
	o    swarm.DaemonOptions
}

// node starts a host with a dfdaemon before a registry.
func (w *world) node(registry string, args ...string) *node {
	w.Helper()
	return w.nodeWith(swarm.DaemonOptions{Registry: registry, Args: args})
}

// nodeWith starts a host with a dfdaemon whose home, address and port are
// filled in.
func (w *world) nodeWith(o swarm.DaemonOptions) *node {
	w.Helper()
	h := w.host()
	o.Home, o.IP = h.Home, h.IP
	n := &node{Host: h, o: o}
	var err error
	n.o.Port, err = swarm.FreePort()
	w.must(err)
	w.restart(n)
	return n
}

// restart starts a dfdaemon that does not run, at the place that it has.
func (w *world) restart(n *node) {
	w.Helper()
	n.Daemon = w.dfdaemon(n.o)
	n.addr = n.Addr
}

// lastLines are the last n lines of a log, without what dockerd and containerd
// say of how they come up.
func lastLines(text string, n int) string {
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(text), "\n"), func(line string) bool {
		return strings.Contains(line, "module=grpc") || strings.Contains(line, "type=io.containerd.")
	})
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
