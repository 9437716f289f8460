// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"dragonfly"
)

const (
	// maxLoadPeers is how many addresses of 127.0.0.0/8 load peers have.
	maxLoadPeers = 60_000
	// loadFree is what a session says that it would take more.
	loadFree = 64
	// loadUploads lets peers serve as many as ask: no data moves, and a peer
	// that waits for a parent would be taken for a slow supernode.
	loadUploads = 64
	// opening is how many sessions are opened at once.
	opening = 64
	// loadReserve are descriptors for everything but connections.
	loadReserve = 300
)

// load is many peers that speak the native protocol with one supernode: as
// wire.Client does, without its cost.
type load struct {
	addr   string
	o      controlOptions
	tasks  []dragonfly.Registration // by peers that have all of it
	period time.Duration            // between the reports of one peer
	active atomic.Int64             // how many peers report; the others rest

	cancel context.CancelCauseFunc
	ctx    context.Context
	peers  sync.WaitGroup

	measuring   atomic.Bool
	told, syncs atomic.Int64
	mu          sync.Mutex // guards waits
	waits       []time.Duration
}

func newLoad(addr string, o controlOptions) *load {
	l := &load{addr: addr, o: o}
	l.period = time.Duration(float64(o.active*o.tasks*o.slots) / float64(o.reports) * float64(time.Second))
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.offer(o.reports)
	return l
}

// offer sets how many pieces are reported a second, by more or fewer peers: a
// peer that suddenly took longer for its pieces would be taken for a slow one.
func (l *load) offer(reports int) {
	l.active.Store(int64(l.o.active) * int64(reports) / int64(l.o.reports))
}

// start opens all sessions and lets them report.
func (l *load) start(ctx context.Context) error {
	peers := make([]*loadPeer, l.o.peers)
	work, opened := errgroup.WithContext(ctx)
	work.SetLimit(opening)
	for i := range peers {
		work.Go(func() (err error) {
			peers[i], err = l.open(opened, i)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		for _, p := range peers {
			if p != nil {
				p.close()
			}
		}
		return fmt.Errorf("open sessions: %w", err)
	}
	for _, p := range peers {
		context.AfterFunc(l.ctx, p.close)
		l.peers.Go(func() {
			if err := p.run(); l.ctx.Err() == nil {
				l.cancel(fmt.Errorf("a peer: %w", err))
			}
		})
	}
	return nil
}

// pass lets time go by while the load works.
func (l *load) pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	}
}

// measure begins or ends a measurement and gives what was measured so far.
func (l *load) measure(on bool) (waits []time.Duration, told, syncs int64) {
	l.measuring.Store(on)
	l.mu.Lock()
	defer l.mu.Unlock()
	waits, l.waits = l.waits, nil
	return waits, l.told.Swap(0), l.syncs.Swap(0)
}

func (l *load) waited(d time.Duration) {
	if l.measuring.Load() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waits = append(l.waits, d)
	}
}

// stop ends all peers without a word.
func (l *load) stop() error {
	l.cancel(errStopped)
	l.peers.Wait()
	if err := context.Cause(l.ctx); !errors.Is(err, errStopped) {
		return err
	}
	return nil
}

var errStopped = errors.New("the load was stopped")

// loadPeer is one session.
type loadPeer struct {
	l        *load
	number   int
	key      string
	conn     *loadConn // with the sync that waits
	spare    *loadConn // for the newer one; nil: it does not report
	conns    []*loadConn
	seq, ack uint64
	tasks    []*loadTask // at work
	held     []*loadTask // served on, oldest first
	active   bool        // it may report
	next     int         // of load.tasks
	hand     []loadAssignment
	due      time.Time // of the next report
	since    time.Time // when the oldest report without new work was due; zero: none
	body     []byte
}

// loadTask is a peer's part in a task.
type loadTask struct {
	id, version string // as in JSON
	pieces      int
	have        dragonfly.PieceSet
	layout      dragonfly.Layout
	came        map[dragonfly.PieceNum]int64 // bytes of pieces that come in parts
	n           int                          // in have
}

