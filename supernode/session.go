// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"dragonfly"
	"dragonfly/record"
	"dragonfly/sched"
)

// session is one peer process. Everything but what open sets once is guarded
// by Supernode.mu.
type session struct {
	node    *Supernode
	id      dragonfly.SessionID
	peer    sched.Peer
	hello   dragonfly.Hello
	addrs   []netip.AddrPort // accepted
	where   sched.Where
	seed    bool
	opened  time.Time
	welcome dragonfly.Welcome

	dead     bool      // dropped, or forgotten by the scheduler and to be dropped
	lastSync time.Time // when the newest sync began or ended
	newest   uint64    // Report.Seq
	applied  map[uint64]int
	waiter   waiter // the sync that waits; nil: none
	out      outbox
	regs     map[dragonfly.TaskID]*registration
	verdict  string // why it is quarantined or isolated; "" if it is not
	decided  recent // about the peer
}

// waiter wakes one sync that waits for work; its capacity is 1.
type waiter chan struct{}

// syncWindow is how many reports back an event is still recognised as applied.
// At most two reports are open at once, so the window is generous.
const syncWindow = 64

var _ dragonfly.Session = (*session)(nil)

// Open implements dragonfly.Tracker for peers. The address that the peer
// connects from is dragonfly.RemoteAddr(ctx); without one it runs in process.
func (s *Supernode) Open(ctx context.Context, hello dragonfly.Hello) (dragonfly.Session, error) {
	return s.open(ctx, hello, false)
}

// SeedTracker is where the seed opens its session: the last one opened there
// is the seed's.
func (s *Supernode) SeedTracker() dragonfly.Tracker { return seedTracker{s} }

type seedTracker struct{ s *Supernode }

func (t seedTracker) Open(ctx context.Context, hello dragonfly.Hello) (dragonfly.Session, error) {
	return t.s.open(ctx, hello, true)
}

func (s *Supernode) open(ctx context.Context, hello dragonfly.Hello, seed bool) (dragonfly.Session, error) {
	if err := checkHello(hello); err != nil {
		return nil, err
	}
	remote, _ := dragonfly.RemoteAddr(ctx)
	addrs, err := acceptAddrs(remote, hello.Addrs, s.cfg.PeerCIDR)
	if err != nil {
		return nil, err
	}
	if seed && len(s.cfg.SeedAddrs) > 0 {
		addrs = s.cfg.SeedAddrs
	}
	ip := remote.Unmap()
	if !ip.IsValid() && len(addrs) > 0 {
		ip = addrs[0].Addr()
	}
	s.mu.Lock()
	defer s.unlock()
	switch {
	case s.stopped:
		return nil, errStopped
	case len(s.sessions) >= s.cfg.MaxSessions && s.agents[hello.Agent] == nil:
		return nil, &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the supernode has as many sessions as it takes: try another one"}
	}
	if old := s.agents[hello.Agent]; old != nil {
		s.drop(old, "replaced")
	}
	for _, addr := range addrs {
		// A killed process that another one follows at its data port would keep
		// slots of its parents until it leaves the books for its silence.
		if old := s.ports[addr]; old != nil && old.waiter == nil && old.welcome.IP == ip && !old.seed {
			s.drop(old, "another process has its port")
		}
	}
	s.lastPeer++
	now := time.Now()
	ss := &session{
		node: s, id: newSessionID(), peer: s.lastPeer, hello: hello, addrs: addrs, seed: seed, opened: now, lastSync: now,
		where:   sched.Where{Host: hostOf(addrs, ip, hello.Host.Name), Rack: hello.Host.Rack, Zone: hello.Host.Zone},
		applied: map[uint64]int{}, regs: map[dragonfly.TaskID]*registration{},
	}
	ss.welcome = dragonfly.Welcome{Session: ss.id, Node: s.cfg.Self, Members: slices.Clone(s.members),
		Poll: s.cfg.Poll + s.cfg.Poll/10, IP: ip}
	s.sessions[ss.id], s.agents[hello.Agent], s.peers[ss.peer] = ss, ss, ss
	for _, addr := range addrs {
		s.ports[addr] = ss
	}
	if s.record != nil {
		s.record.Peer(record.Peer{Number: ss.peer, Host: hello.Host.Name})
	}
	s.step(sched.Event{Kind: sched.PeerJoined, Peer: ss.peer, Where: ss.where, Up: hello.Host.Uploads,
		Serves: len(addrs) > 0, Seed: seed})
	if seed {
		s.newSeed(ss)
	}
	s.log.Info("session opened", "peer", ss.peer, "host", hello.Host.Name, "ip", ip, "build", hello.Build, "seed", seed)
	return ss, nil
}

