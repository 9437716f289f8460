// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"io"

	"dragonfly"
)

// reader gives the verified bytes of a holding in order, as they come.
type reader struct {
	ctx context.Context
	h   *holding
	d   *Download // whose end is the reader's, unless it succeeds; nil: none
	off int64
	end int64 // verified up to here
}

func (r *reader) Read(p []byte) (int, error) {
	if r.off >= r.end {
		if err := r.advance(); err != nil {
			return 0, err
		}
	}
	n, err := r.h.content.File().ReadAt(p[:min(int64(len(p)), r.end-r.off)], r.off)
	r.off += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// advance waits for more verified bytes. The end of the content is the reader's
// only when the download has succeeded, its digest included.
func (r *reader) advance() (err error) {
	var over <-chan struct{}
	if r.d != nil {
		over = r.d.done
	}
	if r.end, err = r.h.verified(r.ctx, r.off, over); err != nil || r.end > r.off {
		return err
	}
	if over != nil {
		if err := r.d.Wait(r.ctx); err != nil {
			return err
		}
		if r.end, err = r.h.verified(r.ctx, r.off, nil); err != nil || r.end > r.off {
			return err
		}
	}
	return io.EOF
}

// check hashes the whole content along its verified prefix and compares it
// with what was expected.
func check(ctx context.Context, h *holding, want dragonfly.Digest) error {
	hash := want.NewHash()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// Only Read is offered, so that the buffer is ours.
	if _, err := io.CopyBuffer(struct{ io.Writer }{hash}, &reader{ctx: ctx, h: h}, *buf); err != nil {
		return err
	}
	got, err := dragonfly.NewDigest(want.Algorithm(), hash.Sum(nil))
	if err != nil {
		return err
	}
	if got != want {
		return &dragonfly.Error{Kind: dragonfly.DigestMismatch,
			Message: "the content has " + got.String() + ", but " + want.String() + " was asked for: the file at the source is not the expected one"}
	}
	return nil
}
