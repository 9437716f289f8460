// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"dragonfly/internal/swarm"
)

// oneCore keeps the threads of many hosts from waking one another on the few
// cores of one machine.
const oneCore = "GOMAXPROCS=1"

// ours starts a supernode and the agents of all hosts.
func ours(ctx context.Context, w *world) (func(context.Context, int, string) error, error) {
	limit := []string{}
	var total []string
	if w.net == nil {
		limit = []string{"--max-bandwidth", strconv.FormatInt(int64(w.o.rate), 10)}
		total = []string{"--totallimit", strconv.FormatInt(int64(w.o.rate), 10)}
	}
	if w.keep != "" {
		limit = append(limit, "--debug")
	}
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	node, err := w.programs.StartSupernode(soon, swarm.SupernodeOptions{Home: w.path("node"), Network: w.on(nodeHost), Args: limit})
	if err != nil {
		return nil, err
	}
	w.later(func() { node.Stop() })
	hosts := map[int]swarm.Host{}
	for i := firstPeer; i < firstPeer+w.peers; i++ {
		h := swarm.Host{Programs: w.programs, Home: w.path("h" + strconv.Itoa(i)), IP: w.ip(i),
			Args: []string{"--node", node.Addr, "--locallimit", "0"}}
		if w.o.cold {
			h.Args = append(h.Args, total...)
		} else if err := w.agent(soon, i, h, total); err != nil {
			return nil, err
		}
		hosts[i] = h
	}
	w.later(func() { w.programs.End(5 * time.Second) })
	w.later(func() { w.keepLogs(node, hosts) })
	return func(ctx context.Context, i int, out string) error {
		cmd := hosts[i].Dfget(ctx, w.origin, out)
		cmd.Env = append(cmd.Env, oneCore)
		return w.run(i, cmd)
	}, nil
}

// agent starts the agent of a host and returns when it takes jobs.
func (w *world) agent(ctx context.Context, i int, h swarm.Host, args []string) error {
	if err := os.MkdirAll(h.Home, 0o755); err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(h.Dir, "dfget"), append([]string{"server", "--home", h.Home, "--ip", h.IP}, args...)...)
	if w.keep != "" {
		cmd.Args = append(cmd.Args, "--verbose")
	}
	cmd.Env = append(swarm.Environment(h.Home), oneCore)
	log := &swarm.Tail{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := w.do(i, cmd.Start); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // told by ProcessState
		close(ended)
	}()
	w.later(func() {
		_ = cmd.Process.Kill() // fails when it has ended
		<-ended
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if found, _ := filepath.Glob(filepath.Join(h.Home, "dragonfly", "*.sock")); len(found) > 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended:
			return fmt.Errorf("dfget server ended at once: %s\n%s", cmd.ProcessState, log)
		case <-ctx.Done():
			return fmt.Errorf("dfget server takes no jobs: %w\n%s", ctx.Err(), log)
		}
	}
}

// run runs a command on host i to its end.
func (w *world) run(i int, cmd *exec.Cmd) error {
	log := &swarm.Tail{}
	cmd.Stdout, cmd.Stderr = log, log
	err := w.do(i, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, log)
	}
	return err
}

// keepLogs copies what our processes wrote, and the supernode's state.
func (w *world) keepLogs(node *swarm.Supernode, hosts map[int]swarm.Host) {
	if w.keep == "" {
		return
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	if h := w.on(nodeHost); h != nil {
		client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return h.Dial(ctx, network, addr)
		}}
	}
	keep := func(name string, r io.Reader) {
		file, err := os.Create(filepath.Join(w.keep, name))
		if err == nil {
			_, err = io.Copy(file, r)
			file.Close()
		}
		if err != nil {
			w.say("keep %s: %v", name, err)
		}
	}
	for name, path := range map[string]string{"tasks.json": "/p2p/v1/state/tasks", "peers.json": "/p2p/v1/state/peers", "metrics": "/metrics"} {
		if resp, err := client.Get("http://" + node.Addr + path); err == nil {
			keep(name, resp.Body)
			resp.Body.Close()
		} else {
			w.say("keep %s: %v", name, err)
		}
	}
	logs, _ := filepath.Glob(filepath.Join(w.path("node"), "logs", "*"))
	for i := range hosts {
		more, _ := filepath.Glob(filepath.Join(hosts[i].Home, "logs", "*"))
		logs = append(logs, more...)
	}
	for _, path := range logs {
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		keep(filepath.Base(filepath.Dir(filepath.Dir(path)))+"-"+filepath.Base(path), file)
		file.Close()
	}
}
