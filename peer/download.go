// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/source"
)

// Patterns of a job (v1-protocol 9.3). Any other word behaves like cdn.
const (
	PatternP2P    = "p2p"    // fetches from the swarm and serves it
	PatternSource = "source" // straight from the source
)

// Reasons why a job went to the source (v1-protocol 9).
const (
	ReasonNone     = 0
	ReasonRegister = 1    // no supernode took the task
	ReasonDownload = 3    // the swarm was lost in the middle
	ReasonNoNodes  = 8    // there is no supernode to ask
	ReasonAsked    = 100  // the user said so
	ReasonNoSource = 1000 // added when the source was forbidden
)

// Job is one wish for a content.
type Job struct {
	ID      dragonfly.JobID
	Request dragonfly.Request
	Pattern string // PatternP2P and so on
	// Want are the spans of the content that are wanted, with To
	// dragonfly.UnknownLength for its end; none: all of it. Only the pieces
	// that they touch are fetched. A job with Want has no File and checks no
	// digest.
	Want     []dragonfly.Span
	NoSource bool               // never download from the source by this host
	Nodes    []dragonfly.Member // supernodes as configured; none: from the source
	Guess    bool               // nobody configured Nodes: they are not waited for
	// Guarded says that whoever asks may be somebody else than who asked for
	// what is here already: his readers are given nothing before the
	// supernode or the source has said that he may have it.
	Guarded bool
	// Fresh gives the secret headers of Request as they are now, when the
	// source has refused the ones before in mid-task; nil: they stay.
	Fresh   func(ctx context.Context) dragonfly.Header
	Limit   dragonfly.Rate // of receiving this task; 0: none
	Queue   int            // pieces in the receive queue; 0: 4
	MinRate dragonfly.Rate // below it a download without Timeout is given up
	Timeout time.Duration  // of the whole job; 0: from MinRate and the length
	Observe Observer       // may be nil
}

// Observer is told what happens to a job, for logs. It is called from the
// engine's goroutines and must not block.
type Observer interface {
	// Registered is one attempt to register at one supernode.
	Registered(node dragonfly.Member, info dragonfly.TaskInfo, cost time.Duration, err error)
	// Piece is an assignment that brought all its bytes.
	Piece(p PieceDone)
	// PieceFailed is an assignment that did not.
	PieceFailed(p PieceDone, reason dragonfly.FailReason, err error)
	// Fallback is the decision to go to the source, with v1's reason.
	Fallback(reason int, err error)
	// Migrated is a change of the supernode in mid-download.
	Migrated(node dragonfly.Member)
}

// PieceDone is an assignment that ended.
type PieceDone struct {
	Assignment dragonfly.Assignment
	Layout     dragonfly.Layout
	Bytes      int64
	Took       time.Duration
}

// Progress is a job's state at one moment.
type Progress struct {
	Task       dragonfly.TaskID `json:"task"`
	Length     int64            `json:"length"` // dragonfly.UnknownLength until known
	Done       int64            `json:"done"`   // bytes verified or arrived
	FromSource int64            `json:"fromSource"`
	FromSeed   int64            `json:"fromSeed"`
	FromPeers  int64            `json:"fromPeers"`
	Node       string           `json:"node,omitempty"` // host:port of the supernode
	Reason     int              `json:"reason"`         // v1's back-source reason
	Limited    bool             `json:"limited,omitempty"`
}

// retryAfter is how long supernodes that refuse are left before the second
// attempt, half as much again at random.
const retryAfter = 500 * time.Millisecond

// maxSlots is how many pieces of a task a supernode gives at once (FAQ:
// sequence of P2P distribution).
const maxSlots = 4

// Download is a started job.
type Download struct {
	job   Job
	t     *task
	base  [3]int64      // of task.bytes when the job began
	done  chan struct{} // closed when the job has ended
	may   chan struct{} // closed when readers may be given something
	allow func()        // closes may
	close func()

	mu     sync.Mutex // guards below
	err    error
	reason int
	node   string
	got    *[3]int64 // by the end of the job, as task.bytes; nil: it has not ended
	h      *holding  // of the finished content
	file   *os.File  // of it
}

