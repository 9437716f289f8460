// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dragonfly"
	"dragonfly/source"
)

const (
	// stall is how long the engine may give nothing in mid-stream before the
	// registry is asked for the rest. A supernode that is only restarted is back
	// before.
	stall = 12 * time.Second
	// slowest is how fast the end of a content is found right at least, in
	// bytes per second: somebody may have to hash all of it.
	slowest = 50_000_000
)

// errStalled says that the engine gives nothing any more.
var errStalled = errors.New("the engine gave nothing for long")

// part is a run of bytes of the content, with what comes before it in an answer
// of several parts.
type part struct {
	head []byte
	span dragonfly.Span // To is dragonfly.UnknownLength while the length is
}

// stream is the body of a content that the engine brings: begin, then Read by
// one goroutine. It ends with io.EOF only after all of it was found right, and
// no error of the engine is the client's while the registry can go on.
type stream struct {
	m      *Mirror
	ctx    context.Context // of the job and of reading it
	cancel context.CancelFunc
	unhook func() bool // the end of the client's request ends the job no more
	d      Download
	name   string // of the content, for errors
	resume func(span dragonfly.Span, length int64) (io.ReadCloser, error)

	length int64 // of the whole content
	parts  []part
	at     int       // of the present part
	from   io.Reader // of the present part; nil: not open yet
	off    int64     // in the content
	rest   io.ReadCloser
	lost   bool   // the registry goes on
	head   []byte // to be given before what is read
	tail   []byte // after the last part
	end    error  // what Read gives after head
}

// errRange says that a range lies behind the end of the content, or that this
// is not known: the registry has the answer.
var errRange = errors.New("the ranges do not fit the content")

// begin reads the first bytes, or finds that there are none; lay says how the
// answer is made up of a content of that length. An error means that nothing
// can be had from the engine.
func (s *stream) begin(want dragonfly.Span, lay func(length int64) (parts []part, tail []byte)) (err error) {
	if s.from, err = s.engine(want); err != nil {
		return err
	}
	s.off, s.length = want.From, s.d.Progress().Length
	if s.length >= 0 {
		if s.parts, s.tail = lay(s.length); len(s.parts) == 0 {
			return errRange
		}
		s.off = s.parts[0].span.From
		if s.from, err = s.engine(s.parts[0].span); err != nil {
			return err
		}
	}
	// Else the length may be known with the first byte, or at the end.
	buf := make([]byte, bufferLen)
	n, err := readSome(s.from, buf)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(s.parts) == 0 {
		s.length = s.d.Progress().Length
		if errors.Is(err, io.EOF) && s.length < 0 {
			s.length = int64(n)
		}
		if s.parts, s.tail = lay(s.length); len(s.parts) == 0 {
			return errRange
		}
	}
	if to := s.parts[0].span.To; to >= 0 && int64(n) > to-s.off {
		return fmt.Errorf("%s is longer than its %d bytes", s.name, s.length)
	}
	if n, err = s.take(n, err); err != nil {
		return err // nothing was given yet: it is no loss
	}
	s.head = append(s.parts[0].head, buf[:n]...)
	s.parts[0].head = nil
	return nil
}

// readSome reads at least a byte, or fails.
func readSome(r io.Reader, p []byte) (n int, err error) {
	for n == 0 && err == nil {
		n, err = r.Read(p)
	}
	return n, err
}

func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if len(s.head) > 0 {
			n := copy(p, s.head)
			if s.head = s.head[n:]; len(s.head) == 0 {
				s.head = nil // no buffer for as long as the stream lasts
			}
			return n, nil
		}
		if s.end != nil {
			return 0, s.end
		}
		n, err := s.next(p)
		if s.end = err; n > 0 {
			return n, nil
		}
	}
}

// next reads into p or puts something into head; io.EOF says that all is over.
func (s *stream) next(p []byte) (n int, err error) {
	if s.at == len(s.parts) {
		s.head, s.tail = s.tail, nil
		if s.head == nil {
			return 0, io.EOF
		}
		return 0, nil
	}
	now := &s.parts[s.at]
	if len(now.head) > 0 {
		s.head, now.head = now.head, nil
		return 0, nil
	}
	if s.from == nil {
		s.off = now.span.From
		if err := s.open(now.span); err != nil {
			return 0, err
		}
	}
	if left := now.span.To - s.off; now.span.To >= 0 && int64(len(p)) > left {
		p = p[:left] // never nothing: the end was found when the last byte came
	}
	n, err = s.from.Read(p)
	n, err = s.take(n, err)
	if err != nil && !s.lost && s.ctx.Err() == nil && dragonfly.KindOf(err) != dragonfly.DigestMismatch {
		s.lost, s.from = true, nil
		if oerr := s.open(dragonfly.Span{From: s.off, To: now.span.To}); oerr != nil {
			return n, fmt.Errorf("%s is broken off at byte %d: the engine lost it: %w; and its registry does not go on: %w", s.name, s.off, err, bare(oerr))
		}
		err = nil
	}
	return n, err
}

