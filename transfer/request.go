// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"encoding/hex"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"dragonfly"
)

const (
	tasksPath  = "/p2p/v1/tasks/"
	peerHeader = "X-Dragonfly-Peer"
	encHeader  = "X-Dragonfly-Encoding"
	zstdCoding = "zstd"       // the one encoding
	scheme     = "Dragonfly " // of Authorization

	contentRoute = "content"
	blocksRoute  = "blocks"
)

// open is the To of a span that goes on to the end of the content.
const open = math.MaxInt64

// request is what a child asks for.
type request struct {
	task    dragonfly.TaskID
	version dragonfly.Version // zero: none or no version was named
	ticket  dragonfly.Ticket
	what    string             // contentRoute or blocksRoute
	span    dragonfly.Span     // of content
	ranged  bool               // span was asked for
	piece   dragonfly.PieceNum // of blocks
	encoded bool               // the content may come compressed
}

var errMalformed = errors.New("want Range: bytes=A-B or bytes=A-, or piece=N for blocks")

// parseRequest reads a request. Its errors are ErrUnknown, where nothing may
// be told, and errMalformed; neither depends on what is here.
func parseRequest(r *http.Request) (q request, err error) {
	id, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, tasksPath), "/")
	if q.task, err = dragonfly.ParseTaskID(id); err != nil {
		return q, ErrUnknown
	}
	ticket, ok := strings.CutPrefix(r.Header.Get("Authorization"), scheme)
	if !ok || q.ticket.UnmarshalText([]byte(ticket)) != nil || q.ticket.IsZero() {
		return q, ErrUnknown
	}
	q.version = parseTag(r.Header.Get("If-Match"))
	switch q.what = what; what {
	case contentRoute:
		q.encoded = r.Header.Get(encHeader) == zstdCoding
		q.span = dragonfly.Span{To: open}
		if text := r.Header.Values("Range"); len(text) > 0 {
			if q.span, q.ranged = parseRange(text[0]); !q.ranged || len(text) > 1 {
				return q, errMalformed
			}
		}
	case blocksRoute:
		n, err := strconv.ParseUint(r.URL.Query().Get("piece"), 10, 31)
		if err != nil {
			return q, errMalformed
		}
		q.piece = dragonfly.PieceNum(n)
	default:
		return q, ErrUnknown
	}
	return q, nil
}

// parseTag reads a version in quotes; the zero version stands for anything
// else.
func parseTag(s string) (v dragonfly.Version) {
	if len(s) != 2+hex.EncodedLen(len(v)) || s[0] != '"' || s[len(s)-1] != '"' {
		return v
	}
	var parsed dragonfly.Version
	if parsed.UnmarshalText([]byte(s[1:len(s)-1])) != nil {
		return v
	}
	return parsed
}

// parseRange reads "bytes=A-B" and "bytes=A-". A suffix, several ranges and
// another unit are not understood.
func parseRange(s string) (span dragonfly.Span, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes=")
	if !ok {
		return span, false
	}
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		return span, false
	}
	if span.From, ok = parseOffset(first); !ok {
		return dragonfly.Span{}, false
	}
	if last == "" {
		span.To = open
		return span, true
	}
	if span.To, ok = parseOffset(last); !ok || span.To < span.From {
		return dragonfly.Span{}, false
	}
	span.To++
	return span, true
}

// parseContentRange reads "bytes A-B/LENGTH", where LENGTH may be *.
func parseContentRange(s string) (span dragonfly.Span, length int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	if !ok {
		return span, 0, false
	}
	extent, total, ok := strings.Cut(s, "/")
	if !ok {
		return span, 0, false
	}
	if span, ok = parseRange("bytes=" + extent); !ok || span.To == open {
		return dragonfly.Span{}, 0, false
	}
	if total == "*" {
		return span, dragonfly.UnknownLength, true
	}
	if length, ok = parseOffset(total); !ok || length < span.To {
		return dragonfly.Span{}, 0, false
	}
	return span, length, true
}

// parseOffset reads a number of digits only that leaves room for one more byte.
func parseOffset(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil && n < math.MaxInt64-1
}

// contentRange is what parseContentRange reads.
func contentRange(span dragonfly.Span, length int64) string {
	b := make([]byte, 0, 64)
	b = append(b, "bytes "...)
	b = strconv.AppendInt(b, span.From, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, span.To-1, 10)
	b = append(b, '/')
	if length == dragonfly.UnknownLength {
		return string(append(b, '*'))
	}
	return string(strconv.AppendInt(b, length, 10))
}

// appendRequest writes the request that parseRequest reads. An empty span asks
// for the whole content.
func (f *Fetch) appendRequest(b []byte, host string, what string, n dragonfly.PieceNum) []byte {
	b = append(b, "GET "+tasksPath...)
	b = hex.AppendEncode(b, f.Task[:])
	b = append(append(b, '/'), what...)
	if what == blocksRoute {
		b = strconv.AppendInt(append(b, "?piece="...), int64(n), 10)
	}
	b = append(append(b, " HTTP/1.1\r\nHost: "...), host...)
	if what == contentRoute && f.Span.Len() > 0 {
		b = strconv.AppendInt(append(b, "\r\nRange: bytes="...), f.Span.From, 10)
		b = strconv.AppendInt(append(b, '-'), f.Span.To-1, 10)
	}
	if f.encoded {
		b = append(b, "\r\n"+encHeader+": "+zstdCoding...)
	}
	b = hex.AppendEncode(append(b, "\r\nIf-Match: \""...), f.Version[:])
	b = hex.AppendEncode(append(b, "\"\r\nAuthorization: "+scheme...), f.Ticket[:])
	return append(b, "\r\n\r\n"...)
}
