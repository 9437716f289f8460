// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"cmp"
	"context"
	"crypto/subtle"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/store"
)

// holding is what this host has of one version of a task: the verified pieces
// in its store, and the pieces that are arriving. It knows nothing of
// schedulers or jobs; whoever writes into it or reads from it is told when it
// grows and when it becomes void.
type holding struct {
	task    dragonfly.TaskID
	version dragonfly.Version
	content *store.Content
	lost    func(dragonfly.PieceNum) // hears of pieces that the disk did not keep

	mu       sync.Mutex // guards all below
	layout   dragonfly.Layout
	tickets  [2]dragonfly.Ticket // the newest and the one before it
	manifest []dragonfly.PieceDigest
	arriving map[dragonfly.PieceNum]*arrival
	promises map[dragonfly.PieceNum][]*promise
	grown    chan struct{} // closed at the next change; nil while nobody waits
	verdicts []*verdict
	word     dragonfly.Digest // as the supernode says that its seed found it
	void     error            // why no more bytes of this version will come
}

// arrival is a piece on its way: which spans are here, and who sent them.
type arrival struct {
	blocks   []piecehash.Block
	spans    []dragonfly.Span // received, disjoint, ascending, content offsets
	trusted  []dragonfly.Span // of them, what came to this process straight from source or seed
	again    []dragonfly.Span // of the trusted ones, what is received once more: it may have been given as it was
	senders  []sender
	fillers  []dragonfly.Span // that transfers write into it now
	recalled bool             // an earlier process received the start
	recall   sync.Mutex       // held while that is hashed again: before holding.mu
}

// promise is a part of an arriving piece that a consumer was given before the
// piece was verified: whole blocks that came straight from source or seed.
type promise struct {
	piece  dragonfly.PieceNum
	a      *arrival
	span   dragonfly.Span // content offsets
	kept   bool           // the verified piece has the same bytes
	broken bool           // it has others
}

// settle compares with what became of the piece that begins at start.
func (p *promise) settle(a *arrival, start int64) {
	if p.a == a {
		p.broken = slices.ContainsFunc(a.again, func(s dragonfly.Span) bool { return s.From < p.span.To && p.span.From < s.To })
		p.kept = !p.broken
		return
	}
	from, to := (p.span.From-start)/dragonfly.BlockLen, (p.span.To-start+dragonfly.BlockLen-1)/dragonfly.BlockLen
	p.kept = a != nil && int(to) <= min(len(a.blocks), len(p.a.blocks)) && slices.Equal(a.blocks[from:to], p.a.blocks[from:to])
	p.broken = !p.kept
}

// sender is a parent's share of an arriving piece.
type sender struct {
	assignment dragonfly.Assignment
	span       dragonfly.Span
}

func newHolding(content *store.Content, ticket dragonfly.Ticket, lost func(dragonfly.PieceNum)) *holding {
	meta := content.Meta()
	return &holding{
		lost:     lost,
		task:     meta.Task,
		version:  meta.Version,
		content:  content,
		layout:   meta.Layout,
		tickets:  [2]dragonfly.Ticket{ticket},
		arriving: map[dragonfly.PieceNum]*arrival{},
		promises: map[dragonfly.PieceNum][]*promise{},
	}
}

// notify wakes everybody who waits for a change. h.mu is held.
func (h *holding) notify() {
	if h.grown != nil {
		close(h.grown)
		h.grown = nil
	}
}

// change is closed at the next change. h.mu is held.
func (h *holding) change() <-chan struct{} {
	if h.grown == nil {
		h.grown = make(chan struct{})
	}
	return h.grown
}

// fail makes the holding void: readers that wait for more get err.
func (h *holding) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.void == nil {
		h.void = err
		h.notify()
	}
}

// why is the reason of an error of the content's file: when the holding is void
// its file may be closed while it is read.
func (h *holding) why(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil && h.void != nil {
		return h.void
	}
	return err
}

func (h *holding) setTicket(t dragonfly.Ticket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tickets[0] != t {
		h.tickets = [2]dragonfly.Ticket{t, h.tickets[0]}
	}
}

// admits compares in constant time with the newest ticket and the one before
// it, which children may still present after a supernode was restarted.
func (h *holding) admits(t dragonfly.Ticket) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	newest := subtle.ConstantTimeCompare(t[:], h.tickets[0][:])
	before := subtle.ConstantTimeCompare(t[:], h.tickets[1][:])
	return newest|before == 1 && !t.IsZero()
}

