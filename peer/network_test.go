// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes a connection holds that were written and not read.
const window = 256 << 10

// network connects hosts in memory, in virtual time. Every host has an uplink
// that its connections share, and can be cut off or frozen.
type network struct {
	latency time.Duration

	mu        sync.Mutex // guards all below
	listeners map[string]*listener
	uplinks   map[string]*uplink
	pipes     map[*pipe]struct{}
}

func newNetwork() *network {
	return &network{latency: time.Millisecond, listeners: map[string]*listener{}, uplinks: map[string]*uplink{}, pipes: map[*pipe]struct{}{}}
}

// uplink is what a host sends through: one byte after the other.
type uplink struct {
	mu     sync.Mutex // guards all below
	rate   int64      // bytes per second; 0: no limit
	free   time.Time  // when the last byte is out
	frozen bool       // nothing that is sent arrives
	cut    bool       // nothing can be sent, nobody can connect
	mangle func([]byte)
}

// sent is when n bytes that are written now will have left.
func (u *uplink) sent(n int) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if u.rate == 0 {
		return now
	}
	if u.free.Before(now) {
		u.free = now
	}
	u.free = u.free.Add(time.Duration(int64(n) * int64(time.Second) / u.rate))
	return u.free
}

func (n *network) uplink(host string) *uplink {
	n.mu.Lock()
	defer n.mu.Unlock()
	u := n.uplinks[host]
	if u == nil {
		u = &uplink{}
		n.uplinks[host] = u
	}
	return u
}

// limit sets how many bytes per second a host sends.
func (n *network) limit(host string, rate int64) {
	u := n.uplink(host)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rate = rate
}

// mangle changes what a host sends from now on.
func (n *network) mangle(host string, f func([]byte)) {
	u := n.uplink(host)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mangle = f
}

// cut resets all connections of a host and refuses new ones, or ends that.
func (n *network) cut(host string, cut bool) {
	u := n.uplink(host)
	u.mu.Lock()
	u.cut = cut
	u.mu.Unlock()
	if cut {
		n.each(host, func(p *pipe) { p.err = syscall.ECONNRESET })
	}
}

// freeze keeps back whatever a host sends, or ends that.
func (n *network) freeze(host string, frozen bool) {
	u := n.uplink(host)
	u.mu.Lock()
	u.frozen = frozen
	u.mu.Unlock()
	n.each(host, func(p *pipe) { p.frozen = frozen && p.from == host })
}

// each changes the pipes from and to a host.
func (n *network) each(host string, change func(*pipe)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.pipes {
		if p.from == host || p.to == host {
			p.mu.Lock()
			change(p)
			p.notify()
			p.mu.Unlock()
		}
	}
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		panic(err)
	}
	return host
}

