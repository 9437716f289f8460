// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/internal/piecehash"
)

// Pattern is where a Server belongs in an http.ServeMux.
const Pattern = "GET " + tasksPath + "{id}/{what}"

const (
	// chunkLen is how much is sent with one write deadline and one wait for
	// the limit.
	chunkLen = 256 << 10
	// minChunk keeps a low limit from sending byte by byte.
	minChunk = 4 << 10
	// retryAfter is the seconds that a child is told to wait for a free stream.
	retryAfter = "1"
)

// Errors of a Shelf and its Views.
var (
	ErrUnknown = errors.New("no such task, or no ticket for it")
	ErrVersion = errors.New("another version of the task is here")
)

// Shelf is what a process has to give.
type Shelf interface {
	// Open gives the content of a task to somebody with a ticket. ErrUnknown:
	// it is not here, or the ticket, which is compared in constant time, is
	// not its ticket; the two must not differ in anything that a caller could
	// observe. ErrVersion: the ticket is right, the version is not. Called by
	// many goroutines at once.
	Open(task dragonfly.TaskID, v dragonfly.Version, t dragonfly.Ticket) (View, error)
}

// View is one version of a content as one stream sees it. It is used by one
// goroutine and closed by it.
type View interface {
	Layout() dragonfly.Layout
	// Ready waits until the byte at off is there, perhaps unverified, and says
	// how far the bytes go without a gap: to end > off. With end == off the
	// content has no such byte: it ended there. An error, ctx's included,
	// means that the byte will not come, or that bytes which Ready had
	// announced proved wrong; whatever was sent is void.
	Ready(ctx context.Context, off int64) (end int64, err error)
	// File is the content with all bytes at their offsets. It is the View's
	// own descriptor: its position is the caller's, Close closes it.
	File() *os.File
	// Holds says that all bytes of a span of the content are here, verified.
	Holds(span dragonfly.Span) bool
	// Blocks are the block digests of a held piece; ErrUnknown: it is not held.
	Blocks(n dragonfly.PieceNum) ([]piecehash.Block, error)
	Close() error
}

// Sent is what a Server sent of contents.
type Sent struct {
	Bytes int64 // of content
	// Copied of them passed through this process: the others the kernel sent from
	// the file.
	Copied int64
	// Saved of them compression kept off the link: a few less than none where it
	// did not help.
	Saved int64
}

// Server is the parent's end, an http.Handler for Pattern. It may be used by
// many goroutines; the fields must not change once it is. Over a plain TCP
// connection bytes go from the file to the socket without passing through this
// process, but for those that are compressed since the link is slow.
type Server struct {
	Shelf Shelf
	// Sessions are what this process is called at its supernodes; children
	// compare them with whom they were sent to.
	Sessions func() []dragonfly.SessionID
	// Limit bounds the sum of all streams, in bytes per second; nil: none.
	Limit *rate.Limiter
	// Plain sends nothing compressed, whatever children ask for.
	Plain bool
	// MaxStreams bounds the streams at once; 0: no bound.
	MaxStreams int
	// Stall is how long a child may take nothing before it is cut; 0: 30 s.
	Stall time.Duration
	// Log may be nil.
	Log *slog.Logger
	// Observe, if not nil, is told what was sent, at least every 256 KiB and by
	// many goroutines.
	Observe func(Sent)

	streams     atomic.Int64
	compression compression
}

var _ http.Handler = (*Server)(nil)

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Sessions != nil {
		for _, id := range s.Sessions() {
			w.Header().Add(peerHeader, string(id))
		}
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		fail(w, http.StatusMethodNotAllowed, "only GET")
		return
	}
	q, err := parseRequest(r)
	if errors.Is(err, errMalformed) {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	var view View
	if err == nil {
		view, err = s.Shelf.Open(q.task, q.version, q.ticket)
	}
	if err != nil {
		s.refuse(w, &q, err)
		return
	}
	defer view.Close()
	if n := s.streams.Add(1); s.MaxStreams > 0 && n > int64(s.MaxStreams) {
		s.streams.Add(-1)
		w.Header().Set("Retry-After", retryAfter)
		fail(w, http.StatusServiceUnavailable, "too many streams")
		return
	}
	defer s.streams.Add(-1)
	switch {
	case q.version.IsZero():
		s.refuse(w, &q, ErrVersion)
	case q.what == blocksRoute:
		s.blocks(w, view, &q)
	default:
		s.content(w, r, view, &q)
	}
}

// refuse answers for a Shelf or View that gave an error before any byte.
func (s *Server) refuse(w http.ResponseWriter, q *request, err error) {
	switch {
	case errors.Is(err, ErrUnknown):
		fail(w, http.StatusNotFound, ErrUnknown.Error())
	case errors.Is(err, ErrVersion):
		fail(w, http.StatusPreconditionFailed, ErrVersion.Error())
	default:
		s.log().Error("content cannot be opened", "task", q.task, "version", q.version, "err", err)
		fail(w, http.StatusInternalServerError, "content cannot be opened")
	}
}

// fail ends an answer with a message that says nothing about this host.
func fail(w http.ResponseWriter, status int, message string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(message)+1))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, message+"\n") // the child is gone if it fails
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

