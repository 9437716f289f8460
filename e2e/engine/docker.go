// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// DockerOptions say how a dockerd runs. Dir is required: short, since sockets
// lie in it.
type DockerOptions struct {
	Dir      string
	Mirrors  []string // as in --registry-mirror
	Insecure []string // as in --insecure-registry
	Config   string   // daemon.json; "": an empty one
	Env      []string // of the daemon, e.g. HTTP_PROXY
}

// Docker is a running dockerd.
type Docker struct {
	*daemon
	dir string
}

// StartDocker starts a dockerd and returns when it answers.
func StartDocker(ctx context.Context, o DockerOptions) (*Docker, error) {
	d := &Docker{dir: o.Dir}
	if err := os.MkdirAll(filepath.Join(o.Dir, "config"), 0o755); err != nil {
		return nil, err
	}
	if o.Config == "" {
		o.Config = filepath.Join(o.Dir, "daemon.json")
		if err := os.WriteFile(o.Config, []byte("{}\n"), 0o644); err != nil {
			return nil, err
		}
	}
	args := []string{"--config-file", o.Config, "--data-root", filepath.Join(o.Dir, "data"), "--exec-root", filepath.Join(o.Dir, "exec"),
		"--pidfile", filepath.Join(o.Dir, "pid"), "-H", "unix://" + d.Socket(), "--iptables=false", "--ip6tables=false", "--bridge=none",
		"--storage-driver", "overlay2", "--max-download-attempts", "5"}
	for _, m := range o.Mirrors {
		args = append(args, "--registry-mirror", m)
	}
	for _, r := range o.Insecure {
		args = append(args, "--insecure-registry", r)
	}
	var err error
	d.daemon, err = start(ctx, func() error {
		_, err := d.docker(ctx, "version")
		return err
	}, environment(o.Dir, o.Env...), "dockerd", args...)
	return d, err
}

// Socket is where the daemon listens.
func (d *Docker) Socket() string { return filepath.Join(d.dir, "docker.sock") }

// docker runs the client.
func (d *Docker) docker(ctx context.Context, args ...string) (string, error) {
	env := environment(d.dir, "DOCKER_CONFIG="+filepath.Join(d.dir, "config"))
	return run(ctx, env, "docker", append([]string{"-H", "unix://" + d.Socket()}, args...)...)
}

// Pull pulls an image.
func (d *Docker) Pull(ctx context.Context, ref string) error {
	_, err := d.docker(ctx, "pull", "-q", ref)
	return err
}

// Login makes the client keep credentials for a registry.
func (d *Docker) Login(ctx context.Context, registry, user, password string) error {
	_, err := d.docker(ctx, "login", "-u", user, "-p", password, registry)
	return err
}

// Remove removes an image.
func (d *Docker) Remove(ctx context.Context, ref string) error {
	_, err := d.docker(ctx, "rmi", "-f", ref)
	return err
}

// Layers are the digests of an image's layers as they lie unpacked.
func (d *Docker) Layers(ctx context.Context, ref string) ([]string, error) {
	text, err := d.docker(ctx, "inspect", "-f", "{{json .RootFS.Layers}}", ref)
	if err != nil {
		return nil, err
	}
	var layers []string
	if err := json.Unmarshal([]byte(text), &layers); err != nil {
		return nil, fmt.Errorf("docker inspect: %w", err)
	}
	return layers, nil
}

// Stop ends the daemon and the containerd that it started.
func (d *Docker) Stop() { d.stop(15 * time.Second) }
