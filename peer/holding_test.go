// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"dragonfly"
	"dragonfly/internal/piecehash"
)

// bytesOf spreads spans over a small content, so that they can be compared
// with the plain set of bytes they stand for.
func bytesOf(spans []dragonfly.Span) (set [64]bool) {
	for _, s := range spans {
		for i := s.From; i < s.To; i++ {
			set[i] = true
		}
	}
	return set
}

func drawSpan(t *rapid.T) dragonfly.Span {
	from := rapid.Int64Range(0, 63).Draw(t, "from")
	return dragonfly.Span{From: from, To: rapid.Int64Range(from, 64).Draw(t, "to")}
}

func TestSpansStayDisjointAndAscending(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &holding{arriving: map[dragonfly.PieceNum]*arrival{}}
		a := &arrival{}
		var want [64]bool
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			s := drawSpan(t)
			add := rapid.Bool().Draw(t, "add")
			if add {
				a.spans = merge(a.spans, s)
			} else {
				h.cut(a, s)
			}
			for i := s.From; i < s.To; i++ {
				want[i] = add
			}
			if got := bytesOf(a.spans); got != want {
				t.Fatalf("after %v (add %v) the spans are %v", s, add, a.spans)
			}
			for i, s := range a.spans {
				if s.Len() <= 0 || i > 0 && a.spans[i-1].To >= s.From {
					t.Fatalf("not disjoint and ascending: %v", a.spans)
				}
			}
		}
	})
}

func TestMergeGrowsInPlace(t *testing.T) {
	spans := []dragonfly.Span{{From: 0, To: 10}}
	grown := merge(spans, dragonfly.Span{From: 0, To: 20})
	if &grown[0] != &spans[0] || !slices.Equal(grown, []dragonfly.Span{{From: 0, To: 20}}) {
		t.Fatalf("a growing span was not kept in place: %v", grown)
	}
	if n := testing.AllocsPerRun(100, func() { spans = merge(spans, dragonfly.Span{From: 0, To: spans[0].To + 1}) }); n != 0 {
		t.Fatalf("growing a span allocates %v times", n)
	}
}

// TestPromises: a consumer was given blocks before their piece was verified. The
// end comes when the verified piece has the same, and never when it has others.
func TestPromises(t *testing.T) {
	const pieceLen = 4 * dragonfly.BlockLen
	block := func(b byte) (sum piecehash.Block) { sum[0] = b; return sum }
	for name, k := range map[string]struct {
		again []piecehash.Block // of the piece, received anew; nil: it was right
		over  bool              // it is received once more where it was
		ok    bool
	}{
		"right":             {nil, false, true},
		"the same":          {[]piecehash.Block{block(1), block(2), block(9), block(9)}, false, true},
		"another block":     {[]piecehash.Block{block(1), block(3), block(9), block(9)}, false, false},
		"others in between": {nil, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, h, _ := workbench(t, pieceLen)
			var given []*promise
			a := h.arrive(0)
			a.blocks[0], a.blocks[1] = block(1), block(2)
			if _, err := h.verified(canceled(t), 0, dragonfly.UnknownLength, nil, &given); err == nil {
				t.Fatal("something was given of nothing")
			}
			h.advance(a, dragonfly.Span{From: 0, To: 2*dragonfly.BlockLen + 5}, true)
			end, err := h.verified(t.Context(), 0, dragonfly.UnknownLength, nil, &given)
			if err != nil || end != 2*dragonfly.BlockLen || len(given) != 1 {
				t.Fatalf("given up to %d, %v", end, err)
			}
			if k.over {
				done, err := h.filling(t.Context(), a, assignment(h, 0, dragonfly.ParentSeed), dragonfly.Span{From: dragonfly.BlockLen, To: pieceLen})
				if err != nil {
					t.Fatal(err)
				}
				done(dragonfly.BlockLen)
			}
			if k.again != nil {
				if !h.discard(0, a) {
					t.Fatal("not discarded")
				}
				a = h.arrive(0)
				copy(a.blocks, k.again)
			}
			if _, err := h.content.WriteAt(make([]byte, pieceLen), 0); err != nil {
				t.Fatal(err)
			}
			if err := h.commit(0, dragonfly.PieceDigest{1}); err != nil {
				t.Fatal(err)
			}
			end, err = h.verified(t.Context(), end, dragonfly.UnknownLength, nil, &given)
			if k.ok && (err != nil || end != pieceLen || len(given) != 0) || !k.ok && !errors.Is(err, ErrTakenBack) {
				t.Errorf("given up to %d, %v, %d open", end, err, len(given))
			}
		})
	}
}

// TestBrokenPromiseIsTheReason: whatever ends a reader, that what it gave was
// thrown away as wrong comes first.
func TestBrokenPromiseIsTheReason(t *testing.T) {
	tk, h, _ := workbench(t, 4*dragonfly.BlockLen)
	d := &Download{t: tk, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	r := &reader{ctx: ctx, h: h, d: d, to: dragonfly.UnknownLength}
	a := h.arrive(0)
	if _, err := h.content.WriteAt(make([]byte, dragonfly.BlockLen), 0); err != nil {
		t.Fatal(err)
	}
	h.advance(a, dragonfly.Span{From: 0, To: dragonfly.BlockLen}, true)
	if n, err := io.ReadFull(r, make([]byte, dragonfly.BlockLen)); err != nil {
		t.Fatal(n, err)
	}
	cancel()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if !h.discard(0, a) {
		t.Fatal("not discarded")
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, ErrTakenBack) {
		t.Errorf("after the piece was thrown away it ended with %v", err)
	}
}

// TestPeersBytesWait: what comes from a peer is given when it is verified.
func TestPeersBytesWait(t *testing.T) {
	_, h, _ := workbench(t, 4*dragonfly.BlockLen)
	var given []*promise
	h.advance(h.arrive(0), dragonfly.Span{From: 0, To: 2 * dragonfly.BlockLen}, false)
	if end, err := h.verified(canceled(t), 0, dragonfly.UnknownLength, nil, &given); err == nil {
		t.Fatalf("given up to %d", end)
	}
}

// TestWaitingToHashCostsLittle: a part of a content may be here for long, and be
// compared with a digest when the rest comes.
func TestWaitingToHashCostsLittle(t *testing.T) {
	const waiting, most = 100, 64 << 10
	want, err := dragonfly.ParseDigest("sha256:" + strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		_, h, m := workbench(t, 4*dragonfly.BlockLen)
		if _, err := h.content.WriteAt(m.content[:4*dragonfly.BlockLen], 0); err != nil {
			t.Fatal(err)
		}
		h.arrive(0)
		if err := h.commit(0, dragonfly.PieceDigest{1}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var all sync.WaitGroup
		for range waiting {
			all.Go(func() {
				if err := check(ctx, h, want); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		runtime.GC()
		runtime.GC() // pools keep what they have for one
		runtime.ReadMemStats(&after)
		if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / waiting; each > most {
			t.Errorf("each keeps %d bytes", each)
		}
		cancel()
		all.Wait()
	})
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