func (s *Server) blocks(w http.ResponseWriter, view View, q *request) {
	if layout := view.Layout(); layout.Known() && int(q.piece) >= layout.Pieces() {
		s.refuse(w, q, ErrUnknown)
		return
	}
	blocks, err := view.Blocks(q.piece)
	if err != nil {
		s.refuse(w, q, err)
		return
	}
	body := make([]byte, 0, len(blocks)*len(piecehash.Block{}))
	for i := range blocks {
		body = append(body, blocks[i][:]...)
	}
	// A deadline that cannot be set is no reason not to answer.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.stall()))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the child is gone if it fails
}

func (s *Server) stall() time.Duration {
	if s.Stall > 0 {
		return s.Stall
	}
	return 30 * time.Second
}

// content streams a span. Once the header is out, everything that goes wrong
// breaks the connection.
func (s *Server) content(w http.ResponseWriter, r *http.Request, view View, q *request) {
	layout, span, ranged := view.Layout(), q.span, q.ranged
	h := w.Header()
	st := stream{server: s, view: view, file: view.File(), w: w, control: http.NewResponseController(w)}
	switch {
	case layout.Known():
		if ranged && span.From >= layout.Length {
			h.Set("Content-Range", "bytes */"+strconv.FormatInt(layout.Length, 10))
			fail(w, http.StatusRequestedRangeNotSatisfiable, "the content ends before the range")
			return
		}
		span.To = min(span.To, layout.Length)
		if q.encoded && ranged {
			st.encoder = s.encoder(r.Context(), view, st.file, span)
		}
		if st.encoder != nil {
			defer s.compression.put(st.encoder)
			h.Set(encHeader, zstdCoding)
		} else {
			h.Set("Content-Length", strconv.FormatInt(span.Len(), 10))
		}
	case span.To == open:
		span.From, ranged = 0, false
	}
	h.Set("Content-Type", "application/octet-stream")
	if ranged {
		h.Set("Content-Range", contentRange(span, layout.Length))
		w.WriteHeader(http.StatusPartialContent)
	}
	if err := st.run(r.Context(), span, layout.Known()); err != nil {
		s.log().Debug("stream broken off", "task", q.task, "from", span.From, "to", span.To, "err", err)
		panic(http.ErrAbortHandler)
	}
}

// stream is one answer under way.
type stream struct {
	server  *Server
	view    View
	file    *os.File
	w       http.ResponseWriter
	control *http.ResponseController
	part    io.LimitedReader // of through
	through through
	encoder *encoder // nil: the bytes go as they are
}

// through is a file that counts what this process reads of it. What the kernel
// sends by itself is not read.
type through struct {
	*os.File
	read int64
}

func (t *through) Read(p []byte) (int, error) {
	n, err := t.File.Read(p)
	t.read += int64(n)
	return n, err
}

// run sends span as its bytes become ready. When the length of the content is
// known the span must come in full, else the content may end before it.
func (st *stream) run(ctx context.Context, span dragonfly.Span, known bool) error {
	if _, err := st.file.Seek(span.From, io.SeekStart); err != nil {
		return err
	}
	// The header goes first, so that a child knows whom it waits for.
	if err := st.extend(); err != nil {
		return err
	}
	if err := st.control.Flush(); err != nil {
		return err
	}
	for off := span.From; off < span.To; {
		end, err := st.view.Ready(ctx, off)
		if err != nil {
			return err
		}
		if end <= off {
			if known {
				return fmt.Errorf("the content ends at %d", off)
			}
			return st.extend() // for what net/http writes to end it
		}
		if st.encoder != nil {
			off, err = st.sendEncoded(ctx, off, min(end, span.To), span.To)
		} else {
			off, err = st.send(ctx, off, min(end, span.To))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// extend gives the child another while to take what is written next.
func (st *stream) extend() error {
	err := st.control.SetWriteDeadline(time.Now().Add(st.server.stall()))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// send writes the bytes from off to end, which are ready, from the file's
// position on, and returns how far it came.
func (st *stream) send(ctx context.Context, off, end int64) (int64, error) {
	for off < end {
		n := min(end-off, st.server.chunk())
		if limit := st.server.Limit; limit != nil {
			if err := limit.WaitN(ctx, int(n)); err != nil {
				return off, err
			}
		}
		if err := st.extend(); err != nil {
			return off, err
		}
		// sendfile wants a descriptor right under a LimitedReader.
		st.through = through{File: st.file}
		st.part = io.LimitedReader{R: &st.through, N: n}
		sent, err := io.Copy(st.w, &st.part)
		off += sent
		if st.server.Observe != nil {
			st.server.Observe(Sent{Bytes: sent, Copied: min(st.through.read, sent)})
		}
		if err == nil && sent < n {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			// sendfile leaves nothing behind; a chunked or encrypted answer
			// does.
			err = st.control.Flush()
		}
		if err != nil {
			return off, err
		}
	}
	return off, nil
}

// chunk is how many bytes are sent at once: under a limit a quarter of a
// second's worth, so that no child takes the wait for a stall, and never more
// than the limit's burst.
func (s *Server) chunk() int64 {
	if s.Limit == nil || s.Limit.Limit() == rate.Inf {
		return chunkLen
	}
	quarter := int64(s.Limit.Limit() / 4)
	return min(max(quarter, minChunk), chunkLen, max(1, int64(s.Limit.Burst())))
}
