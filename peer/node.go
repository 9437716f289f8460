// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"dragonfly"
)

const (
	// inWork is how many assignments a session takes at once over all tasks.
	inWork = 128
	// answerTime is how long a supernode may leave an older sync unanswered
	// after a newer one was sent, before it counts as lost.
	answerTime = 2 * time.Second
	// tolerance is how long reports are repeated to a supernode that does not
	// answer before its tasks look for another one.
	tolerance = time.Second
	// remembered bounds the assignments known by number, against repetition.
	remembered = 1024
)

// node is one supernode as this host uses it: a session, the tasks that are
// registered there, and the loop that reports and receives work.
type node struct {
	e       *Engine
	member  dragonfly.Member
	tracker dragonfly.Tracker
	wake    chan struct{} // capacity 1: the queue or the free slots changed
	opening chan struct{} // capacity 1: one Open at a time

	mu       sync.Mutex // guards all below
	session  dragonfly.Session
	mark     dragonfly.AssignmentID // of the session; 0: there is none
	over     chan struct{}          // closed when the session is lost
	running  bool
	away     bool // it was lost, and that was logged
	tasks    map[dragonfly.TaskID]*task
	queue    []dragonfly.Event // not sent yet
	awaiting int               // registrations that wait for an answer
}

// marked is what a supernode's process numbers assignments below; the bits
// above mark the session in this process. A supernode that was restarted
// begins its numbers anew, and another one has its own, while what earlier
// sessions gave may still be at work here.
const marked dragonfly.AssignmentID = 1 << 40

// node is the engine's record of a supernode.
func (e *Engine) node(m dragonfly.Member) *node {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.nodes[m.Addr]
	if n == nil {
		n = &node{e: e, member: m, tracker: e.cfg.Dial(m), wake: make(chan struct{}, 1), opening: make(chan struct{}, 1),
			tasks: map[dragonfly.TaskID]*task{}}
		e.nodes[m.Addr] = n
	}
	return n
}

func (n *node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// report queues an event for the next sync. The end of an assignment that
// another session gave says nothing to this one, but for the piece that is held.
func (n *node) report(ev dragonfly.Event) {
	n.mu.Lock()
	switch {
	case ev.Assignment == 0:
	case ev.Assignment/marked == n.mark:
		ev.Assignment %= marked
	case ev.Kind == dragonfly.EventVerified:
		ev.Assignment = 0
	default:
		n.mu.Unlock()
		return
	}
	n.queue = append(n.queue, ev)
	n.mu.Unlock()
	n.poke()
}

// freed says that the session takes one more assignment.
func (n *node) freed() { n.poke() }

// forget reports the last event of a task that is registered here no more.
func (n *node) forget(t *task, last dragonfly.Event) {
	n.mu.Lock()
	delete(n.tasks, t.id)
	n.mu.Unlock()
	n.report(last)
}

// current is the session; nil when there is none.
func (n *node) current() dragonfly.Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.session
}

// open gives the session, opening one if the supernode answers in time. first
// is what is registered there next; nil: nothing is sure.
func (n *node) open(ctx context.Context, patience time.Duration, first func() dragonfly.Registration) (s dragonfly.Session, over <-chan struct{}, err error) {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case n.opening <- struct{}{}:
		defer func() { <-n.opening }()
	case <-patient.Done():
		return nil, nil, n.silence(ctx, errSilent)
	}
	n.mu.Lock()
	s, over = n.session, n.over
	n.mu.Unlock()
	if s != nil {
		return s, over, nil
	}
	hello := n.e.cfg.Hello()
	if first != nil {
		r := first()
		hello.First = &r
	}
	s, err = n.tracker.Open(patient, hello)
	if err != nil {
		if patient.Err() != nil {
			err = n.silence(ctx, errSilent)
		}
		return nil, nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = false
	n.session, n.mark, n.over = s, dragonfly.AssignmentID(n.e.sessions.Add(1)), make(chan struct{})
	if !n.running && n.e.ctx.Err() == nil {
		n.running = true
		n.e.wg.Go(n.run)
	}
	return s, n.over, nil
}

// silence is why there is no answer: ctx ended, or why.
func (n *node) silence(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "supernode " + n.member.Addr, Err: why}
}

// register registers a task here with the credentials of req, in a new session
// if the old one is unknown.
func (n *node) register(ctx context.Context, t *task, req dragonfly.Request, patience time.Duration) (dragonfly.TaskInfo, error) {
	for try := 1; ; try++ {
		s, over, err := n.open(ctx, patience, func() dragonfly.Registration { return t.registration(req) })
		if err != nil {
			return dragonfly.TaskInfo{}, err
		}
		info, err := n.ask(ctx, s, over, t, req)
		if dragonfly.KindOf(err) == dragonfly.UnknownSession && err != nil && try < 3 {
			n.lost(s)
			continue
		}
		if err == nil {
			n.mu.Lock()
			n.tasks[t.id] = t
			n.mu.Unlock()
		}
		return info, err
	}
}

