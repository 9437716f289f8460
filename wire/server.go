// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dragonfly"
)

// ServerOptions bound what a Server takes from outside. A zero field means its
// default.
type ServerOptions struct {
	OpenLimit     int64         // bytes of a Hello; 64 KiB
	RegisterLimit int64         // bytes of a Registration; 1 MiB
	SyncLimit     int64         // bytes of a Report; 1 MiB
	BodyTimeout   time.Duration // to send a body, and to take an answer; 30 s
	// Sessions is how many sessions may be open at once; 100,000.
	Sessions int
	// Idle is after how long without a request a session is closed. It must be
	// longer than the tracker keeps the state of a silent peer; 10 min.
	Idle time.Duration
	Log  *slog.Logger // for faults of ours; none by default
}

// DefaultServerOptions are the limits of a Server that is told none.
var DefaultServerOptions = ServerOptions{
	OpenLimit:     64 << 10,
	RegisterLimit: 1 << 20,
	SyncLimit:     1 << 20,
	BodyTimeout:   30 * time.Second,
	Sessions:      100_000,
	Idle:          10 * time.Minute,
	Log:           slog.New(slog.DiscardHandler),
}

// sweepEvery is how often, at most, idle sessions are looked for.
const sweepEvery = time.Minute

// Server offers a Tracker to peers elsewhere, below /p2p/v1/. It is an
// http.Handler; the remote address of a connection reaches Tracker.Open
// through dragonfly.RemoteAddr. A Register or Sync whose client goes away ends
// its context.
type Server struct {
	tracker dragonfly.Tracker
	o       ServerOptions

	// closing ends when Close is called, with it all open calls.
	closing context.Context
	close   context.CancelCauseFunc

	mu       sync.Mutex // guards all below, and the fields of the seats
	sessions map[seatKey]*seat
	swept    time.Time
}

// seatKey is the SHA-256 of a session's key: looking it up in a map tells
// nothing of the key by the time it takes.
type seatKey [sha256.Size]byte

// seat is a session that was opened through the Server. Its fields, but for
// the first, are guarded by Server.mu.
type seat struct {
	session dragonfly.Session
	used    time.Time // when the last request ended or began
	busy    int       // requests that are being served
	syncs   []*call   // the open ones, oldest first
}

// call is one request that is being served.
type call struct {
	w      http.ResponseWriter
	r      *http.Request
	ctx    context.Context // ends with the client, with Server.Close, and by cancel
	cancel context.CancelCauseFunc
}

// NewServer makes a Server of a Tracker.
func NewServer(tracker dragonfly.Tracker, o ServerOptions) *Server {
	d := DefaultServerOptions
	o.OpenLimit = cmp.Or(o.OpenLimit, d.OpenLimit)
	o.RegisterLimit = cmp.Or(o.RegisterLimit, d.RegisterLimit)
	o.SyncLimit = cmp.Or(o.SyncLimit, d.SyncLimit)
	o.BodyTimeout = cmp.Or(o.BodyTimeout, d.BodyTimeout)
	o.Sessions = cmp.Or(o.Sessions, d.Sessions)
	o.Idle = cmp.Or(o.Idle, d.Idle)
	o.Log = cmp.Or(o.Log, d.Log)
	s := &Server{tracker: tracker, o: o, sessions: map[seatKey]*seat{}}
	s.closing, s.close = context.WithCancelCause(context.Background())
	return s
}

var (
	errClosing  = &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the supernode is shutting down; try another, or again"}
	errReplaced = &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "newer syncs took the place of this one"}
	errNoKey    = &dragonfly.Error{Kind: dragonfly.UnknownSession, Message: "the supernode does not know this session; open a new one"}
)

// Close answers all open calls and refuses new ones, with Unavailable; give it
// to http.Server.RegisterOnShutdown. Sessions stay open at the Tracker: peers
// come back to them, or to its successor. It may be called twice.
func (s *Server) Close() { s.close(errClosing) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Also a request that is refused is read to its end, by net/http. Not
	// every ResponseWriter has deadlines, but net/http's has.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.o.BodyTimeout))
	serve, method := s.route(r.URL.Path)
	switch {
	case serve == nil:
		s.fail(w, r, http.StatusNotFound, &dragonfly.Error{
			Kind:    dragonfly.ProtocolMismatch,
			Message: fmt.Sprintf("no route %.80q in protocol %d", r.URL.Path, dragonfly.ProtocolNumber),
		})
		return
	case r.Method != method:
		w.Header().Set("Allow", method)
		s.fail(w, r, http.StatusMethodNotAllowed, &dragonfly.Error{
			Kind:    dragonfly.Invalid,
			Message: fmt.Sprintf("%s wants method %s, not %.20q", r.URL.Path, method, r.Method),
		})
		return
	case method == http.MethodPost && !isJSON(r.Header.Get("Content-Type")):
		s.fail(w, r, http.StatusUnsupportedMediaType, &dragonfly.Error{
			Kind:    dragonfly.Invalid,
			Message: fmt.Sprintf("want content type %s, not %.80q", contentType, r.Header.Get("Content-Type")),
		})
		return
	}
	if s.closing.Err() != nil {
		s.fail(w, r, 0, errClosing)
		return
	}
	c := &call{w: w, r: r}
	c.ctx, c.cancel = context.WithCancelCause(r.Context())
	defer c.cancel(nil)
	defer context.AfterFunc(s.closing, func() { c.cancel(context.Cause(s.closing)) })()
	answer, err := serve(c)
	switch {
	case errors.Is(err, errAnswered):
	case err != nil:
		if cause, ok := context.Cause(c.ctx).(*dragonfly.Error); ok {
			err = cause // Close was called, or newer syncs came
		}
		s.fail(w, r, 0, err)
	case answer == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		s.send(w, http.StatusOK, answer, true)
	}
}

