// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/source"
	"dragonfly/store"
)

// task is one content on this host: the holding of its present version, the
// assignments at work, and the downloads that wait for it.
type task struct {
	e  *Engine
	id dragonfly.TaskID

	setup   chan struct{}   // capacity 1: one preparation or reading of the source at a time
	limited atomic.Bool     // the task's own limit held it back
	bytes   [3]atomic.Int64 // received from source, seed, peers

	mu        sync.Mutex // guards all below
	req       dragonfly.Request
	h         *holding
	origin    *origin
	node      *node     // where it is registered; nil: nowhere
	granted   bool      // the supernode leaves the source to this host
	doubted   time.Time // until then the swarm is not asked for it
	voids     int       // times that the seed began anew, the last one at voided
	voided    time.Time
	job       dragonfly.JobID // stands at supernodes for all that wait together: the first one
	seed      bool            // this is the supernode's own copy
	serves    bool
	flows     map[dragonfly.AssignmentID]flow
	ending    map[dragonfly.PieceNum][]flow // taken back, their transfers may not have ended yet
	downloads map[*Download]struct{}
	limiter   *rate.Limiter
	settling  int           // assignments whose outcome is being told
	joining   int           // registrations whose answer was not taken in yet
	early     []func()      // what a supernode said meanwhile
	changed   chan struct{} // closed at the next change; nil while nobody waits
}

// flow is an assignment at work.
type flow struct {
	assignment dragonfly.Assignment
	session    dragonfly.Session // that gave it
	cancel     context.CancelFunc
	done       chan struct{} // closed when its transfer has ended
}

func newTask(e *Engine, id dragonfly.TaskID) *task {
	return &task{e: e, id: id, setup: make(chan struct{}, 1), flows: map[dragonfly.AssignmentID]flow{}, ending: map[dragonfly.PieceNum][]flow{}, downloads: map[*Download]struct{}{},
		limiter: NewLimiter(0)}
}

func (t *task) request() dragonfly.Request {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.req
}

// refreshed is the request with the newest credentials that one of its jobs has.
func (t *task) refreshed(ctx context.Context) dragonfly.Request {
	t.mu.Lock()
	var fresh func(context.Context) dragonfly.Header
	for d := range t.downloads {
		if d.job.Fresh != nil {
			fresh = d.job.Fresh
		}
	}
	t.mu.Unlock()
	if fresh == nil {
		return t.request()
	}
	h := fresh(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if h != nil {
		t.req.Header = h
	}
	return t.req
}

func (t *task) holding() *holding {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.h
}

// source reads the source of the present holding; nil without one.
func (t *task) source() *origin {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.origin
}

func (t *task) limit() *rate.Limiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limiter
}

func (t *task) wanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.downloads) > 0 || t.seed
}

// notify wakes the downloads. t.mu is held.
func (t *task) notify() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// change is closed at the next change of the task.
func (t *task) change() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

// count adds received bytes to the task's figures.
func (t *task) count(from dragonfly.ParentKind, n int64) {
	switch from {
	case dragonfly.ParentSource:
		t.bytes[0].Add(n)
	case dragonfly.ParentSeed:
		t.bytes[1].Add(n)
	default:
		t.bytes[2].Add(n)
	}
	t.mu.Lock()
	t.notify()
	t.mu.Unlock()
}

// observe tells every download's observer.
func (t *task) observe(tell func(Observer)) {
	t.mu.Lock()
	var observers []Observer
	for d := range t.downloads {
		if d.job.Observe != nil {
			observers = append(observers, d.job.Observe)
		}
	}
	t.mu.Unlock()
	for _, o := range observers {
		tell(o)
	}
}

// report queues an event for the supernode where the task is registered.
func (t *task) report(ev dragonfly.Event) {
	t.mu.Lock()
	n := t.node
	t.notify()
	t.mu.Unlock()
	if n != nil {
		n.report(ev)
	}
}

// fail ends every download of the task with err.
func (t *task) fail(err error) {
	t.mu.Lock()
	downloads := make([]*Download, 0, len(t.downloads))
	for d := range t.downloads {
		downloads = append(downloads, d)
	}
	t.mu.Unlock()
	for _, d := range downloads {
		d.end(err)
	}
}

