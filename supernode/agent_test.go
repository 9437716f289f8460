// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"dragonfly"
)

// network finds the agents of a world by their session.
type network struct {
	mu     sync.Mutex
	agents map[dragonfly.SessionID]*agent
}

// agent is a peer that runs: it keeps at most two syncs open, fetches what it
// is assigned, waits for digests and reports, as the engine does. Its pieces
// have no bytes. The seed's session is an agent too.
type agent struct {
	w      *world
	host   byte
	random *rand.Rand
	seed   *seed // nil: an ordinary peer

	// What goes wrong, out of 100.
	loses, fails, late int
	liar               bool // sends bad pieces

	mu      sync.Mutex
	cancel  context.CancelFunc
	ctx     context.Context
	session dragonfly.Session
	wake    chan struct{}
	news    chan struct{} // closed when something came
	queue   []dragonfly.Event
	seen    map[dragonfly.AssignmentID]bool // answers are repeated
	busy    int
	shares  map[content]*share
	wanted  []string                    // URLs
	over    map[dragonfly.TaskID]string // why the supernode let it go
	done    map[dragonfly.TaskID]bool   // it had all of some version
}

// content is one version of a task.
type content struct {
	task    dragonfly.TaskID
	version dragonfly.Version
}

// share is what an agent has of a task.
type share struct {
	info    dragonfly.TaskInfo
	held    dragonfly.PieceSet
	digests map[dragonfly.PieceNum]dragonfly.PieceDigest
	arrived map[dragonfly.PieceNum][]arrived
}

// arrived is a piece that waits for its digest.
type arrived struct {
	s   dragonfly.Session
	a   dragonfly.Assignment
	bad bool
}

func newAgent(w *world, host byte, random uint64) *agent {
	return &agent{w: w, host: host, random: rand.New(rand.NewPCG(random, uint64(host))),
		wake: make(chan struct{}, 1), news: make(chan struct{}), shares: map[content]*share{}, over: map[dragonfly.TaskID]string{}, done: map[dragonfly.TaskID]bool{}}
}

// start opens a session and runs until the agent dies or the world ends.
func (a *agent) start() {
	a.ctx, a.cancel = context.WithCancel(a.w.ctx)
	a.enter()
	a.w.swarm.Go(func() {
		for a.ctx.Err() == nil {
			a.converse()
			select {
			case <-time.After(100 * time.Millisecond):
				a.enter()
			case <-a.ctx.Done():
			}
		}
	})
}

// enter opens a session and registers what is wanted.
func (a *agent) enter() {
	ctx, h := hello(a.host)
	s, err := a.w.tracker(a.seed != nil).Open(ctx, h)
	if err != nil {
		return // it is shutting down
	}
	a.w.net.mu.Lock()
	a.w.net.agents[s.Welcome().Session] = a
	a.w.net.mu.Unlock()
	a.mu.Lock()
	a.session, a.queue, a.busy = s, nil, 0
	a.seen = map[dragonfly.AssignmentID]bool{}
	wanted := slices.Clone(a.wanted)
	a.mu.Unlock()
	for _, url := range wanted {
		a.w.swarm.Go(func() { a.register(s, url) })
	}
}

// die ends the agent without a word, as kill -9 does.
func (a *agent) die() {
	a.cancel()
	a.announce()
}

func (a *agent) announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.news)
	a.news = make(chan struct{})
}

func (a *agent) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// say queues an event.
func (a *agent) say(e dragonfly.Event) {
	a.mu.Lock()
	a.queue = append(a.queue, e)
	a.mu.Unlock()
	a.poke()
}

// tell queues an event about an assignment of a session. In a newer session
// assignments have other numbers: only what is held counts there.
func (a *agent) tell(s dragonfly.Session, e dragonfly.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.poke()
	if a.session != s {
		if e.Kind != dragonfly.EventVerified {
			return
		}
		e.Assignment = 0
	}
	a.queue = append(a.queue, e)
}

func (a *agent) chance(percent *int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.random.IntN(100) < *percent
}

func (a *agent) delay(most time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Duration(a.random.Int64N(int64(most) + 1))
}

// share is what the agent has of a version.
func (a *agent) share(task dragonfly.TaskID, v dragonfly.Version) *share {
	key := content{task, v}
	s := a.shares[key]
	if s == nil {
		s = &share{digests: map[dragonfly.PieceNum]dragonfly.PieceDigest{}, arrived: map[dragonfly.PieceNum][]arrived{}}
		s.info.Task, s.info.Version, s.info.Layout = task, v, dragonfly.Layout{Length: dragonfly.UnknownLength, PieceLen: block}
		a.shares[key] = s
	}
	return s
}

