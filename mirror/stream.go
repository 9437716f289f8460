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
	"dragonfly/internal/piecehash"
	"dragonfly/peer"
	"dragonfly/source"
)

const (
	// stall is how long the engine may give nothing in mid-stream before the
	// registry is asked for the rest. A supernode that is only restarted is back
	// before.
	stall = 12 * time.Second
	// silence is how long a registry that goes on may give nothing.
	silence = 30 * time.Second
	// slowest is how fast the end of a content is found right at least, in
	// bytes per second: somebody may have to hash all of it.
	slowest = 50_000_000
)

var (
	// errStalled says that engine or registry give nothing any more.
	errStalled = errors.New("nothing came for long")
	// errAnother says that the content changed while it was given.
	errAnother = errors.New("it may be another content by now")
)

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
	resume func(*stream, dragonfly.Span) (io.ReadCloser, error)

	version dragonfly.Version // of the content; zero: not known
	length  int64             // of the whole content
	parts   []part
	at      int       // of the present part
	from    io.Reader // of the present part; nil: not open yet
	off     int64     // in the content
	rest    io.ReadCloser
	lost    bool   // the registry goes on
	head    []byte // to be given before what is read
	tail    []byte // after the last part
	end     error  // what Read gives after head
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
	if err != nil && !s.lost && s.ctx.Err() == nil && right(err) {
		s.lost, s.from = true, nil
		if oerr := s.open(dragonfly.Span{From: s.off, To: now.span.To}); oerr != nil {
			return n, fmt.Errorf("%s is broken off at byte %d: the engine lost it: %w; and its registry does not go on: %w", s.name, s.off, err, bare(oerr))
		}
		err = nil
	}
	return n, err
}

// right says that an error of the engine leaves what it gave before as it is.
func right(err error) bool {
	return dragonfly.KindOf(err) != dragonfly.DigestMismatch && !errors.Is(err, peer.ErrTakenBack) && !errors.Is(err, errAnother)
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
	if s.rest, err = s.resume(s, span); err == nil {
		s.from = s.rest
	}
	return err
}

// engine opens a span at the engine. All spans are of one version of the content.
func (s *stream) engine(span dragonfly.Span) (*watched, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	w := &watched{patience: stall, timer: time.AfterFunc(stall, cancel)}
	r, err := s.d.Reader(ctx, span)
	if w.stalled = !w.timer.Stop(); w.stalled && err != nil {
		err = errStalled
	}
	if r, ok := r.(versioned); err == nil && ok {
		if v := r.Version(); s.version.IsZero() {
			s.version = v
		} else if s.version != v {
			err = errAnother
		}
	}
	if err != nil {
		cancel()
		return nil, err
	}
	w.Reader = r
	return w, nil
}

// watched is a reader that is ended by its timer when it stalls.
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
	if w.stalled = !w.timer.Stop(); w.stalled && n == 0 && (err == nil || right(err)) {
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

// rest opens a span of the content of s at its registry. Redirects are followed:
// the client has its header already.
func (m *Mirror) rest(to route, out *http.Request, s *stream, span dragonfly.Span) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(out.Context())
	r := out.Clone(ctx)
	r.RequestURI = "" // only servers know it
	m.authorize(to, r)
	last := ""
	if span.To >= 0 {
		last = strconv.FormatInt(span.To-1, 10)
	}
	r.Header.Set("Range", "bytes="+strconv.FormatInt(span.From, 10)+"-"+last)
	r.Header.Del("If-Range")
	r.Header.Set("Accept-Encoding", "identity")
	resp, err := m.client(to).Do(r)
	if err != nil {
		cancel()
		return nil, err
	}
	body := &rest{watched: watched{Reader: resp.Body, patience: silence, timer: time.AfterFunc(time.Hour, cancel)}, body: resp.Body, cancel: cancel}
	body.timer.Stop()
	length := resp.ContentLength
	switch {
	case resp.Header.Get("Content-Encoding") != "":
		err = errors.New("it encodes the content")
	case resp.StatusCode == http.StatusOK: // no ranges here
		if s.length >= 0 && length >= 0 && length != s.length {
			err = fmt.Errorf("it has %d bytes and not %d", length, s.length)
		}
	case resp.StatusCode == http.StatusPartialContent:
		length, err = continues(resp.Header.Get("Content-Range"), span, s.length)
	default:
		err = fmt.Errorf("it answers %d at %s", resp.StatusCode, source.Redact(resp.Request.URL.String()))
	}
	if err == nil && to.blob.IsZero() && !s.same(resp.Header, length) {
		err = errAnother
	}
	if err == nil && resp.StatusCode == http.StatusOK {
		_, err = io.CopyN(io.Discard, body, span.From)
	}
	if err != nil {
		body.Close()
		return nil, err
	}
	if span.To >= 0 {
		body.Reader = io.LimitReader(resp.Body, span.Len())
	}
	return body, nil
}

// same says that the registry's answer is surely about the version that the
// engine gave. It must be asked where the URL does not tell.
func (s *stream) same(h http.Header, length int64) bool {
	validator := source.Info{ETag: h.Get("Etag"), LastModified: h.Get("Last-Modified"), Length: length}.Validator()
	return validator != "" && piecehash.Validator(validator) == s.version
}

// rest is what a registry gives when the engine is lost.
type rest struct {
	watched
	body   io.Closer
	cancel context.CancelFunc
}

func (r *rest) Close() error {
	r.timer.Stop()
	defer r.cancel()
	return r.body.Close()
}

// client follows redirects to a registry. What was meant for its host goes to
// no other.
func (m *Mirror) client(to route) *http.Client {
	return &http.Client{Transport: m.transport(to), CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("it redirects more than %d times", maxRedirects)
		}
		if !source.SameHost(via[0].URL, next.URL) {
			next.Header = source.Harmless(next.Header)
		}
		return nil
	}}
}

const maxRedirects = 10

// continues checks that a Content-Range begins where the span does, to the end
// of a content of that length, and says how long the content is. Where no length
// is known the range must be the last.
func continues(contentRange string, span dragonfly.Span, length int64) (total int64, err error) {
	text, all, _ := strings.Cut(strings.TrimPrefix(contentRange, "bytes "), "/")
	first, last, _ := strings.Cut(text, "-")
	if at, err := strconv.ParseInt(first, 10, 64); err != nil || at != span.From {
		return 0, fmt.Errorf("it does not go on at byte %d", span.From)
	}
	total, err = strconv.ParseInt(all, 10, 64)
	switch known := err == nil; {
	case known && length >= 0 && total != length:
		return 0, fmt.Errorf("it has %d bytes and not %d", total, length)
	case known && span.To < 0 && last != strconv.FormatInt(total-1, 10), !known && span.To < 0:
		return 0, errors.New("it does not go on to the end of the content")
	case !known:
		return length, nil
	}
	return total, nil
}
