// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"dragonfly"
)

// handshake is how long the other side may take for its first lines.
const handshake = 10 * time.Second

// Options of an Agent. Engine, Log and JobLog are required.
type Options struct {
	Place  Place
	Build  Build
	Engine Engine
	// Alive is how long the agent stays with nothing to do; 0: for ever.
	Alive time.Duration
	// Expire is how long a content stays that nobody uses, for the log.
	Expire time.Duration
	// IP is this host's address in job names, "" to find out per job; Port is
	// that of the data port.
	IP   string
	Port int
	// Home, Data and Meta are directories, for the log.
	Home, Data, Meta string
	// Limit sets the limit of all receiving and of all sending.
	Limit func(dragonfly.Rate)
	// Linked hears that a client made a hard link of a task's content.
	Linked func(dragonfly.TaskID)
	Log    *slog.Logger // of the agent itself
	JobLog io.Writer    // of all jobs
}

// Agent takes jobs. Make one with Listen, run it with Serve.
type Agent struct {
	o        Options
	listener *net.UnixListener
	wg       sync.WaitGroup

	mu      sync.Mutex // guards below
	open    int        // connections with a job
	busy    time.Time  // when the last of them ended
	retired chan struct{}
	retire  sync.Once
}

// Listen opens the agent's socket. The caller holds the place's lock (Own).
// Clients may connect from now on; they are answered by Serve.
func Listen(o Options) (*Agent, error) {
	l, err := o.Place.listen()
	if err != nil {
		return nil, fmt.Errorf("listen for local jobs: %w", err)
	}
	return &Agent{o: o, listener: l, busy: time.Now(), retired: make(chan struct{})}, nil
}

// Serve takes jobs until ctx ends, nothing was to do for Options.Alive, or a
// newer client wants another agent. It takes the socket away, tells open jobs
// to go to the next agent, and returns when all have gone. The caller then
// closes the engine and the store and releases the place's lock.
func (a *Agent) Serve(ctx context.Context) error {
	jobs, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	a.wg.Go(func() {
		select {
		case <-ctx.Done():
			a.Retire()
		case <-a.retired:
		}
		cancel(errRetired)
	})
	a.wg.Go(a.watch)
	var err error
	for {
		var u *net.UnixConn
		if u, err = a.listener.AcceptUnix(); err != nil {
			break
		}
		a.wg.Go(func() { a.serve(jobs, newConn(u)) })
	}
	select {
	case <-a.retired:
		err = nil
	default:
		a.Retire()
	}
	a.wg.Wait()
	return err
}

// Retire takes the socket away and makes Serve return.
func (a *Agent) Retire() {
	a.retire.Do(func() {
		close(a.retired)
		a.listener.Close() // unlinks the path before
	})
}

// errRetired ends jobs whose agent goes away; their clients ask the next one.
var errRetired = &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the dfget server is ending"}

// watch retires the agent when it had nothing to do for Options.Alive.
func (a *Agent) watch() {
	if a.o.Alive <= 0 {
		return
	}
	a.o.Log.Info("monitor peer server whether is alive, aliveTime:" + a.o.Alive.String())
	timer := time.NewTimer(a.o.Alive)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-a.retired:
			return
		}
		since, idle := a.idle()
		left := a.o.Alive // something is at work: it will be over later than now
		if idle {
			left = time.Until(since.Add(a.o.Alive))
		}
		if left <= 0 {
			a.o.Log.Info("no more task, peer server will stop...")
			a.Retire()
			return
		}
		timer.Reset(left)
	}
}

// idle says since when there is nothing to do.
func (a *Agent) idle() (since time.Time, idle bool) {
	since, idle = a.o.Engine.Idle()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy.After(since) {
		since = a.busy
	}
	return since, idle && a.open == 0
}

// occupy counts one job until the returned function is called.
func (a *Agent) occupy() (done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.open--
		a.busy = time.Now()
	}
}

// serve handles one connection.
func (a *Agent) serve(ctx context.Context, c *conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.u.SetDeadline(time.Now().Add(handshake)) })()
	defer c.closeFiles()
	uid, pid, err := c.peer()
	if err != nil {
		a.o.Log.Warn("a local connection has no credentials", "err", err)
		return
	}
	if uid != os.Geteuid() && uid != 0 {
		a.o.Log.Warn("refused a local connection of another account", "uid", uid, "pid", pid)
		return
	}
	c.u.SetDeadline(time.Now().Add(handshake))
	if c.send(a.o.Build, nil) != nil {
		return
	}
	var theirs Build
	if c.receive(&theirs) != nil || theirs.Protocol < 1 {
		return // somebody who only looked whether an agent is there
	}
	var what order
	if c.receive(&what) != nil {
		return
	}
	c.u.SetDeadline(time.Time{})
	switch {
	case what.HandOver && theirs.Compare(a.o.Build) > 0:
		a.o.Log.Info("handing over to a newer dfget server", "version", theirs.Version)
		a.Retire()
		_ = c.send(news{Retired: true}, nil)
	case what.HandOver:
		a.refuse(c, "only a newer dfget may replace this dfget server")
	case ctx.Err() != nil:
		_ = c.send(news{Retired: true}, nil)
	case what.Job == nil:
		a.refuse(c, "the dfget server does not know what is asked for: it may be older than dfget")
	default:
		defer a.occupy()()
		a.run(ctx, c, *what.Job)
	}
}

func (a *Agent) refuse(c *conn, message string) {
	_ = c.send(news{Refused: &dragonfly.Error{Kind: dragonfly.ProtocolMismatch, Message: message}}, nil)
}

// plain is err as it crosses the socket, with its causes in the message.
func plain(err error) *dragonfly.Error {
	if err == nil {
		return nil
	}
	out := &dragonfly.Error{Kind: dragonfly.KindOf(err), Message: err.Error()}
	if e, ok := errors.AsType[*dragonfly.Error](err); ok {
		out.Status = e.Status
	}
	return out
}
