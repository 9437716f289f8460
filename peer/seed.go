// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
	"time"

	"dragonfly"
	"dragonfly/source"
)

// Known is what a peer holds of a content, all of it up to From of a version,
// and what it wants of it. The zero value is nothing, and all.
type Known struct {
	Version dragonfly.Version
	From    int64
	Want    []dragonfly.Span
}

// window is the part of the content that is asked for first, when all that is
// known of it is what is wanted. Whole pieces are needed; how long they are is
// known when its length is, but for most contents it is the shortest one.
func (k Known) window() (from, to int64) {
	if len(k.Want) == 0 {
		return 0, 0
	}
	first := slices.MinFunc(k.Want, func(a, b dragonfly.Span) int { return cmp.Compare(a.From, b.From) })
	pieceLen := dragonfly.PieceLenFor(0)
	from = first.From - first.From%pieceLen
	if first.To > 0 {
		to = (first.To + pieceLen - 1) / pieceLen * pieceLen
	}
	return from, to
}

// Prepared is what the seed found out about a task.
type Prepared struct {
	Task     dragonfly.TaskID
	Version  dragonfly.Version
	Layout   dragonfly.Layout
	Held     dragonfly.PieceSet
	Manifest []dragonfly.PieceDigest // zero where a piece is not held
	Complete bool
	Asked    bool             // the source answered to the credentials now
	Whole    dragonfly.Digest // that was expected and found; zero: none was, or it is being compared
}

// Seed is an engine as the supernode that it belongs to drives it. The
// supernode prepares tasks with Prepare; everything else goes through
// assignments, as for any peer. All methods are for that supernode.
type Seed struct {
	e    *Engine
	self dragonfly.Member
}

// Seed makes an engine the seed of the supernode self.
func (e *Engine) Seed(self dragonfly.Member) Seed { return Seed{e, self} }

// Open opens the session at the supernode, which the engine keeps then.
func (s Seed) Open(ctx context.Context) error {
	_, _, err := s.e.node(s.self).open(ctx, s.e.cfg.Patience, nil)
	return err
}

// Allowed asks the source whether it gives a content to whoever asks as r does.
// Errors are the source's.
func (s Seed) Allowed(ctx context.Context, r dragonfly.Request) error {
	return s.e.cfg.Source.Allowed(ctx, r)
}

// Prepare opens the source of a task, or asks it whether what is held is still
// true, and says what there is. The seed then waits for assignments; the
// opened body waits with it. Small content is read at once, so that it can be
// given inside the register answers. What a peer holds already (known) is not
// asked of the source again. Errors are the source's.
func (s Seed) Prepare(ctx context.Context, r dragonfly.Request, known Known) (Prepared, error) {
	e := s.e
	t := e.task(r.TaskID())
	done, err := t.turn(ctx)
	if err != nil {
		return Prepared{}, err
	}
	defer done()
	n := e.node(s.self)
	t.mu.Lock()
	t.req, t.seed, t.serves, t.node = r, true, true, n
	h := t.h
	t.mu.Unlock()
	n.mu.Lock()
	n.tasks[t.id] = t
	n.mu.Unlock()
	if h != nil && h.isVoid() && t.tooOften() {
		return Prepared{}, &dragonfly.Error{Kind: dragonfly.SourceFailed,
			Message: "the source breaks off or changes its content each time it is read: try again later"}
	}
	if h == nil {
		if err := t.rename(); err != nil {
			return Prepared{}, err
		}
	}
	asked := false
	if h == nil || h.complete() || h.isVoid() {
		if h, asked, err = t.open(ctx, known); err != nil {
			return Prepared{}, err
		}
	}
	if layout := h.Layout(); layout.Known() && layout.Length <= dragonfly.InlineMax && !h.complete() {
		if err := t.readMissing(ctx, h, nil); err != nil {
			return Prepared{}, err
		}
	}
	p := Prepared{Task: t.id, Version: h.version, Layout: h.Layout(), Held: h.content.Held(), Complete: h.complete(), Asked: asked}
	for n := range p.Held.All() {
		for int(n) >= len(p.Manifest) {
			p.Manifest = append(p.Manifest, dragonfly.PieceDigest{})
		}
		p.Manifest[n] = h.content.Digest(n)
	}
	if want := expectation(r); want.IsZero() {
	} else if h.content.Meta().Digest == want {
		p.Whole = want
	} else if v, first := t.verdict(h, want); first {
		e.wg.Go(func() { t.tell(h, v) })
	}
	if !p.Complete {
		t.source().linger(e.ctx)
	}
	return p, nil
}

