// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"

	"dragonfly"
	"dragonfly/peer"
	"dragonfly/source"
)

// blobPath is a blob's, and the name in it is one that registries allow.
var blobPath = regexp.MustCompile(`^/v2/` + component + `(?:/` + component + `)*/blobs/(sha256:[0-9a-f]{64})$`)

const component = `[a-z0-9]+(?:[._-]+[a-z0-9]+)*`

// momentary are headers that make an answer one for this moment.
var momentary = []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Upgrade"}

// blob is the digest of what r asks for, if that may come through the engine.
// r is as the client sent it: what its Connection header takes away counts.
func blob(r *http.Request) (d dragonfly.Digest) {
	found := blobPath.FindStringSubmatch(r.URL.EscapedPath())
	if found == nil || !fetched(r) {
		return d
	}
	d, _ = dragonfly.ParseDigest(found[1])
	return d
}

// fetched says that r is one of those that the engine can answer.
func fetched(r *http.Request) bool {
	if r.Method != http.MethodGet || r.ContentLength != 0 {
		return false
	}
	for _, name := range momentary {
		if _, ok := r.Header[name]; ok {
			return false
		}
	}
	if ranges := r.Header["Range"]; len(ranges) > 0 {
		if _, ok := parseRanges(ranges[0]); !ok || len(ranges) > 1 {
			return false
		}
	}
	return len(r.Header["If-Range"]) == 0 || len(r.Header["Range"]) > 0
}

// job is what the engine is asked for a request.
func (m *Mirror) job(to route, out *http.Request) peer.Job {
	job := peer.Job{Pattern: peer.PatternP2P, Guarded: true, Request: dragonfly.Request{URL: out.URL.String(), Header: secrets(to, out)}}
	job.Request.Insecure, job.Request.RootCAs = to.insecure, to.roots
	if m.o.Job != nil {
		m.o.Job(&job)
	}
	if to.lend {
		job.Fresh = func(ctx context.Context) dragonfly.Header {
			now := out.Clone(ctx)
			m.authorize(to, now)
			return secrets(to, now)
		}
	}
	return job
}

// want reads what of the content a request is for; spans are what the engine is
// asked for. Not ok: the registry has the answer.
func (m *Mirror) want(to route, out *http.Request) (want wanted, first []dragonfly.Span, ok bool) {
	value := out.Header.Get("Range")
	if value == "" {
		return want, nil, true
	}
	if tag := out.Header.Get("If-Range"); tag != "" && tag != etag(to.blob) {
		return want, nil, false // it may be another name of the same bytes
	}
	want.ranges, _ = parseRanges(value)
	length := int64(dragonfly.UnknownLength)
	if slices.ContainsFunc(want.ranges, func(r byteRange) bool { return r.suffix > 0 }) {
		var err error
		if length, err = m.length(to, out); err != nil || length < 0 {
			return want, nil, false
		}
	}
	first = spans(want.ranges, length)
	return want, first, len(first) > 0
}

// blob answers with what the engine brings, or with what the registry says.
func (m *Mirror) blob(to route, out *http.Request) (*http.Response, error) {
	want, spans, ok := m.want(to, out)
	if !ok {
		return m.direct(to, out)
	}
	job := m.job(to, out)
	if source.Steered(job.Request) {
		return m.direct(to, out) // it may be another content than the URL's
	}
	job.Want = spans
	log := m.o.Log.With("task", job.Request.TaskID(), "url", source.Redact(job.Request.URL))
	ctx, cancel := context.WithCancel(m.ctx)
	d, err := m.o.Engine.Start(ctx, job)
	if err != nil {
		cancel()
		log.Info("a blob goes straight to its registry", "why", err)
		return m.direct(to, out)
	}
	s := &stream{m: m, ctx: ctx, cancel: cancel, d: d, name: source.Redact(job.Request.URL), length: dragonfly.UnknownLength}
	s.unhook = context.AfterFunc(out.Context(), cancel)
	s.resume = func(s *stream, span dragonfly.Span) (io.ReadCloser, error) {
		log.Info("a blob goes on from its registry", "at", span.From)
		return m.rest(to, out, s, span)
	}
	first := dragonfly.Span{To: dragonfly.UnknownLength}
	if len(spans) > 0 {
		first = spans[0]
	}
	begun := make(chan error, 1)
	m.wg.Go(func() { begun <- s.begin(first, want.lay) })
	return newRace(s, to, out, log).run(begun, func() *http.Response { return s.response(to, job, &want, out) })
}

// length asks the registry how long a content is: a suffix cannot be found
// without.
func (m *Mirror) length(to route, out *http.Request) (int64, error) {
	r := out.Clone(out.Context())
	r.Method = http.MethodHead
	r.RequestURI = ""
	r.Header.Del("Range")
	r.Header.Del("If-Range")
	r.Header.Set("Accept-Encoding", "identity")
	resp, err := m.client(to).Do(r)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("it answers %d", resp.StatusCode)
	}
	return resp.ContentLength, nil
}
