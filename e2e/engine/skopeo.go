// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// Files is the engine of skopeo and podman, which have no daemon: they share
// registries.conf and the file with credentials, and each keeps what it pulls
// below Dir.
type Files struct {
	Dir string
	Env []string // e.g. HTTP_PROXY
}

// Registries writes registries.conf (version 2).
func (f Files) Registries(text string) error { return f.write("registries.conf", text) }

// Auth writes the file with credentials.
func (f Files) Auth(text string) error { return f.write("auth.json", text) }

// write replaces a file at once: others may be reading it.
func (f Files) write(name, text string) error {
	file, err := os.CreateTemp(f.Dir, name)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), filepath.Join(f.Dir, name))
}

func (f Files) environment() []string {
	return environment(f.Dir, append([]string{"CONTAINERS_REGISTRIES_CONF=" + filepath.Join(f.Dir, "registries.conf"),
		"CONTAINERS_CONF=" + filepath.Join(f.Dir, "containers.conf"), "REGISTRY_AUTH_FILE=" + filepath.Join(f.Dir, "auth.json")}, f.Env...)...)
}

// prepare writes what else both want: any signature will do, locks are files,
// and there are no credentials but those of Auth.
func (f Files) prepare() error {
	if _, err := os.Stat(filepath.Join(f.Dir, "auth.json")); err != nil {
		if err := f.Auth("{}"); err != nil {
			return err
		}
	}
	if err := f.write("policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`); err != nil {
		return err
	}
	return f.write("containers.conf", "[engine]\nlock_type = \"file\"\n")
}

// Copy is skopeo copy of an image into a directory of that name below Dir,
// where each blob is a file named by the hexadecimal part of its digest.
func (f Files) Copy(ctx context.Context, ref, name string, args ...string) (string, error) {
	if err := f.prepare(); err != nil {
		return "", err
	}
	dir := filepath.Join(f.Dir, name)
	all := append([]string{"--policy", filepath.Join(f.Dir, "policy.json"), "--registries-conf", filepath.Join(f.Dir, "registries.conf"), "--tmpdir", f.Dir, "copy"}, args...)
	_, err := run(ctx, f.environment(), "skopeo", append(all, "docker://"+ref, "dir:"+dir)...)
	return dir, err
}

// Pull is podman pull.
func (f Files) Pull(ctx context.Context, ref string, args ...string) error {
	if err := f.prepare(); err != nil {
		return err
	}
	_, err := f.podman(ctx, append(append([]string{"pull", "-q", "--signature-policy", filepath.Join(f.Dir, "policy.json")}, args...), ref)...)
	return err
}

// Inspect is podman image inspect with a format.
func (f Files) Inspect(ctx context.Context, ref, format string) (string, error) {
	return f.podman(ctx, "image", "inspect", "--format", format, ref)
}

func (f Files) podman(ctx context.Context, args ...string) (string, error) {
	return run(ctx, f.environment(), "podman", append([]string{"--root", filepath.Join(f.Dir, "storage"), "--runroot", filepath.Join(f.Dir, "run"),
		"--tmpdir", filepath.Join(f.Dir, "libpod"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"}, args...)...)
}
