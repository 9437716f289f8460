// SPDX-License-Identifier: Apache-2.0

package dragonfly

import (
	"encoding/base64"
	"fmt"
	"iter"
	"math/bits"
	"slices"
)

const (
	// BlockLen is the unit of verified streaming; the last block of a piece
	// may be shorter.
	BlockLen = 64 << 10
	// MaxWant is how many spans of one content a registration may want.
	MaxWant = 256
	// InlineMax is the largest content that comes inside a register answer.
	InlineMax = 64 << 10
	// UnknownLength stands for a content length that the source did not give.
	UnknownLength = -1

	mib          = 1 << 20
	wrapperBytes = 5 // of v1's wrapper around each piece (v1-protocol 6.1)
)

// PieceNum numbers the pieces of a content from 0.
type PieceNum int32

// PieceLenFor is the content length of each piece but the last, for a content
// of the given length (UnknownLength allowed): v1's piece size less its 5
// wrapper bytes, so that both dialects share one swarm (v1-protocol 5; FAQ:
// size of piece). Whoever opens a task calls it once; everybody else uses
// Layout.PieceLen.
func PieceLenFor(length int64) int64 {
	const step = 100 * mib
	if length <= 2*step {
		return 4*mib - wrapperBytes
	}
	return min((length/step-2)*mib+4*mib, 15*mib) - wrapperBytes
}

// Layout is how a content is cut into pieces.
type Layout struct {
	Length   int64 `json:"length"`   // bytes; UnknownLength until the source ended
	PieceLen int64 `json:"pieceLen"` // bytes of each piece but the last
}

// Known says whether the length is known.
func (l Layout) Known() bool { return l.Length >= 0 }

// Pieces is the number of pieces, 0 while the length is unknown. An empty
// content has one empty piece.
func (l Layout) Pieces() int {
	if !l.Known() {
		return 0
	}
	return int(max(1, (l.Length+l.PieceLen-1)/l.PieceLen))
}

// Extent is the byte range [from, to) of a piece in the content. With an
// unknown length every piece is taken for a whole one.
func (l Layout) Extent(n PieceNum) (from, to int64) {
	from = int64(n) * l.PieceLen
	to = from + l.PieceLen
	if l.Known() {
		to = min(to, l.Length)
	}
	return from, to
}

// PieceAt is the piece that holds the content byte at off.
func (l Layout) PieceAt(off int64) PieceNum { return PieceNum(off / l.PieceLen) }

// Touched says that a piece has bytes of one of the spans, which end with the
// content where To is UnknownLength. No span: it has.
func (l Layout) Touched(n PieceNum, spans []Span) bool {
	from, to := l.Extent(n)
	for _, s := range spans {
		if s.From < to && (s.To < 0 || s.To > from) {
			return true
		}
	}
	return len(spans) == 0
}

// Span is the half-open range [From, To) of bytes, in content offsets unless
// said otherwise.
type Span struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

func (s Span) Len() int64 { return s.To - s.From }

// PieceSet is a growing bitmap of pieces. The zero value is empty.
type PieceSet struct{ words []uint64 }

// NewPieceSet holds the pieces 0 to n-1.
func NewPieceSet(n int) PieceSet {
	var s PieceSet
	for i := range n {
		s.Add(PieceNum(i))
	}
	return s
}

func (s PieceSet) Has(n PieceNum) bool {
	i := int(n) / 64
	return n >= 0 && i < len(s.words) && s.words[i]&(1<<(uint(n)%64)) != 0
}

// Add puts n, which must not be negative, into the set.
func (s *PieceSet) Add(n PieceNum) {
	i := int(n) / 64
	if i >= len(s.words) {
		s.words = append(s.words, make([]uint64, i+1-len(s.words))...)
	}
	s.words[i] |= 1 << (uint(n) % 64)
}

func (s *PieceSet) Remove(n PieceNum) {
	if s.Has(n) {
		s.words[int(n)/64] &^= 1 << (uint(n) % 64)
	}
}

// Count is the number of pieces in the set.
func (s PieceSet) Count() int {
	total := 0
	for _, w := range s.words {
		total += bits.OnesCount64(w)
	}
	return total
}

func (s PieceSet) Clone() PieceSet { return PieceSet{slices.Clone(s.words)} }

func (s PieceSet) Equal(t PieceSet) bool {
	return slices.Equal(s.trim(), t.trim())
}

// All yields the pieces in ascending order.
func (s PieceSet) All() iter.Seq[PieceNum] {
	return func(yield func(PieceNum) bool) {
		for i, w := range s.words {
			for ; w != 0; w &= w - 1 {
				if !yield(PieceNum(i*64 + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

func (s PieceSet) trim() []uint64 {
	w := s.words
	for len(w) > 0 && w[len(w)-1] == 0 {
		w = w[:len(w)-1]
	}
	return w
}

// MarshalText writes base64 of the bitmap, least significant bit first.
func (s PieceSet) MarshalText() ([]byte, error) {
	var raw []byte
	for _, w := range s.trim() {
		for range 8 {
			raw = append(raw, byte(w))
			w >>= 8
		}
	}
	return base64.RawStdEncoding.AppendEncode(nil, raw), nil
}

// maxPieceSetBytes bounds a bitmap that comes from outside: 8 Mi pieces.
const maxPieceSetBytes = 1 << 20

func (s *PieceSet) UnmarshalText(text []byte) error {
	if base64.RawStdEncoding.DecodedLen(len(text)) > maxPieceSetBytes {
		return fmt.Errorf("piece set of %d bytes is longer than %d", len(text), maxPieceSetBytes)
	}
	raw, err := base64.RawStdEncoding.AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("piece set: %w", err)
	}
	s.words = make([]uint64, (len(raw)+7)/8)
	for i, b := range raw {
		s.words[i/8] |= uint64(b) << (8 * (i % 8))
	}
	return nil
}
