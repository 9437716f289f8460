// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/transfer"
)

// readSize is one read from a parent or the source: a few blocks, so that a
// hop of a cut-through chain adds little, and few system calls are made.
const readSize = 4 * dragonfly.BlockLen

// prefixStep is how many received bytes of an unverified piece may be fetched
// again after a crash.
const prefixStep = 16 * dragonfly.BlockLen

// buffers holds the one buffer per transfer that bodies pass through.
var buffers = sync.Pool{New: func() any { return new(make([]byte, readSize)) }}

// fill copies a body into an arrival at span, hashing on the way, and says
// how far it came: end is where the next transfer of this piece has to begin.
// A broken parent leaves whole blocks only, so that each block has one sender.
// An io.EOF before the span's end is
// returned as such when the length of the content is unknown.
func (t *task) fill(ctx context.Context, h *holding, into *arrival, a dragonfly.Assignment, span dragonfly.Span, body io.Reader) (end int64, err error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, from := a.Piece, a.Parent.Kind
	start, _ := h.Layout().Extent(n)
	done, err := h.filling(ctx, into, a, span)
	if err != nil {
		return span.From, err
	}
	defer func() { done(end) }()
	begun := (span.From - start) % dragonfly.BlockLen // bytes of a block that a broken source left
	blocks := piecehash.NewHasher(into.blocks, span.From-begun-start)
	defer blocks.Close()
	if begun > 0 {
		if _, err := io.Copy(blocks, io.NewSectionReader(h.content.File(), span.From-begun, begun)); err != nil {
			return span.From, &storeError{err}
		}
	}

	recorded := span.From
	for end = span.From; end < span.To; {
		var m int
		m, err = body.Read((*buf)[:min(readSize, span.To-end)])
		if m > 0 {
			b := (*buf)[:m]
			if lerr := t.throttle(ctx, m); lerr != nil {
				err = lerr
				break
			}
			blocks.Write(b)
			if _, werr := h.content.WriteAt(b, end); werr != nil {
				err = &storeError{werr}
				break
			}
			end += int64(m)
			h.advance(into, dragonfly.Span{From: span.From, To: end}, from != dragonfly.ParentPeer)
			t.count(from, int64(m))
			if end-recorded >= prefixStep {
				recorded = t.remember(h, n, from)
			}
		}
		if err != nil {
			break
		}
	}
	if end == span.To {
		err = nil
	}
	_, pieceEnd := h.Layout().Extent(n)
	if end == pieceEnd || atEnd(err) {
		blocks.Flush() // the content's last block may be short
		return end, err
	}
	if whole := start + (end-start)/dragonfly.BlockLen*dragonfly.BlockLen; whole < end && from != dragonfly.ParentSource {
		whole = max(whole, span.From)
		h.cut(into, dragonfly.Span{From: whole, To: end})
		end = whole
	}
	t.remember(h, n, from)
	return end, err
}

// atEnd says that a body came to its clean end. Inside another error io.EOF is
// the end of something else, most often of a connection.
func atEnd(err error) bool {
	return err == io.EOF //nolint:errorlint // see above
}

// storeError marks a failure to write here, which is no parent's fault.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

// remember records the received start of a piece for a later process. Losing
// such a record costs bytes, never correctness, so its errors do not matter.
// What came from others is not recorded beside what came from the source: a
// later process could not tell them apart.
func (t *task) remember(h *holding, n dragonfly.PieceNum, from dragonfly.ParentKind) int64 {
	to := h.received(n)
	start, _ := h.Layout().Extent(n)
	to = start + (to-start)/dragonfly.BlockLen*dragonfly.BlockLen
	if to > start && (from == dragonfly.ParentSource || !h.sourced()) {
		_ = h.content.Prefix(n, to)
	}
	return to
}

