// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"testing"

	"dragonfly"
)

// TestHolds: a view holds what is verified, not what is merely here.
func TestHolds(t *testing.T) {
	const pieceLen = 4 * dragonfly.BlockLen
	_, h, m := workbench(t, pieceLen)
	length := h.Layout().Length
	if length <= 2*pieceLen {
		t.Fatalf("a content of %d bytes has too few pieces", length)
	}
	for n := range dragonfly.PieceNum(2) {
		from, to := h.Layout().Extent(n)
		if _, err := h.content.WriteAt(m.content[from:to], from); err != nil {
			t.Fatal(err)
		}
		h.advance(h.arrive(n), dragonfly.Span{From: from, To: to}, true)
	}
	v := &view{holding: h}
	if v.Holds(dragonfly.Span{From: 0, To: 1}) {
		t.Error("what was not verified counts as held")
	}
	if err := h.commit(1, dragonfly.PieceDigest{1}); err != nil {
		t.Fatal(err)
	}
	for span, want := range map[dragonfly.Span]bool{
		{From: pieceLen, To: 2 * pieceLen}:       true,
		{From: pieceLen + 1, To: pieceLen + 2}:   true,
		{From: pieceLen - 1, To: pieceLen + 1}:   false,
		{From: pieceLen, To: 2*pieceLen + 1}:     false,
		{From: 2 * pieceLen, To: 2*pieceLen + 1}: false,
	} {
		if v.Holds(span) != want {
			t.Errorf("%v: %v", span, !want)
		}
	}
}