// adopt makes version v the one that this host has or gets: the holding of it
// that exists, the store's content, or a fresh one. Older bytes are let go, and
// so is what is only served where there is no room.
func (t *task) adopt(v dragonfly.Version, layout dragonfly.Layout, ticket dragonfly.Ticket, info source.Info) (*holding, error) {
	for {
		h, err := t.take(v, layout, ticket, info)
		if err == nil || dragonfly.KindOf(err) != dragonfly.NoSpace || !t.e.makeRoom() {
			return h, err
		}
	}
}

func (t *task) take(v dragonfly.Version, layout dragonfly.Layout, ticket dragonfly.Ticket, info source.Info) (*holding, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.h != nil && t.h.version == v && !t.h.isVoid() {
		t.h.setTicket(ticket)
		if layout.Known() && !t.h.Layout().Known() {
			return t.h, t.h.setLength(layout.Length)
		}
		return t.h, nil
	}
	content, ok := t.e.cfg.Store.Lookup(t.id)
	if ok && content.Meta().Version != v {
		content.Release()
		ok = false
	}
	if !ok {
		var err error
		content, err = t.e.cfg.Store.Create(store.Meta{Task: t.id, Version: v, Layout: layout,
			TaskURL: t.req.TaskURL, Name: nameOf(t.req), ETag: info.ETag, LastModified: info.LastModified})
		if err != nil {
			return nil, err
		}
	}
	t.letGo(errSuperseded)
	t.h = newHolding(content, ticket, func(n dragonfly.PieceNum) {
		t.report(dragonfly.Event{Kind: dragonfly.EventLost, Task: t.id, Version: v, Piece: n})
	})
	t.origin = newOrigin(t, t.h)
	t.notify()
	return t.h, nil
}

var errSuperseded = &dragonfly.Error{Kind: dragonfly.SourceChanged, Message: "the content at the source changed while it was read"}

// recheck lets a holding go whose file somebody changed through a hard link.
func (t *task) recheck() {
	h := t.holding()
	if h == nil {
		return
	}
	file, err := h.content.OpenFile()
	if err == nil {
		file.Close()
	} else if errors.Is(err, store.ErrChanged) {
		t.spoiled(h, err)
	}
}

// spoiled lets a holding go that the store has dropped, and tells the swarm.
func (t *task) spoiled(h *holding, why error) {
	for n := range dragonfly.PieceNum(h.Layout().Pieces()) {
		t.report(dragonfly.Event{Kind: dragonfly.EventLost, Task: t.id, Version: h.version, Piece: n})
	}
	t.e.cfg.Log.Warn("a content was changed and is dropped", "task", t.id, "err", why)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.h == h {
		t.letGo(why)
	}
}

// letGo ends everything that belongs to the present holding. t.mu is held.
func (t *task) letGo(why error) {
	for _, f := range t.flows {
		f.cancel()
	}
	clear(t.ending)
	if t.h != nil {
		t.h.fail(why)
		t.h.content.Release()
		t.h, t.origin = nil, nil
	}
}

// release lets the store have the content back.
func (t *task) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.letGo(errClosed)
}

// drop leaves the swarm of the task for good.
func (t *task) drop() {
	t.mu.Lock()
	n, h := t.node, t.h
	t.node = nil
	t.letGo(errClosed)
	t.mu.Unlock()
	if n != nil {
		ev := dragonfly.Event{Kind: dragonfly.EventDropped, Task: t.id}
		if h != nil {
			ev.Version = h.version
		}
		n.forget(t, ev)
	}
}

// landing says that an assignment ends. Its end is reported before it is out of
// the books, and what follows may be here sooner. The returned function says that
// everybody was told.
func (t *task) landing() (told func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settling++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.settling--
		t.notify()
	}
}

// join makes what a supernode says about the task wait for the answer to its
// registration, which it may overtake: that tells the version that it is
// about. The returned function ends the wait.
func (t *task) join() (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.joining++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for t.joining == 1 && len(t.early) > 0 {
			early := t.early
			t.early = nil
			t.mu.Unlock()
			for _, act := range early {
				act()
			}
			t.mu.Lock()
		}
		t.joining--
	}
}

