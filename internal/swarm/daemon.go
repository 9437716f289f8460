// SPDX-License-Identifier: Apache-2.0

package swarm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Daemon is a running dfdaemon.
type Daemon struct {
	Addr string // http://127.0.0.1:port of its listener
	Cmd  *exec.Cmd
	Out  *Tail
	done chan struct{}
}

// DaemonOptions say where a dfdaemon lives. Home must exist.
type DaemonOptions struct {
	Home     string
	IP       string // that other peers reach it at
	Port     int    // of its listener; 0: a free one
	Registry string
	Config   string // what the configuration holds beside the address
	Args     []string
	Env      []string // besides Environment
	Hosts    string   // file that the process sees as /etc/hosts, which takes root; "": the machine's
}

// StartDaemon starts a dfdaemon and returns when it answers.
func (p Programs) StartDaemon(ctx context.Context, o DaemonOptions) (*Daemon, error) {
	if o.Port == 0 {
		var err error
		if o.Port, err = FreePort(); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(o.Home, "dfdaemon.yml")
	if err := os.WriteFile(config, []byte("localIP: "+o.IP+"\n"+o.Config), 0o600); err != nil {
		return nil, err
	}
	args := append([]string{"--config", config, "--registry", o.Registry, "--port", strconv.Itoa(o.Port), "--workHome", o.Home}, o.Args...)
	d := &Daemon{
		Addr: fmt.Sprintf("http://127.0.0.1:%d", o.Port),
		Cmd:  exec.Command(filepath.Join(p.Dir, "dfdaemon"), args...),
		Out:  &Tail{},
		done: make(chan struct{}),
	}
	sees(d.Cmd, o.Hosts)
	d.Cmd.Env = append(Environment(o.Home), o.Env...)
	d.Cmd.Stdout, d.Cmd.Stderr = d.Out, d.Out
	if err := d.Cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = d.Cmd.Wait() // told by ProcessState
		close(d.done)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := Answers(ctx, d.Addr+"/healthy"); err == nil {
			return d, nil
		}
		select {
		case <-tick.C:
		case <-d.done:
			return nil, fmt.Errorf("dfdaemon ended at once: %s\n%s", d.Cmd.ProcessState, d.Out)
		case <-ctx.Done():
			d.Kill()
			return nil, fmt.Errorf("dfdaemon does not answer: %w\n%s", ctx.Err(), d.Out)
		}
	}
}

// Kill ends the dfdaemon at once, as a power cut would, and waits for it.
func (d *Daemon) Kill() {
	_ = d.Cmd.Process.Kill() // fails only when it has ended
	<-d.done
}

// Stop asks the dfdaemon to end and waits for it.
func (d *Daemon) Stop() {
	_ = d.Cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	<-d.done
}

// sees makes a process see a file as /etc/hosts, in a mount namespace that goes
// with it. The process keeps its id and its program.
func sees(cmd *exec.Cmd, hosts string) {
	if hosts == "" {
		return
	}
	cmd.Args = append([]string{"/usr/bin/unshare", "--mount", "--propagation", "private",
		"/bin/sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts}, cmd.Args...)
	cmd.Path = cmd.Args[0]
}
