// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"cmp"
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"dragonfly"
	"dragonfly/source"
)

const (
	// lingering is how long the open body of a source waits for the next
	// assignment before it is closed.
	lingering = 5 * time.Second
	// skippable is how many unwanted bytes are read and dropped rather than
	// asking the source anew.
	skippable = 1 << 20
	// attempts is how often a source that breaks off without giving a byte is
	// asked again, a second apart at first.
	attempts = 4
)

// origin reads the source of one holding: one request at a time, which runs on
// as long as the next wanted bytes follow. The pieces come from the scheduler
// (the seed) or from the task itself when it is alone.
type origin struct {
	t    *task
	h    *holding
	req  func() dragonfly.Request // with the newest credentials
	mu   sync.Mutex               // guards queue and running
	wake chan struct{}            // capacity 1

	queue   []dragonfly.Assignment // ascending by span
	running bool

	reading sync.Mutex // guards the request at work, below
	body    *source.Body
	pos     int64 // content offset of body
	to      int64 // where body ends; 0: with the content
	ranges  bool  // the source serves ranges, as far as known
	asked   bool  // the source was opened before
	// validators are what the source said last: a content that came through
	// the swarm was stored without.
	validators source.Info
}

func newOrigin(t *task, h *holding) *origin {
	return &origin{t: t, h: h, req: t.request, wake: make(chan struct{}, 1), ranges: true}
}

// adopt takes over a body that was opened to learn about the content and ends at
// to, 0 for with the content. While another one is being read it is not needed.
func (o *origin) adopt(body *source.Body, to int64) {
	if !o.reading.TryLock() {
		body.Close()
		return
	}
	defer o.reading.Unlock()
	o.close()
	o.take(body, body.From, to)
}

// take makes a body that stands at the content offset off the one that is
// read. o.reading is held.
func (o *origin) take(body *source.Body, off, to int64) {
	o.body, o.pos, o.to, o.ranges, o.asked = body, off, to, body.Ranges, true
	o.validators = body.Info
}

// linger closes the adopted body unless assignments come for it.
func (o *origin) linger(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.running {
		o.running = true
		o.t.e.wg.Go(func() { o.run(ctx) })
	}
}

// close ends the request at work. o.reading is held.
func (o *origin) close() {
	if o.body != nil {
		o.body.Close()
		o.body = nil
	}
}

// enqueue adds an assignment and starts the reading goroutine if none runs.
func (o *origin) enqueue(ctx context.Context, a dragonfly.Assignment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i, _ := slices.BinarySearchFunc(o.queue, a, func(x, a dragonfly.Assignment) int {
		return cmp.Compare(x.Span.From, a.Span.From)
	})
	o.queue = slices.Insert(o.queue, i, a)
	if !o.running {
		o.running = true
		o.t.e.wg.Go(func() { o.run(ctx) })
		return
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// cancel takes an assignment out of the queue; one that is being read is read
// to its end.
func (o *origin) cancel(id dragonfly.AssignmentID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = slices.DeleteFunc(o.queue, func(a dragonfly.Assignment) bool { return a.ID == id })
}

// next is the first assignment at or after the position of the open request,
// else the first of all.
func (o *origin) next() (a dragonfly.Assignment, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return a, false
	}
	i := slices.IndexFunc(o.queue, func(a dragonfly.Assignment) bool { return a.Span.From >= o.pos })
	i = max(i, 0)
	a = o.queue[i]
	o.queue = slices.Delete(o.queue, i, i+1)
	return a, true
}

// runEnd is where the run of wanted bytes ends that an assignment begins; 0: it
// is not known, or with the content.
func (o *origin) runEnd(a dragonfly.Assignment) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	layout := o.h.Layout()
	_, end := layout.Extent(a.Piece)
	more := a.More
	for _, next := range o.queue {
		if more && next.Span.From == end {
			_, end = layout.Extent(next.Piece)
			more = next.More
		}
	}
	if more || !layout.Known() || end >= layout.Length {
		return 0
	}
	return end
}

