// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dragonfly/internal/swarm"
)

// programs are looked for where Debian puts them: what lies elsewhere may be
// of another version.
const programs = "/usr/sbin:/usr/bin:/sbin:/bin"

// Missing says why the named programs cannot be used here, nil if they can.
func Missing(names ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("container engines need root")
	}
	for _, name := range names {
		if _, err := find(name); err != nil {
			return err
		}
	}
	return nil
}

func find(name string) (string, error) {
	for dir := range strings.SplitSeq(programs, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no %s: install it from Debian", name)
}

// environment is what engines see of the outside. Whatever is not on this
// machine goes to a proxy that is not there.
func environment(dir string, more ...string) []string {
	return append([]string{"PATH=" + programs, "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "TMPDIR=" + dir, "TZ=UTC",
		"HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.0/8,localhost"}, more...)
}

// daemon is a long-lived process of an engine.
type daemon struct {
	Log  *swarm.Tail
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs a daemon with mounts of its own and waits until ready says nil.
func start(ctx context.Context, ready func() error, env []string, program string, args ...string) (*daemon, error) {
	path, err := find(program)
	if err != nil {
		return nil, err
	}
	d := &daemon{Log: &swarm.Tail{}, cmd: exec.Command(path, args...), done: make(chan struct{})}
	d.cmd.Env = env
	d.cmd.Stdout, d.cmd.Stderr = d.Log, d.Log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go func() {
		_ = d.cmd.Wait() // told by ProcessState
		close(d.done)
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return d, nil
		}
		select {
		case <-tick.C:
		case <-d.done:
			return nil, fmt.Errorf("%s ended at once: %s\n%s", program, d.cmd.ProcessState, d.Log)
		case <-ctx.Done():
			d.stop(0)
			return nil, fmt.Errorf("%s does not answer: %w, %w\n%s", program, err, ctx.Err(), d.Log)
		}
	}
}

// stop asks the daemon to end, and after the grace forces it.
func (d *daemon) stop(grace time.Duration) {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-d.done:
	case <-late.C:
		_ = d.cmd.Process.Kill()
		<-d.done
	}
}

// run runs a program to its end. An error holds what it printed.
func run(ctx context.Context, env []string, program string, args ...string) (string, error) {
	path, err := find(program)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