func (a *agent) own(task dragonfly.TaskID, v dragonfly.Version, pieces int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.share(task, v).held = dragonfly.NewPieceSet(pieces)
}

func (a *agent) holds(task dragonfly.TaskID, v dragonfly.Version) dragonfly.PieceSet {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.share(task, v).held.Clone()
}

// agent starts an agent on a new host.
func (w *world) agent(random uint64) *agent {
	w.hosts++
	a := newAgent(w, w.hosts+10, random)
	a.start()
	return a
}

// want registers a task now, and again in every new session.
func (a *agent) want(url string) {
	a.mu.Lock()
	if !slices.Contains(a.wanted, url) {
		a.wanted = append(a.wanted, url)
	}
	s := a.session
	a.mu.Unlock()
	a.w.swarm.Go(func() { a.register(s, url) })
}

func (a *agent) register(s dragonfly.Session, url string) {
	r := dragonfly.Registration{Job: dragonfly.JobID(fmt.Sprintf("10.0.0.%d-1", a.host)), Request: request(url), Serve: true}
	id := r.Request.TaskID()
	a.mu.Lock()
	delete(a.over, id)
	for key, x := range a.shares {
		if key.task == id && x.held.Count() > r.Held.Count() {
			r.Version, r.Layout, r.Held = key.version, x.info.Layout, x.held.Clone()
		}
	}
	a.mu.Unlock()
	info, err := s.Register(a.ctx, r)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.over[id] = err.Error()
		return
	case info.Grant != "":
		a.over[id] = "may read alone"
	default:
		a.share(id, info.Version).info = info
	}
	// What was lost while the supernode thought about the registration.
	for n := range r.Held.All() {
		if !a.share(id, r.Version).held.Has(n) {
			a.queue = append(a.queue, dragonfly.Event{Kind: dragonfly.EventLost, Task: id, Version: r.Version, Piece: n})
			a.poke()
		}
	}
}

// has says whether the agent holds all of some version of a content whose
// length it knows.
func (a *agent) has(url string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, s := range a.shares {
		if key.task == taskOf(url) && s.complete() {
			a.done[key.task] = true
		}
	}
	return a.done[taskOf(url)]
}

// complete says that all of the version is held.
func (s *share) complete() bool {
	return s.info.Layout.Known() && s.held.Count() >= s.info.Layout.Pieces()
}

// converse syncs until the session ends.
func (a *agent) converse() {
	type answer struct {
		work dragonfly.Work
		err  error
	}
	a.mu.Lock()
	s := a.session
	a.mu.Unlock()
	answers := make(chan answer, 2)
	open, news := 0, true
	var seq, ack uint64
	defer func() {
		for ; open > 0; open-- {
			<-answers
		}
	}()
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	for {
		if open == 0 || open == 1 && news {
			news = false
			open++
			seq++
			a.mu.Lock()
			r := dragonfly.Report{Seq: seq, Ack: ack, Free: max(0, 32-a.busy), Events: a.queue}
			a.queue = nil
			a.mu.Unlock()
			a.w.swarm.Go(func() {
				var x answer
				for {
					if a.chance(&a.late) { // it overtakes nobody, and is overtaken
						<-time.After(a.delay(300 * time.Millisecond))
					}
					x.work, x.err = s.Sync(ctx, r)
					if x.err != nil || !a.chance(&a.loses) {
						break
					}
					// The answer is lost: the same report again.
					<-time.After(a.delay(time.Second))
				}
				answers <- x
				if a.chance(&a.loses) {
					<-time.After(a.delay(5 * time.Second))
					_, _ = s.Sync(ctx, r) // a copy of the report comes late
				}
			})
		}
		select {
		case <-a.wake:
			news = true
		case x := <-answers:
			open--
			if x.err != nil {
				return
			}
			ack = max(ack, x.work.Seq)
			a.take(s, x.work)
		}
	}
}

// take acts on what the supernode says.
func (a *agent) take(s dragonfly.Session, w dragonfly.Work) {
	for _, info := range w.Tasks {
		a.mu.Lock()
		a.share(info.Task, info.Version).info = info
		if info.Failed != nil {
			a.over[info.Task] = info.Failed.Message
		} else if info.Grant != "" {
			a.over[info.Task] = "may read alone"
		}
		a.mu.Unlock()
	}
	for _, e := range w.Manifest {
		for i, d := range e.Digests {
			a.digest(e.Task, e.Version, e.First+dragonfly.PieceNum(i), d)
		}
	}
	for _, x := range w.Assignments {
		a.mu.Lock()
		known := a.seen[x.ID] || a.session != s
		if !known {
			a.seen[x.ID] = true
			a.busy++
		}
		a.mu.Unlock()
		if known {
			continue
		}
		a.w.swarm.Go(func() { a.carry(s, x) })
	}
	for _, q := range w.Questions {
		switch held := a.holds(q.Task, q.Version); q.Kind {
		case dragonfly.AskReverify:
			kind := dragonfly.EventLost
			if held.Has(q.Piece) {
				kind = dragonfly.EventIntact
			}
			a.say(dragonfly.Event{Kind: kind, Task: q.Task, Version: q.Version, Piece: q.Piece})
		case dragonfly.AskManifest:
			for n := range held.All() {
				a.say(dragonfly.Event{Kind: dragonfly.EventEntry, Task: q.Task, Version: q.Version, Piece: n, Digest: digestOf(q.Version, n)})
			}
		}
	}
	a.announce()
}

