// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"dragonfly"
	"dragonfly/record"
	"dragonfly/sched"
)

// Recording is where the scheduler's events go.
type Recording struct {
	Out   io.Writer // at the start of a line; the supernode does not close it
	Limit int64     // bytes
	Build string    // of this supernode
}

// startRecord begins what Config.Record asks for.
func (s *Supernode) startRecord() {
	r := s.cfg.Record
	if r == nil {
		return
	}
	s.record = record.NewWriter(r.Out, record.Run{Build: r.Build, Began: s.epoch.UTC(), Config: s.machine.Config()}, r.Limit, func(why error) {
		s.log.Warn("the record of the scheduler's events ends here; the supernode goes on without it", "error", why)
	})
}

// decide keeps a decision with the session that it is about.
func (s *Supernode) decide(d sched.Decision) {
	if ss := s.peers[d.Action.Peer]; ss != nil {
		ss.decided.add(d)
	}
}

// maxRecent is how many decisions about each peer are kept: about 4 KiB.
const maxRecent = 32

// recent are the latest decisions about a peer.
type recent struct {
	ring []sched.Decision
	next int // in a full ring: the oldest
}

func (r *recent) add(d sched.Decision) {
	if len(r.ring) < maxRecent {
		r.ring = append(r.ring, d)
		return
	}
	r.ring[r.next] = d
	r.next = (r.next + 1) % maxRecent
}

// about are those about a task, and about the peer in all, the oldest first.
func (r *recent) about(t sched.Task) (out []sched.Decision) {
	for i := range r.ring {
		d := r.ring[(r.next+i)%len(r.ring)]
		if d.Action.Task == t || d.Action.Task == 0 {
			out = append(out, d)
		}
	}
	return out
}

type (
	// Part is a peer's part in a task: what it gets, and why.
	Part struct {
		TaskPeer
		Work      []PartWork `json:"work"`      // in the order of the content
		Decisions []Decided  `json:"decisions"` // the latest, the oldest first
	}

	// PartWork is an assignment in work.
	PartWork struct {
		Piece dragonfly.PieceNum `json:"piece"`
		Span  dragonfly.Span     `json:"span"`
		From  string             `json:"from"`
		Heard bool               `json:"heard"` // the peer acknowledged it
	}

	// Decided is what the scheduler decided about a peer.
	Decided struct {
		At     time.Time    `json:"at"`
		Choice sched.Choice `json:"choice,omitempty"`
		Text   string       `json:"text"`
	}
)

// Part is a peer's part in a task.
func (s *Supernode) Part(id dragonfly.TaskID, peer sched.Peer) (Part, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss, t := s.peers[peer], s.tasks[id]
	if ss == nil || t == nil || t.regs[ss] == nil {
		return Part{}, false
	}
	r := t.regs[ss]
	out := Part{TaskPeer: s.taskPeer(r), Work: []PartWork{}, Decisions: []Decided{}}
	if r.version == nil {
		return out, true
	}
	for a := range s.machine.Assignments(r.version.handle) {
		if a.Peer == peer {
			out.Work = append(out.Work, PartWork{a.Piece, a.Span, s.parentName(a.Parent), a.Acked})
		}
	}
	slices.SortFunc(out.Work, func(a, b PartWork) int { return cmp.Compare(a.Span.From, b.Span.From) })
	for _, d := range ss.decided.about(r.version.handle) {
		out.Decisions = append(out.Decisions, Decided{s.epoch.Add(time.Duration(d.At)), d.Choice, d.Text(s.parentName)})
	}
	return out, true
}

// parentName is what people are told a parent is.
func (s *Supernode) parentName(p sched.Peer) string {
	ss := s.peers[p]
	switch {
	case p == sched.Source:
		return "the source"
	case ss == nil:
		return fmt.Sprintf("peer %d, which left", p)
	case ss.seed:
		return "the seed"
	}
	return fmt.Sprintf("peer %d (%s, %s)", p, ss.hello.Host.Name, ss.where.Host)
}