// hostOf names a peer's machine for the question whether two peers are on
// different ones: by the address that was accepted or seen, which a peer
// cannot choose freely, and by its own word only when there is none.
func hostOf(addrs []netip.AddrPort, ip netip.Addr, name string) string {
	switch {
	case ip.IsValid():
		return ip.String()
	case len(addrs) > 0:
		return addrs[0].Addr().String()
	}
	return name
}

func newSessionID() dragonfly.SessionID {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return dragonfly.SessionID(hex.EncodeToString(b[:]))
}

func checkHello(h dragonfly.Hello) error {
	if h.Protocol != dragonfly.ProtocolNumber {
		return &dragonfly.Error{Kind: dragonfly.ProtocolMismatch, Message: fmt.Sprintf(
			"the peer speaks protocol %d, this supernode %d: upgrade the older of the two", h.Protocol, dragonfly.ProtocolNumber)}
	}
	if raw, err := hex.DecodeString(h.Agent); err != nil || len(raw) != 16 {
		return invalid("hello: agent must be 32 hex digits")
	}
	for _, text := range []string{h.Build, h.Host.Name, h.Host.Zone, h.Host.Rack} {
		if len(text) > 256 || !printable(text) {
			return invalid("hello: names must be printable and have at most 256 bytes")
		}
	}
	if h.Host.Uploads < 0 || h.Host.Uploads > 1<<16 {
		return invalid("hello: uploads must be a number from 0 to 65536")
	}
	return nil
}

func errUnknownSession() error {
	return &dragonfly.Error{Kind: dragonfly.UnknownSession, Message: "the supernode does not know this session: open a new one"}
}

// gone is the error of a call through a dead session.
func (ss *session) gone() error {
	if ss.node.stopped {
		return errStopped
	}
	return errUnknownSession()
}

func (ss *session) Welcome() dragonfly.Welcome { return ss.welcome }

// Close implements dragonfly.Session.
func (ss *session) Close(_ context.Context, reason string) error {
	s := ss.node
	s.mu.Lock()
	defer s.unlock()
	if !ss.dead {
		if len(reason) > 256 || !printable(reason) {
			reason = "by the peer"
		}
		s.drop(ss, reason)
	}
	return nil
}

// drop ends a session: the peer leaves all its tasks.
func (s *Supernode) drop(ss *session, reason string) {
	ss.dead = true
	delete(s.sessions, ss.id)
	if s.agents[ss.hello.Agent] == ss {
		delete(s.agents, ss.hello.Agent)
	}
	delete(s.peers, ss.peer)
	for _, addr := range ss.addrs {
		if s.ports[addr] == ss {
			delete(s.ports, addr)
		}
	}
	if s.seedPeer == ss {
		s.seedPeer = nil
	}
	for _, r := range ss.regs {
		delete(r.task.regs, ss)
		r.task.touched = time.Now()
	}
	ss.regs = nil
	ss.wake()
	s.step(sched.Event{Kind: sched.PeerLeft, Peer: ss.peer})
	s.metrics.gcPeers.Inc()
	s.log.Info("session ended", "peer", ss.peer, "host", ss.hello.Host.Name, "reason", reason)
}