// carry executes an assignment of a session.
func (a *agent) carry(s dragonfly.Session, x dragonfly.Assignment) {
	why, e := a.fetch(x)
	got := arrived{s, x, e.bad}
	a.mu.Lock()
	if a.session == s {
		a.busy--
	}
	mine := a.share(x.Task, x.Version)
	d := x.Digest
	if d.IsZero() {
		d = mine.digests[x.Piece]
	}
	if x.Parent.Kind == dragonfly.ParentSource {
		d = digestOf(x.Version, x.Piece)
	}
	wait := why == "" && !e.end && d.IsZero()
	if wait {
		mine.arrived[x.Piece] = append(mine.arrived[x.Piece], got)
	}
	a.mu.Unlock()
	switch {
	case e.end:
		a.tell(s, dragonfly.Event{Kind: dragonfly.EventLength, Task: x.Task, Version: x.Version, Offset: e.length})
	case why != "":
		f := failure(x, why)
		f.Failure = e.failure
		a.tell(s, f)
	case wait:
		a.tell(s, about(dragonfly.EventReceived, x))
		a.announce()
	default:
		a.verify(got, d)
	}
}

// digest verifies a piece that waited for it.
func (a *agent) digest(task dragonfly.TaskID, v dragonfly.Version, n dragonfly.PieceNum, d dragonfly.PieceDigest) {
	a.mu.Lock()
	mine := a.share(task, v)
	mine.digests[n] = d
	all := mine.arrived[n]
	delete(mine.arrived, n)
	a.mu.Unlock()
	for _, got := range all {
		a.verify(got, d)
	}
}

// verify ends an assignment whose digest is known.
func (a *agent) verify(got arrived, d dragonfly.PieceDigest) {
	e := about(dragonfly.EventVerified, got.a)
	if got.a.Parent.Kind == dragonfly.ParentSource {
		e.Digest = d
	}
	if got.bad || d != digestOf(e.Version, e.Piece) {
		e = failure(got.a, dragonfly.FailMismatch)
	} else {
		a.mu.Lock()
		a.share(e.Task, e.Version).held.Add(e.Piece)
		a.mu.Unlock()
	}
	a.tell(got.s, e)
	a.announce()
}

// outcome is what came of a fetch.
type outcome struct {
	bad     bool
	end     bool // the content ends before this piece
	length  int64
	failure *dragonfly.Error
}

// fetch gets a piece from a parent, which may itself still be getting it.
func (a *agent) fetch(x dragonfly.Assignment) (dragonfly.FailReason, outcome) {
	if x.Parent.Kind == dragonfly.ParentSource {
		length, err := a.seed.read(a.ctx, x)
		if err != nil {
			e, _ := err.(*dragonfly.Error)
			return dragonfly.FailSource, outcome{failure: e}
		}
		return "", outcome{end: length > 0, length: length}
	}
	net := a.w.net
	net.mu.Lock()
	parent := net.agents[x.Parent.Session]
	net.mu.Unlock()
	if parent == nil {
		return dragonfly.FailRefused, outcome{}
	}
	<-time.After(a.delay(20 * time.Millisecond))
	if a.chance(&a.fails) {
		return dragonfly.FailReset, outcome{}
	}
	stall := time.After(2 * time.Second)
	for {
		parent.mu.Lock()
		dead, news := parent.ctx.Err() != nil, parent.news
		s := parent.share(x.Task, x.Version)
		bad := parent.liar
		for _, got := range s.arrived[x.Piece] {
			bad = bad || got.bad
		}
		here := len(s.arrived[x.Piece]) > 0 || s.held.Has(x.Piece)
		parent.mu.Unlock()
		switch {
		case dead:
			return dragonfly.FailRefused, outcome{}
		case here:
			return "", outcome{bad: bad}
		}
		select {
		case <-news:
		case <-stall:
			return dragonfly.FailStalled, outcome{}
		case <-a.ctx.Done():
			return dragonfly.FailCanceled, outcome{}
		}
	}
}