// sourced says that the content was begun from the source, so that the records
// of an earlier process are about bytes of the source.
func (h *holding) sourced() bool {
	meta := h.content.Meta()
	return meta.ETag != "" || meta.LastModified != ""
}

// recall brings back the received start of a piece that an earlier process
// left, and hashes it again. Assignments of several parts of the piece may begin
// at once: one of them does it, the others wait.
func (t *task) recall(h *holding, n dragonfly.PieceNum) {
	prefix := h.content.Prefixes()[n]
	start, stop := h.Layout().Extent(n)
	if prefix <= start || prefix > stop || h.received(n) > start {
		return
	}
	a := h.arrive(n)
	a.recall.Lock()
	defer a.recall.Unlock()
	if h.received(n) > start {
		return
	}
	blocks := piecehash.NewHasher(a.blocks, 0)
	defer blocks.Close()
	if _, err := io.Copy(blocks, io.NewSectionReader(h.content.File(), start, prefix-start)); err != nil {
		return
	}
	blocks.Flush()
	h.mu.Lock()
	a.recalled = true
	h.mu.Unlock()
	h.advance(a, dragonfly.Span{From: start, To: prefix}, false)
}

// restart forgets what is here of a piece that is to be read from the source
// if nothing can verify it: no digest is known, and some of it came from
// others.
func (t *task) restart(h *holding, n dragonfly.PieceNum) {
	if a := h.arrive(n); h.expected(n).IsZero() && !h.pure(a) && h.discard(n, a) {
		t.lost(h, n)
	}
}

// lost says that nothing is here any more of a piece that was thrown away, to a
// later process, too.
func (t *task) lost(h *holding, n dragonfly.PieceNum) {
	_ = h.content.Drop(n)
	t.report(dragonfly.Event{Kind: dragonfly.EventLost, Task: h.task, Version: h.version, Piece: n})
}

// throttle waits for the limits of the task and of the engine.
func (t *task) throttle(ctx context.Context, n int) error {
	own := t.limit()
	for _, l := range []*rate.Limiter{own, t.e.cfg.Receive} {
		if l == nil || l.Limit() == rate.Inf {
			continue
		}
		r := l.ReserveN(time.Now(), n)
		if !r.OK() {
			return l.WaitN(ctx, n)
		}
		d := r.Delay()
		if d <= 0 {
			continue
		}
		if l == own {
			t.limited.Store(true)
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			r.Cancel()
			return context.Cause(ctx)
		}
	}
	return nil
}

// carry executes one assignment whose parent is a peer or the seed, and
// reports how it ended.
func (t *task) carry(ctx context.Context, h *holding, a dragonfly.Assignment) {
	began := time.Now()
	t.recall(h, a.Piece)
	into := h.arrive(a.Piece)
	end, brought, err := h.fetch(ctx, into, a, func(gap dragonfly.Span) (int64, error) { return t.transfer(ctx, h, into, a, gap) })
	t.landed(h, into, a, end, brought, time.Since(began), err)
}

// fetch transfers what is missing of an assignment's span, gap by gap, and says
// how far the span is here and how many bytes were brought. What others bring is
// waited for, not fetched.
func (h *holding) fetch(ctx context.Context, into *arrival, a dragonfly.Assignment, transfer func(gap dragonfly.Span) (end int64, err error)) (end, brought int64, err error) {
	for end = a.Span.From; ; {
		gap, open, err := h.gap(ctx, into, a.Piece, dragonfly.Span{From: end, To: a.Span.To})
		if err != nil {
			return end, brought, err
		}
		if !open {
			return a.Span.To, brought, nil
		}
		end, err = transfer(gap)
		brought += end - gap.From
		if err != nil || gap.Len() == 0 {
			return end, brought, err
		}
	}
}