// open opens the session of the peer with a number, at an address of its own.
// All peers are open before the first one reports.
func (l *load) open(ctx context.Context, i int) (_ *loadPeer, err error) {
	ip := netip.AddrFrom4([4]byte{127, byte(2 + i/62_500), byte(i / 250 % 250), byte(1 + i%250)})
	p := &loadPeer{l: l, number: i, next: rand.IntN(len(l.tasks)), active: i < l.o.active}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err = p.dial(ctx, ip); err != nil {
		return nil, err
	}
	var agent [16]byte
	for j := range agent {
		agent[j] = byte(rand.Uint32())
	}
	if p.key, err = p.conn.open(dragonfly.Hello{
		Protocol: dragonfly.ProtocolNumber, Agent: hex.EncodeToString(agent[:]), Build: "dfbench",
		Host: dragonfly.Host{Name: ip.String(), Uploads: loadUploads}, Addrs: []netip.AddrPort{netip.AddrPortFrom(ip, 15000)},
	}); err != nil {
		return nil, err
	}
	if p.active {
		err = p.register(p.spare, true)
	} else {
		err = p.hold()
	}
	if err != nil {
		return nil, err
	}
	return p, p.sync(p.conn, nil)
}

// dial connects from an address, twice if the peer will report.
func (p *loadPeer) dial(ctx context.Context, ip netip.Addr) error {
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))}
	for range 2 {
		c, err := d.DialContext(ctx, "tcp", p.l.addr)
		if err != nil {
			return err
		}
		p.conn, p.spare = &loadConn{Conn: c}, p.conn
		p.conns = append(p.conns, p.conn)
		if !p.active {
			break
		}
	}
	return nil
}

// close closes the connections; whoever waits at one of them gets an error. It
// may be called twice, from any goroutine.
func (p *loadPeer) close() {
	for _, c := range p.conns {
		c.Close()
	}
}

// hold registers for all tasks, to serve them.
func (p *loadPeer) hold() error {
	for _, r := range p.l.tasks {
		r.Holding = true
		if _, err := p.conn.register(p.key, r); err != nil {
			return err
		}
	}
	return nil
}

// register takes up tasks until there are as many as a peer gets at once. Of
// those that are begun it has some pieces, so that not all peers end together.
func (p *loadPeer) register(c *loadConn, begun bool) error {
	for len(p.tasks) < p.l.o.tasks && !p.rests() {
		r := p.l.tasks[p.next%len(p.l.tasks)]
		p.next++
		t := &loadTask{id: r.Request.TaskID().String(), version: r.Version.String(), pieces: r.Layout.Pieces(),
			layout: r.Layout, came: map[dragonfly.PieceNum]int64{}}
		if p.knows(t.id) {
			continue
		}
		r.Slots, r.Held = p.l.o.slots, dragonfly.PieceSet{}
		if begun {
			t.n = rand.IntN(t.pieces)
			t.have = dragonfly.NewPieceSet(t.n)
			r.Held = t.have
		}
		if _, err := c.register(p.key, r); err != nil {
			return err
		}
		p.tasks = append(p.tasks, t)
	}
	return nil
}

// knows says that a task is at work or held.
func (p *loadPeer) knows(id string) bool {
	return slices.ContainsFunc(slices.Concat(p.tasks, p.held), func(t *loadTask) bool { return t.id == id })
}

// run reports once in a period until the load is stopped, or something fails.
func (p *loadPeer) run() error {
	if p.active {
		p.due = time.Now().Add(rand.N(p.l.period))
	}
	for {
		answered, err := p.conn.await(p.due)
		if err != nil {
			return err
		}
		if answered { // by work that was found meanwhile, or the end of the poll
			if err := p.answered(p.conn); err != nil {
				return err
			}
			if err := p.sync(p.conn, nil); err != nil { // acknowledges
				return err
			}
			continue
		}
		due := p.due
		p.due = due.Add(p.l.period)
		if len(p.hand) > 0 || p.rests() != (len(p.tasks) == 0) {
			if err := p.tell(due); err != nil {
				return err
			}
		}
	}
}

// rests says that the peer gets nothing at the present rate.
func (p *loadPeer) rests() bool { return int64(p.number) >= p.l.active.Load() }

