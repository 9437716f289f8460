// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"cmp"
	"fmt"
	"mime"
	"net/http"
	"path"
	"strconv"

	"dragonfly"
	"dragonfly/peer"
)

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
		h.Set("Docker-Distribution-Api-Version", "registry/2.0")
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