func (h *holding) Layout() dragonfly.Layout {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.layout
}

// vouched is the whole digest that the supernode vouches for; d is news of it.
func (h *holding) vouched(d dragonfly.Digest) dragonfly.Digest {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !d.IsZero() && h.word != d {
		h.word = d
		h.notify()
	}
	return h.word
}

func (h *holding) setLength(length int64) error {
	if err := h.content.SetLength(length); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.layout.Length = length
	h.notify()
	return nil
}

// complete says that every piece is held.
func (h *holding) complete() bool {
	layout := h.Layout()
	return layout.Known() && h.content.Held().Count() == layout.Pieces()
}

// has says that every piece that the spans touch is held; no span: all.
func (h *holding) has(want []dragonfly.Span) bool {
	if len(want) == 0 || !h.Layout().Known() {
		return h.complete()
	}
	return len(h.missing(want)) == 0
}

// missing are the pieces that the spans touch (none: all) and that are not
// held, ascending; with an unknown length the first of those behind the held
// ones.
func (h *holding) missing(want []dragonfly.Span) (out []dragonfly.PieceNum) {
	layout, held := h.Layout(), h.content.Held()
	if !layout.Known() {
		for n := dragonfly.PieceNum(0); ; n++ {
			if !held.Has(n) {
				return append(out, n)
			}
		}
	}
	for n := range dragonfly.PieceNum(layout.Pieces()) {
		if !held.Has(n) && layout.Touched(n, want) {
			out = append(out, n)
		}
	}
	return out
}

// runEnd is where the run of missing pieces from n on ends of which the spans
// touch each; 0 if they touch all, or if it ends with the content.
func (h *holding) runEnd(n dragonfly.PieceNum, want []dragonfly.Span) (end int64) {
	layout := h.Layout()
	if len(want) == 0 || !layout.Known() {
		return 0
	}
	for ; int(n) < layout.Pieces(); n++ {
		if !layout.Touched(n, want) || h.content.Has(n) {
			return end
		}
		_, end = layout.Extent(n)
	}
	return 0
}

// sure verifies a held piece whose record is doubtful, since the machine crashed
// after it was written or a user has a link of the file: before any of its
// bytes is given out. It says false for a piece that is not held, or no more.
func (h *holding) sure(n dragonfly.PieceNum) bool {
	if !h.content.Doubtful(n) {
		return h.content.Has(n)
	}
	if ok, err := h.content.Verify(n); ok && err == nil {
		return true
	}
	_ = h.content.Drop(n) // Verify could not read it
	h.lost(n)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notify()
	return false
}

// expected is the digest of a piece as the manifest has it; zero: not known.
func (h *holding) expected(n dragonfly.PieceNum) dragonfly.PieceDigest {
	h.mu.Lock()
	defer h.mu.Unlock()
	if int(n) < len(h.manifest) {
		return h.manifest[n]
	}
	return dragonfly.PieceDigest{}
}

// maxPieces bounds piece numbers while the length is unknown, as the store does.
const maxPieces = 8 << 20

// inRange says that the content has, or may have, a piece of that number. What
// supernodes say may be nonsense. h.mu is held.
func (h *holding) inRange(n dragonfly.PieceNum) bool {
	if h.layout.Known() {
		return n >= 0 && int(n) < h.layout.Pieces()
	}
	return n >= 0 && n < maxPieces
}

// fits says that an assignment is about a span of a piece that the content has.
func (h *holding) fits(a dragonfly.Assignment) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := int64(a.Piece) * h.layout.PieceLen
	to := from + h.layout.PieceLen // the length may have become known meanwhile
	return h.inRange(a.Piece) && from <= a.Span.From && a.Span.From <= a.Span.To && a.Span.To <= to
}

func (h *holding) learn(n dragonfly.PieceNum, d dragonfly.PieceDigest) {
	if d.IsZero() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.inRange(n) {
		return
	}
	if missing := int(n) + 1 - len(h.manifest); missing > 0 {
		h.manifest = append(h.manifest, make([]dragonfly.PieceDigest, missing)...)
	}
	h.manifest[n] = d
}

