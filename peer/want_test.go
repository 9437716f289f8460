// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dragonfly"
)

// TestJoin: spans of many jobs become as many as a registration takes, and what
// they touched they touch then.
func TestJoin(t *testing.T) {
	for _, k := range []struct{ want, joined []dragonfly.Span }{
		{nil, nil},
		{[]dragonfly.Span{{From: 5, To: 9}, {From: 0, To: 5}, {From: 20, To: 30}}, []dragonfly.Span{{From: 0, To: 9}, {From: 20, To: 30}}},
		{[]dragonfly.Span{{From: 50, To: -1}, {From: 60, To: 70}}, []dragonfly.Span{{From: 50, To: -1}}},
	} {
		if got := join(k.want); !slices.Equal(got, k.joined) {
			t.Errorf("%v: %v", k.want, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var want []dragonfly.Span
		for range rapid.IntRange(0, 3*dragonfly.MaxWant).Draw(t, "spans") {
			from := rapid.Int64Range(0, 1<<20).Draw(t, "from")
			to := from + rapid.Int64Range(1, 100).Draw(t, "length")
			if rapid.IntRange(0, 100).Draw(t, "open") == 0 {
				to = dragonfly.UnknownLength
			}
			want = append(want, dragonfly.Span{From: from, To: to})
		}
		got := join(want)
		if len(got) > dragonfly.MaxWant {
			t.Fatalf("%d spans", len(got))
		}
		end := func(s dragonfly.Span) int64 {
			if s.To < 0 {
				return math.MaxInt64
			}
			return s.To
		}
		for _, w := range want {
			if !slices.ContainsFunc(got, func(s dragonfly.Span) bool { return s.From <= w.From && end(w) <= end(s) }) {
				t.Fatalf("%v is not in %v", w, got)
			}
		}
		for i := range got[min(1, len(got)):] {
			if got[i+1].From <= end(got[i]) {
				t.Fatalf("%v and %v", got[i], got[i+1])
			}
		}
	})
}