// ask registers a task in a session. The answer may have to wait for the
// source; meanwhile the syncs tell whether the supernode is there at all.
func (n *node) ask(ctx context.Context, s dragonfly.Session, over <-chan struct{}, t *task, req dragonfly.Request) (dragonfly.TaskInfo, error) {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-over:
			cancel()
		case <-answered:
		}
	}()
	n.await(1)
	info, err := s.Register(asking, t.registration(req))
	n.await(-1)
	close(answered)
	<-watched
	if err != nil && asking.Err() != nil {
		err = n.silence(ctx, errNodeLost)
	}
	return info, err
}

// patience is how long the older of two syncs may be unanswered.
func (n *node) patience() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.awaiting > 0 {
		return min(answerTime, n.e.cfg.Patience)
	}
	return answerTime
}

// await counts the registrations that wait for an answer.
func (n *node) await(more int) {
	n.mu.Lock()
	n.awaiting += more
	n.mu.Unlock()
	if more > 0 {
		n.poke() // a newer sync makes the older one be answered
	}
}

// lost forgets a session that the supernode does not know.
func (n *node) lost(s dragonfly.Session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s != nil && n.session == s {
		n.session, n.mark = nil, 0
		close(n.over)
		n.queue = nil // it speaks of assignments that are void
	}
}

// leave closes the session.
func (n *node) leave() {
	n.mu.Lock()
	s := n.session
	n.tasks = map[dragonfly.TaskID]*task{}
	n.mu.Unlock()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.e.cfg.Patience)
	defer cancel()
	_ = s.Close(ctx, "the peer is shutting down") // a supernode that does not hear it finds out
}

// run keeps a session as long as tasks are registered here.
func (n *node) run() {
	ctx := n.e.ctx
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		s := n.current()
		if s == nil {
			var err error
			if s, _, err = n.open(ctx, n.e.cfg.Patience, nil); err == nil {
				err = n.again(ctx, s)
			}
			if err != nil {
				n.lost(s)
				if !n.desert(err) {
					return
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
				pause = min(2*pause, 30*time.Second)
				continue
			}
		}
		pause = 100 * time.Millisecond
		err := n.converse(ctx, s)
		n.lost(s)
		if dragonfly.KindOf(err) != dragonfly.UnknownSession && !n.desert(err) {
			return
		}
	}
}

// registered are the tasks that are registered here.
func (n *node) registered() []*task {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.tasks))
}

