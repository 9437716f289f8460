// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"io"
	"os"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/store"
	"dragonfly/transfer"
)

// Shelf is what the engine shows to the data port: everything it holds or
// receives, to those who have the ticket.
func (e *Engine) Shelf() transfer.Shelf { return shelf{e} }

type shelf struct{ e *Engine }

func (s shelf) Open(id dragonfly.TaskID, v dragonfly.Version, ticket dragonfly.Ticket) (transfer.View, error) {
	t := s.e.lookup(id)
	if t == nil {
		return nil, transfer.ErrUnknown
	}
	h := t.holding()
	switch {
	case h == nil || !h.admits(ticket):
		return nil, transfer.ErrUnknown
	case h.version != v:
		return nil, transfer.ErrVersion
	}
	file, err := h.content.OpenFile()
	if errors.Is(err, store.ErrChanged) {
		t.spoiled(h, err)
		return nil, transfer.ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	return &view{holding: h, file: file, done: s.e.work()}, nil
}

// view is one stream out of a holding.
type view struct {
	*holding
	file *os.File
	done func()

	piece dragonfly.PieceNum // that was sent last
	seen  *arrival           // of it, nil if it was held
}

func (v *view) Ready(ctx context.Context, off int64) (int64, error) {
	if n := v.Layout().PieceAt(off); n != v.piece {
		v.piece, v.seen = n, nil
	}
	if v.content.Doubtful(v.piece) && !v.sure(v.piece) {
		return 0, transfer.ErrUnknown
	}
	end, a, err := v.ready(ctx, off, v.seen)
	v.seen = a
	for n := v.piece + 1; err == nil; n++ {
		from, _ := v.Layout().Extent(n)
		if from >= end {
			break
		}
		if v.content.Doubtful(n) {
			return from, nil // it is looked at when its turn comes
		}
	}
	return end, err
}

func (v *view) File() *os.File { return v.file }

func (v *view) Holds(span dragonfly.Span) bool {
	layout := v.Layout()
	for off := span.From; off < span.To; {
		n := layout.PieceAt(off)
		if !v.content.Has(n) {
			return false
		}
		_, off = layout.Extent(n)
	}
	return true
}

func (v *view) Close() error {
	v.done()
	return v.file.Close()
}

// Blocks computes the block digests of a held piece from its bytes.
func (v *view) Blocks(n dragonfly.PieceNum) ([]piecehash.Block, error) {
	layout := v.Layout()
	if !v.sure(n) {
		return nil, transfer.ErrUnknown
	}
	from, to := layout.Extent(n)
	blocks := make([]piecehash.Block, piecehash.Blocks(to-from))
	hasher := piecehash.NewHasher(blocks, 0)
	defer hasher.Close()
	if _, err := io.Copy(hasher, io.NewSectionReader(v.file, from, to-from)); err != nil {
		return nil, err
	}
	hasher.Flush()
	return blocks, nil
}
