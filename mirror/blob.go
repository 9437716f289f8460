// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"dragonfly"
	"dragonfly/peer"
	"dragonfly/source"
)

// blobPath is a blob's, and the name in it is one that registries allow.
var blobPath = regexp.MustCompile(`^/v2/` + component + `(?:/` + component + `)*/blobs/(sha256:[0-9a-f]{64})$`)

const component = `[a-z0-9]+(?:[._-]+[a-z0-9]+)*`

// personal are headers that make an answer one for this client, or for this
// moment.
var personal = []string{"Authorization", "Cookie", "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Upgrade"}

// blob is the digest of what r asks for, if that may come through the engine.
// r is as the client sent it: what its Connection header takes away counts.
func blob(r *http.Request) (d dragonfly.Digest) {
	found := blobPath.FindStringSubmatch(r.URL.EscapedPath())
	if r.Method != http.MethodGet || r.ContentLength != 0 || found == nil {
		return d
	}
	for _, name := range personal {
		if _, ok := r.Header[name]; ok {
			return d
		}
	}
	d, _ = dragonfly.ParseDigest(found[1])
	return d
}

// patience is how long the engine may be silent before the registry is asked
// beside it.
const patience = time.Second

// blob answers with what the engine brings, or with what the registry says.
func (m *Mirror) blob(to route, out *http.Request) (*http.Response, error) {
	job := peer.Job{Pattern: peer.PatternP2P, Request: dragonfly.Request{URL: out.URL.String()}}
	if to.remote {
		job.Request.Insecure, job.Request.RootCAs = m.o.Insecure, m.o.RootCAs
	}
	if m.o.Job != nil {
		m.o.Job(&job)
	}
	log := m.o.Log.With("task", job.Request.TaskID(), "url", source.Redact(job.Request.URL))
	client := out.Context()

	ctx, cancel := context.WithCancel(m.ctx)
	d, err := m.o.Engine.Start(ctx, job)
	if err != nil {
		cancel()
		log.Info("a blob goes straight to its registry", "why", err)
		return m.direct(to, out)
	}
	s := &stream{m: m, ctx: ctx, cancel: cancel, d: d, want: to.blob, hash: to.blob.NewHash(), length: dragonfly.UnknownLength}
	s.unhook = context.AfterFunc(client, cancel)
	s.resume = func(from, length int64) (io.ReadCloser, error) {
		log.Info("a blob goes on from its registry", "at", from)
		return m.rest(to, out, from, length)
	}
	begun := make(chan error, 1)
	m.wg.Go(func() { begun <- s.begin() })

	type answer struct {
		resp *http.Response
		err  error
	}
	var (
		asked  chan answer // what the registry says, once it was asked
		second *answer     // what it said, not good enough while the engine lives
	)
	beside, leave := context.WithCancel(client) // of asking it
	forget := func() {
		leave()
		if second != nil && second.resp != nil {
			second.resp.Body.Close()
		}
		if answers := asked; answers != nil {
			m.wg.Go(func() {
				if a := <-answers; a.resp != nil {
					a.resp.Body.Close()
				}
			})
		}
	}
	use := func(a answer) (*http.Response, error) {
		if a.err != nil {
			leave()
			return nil, a.err
		}
		a.resp.Body = leaving{a.resp.Body, leave}
		return a.resp, nil
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case err := <-begun:
			if err == nil {
				forget()
				return s.response(job, out), nil
			}
			s.drop()
			if client.Err() == nil {
				log.Info("a blob goes straight to its registry", "why", err)
			}
			switch {
			case second != nil:
				return use(*second)
			case asked != nil:
				return use(<-asked)
			}
			leave()
			return m.direct(to, out)
		case <-late.C:
			answers := make(chan answer, 1)
			asked = answers
			m.wg.Go(func() {
				resp, err := m.direct(to, out.Clone(beside))
				answers <- answer{resp, err}
			})
		case a := <-asked:
			asked = nil
			if a.err != nil || a.resp.StatusCode >= 500 || a.resp.StatusCode == http.StatusTooManyRequests {
				second = &a
				continue
			}
			log.Info("a blob comes straight from its registry", "why", "the engine has not begun within a second")
			s.drop()
			return use(a)
		case <-client.Done():
			s.drop()
			forget()
			return nil, context.Cause(client)
		}
	}
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

// response is the answer to a client that gets s.
func (s *stream) response(job peer.Job, out *http.Request) *http.Response {
	via := "swarm"
	if p := s.d.Progress(); p.Reason != peer.ReasonNone && p.FromSource > 0 {
		via = "source"
	}
	h := http.Header{
		"Content-Type":          {"application/octet-stream"},
		"Docker-Content-Digest": {s.want.String()},
		"Etag":                  {`"` + s.want.String() + `"`},
		"Accept-Ranges":         {"bytes"},
		taskHeader:              {job.Request.TaskID().String()},
		viaHeader:               {via},
	}
	if s.length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(s.length, 10))
	}
	return &http.Response{
		StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, ContentLength: s.length, Body: s, Request: out,
	}
}
