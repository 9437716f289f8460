// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"dragonfly"
)

// reader gives the wanted bytes of an answer's body, straight into the
// caller's buffer, and judges its end.
type reader struct {
	body   io.ReadCloser
	url    *url.URL
	ctx    context.Context // of the request; its cause tells why it was ended
	cancel context.CancelCauseFunc
	idle   time.Duration
	timer  *time.Timer // runs while a Read waits
	cut    cut
	got    int64 // wanted bytes so far
	err    error // sticky
}

func newReader(a *answer, c cut, idle time.Duration) *reader {
	r := &reader{body: a.resp.Body, url: a.url, ctx: a.ctx, cancel: a.cancel, idle: idle, cut: c}
	r.timer = time.AfterFunc(idle, func() { r.cancel(errIdle) })
	r.timer.Stop()
	if a.resp.StatusCode >= 300 { // nothing is left to read; the body is an explanation
		_ = r.body.Close()
		r.err = io.EOF
	}
	return r
}

// Close ends the request. What was not read is not asked for any more.
func (r *reader) Close() error {
	r.timer.Stop()
	r.cancel(errClosed)
	return r.body.Close()
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, r.err
	}
	for r.err == nil {
		if r.cut.skip == 0 && r.cut.left == 0 {
			r.err = r.finish()
			break
		}
		buf := p
		if r.cut.left >= 0 {
			// The sum cannot overflow: both are below 2^61.
			buf = p[:min(int64(len(p)), r.cut.skip+r.cut.left)]
		}
		n, ended, err := r.wait(buf)
		if skipped := min(r.cut.skip, int64(n)); skipped > 0 {
			r.cut.skip -= skipped
			n = copy(p, buf[skipped:n])
		}
		r.got += int64(n)
		if r.cut.left > 0 {
			r.cut.left -= int64(n)
		}
		switch {
		case ended:
			r.err = r.ended()
		case err != nil:
			r.err = r.broken(err)
		}
		if n > 0 {
			return n, r.err
		}
	}
	return 0, r.err
}

// wait reads, and gives up when no byte comes for the idle time. A wrapped
// io.EOF is an error and not the end.
func (r *reader) wait(p []byte) (n int, ended bool, err error) {
	r.timer.Reset(r.idle)
	n, err = r.body.Read(p)
	r.timer.Stop()
	if err == io.EOF {
		return n, true, nil
	}
	return n, false, err
}

// finish is reached when all wanted bytes came. Where the body must end too,
// it is asked for its end, which also frees the connection for other requests.
func (r *reader) finish() error {
	if !r.cut.mustEnd {
		return io.EOF
	}
	var more [1]byte
	n, _, err := r.wait(more[:])
	switch {
	case n > 0:
		return r.fault(dragonfly.SourceFailed, nil, fmt.Sprintf("goes on after the announced end of its content, %d bytes from where it was read", r.got))
	case err != nil:
		return r.broken(err)
	}
	return io.EOF
}

// ended says whether the body ended where it may.
func (r *reader) ended() error {
	switch {
	case r.cut.skip > 0:
		return r.fault(dragonfly.SourceChanged, nil, "has no byte at the offset that is asked for")
	case r.cut.left > 0 && !r.cut.mayEnd:
		return r.broken(io.ErrUnexpectedEOF)
	}
	return io.EOF
}

// broken is the error to report for one that the body broke with.
func (r *reader) broken(err error) error {
	if errors.Is(context.Cause(r.ctx), errIdle) {
		return r.fault(dragonfly.SourceFailed, errIdle, fmt.Sprintf("sent nothing for %s: try again later", r.idle))
	}
	if e := canceled(r.ctx, r.url); e != nil {
		return e
	}
	return r.fault(dragonfly.SourceFailed, err, fmt.Sprintf("broke off after %d bytes: try again", r.got))
}

func (r *reader) fault(kind dragonfly.Kind, cause error, text string) error {
	return &dragonfly.Error{Kind: kind, Message: "source " + redact(r.url) + " " + text, Err: cause}
}
