// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"context"
	"errors"
	"maps"
	"time"

	"dragonfly"
	"dragonfly/peer"
	"dragonfly/record"
	"dragonfly/sched"
	"dragonfly/source"
)

// revalidation is how long the seed's last answer about a source is good
// enough for further registrations.
const revalidation = 10 * time.Second

// preparation is one call of Seed.Prepare or Seed.Forget at work for a task.
// There is one at a time per task, and everybody who needs it shares it. err
// is set before done is closed.
type preparation struct {
	request    dragonfly.Request
	forgetting bool
	done       chan struct{}
	err        error
}

// prepared returns when the task has a current version that was asked about
// recently enough. Supernode.mu is held before and after, not meanwhile.
// Leaving does not end a preparation that others may wait for.
func (s *Supernode) prepared(ctx context.Context, ss *session, id dragonfly.TaskID, reg dragonfly.Registration) (*task, error) {
	r := reg.Request
	for {
		if err := s.admissible(ss, id, reg); err != nil {
			return nil, err
		}
		t := s.task(id, r)
		p := t.prep
		if p == nil {
			now := time.Now()
			if t.notFound != nil && now.Before(t.notFoundUntil) {
				return nil, t.notFound
			}
			if !s.stale(t, r, now) {
				return t, nil
			}
			p = s.prepare(t, r, knownBy(reg))
		}
		s.unlock()
		select {
		case <-p.done:
		case <-ctx.Done():
		}
		s.mu.Lock()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case p.forgetting:
		case p.err == nil && t.current != nil:
			return t, s.admissible(ss, id, reg)
		case p.err != nil && refused(p.err) && !sameCredentials(p.request, r):
			// Somebody else's credentials were refused; ask with these.
		case p.err != nil:
			return nil, p.err
		}
	}
}

// stale says whether the seed must ask the source before the task can be given
// to one more peer.
func (s *Supernode) stale(t *task, r dragonfly.Request, now time.Time) bool {
	v := t.current
	switch {
	case v == nil || v.void:
		return true
	case s.seedPeer == nil || s.seedPeer.regs[t.id] == nil:
		return true
	case t.last != nil && refused(t.last):
		return true // perhaps these credentials are better
	case addressed(r.URL):
		return false
	}
	return now.Sub(t.prepared) >= revalidation
}

// addressed says that a URL names its content by digest, so that the content
// behind it cannot change.
func addressed(url string) bool {
	_, ok := source.ContentAddressed(url)
	return ok
}

// refused says that the source did not take the credentials.
func refused(err error) bool {
	kind := dragonfly.KindOf(err)
	return kind == dragonfly.Unauthorized || kind == dragonfly.Forbidden
}

// sameCredentials compares everything that decides how the source is asked.
func sameCredentials(a, b dragonfly.Request) bool {
	return a.URL == b.URL && maps.EqualFunc(a.Header, b.Header, func(x, y []string) bool {
		if len(x) != len(y) {
			return false
		}
		for i := range x {
			if x[i] != y[i] {
				return false
			}
		}
		return true
	})
}

// knownBy is what a registering peer holds from the start of the content on, and
// what it wants of it.
func knownBy(r dragonfly.Registration) peer.Known {
	n := dragonfly.PieceNum(0)
	for r.Held.Has(n) {
		n++
	}
	if n == 0 || r.Version.IsZero() || r.Layout.PieceLen <= 0 {
		return peer.Known{Want: r.Want}
	}
	_, from := r.Layout.Extent(n - 1)
	return peer.Known{Version: r.Version, From: from, Want: r.Want}
}

// prepare starts a preparation in the background.
func (s *Supernode) prepare(t *task, r dragonfly.Request, known peer.Known) *preparation {
	p := &preparation{request: r, done: make(chan struct{})}
	if s.stopped {
		p.err = errStopped
		close(p.done)
		return p
	}
	t.prep = p
	s.metrics.triggered.Inc()
	s.wg.Go(func() {
		got, err := s.seed.Prepare(s.ctx, r, known)
		s.mu.Lock()
		defer s.unlock()
		defer close(p.done)
		if err == nil {
			err = checkPrepared(t, got)
		}
		if err == nil {
			// The seed knows the ticket before any peer does.
			info := dragonfly.TaskInfo{Task: t.id, Version: got.Version, Layout: got.Layout, Ticket: t.ticket(got.Version)}
			s.unlock()
			s.seed.Admit(info)
			s.mu.Lock()
		}
		t.prep = nil
		p.err = s.conclude(t, r, got, err)
	})
	return p
}

// checkPrepared guards the books against a seed that answers nonsense.
func checkPrepared(t *task, p peer.Prepared) error {
	switch {
	case p.Version.IsZero(), p.Layout.PieceLen <= 0, p.Layout.Length < dragonfly.UnknownLength,
		!p.Task.IsZero() && p.Task != t.id:
		return &dragonfly.Error{Kind: dragonfly.Internal, Message: "the seed prepared the task without version or piece length"}
	}
	return nil
}