// desert tells the tasks that their supernode is lost, so that those which
// still want something look for another. It says whether some are only served
// and worth coming back for; if none are, the loop ends.
func (n *node) desert(err error) (stay bool) {
	n.mu.Lock()
	news := !n.away && n.e.ctx.Err() == nil
	n.away = true
	n.mu.Unlock()
	if news {
		n.e.cfg.Log.Warn("lost the supernode", "node", n.member.Addr, "err", err)
	}
	for _, t := range n.registered() {
		if t.wanted() && !t.isSeed() {
			t.leaveNode(n)
			n.mu.Lock()
			delete(n.tasks, t.id)
			n.mu.Unlock()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.tasks) == 0 && n.session == nil {
		n.running = false
		return false
	}
	return true
}

// again registers every task in a new session.
func (n *node) again(ctx context.Context, s dragonfly.Session) error {
	for _, t := range n.registered() {
		if t.isSeed() {
			continue // the supernode prepares its seed's tasks itself
		}
		info, err := s.Register(ctx, t.registration(t.request()))
		switch kind := dragonfly.KindOf(err); {
		case err == nil:
			t.news(info)
		case kind == dragonfly.UnknownSession || kind == dragonfly.Unavailable || ctx.Err() != nil:
			return err
		default:
			t.leaveNode(n)
			n.mu.Lock()
			delete(n.tasks, t.id)
			n.mu.Unlock()
		}
	}
	return nil
}

// answer is what came of one sync.
type answer struct {
	work dragonfly.Work
	err  error
}

// conversation is the state of one session's reports.
type conversation struct {
	n       *node
	s       dragonfly.Session
	mark    dragonfly.AssignmentID
	seq     uint64
	ack     uint64
	open    int // syncs at work
	answers chan answer
	seen    map[dragonfly.AssignmentID]struct{}
	recent  []dragonfly.AssignmentID
}

// converse syncs until the session is lost.
func (n *node) converse(ctx context.Context, s dragonfly.Session) error {
	n.mu.Lock()
	mark, replaced := n.mark, n.session != s
	n.mu.Unlock()
	if replaced {
		return &dragonfly.Error{Kind: dragonfly.UnknownSession, Message: "another session was opened at supernode " + n.member.Addr}
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &conversation{n: n, s: s, mark: mark, answers: make(chan answer, 2), seen: map[dragonfly.AssignmentID]struct{}{}}
	defer func() {
		cancel()
		for ; c.open > 0; c.open-- {
			<-c.answers
		}
	}()
	overdue := time.NewTimer(answerTime)
	defer overdue.Stop()
	news, sent := true, time.Now()
	for {
		if c.open == 0 || c.open == 1 && news {
			c.send(ctx)
			news, sent = false, time.Now()
			overdue.Reset(n.patience())
		}
		select {
		case <-n.wake:
			news = true
			overdue.Reset(max(0, time.Until(sent.Add(n.patience()))))
		case a := <-c.answers:
			c.open--
			if a.err != nil {
				return a.err
			}
			c.ack = max(c.ack, a.work.Seq) // each answer repeats what was not acknowledged
			n.take(c, a.work)
		case <-overdue.C:
			if c.open == 2 {
				return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "supernode " + n.member.Addr + " does not answer"}
			}
			news, sent = n.starving(), time.Now() // ask whether it is still there
			overdue.Reset(n.patience())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// starving says that a download waits here while nothing is on its way.
func (n *node) starving() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.awaiting > 0 {
		return true
	}
	for _, t := range n.tasks {
		if t.starving() {
			return true
		}
	}
	return false
}

// send reports what happened since the last report and waits for an answer.
func (c *conversation) send(ctx context.Context) {
	c.n.mu.Lock()
	events := c.n.queue
	c.n.queue = nil
	free := inWork
	for _, t := range c.n.tasks {
		free -= t.atWork()
	}
	c.n.mu.Unlock()
	c.seq++
	c.sync(ctx, dragonfly.Report{Seq: c.seq, Ack: c.ack, Free: max(0, free), Events: events})
}

// sync sends a report until it is answered. A supernode that is away is given
// the tolerance to come back; it applies a repeated report once.
func (c *conversation) sync(ctx context.Context, r dragonfly.Report) {
	c.open++
	go func() { // its end is awaited through c.answers
		var failing time.Time
		pause := 20 * time.Millisecond
		for {
			work, err := c.s.Sync(ctx, r)
			if err == nil || dragonfly.KindOf(err) != dragonfly.Unavailable || ctx.Err() != nil {
				c.answers <- answer{work, err}
				return
			}
			now := time.Now()
			if failing.IsZero() || now.Sub(failing) > 2*answerTime {
				failing, pause = now, 20*time.Millisecond // a new failure, not the same
			}
			if now.Sub(failing) > tolerance {
				c.answers <- answer{err: err}
				return
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause *= 2
		}
	}()
}

// take acts on the work that a supernode gave.
func (n *node) take(c *conversation, w dragonfly.Work) {
	tell := func(id dragonfly.TaskID, act func(*task)) {
		if t := n.e.lookup(id); t != nil {
			t.whenJoined(func() { act(t) })
		}
	}
	for _, info := range w.Tasks {
		tell(info.Task, func(t *task) { t.news(info) })
	}
	for _, entries := range w.Manifest {
		tell(entries.Task, func(t *task) { t.entries(entries) })
	}
	for _, id := range w.Cancellations {
		id = c.mark*marked + id
		for _, t := range n.registered() {
			t.whenJoined(func() { t.revoke(id) })
		}
	}
	for _, a := range w.Assignments {
		if c.known(a.ID) {
			continue
		}
		a.ID = c.mark*marked + a.ID
		if n.e.lookup(a.Task) == nil {
			n.report(dragonfly.Event{Kind: dragonfly.EventFailed, Task: a.Task, Version: a.Version, Piece: a.Piece,
				Assignment: a.ID, Reason: dragonfly.FailCanceled, Offset: a.Span.From})
			continue
		}
		tell(a.Task, func(t *task) { t.assign(n, c.s, a) })
	}
	for _, q := range w.Questions {
		tell(q.Task, func(t *task) {
			if q.Kind == dragonfly.AskCredentials {
				n.e.wg.Go(func() { _, _ = n.register(n.e.ctx, t, t.refreshed(n.e.ctx), n.e.cfg.Patience) })
			} else {
				n.e.wg.Go(func() { t.answer(q) })
			}
		})
	}
}

// known says whether an assignment came before, and remembers it.
func (c *conversation) known(id dragonfly.AssignmentID) bool {
	if _, ok := c.seen[id]; ok {
		return true
	}
	c.seen[id] = struct{}{}
	c.recent = append(c.recent, id)
	if len(c.recent) > remembered {
		delete(c.seen, c.recent[0])
		c.recent = c.recent[1:]
	}
	return false
}

// errNodeLost is why a task leaves a supernode, errSilent why one is not asked
// again.
var (
	errNodeLost = errors.New("the supernode was lost")
	errSilent   = errors.New("does not answer")
)
