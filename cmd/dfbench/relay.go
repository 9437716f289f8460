// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"dragonfly"
)

// relay stands in front of a TCP server as a network would: bytes arrive later
// by half a round trip, and those of the server at a rate that all connections
// share.
type relay struct {
	listener net.Listener
	to       string
	delay    time.Duration  // each way
	rate     dragonfly.Rate // of what the server sends; 0: none
	// handshake lets the first bytes of a connection wait for one round trip
	// more: loopback connects at once.
	handshake bool

	mu    sync.Mutex // guards below
	free  time.Time  // when the link has sent what was given to it
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

// relayChunk is read and passed on at once; it is what a queue of a real link
// may hold beside what is on its way.
const relayChunk = 64 << 10

// relayWindow bounds what is on its way on one connection, in chunks.
const relayWindow = 1024

// newRelay starts a relay on a free port of 127.0.0.1.
func newRelay(to string, delay time.Duration, rate dragonfly.Rate, handshake bool) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: l, to: to, delay: delay, rate: rate, handshake: handshake, conns: map[net.Conn]struct{}{}}
	r.wg.Go(r.accept)
	return r, nil
}

func (r *relay) addr() string { return r.listener.Addr().String() }

// close breaks all connections and waits for their end.
func (r *relay) close() {
	r.listener.Close()
	r.mu.Lock()
	for c := range r.conns {
		c.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.serve(client) })
	}
}

// hold remembers a connection until the returned function is called; false:
// the relay is closed.
func (r *relay) hold(c net.Conn) (ok bool, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		c.Close()
		return false, nil
	}
	r.conns[c] = struct{}{}
	return true, func() {
		c.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.conns, c)
	}
}

func (r *relay) serve(client net.Conn) {
	began := time.Now()
	ok, done := r.hold(client)
	if !ok {
		return
	}
	defer done()
	server, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	ok, gone := r.hold(server)
	if !ok {
		return
	}
	defer gone()
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() { r.pass(client, server, began, 0) })
	r.pass(server, client, began, r.rate)
}

// parcel is what arrives at a time.
type parcel struct {
	bytes []byte
	at    time.Time
}

// pass carries bytes one way until an end, and tells the other side of it.
func (r *relay) pass(from, to net.Conn, began time.Time, rate dragonfly.Rate) {
	underway := make(chan parcel, relayWindow)
	var arriving sync.WaitGroup
	defer arriving.Wait()
	defer close(underway)
	arriving.Go(func() {
		broken := false
		for p := range underway {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.bytes); err != nil && !broken {
				broken = true
				from.Close() // nobody takes what it sends
			}
		}
		if tcp, ok := to.(*net.TCPConn); ok {
			_ = tcp.CloseWrite() // fails only when it is closed
		}
	})
	earliest := began.Add(r.delay)
	if r.handshake {
		earliest = earliest.Add(2 * r.delay)
	}
	for {
		buf := make([]byte, relayChunk)
		n, err := from.Read(buf)
		if n > 0 {
			sent := r.send(n, rate)
			at := sent.Add(r.delay)
			if at.Before(earliest) {
				at = earliest
			}
			underway <- parcel{buf[:n], at}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				to.Close()
			}
			return
		}
	}
}

// send waits while the link is busy with what came before and says when n
// bytes have left it.
func (r *relay) send(n int, rate dragonfly.Rate) time.Time {
	now := time.Now()
	if rate == 0 {
		return now
	}
	takes := time.Duration(float64(n) / float64(rate) * float64(time.Second))
	r.mu.Lock()
	if r.free.Before(now.Add(-time.Millisecond)) { // a timer may be late, a link is not
		r.free = now.Add(-time.Millisecond)
	}
	r.free = r.free.Add(takes)
	left := r.free
	r.mu.Unlock()
	time.Sleep(time.Until(left))
	return left
}
