// SPDX-License-Identifier: Apache-2.0

package dragonfly_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dragonfly"
)

const mib = 1 << 20

// TestPieceSizeVectors: every recorded row of v1-protocol 5 (FAQ: size of
// piece). The content length of a piece is 5 bytes less than v1's size.
func TestPieceSizeVectors(t *testing.T) {
	for _, v := range []struct {
		length, size int64
		pieces       int
	}{
		{dragonfly.UnknownLength, 4 * mib, 0},
		{0, 4 * mib, 1},
		{1, 4 * mib, 1},
		{4194298, 4 * mib, 1},
		{4194299, 4 * mib, 1}, // exactly one piece of content
		{4194300, 4 * mib, 2},
		{4194304, 4 * mib, 2}, // the 5 wrapper bytes push it over
		{2 * 4194299, 4 * mib, 2},
		{2*4194299 + 1, 4 * mib, 3},
		{10485760, 4 * mib, 3},
		{104857600, 4 * mib, 26},
		{209715199, 4 * mib, 51},
		{209715200, 4 * mib, 51},
		{209715201, 4 * mib, 51},
		{313524224, 4 * mib, 75},
		{314572799, 4 * mib, 76},
		{314572800, 5 * mib, 61},
		{419430400, 6 * mib, 67},
		{1048576000, 12 * mib, 84},
		{1362100224, 14 * mib, 93},
		{1363148799, 14 * mib, 93},
		{1363148800, 15 * mib, 87},
		{1468006400, 15 * mib, 94},
		{5242880000, 15 * mib, 334},
		{10737418240, 15 * mib, 683},
	} {
		got := dragonfly.PieceLenFor(v.length)
		if got != v.size-5 {
			t.Errorf("length %d: piece length %d, want %d", v.length, got, v.size-5)
		}
		layout := dragonfly.Layout{Length: v.length, PieceLen: got}
		if n := layout.Pieces(); n != v.pieces {
			t.Errorf("length %d: %d pieces, want %d", v.length, n, v.pieces)
		}
	}
}

// TestPieceLenProperties: monotonic, whole MiB with the wrapper, within v1's
// 4 and 15 MiB (v1-protocol 5).
func TestPieceLenProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Int64Range(0, 1<<41).Draw(t, "length")
		b := rapid.Int64Range(a, 1<<41).Draw(t, "longer")
		la, lb := dragonfly.PieceLenFor(a), dragonfly.PieceLenFor(b)
		if la > lb {
			t.Fatalf("pieces of %d are longer than those of %d", a, b)
		}
		if (la+5)%mib != 0 || la+5 < 4*mib || la+5 > 15*mib {
			t.Fatalf("piece size %d", la+5)
		}
	})
}

// TestLayoutTiles: the extents of a content's pieces cover it exactly once, in
// order, and PieceAt finds each.
func TestLayoutTiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := dragonfly.Layout{
			Length:   rapid.Int64Range(0, 1<<20).Draw(t, "length"),
			PieceLen: rapid.Int64Range(1, 1<<18).Draw(t, "piece length"),
		}
		if l.Length/l.PieceLen > 4096 {
			t.Skip("more pieces than it takes")
		}
		var at int64
		for n := range l.Pieces() {
			from, to := l.Extent(dragonfly.PieceNum(n))
			if from != at || to < from || to-from > l.PieceLen {
				t.Fatalf("piece %d is [%d, %d), want it to start at %d", n, from, to, at)
			}
			if to > from && (l.PieceAt(from) != dragonfly.PieceNum(n) || l.PieceAt(to-1) != dragonfly.PieceNum(n)) {
				t.Fatalf("PieceAt does not find piece %d", n)
			}
			at = to
		}
		if at != l.Length {
			t.Fatalf("the pieces end at %d, not %d", at, l.Length)
		}
	})
}

func TestLayoutUnknownLength(t *testing.T) {
	l := dragonfly.Layout{Length: dragonfly.UnknownLength, PieceLen: 100}
	if l.Known() || l.Pieces() != 0 {
		t.Errorf("known %v, %d pieces", l.Known(), l.Pieces())
	}
	if from, to := l.Extent(7); from != 700 || to != 800 {
		t.Errorf("piece 7 is [%d, %d), want a whole one", from, to)
	}
	if from, to := (dragonfly.Layout{Length: 0, PieceLen: 100}).Extent(0); from != 0 || to != 0 {
		t.Errorf("the piece of an empty content is [%d, %d)", from, to)
	}
}

// TestPieceSetModel compares a PieceSet with a map under random operations,
// and round-trips it.
func TestPieceSetModel(t *testing.T) {
	piece := rapid.Map(rapid.IntRange(0, 300), func(n int) dragonfly.PieceNum { return dragonfly.PieceNum(n) })
	rapid.Check(t, func(t *rapid.T) {
		var set dragonfly.PieceSet
		model := map[dragonfly.PieceNum]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				n := piece.Draw(t, "piece")
				set.Add(n)
				model[n] = true
			},
			"remove": func(t *rapid.T) {
				n := piece.Draw(t, "piece")
				set.Remove(n)
				delete(model, n)
			},
			"clone stands alone": func(t *rapid.T) {
				n := piece.Draw(t, "piece")
				c := set.Clone()
				c.Add(n)
				c.Remove(n)
			},
			"": func(t *rapid.T) {
				if set.Count() != len(model) {
					t.Fatalf("count %d, want %d", set.Count(), len(model))
				}
				got := slices.Collect(set.All())
				if want := slices.Sorted(maps.Keys(model)); !slices.Equal(got, want) {
					t.Fatalf("holds %v, want %v", got, want)
				}
				for n := dragonfly.PieceNum(-1); n < 320; n++ {
					if set.Has(n) != model[n] {
						t.Fatalf("Has(%d) = %v", n, set.Has(n))
					}
				}
				text, err := set.MarshalText()
				if err != nil {
					t.Fatal(err)
				}
				var back dragonfly.PieceSet
				if err := back.UnmarshalText(text); err != nil || !back.Equal(set) || !set.Equal(back) {
					t.Fatalf("%s comes back as %v, %v", text, slices.Collect(back.All()), err)
				}
			},
		})
	})
}

func TestPieceSetAllStops(t *testing.T) {
	set := dragonfly.NewPieceSet(130)
	if set.Count() != 130 || !set.Has(129) || set.Has(130) || set.Has(-1) {
		t.Errorf("NewPieceSet(130) holds %d", set.Count())
	}
	var seen []dragonfly.PieceNum
	for n := range set.All() {
		if seen = append(seen, n); len(seen) == 3 {
			break
		}
	}
	if !slices.Equal(seen, []dragonfly.PieceNum{0, 1, 2}) {
		t.Errorf("All yields %v first", seen)
	}
}

// TestPieceSetBounded: a bitmap from outside cannot claim memory at will.
func TestPieceSetBounded(t *testing.T) {
	var set dragonfly.PieceSet
	if err := set.UnmarshalText(bytes.Repeat([]byte("A"), 2<<20)); err == nil {
		t.Error("a bitmap of 1.5 MiB is taken")
	}
}

func FuzzPieceSet(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("AQ"))
	f.Add([]byte("/////////w8"))
	f.Add([]byte("not base64!"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var set dragonfly.PieceSet
		if set.UnmarshalText(text) != nil {
			return
		}
		out, err := set.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back dragonfly.PieceSet
		if err := back.UnmarshalText(out); err != nil || !back.Equal(set) || back.Count() != set.Count() {
			t.Fatalf("%q comes back as %q, %v", text, out, err)
		}
	})
}
