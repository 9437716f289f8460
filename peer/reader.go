// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"io"

	"dragonfly"
)

// reader gives the bytes of a holding in order, as they become final. That of
// a download is a consumer (design 5): it gives what comes straight from source
// or seed before it is verified, and its end only when all of that was.
type reader struct {
	ctx   context.Context
	h     *holding
	d     *Download // whose end is the reader's, unless it succeeds; nil: only verified bytes are given
	off   int64
	end   int64              // final up to here
	to    int64              // what is asked for ends here; negative: with the content
	given []*promise         // not yet verified
	stand dragonfly.PieceNum // told to the supernode as the one that is read next
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
		return n, nil
	}
	return n, r.blame(r.h.why(err))
}

// Version is that of the content that is read.
func (r *reader) Version() dragonfly.Version { return r.h.version }

// advance waits for more bytes. The end of the content is the reader's only when
// the download has succeeded, its digest included.
func (r *reader) advance() error {
	return r.blame(r.wait())
}

// blame makes wrong bytes that were given the reason of the end, whatever it is:
// whoever goes on elsewhere would go on after them.
func (r *reader) blame(err error) error {
	if err != nil && !atEnd(err) && r.h.takenBack(r.given) {
		return ErrTakenBack
	}
	return err
}

func (r *reader) wait() (err error) {
	if r.d == nil {
		if r.end, err = r.h.verified(r.ctx, r.off, r.to, nil, nil); err == nil && r.end <= r.off {
			err = io.EOF
		}
		return err
	}
	r.declare()
	if r.end, err = r.h.verified(r.ctx, r.off, r.to, r.d.done, &r.given); err != nil || r.end > r.off {
		return err
	}
	if len(r.d.job.Want) > 0 && r.off >= r.to && len(r.given) == 0 {
		return io.EOF // no digest of the whole decides about a part
	}
	if err := r.d.Wait(r.ctx); err != nil {
		return err
	}
	if err := r.d.succeededWith(r.h); err != nil {
		return err
	}
	if r.end, err = r.h.verified(r.ctx, r.off, r.to, nil, &r.given); err == nil && r.end <= r.off {
		err = io.EOF
	}
	return err
}

// declare tells the supernode which piece is waited for, so that it comes before
// rarer ones.
func (r *reader) declare() {
	n := r.h.Layout().PieceAt(r.off)
	if n == r.stand || r.h.content.Has(n) {
		return
	}
	r.stand = n
	r.d.t.report(dragonfly.Event{Kind: dragonfly.EventPosition, Task: r.h.task, Version: r.h.version, Offset: r.off, Job: r.d.job.ID})
}

// feed hashes what is final already. Only then has it a buffer: a content of which
// nobody wants the rest is waited for as long as it is kept.
func (r *reader) feed(hash io.Writer) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for r.off < r.end {
		n, err := r.Read(*buf)
		_, _ = hash.Write((*buf)[:n]) // a hash takes all
		if err != nil {
			return err
		}
	}
	return nil
}

// check hashes the whole content along its verified prefix and compares it
// with what was expected.
func check(ctx context.Context, h *holding, want dragonfly.Digest) error {
	hash := want.NewHash()
	for r := (&reader{ctx: ctx, h: h, to: dragonfly.UnknownLength}); ; {
		err := r.advance()
		if atEnd(err) {
			break
		}
		if err == nil {
			err = r.feed(hash)
		}
		if err != nil {
			return err
		}
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