// arrive begins or continues to receive a piece and returns where its block
// digests go.
func (h *holding) arrive(n dragonfly.PieceNum) *arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.arriving[n]
	if a == nil {
		from, to := h.layout.Extent(n)
		a = &arrival{blocks: make([]piecehash.Block, piecehash.Blocks(to-from))}
		h.arriving[n] = a
	}
	return a
}

// begun yields the pieces that are arriving, in no order.
func (h *holding) begun() iter.Seq[dragonfly.PieceNum] {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Keys(maps.Clone(h.arriving))
}

// filling counts a transfer of a span for an assignment into an arrival until done
// is called, with how far it came: its last bytes are there a moment before their
// digest is. Two transfers of the same bytes come one after the other: else one
// could leave its bytes on the disk and the other its digest. It fails when ctx
// ends, or the arrival is gone.
func (h *holding) filling(ctx context.Context, into *arrival, a dragonfly.Assignment, span dragonfly.Span) (done func(end int64), err error) {
	if err := h.vacant(ctx, a.Piece, into, span); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	for _, s := range into.trusted {
		into.again = merge(into.again, dragonfly.Span{From: max(s.From, span.From), To: min(s.To, span.To)})
	}
	into.fillers = append(into.fillers, span)
	return func(end int64) {
		h.mu.Lock()
		defer h.mu.Unlock()
		i := slices.Index(into.fillers, span)
		into.fillers = slices.Delete(into.fillers, i, i+1)
		if end > span.From {
			into.senders = append(into.senders, sender{a, dragonfly.Span{From: span.From, To: end}})
		}
		h.notify()
	}, nil
}

// vacant waits until nobody writes bytes of a span of an arrival. Without an error
// h.mu is held.
func (h *holding) vacant(ctx context.Context, n dragonfly.PieceNum, into *arrival, span dragonfly.Span) error {
	for {
		h.mu.Lock()
		if h.arriving[n] != into {
			h.mu.Unlock()
			return errOvertaken
		}
		if !slices.ContainsFunc(into.fillers, func(s dragonfly.Span) bool { return s.From < span.To && span.From < s.To }) {
			return nil
		}
		changed := h.change()
		h.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errOvertaken is why a transfer ends whose piece was held or thrown away
// meanwhile.
var errOvertaken = &dragonfly.Error{Kind: dragonfly.Canceled, Message: "the piece was settled meanwhile"}

// gap is the first part of a span of an arrival that is neither here nor brought
// by somebody, after all who bring some of it have ended. It fails when ctx ends,
// or the arrival is gone.
func (h *holding) gap(ctx context.Context, into *arrival, n dragonfly.PieceNum, span dragonfly.Span) (gap dragonfly.Span, open bool, err error) {
	if err := h.vacant(ctx, n, into, span); err != nil {
		return span, false, err
	}
	defer h.mu.Unlock()
	gap = span
	for _, s := range into.spans { // ascending, and apart
		if s.From <= gap.From && gap.From < s.To {
			gap.From = s.To
		} else if gap.From < s.From {
			gap.To = min(gap.To, s.From)
			break
		}
	}
	from, to := h.layout.Extent(n)
	return gap, gap.Len() > 0 || from == to && len(into.senders) == 0, nil
}

// advance records that the bytes of span are on disk and hashed; trusted ones
// came straight from source or seed. Growth of the newest span is the hot path.
func (h *holding) advance(a *arrival, span dragonfly.Span, trusted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a.spans = merge(a.spans, span)
	if trusted {
		a.trusted = merge(a.trusted, span)
	}
	h.notify()
}

// merge adds s to disjoint ascending spans.
func merge(spans []dragonfly.Span, s dragonfly.Span) []dragonfly.Span {
	if s.Len() <= 0 {
		return spans
	}
	i, _ := slices.BinarySearchFunc(spans, s.From, func(x dragonfly.Span, from int64) int {
		return cmp.Compare(x.To, from)
	})
	j := i
	for ; j < len(spans) && spans[j].From <= s.To; j++ {
		s.From, s.To = min(s.From, spans[j].From), max(s.To, spans[j].To)
	}
	if j == i+1 {
		spans[i] = s // the common case: a span grows in place
		return spans
	}
	return slices.Replace(spans, i, j, s)
}

// cut forgets the received bytes of a piece from off on, which a broken
// transfer left in the middle of a block.
func (h *holding) cut(a *arrival, span dragonfly.Span) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a.spans, a.trusted = without(a.spans, span), without(a.trusted, span)
}

// without is what lies outside a span.
func without(spans []dragonfly.Span, cut dragonfly.Span) (left []dragonfly.Span) {
	for _, s := range spans {
		left = merge(left, dragonfly.Span{From: s.From, To: min(s.To, cut.From)})
		left = merge(left, dragonfly.Span{From: max(s.From, cut.To), To: s.To})
	}
	return left
}

// landed says whether an arriving piece is whole now, that an assignment of it
// ended; ok is false when it is not arriving any more.
func (h *holding) landed(a dragonfly.Assignment, into *arrival) (whole, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.arriving[a.Piece] != into {
		return false, false
	}
	if from, to := h.layout.Extent(a.Piece); from == to {
		into.senders = append(into.senders, sender{a, dragonfly.Span{From: from, To: to}})
	}
	return h.isWhole(a.Piece, into), true
}

// isWhole says that every byte of an arrival is here and hashed. h.mu is held.
func (h *holding) isWhole(n dragonfly.PieceNum, a *arrival) bool {
	from, to := h.layout.Extent(n)
	return len(a.fillers) == 0 && (from == to || len(a.spans) == 1 && a.spans[0].From <= from && a.spans[0].To >= to)
}

// whole hands out an arriving piece of which every byte is here, with its
// digest and the assignment that brought bytes last.
func (h *holding) whole(n dragonfly.PieceNum) (a *arrival, digest dragonfly.PieceDigest, last dragonfly.Assignment, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a = h.arriving[n]
	if a == nil || !h.isWhole(n, a) {
		return nil, digest, last, false
	}
	if len(a.senders) > 0 {
		last = a.senders[len(a.senders)-1].assignment
	}
	from, to := h.layout.Extent(n)
	return a, piecehash.Piece(a.blocks[:piecehash.Blocks(to-from)]), last, true
}

// commit turns an arrived piece into a held one.
func (h *holding) commit(n dragonfly.PieceNum, d dragonfly.PieceDigest) error {
	if err := h.content.Commit(n, d); err != nil {
		return err
	}
	h.learn(n, d)
	h.mu.Lock()
	defer h.mu.Unlock()
	from, _ := h.layout.Extent(n)
	for _, p := range h.promises[n] {
		p.settle(h.arriving[n], from)
	}
	delete(h.promises, n)
	delete(h.arriving, n)
	h.notify()
	return nil
}

// discard forgets an arrival whose bytes proved wrong; false: somebody else did,
// or writes into it and will see. Streams that it feeds are reset, since they
// wait for bytes of an arrival that is gone.
func (h *holding) discard(n dragonfly.PieceNum, a *arrival) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.arriving[n] != a || len(a.fillers) > 0 {
		return false
	}
	delete(h.arriving, n)
	h.notify()
	return true
}

