// SPDX-License-Identifier: Apache-2.0

package wire

import (
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
// http.Handler; the remote address of each connection reaches the Tracker
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
	syncs   []*poll   // the open ones, oldest first
}

// poll is an open Sync.
type poll struct{ cancel context.CancelCauseFunc }

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
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.closing, func() { cancel(context.Cause(s.closing)) })()
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		ctx = dragonfly.WithRemoteAddr(ctx, from.Addr())
	}
	if s.closing.Err() != nil {
		s.fail(w, r, 0, errClosing)
		return
	}
	answer, err := serve(ctx, w, r)
	switch {
	case errors.Is(err, errAnswered):
	case err != nil:
		if cause, ok := context.Cause(ctx).(*dragonfly.Error); ok {
			err = cause // Close was called
		}
		s.fail(w, r, 0, err)
	case answer == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		s.reply(w, http.StatusOK, answer)
	}
}

type serveFunc func(context.Context, http.ResponseWriter, *http.Request) (any, error)

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

func (s *Server) open(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
	hello, err := receive[dragonfly.Hello](s, w, r, s.o.OpenLimit+s.o.RegisterLimit)
	if err != nil {
		return nil, err
	}
	if err := s.sweep(ctx); err != nil {
		return nil, err
	}
	first := hello.First
	hello.First = nil
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
	w.Header().Set(keyHeader, key)
	if first == nil {
		return session.Welcome(), nil
	}
	r.Header.Set(keyHeader, key) // as if it had been registered with that
	return nil, s.openWith(ctx, w, r, session, *first)
}

func (s *Server) register(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
	seat, leave, err := s.take(r)
	if err != nil {
		return nil, err
	}
	defer leave()
	registration, err := receive[dragonfly.Registration](s, w, r, s.o.RegisterLimit)
	if err != nil {
		return nil, err
	}
	info, err := seat.session.Register(ctx, registration)
	return info, s.noticeGone(r, err)
}

func (s *Server) sync(ctx context.Context, w http.ResponseWriter, r *http.Request) (any, error) {
	seat, leave, err := s.take(r)
	if err != nil {
		return nil, err
	}
	defer leave()
	report, err := receive[dragonfly.Report](s, w, r, s.o.SyncLimit)
	if err != nil {
		return nil, err
	}
	polling, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.queue(seat, &poll{cancel})()
	work, err := seat.session.Sync(polling, report)
	if err != nil && errors.Is(context.Cause(polling), errReplaced) {
		err = errReplaced
	}
	return work, s.noticeGone(r, err)
}

func (s *Server) end(ctx context.Context, _ http.ResponseWriter, r *http.Request) (any, error) {
	seat, leave, err := s.take(r)
	if err != nil {
		return nil, err
	}
	defer leave()
	const reasonMax = 200
	reason := r.URL.Query().Get("reason")
	reason = strings.ToValidUTF8(reason[:min(len(reason), reasonMax)], "")
	err = seat.session.Close(ctx, reason)
	if err == nil {
		s.drop(r)
	}
	return nil, s.noticeGone(r, err)
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
func (s *Server) queue(seat *seat, p *poll) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(seat.syncs) == openSyncs {
		seat.syncs[0].cancel(errReplaced)
		seat.syncs = slices.Delete(seat.syncs, 0, 1)
	}
	seat.syncs = append(seat.syncs, p)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		seat.syncs = slices.DeleteFunc(seat.syncs, func(q *poll) bool { return q == p })
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
func receive[T any](s *Server, w http.ResponseWriter, r *http.Request, limit int64) (message T, err error) {
	body, err := readBody(r.Body, limit)
	if err == nil {
		// The deadline must not outlast the body: while a sync waits, the
		// connection is watched for its end.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	if err == nil {
		err = decode(body, limit, &message)
	}
	if err != nil {
		return message, &dragonfly.Error{Kind: dragonfly.Invalid, Message: "the body cannot be read: " + describe(err), Err: err}
	}
	return message, nil
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
	s.reply(w, cmp.Or(status, Status(e.Kind)), e)
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

// reply answers with one message.
func (s *Server) reply(w http.ResponseWriter, status int, message any) {
	if body, ok := s.encode(w, message); ok {
		// Longer ones would be sent in chunks otherwise.
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		s.begin(w, status, body)
	}
}

// encode writes a message as a line of JSON; false: the request was answered.
func (s *Server) encode(w http.ResponseWriter, message any) (body []byte, ok bool) {
	body, err := json.Marshal(message)
	if err != nil {
		s.o.Log.Error("answer cannot be written as JSON", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return nil, false
	}
	return append(body, '\n'), true
}

// begin sends the first or only message of an answer.
func (s *Server) begin(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.o.BodyTimeout))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone is noticed by its context
}
