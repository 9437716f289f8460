// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"dragonfly"
)

const (
	// bufferLen holds the header of an answer and whatever of the body came
	// with it; larger reads of the body go past it.
	bufferLen = 4 << 10
	// maxHeader bounds the header of an answer.
	maxHeader = 64 << 10
	// stagger is how long a dial may take before the next address is tried
	// beside it.
	stagger = 250 * time.Millisecond
)

// conn is a connection to a parent. Its answers are read through r.
type conn struct {
	net.Conn
	addr  netip.AddrPort
	stall time.Duration
	r     *bufio.Reader
	out   []byte // the last request

	broke error // what reading failed with

	kept     bool      // it had an answer before
	answered bool      // a byte of the current answer came
	header   int       // bytes that the header may still have; 0 in a body
	until    time.Time // the read deadline

	idle *time.Timer // closes it when it was not used for long
}

// Read reads from the parent. A header has to be here by the deadline of its
// request. In a body the deadline moves on in steps of an eighth of the stall
// time, not with each read: a timer costs as much as a small read.
func (c *conn) Read(p []byte) (n int, err error) {
	if c.header > 0 {
		p = p[:min(len(p), c.header)]
		n, err = c.Conn.Read(p)
		c.header -= n
		c.answered = c.answered || n > 0
		if c.header == 0 && err == nil {
			err = errors.New("the parent's header is too long")
		}
		c.broke = err
		return n, err
	}
	if now := time.Now(); c.until.Sub(now) < c.stall {
		c.until = now.Add(c.patience())
		if err := c.SetReadDeadline(c.until); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

func (c *conn) patience() time.Duration { return c.stall + c.stall/8 }

func (c *conn) close() { _ = c.Close() }

// roundTrip sends a request and reads the header of its answer.
func (c *conn) roundTrip(f *Fetch, what string, n dragonfly.PieceNum) (*http.Response, error) {
	c.header, c.answered = maxHeader, false
	c.until = time.Now().Add(c.patience())
	if err := c.SetDeadline(c.until); err != nil {
		return nil, err
	}
	c.out = f.appendRequest(c.out[:0], c.addr.String(), what, n)
	if _, err := c.Write(c.out); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.r, nil)
	c.header = 0
	if err != nil && c.broke != nil {
		err = c.broke // the parser says only what it missed
	}
	return resp, err
}

// connect gives a kept connection to one of addrs, or a new one.
func (c *Client) connect(ctx context.Context, addrs []netip.AddrPort) (*conn, error) {
	c.mu.Lock()
	for _, addr := range addrs {
		if list := c.idle[addr]; len(list) > 0 {
			cn := list[len(list)-1] // the newest: most likely alive, and the others age
			c.take(cn)
			c.mu.Unlock()
			return cn, nil
		}
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, c.o.Stall)
	defer cancel()
	if len(addrs) == 1 {
		return c.dial(ctx, addrs[0])
	}
	return c.race(ctx, addrs)
}

// race dials addresses one beside the other and gives the first connection.
// It returns after all dials ended.
func (c *Client) race(ctx context.Context, addrs []netip.AddrPort) (first *conn, err error) {
	if len(addrs) == 0 {
		return nil, errors.New("the parent has no address")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn *conn
		err  error
	}
	results := make(chan result)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var errs []error
	for running, next := 0, 0; running > 0 || next < len(addrs) && first == nil; {
		start := timer.C
		if next == len(addrs) || first != nil {
			start = nil
		}
		select {
		case <-start:
			addr := addrs[next]
			next++
			running++
			go func() {
				cn, err := c.dial(ctx, addr)
				results <- result{cn, err}
			}()
			timer.Reset(stagger)
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				errs = append(errs, r.err)
				timer.Reset(0)
			case first != nil:
				r.conn.close()
			default:
				first = r.conn
				cancel()
			}
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, errors.Join(errs...)
}

func (c *Client) dial(ctx context.Context, addr netip.AddrPort) (*conn, error) {
	nc, err := c.o.Dial(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	if c.o.TLS != nil {
		config := c.o.TLS
		if config.ServerName == "" {
			config = config.Clone()
			config.ServerName = addr.Addr().String()
		}
		secure := tls.Client(nc, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, err
		}
		nc = secure
	}
	cn := &conn{Conn: nc, addr: addr, stall: c.o.Stall}
	cn.r = bufio.NewReaderSize(cn, bufferLen)
	return cn, nil
}

// put keeps a connection whose answer was read to its end.
func (c *Client) put(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.count >= c.o.MaxIdle || cn.r.Buffered() > 0 {
		cn.close()
		return
	}
	cn.kept = true
	c.count++
	c.idle[cn.addr] = append(c.idle[cn.addr], cn)
	if cn.idle == nil {
		cn.idle = time.AfterFunc(c.o.IdleTimeout, func() { c.expire(cn) })
	} else {
		cn.idle.Reset(c.o.IdleTimeout)
	}
}

// take removes a connection from those that are idle and says whether it was
// one. c.mu is held.
func (c *Client) take(cn *conn) bool {
	list := c.idle[cn.addr]
	i := slices.Index(list, cn)
	if i < 0 {
		return false
	}
	cn.idle.Stop()
	c.count--
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		delete(c.idle, cn.addr)
	} else {
		c.idle[cn.addr] = list
	}
	return true
}

func (c *Client) expire(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.take(cn) {
		cn.close()
	}
}

// Close closes the idle connections, and others when their answer ends.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, list := range c.idle {
		for _, cn := range slices.Clone(list) {
			c.take(cn)
			cn.close()
		}
	}
	return nil
}