// conclude enters the outcome of a preparation and returns the error for those
// who wait for it: nil while there is a version that can be handed out.
func (s *Supernode) conclude(t *task, r dragonfly.Request, p peer.Prepared, err error) error {
	now := time.Now()
	if err == nil {
		t.prepared, t.notFound, t.last = now, nil, nil
		if p.Asked {
			s.door.Proved(r)
		}
		s.install(t, p)
		return nil
	}
	if s.ctx.Err() != nil {
		return errStopped
	}
	s.metrics.triggerFailed.Inc()
	e, ok := errors.AsType[*dragonfly.Error](err)
	if !ok {
		e = &dragonfly.Error{Kind: dragonfly.Internal, Message: "the seed could not prepare the task", Err: err}
	}
	s.log.Warn("the source does not give the task", "task", t.id, "url", Redact(r.URL), "kind", e.Kind, "status", e.Status)
	v := t.current
	switch {
	case e.Kind == dragonfly.NotFound:
		t.notFound, t.notFoundUntil = e, now.Add(s.cfg.FailAccess)
		if v != nil && v.void {
			s.abandon(t, v, e)
		}
	case v == nil:
		if len(t.regs) == 0 {
			delete(s.tasks, t.id)
		}
	case v.void || t.last != nil:
		s.sourceFailed(v, e)
	case !refused(e):
		// Nothing says that the content changed: what the swarm has is good
		// (v1-protocol 11.2).
		t.prepared = now
		return nil
	}
	return e
}

// install makes what the seed prepared the current version.
func (s *Supernode) install(t *task, p peer.Prepared) {
	old := t.current
	v := old
	if v == nil || v.id != p.Version {
		v = s.openVersion(t, p)
		t.current = v
	} else if p.Layout.Known() && !v.layout.Known() {
		s.lengthKnown(v, p.Layout.Length)
	}
	v.void = false
	if !p.Whole.IsZero() {
		v.whole = p.Whole
	}
	for n, d := range p.Manifest {
		s.prove(v, dragonfly.PieceNum(n), d)
	}
	if old != nil && old != v {
		s.supersede(t, old, v)
	}
	s.enlistSeed(v, p.Held)
	if v.closed {
		v.closed = false
		s.step(sched.Event{Kind: sched.SourceOpened, Task: v.handle})
	}
	if old != v {
		s.awaken(v)
	}
}

func (s *Supernode) openVersion(t *task, p peer.Prepared) *version {
	s.lastTask++
	v := &version{task: t, handle: s.lastTask, id: p.Version, layout: p.Layout, ticket: t.ticket(p.Version)}
	s.versions[v.handle] = v
	if s.record != nil {
		s.record.Task(record.Task{Number: v.handle, ID: t.id, Version: v.id, URL: Redact(t.request.URL)})
	}
	s.step(sched.Event{Kind: sched.TaskOpened, Task: v.handle, Layout: v.layout})
	s.metrics.tasksRegistered.Inc()
	if p.Layout.Known() && p.Held.Count() == p.Layout.Pieces() {
		s.metrics.cacheHits.Inc()
	} else {
		s.metrics.downloads.Inc()
	}
	s.log.Info("task opened", "task", t.id, "version", v.id, "url", Redact(t.request.URL), "length", v.layout.Length, "held", p.Held.Count())
	return v
}

// enlistSeed registers the seed for a version.
func (s *Supernode) enlistSeed(v *version, held dragonfly.PieceSet) {
	ss := s.seedPeer
	if ss == nil {
		return
	}
	r := ss.regs[v.task.id]
	if r == nil {
		r = &registration{session: ss, task: v.task, since: time.Now(), work: map[dragonfly.AssignmentID]*work{}}
		v.task.regs[ss], ss.regs[v.task.id] = r, r
	}
	if r.version == v && r.held.Equal(held) {
		return
	}
	if r.version != v {
		s.leave(r)
		r.version = v
	}
	r.wants, r.serves, r.known = true, true, true
	for n := range held.All() {
		if v.inRange(n) {
			r.held.Add(n)
		}
	}
	s.step(sched.Event{Kind: sched.Wanted, Peer: ss.peer, Task: v.handle, Held: r.held.Clone(), Serves: true})
}

// newSeed makes a session the seed's. What an earlier one was preparing is
// prepared again where somebody waits for it; the rest when it is asked for.
func (s *Supernode) newSeed(ss *session) {
	if old := s.seedPeer; old != nil && old != ss {
		s.drop(old, "another seed")
	}
	s.seedPeer = ss
	for _, t := range s.inOrder() {
		if v := t.current; v != nil && t.prep == nil && len(t.waiting(v)) > 0 {
			s.prepare(t, t.request, peer.Known{})
		}
	}
}