// dialer makes connections from a host.
func (n *network) dialer(from string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		fail := func(err error) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
		select {
		case <-time.After(2 * n.latency):
		case <-ctx.Done():
			return fail(ctx.Err())
		}
		n.mu.Lock()
		l := n.listeners[address]
		n.mu.Unlock()
		ours, theirs := n.uplink(from), n.uplink(hostOf(address))
		ours.mu.Lock()
		cut := ours.cut
		ours.mu.Unlock()
		theirs.mu.Lock()
		cut, frozen := cut || theirs.cut, theirs.frozen
		theirs.mu.Unlock()
		if l == nil || cut {
			return fail(syscall.ECONNREFUSED)
		}
		up := &pipe{network: n, uplink: ours, from: from, to: hostOf(address)}
		down := &pipe{network: n, uplink: theirs, from: hostOf(address), to: from, frozen: frozen}
		n.mu.Lock()
		n.pipes[up], n.pipes[down] = struct{}{}, struct{}{}
		n.mu.Unlock()
		here, there := newConn(down, up, address), newConn(up, down, net.JoinHostPort(from, "9"))
		select {
		case l.conns <- there:
			return here, nil
		case <-l.done:
			return fail(syscall.ECONNREFUSED)
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
}

// listener takes the connections to one address.
type listener struct {
	network *network
	addr    string
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (n *network) listen(addr string) *listener {
	l := &listener{network: n, addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[addr] = l
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Addr() net.Addr { return address(l.addr) }

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.network.mu.Lock()
		defer l.network.mu.Unlock()
		if l.network.listeners[l.addr] == l {
			delete(l.network.listeners, l.addr)
		}
	})
	return nil
}

// address is a host and port; names are allowed as hosts.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// pipe is one direction of a connection.
type pipe struct {
	network  *network
	uplink   *uplink
	from, to string

	mu      sync.Mutex // guards all below
	flying  []segment
	size    int
	ended   bool  // the writer closed it
	err     error // what reading and writing fail with
	frozen  bool
	changed chan struct{} // closed at the next change; nil while nobody waits
}

type segment struct {
	bytes []byte
	at    time.Time // of arrival
}

// notify wakes reader and writer. p.mu is held.
func (p *pipe) notify() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// wait waits for a change, or at most for d if it is not 0. p.mu is held
// before and after, not meanwhile.
func (p *pipe) wait(d time.Duration, over <-chan struct{}) error {
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	changed := p.changed
	p.mu.Unlock()
	defer p.mu.Lock()
	var arrives <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		arrives = timer.C
	}
	select {
	case <-changed:
	case <-arrives:
	case <-over:
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (p *pipe) read(b []byte, over <-chan struct{}) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var arrives time.Duration
		switch {
		case p.err != nil:
			return 0, p.err
		case p.frozen:
		case len(p.flying) > 0:
			head := &p.flying[0]
			if arrives = time.Until(head.at); arrives <= 0 {
				n := copy(b, head.bytes)
				if head.bytes = head.bytes[n:]; len(head.bytes) == 0 {
					p.flying = slices.Delete(p.flying, 0, 1)
				}
				p.size -= n
				p.notify()
				return n, nil
			}
		case p.ended:
			return 0, io.EOF
		}
		if err := p.wait(arrives, over); err != nil {
			return 0, err
		}
	}
}

func (p *pipe) write(b []byte, over <-chan struct{}) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n < len(b) {
		switch {
		case p.err != nil:
			return n, p.err
		case p.ended:
			return n, net.ErrClosed
		case p.size >= window:
			if err := p.wait(0, over); err != nil {
				return n, err
			}
			continue
		}
		part := slices.Clone(b[n:min(len(b), n+64<<10)])
		p.uplink.mu.Lock()
		mangle := p.uplink.mangle
		p.uplink.mu.Unlock()
		if mangle != nil {
			mangle(part)
		}
		p.flying = append(p.flying, segment{part, p.uplink.sent(len(part)).Add(p.network.latency)})
		p.size += len(part)
		n += len(part)
		p.notify()
	}
	return n, nil
}

// end is the writer's close; gone says that nobody reads any more either.
func (p *pipe) end(gone bool) {
	p.mu.Lock()
	p.ended = true
	if gone && p.err == nil {
		p.err = syscall.EPIPE
	}
	p.notify()
	p.mu.Unlock()
	p.network.mu.Lock()
	defer p.network.mu.Unlock()
	delete(p.network.pipes, p)
}

// conn is one end of a connection.
type conn struct {
	in, out     *pipe
	peer        string
	read, write deadline
}

func newConn(in, out *pipe, peer string) *conn {
	return &conn{in: in, out: out, peer: peer, read: newDeadline(), write: newDeadline()}
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b, c.read.over()) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b, c.write.over()) }

func (c *conn) Close() error {
	c.out.end(false)
	c.in.end(true)
	c.read.set(time.Time{})
	c.write.set(time.Time{})
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return address(net.JoinHostPort(c.out.from, "9")) }
func (c *conn) RemoteAddr() net.Addr { return address(c.peer) }

func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}
func (c *conn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

// deadline is a channel that is closed at a time that can be changed.
type deadline struct {
	mu    *sync.Mutex // guards both below
	timer **time.Timer
	done  *chan struct{}
}

func newDeadline() deadline {
	done := make(chan struct{})
	return deadline{new(sync.Mutex), new(*time.Timer), &done}
}

func (d deadline) over() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return *d.done
}

func (d deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if *d.timer != nil && !(*d.timer).Stop() {
		<-*d.done // the timer has run
	}
	*d.timer = nil
	passed := false
	select {
	case <-*d.done:
		passed = true
	default:
	}
	if passed {
		*d.done = make(chan struct{})
	}
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		close(*d.done)
	default:
		done := *d.done
		*d.timer = time.AfterFunc(wait, func() { close(done) })
	}
}

// ip is the address of a host of the test.
func ip(host string) netip.Addr { return netip.MustParseAddr(host) }
