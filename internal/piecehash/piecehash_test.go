// SPDX-License-Identifier: Apache-2.0

package piecehash_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"dragonfly"
	"dragonfly/internal/piecehash"
)

const blockLen = dragonfly.BlockLen

// content is n reproducible bytes.
func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// plain computes the block digests of a piece by the definition.
func plain(piece []byte) []piecehash.Block {
	blocks := []piecehash.Block{}
	for rest := piece; len(rest) > 0 || len(blocks) == 0; {
		n := min(len(rest), blockLen)
		blocks = append(blocks, blake3.Sum256(rest[:n]))
		rest = rest[n:]
	}
	return blocks
}

// TestVectors holds the algorithm to the published BLAKE3 test vectors: input
// byte i is i mod 251.
func TestVectors(t *testing.T) {
	for n, want := range map[int]string{
		0:    "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
		1:    "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
		1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
	} {
		in := make([]byte, n)
		for i := range in {
			in[i] = byte(i % 251)
		}
		if got := piecehash.SumBlock(in); hex.EncodeToString(got[:]) != want {
			t.Errorf("BLAKE3 of %d bytes is %x, want %s", n, got, want)
		}
	}
}

// TestPiece: the digest of a piece is BLAKE3 over its concatenated block
// digests, even with one block.
func TestPiece(t *testing.T) {
	for _, n := range []int{0, 1, blockLen, blockLen + 1, 3 * blockLen} {
		blocks := plain(content(n))
		if len(blocks) != piecehash.Blocks(int64(n)) {
			t.Errorf("a piece of %d bytes has %d blocks, Blocks says %d", n, len(blocks), piecehash.Blocks(int64(n)))
		}
		var all []byte
		for _, b := range blocks {
			all = append(all, b[:]...)
		}
		if got := piecehash.Piece(blocks); got != dragonfly.PieceDigest(blake3.Sum256(all)) {
			t.Errorf("the digest of a piece of %d bytes is %s", n, got)
		}
	}
}

func TestVersions(t *testing.T) {
	want := blake3.Sum256([]byte(`"etag"`))
	if got := piecehash.Validator(`"etag"`); !bytes.Equal(got[:], want[:16]) {
		t.Errorf("the version of a validator is %s, want %x", got, want[:16])
	}
	a, b := piecehash.RandomVersion(), piecehash.RandomVersion()
	if a == b || a.IsZero() {
		t.Errorf("random versions %s and %s", a, b)
	}
}

// TestHasherSpans: a piece that came in several runs of blocks, in any order,
// in writes of any size, some of them broken off in the middle of a block and
// gone on with, has the digests that it has by definition.
func TestHasherSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := content(rapid.OneOf(
			rapid.IntRange(0, 5*blockLen),
			rapid.SampledFrom([]int{0, 1, blockLen - 1, blockLen, blockLen + 1, 4 * blockLen}),
		).Draw(t, "length"))
		blocks := make([]piecehash.Block, piecehash.Blocks(int64(len(piece))))

		type run struct{ from, to int }
		var runs []run
		for at := 0; at < len(piece) || at == 0; {
			to := min(len(piece), at+blockLen*rapid.IntRange(1, 3).Draw(t, "blocks"))
			runs = append(runs, run{at, to})
			if to == at {
				break // an empty piece
			}
			at = to
		}
		runs = rapid.Permutation(runs).Draw(t, "order")
		hashers := make([]*piecehash.Hasher, len(runs))
		for i, r := range runs {
			hashers[i] = piecehash.NewHasher(blocks, int64(r.from))
		}
		for i := 0; i < len(runs); {
			// Any of the runs that are left grows.
			j := rapid.IntRange(i, len(runs)-1).Draw(t, "run")
			runs[i], runs[j], hashers[i], hashers[j] = runs[j], runs[i], hashers[j], hashers[i]
			h, r := hashers[i], runs[i]
			at := int(h.Offset())
			n := rapid.IntRange(0, min(r.to-at, 2*blockLen)).Draw(t, "write")
			if m, err := h.Write(piece[at : at+n]); m != n || err != nil {
				t.Fatalf("write of %d bytes at %d: %d, %v", n, at, m, err)
			}
			if int(h.Offset()) == r.to {
				if r.to == len(piece) {
					h.Flush()
				}
				h.Close()
				i++
			}
		}
		for i, want := range plain(piece) {
			if blocks[i] != want {
				t.Fatalf("block %d of %d is wrong", i, len(blocks))
			}
		}
	})
}

// TestHasherForgets: what is begun and not flushed leaves no digest, and the
// state that it gives back is clean.
func TestHasherForgets(t *testing.T) {
	blocks := make([]piecehash.Block, 2)
	h := piecehash.NewHasher(blocks, blockLen)
	h.Write([]byte("unfinished"))
	h.Close()
	h.Close()
	if blocks[1] != (piecehash.Block{}) {
		t.Error("an unfinished block has a digest")
	}
	if got := piecehash.SumBlock(nil); got != blake3.Sum256(nil) {
		t.Error("the next hash begins with what the last one left")
	}
}

// TestFlushAtBoundary: a piece that turns out to end with a block has no empty
// block behind it, and other runs' digests stay.
func TestFlushAtBoundary(t *testing.T) {
	blocks := make([]piecehash.Block, 3)
	blocks[1] = piecehash.Block{1}
	h := piecehash.NewHasher(blocks, 0)
	h.Write(content(blockLen))
	h.Flush()
	h.Flush()
	if blocks[1] != (piecehash.Block{1}) || blocks[0] != blake3.Sum256(content(blockLen)) {
		t.Error("flushing at a block's end writes another block's digest")
	}
}

func TestHasherLimits(t *testing.T) {
	h := piecehash.NewHasher(make([]piecehash.Block, 1), 0)
	if n, err := h.Write(make([]byte, blockLen+1)); n != blockLen || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a write over the piece's end: %d, %v", n, err)
	}
	h.Flush()
	if _, err := h.Write([]byte{0}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a write after Flush: %v", err)
	}
	for _, from := range []int64{-1, 1, blockLen + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a Hasher begins at %d", from)
				}
			}()
			piecehash.NewHasher(nil, from)
		}()
	}
}

// TestNoGarbage: hashing a piece allocates nothing once the pool is warm.
func TestNoGarbage(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop values")
	}
	piece := content(4*blockLen + 7)
	blocks := make([]piecehash.Block, piecehash.Blocks(int64(len(piece))))
	if n := testing.AllocsPerRun(100, func() {
		h := piecehash.NewHasher(blocks, 0)
		h.Write(piece)
		h.Flush()
		h.Close()
		piecehash.Piece(blocks)
	}); n >= 1 {
		t.Errorf("%v allocations per piece", n)
	}
}

// BenchmarkHasher hashes a 4 MiB piece in writes of the size of one read: a
// whole number of blocks, or what a socket happens to give.
func BenchmarkHasher(b *testing.B) {
	piece := content(4<<20 - 5)
	blocks := make([]piecehash.Block, piecehash.Blocks(int64(len(piece))))
	for _, size := range []int{64 << 10, 256 << 10, 65483, 1448} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(len(piece)))
			b.ReportAllocs()
			for b.Loop() {
				h := piecehash.NewHasher(blocks, 0)
				for at := 0; at < len(piece); at += size {
					h.Write(piece[at:min(at+size, len(piece))])
				}
				h.Flush()
				h.Close()
			}
		})
	}
}

func BenchmarkPiece(b *testing.B) {
	blocks := make([]piecehash.Block, 64)
	b.ReportAllocs()
	for b.Loop() {
		piecehash.Piece(blocks)
	}
}