// whenJoined acts now, or when no answer to a registration is on its way any more.
func (t *task) whenJoined(act func()) {
	t.mu.Lock()
	if t.joining > 0 {
		t.early = append(t.early, act)
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	act()
}

// assign begins to carry out an assignment of a session at n. Repeated ones are
// ignored, those of another version and those of held pieces are answered at
// once.
func (t *task) assign(n *node, s dragonfly.Session, a dragonfly.Assignment) {
	t.mu.Lock()
	h, o := t.h, t.origin
	_, known := t.flows[a.ID]
	if known || h == nil || h.version != a.Version || !h.fits(a) {
		t.mu.Unlock()
		if !known {
			n.report(dragonfly.Event{Kind: dragonfly.EventFailed, Task: a.Task, Version: a.Version, Piece: a.Piece,
				Assignment: a.ID, Reason: dragonfly.FailCanceled, Offset: a.Span.From})
		}
		return
	}
	ctx, cancel := context.WithCancel(t.e.ctx)
	before := append(t.displace(s, a.Piece), t.stopping(a.Piece)...)
	f := flow{assignment: a, session: s, cancel: cancel, done: make(chan struct{})}
	t.flows[a.ID] = f
	t.mu.Unlock()
	h.learn(a.Piece, a.Digest)
	switch {
	case h.content.Has(a.Piece):
		t.report(t.event(dragonfly.EventVerified, h, a))
		t.ended(a.ID)
	case a.Parent.Kind == dragonfly.ParentSource:
		o.enqueue(t.e.ctx, a)
	default:
		t.e.wg.Go(func() {
			defer t.e.work()()
			defer close(f.done)
			for _, old := range before {
				<-old.done
			}
			t.carry(ctx, h, a)
			t.ended(a.ID)
		})
	}
}

// displace stops the transfers of a piece that assignments of an earlier
// session left: the new one goes on where they stand. t.mu is held.
func (t *task) displace(s dragonfly.Session, n dragonfly.PieceNum) (before []flow) {
	for _, f := range t.flows {
		if f.assignment.Piece == n && f.assignment.Parent.Kind != dragonfly.ParentSource && f.session != s {
			f.cancel()
			before = append(before, f)
		}
	}
	return before
}

// stopping are the transfers of a piece that were revoked and have not ended:
// whoever goes on with any part of it waits for them, since they may still take
// back the block that they stood in. t.mu is held.
func (t *task) stopping(n dragonfly.PieceNum) []flow {
	left := slices.DeleteFunc(t.ending[n], func(f flow) bool {
		select {
		case <-f.done:
			return true
		default:
			return false
		}
	})
	if len(left) == 0 {
		delete(t.ending, n)
		return nil
	}
	t.ending[n] = left
	return left
}

// told waits until the outcome of every assignment that ended was told: the
// last piece is held a moment before the observers hear of it.
func (t *task) told(ctx context.Context) error {
	for {
		changed := t.change()
		t.mu.Lock()
		settling := t.settling
		t.mu.Unlock()
		if settling == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ended takes an assignment out of the books.
func (t *task) ended(id dragonfly.AssignmentID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f, ok := t.flows[id]; ok {
		f.cancel()
		delete(t.flows, id)
	}
	if t.node != nil {
		t.node.freed()
	}
}

// revoke cancels an assignment that the supernode takes back.
func (t *task) revoke(id dragonfly.AssignmentID) {
	t.mu.Lock()
	f, ok := t.flows[id]
	o := t.origin
	t.mu.Unlock()
	if !ok {
		return
	}
	if f.assignment.Parent.Kind != dragonfly.ParentSource {
		t.mu.Lock()
		t.ending[f.assignment.Piece] = append(t.ending[f.assignment.Piece], f)
		t.mu.Unlock()
	} else if o != nil {
		o.cancel(id)
	}
	t.ended(id)
}

// entries learns manifest entries and settles the pieces that waited for them.
func (t *task) entries(e dragonfly.Entries) {
	h := t.holding()
	if h == nil || h.version != e.Version {
		return
	}
	for i, d := range e.Digests {
		n := e.First + dragonfly.PieceNum(i)
		if n < 0 {
			continue // nonsense
		}
		h.learn(n, d)
		t.reconsider(h, n)
	}
}

// reconsider settles a piece that waited for its digest or for the length of
// the content.
func (t *task) reconsider(h *holding, n dragonfly.PieceNum) {
	if h.content.Has(n) || h.expected(n).IsZero() {
		return
	}
	if _, _, last, ok := h.whole(n); ok && last.Task == h.task {
		defer t.landing()() // the job is not over before this is told, too
		t.settle(h, PieceDone{Assignment: last, Layout: h.Layout()})
	}
}

// answer answers a supernode's question.
func (t *task) answer(q dragonfly.Question) {
	h := t.holding()
	if h == nil || h.version != q.Version {
		return
	}
	switch q.Kind {
	case dragonfly.AskReverify:
		ev := dragonfly.Event{Kind: dragonfly.EventIntact, Task: q.Task, Version: q.Version, Piece: q.Piece}
		if ok, err := h.content.Verify(q.Piece); err != nil || !ok {
			ev.Kind = dragonfly.EventLost
		}
		t.report(ev)
	case dragonfly.AskManifest:
		for n := range h.content.Held().All() {
			t.report(dragonfly.Event{Kind: dragonfly.EventEntry, Task: q.Task, Version: q.Version, Piece: n, Digest: h.content.Digest(n)})
		}
	}
}

// turn waits until nobody else prepares the task or reads its source; done
// lets the next one.
func (t *task) turn(ctx context.Context) (done func(), err error) {
	select {
	case t.setup <- struct{}{}:
		return func() { <-t.setup }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// halt ends the transfers from peers and the seed and waits for their end.
func (t *task) halt() {
	t.mu.Lock()
	var ending []flow
	for _, f := range t.flows {
		if f.assignment.Parent.Kind != dragonfly.ParentSource {
			f.cancel()
			ending = append(ending, f)
		}
	}
	for _, flows := range t.ending {
		ending = append(ending, flows...)
	}
	clear(t.ending)
	t.mu.Unlock()
	for _, f := range ending {
		<-f.done
	}
}

// direct reads what is missing straight from the source, for this host alone,
// and returns when the pieces that the spans touch, all for none, are held or
// ctx ends.
func (t *task) direct(ctx context.Context, want []dragonfly.Span) error {
	done, err := t.turn(ctx)
	if err != nil {
		return err
	}
	defer done()
	t.halt()
	for try := 0; ; try++ {
		h, _, err := t.open(ctx, Known{Want: want})
		if err != nil {
			return err
		}
		t.hash(h)
		err = t.readMissing(ctx, h, want)
		if dragonfly.KindOf(err) != dragonfly.SourceChanged || err == nil || try == anew {
			return err
		}
		// The content changed or cannot be continued: all of it anew.
		t.mu.Lock()
		t.letGo(err)
		t.mu.Unlock()
		if rerr := t.e.cfg.Store.Remove(t.id); rerr != nil {
			return rerr
		}
	}
}

func (t *task) readMissing(ctx context.Context, h *holding, want []dragonfly.Span) error {
	o := t.source()
	for !h.has(want) {
		for _, n := range h.missing(want) {
			t.recall(h, n)
			t.restart(h, n)
			began := time.Now()
			from, to := h.Layout().Extent(n)
			a := dragonfly.Assignment{Task: t.id, Version: h.version, Piece: n, Span: dragonfly.Span{From: from, To: to},
				Parent: dragonfly.Parent{Kind: dragonfly.ParentSource, CID: sourceCID(t.request().URL)}}
			into := h.arrive(n)
			end, brought, err := h.fetch(ctx, into, a, func(gap dragonfly.Span) (int64, error) { return o.read(ctx, into, a, gap, h.runEnd(n, want)) })
			err = o.outcome(a, end, err)
			if errors.Is(err, errNoPiece) {
				break
			}
			t.landed(h, into, a, end, brought, time.Since(began), err)
			if err != nil {
				return err
			}
		}
		t.mu.Lock()
		t.notify()
		t.mu.Unlock()
	}
	return nil
}

// open finds out what the source has and makes the holding for it: with what
// the store holds of the same version, else fresh. An incomplete content is
// continued by a ranged request, and so is one that a peer has the start of.
// asked says whether the source was needed for it.
func (t *task) open(ctx context.Context, known Known) (h *holding, asked bool, err error) {
	if content, stored := t.e.cfg.Store.Lookup(t.id); stored {
		meta := content.Meta()
		complete := meta.Layout.Known() && content.Held().Count() == meta.Layout.Pieces()
		content.Release()
		if _, addressed := source.ContentAddressed(t.request().URL); addressed && complete {
			h, err = t.adopt(meta.Version, meta.Layout, t.ticket(), source.Info{})
			return h, false, err
		}
	}
	h, err = t.ask(ctx, known)
	return h, true, err
}

// ask opens the source.
func (t *task) ask(ctx context.Context, known Known) (*holding, error) {
	req := t.request()
	content, stored := t.e.cfg.Store.Lookup(t.id)
	var meta store.Meta
	if stored {
		meta = content.Meta()
		held := content.Held().Count()
		complete := meta.Layout.Known() && held == meta.Layout.Pieces()
		content.Release()
		if complete && (meta.ETag != "" || meta.LastModified != "") {
			body, err := t.e.cfg.Source.Open(ctx, req, 0, ifChanged(meta))
			if errors.Is(err, source.ErrNotModified) {
				return t.adopt(meta.Version, meta.Layout, t.ticket(), source.Info{})
			}
			return t.begin(body, 0, err, meta)
		}
		first := firstMissing(meta.Layout, t.held(meta))
		if meta.ETag == "" && meta.LastModified == "" && !complete {
			known = Known{Version: meta.Version, From: first} // it came through the swarm
		} else if !complete && first > 0 {
			body, err := t.e.cfg.Source.Open(ctx, req, t.received(meta, first), stateOf(meta))
			if err == nil {
				h, err := t.adopt(meta.Version, meta.Layout, t.ticket(), body.Info)
				if err != nil {
					body.Close()
					return nil, err
				}
				t.source().adopt(body, 0)
				return h, nil
			}
			if dragonfly.KindOf(err) != dragonfly.SourceChanged {
				return nil, err
			}
		}
	}
	if known.From > 0 {
		if body, err := t.e.cfg.Source.Open(ctx, req, known.From, source.Condition{}); err == nil {
			if v, ok := versionOf(body.Info); ok && v == known.Version {
				return t.begin(body, 0, nil, meta)
			}
			body.Close()
		}
	}
	from, to := known.window()
	body, err := t.e.cfg.Source.Open(ctx, req, from, source.Condition{To: to})
	if err != nil && from > 0 { // it serves no ranges, or has no such part
		to = 0
		body, err = t.e.cfg.Source.Open(ctx, req, 0, source.Condition{})
	}
	return t.begin(body, to, err, meta)
}

// begin makes the holding for a body, which ends at to, 0 for with the content;
// stored is what the store has, zero for nothing.
func (t *task) begin(body *source.Body, to int64, err error, stored store.Meta) (*holding, error) {
	if err != nil {
		return nil, err
	}
	v, known := versionOf(body.Info)
	if d, addressed := source.ContentAddressed(t.request().URL); !known && addressed {
		v = piecehash.Validator(d.String())
	} else if !known {
		v = piecehash.RandomVersion()
	}
	layout := dragonfly.Layout{Length: body.Length, PieceLen: dragonfly.PieceLenFor(body.Length)}
	if known && v == stored.Version {
		layout = stored.Layout
	}
	h, err := t.adopt(v, layout, t.ticket(), body.Info)
	if err != nil {
		body.Close()
		return nil, err
	}
	if h.complete() {
		body.Close()
		return h, nil
	}
	t.source().adopt(body, to)
	return h, nil
}

func (t *task) ticket() dragonfly.Ticket {
	h := t.holding()
	if h == nil {
		return dragonfly.Ticket{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tickets[0]
}

func (t *task) held(meta store.Meta) dragonfly.PieceSet {
	content, ok := t.e.cfg.Store.Lookup(t.id)
	if !ok || content.Meta().Version != meta.Version {
		return dragonfly.PieceSet{}
	}
	defer content.Release()
	return content.Held()
}

// received is how far the piece that begins at off was received by an earlier
// process: the source is not asked for that again.
func (t *task) received(meta store.Meta, off int64) int64 {
	content, ok := t.e.cfg.Store.Lookup(t.id)
	if !ok || content.Meta().Version != meta.Version {
		return off
	}
	defer content.Release()
	return max(off, content.Prefixes()[meta.Layout.PieceAt(off)])
}

// firstMissing is the content offset of the first piece that is not held.
func firstMissing(layout dragonfly.Layout, held dragonfly.PieceSet) int64 {
	n := dragonfly.PieceNum(0)
	for held.Has(n) {
		n++
	}
	from, _ := layout.Extent(n)
	return from
}

// stateOf names the state of the content that the store has.
func stateOf(meta store.Meta) source.Condition {
	return source.Condition{ETag: meta.ETag, LastModified: meta.LastModified, Length: meta.Layout.Length}
}

func ifChanged(meta store.Meta) source.Condition {
	cond := stateOf(meta)
	cond.IfChanged = true
	return cond
}

// versionOf is the version that a source's validator stands for; known is
// false where it gives none.
func versionOf(info source.Info) (v dragonfly.Version, known bool) {
	validator := info.Validator()
	if validator == "" {
		return v, false
	}
	return piecehash.Validator(validator), true
}
