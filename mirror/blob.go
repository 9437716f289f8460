// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"time"

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

// wanted is what of a content a request asks for.
type wanted struct {
	ranges []byteRange // none: all
	spans  []dragonfly.Span
}

// lay is how the answer is made of a content of that length; no parts: the
// request cannot be satisfied, or it is not known.
func (w *wanted) lay(length int64) (parts []part, tail []byte) {
	if len(w.ranges) == 0 {
		return []part{{span: dragonfly.Span{To: length}}}, nil
	}
	if length < 0 {
		return nil, nil
	}
	w.spans = spans(w.ranges, length)
	for i, s := range w.spans {
		var head []byte
		if len(w.spans) > 1 {
			head = partHead(i, s, length)
		}
		parts = append(parts, part{head, s})
	}
	if len(parts) > 1 {
		tail = []byte("\r\n--" + boundary + "--\r\n")
	}
	return parts, tail
}

// boundary is between the parts of an answer. Whoever could put it into a
// content could only confuse a reader that ignores the lengths in the heads.
const boundary = "dragonfly-3d6b6a416f9b5c5ab7e9"

func partHead(i int, s dragonfly.Span, length int64) []byte {
	begin := "\r\n"
	if i == 0 {
		begin = ""
	}
	return fmt.Appendf(nil, "%s--%s\r\nContent-Type: application/octet-stream\r\nContent-Range: %s\r\n\r\n", begin, boundary, contentRange(s, length))
}

func contentRange(s dragonfly.Span, length int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.From, s.To-1, length)
}

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

// blob answers with what the engine brings, or with what the registry says.
func (m *Mirror) blob(to route, out *http.Request) (*http.Response, error) {
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
	var want wanted
	if value := out.Header.Get("Range"); value != "" {
		want.ranges, _ = parseRanges(value)
		if tag := out.Header.Get("If-Range"); tag != "" && tag != etag(to.blob) {
			return m.direct(to, out) // it may be another name of the same bytes
		}
		length := int64(dragonfly.UnknownLength)
		if slices.ContainsFunc(want.ranges, func(r byteRange) bool { return r.suffix > 0 }) {
			var err error
			if length, err = m.length(to, out); err != nil || length < 0 {
				return m.direct(to, out)
			}
		}
		if job.Want = spans(want.ranges, length); len(job.Want) == 0 {
			return m.direct(to, out)
		}
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
	s := &stream{m: m, ctx: ctx, cancel: cancel, d: d, name: source.Redact(job.Request.URL), length: dragonfly.UnknownLength}
	s.unhook = context.AfterFunc(client, cancel)
	s.resume = func(s *stream, span dragonfly.Span) (io.ReadCloser, error) {
		log.Info("a blob goes on from its registry", "at", span.From)
		return m.rest(to, out, s, span)
	}
	first := dragonfly.Span{To: dragonfly.UnknownLength}
	if len(job.Want) > 0 {
		first = job.Want[0]
	}
	begun := make(chan error, 1)
	m.wg.Go(func() { begun <- s.begin(first, want.lay) })

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
	had, began := int64(0), time.Now()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case err := <-begun:
			if err == nil {
				forget()
				return s.response(to, job, &want, out), nil
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
			if got := received(d); got-had >= flowing && time.Since(began) < longest {
				had = got
				late.Reset(patience)
				continue
			}
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

// etag is the validator of a blob; empty: there is none.
func etag(d dragonfly.Digest) string {
	if d.IsZero() {
		return ""
	}
	return `"` + d.String() + `"`
}

// response is the answer to a client that gets s.
func (s *stream) response(to route, job peer.Job, want *wanted, out *http.Request) *http.Response {
	via := "swarm"
	if p := s.d.Progress(); p.Reason != peer.ReasonNone && p.FromSource > 0 {
		via = "source"
	}
	kind := "application/octet-stream"
	if to.blob.IsZero() {
		kind = cmp.Or(mime.TypeByExtension(path.Ext(out.URL.Path)), kind)
	}
	h := http.Header{
		"Content-Type":  {kind},
		"Accept-Ranges": {"bytes"},
		taskHeader:      {job.Request.TaskID().String()},
		viaHeader:       {via},
	}
	if tag := etag(to.blob); tag != "" {
		h["Etag"], h["Docker-Content-Digest"] = []string{tag}, []string{to.blob.String()}
	}
	resp := &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, ContentLength: s.length, Body: s, Request: out,
	}
	if len(want.spans) > 0 {
		resp.StatusCode, resp.ContentLength = http.StatusPartialContent, int64(len(s.tail))
		for i, span := range want.spans {
			resp.ContentLength += span.Len()
			if len(want.spans) > 1 {
				resp.ContentLength += int64(len(partHead(i, span, s.length)))
			}
		}
		if len(want.spans) == 1 {
			h.Set("Content-Range", contentRange(want.spans[0], s.length))
		} else {
			h.Set("Content-Type", "multipart/byteranges; boundary="+boundary)
		}
	}
	resp.Status = fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if resp.ContentLength >= 0 {
		h.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	return resp
}
