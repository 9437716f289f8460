// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
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
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
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

// spawner starts agents in processes of their own.
type spawner struct {
	program  string        // dfget
	log      string        // where a process that started writes
	patience time.Duration // how long its start may take
}

// start starts "dfget server args…" in the background and returns when it is
// ready. One that does not get ready is ended.
func (s spawner) start(ctx context.Context, args []string) error {
	if err := os.MkdirAll(filepath.Dir(s.log), 0o755); err != nil {
		return err
	}
	// What a crash writes must not be lost.
	log, err := os.OpenFile(s.log, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	ready, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(s.program, append([]string{"server"}, args...)...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this process and its terminal
	err = cmd.Start()
	out.Close()
	if err != nil {
		return err
	}
	ready.SetReadDeadline(time.Now().Add(s.patience))
	defer context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Unix(1, 0)) })()
	line, err := bufio.NewReader(io.LimitReader(ready, 64<<10)).ReadString('\n')
	if strings.HasPrefix(line, readyLine) && ctx.Err() == nil {
		return cmd.Process.Release()
	}
	timedOut := errors.Is(err, os.ErrDeadlineExceeded)
	said := strings.TrimSpace(line)
	if timedOut || said != "" {
		_ = cmd.Process.Kill() // it would be in the way of the next one
	}
	_ = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case timedOut:
		return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: fmt.Sprintf("the dfget server was not ready after %s and was ended: see %s", s.patience, s.log)}
	}
	why := cmp.Or(lastWords(log, before), said, cmd.ProcessState.String())
	return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: fmt.Sprintf("the dfget server did not start: %s (see %s)", why, s.log)}
}

// lastWords is what an agent that could not start wrote into its log.
func lastWords(log *os.File, from int64) string {
	text, err := io.ReadAll(io.NewSectionReader(log, from, 64<<10))
	if err != nil {
		return ""
	}
	words := ""
	for line := range strings.Lines(string(text)) {
		if said, ok := strings.CutPrefix(strings.TrimSpace(line), complaint); ok {
			words = said
		}
	}
	return words
}
