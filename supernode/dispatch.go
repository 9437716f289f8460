// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// step gives one event to the scheduler and hands out what it decides.
func (s *Supernode) step(ev sched.Event) {
	began, at := time.Now(), s.now()
	s.actions = s.machine.Step(at, ev, s.actions[:0])
	s.metrics.scheduleDuration.Observe(float64(time.Since(began)) / float64(time.Millisecond))
	if s.record != nil {
		s.record.Step(at, ev, s.actions)
	}
	for _, a := range s.actions {
		s.dispatch(a)
	}
}

// dispatch puts one decision into the outbox that it concerns. It does not
// step the scheduler.
func (s *Supernode) dispatch(a sched.Action) {
	ss := s.peers[a.Peer]
	v := s.versions[a.Task]
	switch a.Kind {
	case sched.Assign:
		if ss != nil && v != nil {
			s.assign(ss, v, a)
		}
	case sched.Cancel:
		if ss == nil {
			return
		}
		if v != nil {
			if r := ss.on(v.task.id, v.id); r != nil {
				delete(r.work, a.Assignment)
			}
		}
		ss.push(item{cancel: a.Assignment})
	case sched.Reverify:
		if ss != nil && v != nil {
			ss.push(item{question: &dragonfly.Question{Kind: dragonfly.AskReverify, Task: v.task.id, Version: v.id, Piece: a.Piece}})
		}
	case sched.Quarantined, sched.Isolated:
		verdict, label := "quarantined: ", "quarantined"
		if a.Kind == sched.Isolated {
			verdict, label = "isolated: ", "isolated"
		}
		s.metrics.verdicts.WithLabelValues(label).Inc()
		if ss != nil {
			ss.verdict = verdict + a.Why
			s.log.Warn("peer judged", "peer", a.Peer, "host", ss.hello.Host.Name, "ip", ss.where.Host, "verdict", ss.verdict)
		}
	case sched.Released:
		if ss != nil {
			ss.verdict = ""
			s.log.Info("peer released", "peer", a.Peer, "host", ss.hello.Host.Name, "ip", ss.where.Host)
		}
	case sched.Forgotten:
		if ss != nil {
			// From now on the peer is told that its session is unknown; the
			// chores take it out of the books.
			ss.dead = true
			s.forgotten = append(s.forgotten, ss)
		}
	case sched.Exhausted:
		if v != nil && v == v.task.retired && !slices.Contains(s.starved, a.Task) {
			s.starved = append(s.starved, a.Task)
		}
	}
}

// assign hands an assignment out.
func (s *Supernode) assign(ss *session, v *version, a sched.Action) {
	r := ss.on(v.task.id, v.id)
	if r == nil {
		return // the scheduler takes it back when it is not acknowledged
	}
	parent := s.parent(v, a.Parent, ss)
	digest := v.manifest.digest(a.Piece)
	if digest.IsZero() && parent.Kind != dragonfly.ParentSource {
		r.lacks.Add(a.Piece)
	}
	r.work[a.Assignment] = &work{piece: a.Piece, span: a.Span, from: parent.Kind}
	ss.push(item{assignment: &dragonfly.Assignment{ID: a.Assignment, Task: v.task.id, Version: v.id,
		Piece: a.Piece, Span: a.Span, Parent: parent, Digest: digest, More: a.More}})
}

// parent describes whom an assignment is fetched from. Its CID is what v1's
// logs show: cdnnode:<ip>~<task> for the seed, source:<host> for the source,
// and a peer's newest job (FAQ: check if block piece is distributed).
func (s *Supernode) parent(v *version, p sched.Peer, child *session) dragonfly.Parent {
	t := v.task
	if p == sched.Source {
		return dragonfly.Parent{Kind: dragonfly.ParentSource, CID: "source:" + t.host}
	}
	ss := s.peers[p]
	if ss == nil {
		return dragonfly.Parent{Kind: dragonfly.ParentPeer}
	}
	out := dragonfly.Parent{Kind: dragonfly.ParentPeer, Session: ss.id, Addrs: reachable(ss.addrs, child.welcome.IP)}
	switch r := ss.regs[t.id]; {
	case ss.seed:
		out.Kind = dragonfly.ParentSeed
		out.CID = "cdnnode:" + s.seedIP(ss.addrs) + "~" + t.id.String()
	case r != nil:
		out.CID = string(r.job())
	}
	return out
}

// reachable leaves loopback addresses out for a child on another host: they
// would lead it to itself.
func reachable(addrs []netip.AddrPort, child netip.Addr) []netip.AddrPort {
	loopback := func(a netip.AddrPort) bool { return a.Addr().IsLoopback() }
	if !child.IsValid() || child.IsLoopback() || !slices.ContainsFunc(addrs, loopback) {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), loopback)
}

func (s *Supernode) seedIP(addrs []netip.AddrPort) string {
	if len(addrs) > 0 {
		return addrs[0].Addr().String()
	}
	host, _, err := net.SplitHostPort(s.cfg.Self.Addr)
	if err != nil {
		return s.cfg.Self.Addr
	}
	return host
}

// inOrder are all tasks in a fixed order.
func (s *Supernode) inOrder() []*task {
	out := make([]*task, 0, len(s.tasks))
	for _, t := range s.tasks {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b *task) int { return slices.Compare(a.id[:], b.id[:]) })
	return out
}

// tidy does the chores: versions that starve or are finished, sources to try
// again, digests that nobody confirmed, tasks that nobody uses, and sessions
// that do not come back.
func (s *Supernode) tidy(now time.Time) {
	for _, handle := range s.starved {
		if v := s.versions[handle]; v != nil {
			s.end(v)
		}
	}
	s.starved = s.starved[:0]
	for _, t := range s.inOrder() {
		if v := t.retired; v != nil && len(t.waiting(v)) == 0 {
			s.end(v)
		}
		if v := t.current; v != nil {
			s.shelve(v, now)
			s.retry(v, now)
		}
		if s.expired(t, now) {
			s.forget(t)
		}
	}
	for _, ss := range s.forgotten {
		if s.sessions[ss.id] == ss {
			s.drop(ss, "silent")
		}
	}
	s.forgotten = s.forgotten[:0]
}

// expired says that a task was not asked for or heard of for long and nobody
// waits for it.
func (s *Supernode) expired(t *task, now time.Time) bool {
	if t.prep != nil || now.Sub(t.touched) < s.cfg.TaskExpire || t.notFound != nil && now.Before(t.notFoundUntil) {
		return false
	}
	for _, r := range t.regs {
		if r.waits() && !r.session.seed {
			return false
		}
	}
	return true
}
