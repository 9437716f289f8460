// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"
)

const (
	// patience is how long the engine may be silent before the registry is asked
	// beside it. An engine that receives may be so for longer: a piece can be
	// given when all of it is here and verified, and every host that asked the
	// registry meanwhile would cost it a copy.
	patience = time.Second
	longest  = 10 * patience
	// flowing is what an engine that is waited for receives each time at least.
	flowing = 64 << 10
)

// race is between the engine, which has a start, and the registry, for the answer
// to one request.
type race struct {
	m      *Mirror
	s      *stream
	to     route
	out    *http.Request
	client context.Context
	log    *slog.Logger

	beside context.Context // of asking the registry
	leave  context.CancelFunc
	asked  chan answer // what the registry says, once it was asked; nil: not now
	second *answer     // what it said, not good enough while the engine lives
}

// answer is the registry's.
type answer struct {
	resp *http.Response
	err  error
}

func newRace(s *stream, to route, out *http.Request, log *slog.Logger) *race {
	r := &race{m: s.m, s: s, to: to, out: out, client: out.Context(), log: log}
	r.beside, r.leave = context.WithCancel(r.client)
	return r
}

// run gives the answer of who is first: the stream's, which begun tells of, or
// the registry's own.
func (r *race) run(begun <-chan error, stream func() *http.Response) (*http.Response, error) {
	had, began := int64(0), time.Now()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case err := <-begun:
			if err == nil {
				r.forget()
				return stream(), nil
			}
			return r.lost(err)
		case <-late.C:
			if got := received(r.s.d); got-had >= flowing && time.Since(began) < longest {
				had = got
				late.Reset(patience)
				continue
			}
			r.ask()
		case a := <-r.asked:
			r.asked = nil
			if a.err != nil || a.resp.StatusCode >= 500 || a.resp.StatusCode == http.StatusTooManyRequests {
				r.second = &a
				continue
			}
			r.log.Info("a blob comes straight from its registry", "why", "the engine has not begun within a second")
			r.s.drop()
			return r.use(a)
		case <-r.client.Done():
			r.s.drop()
			r.forget()
			return nil, context.Cause(r.client)
		}
	}
}

// ask asks the registry beside the engine.
func (r *race) ask() {
	answers := make(chan answer, 1)
	r.asked = answers
	r.m.wg.Go(func() {
		resp, err := r.m.direct(r.to, r.out.Clone(r.beside))
		answers <- answer{resp, err}
	})
}

// lost gives the registry's answer when the engine has none.
func (r *race) lost(why error) (*http.Response, error) {
	r.s.drop()
	if r.client.Err() == nil {
		r.log.Info("a blob goes straight to its registry", "why", why)
	}
	switch {
	case r.second != nil:
		return r.use(*r.second)
	case r.asked != nil:
		return r.use(<-r.asked)
	}
	r.leave()
	return r.m.direct(r.to, r.out)
}

// use makes an answer of the registry the client's.
func (r *race) use(a answer) (*http.Response, error) {
	if a.err != nil {
		r.leave()
		return nil, a.err
	}
	a.resp.Body = leaving{a.resp.Body, r.leave}
	return a.resp, nil
}

// forget takes the question to the registry back.
func (r *race) forget() {
	r.leave()
	if r.second != nil && r.second.resp != nil {
		r.second.resp.Body.Close()
	}
	if answers := r.asked; answers != nil {
		r.m.wg.Go(func() {
			if a := <-answers; a.resp != nil {
				a.resp.Body.Close()
			}
		})
	}
}

// received is how many bytes the engine has got for a job.
func received(d Download) int64 {
	p := d.Progress()
	return p.FromSource + p.FromSeed + p.FromPeers
}

// leaving is a body whose request has a context of its own.
type leaving struct {
	io.ReadCloser
	leave context.CancelFunc
}

func (b leaving) Close() error {
	defer b.leave()
	return b.ReadCloser.Close()
}