type serveFunc func(*call) (any, error)

// route is the table of routes: what serves a path, and with which method.
func (s *Server) route(path string) (serveFunc, string) {
	switch path {
	case sessionsPath:
		return s.open, http.MethodPost
	case registerPath:
		return s.register, http.MethodPost
	case syncPath:
		return s.sync, http.MethodPost
	case sessionPath:
		return s.end, http.MethodDelete
	}
	return nil, ""
}

func (s *Server) open(c *call) (any, error) {
	hello, err := receive[dragonfly.Hello](s, c, s.o.OpenLimit+s.o.RegisterLimit)
	if err != nil {
		return nil, err
	}
	if err := s.sweep(c.ctx); err != nil {
		return nil, err
	}
	first := hello.First
	hello.First = nil
	ctx := c.ctx
	if from, err := netip.ParseAddrPort(c.r.RemoteAddr); err == nil {
		ctx = dragonfly.WithRemoteAddr(ctx, from.Addr())
	}
	session, err := s.tracker.Open(ctx, hello)
	if err != nil {
		return nil, err
	}
	var raw [32]byte
	rand.Read(raw[:]) // never fails
	key := hex.EncodeToString(raw[:])
	s.mu.Lock()
	s.sessions[sha256.Sum256([]byte(key))] = &seat{session: session, used: time.Now()}
	s.mu.Unlock()
	c.w.Header().Set(keyHeader, key)
	if first == nil {
		return session.Welcome(), nil
	}
	c.r.Header.Set(keyHeader, key) // as if it had been registered with that
	return nil, s.openWith(c, session, *first)
}

func (s *Server) register(c *call) (any, error) {
	seat, leave, err := s.take(c.r)
	if err != nil {
		return nil, err
	}
	defer leave()
	registration, err := receive[dragonfly.Registration](s, c, s.o.RegisterLimit)
	if err != nil {
		return nil, err
	}
	info, err := seat.session.Register(c.ctx, registration)
	return info, s.noticeGone(c.r, err)
}

func (s *Server) sync(c *call) (any, error) {
	seat, leave, err := s.take(c.r)
	if err != nil {
		return nil, err
	}
	defer leave()
	report, err := receive[dragonfly.Report](s, c, s.o.SyncLimit)
	if err != nil {
		return nil, err
	}
	defer s.queue(seat, c)()
	work, err := seat.session.Sync(c.ctx, report)
	return &work, s.noticeGone(c.r, err)
}

func (s *Server) end(c *call) (any, error) {
	seat, leave, err := s.take(c.r)
	if err != nil {
		return nil, err
	}
	defer leave()
	const reasonMax = 200
	reason := c.r.URL.Query().Get("reason")
	reason = strings.ToValidUTF8(reason[:min(len(reason), reasonMax)], "")
	err = seat.session.Close(c.ctx, reason)
	if err == nil {
		s.drop(c.r)
	}
	return nil, s.noticeGone(c.r, err)
}

// take finds the session that a request names; leave ends its use.
func (s *Server) take(r *http.Request) (_ *seat, leave func(), _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.sessions[keyOf(r)]
	if found == nil {
		return nil, nil, errNoKey
	}
	found.busy++
	found.used = time.Now()
	return found, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		found.busy--
		found.used = time.Now()
	}, nil
}

func keyOf(r *http.Request) seatKey { return sha256.Sum256([]byte(r.Header.Get(keyHeader))) }

// queue adds an open sync to a session and ends the oldest when there are too
// many: the newest is the one whose client certainly waits. leave takes it out
// again.
func (s *Server) queue(seat *seat, c *call) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(seat.syncs) == openSyncs {
		seat.syncs[0].cancel(errReplaced)
		seat.syncs = slices.Delete(seat.syncs, 0, 1)
	}
	seat.syncs = append(seat.syncs, c)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		seat.syncs = slices.DeleteFunc(seat.syncs, func(other *call) bool { return other == c })
	}
}