// tell reports what is in hand, by a newer sync that releases the older one,
// and takes up new tasks for those that are complete now.
func (p *loadPeer) tell(due time.Time) error {
	events := p.retire(p.report())
	// Where every task is complete no work follows until others are begun.
	if p.since.IsZero() && len(p.tasks) > 0 {
		p.since = due
	}
	p.conn, p.spare = p.spare, p.conn
	if err := p.sync(p.conn, events); err != nil {
		return err
	}
	if _, err := p.spare.await(time.Time{}); err != nil {
		return err
	}
	if err := p.answered(p.spare); err != nil {
		return err
	}
	return p.register(p.spare, false)
}

// retire takes the tasks that are complete out of work; they are served on for
// a while. Those of a peer that rests end at once. It adds the events of the
// ends.
func (p *loadPeer) retire(events []byte) []byte {
	rests := p.rests()
	p.tasks = slices.DeleteFunc(p.tasks, func(t *loadTask) bool {
		switch {
		case t.n == t.pieces:
			p.held = append(p.held, t)
		case rests:
			events = dropped(events, t)
		default:
			return false
		}
		return true
	})
	if rests {
		p.hand, p.since = p.hand[:0], time.Time{}
	}
	// The oldest goes a while before it is its turn again.
	for len(p.held) >= p.l.o.tasks*(controlTasks-1) {
		events = dropped(events, p.held[0])
		p.held = p.held[1:]
	}
	return events
}

// report tells that everything in hand was fetched, and verified where a piece
// is whole by that: pieces may come in parts.
func (p *loadPeer) report() (events []byte) {
	for _, a := range p.hand {
		t := p.task(a.task)
		if t == nil || t.have.Has(a.piece) {
			continue
		}
		from, to := t.layout.Extent(a.piece)
		t.came[a.piece] += a.bytes
		kind := "received"
		if t.came[a.piece] >= to-from {
			kind = "verified"
			delete(t.came, a.piece)
			t.have.Add(a.piece)
			t.n++
		}
		events = event(events, kind, t)
		events = fmt.Appendf(events, `,"piece":%d,"assignment":%d}`, a.piece, a.id)
		if p.l.measuring.Load() {
			p.l.told.Add(1)
		}
	}
	p.hand = p.hand[:0]
	return events
}

// event adds the beginning of an event of a task.
func event(to []byte, kind string, t *loadTask) []byte {
	if len(to) > 0 {
		to = append(to, ',')
	}
	return fmt.Appendf(to, `{"kind":%q,"task":%q,"version":%q`, kind, t.id, t.version)
}

// dropped adds the event that nothing of a task is held or wanted any more.
func dropped(to []byte, t *loadTask) []byte { return append(event(to, "dropped", t), '}') }

func (p *loadPeer) task(id []byte) *loadTask {
	for _, t := range p.tasks {
		if t.id == string(id) {
			return t
		}
	}
	return nil
}

// sync sends a report.
func (p *loadPeer) sync(c *loadConn, events []byte) error {
	p.seq++
	p.body = fmt.Appendf(p.body[:0], `{"seq":%d,"ack":%d,"free":%d,"events":[`, p.seq, p.ack, loadFree)
	p.body = append(append(p.body, events...), "]}"...)
	return c.post("/p2p/v1/session/sync", p.key, p.body)
}

// answered takes what the supernode answered.
func (p *loadPeer) answered(c *loadConn) error {
	body, err := c.answer()
	if err != nil {
		return err
	}
	if p.l.measuring.Load() {
		p.l.syncs.Add(1)
	}
	seq, assignments, err := readWork(body)
	if err != nil {
		return err
	}
	p.ack = max(p.ack, seq)
	fresh := false
	for _, a := range assignments {
		if p.has(a) {
			continue
		}
		fresh = true
		a.task = append([]byte(nil), a.task...) // the buffer is used again
		p.hand = append(p.hand, a)
	}
	if fresh && !p.since.IsZero() {
		p.l.waited(time.Since(p.since))
		p.since = time.Time{}
	}
	return nil
}

func (p *loadPeer) has(a loadAssignment) bool {
	for _, b := range p.hand {
		if a.id == b.id {
			return true
		}
	}
	return false
}
