// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dragonfly"
	"dragonfly/agent"
)

// startTime bounds the start of an agent.
const startTime = 20 * time.Second

// readyLine is what dfget server says when it is ready (v1-protocol 7.3).
const readyLine = "dfget uploader server port is "

// launcher finds the agent of a home, or starts one.
type launcher struct {
	place agent.Place
	build agent.Build
	// start starts an agent in the background and returns when it is ready.
	start func(ctx context.Context) error
}

// connect returns a connection to an agent that is not older than this build.
func (l launcher) connect(ctx context.Context) (*agent.Client, error) {
	c, err := agent.Dial(ctx, l.place, l.build)
	if err == nil && !c.Older() || err != nil && !errors.Is(err, agent.ErrGone) {
		return c, err
	}
	if err == nil {
		c.Close()
	}
	// Of several clients one starts the agent, the others wait for it.
	starting, err := l.place.Starting(ctx.Done())
	if err != nil {
		return nil, err
	}
	defer starting.Release()
	c, err = agent.Dial(ctx, l.place, l.build)
	if err == nil && c.Older() {
		if err = c.HandOver(); err == nil {
			err = agent.ErrGone
		}
	}
	if err == nil || !errors.Is(err, agent.ErrGone) {
		return c, err
	}
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	return agent.Dial(ctx, l.place, l.build)
}

// startServer starts "dfget server args…" in the background. Its output after
// the first line of stdout goes to logPath.
func startServer(ctx context.Context, logPath string, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
		return err
	}
	// What a crash writes must not be lost.
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(self, append([]string{"server"}, args...)...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this process and its terminal
	err = cmd.Start()
	out.Close()
	if err != nil {
		return err
	}
	ready.SetReadDeadline(time.Now().Add(startTime))
	defer context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Unix(1, 0)) })()
	line, err := bufio.NewReader(io.LimitReader(ready, 64<<10)).ReadString('\n')
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case strings.HasPrefix(line, readyLine):
		return cmd.Process.Release()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "dfget server did not start in time: see " + logPath}
	case strings.TrimSpace(line) == "":
		_ = cmd.Wait()
		return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: fmt.Sprintf("dfget server ended at once (%s): see %s", cmd.ProcessState, logPath)}
	}
	_ = cmd.Wait()
	return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: strings.TrimSpace(line)}
}