// received is how far the piece's bytes are here from its start on, for the
// store's resume records.
func (h *holding) received(n dragonfly.PieceNum) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	from, _ := h.layout.Extent(n)
	if a := h.arriving[n]; a != nil && len(a.spans) > 0 && a.spans[0].From == from {
		return a.spans[0].To
	}
	return from
}

// available is how far the bytes from off on are here, held or arriving, and
// the arrival that the byte at off belongs to.
func (h *holding) available(off int64) (end int64, a *arrival) {
	for end = off; ; {
		if h.layout.Known() && end >= h.layout.Length {
			return end, a
		}
		n := h.layout.PieceAt(end)
		if h.content.Has(n) {
			_, end = h.layout.Extent(n)
			continue
		}
		arriving := h.arriving[n]
		if end == off {
			a = arriving
		}
		if arriving == nil {
			return end, a
		}
		for _, s := range arriving.spans {
			if s.From <= end && end < s.To {
				end = s.To
			}
		}
		return end, a
	}
}

// ready waits until bytes from off on are here and says how far they go, and
// which arrival the byte at off belongs to. It serves cut-through: the bytes
// may be arriving and not verified. It fails when the arrival that the stream
// has seen before, nil for none, proves bad.
func (h *holding) ready(ctx context.Context, off int64, seen *arrival) (end int64, a *arrival, err error) {
	for {
		h.mu.Lock()
		end, a := h.available(off)
		switch {
		case seen != nil && a != seen && !h.content.Has(h.layout.PieceAt(off)):
			h.mu.Unlock()
			return 0, nil, fmt.Errorf("piece %d of task %s is not arriving any more", h.layout.PieceAt(off), h.task)
		case end > off, h.layout.Known() && off >= h.layout.Length:
			h.mu.Unlock()
			return end, a, nil
		case h.void != nil:
			h.mu.Unlock()
			return 0, nil, h.void
		}
		seen = a
		grown := h.change()
		h.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return 0, nil, context.Cause(ctx)
		}
	}
}

