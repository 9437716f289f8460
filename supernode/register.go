// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"dragonfly"
	"dragonfly/sched"
	"dragonfly/source"
)

// Limits of what one registration may bring.
const (
	maxURL        = 16 << 10
	maxIdentifier = 4 << 10
	maxHeaders    = 64
	maxHeaderLen  = 64 << 10
	maxRootCAs    = 1 << 20
	maxSlots      = 256
	maxPieceLen   = 1 << 30
	maxTasksOf    = 10_000 // of one peer
	maxJobs       = 64     // of one peer for one task; older ones are forgotten
)

func invalid(format string, args ...any) error {
	return &dragonfly.Error{Kind: dragonfly.Invalid, Message: fmt.Sprintf(format, args...)}
}

func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// validate checks a registration from outside. Its messages quote neither
// headers nor the query of the URL.
func validate(r dragonfly.Registration) error {
	switch {
	case r.Job == "" || len(r.Job) > 256 || !printable(string(r.Job)):
		return invalid("registration: job must be printable and have 1 to 256 bytes")
	case len(r.Request.URL) > maxURL || len(r.Request.TaskURL) > maxURL:
		return invalid("registration: a url has at most %d bytes", maxURL)
	case strings.TrimSpace(r.Request.TaskURL) != "" && !source.Fits(r.Request.URL, r.Request.TaskURL):
		return invalid("registration: the task url must be the url without some parameters of its query")
	case len(r.Request.Identifier) > maxIdentifier:
		return invalid("registration: the identifier has at most %d bytes", maxIdentifier)
	case len(r.Request.RootCAs) > maxRootCAs:
		return invalid("registration: root certificates have at most %d bytes", maxRootCAs)
	case len(r.Request.CallSystem) > 256 || !printable(r.Request.CallSystem):
		return invalid("registration: callSystem must be printable and have at most 256 bytes")
	case len(r.Want) > dragonfly.MaxWant || slices.ContainsFunc(r.Want, func(s dragonfly.Span) bool {
		return s.From < 0 || s.To < dragonfly.UnknownLength || s.To >= 0 && s.To <= s.From
	}):
		return invalid("registration: want has at most %d spans of at least a byte", dragonfly.MaxWant)
	case r.Slots < 0 || r.Slots > maxSlots:
		return invalid("registration: slots must be a number from 0 to %d", maxSlots)
	case r.Layout.Length < dragonfly.UnknownLength || r.Layout.PieceLen < 0 || r.Layout.PieceLen > maxPieceLen:
		return invalid("registration: the layout has a negative length, or pieces of more than %d bytes", maxPieceLen)
	}
	u, err := url.Parse(r.Request.URL)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Scheme, "http") && !strings.EqualFold(u.Scheme, "https") {
		return invalid("registration: the url must look like http://host/path or https://host/path")
	}
	return validateHeader(r.Request.Header)
}

func validateHeader(h dragonfly.Header) error {
	total := 0
	for name, values := range h {
		total += len(name)
		if name == "" || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == ':' }) {
			return invalid("registration: a header has an impossible name")
		}
		for _, v := range values {
			total += len(v)
			if strings.ContainsAny(v, "\r\n\x00") {
				return invalid("registration: the value of header %s has line breaks", name)
			}
		}
	}
	if len(h) > maxHeaders || total > maxHeaderLen {
		return invalid("registration: at most %d headers with %d bytes are taken", maxHeaders, maxHeaderLen)
	}
	return nil
}

