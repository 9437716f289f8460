// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"slices"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// maxLost bounds the memory for pieces that a peer said it lost.
const maxLost = 1024

// apply takes in what a report says and was not said before. Events of tasks
// or versions that the peer is not registered for are ignored: they cross with
// news on the way.
func (s *Supernode) apply(ss *session, rep dragonfly.Report) {
	now := time.Now()
	for _, e := range ss.fresh(rep) {
		r := ss.on(e.Task, e.Version)
		if e.Kind == dragonfly.EventStopped || e.Kind == dragonfly.EventDropped {
			r = ss.regs[e.Task] // whichever version the peer has heard of
		} else if r != nil && !r.version.inRange(e.Piece) {
			r = nil
		}
		if r == nil {
			continue
		}
		r.task.touched = now
		switch e.Kind {
		case dragonfly.EventVerified:
			s.verified(r, e)
			if rep.Seq < r.lost[e.Piece] { // a newer report overtook this one
				s.lost(r, e.Piece, r.lost[e.Piece])
			}
		case dragonfly.EventReceived:
			if r.count(s, e.Assignment, -1) {
				s.tell(r, sched.Event{Kind: sched.Received, Piece: e.Piece, Assignment: e.Assignment})
			}
		case dragonfly.EventFailed:
			s.failed(r, e)
		case dragonfly.EventLost:
			s.lost(r, e.Piece, rep.Seq)
		case dragonfly.EventIntact:
			s.tell(r, sched.Event{Kind: sched.Intact, Piece: e.Piece})
		case dragonfly.EventPosition:
			if n := r.version.layout.PieceAt(max(0, e.Offset)); r.version.inRange(n) {
				s.tell(r, sched.Event{Kind: sched.Position, Piece: n})
			}
		case dragonfly.EventStopped:
			s.stop(r, e.Job)
		case dragonfly.EventDropped:
			s.remove(r)
		case dragonfly.EventEntry:
			s.claim(r, e.Piece, e.Digest)
		case dragonfly.EventLength:
			if ss.seed && !r.version.layout.Known() && e.Offset >= 0 {
				s.lengthKnown(r.version, e.Offset)
			}
		case dragonfly.EventWhole:
			if ss.seed {
				s.vouch(r.version, e.Whole)
			}
		case dragonfly.EventVoid:
			if ss.seed {
				s.voided(r.version, e.Failure)
			}
		}
	}
}

// tell steps the scheduler with an event of a peer that it knows in the task.
func (s *Supernode) tell(r *registration, ev sched.Event) {
	if r.known {
		ev.Peer, ev.Task = r.session.peer, r.version.handle
		s.step(ev)
	}
}

// vouch tells the peers of a version that the seed found its whole digest to be
// the expected one.
func (s *Supernode) vouch(v *version, whole dragonfly.Digest) {
	if v.whole == whole {
		return
	}
	v.whole = whole
	for _, r := range v.task.those(func(r *registration) bool { return r.version == v && r.wants && !r.session.seed }) {
		v.tell(r)
	}
}

// verified enters a piece that a peer holds now.
func (s *Supernode) verified(r *registration, e dragonfly.Event) {
	r.count(s, e.Assignment, -1)
	for id, w := range r.work {
		if w.piece == e.Piece {
			delete(r.work, id)
		}
	}
	r.lacks.Remove(e.Piece)
	r.shelved.Remove(e.Piece)
	if r.session.seed {
		s.prove(r.version, e.Piece, e.Digest)
		r.task.failures = 0
	}
	before := r.complete()
	s.holds(r, e.Piece, e.Assignment)
	if !before {
		s.finished(r)
	}
}

// lost takes a piece out of what a peer holds, and remembers which report said
// so: an older one that it overtook may say that the piece is held.
func (s *Supernode) lost(r *registration, n dragonfly.PieceNum, seq uint64) {
	r.held.Remove(n)
	r.shelved.Remove(n)
	if r.lost == nil || len(r.lost) >= maxLost {
		r.lost = map[dragonfly.PieceNum]uint64{}
	}
	r.lost[n] = max(seq, r.lost[n])
	s.tell(r, sched.Event{Kind: sched.Lost, Piece: n})
}