func (t *task) transfer(ctx context.Context, h *holding, into *arrival, a dragonfly.Assignment, span dragonfly.Span) (end int64, err error) {
	h.mu.Lock()
	ticket := h.tickets[0]
	h.mu.Unlock()
	body, err := t.e.cfg.Parents.Fetch(ctx, transfer.Fetch{
		Addrs: a.Parent.Addrs, Task: a.Task, Version: a.Version, Ticket: ticket,
		Span: span, Session: a.Parent.Session,
	})
	if err != nil {
		return span.From, err
	}
	defer body.Close()
	return t.fill(ctx, h, into, a, span, body)
}

// landed settles what an assignment brought: so many bytes of into, which are
// here up to end now; err is why that is not all.
func (t *task) landed(h *holding, into *arrival, a dragonfly.Assignment, end, brought int64, took time.Duration, err error) {
	defer t.landing()()
	if _, stop := h.Layout().Extent(a.Piece); a.Span.To > stop {
		a.Span.To = stop // the length became known meanwhile
	}
	if err == nil && end < a.Span.To {
		err = io.ErrUnexpectedEOF
	}
	done := PieceDone{Assignment: a, Layout: h.Layout(), Bytes: brought, Took: took}
	whole, ok := h.landed(a, into)
	switch {
	case !ok:
		t.overtaken(h, done)
	case !whole && atEnd(err) && !h.Layout().Known():
		t.report(t.event(dragonfly.EventReceived, h, a)) // the length will follow
		t.observe(func(o Observer) { o.Piece(done) })
	case err != nil && !whole:
		t.failed(done, end, err)
	case h.content.Has(a.Piece):
		t.report(t.event(dragonfly.EventVerified, h, a))
	case !whole:
		t.report(t.event(dragonfly.EventReceived, h, a))
		t.observe(func(o Observer) { o.Piece(done) })
	case t.settle(h, done):
		t.observe(func(o Observer) { o.Piece(done) })
	}
}

// overtaken ends an assignment whose piece was settled before: it is held, or
// it proved bad and what this assignment brought went with the rest.
func (t *task) overtaken(h *holding, done PieceDone) {
	a := done.Assignment
	if h.content.Has(a.Piece) {
		t.report(t.event(dragonfly.EventVerified, h, a))
		return
	}
	t.failed(done, a.Span.From, errOvertaken)
}

// settle verifies a piece that is whole, or leaves it until its digest is
// known. It says false when the piece proved bad or could not be kept.
func (t *task) settle(h *holding, done PieceDone) bool {
	a := done.Assignment
	arrived, got, last, ok := h.whole(a.Piece)
	if !ok {
		t.overtaken(h, done)
		return false
	}
	want := h.expected(a.Piece)
	if want.IsZero() && last.Task == h.task && h.pure(arrived) {
		want = got // this process read it from the source: it is the manifest
	}
	if want.IsZero() {
		t.report(t.event(dragonfly.EventReceived, h, a))
		return true
	}
	if want != got {
		t.accuse(h, a, arrived, want, done)
		return false
	}
	if err := h.commit(a.Piece, got); err != nil {
		t.failed(done, a.Span.To, &storeError{err})
		return false
	}
	t.report(t.event(dragonfly.EventVerified, h, a))
	return true
}

// pure says that every byte of an arrival came from the source.
func (h *holding) pure(a *arrival) bool {
	sourced := h.sourced()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range a.senders {
		if s.assignment.Parent.Kind != dragonfly.ParentSource {
			return false
		}
	}
	return !a.recalled || sourced
}

// accuse finds who sent the wrong bytes of a piece, reports it and throws the
// piece away. With one sender there is nothing to find; with several the
// block digests, which are proved by the piece's digest, tell.
func (t *task) accuse(h *holding, a dragonfly.Assignment, arrived *arrival, want dragonfly.PieceDigest, done PieceDone) {
	if !h.discard(a.Piece, arrived) {
		t.overtaken(h, done)
		return
	}
	start, stop := h.Layout().Extent(a.Piece)
	err := &transfer.FetchError{Reason: dragonfly.FailMismatch, Err: errors.New("the piece's digest is not the manifest's")}
	blamed := t.culprit(h, a.Piece, arrived, want, dragonfly.Span{From: start, To: stop})
	if blamed == nil {
		t.lost(h, a.Piece)
		return
	}
	_ = h.content.Drop(a.Piece)
	done.Assignment = blamed.assignment
	t.failed(done, start, err) // which says that all of the piece is lost
}

