// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"

	"dragonfly"
)

// A session's first registration may come with its Hello. The answer is then
// two values of JSON in one body: the Welcome at once, and an outcome when the
// registration was answered. A supernode that does not know of this gives the
// Welcome alone, and the peer registers in a request of its own.

// outcome is the second value; exactly one of its fields is set.
type outcome struct {
	Info  *dragonfly.TaskInfo `json:"info,omitempty"`
	Error *dragonfly.Error    `json:"error,omitempty"`
}

// errAnswered says that a request was answered already.
var errAnswered = errors.New("answered")

// openWith answers the opening of a session that brings a registration.
func (s *Server) openWith(c *call, session dragonfly.Session, first dragonfly.Registration) error {
	if !s.send(c.w, http.StatusOK, session.Welcome(), false) {
		return errAnswered
	}
	_ = http.NewResponseController(c.w).Flush() // where that is not possible it comes with the rest
	_, leave, err := s.take(c.r)
	if err != nil {
		return errAnswered // it was replaced meanwhile: the peer finds out
	}
	defer leave()
	info, err := session.Register(c.ctx, first)
	var o outcome
	if err = s.noticeGone(c.r, err); err != nil {
		o.Error = s.told(c.r, err)
	} else {
		o.Info = &info
	}
	s.send(c.w, 0, o, false)
	return errAnswered
}

// first is the answer to a registration that went with the opening of its
// session, until somebody takes it.
type first struct {
	mu      sync.Mutex // guards pending
	pending *pending
}

// pending is such an answer.
type pending struct {
	client *Client
	asked  []byte // the registration, as JSON
	body   io.ReadCloser
	values *json.Decoder
	cancel context.CancelFunc
}

// take gives the answer to one caller; nil: there is none.
func (f *first) take() *pending {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pending
	f.pending = nil
	return p
}

// drop gives up an answer that nobody wants.
func (p *pending) drop() {
	if p != nil {
		p.cancel()
		p.body.Close()
	}
}

// next reads the next value.
func (p *pending) next(v any) error {
	var text json.RawMessage
	if err := p.values.Decode(&text); err != nil {
		return err
	}
	return decode(text, answerLimit, v)
}

// openWith opens the session with a registration.
func (s *session) openWith(ctx context.Context, hello dragonfly.Hello) (http.Header, error) {
	c := s.client
	asked, err := json.Marshal(hello.First)
	if err != nil {
		return nil, &dragonfly.Error{Kind: dragonfly.Invalid, Message: "the request cannot be written as JSON", Err: err}
	}
	// ctx bounds the opening, not the registration.
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	resp, err := c.send(asking, http.MethodPost, sessionsPath, "", hello)
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			err = c.unreachable(ctx, ctx.Err())
		}
		return nil, err
	}
	p := &pending{client: c, asked: asked, body: resp.Body, cancel: cancel, values: json.NewDecoder(io.LimitReader(resp.Body, answerLimit))}
	if resp.StatusCode != http.StatusOK || !isJSON(resp.Header.Get("Content-Type")) {
		defer p.drop()
		body := borrow()
		defer giveBack(body)
		if err := readBody(body, resp.Body, answerLimit); err != nil {
			return nil, c.foreign("its answer is not ours", err)
		}
		return nil, c.failure(resp, body.Bytes())
	}
	err = p.next(&s.welcome)
	if !stop() || err != nil { // ctx ended meanwhile
		p.drop()
		if ctx.Err() != nil {
			return nil, c.unreachable(ctx, ctx.Err())
		}
		return nil, c.foreign("its answer cannot be read", err)
	}
	s.first.pending = p
	return resp.Header, nil
}

// read waits for the answer if it is that to r. It says false where r has to be
// registered in a request of its own.
func (p *pending) read(ctx context.Context, r dragonfly.Registration) (info dragonfly.TaskInfo, answered bool, err error) {
	if p == nil {
		return info, false, nil
	}
	defer p.drop()
	if asked, err := json.Marshal(r); err != nil || !bytes.Equal(asked, p.asked) {
		return info, false, nil
	}
	defer context.AfterFunc(ctx, p.cancel)()
	var o outcome
	err = p.next(&o)
	switch {
	case ctx.Err() != nil:
		return info, true, p.client.unreachable(ctx, ctx.Err())
	case err != nil, o.Info == nil && o.Error == nil:
		return info, false, nil // it broke off, or the supernode knows only the Welcome
	case o.Error != nil:
		if _, known := statuses[o.Error.Kind]; !known {
			o.Error.Kind = dragonfly.Internal
		}
		return info, true, o.Error
	}
	// To its end, so that the connection is kept.
	_, _ = io.Copy(io.Discard, io.MultiReader(p.values.Buffered(), io.LimitReader(p.body, 1)))
	return *o.Info, true, nil
}
