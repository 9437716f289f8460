// SPDX-License-Identifier: Apache-2.0

// Package piecehash computes the digests by which pieces are verified: BLAKE3
// of the blocks of a piece, and BLAKE3 over those.
//
// Invariants: the digest of a piece is BLAKE3-256 over the concatenated
// BLAKE3-256 digests of its blocks, in order, and nothing else goes into it; a
// piece has at least one block, so an empty piece has the digest of one empty
// block. Blocks are counted from the start of their piece, never of the
// content. How the bytes were cut into writes, spans and parents does not show
// in a digest.
package piecehash

import (
	"crypto/rand"
	"fmt"
	"io"
	"sync"

	"github.com/zeebo/blake3"

	"dragonfly"
)

// Block is the digest of one block.
type Block = [32]byte

// states holds idle hash states, which are 11 KiB each.
var states = sync.Pool{New: func() any { return blake3.New() }}

// sum ends a state's computation and makes it ready for the next one.
func sum(state *blake3.Hasher, out *Block) {
	state.Sum(out[:0])
	state.Reset()
}

// SumBlock is the digest of one block: at most dragonfly.BlockLen bytes.
func SumBlock(b []byte) (out Block) {
	state := states.Get().(*blake3.Hasher)
	state.Write(b)
	sum(state, &out)
	states.Put(state)
	return out
}

// Piece is the digest of the piece that consists of blocks.
func Piece(blocks []Block) (out dragonfly.PieceDigest) {
	state := states.Get().(*blake3.Hasher)
	for i := range blocks {
		state.Write(blocks[i][:])
	}
	sum(state, (*Block)(&out))
	states.Put(state)
	return out
}

// Blocks is the number of blocks of a piece of n bytes, at least 1.
func Blocks(n int64) int {
	return int(max(1, (n+dragonfly.BlockLen-1)/dragonfly.BlockLen))
}

// Validator is the version that a source's validator text stands for.
func Validator(text string) (v dragonfly.Version) {
	block := SumBlock([]byte(text))
	copy(v[:], block[:])
	return v
}

// RandomVersion is the version of a content whose source gives no validator.
func RandomVersion() (v dragonfly.Version) {
	rand.Read(v[:])
	return v
}

// Hasher computes the block digests of a run of bytes of one piece while they
// arrive. Several Hashers may work on one piece at the same time, each on its
// own blocks.
//
// When a run breaks off in the middle of a block, the same Hasher goes on with
// bytes from Offset on, whoever sends them. A Hasher is used by one goroutine
// at a time.
type Hasher struct {
	blocks []Block
	off    int64          // of the next byte, in the piece
	state  *blake3.Hasher // nil while no block is begun
	ended  bool           // Flush or Close was called
}

// NewHasher computes digests from the piece's byte from on, which must be the
// start of a block, and stores each as soon as its block is complete:
// blocks[i] is of the piece's block i. Close the Hasher after use.
func NewHasher(blocks []Block, from int64) *Hasher {
	if from%dragonfly.BlockLen != 0 {
		panic("piecehash: a run of bytes must begin with a block") // small, to be inlined without an allocation
	}
	return &Hasher{blocks: blocks, off: from}
}

// Offset is where in the piece the next byte belongs. Without a Flush, digests
// of whole blocks before it are stored.
func (h *Hasher) Offset() int64 { return h.off }

// Write takes the bytes at Offset. It fails, with the bytes that fit counted,
// behind the last of the Hasher's blocks and after Flush or Close.
func (h *Hasher) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		i := h.off / dragonfly.BlockLen
		if h.ended || i >= int64(len(h.blocks)) {
			return n, fmt.Errorf("hash byte %d of a piece of %d blocks: %w", h.off, len(h.blocks), io.ErrShortWrite)
		}
		if h.state == nil {
			h.state = states.Get().(*blake3.Hasher)
		}
		begun := h.off % dragonfly.BlockLen
		m := min(int64(len(p)), dragonfly.BlockLen-begun)
		h.state.Write(p[:m])
		h.off += m
		n += int(m)
		p = p[m:]
		if begun+m == dragonfly.BlockLen {
			sum(h.state, &h.blocks[i])
		}
	}
	return n, nil
}

// Flush says that the piece ends at Offset: it stores the digest of a short
// last block, or of the empty block of an empty piece. Nothing can be written
// after it.
func (h *Hasher) Flush() {
	if h.ended {
		return
	}
	if h.off%dragonfly.BlockLen != 0 {
		sum(h.state, &h.blocks[h.off/dragonfly.BlockLen])
	} else if h.off == 0 && len(h.blocks) > 0 {
		h.blocks[0] = SumBlock(nil)
	}
	h.release()
}

// Close gives the Hasher's state back and forgets an unfinished block. It may
// be called twice.
func (h *Hasher) Close() error {
	h.release()
	return nil
}

func (h *Hasher) release() {
	h.ended = true
	if h.state == nil {
		return
	}
	h.state.Reset()
	states.Put(h.state)
	h.state = nil
}