// awaken counts those as holders who said before the task was wanted that
// they serve this version of it, once it is sure that they may have it.
func (s *Supernode) awaken(v *version) {
	for _, r := range v.task.registered() {
		if r.kept != nil {
			s.admitted(r, func(v *version) { s.rouse(r, v) })
		}
	}
}

// admitted acts for a registration that is of no version, once it is sure that
// the peer may have the current one. One that may not is told so and forgotten.
func (s *Supernode) admitted(r *registration, act func(*version)) {
	t, kept := r.task, r.kept
	if s.door.Knows(r.request) {
		act(t.current)
		return
	}
	if s.stopped {
		return
	}
	s.wg.Go(func() {
		s.mu.Lock()
		defer s.unlock()
		err := s.admit(s.ctx, r.request)
		switch {
		case t.regs[r.session] != r, r.version != nil, r.kept != kept: // it left, or registered again
		case t.current == nil:
			r.wants = false
		case err == nil:
			act(t.current)
		case s.ctx.Err() == nil:
			if r.wants {
				r.session.push(item{info: refusal(t.id, err)})
			}
			s.remove(r)
		}
	})
}

// refusal is what a peer is told of a task that it may not have any more.
func refusal(id dragonfly.TaskID, err error) *dragonfly.TaskInfo {
	info := &dragonfly.TaskInfo{Task: id, Layout: dragonfly.Layout{Length: dragonfly.UnknownLength}}
	if e, ok := errors.AsType[*dragonfly.Error](err); ok && !grants(err) {
		info.Failed = e
	} else {
		info.Grant = dragonfly.GrantDirect
	}
	return info
}

// rouse makes a peer that was only remembered a holder.
func (s *Supernode) rouse(r *registration, v *version) {
	kept := *r.kept
	r.kept, r.version = nil, v
	v.tell(r)
	s.serve(r, kept)
}

// supersede replaces a version. Peers that are in the middle of the older one
// finish it if all of it is among them; the others start anew.
func (s *Supernode) supersede(t *task, old, v *version) {
	s.log.Info("the content at the source changed", "task", t.id, "version", v.id, "before", old.id)
	if t.retired != nil {
		s.end(t.retired)
	}
	if r := s.seedReg(t); r != nil && r.version == old {
		s.leave(r)
	}
	if len(t.waiting(old)) > 0 && t.whole(old) {
		t.retired = old
		s.closeSource(old)
		return
	}
	s.end(old)
}

// whole says that every piece of a version is held by a peer that serves.
func (t *task) whole(v *version) bool {
	if !v.layout.Known() {
		return false
	}
	var all dragonfly.PieceSet
	for _, r := range t.regs {
		if r.version == v && r.serves && r.known && !r.session.seed {
			for n := range r.held.All() {
				all.Add(n)
			}
		}
	}
	return all.Count() >= v.layout.Pieces()
}

// end forgets a version: its peers are told of the current one, and those that
// wait for the content start with that.
func (s *Supernode) end(v *version) {
	t := v.task
	if t.retired == v {
		t.retired = nil
	}
	next := t.current
	if next == v {
		next, t.current = nil, nil
	}
	delete(t.tickets, v.id)
	for _, r := range t.registered() {
		if r.version != v {
			continue
		}
		waits := r.waits()
		r.session.out.forget(t.id, v.id)
		r.clear()
		if next == nil {
			r.wants = false
			continue
		}
		r.wants = waits
		s.admitted(r, func(next *version) { s.follow(r, next) })
	}
	delete(s.versions, v.handle)
	s.step(sched.Event{Kind: sched.TaskEnded, Task: v.handle})
}

// follow makes a peer of an older version one of the current version.
func (s *Supernode) follow(r *registration, v *version) {
	r.version = v
	v.tell(r)
	if r.wants {
		r.known = true
		s.step(sched.Event{Kind: sched.Wanted, Peer: r.session.peer, Task: v.handle, Want: r.only, Serves: r.serves})
	}
}

func (s *Supernode) seedReg(t *task) *registration {
	if s.seedPeer == nil {
		return nil
	}
	return s.seedPeer.regs[t.id]
}

// forget lets the seed forget a task that is not in use, and then removes it.
// Who registers for it meanwhile waits, so that the seed hears of the end
// before it hears of the new beginning; who only serves it is kept.
func (s *Supernode) forget(t *task) {
	for _, v := range []*version{t.retired, t.current} {
		if v != nil {
			s.end(v)
		}
	}
	for _, r := range t.registered() {
		s.remove(r)
	}
	if s.stopped {
		return
	}
	p := &preparation{forgetting: true, done: make(chan struct{})}
	t.prep = p
	s.wg.Go(func() {
		s.seed.Forget(t.id)
		s.mu.Lock()
		defer s.unlock()
		defer close(p.done)
		t.prep = nil
		if len(t.regs) == 0 {
			delete(s.tasks, t.id)
		}
		s.metrics.gcTasks.Inc()
	})
}
