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
	busy    int
	shares  map[content]*share
	wanted  []string // URLs
	failed  map[string]*dragonfly.Error
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
	arrived map[dragonfly.PieceNum]arrived
}

// arrived is a piece that waits for its digest.
type arrived struct {
	a   dragonfly.Assignment
	bad bool
}

func newAgent(w *world, host byte, random uint64) *agent {
	return &agent{w: w, host: host, random: rand.New(rand.NewPCG(random, uint64(host))),
		wake: make(chan struct{}, 1), news: make(chan struct{}), shares: map[content]*share{}, failed: map[string]*dragonfly.Error{}}
}

// start opens a session and runs until the agent is stopped or the world ends.
func (a *agent) start(tracker dragonfly.Tracker) {
	a.ctx, a.cancel = context.WithCancel(a.w.ctx)
	a.enter(tracker)
	a.w.swarm.Go(func() {
		for a.ctx.Err() == nil {
			err := a.converse()
			if dragonfly.KindOf(err) != dragonfly.UnknownSession || a.ctx.Err() != nil {
				return
			}
			a.enter(tracker)
		}
	})
}

func (a *agent) enter(tracker dragonfly.Tracker) {
	ctx, h := hello(a.host)
	s, err := tracker.Open(ctx, h)
	if err != nil {
		return // it is shutting down
	}
	net := a.w.net
	net.mu.Lock()
	net.agents[s.Welcome().Session] = a
	net.mu.Unlock()
	a.mu.Lock()
	a.session, a.queue, a.busy = s, nil, 0
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

func (a *agent) chance(percent int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.random.IntN(100) < percent
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
		s = &share{digests: map[dragonfly.PieceNum]dragonfly.PieceDigest{}, arrived: map[dragonfly.PieceNum]arrived{}}
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
	a.start(w.sn)
	return a
}

// want registers a task, again in every new session.
func (a *agent) want(url string) {
	a.mu.Lock()
	a.wanted = append(a.wanted, url)
	s := a.session
	a.mu.Unlock()
	a.w.swarm.Go(func() { a.register(s, url) })
}

func (a *agent) register(s dragonfly.Session, url string) {
	r := dragonfly.Registration{Job: dragonfly.JobID(fmt.Sprintf("10.0.0.%d-1", a.host)), Request: request(url), Serve: true}
	a.mu.Lock()
	for key, x := range a.shares { // at most one is not empty
		if key.task == r.Request.TaskID() && x.held.Count() > 0 {
			r.Version, r.Layout, r.Held = key.version, x.info.Layout, x.held.Clone()
		}
	}
	a.mu.Unlock()
	info, err := s.Register(a.ctx, r)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.share(info.Task, info.Version).info = info
	} else if e, ok := err.(*dragonfly.Error); ok && e.Kind != dragonfly.UnknownSession {
		a.failed[url] = e
	}
}

// has says whether the agent holds all of some version of a content whose
// length it knows.
func (a *agent) has(url string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, s := range a.shares {
		if key.task == taskOf(url) && s.info.Layout.Known() && s.held.Count() >= s.info.Layout.Pieces() {
			return true
		}
	}
	return false
}

// converse syncs until the session ends.
func (a *agent) converse() error {
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
					if a.chance(a.late) { // it overtakes nobody, and is overtaken
						<-time.After(a.delay(300 * time.Millisecond))
					}
					x.work, x.err = s.Sync(ctx, r)
					if x.err != nil || !a.chance(a.loses) {
						break
					}
					// The answer is lost: the same report again.
					<-time.After(a.delay(time.Second))
				}
				answers <- x
				if a.chance(a.loses) {
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
				return x.err
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
		a.mu.Unlock()
	}
	for _, e := range w.Manifest {
		for i, d := range e.Digests {
			a.digest(e.Task, e.Version, e.First+dragonfly.PieceNum(i), d)
		}
	}
	for _, x := range w.Assignments {
		a.mu.Lock()
		a.busy++
		a.mu.Unlock()
		a.w.swarm.Go(func() { a.carry(x) })
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

// carry executes an assignment.
func (a *agent) carry(x dragonfly.Assignment) {
	why, e := a.fetch(x)
	a.mu.Lock()
	a.busy--
	s := a.share(x.Task, x.Version)
	if s.held.Has(x.Piece) {
		a.mu.Unlock()
		a.say(about(dragonfly.EventVerified, x))
		return
	}
	if why == "" && !e.end {
		s.arrived[x.Piece] = arrived{x, e.bad}
	}
	d := x.Digest
	if d.IsZero() {
		d = s.digests[x.Piece]
	}
	a.mu.Unlock()
	switch {
	case e.end:
		a.say(dragonfly.Event{Kind: dragonfly.EventLength, Task: x.Task, Version: x.Version, Offset: e.length})
	case why != "":
		f := failure(x, why)
		f.Failure = e.failure
		a.say(f)
	case x.Parent.Kind == dragonfly.ParentSource:
		a.digest(x.Task, x.Version, x.Piece, digestOf(x.Version, x.Piece))
	case d.IsZero():
		a.say(about(dragonfly.EventReceived, x))
	default:
		a.digest(x.Task, x.Version, x.Piece, d)
	}
}

// digest verifies a piece that waited for it.
func (a *agent) digest(task dragonfly.TaskID, v dragonfly.Version, n dragonfly.PieceNum, d dragonfly.PieceDigest) {
	a.mu.Lock()
	s := a.share(task, v)
	s.digests[n] = d
	got, ok := s.arrived[n]
	delete(s.arrived, n)
	bad := got.bad || d != digestOf(v, n)
	if ok && !bad {
		s.held.Add(n)
	}
	a.mu.Unlock()
	switch {
	case !ok:
		return
	case bad:
		a.say(failure(got.a, dragonfly.FailMismatch))
	default:
		e := about(dragonfly.EventVerified, got.a)
		if got.a.Parent.Kind == dragonfly.ParentSource {
			e.Digest = d
		}
		a.say(e)
	}
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
	if a.chance(a.fails) {
		return dragonfly.FailReset, outcome{}
	}
	stall := time.After(2 * time.Second)
	for {
		parent.mu.Lock()
		dead, news := parent.ctx.Err() != nil, parent.news
		s := parent.share(x.Task, x.Version)
		got, here := s.arrived[x.Piece]
		bad := parent.liar || here && got.bad
		here = here || s.held.Has(x.Piece)
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