// open begins to read a span, from the engine or from the registry.
func (s *stream) open(span dragonfly.Span) (err error) {
	if !s.lost {
		s.from, err = s.engine(span)
		return err
	}
	if s.rest != nil {
		s.rest.Close()
	}
	if s.rest, err = s.resume(span, s.length); err == nil {
		s.from = s.rest
	}
	return err
}

// engine opens a span at the engine.
func (s *stream) engine(span dragonfly.Span) (*watched, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	r, err := s.d.Reader(ctx, span)
	if err != nil {
		cancel()
		return nil, err
	}
	w := &watched{Reader: r, patience: stall, timer: time.AfterFunc(time.Hour, cancel)}
	w.timer.Stop()
	return w, nil
}

// watched is a reader of the engine that is ended by its timer when it stalls.
type watched struct {
	io.Reader
	timer    *time.Timer
	patience time.Duration
	stalled  bool
}

func (w *watched) Read(p []byte) (int, error) {
	if w.stalled {
		return 0, errStalled
	}
	w.timer.Reset(w.patience)
	n, err := w.Reader.Read(p)
	if w.stalled = !w.timer.Stop(); w.stalled && n == 0 {
		err = errStalled
	}
	return n, err
}

// take counts n bytes that were read with err and says how many of them may be
// given. The last bytes of a part may be given when all of it was found right.
func (s *stream) take(n int, err error) (int, error) {
	to := s.parts[s.at].span.To
	if to >= 0 && s.off+int64(n) == to {
		if err == nil {
			if w, ok := s.from.(*watched); ok {
				w.patience += time.Duration(max(0, s.length)/slowest) * time.Second
			}
			_, err = readSome(s.from, make([]byte, 1))
		}
		if !errors.Is(err, io.EOF) {
			if err == nil {
				err = fmt.Errorf("%s is longer than its %d bytes", s.name, s.length)
			}
			return 0, err
		}
	}
	s.off += int64(n)
	switch {
	case !errors.Is(err, io.EOF):
		return n, err
	case to >= 0 && s.off < to:
		return n, io.ErrUnexpectedEOF
	}
	s.at, s.from = s.at+1, nil
	return n, nil
}

// drop ends the job of a stream that nobody gets; begin may be at work.
func (s *stream) drop() {
	s.unhook()
	s.cancel()
	s.m.wg.Go(func() { _ = s.d.Close() }) // nobody gets its outcome
}

// Close ends the job, unless the content was given to its end: then the engine
// may finish what it has to do with it.
func (s *stream) Close() error {
	finished := s.unhook() && errors.Is(s.end, io.EOF) && !s.lost
	if s.rest != nil {
		s.rest.Close()
	}
	if !finished {
		s.cancel()
	}
	s.m.wg.Go(func() {
		_ = s.d.Wait(s.ctx) // the client has its content, or none
		s.cancel()
		_ = s.d.Close()
	})
	return nil
}

// rest opens a span of a content at its registry. Redirects are followed: the
// client has its header already.
func (m *Mirror) rest(to route, out *http.Request, span dragonfly.Span, length int64) (io.ReadCloser, error) {
	r := out.Clone(out.Context())
	r.RequestURI = "" // only servers know it
	m.authorize(to, r)
	last := ""
	if span.To >= 0 {
		last = strconv.FormatInt(span.To-1, 10)
	}
	r.Header.Set("Range", "bytes="+strconv.FormatInt(span.From, 10)+"-"+last)
	r.Header.Del("If-Range")
	r.Header.Set("Accept-Encoding", "identity")
	resp, err := (&http.Client{Transport: m.transport(to)}).Do(r)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.Header.Get("Content-Encoding") != "":
		err = errors.New("it encodes the content")
	case resp.StatusCode == http.StatusOK: // no ranges here
		if length >= 0 && resp.ContentLength >= 0 && resp.ContentLength != length {
			err = fmt.Errorf("it has %d bytes and not %d", resp.ContentLength, length)
			break
		}
		_, err = io.CopyN(io.Discard, resp.Body, span.From)
	case resp.StatusCode == http.StatusPartialContent:
		err = continues(resp.Header.Get("Content-Range"), span.From, length)
	default:
		err = fmt.Errorf("it answers %d at %s", resp.StatusCode, source.Redact(resp.Request.URL.String()))
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	if span.To < 0 {
		return resp.Body, nil
	}
	return limited{io.LimitReader(resp.Body, span.Len()), resp.Body}, nil
}

// limited is the start of a body.
type limited struct {
	io.Reader
	io.Closer
}

// continues checks that a Content-Range goes on at from, to the end of a
// content of that length.
func continues(contentRange string, from, length int64) error {
	span, total, _ := strings.Cut(strings.TrimPrefix(contentRange, "bytes "), "/")
	first, _, _ := strings.Cut(span, "-")
	if at, err := strconv.ParseInt(first, 10, 64); err != nil || at != from {
		return fmt.Errorf("it does not go on at byte %d", from)
	}
	if n, err := strconv.ParseInt(total, 10, 64); err == nil && length >= 0 && n != length {
		return fmt.Errorf("it has %d bytes and not %d", n, length)
	}
	return nil
}
