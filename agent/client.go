// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// ErrGone says that there is no agent, or that it ended before the result: the
// same job may be given to another one.
var ErrGone = errors.New("there is no dfget server")

// Client is a connection to an agent, for one job or hand-over.
type Client struct {
	c    *conn
	ours Build
	// Agent is the software at the other end, PID its process.
	Agent Build
	PID   int
}

// Dial connects to the agent of a place. ErrGone: there is none.
func Dial(ctx context.Context, p Place, ours Build) (*Client, error) {
	for _, path := range p.Sockets {
		u, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("connect to the dfget server: %w", err)
		}
		return greet(ctx, newConn(u), ours)
	}
	return nil, ErrGone
}

func greet(ctx context.Context, c *conn, ours Build) (_ *Client, err error) {
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	uid, pid, err := c.peer()
	if err != nil {
		return nil, gone(err)
	}
	if uid != os.Geteuid() && uid != 0 {
		return nil, &dragonfly.Error{Kind: dragonfly.Denied, Message: fmt.Sprintf("the dfget server (process %d) belongs to account %d: run dfget as that account, or give it another home with --home", pid, uid)}
	}
	c.u.SetDeadline(time.Now().Add(handshake))
	defer context.AfterFunc(ctx, func() { c.u.SetDeadline(time.Unix(1, 0)) })()
	client := &Client{c: c, ours: ours, PID: pid}
	if err = c.send(ours, nil); err == nil {
		err = c.receive(&client.Agent)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, &dragonfly.Error{Kind: dragonfly.Unavailable,
			Message: fmt.Sprintf("the dfget server (process %d) does not answer: end it and try again", pid)}
	}
	if err != nil {
		return nil, gone(err)
	}
	c.u.SetDeadline(time.Time{})
	return client, nil
}

// gone is err, or ErrGone if it says that the other side has ended.
func gone(err error) error {
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return &dragonfly.Error{Kind: dragonfly.ProtocolMismatch, Message: "what listens at the socket is no dfget server", Err: err}
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

// Older says that the agent should hand over to one of this build.
func (c *Client) Older() bool { return c.ours.Compare(c.Agent) > 0 }

// HandOver asks the agent to make way for one of this build. When it returns
// nil the agent takes no more jobs and is about to release the place's lock.
func (c *Client) HandOver() error {
	defer c.Close()
	if err := c.c.send(order{HandOver: true}, nil); err != nil {
		return gone(err)
	}
	c.c.u.SetDeadline(time.Now().Add(handshake))
	var n news
	if err := c.c.receive(&n); err != nil {
		return gone(err)
	}
	if n.Refused != nil {
		return n.Refused
	}
	return nil
}

// Listener hears about a job while it runs. Its members are called one at a
// time; any may be nil.
type Listener struct {
	Line     func(string) // for the user
	Log      func(string) // a log line with its end of line
	Progress func(peer.Progress)
	// Stream gets the reading end of the pipe and closes it.
	Stream func(*os.File)
}

// Run gives the job to the agent and returns its outcome. content is nil for a
// failed job and for a stream; the caller closes it. The end of ctx cancels
// the job. After a nil error the caller says with Placed how it went on.
func (c *Client) Run(ctx context.Context, job Job, l Listener) (result Result, content *os.File, err error) {
	defer context.AfterFunc(ctx, func() { c.c.Close() })()
	if err := c.c.send(order{Job: &job}, nil); err != nil {
		return result, nil, c.ended(ctx, err)
	}
	for {
		var n news
		if err := c.c.receive(&n); err != nil {
			return result, nil, c.ended(ctx, err)
		}
		switch {
		case n.Retired:
			return result, nil, ErrGone
		case n.Refused != nil:
			return result, nil, n.Refused
		case n.Result != nil:
			if n.Content {
				content, err = c.c.file()
			}
			return *n.Result, content, err
		case n.Stream:
			pipe, err := c.c.file()
			if err != nil {
				return result, nil, err
			}
			if l.Stream == nil {
				pipe.Close()
				continue
			}
			l.Stream(pipe)
		case n.Progress != nil && l.Progress != nil:
			l.Progress(*n.Progress)
		case n.Line != "" && l.Line != nil:
			l.Line(n.Line)
		case n.Log != "" && l.Log != nil:
			l.Log(n.Log)
		}
	}
}

func (c *Client) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return gone(err)
}

// Placed says how the client's part went and waits until the agent has logged
// it.
func (c *Client) Placed(p Placed) {
	c.c.u.SetDeadline(time.Now().Add(time.Second))
	if c.c.send(order{Placed: &p}, nil) == nil {
		var n news
		_ = c.c.receive(&n) // the agent closes
	}
}

// Close ends the connection, and with it a job at work.
func (c *Client) Close() error {
	err := c.c.Close()
	c.c.closeFiles()
	return err
}