// Register implements dragonfly.Session.
func (ss *session) Register(ctx context.Context, r dragonfly.Registration) (dragonfly.TaskInfo, error) {
	if err := validate(r); err != nil {
		return dragonfly.TaskInfo{}, err
	}
	s := ss.node
	id := r.Request.TaskID()
	s.mu.Lock()
	defer s.unlock()
	if err := s.admissible(ss, id, r); err != nil {
		return s.refuse(ss, id, r, err)
	}
	if source.Steered(r.Request) {
		return s.refuse(ss, id, r, source.ErrUnasked)
	}
	if r.Holding && !s.wanted(id) {
		return s.keep(ss, s.task(id, r.Request), r), nil
	}
	may := false
	for {
		// Credentials that are no good shall not be tried on what others read.
		if !may && s.wanted(id) {
			if err := s.admit(ctx, r.Request); err != nil {
				return s.refuse(ss, id, r, err)
			}
			may = true
		}
		if r.Holding {
			if err := s.admissible(ss, id, r); err != nil {
				return s.refuse(ss, id, r, err)
			}
			return s.hold(ss, s.task(id, r.Request), r), nil
		}
		t, err := s.prepared(ctx, ss, id, r)
		if err != nil {
			return s.refuse(ss, id, r, err)
		}
		if !may {
			continue // the seed need not have asked the source
		}
		v := t.current
		if !wantsInline(r, v) {
			return s.book(ss, t, r, true), nil
		}
		s.unlock()
		content, ok := s.seed.Inline(id, v.id)
		s.mu.Lock()
		if err := s.admissible(ss, id, r); err != nil {
			return s.refuse(ss, id, r, err)
		}
		switch {
		case s.tasks[id] != t || t.current != v:
			continue // it changed meanwhile
		case !ok || int64(len(content)) != v.layout.Length:
			return s.book(ss, t, r, true), nil
		}
		info := s.book(ss, t, r, false)
		info.Complete, info.Inline = true, content
		s.metrics.bytes.WithLabelValues(string(dragonfly.ParentSeed)).Add(float64(len(content)))
		return info, nil
	}
}

// refuse answers a registration that the source stands against.
func (s *Supernode) refuse(ss *session, id dragonfly.TaskID, r dragonfly.Registration, err error) (dragonfly.TaskInfo, error) {
	if !grants(err) {
		if e, ok := err.(*dragonfly.Error); ok && ofSource(e.Kind) {
			s.metrics.failed(r.Request.CallSystem, e.Kind)
		}
		return dragonfly.TaskInfo{}, err
	}
	s.log.Info("the seed cannot read the source: the peer may", "task", id, "peer", ss.peer, "kind", dragonfly.KindOf(err))
	return dragonfly.TaskInfo{Task: id, Layout: dragonfly.Layout{Length: dragonfly.UnknownLength}, Grant: dragonfly.GrantDirect}, nil
}

// ofSource says that an error is about the source, not about the peer's
// session, this supernode or a caller who went away.
func ofSource(k dragonfly.Kind) bool {
	switch k {
	case dragonfly.UnknownSession, dragonfly.NotOwner, dragonfly.Unavailable, dragonfly.Canceled:
		return false
	}
	return true
}

func wantsInline(r dragonfly.Registration, v *version) bool {
	return r.Inline && v.layout.Known() && v.layout.Length <= dragonfly.InlineMax &&
		(r.Version != v.id || r.Held.Count() < v.layout.Pieces())
}

// errAnother says that a TaskID is in use for a content of another name.
var errAnother = &dragonfly.Error{Kind: dragonfly.SourceFailed, Message: "the task id stands for another content here"}

// admissible says whether a registration can be taken at all, as far as the
// books tell. A task that nobody is given yet becomes that of who wants it.
func (s *Supernode) admissible(ss *session, id dragonfly.TaskID, r dragonfly.Registration) error {
	t := s.tasks[id]
	switch {
	case ss.dead:
		return ss.gone()
	case ss.seed:
		return invalid("registration: the seed's tasks are prepared by its supernode")
	case s.tasks[id] == nil && len(s.tasks) >= s.cfg.MaxTasks:
		return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the supernode has as many tasks as it takes: try another one"}
	case ss.regs[id] == nil && len(ss.regs) >= maxTasksOf:
		return invalid("registration: a peer has at most %d tasks", maxTasksOf)
	}
	if err := s.owns(id); err != nil || t == nil || t.request.Name() == r.Request.Name() {
		return err
	}
	if t.current != nil || t.prep != nil || r.Holding {
		return errAnother
	}
	for _, kept := range t.registered() {
		s.remove(kept)
	}
	t.request, t.host, t.notFound, t.trouble = r.Request, sourceHost(r.Request.URL), nil, trouble{}
	return nil
}

// grants says whether a failure of the source leaves the peer to try by
// itself: the seed could not ask it, or has no room. What the source said
// counts for everybody.
func grants(err error) bool {
	e, _ := err.(*dragonfly.Error)
	if e == nil {
		return false
	}
	switch e.Kind {
	case dragonfly.SourceFailed, dragonfly.NoSpace, dragonfly.Internal:
		return e.Status == 0
	}
	return false
}