func (t *task) culprit(h *holding, n dragonfly.PieceNum, arrived *arrival, want dragonfly.PieceDigest, extent dragonfly.Span) *sender {
	if len(arrived.senders) == 1 && arrived.senders[0].span == extent {
		return &arrived.senders[0]
	}
	ctx, cancel := context.WithTimeout(t.e.ctx, t.e.cfg.Stall)
	defer cancel()
	for i := range arrived.senders {
		p := arrived.senders[i].assignment.Parent
		if p.Kind == dragonfly.ParentSource {
			continue
		}
		h.mu.Lock()
		ticket := h.tickets[0]
		h.mu.Unlock()
		blocks, err := t.e.cfg.Parents.Blocks(ctx, transfer.Fetch{Addrs: p.Addrs, Task: h.task,
			Version: h.version, Ticket: ticket, Session: p.Session}, n)
		if err != nil || len(blocks) > len(arrived.blocks) || piecehash.Piece(blocks) != want {
			continue
		}
		for b := range blocks {
			if blocks[b] == arrived.blocks[b] {
				continue
			}
			at := extent.From + int64(b)*dragonfly.BlockLen
			for j := range arrived.senders {
				if s := &arrived.senders[j]; s.span.From <= at && at < s.span.To {
					return s
				}
			}
			return nil // it was here before: nobody's fault
		}
	}
	return nil
}

// failed reports an assignment that brought its bytes only up to end.
func (t *task) failed(done PieceDone, end int64, err error) {
	a := done.Assignment
	reason := reasonOf(err)
	ev := dragonfly.Event{Kind: dragonfly.EventFailed, Task: a.Task, Version: a.Version,
		Piece: a.Piece, Assignment: a.ID, Reason: reason, Offset: end}
	if reason == dragonfly.FailSource {
		ev.Failure = failure(err)
	}
	t.report(ev)
	if reason != dragonfly.FailCanceled {
		t.observe(func(o Observer) { o.PieceFailed(done, reason, err) })
	}
	if serr, ok := errors.AsType[*storeError](err); ok {
		t.fail(serr.error)
	}
}

// failure is the part of an error that another process can act on.
func failure(err error) *dragonfly.Error {
	e, _ := errors.AsType[*dragonfly.Error](err)
	return e
}

// reasonOf classifies why a transfer ended early.
func reasonOf(err error) dragonfly.FailReason {
	if _, ok := errors.AsType[*storeError](err); ok {
		return dragonfly.FailStore
	}
	if f, ok := errors.AsType[*transfer.FetchError](err); ok {
		return f.Reason
	}
	if e, ok := errors.AsType[*dragonfly.Error](err); ok && e.Kind != dragonfly.Canceled {
		return dragonfly.FailSource
	}
	if errors.Is(err, context.Canceled) || dragonfly.KindOf(err) == dragonfly.Canceled {
		return dragonfly.FailCanceled
	}
	return dragonfly.FailReset
}

// event is about an assignment. However a piece came to be held by the seed,
// its digest goes into the manifest: others wait for it.
func (t *task) event(kind dragonfly.EventKind, h *holding, a dragonfly.Assignment) dragonfly.Event {
	ev := dragonfly.Event{Kind: kind, Task: h.task, Version: h.version, Piece: a.Piece, Assignment: a.ID}
	if kind == dragonfly.EventVerified && t.isSeed() {
		ev.Digest = h.content.Digest(a.Piece)
	}
	return ev
}
