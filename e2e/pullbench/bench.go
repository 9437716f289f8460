// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dragonfly"
	"dragonfly/e2e/engine"
	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// repository is where the image lies: docker asks mirrors for it as "bench".
const repository = "library/bench"

// bench is what all figures share.
type bench struct {
	options
	dir      string
	out      io.Writer
	programs swarm.Programs
	image    *registry.Image

	made int      // directories so far
	undo []func() // what cleanUp does, last first
}

// mkdir makes a directory with a short path. A failure shows when it is used.
func (b *bench) mkdir(name string) string {
	b.made++
	dir := filepath.Join(b.dir, fmt.Sprint(name, b.made))
	_ = os.Mkdir(dir, 0o755)
	return dir
}

// later adds to what cleanUp does.
func (b *bench) later(f func()) { b.undo = append(b.undo, f) }

// cleanUp ends what one figure, or one run of it, started, and removes what
// that wrote.
func (b *bench) cleanUp() error {
	for _, f := range slices.Backward(b.undo) {
		f()
	}
	b.undo = nil
	entries, err := os.ReadDir(b.dir)
	for _, e := range entries {
		if path := filepath.Join(b.dir, e.Name()); path != b.programs.Dir {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}

// say prints one line about a run.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, "  "+format+"\n", args...) }

// registry starts one that holds an image. Without a limit it is on a loopback
// address.
func (b *bench) registry(ctx context.Context, mbits int, image *registry.Image) (*registry.Server, error) {
	o := registry.Options{Program: filepath.Join(b.programs.Dir, "registry"), Dir: b.mkdir("r")}
	if mbits > 0 {
		o.Addr, o.Network = link.far+":5000", func(pid int) error { return link.connect(ctx, pid, mbits) }
	}
	soon, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s, err := registry.Start(soon, o)
	if err != nil {
		return nil, err
	}
	b.later(s.Kill)
	return s, s.Push(ctx, repository, "latest", image)
}

// hosts starts a supernode and dfdaemons before a registry.
func (b *bench) hosts(ctx context.Context, n int, registry string) (*swarm.Supernode, []*swarm.Daemon, error) {
	tracker, err := b.programs.StartSupernode(ctx, swarm.SupernodeOptions{Home: b.mkdir("s")})
	if err != nil {
		return nil, nil, err
	}
	b.later(func() { tracker.Stop() })
	var daemons []*swarm.Daemon
	for i := range n {
		d, err := b.programs.StartDaemon(ctx, swarm.DaemonOptions{
			Home: b.mkdir("h"), IP: fmt.Sprintf("127.0.0.%d", 11+i), Registry: registry, Args: []string{"--node", tracker.Addr},
		})
		if err != nil {
			return nil, nil, err
		}
		b.later(d.Stop)
		daemons = append(daemons, d)
	}
	return tracker, daemons, nil
}

// pull is one docker pull, by an engine that is new, from the only mirror that
// it knows. What earlier ones wrote is on the disk before.
func (b *bench) pull(ctx context.Context, mirror string) (time.Duration, error) {
	d, err := engine.StartDocker(ctx, engine.DockerOptions{Dir: b.mkdir("d"), Mirrors: []string{mirror}, Env: []string{"NO_PROXY=127.0.0.0/8,localhost," + link.far}})
	if err != nil {
		return 0, err
	}
	defer d.Stop()
	if err := exec.CommandContext(ctx, "sync").Run(); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := d.Pull(ctx, "bench"); err != nil {
		return 0, err
	}
	took := time.Since(began)
	layers, err := d.Layers(ctx, "bench")
	if err == nil && !slices.Equal(layers, b.image.Platforms[0].DiffIDs) {
		err = errors.New("docker has other layers than were pushed")
	}
	return took, err
}

// fetch reads all blobs of an image as a plain client, and checks their
// lengths.
func (b *bench) fetch(ctx context.Context, addr string, image *registry.Image) error {
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	at := image.Platforms[0]
	for _, digest := range append(slices.Clone(at.Layers), at.Config) {
		resp, err := get(ctx, client, addr+"/v2/"+repository+"/blobs/"+digest)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || n != int64(len(image.Blob(digest))) {
			return fmt.Errorf("%s: %d bytes, want %d: %w", digest, n, len(image.Blob(digest)), cmp.Or(err, io.ErrUnexpectedEOF))
		}
	}
	return nil
}

// get succeeds with a 200 only. The caller closes the body.
func get(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return resp, nil
}

// processTime is the CPU time that processes used so far, without their
// children.
func processTime(pids ...int) (total time.Duration, err error) {
	for _, pid := range pids {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// Behind the name, which may hold blanks, the third field of stat
		// comes first; 14 and 15 are user and system time in 1/100 s.
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		for _, f := range fields[11:13] {
			ticks, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, err
			}
			total += time.Duration(ticks) * (time.Second / 100)
		}
	}
	return total, nil
}

// peakMemory is the most memory that a process had resident.
func peakMemory(pid int) (dragonfly.Size, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
			return dragonfly.Size(kib << 10), err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM: it has ended", pid)
}

func median[T ~int64 | ~float64](values []T) T {
	values = slices.Sorted(slices.Values(values))
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}