// final is how far the bytes from off on may be given to a consumer: those of
// verified pieces, and with hasty also whole blocks that came to this process
// straight from source or seed, which are promises then. doubtful says that the
// piece at off must be verified first. h.mu is held.
func (h *holding) final(off int64, hasty bool) (end int64, promised []promise, doubtful bool) {
	for end = off; !h.layout.Known() || end < h.layout.Length; {
		n := h.layout.PieceAt(end)
		from, to := h.layout.Extent(n)
		if h.content.Doubtful(n) {
			return end, promised, end == off
		}
		if h.content.Has(n) {
			end = to
			continue
		}
		a := h.arriving[n]
		if a == nil || !hasty {
			break
		}
		here := end
		for _, s := range a.trusted {
			if s.From <= here && here < s.To {
				here = s.To
			}
		}
		if here < to {
			here = from + (here-from)/dragonfly.BlockLen*dragonfly.BlockLen // a broken transfer loses the rest
		}
		if here <= end {
			break
		}
		promised = append(promised, promise{piece: n, a: a, span: dragonfly.Span{From: end, To: here}})
		if end = here; end < to {
			break
		}
	}
	return end, promised, false
}

// ErrTakenBack says that a consumer was given what proved wrong: nothing that
// follows makes that right.
var ErrTakenBack = &dragonfly.Error{Kind: dragonfly.SourceFailed, Message: "bytes that were passed on as they came proved wrong: the transfer has to begin anew"}

// takenBack says that a part of an arriving piece was given that is not there any
// more, and that nothing verified has shown to be right since.
func (h *holding) takenBack(given []*promise) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(given, func(p *promise) bool {
		return p.broken || !p.kept && h.arriving[p.piece] != p.a
	})
}

// give adds promises to those that a consumer was given, drops those that were
// kept, and says whether some are open. h.mu is held.
func (h *holding) give(given *[]*promise, promised []promise) (open bool, err error) {
	*given = slices.DeleteFunc(*given, func(p *promise) bool {
		if p.broken {
			err = ErrTakenBack
		}
		return p.kept
	})
	if err != nil {
		return false, err
	}
	open = len(*given) > 0
next:
	for _, p := range promised {
		for _, g := range *given {
			if g.a == p.a && g.span.To == p.span.From {
				g.span.To = p.span.To
				continue next
			}
		}
		h.promises[p.piece] = append(h.promises[p.piece], &p)
		*given = append(*given, &p)
	}
	return open, nil
}

// verified waits until bytes from off on are final and says how far they go.
// It waits no longer than over is open, nil for ever, and then says that they
// end at off. With given, bytes are given before they are verified, and the end
// of the content, or to if that is not negative, is told when all of them were.
func (h *holding) verified(ctx context.Context, off, to int64, over <-chan struct{}, given *[]*promise) (end int64, err error) {
	for {
		h.mu.Lock()
		var promised []promise
		doubtful := false
		if to > h.layout.Length && h.layout.Known() {
			to = h.layout.Length
		}
		if end = off; to < 0 || off < to {
			end, promised, doubtful = h.final(off, given != nil)
		}
		if doubtful {
			n := h.layout.PieceAt(off)
			h.mu.Unlock()
			h.sure(n)
			continue
		}
		open := false
		if given != nil {
			open, err = h.give(given, promised)
		}
		switch {
		case err != nil:
		case end > off,
			!open && to >= 0 && off >= to,
			!open && h.layout.Known() && off >= h.layout.Length && h.content.Held().Count() == h.layout.Pieces():
			h.mu.Unlock()
			if to >= 0 {
				end = min(end, max(off, to))
			}
			return end, nil
		case h.void != nil:
			err = h.void
		}
		if err != nil {
			h.mu.Unlock()
			return 0, err
		}
		grown := h.change()
		h.mu.Unlock()
		select {
		case <-grown:
		case <-over:
			return off, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}