// book enters a registration for the current version and answers it. Whoever
// gets the content inside the answer wants nothing of the scheduler.
func (s *Supernode) book(ss *session, t *task, r dragonfly.Registration, wants bool) dragonfly.TaskInfo {
	now := time.Now()
	reg := s.enroll(ss, t, r, now)
	v := t.current
	if reg.version != nil && reg.version != v && reg.version == t.retired && r.Version == reg.version.id {
		// It finishes the older version, which is whole among the peers.
		reg.wants = true
		return reg.version.info()
	}
	if reg.version != v {
		s.leave(reg)
		reg.version = v
	}
	only := v.pieces(r.Want)
	if len(r.Want) > 0 && v.layout.Known() && only.Count() == 0 {
		wants = false // it lies behind the end
	} else {
		reg.narrow(only)
	}
	reg.wants = reg.wants || wants
	s.metrics.registered(r.Request.CallSystem)
	if wants {
		s.adopt(reg, r)
		s.step(sched.Event{Kind: sched.Wanted, Peer: ss.peer, Task: v.handle, Held: reg.held.Clone(), Want: only, Slots: r.Slots, Serves: reg.serves})
		reg.known = true
	}
	return v.info()
}

// wanted says that a task has a version that is handed out.
func (s *Supernode) wanted(id dragonfly.TaskID) bool {
	t := s.tasks[id]
	return t != nil && t.current != nil
}

// keep remembers what a peer only serves of a task that nobody wants yet. The
// source is not asked for it, so that the peer is told nothing.
func (s *Supernode) keep(ss *session, t *task, r dragonfly.Registration) dragonfly.TaskInfo {
	reg := s.enroll(ss, t, r, time.Now())
	reg.wants, reg.kept = false, &r
	return dragonfly.TaskInfo{Task: t.id, Version: r.Version, Layout: r.Layout}
}

// pieces are those that spans of the content touch; empty: all.
func (v *version) pieces(spans []dragonfly.Span) (only dragonfly.PieceSet) {
	if !v.layout.Known() {
		return only
	}
	if len(spans) == 0 {
		return only
	}
	for n := range dragonfly.PieceNum(v.layout.Pieces()) {
		if v.layout.Touched(n, spans) {
			only.Add(n)
		}
	}
	return only
}

// narrow takes in which pieces a job wants beside those before.
func (r *registration) narrow(only dragonfly.PieceSet) {
	switch {
	case only.Count() == 0:
		r.only = dragonfly.PieceSet{}
	case r.wants && r.only.Count() == 0: // another job wants all
	case !r.wants:
		r.only = only
	default:
		for n := range only.All() {
			r.only.Add(n)
		}
	}
}

// hold enters what a peer only serves.
func (s *Supernode) hold(ss *session, t *task, r dragonfly.Registration) dragonfly.TaskInfo {
	if t.current == nil { // it was forgotten meanwhile
		return s.keep(ss, t, r)
	}
	reg := s.enroll(ss, t, r, time.Now())
	reg.wants = false
	if v := t.current; reg.version != v && (reg.version == nil || reg.version != t.retired) {
		s.leave(reg)
		reg.version = v
	}
	s.serve(reg, r)
	return reg.version.info()
}

// serve makes the scheduler count a peer that wants nothing as a holder.
func (s *Supernode) serve(reg *registration, r dragonfly.Registration) {
	s.adopt(reg, r)
	if reg.serves && reg.held.Count() > 0 {
		s.step(sched.Event{Kind: sched.Holding, Peer: reg.session.peer, Task: reg.version.handle, Held: reg.held.Clone()})
		reg.known = true
	}
}

// enroll finds or makes the registration of a peer for a task.
func (s *Supernode) enroll(ss *session, t *task, r dragonfly.Registration, now time.Time) *registration {
	reg := t.regs[ss]
	if reg == nil {
		reg = &registration{session: ss, task: t, since: now, work: map[dragonfly.AssignmentID]*work{}}
		t.regs[ss], ss.regs[t.id] = reg, reg
	}
	t.touched = now
	if !r.Holding {
		t.request = r.Request
	}
	reg.asked = reg.asked && sameCredentials(reg.request, r.Request)
	reg.request, reg.kept = r.Request, nil
	reg.serves = r.Serve || r.Holding
	if !reg.wants {
		reg.jobs = nil // they have ended
	}
	reg.addJob(r.Job)
	return reg
}

// adopt takes over what a peer holds already, if it is of the swarm's version
// and cut alike, and asks for the digests that are not known for sure.
func (s *Supernode) adopt(reg *registration, r dragonfly.Registration) {
	v := reg.version
	if r.Version != v.id || r.Layout.PieceLen != v.layout.PieceLen {
		return
	}
	for n := range r.Held.All() {
		if v.inRange(n) {
			reg.held.Add(n)
		}
	}
	s.askManifest(reg)
}
