// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dragonfly"
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