// run reads assignments until none came for a while.
func (o *origin) run(ctx context.Context) {
	defer o.t.e.work()()
	timer := time.NewTimer(lingering)
	defer timer.Stop()
	for {
		if a, ok := o.next(); ok {
			began := time.Now()
			o.t.recall(o.h, a.Piece)
			o.t.restart(o.h, a.Piece)
			into := o.h.arrive(a.Piece)
			end, brought, err := o.h.fetch(ctx, into, a, func(gap dragonfly.Span) (int64, error) { return o.read(ctx, into, a, gap, o.runEnd(a)) })
			o.t.landed(o.h, into, a, end, brought, time.Since(began), o.outcome(a, end, err))
			o.t.ended(a.ID)
			timer.Reset(lingering)
			continue
		}
		select {
		case <-o.wake:
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		o.mu.Lock()
		if len(o.queue) > 0 && ctx.Err() == nil {
			o.mu.Unlock()
			timer.Reset(lingering)
			continue
		}
		o.running = false
		o.mu.Unlock()
		o.reading.Lock()
		o.close()
		o.reading.Unlock()
		return
	}
}

// outcome turns the end of the content into its length, and a change of the
// content into the end of this version.
func (o *origin) outcome(a dragonfly.Assignment, end int64, err error) error {
	switch {
	case atEnd(err):
		ev := o.t.event(dragonfly.EventLength, o.h, a)
		ev.Assignment, ev.Offset = 0, end
		o.t.report(ev)
		if from, to := o.h.Layout().Extent(a.Piece); from >= to && a.Piece > 0 {
			return errNoPiece
		}
		return nil
	case dragonfly.KindOf(err) == dragonfly.SourceChanged && err != nil:
		o.h.fail(err)
		ev := o.t.event(dragonfly.EventVoid, o.h, a)
		ev.Reason = dragonfly.FailSource
		ev.Failure = failure(err)
		o.t.report(ev)
	}
	return err
}

// errNoPiece says that the content ended exactly before this piece.
var errNoPiece = &dragonfly.Error{Kind: dragonfly.Canceled, Message: "the content ended before this piece"}

// read brings a span of a piece from the source, asking again where it breaks
// off. A new request ends at to, 0 for with the content. io.EOF means that the content ended at end, and its length was not
// known before.
func (o *origin) read(ctx context.Context, into *arrival, a dragonfly.Assignment, span dragonfly.Span, to int64) (end int64, err error) {
	o.reading.Lock()
	defer o.reading.Unlock()
	if l := o.h.Layout(); l.Known() && a.Piece > 0 && span.From >= l.Length {
		return span.From, errNoPiece // it was assigned while the length was unknown
	}
	pause := time.Second
	for try := 1; ; try++ {
		before := span.From
		span.From, err = o.readOnce(ctx, into, a, span, to)
		if err == nil || atEnd(err) {
			return span.From, err
		}
		if o.body != nil {
			o.close()
		}
		if span.From > before {
			try = 0
		}
		kind := dragonfly.KindOf(err)
		if ctx.Err() != nil || try >= attempts || kind != dragonfly.SourceFailed && kind != dragonfly.Throttled {
			return span.From, err
		}
		if wait := source.RetryAfter(err); wait > 0 {
			pause = min(wait, 30*time.Second)
		}
		o.t.e.cfg.Log.Info("asking the source again", "task", o.h.task, "offset", span.From, "after", pause, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return span.From, context.Cause(ctx)
		}
		pause *= 2
	}
}

func (o *origin) readOnce(ctx context.Context, into *arrival, a dragonfly.Assignment, span dragonfly.Span, to int64) (end int64, err error) {
	if err := o.seek(ctx, span.From, to); err != nil {
		return span.From, err
	}
	end, err = o.t.fill(ctx, o.h, into, a, span, o.body)
	o.pos = end
	if atEnd(err) && end == o.to && end > span.From { // of the request, not of the content
		o.close()
		return o.readOnce(ctx, into, a, dragonfly.Span{From: end, To: span.To}, to)
	}
	if atEnd(err) {
		if o.h.Layout().Known() {
			return end, &dragonfly.Error{Kind: dragonfly.SourceFailed, Message: "the source ended the content early", Err: io.ErrUnexpectedEOF}
		}
		if lerr := o.h.setLength(end); lerr != nil {
			return end, &storeError{lerr}
		}
	}
	if err != nil {
		o.close()
	}
	return end, err
}

// seek makes o.body stand at the content offset off; a new request ends at to.
func (o *origin) seek(ctx context.Context, off, to int64) error {
	if o.body != nil && o.pos <= off && (o.to == 0 || off < o.to) && (off-o.pos <= skippable || !o.ranges) {
		skipped, err := io.CopyN(io.Discard, o.body, off-o.pos)
		o.pos += skipped
		if err == nil {
			return nil
		}
	}
	o.close()
	state := stateOf(o.h.content.Meta())
	if state.ETag == "" && state.LastModified == "" {
		state.ETag, state.LastModified = o.validators.ETag, o.validators.LastModified
	}
	_, addressed := source.ContentAddressed(o.req().URL) // then its state is in its name
	if (off > 0 || o.asked) && state.ETag == "" && state.LastModified == "" && !addressed {
		return &dragonfly.Error{Kind: dragonfly.SourceChanged,
			Message: "the source gives neither ETag nor Last-Modified, so its content cannot be continued; it is read anew"}
	}
	state.To = to
	body, err := o.t.e.cfg.Source.Open(ctx, o.req(), off, state)
	if err != nil {
		return err
	}
	if v, _ := versionOf(body.Info); off == 0 && v != o.h.version && !v.IsZero() {
		body.Close()
		return &dragonfly.Error{Kind: dragonfly.SourceChanged, Message: "the content at the source changed"}
	}
	o.take(body, off, to)
	return nil
}