// Start begins a job and returns at once. Jobs for the same task share one
// download. ctx ends the job, as Close does.
func (e *Engine) Start(ctx context.Context, job Job) (*Download, error) {
	u, err := url.Parse(job.Request.URL)
	if err != nil || u.Host == "" {
		return nil, &dragonfly.Error{Kind: dragonfly.Invalid, Message: "the url must look like http://host/path"}
	}
	if e.ctx.Err() != nil {
		return nil, errClosed
	}
	d := &Download{job: job, done: make(chan struct{}), may: make(chan struct{})}
	d.allow = sync.OnceFunc(func() { close(d.may) })
	if !job.Guarded {
		d.allow()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	working := e.work()
	d.close = func() { cancel(errStopped) }

	e.mu.Lock() // until the task is wanted, else it may be let go
	t := e.found(job.Request.TaskID())
	d.t = t
	t.mu.Lock()
	first := len(t.downloads) == 0
	t.downloads[d] = struct{}{}
	if first {
		t.job = job.ID
		t.req, t.serves = job.Request, job.Pattern == PatternP2P
		t.limited.Store(false)
	}
	for i := range t.bytes {
		d.base[i] = t.bytes[i].Load()
	}
	t.relimit()
	t.mu.Unlock()
	e.mu.Unlock()
	e.wg.Go(func() {
		defer working()
		defer context.AfterFunc(e.ctx, func() { cancel(errClosed) })()
		d.run(ctx)
		cancel(nil)
		d.left()
	})
	return d, nil
}

// relimit makes the loosest limit of the present jobs that of the task. t.mu is
// held.
func (t *task) relimit() {
	var loosest dragonfly.Rate
	for d := range t.downloads {
		if d.job.Limit == 0 {
			loosest = 0
			break
		}
		loosest = max(loosest, d.job.Limit)
	}
	SetRate(t.limiter, loosest)
}

var errStopped = &dragonfly.Error{Kind: dragonfly.Canceled, Message: "the download was cancelled"}

// left takes an ended download out of its task; the last one stops the
// transfers.
func (d *Download) left() {
	t := d.t
	t.mu.Lock()
	delete(t.downloads, d)
	t.relimit()
	last, n, h, job := len(t.downloads) == 0, t.node, t.h, t.job
	t.mu.Unlock()
	if last && h != nil {
		if !h.complete() {
			t.mu.Lock()
			for _, f := range t.flows {
				f.cancel()
			}
			t.mu.Unlock()
		}
		if n != nil {
			n.report(dragonfly.Event{Kind: dragonfly.EventStopped, Task: t.id, Version: h.version, Job: job})
		}
	}
	got := d.received()
	d.mu.Lock()
	d.got = &got
	d.mu.Unlock()
	close(d.done)
}

// received is what the task got since the job began, from source, seed and
// peers.
func (d *Download) received() (got [3]int64) {
	for i := range got {
		got[i] = d.t.bytes[i].Load() - d.base[i]
	}
	return got
}

// end records the outcome; the first one counts.
func (d *Download) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil && d.h == nil {
		d.err = err
	}
	d.close()
}