// noticeGone forgets a session that the Tracker knows no more.
func (s *Server) noticeGone(r *http.Request, err error) error {
	if err != nil && dragonfly.KindOf(err) == dragonfly.UnknownSession {
		s.drop(r)
	}
	return err
}

func (s *Server) drop(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, keyOf(r))
}

// sweep closes sessions whose peers have gone without a word, and refuses one
// session too many.
func (s *Server) sweep(ctx context.Context) error {
	now := time.Now()
	var gone []dragonfly.Session
	s.mu.Lock()
	if now.Sub(s.swept) >= sweepEvery {
		s.swept = now
		for key, seat := range s.sessions {
			if seat.busy == 0 && now.Sub(seat.used) > s.o.Idle {
				gone = append(gone, seat.session)
				delete(s.sessions, key)
			}
		}
	}
	full := len(s.sessions) >= s.o.Sessions
	s.mu.Unlock()
	for _, session := range gone {
		// The Tracker forgot most of them long ago: that is no failure.
		_ = session.Close(ctx, "silent")
	}
	if full {
		return &dragonfly.Error{
			Kind:    dragonfly.Unavailable,
			Message: fmt.Sprintf("the supernode has %d sessions open, which is its limit; try another, or later", s.o.Sessions),
		}
	}
	return nil
}

// receive reads the body of a request.
func receive[T any](s *Server, c *call, limit int64) (message T, err error) {
	body := borrow()
	defer giveBack(body)
	if err = readBody(body, c.r.Body, limit); err == nil {
		// The deadline must not outlast the body: while a sync waits, the
		// connection is watched for its end.
		_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{})
		prepare(&message, body.Bytes())
		err = decode(body.Bytes(), limit, &message)
	}
	if err != nil {
		return message, &dragonfly.Error{Kind: dragonfly.Invalid, Message: "the body cannot be read: " + describe(err), Err: err}
	}
	return message, nil
}

// prepare makes room for the events of a report: a slice that grows while it is
// read costs more than all else. More than fit into one answer of the usual size
// are rare, and no text of few bytes gets much memory.
func prepare(message any, body []byte) {
	if report, ok := message.(*dragonfly.Report); ok {
		if n := bytes.Count(body, []byte{'{'}) - 1; n > 0 {
			report.Events = make([]dragonfly.Event, 0, min(n, 32))
		}
	}
}

// describe tells a decoding error without the text that it is about, which may
// be a secret.
func describe(err error) string {
	if errors.Is(err, errTooLong) {
		return err.Error()
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind, _, _ := strings.Cut(e.Value, " ") // "number 12" tells the number
		return fmt.Sprintf("%s cannot be a JSON %s", cmp.Or(e.Field, "it"), kind)
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("the JSON is broken at byte %d", e.Offset)
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return "it did not come in time"
	}
	return "it ends early, or a value in it is malformed"
}

// fail answers an error; status 0 is what its kind says.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	e := s.told(r, err)
	if errors.Is(err, errTooLong) {
		status = http.StatusRequestEntityTooLarge
	}
	if e.Kind == dragonfly.Invalid || s.closing.Err() != nil {
		w.Header().Set("Connection", "close")
	}
	s.send(w, cmp.Or(status, Status(e.Kind)), e, true)
}

// told is what a client is told of an error.
func (s *Server) told(r *http.Request, err error) *dragonfly.Error {
	e, ok := errors.AsType[*dragonfly.Error](err)
	switch {
	case ok:
	case r.Context().Err() != nil: // nobody reads this
		e = &dragonfly.Error{Kind: dragonfly.Canceled}
	case errors.Is(err, context.DeadlineExceeded):
		e = &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the supernode did not finish in time"}
	default:
		s.o.Log.Error("request failed", "path", r.URL.Path, "error", err)
		e = &dragonfly.Error{Kind: dragonfly.Internal, Message: "the supernode failed; its log says how"}
	}
	return e
}

// The values of the headers of all answers: net/http copies what it sends.
var (
	jsonType = []string{contentType}
	noStore  = []string{"no-store"}
)

// send writes a message as a line of JSON; with a status it begins an answer,
// whole: which is no more than that. False: the message is none, and the answer
// says so if it was not begun.
func (s *Server) send(w http.ResponseWriter, status int, message any, whole bool) bool {
	body := borrow()
	defer giveBack(body)
	if err := json.NewEncoder(body).Encode(message); err != nil {
		s.o.Log.Error("answer cannot be written as JSON", "error", err)
		if status != 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return false
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.o.BodyTimeout))
	if status != 0 {
		header := w.Header()
		header["Content-Type"], header["Cache-Control"] = jsonType, noStore
		if whole {
			// Longer ones would be sent in chunks otherwise.
			header.Set("Content-Length", strconv.Itoa(body.Len()))
		}
		w.WriteHeader(status)
	}
	_, _ = w.Write(body.Bytes()) // a client that is gone is noticed by its context
	return true
}