// rename drops what is stored under the TaskID if that is a content of another
// name: who is let to this one may not be let to that.
func (t *task) rename() error {
	content, ok := t.e.cfg.Store.Lookup(t.id)
	if !ok {
		return nil
	}
	stored := content.Meta().Name
	content.Release()
	if stored == "" || stored == nameOf(t.request()) {
		return nil
	}
	return t.e.cfg.Store.Remove(t.id)
}

func nameOf(r dragonfly.Request) string {
	name := r.Name()
	return hex.EncodeToString(name[:])
}

const (
	// anew is how often in a row a source is read from its start because its
	// content could not be continued.
	anew = 3
	// calm is how long after the last time that is forgotten.
	calm = time.Minute
)

// tooOften counts the times that the content is to be read from its start, and
// says whether it is of no use.
func (t *task) tooOften() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.voided) > calm {
		t.voids, t.voided = 0, now
	}
	if t.voids == anew {
		return true
	}
	t.voids, t.voided = t.voids+1, time.Now()
	return false
}

// expectation is the digest that the content of a request must have: the one
// asked for, else the one that its URL is addressed by.
func expectation(r dragonfly.Request) dragonfly.Digest {
	if !r.Digest.IsZero() {
		return r.Digest
	}
	d, _ := source.ContentAddressed(r.URL)
	return d
}

// tell tells the supernode whether the seed's content has its expected digest.
func (t *task) tell(h *holding, v *verdict) {
	if err := v.reached(t.e.ctx); err == nil {
		t.report(dragonfly.Event{Kind: dragonfly.EventWhole, Task: t.id, Version: h.version, Whole: v.want})
	} else if dragonfly.KindOf(err) == dragonfly.DigestMismatch {
		t.report(dragonfly.Event{Kind: dragonfly.EventVoid, Task: t.id, Version: h.version,
			Reason: dragonfly.FailMismatch, Failure: failure(err)})
	}
}

func (h *holding) isVoid() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.void != nil
}

// Inline is a complete verified content of at most dragonfly.InlineMax bytes.
func (s Seed) Inline(id dragonfly.TaskID, v dragonfly.Version) ([]byte, bool) {
	t := s.e.lookup(id)
	if t == nil {
		return nil, false
	}
	h := t.holding()
	if h == nil || h.version != v || !h.complete() || h.Layout().Length > dragonfly.InlineMax {
		return nil, false
	}
	for n := range dragonfly.PieceNum(h.Layout().Pieces()) {
		if !h.sure(n) {
			return nil, false
		}
	}
	content := make([]byte, h.Layout().Length)
	if _, err := h.content.File().ReadAt(content, 0); err != nil {
		return nil, false
	}
	return content, true
}

// Admit lets those who have the ticket read a version from the data port.
func (s Seed) Admit(info dragonfly.TaskInfo) {
	if t := s.e.lookup(info.Task); t != nil {
		if h := t.holding(); h != nil && h.version == info.Version {
			h.setTicket(info.Ticket)
		}
	}
}

// Forget ends the seed's interest in a task; its bytes stay in the store.
func (s Seed) Forget(id dragonfly.TaskID) {
	s.e.mu.Lock()
	t := s.e.tasks[id]
	delete(s.e.tasks, id)
	s.e.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	n := t.node
	t.mu.Unlock()
	if n != nil {
		n.mu.Lock()
		delete(n.tasks, id)
		n.mu.Unlock()
	}
	t.release()
}
