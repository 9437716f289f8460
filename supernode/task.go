// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"cmp"
	"crypto/rand"
	"net/url"
	"slices"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// task is one content in the books. All of it is guarded by Supernode.mu.
type task struct {
	id       dragonfly.TaskID
	request  dragonfly.Request // the newest, with the newest credentials
	host     string            // of the source, for logs and parents' names
	current  *version          // nil: not prepared, or failed
	retired  *version          // an older version that is finished from the peers; nil: none
	regs     map[*session]*registration
	touched  time.Time // last registration or event
	prep     *preparation
	prepared time.Time // when the seed last asked the source successfully
	tickets  map[dragonfly.Version]dragonfly.Ticket

	notFound      error // remembered 404 or 410
	notFoundUntil time.Time
	trouble       // of the source in mid-task
}

// trouble is what the seed has with the source in mid-task.
type trouble struct {
	failures int              // in a row, without a piece between them
	last     *dragonfly.Error // nil: no trouble
	retry    time.Time        // when the source is tried again or the next peer asked for credentials
}

// version is one state of a task's content, a task of the scheduler's.
type version struct {
	task     *task
	handle   sched.Task
	id       dragonfly.Version
	layout   dragonfly.Layout
	ticket   dragonfly.Ticket
	whole    dragonfly.Digest // as the seed found it; zero: not known
	manifest manifest
	void     bool // the seed cannot continue it
	closed   bool // the scheduler was told that the source gives nothing
}

// registration is one peer's part in a task.
type registration struct {
	session *session
	task    *task
	version *version // nil while only kept
	request dragonfly.Request
	jobs    []dragonfly.JobID // newest last
	since   time.Time
	serves  bool
	wants   bool               // some job waits for the content
	known   bool               // to the scheduler, under version
	asked   bool               // for credentials
	only    dragonfly.PieceSet // the wanted pieces; empty: all
	held    dragonfly.PieceSet
	shelved dragonfly.PieceSet            // held by its own word, not counted until the digests are sure
	lacks   dragonfly.PieceSet            // assigned without a digest, which must follow
	lost    map[dragonfly.PieceNum]uint64 // in which report
	work    map[dragonfly.AssignmentID]*work
	kept    *dragonfly.Registration // what it holds of a task that nobody wanted yet
}

// work is an assignment that was given out, for the books of bytes.
type work struct {
	piece   dragonfly.PieceNum
	span    dragonfly.Span
	from    dragonfly.ParentKind
	counted bool
}

// task finds or makes the record of a task.
func (s *Supernode) task(id dragonfly.TaskID, r dragonfly.Request) *task {
	t := s.tasks[id]
	if t == nil {
		t = &task{id: id, request: r, regs: map[*session]*registration{}, touched: time.Now(), host: sourceHost(r.URL),
			tickets: map[dragonfly.Version]dragonfly.Ticket{}}
		s.tasks[id] = t
	}
	return t
}

// ticket is the ticket of one version, drawn at first use.
func (t *task) ticket(v dragonfly.Version) dragonfly.Ticket {
	k, ok := t.tickets[v]
	if !ok {
		rand.Read(k[:]) // never fails
		t.tickets[v] = k
	}
	return k
}

func (v *version) info() dragonfly.TaskInfo {
	return dragonfly.TaskInfo{Task: v.task.id, Version: v.id, Layout: v.layout, Ticket: v.ticket, Whole: v.whole}
}

// maxPieces bounds piece numbers while the length is unknown.
const maxPieces = 1 << 20

func (v *version) inRange(n dragonfly.PieceNum) bool {
	if v.layout.Known() {
		return n >= 0 && int(n) < v.layout.Pieces()
	}
	return n >= 0 && n < maxPieces
}

func (r *registration) addJob(job dragonfly.JobID) {
	r.jobs = slices.DeleteFunc(r.jobs, func(j dragonfly.JobID) bool { return j == job })
	r.jobs = append(r.jobs, job)
	if len(r.jobs) > maxJobs {
		r.jobs = slices.Delete(r.jobs, 0, 1)
	}
}

// job is the newest registration's, which stands for the peer in logs.
func (r *registration) job() dragonfly.JobID {
	if len(r.jobs) == 0 {
		return ""
	}
	return r.jobs[len(r.jobs)-1]
}

// complete says that the peer holds every piece that it wants.
func (r *registration) complete() bool {
	if r.version != nil && r.version.layout.Known() && r.only.Count() > 0 {
		for n := range r.only.All() {
			if !r.held.Has(n) {
				return false
			}
		}
		return true
	}
	return r.version != nil && r.version.layout.Known() && r.held.Count() >= r.version.layout.Pieces()
}

// waits says that a job of the peer still misses something.
func (r *registration) waits() bool { return r.wants && !r.complete() }

// registered are the registrations of a task in the order of their peers, so
// that the scheduler hears of them in the same order every time.
func (t *task) registered() []*registration {
	return t.those(func(*registration) bool { return true })
}

// those are the registrations that pass, in the order of their peers. Of many
// few pass as a rule: the others are not sorted.
func (t *task) those(pass func(*registration) bool) (out []*registration) {
	for _, r := range t.regs {
		if pass(r) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *registration) int { return cmp.Compare(a.session.peer, b.session.peer) })
	return out
}

// waiting are the peers that still miss something of a version.
func (t *task) waiting(v *version) []*registration {
	return t.those(func(r *registration) bool { return !r.session.seed && r.version == v && r.waits() })
}

// on finds a peer's registration for a version.
func (ss *session) on(task dragonfly.TaskID, v dragonfly.Version) *registration {
	if r := ss.regs[task]; r != nil && r.version != nil && r.version.id == v {
		return r
	}
	return nil
}

// leave takes a peer out of the version that it is registered for.
func (s *Supernode) leave(r *registration) {
	if r.version == nil {
		return
	}
	if r.known {
		s.step(sched.Event{Kind: sched.Dropped, Peer: r.session.peer, Task: r.version.handle})
	}
	r.session.out.forget(r.task.id, r.version.id)
	r.clear()
}

// clear makes a registration one of nothing.
func (r *registration) clear() {
	r.version, r.known = nil, false
	r.held, r.shelved, r.lacks = dragonfly.PieceSet{}, dragonfly.PieceSet{}, dragonfly.PieceSet{}
	clear(r.lost)
	clear(r.work)
}

// remove forgets a registration.
func (s *Supernode) remove(r *registration) {
	s.leave(r)
	delete(r.task.regs, r.session)
	delete(r.session.regs, r.task.id)
}

// tell gives news of a version to a peer.
func (v *version) tell(r *registration) {
	info := v.info()
	r.session.push(item{info: &info})
}

// sourceHost is the host and port in a URL.
func sourceHost(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}