// run drives the download to its end.
func (d *Download) run(ctx context.Context) {
	h, file, err := d.attempt(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil { // it was ended from outside
		if file != nil {
			file.Close()
		}
		return
	}
	d.h, d.file, d.err = h, file, err
}

// attempt brings the content and gives the holding that is complete, with its
// file, which stays readable when another version follows.
func (d *Download) attempt(ctx context.Context) (*holding, *os.File, error) {
	for try := 0; ; try++ {
		err := d.timed(ctx, d.fetch)
		if errors.Is(err, errTimeout) && ctx.Err() == nil && !d.fromSource() {
			// The swarm had its time; the source gets as much (v1-protocol 9.6).
			err = d.timed(ctx, func(ctx context.Context) error { return d.fallback(ctx, ReasonNone, err) })
		}
		if err != nil {
			return nil, nil, err
		}
		h, file, err := d.finish(ctx)
		if lie, ok := errors.AsType[*doubted](err); ok {
			if err := d.t.doubt(d.t.holding(), lie.error); err != nil {
				return nil, nil, err
			}
			continue // from the source
		}
		if h != nil || err != nil {
			return h, file, err
		}
		if try == anew {
			return nil, nil, errSuperseded
		}
	}
}

// finish checks the content that was brought. It gives nothing when that is
// complete no more: another version began, or the disk had lost a piece.
func (d *Download) finish(ctx context.Context) (*holding, *os.File, error) {
	h := d.t.holding()
	if h == nil || !h.has(d.job.Want) {
		return nil, nil, nil
	}
	if err := d.t.told(ctx); err != nil {
		return nil, nil, err
	}
	if len(d.job.Want) > 0 {
		return h, nil, nil
	}
	file, err := h.content.OpenFile()
	if err != nil {
		return nil, nil, nil
	}
	for n := range dragonfly.PieceNum(h.Layout().Pieces()) {
		if !h.sure(n) {
			file.Close()
			return nil, nil, nil
		}
	}
	if err := d.judge(ctx, h); err != nil {
		file.Close()
		if d.t.holding() != h && dragonfly.KindOf(err) != dragonfly.DigestMismatch && ctx.Err() == nil {
			return nil, nil, nil // it was let go meanwhile
		}
		return nil, nil, err
	}
	return h, file, nil
}

// vouched waits for the supernode's word that its seed found the digest which
// the URL names: every piece was verified against the seed's manifest, and one
// SHA-256 for all hosts is enough. It says false where the digest must be found
// here: it costs nothing, bytes came past the swarm, or the word does not come.
func (d *Download) vouched(ctx context.Context, h *holding, want dragonfly.Digest) bool {
	if h.Layout().Length <= dragonfly.InlineMax || h.sourced() || d.t.bytes[0].Load() > 0 {
		return false
	}
	late := time.NewTimer(time.Second + time.Duration(h.Layout().Length/slowestHash)*time.Second)
	defer late.Stop()
	for {
		changed := d.t.change()
		if whole := h.vouched(dragonfly.Digest{}); !whole.IsZero() {
			return whole == want
		}
		d.t.mu.Lock()
		lost := d.t.node == nil || d.t.h != h
		d.t.mu.Unlock()
		if lost {
			return false
		}
		select {
		case <-changed:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// slowestHash is what a seed hashes at least, in bytes per second.
const slowestHash = 50_000_000

var errTimeout = &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the download took longer than --timeout or --minrate allow"}

// timed runs a part of the job within its time: Timeout, else 10 s and what
// the length takes at MinRate, once the length is known (v1-protocol 9.6).
func (d *Download) timed(ctx context.Context, part func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if d.job.Timeout > 0 {
		defer time.AfterFunc(d.job.Timeout, func() { cancel(errTimeout) }).Stop()
	} else if d.job.MinRate > 0 {
		d.t.e.wg.Go(func() {
			length := d.t.length(ctx)
			allowed := 10*time.Second + time.Duration(length/int64(d.job.MinRate))*time.Second
			timer := time.NewTimer(allowed)
			defer timer.Stop()
			select {
			case <-timer.C:
				cancel(errTimeout)
			case <-ctx.Done():
			}
		})
	}
	err := part(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errTimeout) {
		return cause
	}
	return err
}

// length waits until the length of the content is known; 0 when ctx ends.
func (t *task) length(ctx context.Context) int64 {
	for {
		changed := t.change()
		if h := t.holding(); h != nil && h.Layout().Known() {
			return h.Layout().Length
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0
		}
	}
}

// fetch makes the content complete: through the swarm where it can, else from
// the source.
func (d *Download) fetch(ctx context.Context) error {
	d.t.recheck()
	switch {
	case d.job.Pattern == PatternSource:
		return d.fallback(ctx, ReasonAsked, nil)
	case len(d.job.Nodes) == 0 || d.t.e.cfg.Dial == nil:
		return d.fallback(ctx, ReasonNoNodes, nil)
	case d.t.doubts():
		return d.fallback(ctx, ReasonDownload, errors.New("the swarm gave another content than the digest says"))
	}
	began := false
	var patience time.Time
	for {
		n, info, err := d.join(ctx, began)
		switch {
		case err == nil && info.Grant == dragonfly.GrantDirect:
			return d.fallback(ctx, ReasonRegister, errors.New("the supernode cannot reach the source and leaves it to this host"))
		case err == nil:
			began, patience = true, time.Time{}
			err = d.await(ctx, n)
			if errors.Is(err, errGranted) {
				return d.fallback(ctx, ReasonDownload, err)
			}
			if err == nil || !errors.Is(err, errNodeLost) {
				return err
			}
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case definitive(err):
			return err
		case began:
			// The source is spared for a while: a supernode that was only
			// restarted is back soon, and everybody would ask at once.
			now := time.Now()
			if patience.IsZero() {
				patience = now.Add(5*time.Second + rand.N(5*time.Second))
			}
			if now.Before(patience) {
				select {
				case <-time.After(200*time.Millisecond + rand.N(200*time.Millisecond)):
				case <-ctx.Done():
				}
				continue
			}
			return d.fallback(ctx, ReasonDownload, err)
		default:
			return d.fallback(ctx, ReasonRegister, err)
		}
	}
}

// definitive says that asking another supernode or the source gives the same.
func definitive(err error) bool {
	switch dragonfly.KindOf(err) {
	case dragonfly.Invalid, dragonfly.NotFound, dragonfly.Unauthorized, dragonfly.Forbidden, dragonfly.DigestMismatch, dragonfly.NoSpace:
		return true
	}
	return false
}

// join registers the task at the first supernode of its ranking that takes it;
// each is tried twice (FAQ: multiple-supernode mode), but for those that took
// the connection and their share of the patience and did not answer.
func (d *Download) join(ctx context.Context, again bool) (*node, dragonfly.TaskInfo, error) {
	members := d.job.Nodes
	var last error
	start, patience := time.Now(), d.t.e.cfg.Patience
	slow := map[string]bool{}
	for round := range 2 {
		if round > 0 && !again && !d.job.Guess && time.Since(start) < retryAfter {
			// They refused at once; one that was only restarted is back soon.
			select {
			case <-time.After(retryAfter + rand.N(retryAfter/2)):
			case <-ctx.Done():
				return nil, dragonfly.TaskInfo{}, context.Cause(ctx)
			}
		}
		share := min(patience, 2*patience/time.Duration(len(members)))
		for _, m := range dragonfly.Rank(d.t.id, members) {
			if slow[m.Addr] {
				continue
			}
			n := d.t.e.node(m)
			began := time.Now()
			taken := d.t.join()
			info, err := n.register(ctx, d.t, d.job.Request, share)
			slow[m.Addr] = errors.Is(err, errSilent)
			if e, ok := errors.AsType[*dragonfly.Error](err); ok && e.Kind == dragonfly.NotOwner && len(e.Members) > 0 && round == 0 {
				members = e.Members
			}
			if d.job.Observe != nil {
				d.job.Observe.Registered(m, info, time.Since(began), err)
			}
			if err == nil {
				err = d.joined(n, info)
			}
			taken()
			if err == nil {
				d.mu.Lock()
				moved := again && d.node != m.Addr
				d.node = m.Addr
				d.mu.Unlock()
				if moved && d.job.Observe != nil {
					d.job.Observe.Migrated(m)
				}
				return n, info, nil
			}
			last = err
			if ctx.Err() != nil || definitive(err) {
				return nil, info, err
			}
		}
	}
	return nil, dragonfly.TaskInfo{}, last
}

// joined takes in the answer to a registration.
func (d *Download) joined(n *node, info dragonfly.TaskInfo) error {
	if info.Grant == dragonfly.GrantDirect {
		return nil
	}
	if info.Failed != nil {
		return info.Failed
	}
	t := d.t
	t.mu.Lock()
	t.node, t.granted = n, false
	t.req = d.job.Request // these credentials are good
	t.mu.Unlock()
	t.e.door.Proved(d.job.Request)
	d.allow()
	h, err := t.adopt(info.Version, info.Layout, info.Ticket, source.Info{})
	if err != nil {
		return err
	}
	h.vouched(info.Whole)
	d.hash(h)
	if info.Complete && !h.complete() {
		return t.inline(h, info.Inline)
	}
	return nil
}

// inline takes content that came inside a register answer.
func (t *task) inline(h *holding, content []byte) error {
	layout := h.Layout()
	if layout.Length != int64(len(content)) {
		return &dragonfly.Error{Kind: dragonfly.Internal, Message: "the supernode's inline content has another length than it announced"}
	}
	if _, err := h.content.WriteAt(content, 0); err != nil {
		return err
	}
	t.count(dragonfly.ParentSeed, int64(len(content)))
	blocks := make([]piecehash.Block, 0, 1)
	for n := range dragonfly.PieceNum(layout.Pieces()) {
		from, to := layout.Extent(n)
		blocks = blocks[:0]
		for b := from; b == from || b < to; b += dragonfly.BlockLen {
			blocks = append(blocks, piecehash.SumBlock(content[b:min(b+dragonfly.BlockLen, to)]))
		}
		if err := h.commit(n, piecehash.Piece(blocks)); err != nil {
			return err
		}
		ev := dragonfly.Event{Kind: dragonfly.EventVerified, Task: h.task, Version: h.version, Piece: n}
		t.report(ev)
		t.observe(func(o Observer) {
			o.Piece(PieceDone{Layout: layout, Bytes: to - from, Assignment: dragonfly.Assignment{Task: h.task, Version: h.version,
				Piece: n, Span: dragonfly.Span{From: from, To: to}, Parent: dragonfly.Parent{Kind: dragonfly.ParentSeed}}})
		})
	}
	return nil
}

// news takes in what a supernode says about a task later on.
func (t *task) news(info dragonfly.TaskInfo) {
	if info.Failed != nil {
		t.fail(info.Failed)
		return
	}
	if info.Grant == dragonfly.GrantDirect {
		t.mu.Lock()
		t.granted = true
		t.notify()
		t.mu.Unlock()
		return
	}
	h, err := t.adopt(info.Version, info.Layout, info.Ticket, source.Info{})
	if err != nil {
		t.fail(err)
		return
	}
	h.vouched(info.Whole)
	for n := range h.begun() {
		t.reconsider(h, n) // its length may be the news
	}
	t.mu.Lock()
	t.notify()
	t.mu.Unlock()
}

// leaveNode says that the task is registered nowhere any more.
func (t *task) leaveNode(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.node == n {
		t.node = nil
		t.notify()
	}
}

// errGranted is why the swarm is left: nobody in it gets on.
var errGranted = errors.New("the supernode cannot read the source any more and leaves it to this host")

// await returns when the content is complete, or errNodeLost or errGranted.
func (d *Download) await(ctx context.Context, n *node) error {
	t := d.t
	for {
		changed := t.change()
		t.mu.Lock()
		h, at, granted := t.h, t.node, t.granted
		t.mu.Unlock()
		switch {
		case h != nil && h.has(d.job.Want):
			return nil
		case at != n:
			return errNodeLost
		case granted:
			return errGranted
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fallback reads the source from this host.
func (d *Download) fallback(ctx context.Context, reason int, why error) error {
	if d.job.NoSource && reason != ReasonAsked {
		reason += ReasonNoSource
	}
	d.mu.Lock()
	d.reason = reason
	d.mu.Unlock()
	if d.job.Observe != nil {
		d.job.Observe.Fallback(reason, why)
	}
	if d.job.NoSource && reason != ReasonAsked {
		if why == nil {
			why = errors.New("no supernode is configured")
		}
		return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "no supernode can be used and --notbs forbids the source", Err: why}
	}
	if d.job.Guarded {
		if _, err := d.t.e.door.Admit(ctx, d.job.Request); err != nil {
			return err
		}
		d.allow()
	}
	d.t.mu.Lock()
	d.t.req = d.job.Request
	d.t.mu.Unlock()
	return d.t.direct(ctx, d.job.Want)
}

// registration is what this host says about the task to a supernode, with the
// credentials of req.
func (t *task) registration(req dragonfly.Request) dragonfly.Registration {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := dragonfly.Registration{Job: t.job, Request: req, Serve: t.serves, Holding: len(t.downloads) == 0, Inline: true}
	all := false
	for d := range t.downloads {
		if q := d.job.Queue; q < maxSlots {
			r.Slots = q // fewer than the supernode would give
		}
		all = all || len(d.job.Want) == 0
		r.Want = append(r.Want, d.job.Want...)
	}
	if all {
		r.Want = nil
	}
	r.Want = join(r.Want)
	if t.h != nil {
		r.Version, r.Layout, r.Held = t.h.version, t.h.Layout(), t.h.content.Held()
	} else if content, ok := t.e.cfg.Store.Lookup(t.id); ok {
		r.Version, r.Layout, r.Held = content.Meta().Version, content.Meta().Layout, content.Held()
		content.Release()
	}
	return r
}

// join makes of the spans that many jobs want as few as a registration takes:
// those that touch become one, and then those with the least between them.
func join(want []dragonfly.Span) (spans []dragonfly.Span) {
	ordered := slices.Clone(want)
	for i := range ordered {
		if ordered[i].To < 0 {
			ordered[i].To = math.MaxInt64
		}
	}
	slices.SortFunc(ordered, func(a, b dragonfly.Span) int { return cmp.Compare(a.From, b.From) })
	for _, s := range ordered {
		spans = merge(spans, s) // at their end
	}
	if len(spans) > dragonfly.MaxWant {
		gap := func(i int) int64 { return spans[i].From - spans[i-1].To }
		var gaps []int
		for i := range spans[1:] {
			gaps = append(gaps, i+1)
		}
		slices.SortFunc(gaps, func(a, b int) int { return cmp.Compare(gap(b), gap(a)) })
		kept := gaps[:dragonfly.MaxWant-1]
		slices.Sort(kept)
		var fewer []dragonfly.Span
		first := 0
		for _, next := range append(kept, len(spans)) {
			fewer = append(fewer, dragonfly.Span{From: spans[first].From, To: spans[next-1].To})
			first = next
		}
		spans = fewer
	}
	if last := len(spans) - 1; last >= 0 && spans[last].To == math.MaxInt64 {
		spans[last].To = dragonfly.UnknownLength
	}
	return spans
}

func (t *task) isSeed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seed
}

func (t *task) atWork() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}

func (t *task) starving() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.flows) > 0 {
		return false
	}
	for d := range t.downloads {
		if t.h == nil || !t.h.has(d.job.Want) {
			return true
		}
	}
	return false
}

// Progress is the job's present state.
func (d *Download) Progress() Progress {
	t := d.t
	p := Progress{Task: t.id, Length: dragonfly.UnknownLength, Limited: t.limited.Load()}
	got := d.received()
	d.mu.Lock()
	h := d.h
	p.Reason, p.Node = d.reason, d.node
	if d.got != nil {
		got = *d.got
	}
	d.mu.Unlock()
	p.FromSource, p.FromSeed, p.FromPeers = got[0], got[1], got[2]
	if h == nil {
		h = t.holding()
	}
	if h != nil {
		p.Length, p.Done = h.Layout().Length, h.done()
	}
	return p
}

// done is how many bytes are held or arriving.
func (h *holding) done() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var total int64
	held := h.content.Held()
	for n := range held.All() {
		from, to := h.layout.Extent(n)
		total += to - from
	}
	for n, a := range h.arriving {
		if !held.Has(n) {
			for _, s := range a.spans {
				total += s.Len()
			}
		}
	}
	return total
}

// Changed is closed when the job's state changes next.
func (d *Download) Changed() <-chan struct{} { return d.t.change() }

// Done is closed when the job has ended.
func (d *Download) Done() <-chan struct{} { return d.done }

// Wait returns the job's outcome, a *dragonfly.Error where somebody can act on
// it.
func (d *Download) Wait(ctx context.Context) error {
	select {
	case <-d.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// succeededWith says that the content which the job ended with is that of h.
func (d *Download) succeededWith(h *holding) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.h == h {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return cmp.Or(h.void, error(errSuperseded))
}

// File is a read-only descriptor of the finished content, with an offset of its
// own; the caller closes it.
func (d *Download) File() (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return nil, errors.New("the download has not succeeded, or is closed")
	}
	return os.Open(fmt.Sprintf("/dev/fd/%d", d.file.Fd())) // its name may be away or another's
}

// Reader gives the bytes of a span of the content, with To
// dragonfly.UnknownLength for its end, in order and as they come: what comes
// straight from source or seed before its piece is verified. io.EOF says that
// all of it was right. It waits for the task's version to be known, and for a
// guarded job's leave.
func (d *Download) Reader(ctx context.Context, span dragonfly.Span) (io.Reader, error) {
	select {
	case <-d.may:
	case <-d.done:
		if err := d.Wait(ctx); err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for {
		changed := d.t.change()
		if h := d.t.holding(); h != nil {
			if span.To < 0 && len(d.job.Want) > 0 {
				span.To = math.MaxInt64 // the content's end, whether all of it is here or not
			}
			return &reader{ctx: ctx, h: h, d: d, off: span.From, end: span.From, to: span.To, stand: -1}, nil
		}
		select {
		case <-changed:
		case <-d.done:
			return nil, d.Wait(ctx)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Close ends the job if it is still at work; what was verified stays.
func (d *Download) Close() error {
	d.close()
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return nil
	}
	file := d.file
	d.file = nil
	return file.Close()
}

// sourceCID names the source of a URL in logs, beside v1's cids.
func sourceCID(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "source:"
	}
	return "source:" + u.Host
}
