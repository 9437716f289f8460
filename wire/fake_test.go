// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"dragonfly"
)

// tracker is a small Tracker that keeps to the contract: one session per
// agent, the content of a task is its URL, a newer sync releases the older.
// A URL fail:KIND makes Register fail that way.
type tracker struct {
	poll time.Duration

	mu       sync.Mutex // guards all below and the sessions' fields
	byAgent  map[string]*session
	opened   int
	remote   []netip.Addr // of the calls to Open
	reasons  []string     // of the calls to Close
	waiting  int          // syncs
	changed  chan struct{}
	openFail error
}

func newTracker(poll time.Duration) *tracker {
	return &tracker{poll: poll, byAgent: map[string]*session{}, changed: make(chan struct{})}
}

// notify tells await that something changed; mu is held.
func (t *tracker) notify() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// await returns once n syncs wait.
func (t *tracker) await(ctx context.Context, n int) error {
	for {
		t.mu.Lock()
		waiting, changed := t.waiting, t.changed
		t.mu.Unlock()
		if waiting == n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *tracker) Open(ctx context.Context, hello dragonfly.Hello) (dragonfly.Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	addr, _ := dragonfly.RemoteAddr(ctx)
	t.remote = append(t.remote, addr)
	if t.openFail != nil {
		return nil, t.openFail
	}
	if hello.Protocol != dragonfly.ProtocolNumber {
		return nil, &dragonfly.Error{Kind: dragonfly.ProtocolMismatch, Message: "this supernode speaks protocol 1"}
	}
	t.opened++
	s := &session{tracker: t, agent: hello.Agent, release: make(chan struct{}), events: map[uint64]int{}}
	self := dragonfly.Member{ID: "s1", Addr: "10.0.0.1:8002", Weight: 2}
	s.welcome = dragonfly.Welcome{
		Session: dragonfly.SessionID(fmt.Sprintf("session-%d", t.opened)),
		Node:    self, Members: []dragonfly.Member{self, {ID: "s2", Addr: "10.0.0.2:8002", Weight: 1}},
		Poll: t.poll, IP: addr,
	}
	if old := t.byAgent[hello.Agent]; old != nil {
		old.gone = true
	}
	t.byAgent[hello.Agent] = s
	return s, nil
}

type session struct {
	tracker *tracker
	agent   string
	welcome dragonfly.Welcome

	gone    bool
	seq     uint64
	release chan struct{}  // closed when a newer sync comes
	events  map[uint64]int // per Seq
}

var errGone = &dragonfly.Error{Kind: dragonfly.UnknownSession, Message: "no such session"}

func (s *session) Welcome() dragonfly.Welcome { return s.welcome }

func (s *session) Register(ctx context.Context, r dragonfly.Registration) (dragonfly.TaskInfo, error) {
	s.tracker.mu.Lock()
	defer s.tracker.mu.Unlock()
	if s.gone {
		return dragonfly.TaskInfo{}, errGone
	}
	switch kind, ok := strings.CutPrefix(r.Request.URL, "fail:"); {
	case ok && kind == "bare":
		return dragonfly.TaskInfo{}, errors.New("secret of the process")
	case ok:
		return dragonfly.TaskInfo{}, fmt.Errorf("register: %w", &dragonfly.Error{
			Kind: dragonfly.Kind(kind), Message: "it is " + kind, Status: 418,
			Members: s.welcome.Members, Err: errors.New("secret of the process"),
		})
	}
	version := dragonfly.Version{1, 2, 3}
	return dragonfly.TaskInfo{
		Task: r.Request.TaskID(), Version: version,
		Layout: dragonfly.Layout{Length: int64(len(r.Request.URL)), PieceLen: dragonfly.PieceLenFor(1)},
		Ticket: dragonfly.Ticket{9, 8, 7}, Complete: r.Inline, Inline: []byte(r.Request.URL),
	}, nil
}

func (s *session) Sync(ctx context.Context, r dragonfly.Report) (dragonfly.Work, error) {
	t := s.tracker
	t.mu.Lock()
	if s.gone {
		t.mu.Unlock()
		return dragonfly.Work{}, errGone
	}
	if r.Seq > s.seq {
		close(s.release)
		s.release, s.seq = make(chan struct{}), r.Seq
	}
	s.events[r.Seq] = len(r.Events)
	release := s.release
	t.waiting++
	t.notify()
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.waiting--
		t.notify()
	}()
	work := dragonfly.Work{Seq: r.Seq}
	for i, e := range r.Events {
		work.Assignments = append(work.Assignments, dragonfly.Assignment{
			ID: dragonfly.AssignmentID(i + 1), Task: e.Task, Version: e.Version, Piece: e.Piece,
			Span:   dragonfly.Span{From: e.Offset, To: e.Offset + dragonfly.BlockLen},
			Parent: dragonfly.Parent{Kind: dragonfly.ParentSeed, Addrs: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:8001")}, CID: "cdnnode:10.0.0.1"},
		})
	}
	if len(r.Events) > 0 {
		return work, nil // news
	}
	timer := time.NewTimer(cmp.Or(t.poll, time.Hour))
	defer timer.Stop()
	select {
	case <-release:
	case <-timer.C:
	case <-ctx.Done():
		return dragonfly.Work{}, ctx.Err()
	}
	return work, nil
}

func (s *session) Close(_ context.Context, reason string) error {
	s.tracker.mu.Lock()
	defer s.tracker.mu.Unlock()
	if !s.gone {
		s.gone = true
		s.tracker.reasons = append(s.tracker.reasons, reason)
	}
	return nil
}
