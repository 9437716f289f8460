// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"

	"dragonfly"
	"dragonfly/source"
)

// stream is the body of a blob that the engine brings: begin, then Read by one
// goroutine. It ends with io.EOF only after the digest was found right, and no
// error of the engine is the client's while the registry can go on.
type stream struct {
	m      *Mirror
	ctx    context.Context // of the job and of reading it
	cancel context.CancelFunc
	unhook func() bool // the end of the client's request ends the job no more
	d      Download
	want   dragonfly.Digest
	resume func(from, length int64) (io.ReadCloser, error)

	from   io.Reader // the engine's
	rest   io.ReadCloser
	hash   hash.Hash
	off    int64
	length int64 // as the answer says it; UnknownLength: it does not
	head   []byte
	end    error // what Read gives after head
}

// begin reads the first bytes, or finds that there are none. An error means
// that nothing can be had from the engine.
func (s *stream) begin() (err error) {
	if s.from, err = s.d.Reader(s.ctx, 0); err != nil {
		return err
	}
	buf := make([]byte, bufferLen)
	n, err := s.from.Read(buf)
	for n == 0 && err == nil {
		n, err = s.from.Read(buf)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if length := s.d.Progress().Length; length >= 0 {
		s.length = length
	}
	// Nothing was given yet: what is wrong here is no loss.
	if n, s.end = s.take(buf[:n], err); s.end != nil && !errors.Is(s.end, io.EOF) {
		return s.end
	}
	s.head = buf[:n]
	if s.end != nil {
		s.length = s.off // that is all, whether its length was told or not
	}
	return nil
}

func (s *stream) Read(p []byte) (int, error) {
	if len(s.head) > 0 {
		n := copy(p, s.head)
		if s.head = s.head[n:]; len(s.head) == 0 {
			s.head = nil // no buffer for as long as the stream lasts
		}
		return n, nil
	}
	if s.end != nil || len(p) == 0 {
		return 0, s.end
	}
	from := s.from
	if s.rest != nil {
		from = s.rest
	}
	if left := s.length - s.off; s.length >= 0 && int64(len(p)) > left {
		p = p[:left] // never nothing: the end was found when the last byte came
	}
	n, err := from.Read(p)
	n, s.end = s.take(p[:n], err)
	if lost := s.end; lost != nil && !errors.Is(lost, io.EOF) && s.rest == nil && s.ctx.Err() == nil &&
		dragonfly.KindOf(lost) != dragonfly.DigestMismatch {
		if s.rest, s.end = s.resume(s.off, s.length); s.end != nil {
			s.end = fmt.Errorf("the blob %s is broken off at byte %d: the engine lost it: %w; and its registry does not go on: %w", s.want, s.off, lost, bare(s.end))
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, s.end
}

// take counts and hashes bytes that were read with err. It gives how many of
// them the client may have, and io.EOF where the content ends rightly.
func (s *stream) take(p []byte, err error) (int, error) {
	s.hash.Write(p)
	s.off += int64(len(p))
	switch {
	case s.length >= 0 && s.off > s.length:
		return 0, s.wrong(fmt.Sprintf("is longer than its %d bytes", s.length))
	case s.off == s.length, s.length < 0 && errors.Is(err, io.EOF):
		got, err := dragonfly.NewDigest(s.want.Algorithm(), s.hash.Sum(nil))
		if err != nil {
			return 0, err
		}
		if got != s.want {
			return 0, s.wrong("has " + got.String())
		}
		return len(p), io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return len(p), err
}

func (s *stream) wrong(what string) error {
	return &dragonfly.Error{Kind: dragonfly.DigestMismatch, Message: "the blob " + s.want.String() + " " + what + ": the registry's content is not what its name says"}
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
	finished := s.unhook() && errors.Is(s.end, io.EOF) && s.rest == nil
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

// rest opens a blob at its registry at the offset from. Redirects are
// followed: the client has its header already.
func (m *Mirror) rest(to route, out *http.Request, from, length int64) (io.ReadCloser, error) {
	r := out.Clone(out.Context())
	r.RequestURI = "" // only servers know it
	r.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
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
		_, err = io.CopyN(io.Discard, resp.Body, from)
	case resp.StatusCode == http.StatusPartialContent:
		err = continues(resp.Header.Get("Content-Range"), from, length)
	default:
		err = fmt.Errorf("it answers %d at %s", resp.StatusCode, source.Redact(resp.Request.URL.String()))
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
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