// holds tells the scheduler that a peer has a piece. One that wanted nothing,
// since the content came inside the register answer, becomes a holder.
func (s *Supernode) holds(r *registration, n dragonfly.PieceNum, a dragonfly.AssignmentID) {
	r.held.Add(n)
	if !r.known {
		if r.serves {
			s.step(sched.Event{Kind: sched.Holding, Peer: r.session.peer, Task: r.version.handle, Held: r.held.Clone()})
			r.known = true
		}
		return
	}
	s.tell(r, sched.Event{Kind: sched.Verified, Piece: n, Assignment: a})
}

// finished counts the download of a peer if it has all of it now.
func (s *Supernode) finished(r *registration) {
	if r.wants && r.complete() && !r.session.seed {
		s.metrics.finished(r.request.CallSystem, time.Since(r.since), r.version.layout.Length)
	}
}

// failed enters an assignment that came to nothing.
func (s *Supernode) failed(r *registration, e dragonfly.Event) {
	if r.work[e.Assignment] == nil && e.Reason != dragonfly.FailMismatch {
		return // taken back meanwhile
	}
	label := failLabel(e.Reason)
	if !e.Reason.Listed() {
		// A newer build's, or anything at all: neither scheduler nor record gets it.
		e.Reason = dragonfly.FailReset
	}
	// A parent is accused when the piece is whole, which may be after its part
	// of it ended otherwise.
	r.count(s, e.Assignment, e.Offset)
	delete(r.work, e.Assignment)
	if e.Reason != dragonfly.FailCanceled {
		s.metrics.pieceFailures.WithLabelValues(label).Inc()
	}
	if r.session.seed && (e.Reason == dragonfly.FailSource || e.Reason == dragonfly.FailStore) {
		// Before the scheduler gives the same span out again.
		s.sourceFailed(r.version, failureOf(e))
	}
	if r.version != nil {
		s.tell(r, sched.Event{Kind: sched.Failed, Piece: e.Piece, Assignment: e.Assignment, Reason: e.Reason, Offset: e.Offset})
	}
}

// failureOf is why the seed could not fetch from the source.
func failureOf(e dragonfly.Event) *dragonfly.Error {
	switch {
	case e.Failure != nil:
		return e.Failure
	case e.Reason == dragonfly.FailStore:
		return &dragonfly.Error{Kind: dragonfly.NoSpace, Message: "the seed cannot store the content"}
	}
	return &dragonfly.Error{Kind: dragonfly.SourceFailed, Message: "the source failed"}
}

// count enters the bytes that an assignment brought into the metrics, once:
// all of it, or up to an offset. It says whether the assignment is known.
func (r *registration) count(s *Supernode, id dragonfly.AssignmentID, upTo int64) bool {
	w := r.work[id]
	if w == nil {
		return false
	}
	if w.counted {
		return true
	}
	w.counted = true
	span := w.span
	if upTo >= 0 {
		span.To = min(span.To, upTo)
	}
	if l := r.version.layout; l.Known() {
		span.To = min(span.To, l.Length)
	}
	if n := span.Len(); n > 0 {
		s.metrics.received(w.from, n)
	}
	return true
}

// stop takes a job out, or all of them for an empty name. When none is left the
// peer wants no more.
func (s *Supernode) stop(r *registration, job dragonfly.JobID) {
	if job != "" {
		r.jobs = slices.DeleteFunc(r.jobs, func(j dragonfly.JobID) bool { return j == job && len(r.jobs) > 1 })
		if r.job() != job {
			return
		}
	}
	r.wants = false
	s.tell(r, sched.Event{Kind: sched.Stopped})
}

// lengthKnown ends an unknown length.
func (s *Supernode) lengthKnown(v *version, length int64) {
	if length > int64(maxPieces)*v.layout.PieceLen {
		return
	}
	v.layout.Length = length
	if pieces := v.layout.Pieces(); len(v.manifest.proven) > pieces {
		v.manifest.proven = v.manifest.proven[:pieces]
	}
	s.step(sched.Event{Kind: sched.LengthKnown, Task: v.handle, Layout: v.layout})
	for _, r := range v.task.registered() {
		if r.version != v {
			continue
		}
		for n := range r.held.Clone().All() {
			if !v.inRange(n) {
				r.held.Remove(n)
			}
		}
		if !r.session.seed {
			v.tell(r)
		}
		s.finished(r)
	}
}
