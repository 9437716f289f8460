// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"time"

	"dragonfly"
	"dragonfly/peer"
	"dragonfly/sched"
)

const (
	// answerTime is how long a peer has to register again with fresh
	// credentials before the next one is asked.
	answerTime = 5 * time.Second
	// patience is how often in a row the source may fail in mid-task, each
	// time a longer pause after the one before, until peers are let go.
	patience = 5
	maxPause = 16 * time.Second
	// waits is patience with a source that only asks for time: about 10 min.
	waits = 40
	// maxAsked is how many fresh credentials in a row may prove useless.
	maxAsked = 20
)

// closeSource tells the scheduler that the source gives nothing for now.
func (s *Supernode) closeSource(v *version) {
	if !v.closed {
		v.closed = true
		s.step(sched.Event{Kind: sched.SourceClosed, Task: v.handle})
	}
}

// sourceFailed deals with a source that failed in mid-task: fresh credentials
// are asked for, a weak one is tried again, and when neither helps the waiting
// peers are let go.
func (s *Supernode) sourceFailed(v *version, e *dragonfly.Error) {
	t := v.task
	if v != t.current {
		return
	}
	s.closeSource(v)
	now := time.Now()
	again := t.last != nil && now.Before(t.retry)
	t.last = e
	switch {
	case refused(e):
		if !again {
			s.askCredentials(v, now)
		}
	case e.Kind == dragonfly.NotFound:
		t.notFound, t.notFoundUntil = e, now.Add(s.cfg.FailAccess)
		s.abandon(t, v, e)
	case e.Kind == dragonfly.NoSpace || e.Kind == dragonfly.Internal:
		s.letGo(v, e)
	case again: // another piece of the same request
	case t.failures >= waits, t.failures >= patience && e.Kind != dragonfly.Throttled:
		s.letGo(v, e)
	default:
		pause := min(time.Second<<min(t.failures, waits/2), maxPause)
		t.failures++
		t.retry = now.Add(pause)
		s.log.Warn("the source failed in mid-task", "task", t.id, "host", t.host, "kind", e.Kind, "status", e.Status, "again", pause)
	}
}

// askCredentials asks one waiting peer after the other, the newest first, to
// register again with fresh credentials.
func (s *Supernode) askCredentials(v *version, now time.Time) {
	t := v.task
	var newest *registration
	for _, r := range t.waiting(v) {
		if !r.asked && (newest == nil || r.since.After(newest.since)) {
			newest = r
		}
	}
	if newest == nil || t.failures >= maxAsked {
		s.letGo(v, t.last)
		return
	}
	t.failures++
	newest.asked = true
	t.retry = now.Add(answerTime)
	newest.session.push(item{question: &dragonfly.Question{Kind: dragonfly.AskCredentials, Task: t.id, Version: v.id}})
	s.log.Info("the source refused the credentials: asking for fresh ones", "task", t.id, "peer", newest.session.peer)
}

// retry goes on with a source whose pause is over.
func (s *Supernode) retry(v *version, now time.Time) {
	t := v.task
	switch {
	case now.Before(t.retry) || t.prep != nil || !v.closed:
	case t.last != nil && refused(t.last):
		s.askCredentials(v, now)
	case t.last != nil && v.void:
		s.prepare(t, t.request, peer.Known{})
	case !v.void:
		t.last, v.closed = nil, false
		s.step(sched.Event{Kind: sched.SourceOpened, Task: v.handle})
	}
}

// letGo tells the peers that wait for a version that the seed cannot go on:
// they may read the source themselves unless it gave a definite answer. The
// version stays for those who hold it, with its source closed.
func (s *Supernode) letGo(v *version, e *dragonfly.Error) {
	t := v.task
	direct := grants(e)
	s.log.Warn("the seed gives the task up", "task", t.id, "host", t.host, "kind", e.Kind, "status", e.Status, "direct", direct)
	s.metrics.downloadsFailed.Inc()
	t.trouble = trouble{}
	v.void = true // the next registration asks the source anew
	for _, r := range t.waiting(v) {
		info := v.info()
		if direct {
			info.Grant = dragonfly.GrantDirect
		} else {
			info.Failed = e
			s.metrics.failed(r.request.CallSystem, e.Kind)
		}
		r.session.push(item{info: &info})
		r.wants = false
		s.step(sched.Event{Kind: sched.Stopped, Peer: r.session.peer, Task: v.handle})
	}
}

// abandon ends a version that is wrong or does not exist any more: nobody is
// given anything of it.
func (s *Supernode) abandon(t *task, v *version, e *dragonfly.Error) {
	s.log.Warn("task abandoned", "task", t.id, "host", t.host, "kind", e.Kind)
	s.metrics.downloadsFailed.Inc()
	waiting := t.waiting(v)
	s.end(v)
	for _, r := range waiting {
		s.metrics.failed(r.request.CallSystem, e.Kind)
		info := v.info()
		info.Ticket, info.Failed = dragonfly.Ticket{}, e
		r.session.push(item{info: &info})
	}
	t.trouble = trouble{}
}

// voided deals with a version that the seed cannot continue.
func (s *Supernode) voided(v *version, e *dragonfly.Error) {
	t := v.task
	if v != t.current {
		return
	}
	if e != nil && e.Kind == dragonfly.DigestMismatch {
		s.abandon(t, v, e)
		return
	}
	s.closeSource(v)
	v.void = true
	if t.prep == nil {
		s.prepare(t, t.request, peer.Known{})
	}
}