// push puts an item into the outbox and wakes the sync that waits.
func (ss *session) push(it item) {
	ss.out.put(it)
	ss.wake()
}

func (ss *session) wake() { ss.waiter.wake() }

func (w waiter) wake() {
	select {
	case w <- struct{}{}:
	default: // it will look anyway, or there is none
	}
}

// Sync implements dragonfly.Session. Answers are not stored: what a lost one
// held is still in the outbox, so a repeated seq gets it again. Two reports
// may overtake one another on their way; their events are applied as they
// come.
func (ss *session) Sync(ctx context.Context, r dragonfly.Report) (dragonfly.Work, error) {
	s := ss.node
	began := time.Now()
	s.mu.Lock()
	defer s.unlock()
	if ss.dead {
		return dragonfly.Work{}, ss.gone()
	}
	if r.Seq == 0 {
		return dragonfly.Work{}, invalid("report: seq starts with 1")
	}
	ss.lastSync = began
	s.acked = ss.out.acknowledge(r.Ack, s.acked[:0])
	for _, id := range s.acked {
		s.step(sched.Event{Kind: sched.Acked, Peer: ss.peer, Assignment: id})
	}
	s.apply(ss, r)
	if ss.dead {
		return dragonfly.Work{}, ss.gone()
	}
	if r.Seq < ss.newest {
		return dragonfly.Work{}, nil // nobody waits for it any more
	}
	if r.Seq == ss.newest {
		ss.out.repeat()
	}
	ss.newest = r.Seq
	older := ss.waiter
	w := make(waiter, 1)
	ss.waiter = w
	older.wake()
	s.step(sched.Event{Kind: sched.PollOpened, Peer: ss.peer, Free: max(0, r.Free)})
	s.metrics.syncDuration.Observe(time.Since(began).Seconds())
	return ss.await(ctx, w)
}

// await waits until there is something to tell, with Supernode.mu held except
// while it waits.
func (ss *session) await(ctx context.Context, w waiter) (dragonfly.Work, error) {
	s := ss.node
	over := time.Now().Add(s.cfg.Poll + jitter(s.cfg.Poll))
	var timer *time.Timer // most reports are answered without one
	for {
		if ss.dead {
			return dragonfly.Work{}, ss.gone()
		}
		if ss.waiter != w {
			// The newer sync gets what there is. Seq 0 acknowledges nothing: the
			// newer answer may be lost and this one not.
			return dragonfly.Work{}, nil
		}
		now := time.Now()
		ready, again := ss.out.due(now)
		left := over.Sub(now)
		if err := context.Cause(ctx); ready || left <= 0 || err != nil {
			ss.waiter = nil
			ss.lastSync = now
			s.step(sched.Event{Kind: sched.PollClosed, Peer: ss.peer})
			if err != nil {
				return dragonfly.Work{}, err
			}
			return ss.out.take(now), nil
		}
		if again > 0 {
			left = min(left, again)
		}
		if timer == nil {
			timer = time.NewTimer(left)
			defer timer.Stop()
		} else {
			timer.Reset(left)
		}
		s.unlock()
		select {
		case <-w:
		case <-timer.C:
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
		s.mu.Lock()
	}
}

// fresh gives the events of a report that were not applied before and counts
// them as applied.
func (ss *session) fresh(r dragonfly.Report) []dragonfly.Event {
	if len(r.Events) == 0 || r.Seq+syncWindow <= ss.newest {
		return nil
	}
	known := min(ss.applied[r.Seq], len(r.Events))
	ss.applied[r.Seq] = max(ss.applied[r.Seq], len(r.Events))
	if len(ss.applied) > 2*syncWindow {
		newest := max(ss.newest, r.Seq)
		for seq := range ss.applied {
			if seq+syncWindow <= newest {
				delete(ss.applied, seq)
			}
		}
	}
	return r.Events[known:]
}
