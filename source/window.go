// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"dragonfly"
)

const unknown = dragonfly.UnknownLength

// window is the part of a resource that is the content: what the user's own
// Range header names. The zero value is not one; whole is.
type window struct {
	start  int64 // in the resource
	length int64 // bytes, more than the resource may have; unknown: to its end
	suffix int64 // > 0: the last suffix bytes, and start and length are not used
}

var whole = window{length: unknown}

// parseWindow reads the values of a Range header: "bytes=a-b", "bytes=a-" or
// "bytes=-n", one of them.
func parseWindow(values []string) (window, error) {
	if len(values) == 0 {
		return whole, nil
	}
	wrong := fault(dragonfly.Invalid, `header Range: want one range of bytes, as in "bytes=0-1023", "bytes=1024-" or "bytes=-512"`)
	if len(values) > 1 {
		return window{}, wrong
	}
	unit, text, ok := strings.Cut(values[0], "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return window{}, wrong
	}
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		return window{}, wrong
	}
	first, last = strings.TrimSpace(first), strings.TrimSpace(last)
	if first == "" {
		n, ok := parseOffset(last)
		if !ok || n == 0 {
			return window{}, wrong
		}
		return window{suffix: n}, nil
	}
	start, ok := parseOffset(first)
	if !ok {
		return window{}, wrong
	}
	if last == "" {
		return window{start: start, length: unknown}, nil
	}
	end, ok := parseOffset(last)
	if !ok || end < start {
		return window{}, wrong
	}
	return window{start: start, length: end - start + 1}, nil
}

// within resolves the window in a resource of total bytes. Not ok: the
// resource ends before the window begins.
func (w window) within(total int64) (start, length int64, ok bool) {
	if w.suffix > 0 {
		length = min(w.suffix, total)
		return total - length, length, true
	}
	if w.start > 0 && w.start >= total {
		return 0, 0, false
	}
	length = total - w.start
	if w.length >= 0 {
		length = min(length, w.length)
	}
	return w.start, length, true
}

// contentRange is a parsed Content-Range header. first and last are unknown in
// "bytes */total", total is unknown in "bytes first-last/*".
type contentRange struct{ first, last, total int64 }

// parseContentRange is strict: one unit, one space, digits only, first <= last
// < total.
func parseContentRange(text string) (contentRange, bool) {
	text, ok := strings.CutPrefix(text, "bytes ")
	if !ok {
		return contentRange{}, false
	}
	span, size, ok := strings.Cut(text, "/")
	if !ok {
		return contentRange{}, false
	}
	r := contentRange{first: unknown, last: unknown, total: unknown}
	if size != "*" {
		if r.total, ok = parseOffset(size); !ok {
			return contentRange{}, false
		}
	}
	if span == "*" {
		return r, r.total != unknown
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return contentRange{}, false
	}
	if r.first, ok = parseOffset(first); !ok {
		return contentRange{}, false
	}
	if r.last, ok = parseOffset(last); !ok {
		return contentRange{}, false
	}
	return r, r.first <= r.last && (r.total == unknown || r.last < r.total)
}

// parseOffset reads up to 18 decimal digits, so that sums of a few offsets
// cannot overflow.
func parseOffset(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 18 {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// maxOffset bounds what parseOffset reads.
const maxOffset = 1e18 - 1

// wish is what one request asks for, and judges what the answer gives.
type wish struct {
	window window
	from   int64 // in the content
	to     int64 // in the content, unknown: to its end
	cond   Condition
	tail   int64  // > 0: asked for as the last tail bytes of the resource
	value  string // Range header, "" for none
}

func newWish(r dragonfly.Request, from int64, cond Condition) (wish, error) {
	w, err := parseWindow(r.Header["Range"])
	if err != nil {
		return wish{}, err
	}
	if cond.Length < 0 {
		cond.Length = 0
	}
	want := wish{window: w, from: from, to: unknown, cond: cond}
	if cond.To > 0 {
		want.to = min(cond.To, maxOffset)
	}
	switch {
	case from < 0, from > maxOffset,
		want.to != unknown && from >= want.to,
		cond.Length > 0 && from >= cond.Length && !cond.IfChanged,
		w.suffix > 0 && from >= w.suffix,
		w.suffix == 0 && w.length != unknown && from >= w.length:
		return wish{}, fault(dragonfly.Invalid, fmt.Sprintf("offset %d lies outside of the content that is asked for", from))
	}
	if want.to != unknown && w.length != unknown && w.suffix == 0 {
		want.to = min(want.to, w.length)
	}
	want.value = want.rangeHeader()
	return want, nil
}

func (w *wish) rangeHeader() string {
	switch {
	case w.window.suffix > 0:
		// Where the window starts is known to the source only, but its last
		// bytes are the content's last ones.
		w.tail = w.window.suffix
		if w.cond.Length > 0 && !w.cond.IfChanged {
			w.tail = w.cond.Length - w.from
		}
		return fmt.Sprintf("bytes=-%d", w.tail)
	case w.last() != unknown:
		return fmt.Sprintf("bytes=%d-%d", w.first(), w.last())
	case w.first() > 0 || w.window != whole:
		return fmt.Sprintf("bytes=%d-", w.first())
	}
	return ""
}

// first and last are the bytes of the resource that are asked for; last may be
// unknown. They have no meaning for a suffix.
func (w *wish) first() int64 { return w.window.start + w.from }

func (w *wish) last() int64 {
	switch {
	case w.to != unknown:
		return w.window.start + w.to - 1
	case w.window.length != unknown:
		return w.window.start + w.window.length - 1
	}
	return unknown
}

// set writes the request's conditions and range.
func (w *wish) set(h http.Header) {
	if w.value != "" {
		h.Set("Range", w.value)
	}
	switch {
	case w.cond.IfChanged:
		if tag := anyETag(w.cond.ETag); tag != "" {
			h.Set("If-None-Match", tag)
		}
		if isDate(w.cond.LastModified) {
			h.Set("If-Modified-Since", w.cond.LastModified)
		}
	case w.value != "":
		if v := w.cond.ifRange(); v != "" {
			h.Set("If-Range", v)
		}
	}
}

// cut says which bytes of an answer's body are wanted.
type cut struct {
	length  int64 // of the content
	skip    int64 // bytes before the wanted ones
	left    int64 // wanted bytes; unknown: all
	mayEnd  bool  // the body may end before left bytes came: its length was not known
	mustEnd bool  // the body must end after left bytes
	fault   string
}

// ofWhole cuts a 200 of total bytes, or of unknown length.
func (w *wish) ofWhole(total int64) (cut, error) {
	if total < 0 {
		if w.window.suffix > 0 {
			return cut{}, fault(dragonfly.Invalid, `ignores ranges and does not tell its length: a range as in "bytes=-512" cannot be had from it`)
		}
		c := cut{length: unknown, skip: w.first(), left: unknown, mayEnd: true}
		if last := w.last(); last != unknown {
			c.left = last + 1 - c.skip
		}
		return c, nil
	}
	start, length, ok := w.window.within(total)
	if !ok {
		return cut{}, w.beyond(total)
	}
	c := cut{length: length}
	end := length
	if w.to != unknown {
		end = min(end, w.to)
	}
	if w.from > end {
		return c, w.beyond(total)
	}
	c.skip = start + w.from
	c.left = end - w.from
	c.mustEnd = start+end == total
	return c, nil
}

// ofPart cuts a 206. Wrong ranges are told by cut.fault, as a changed content
// explains them better.
func (w *wish) ofPart(header string, bodyLength int64) (cut, error) {
	r, ok := parseContentRange(header)
	if !ok || r.first == unknown {
		return cut{}, fault(dragonfly.SourceFailed, fmt.Sprintf("answers 206 with the Content-Range %.60q, which is not one range of bytes", header))
	}
	c := cut{length: unknown}
	start := w.window.start
	if r.total != unknown {
		if start, c.length, ok = w.window.within(r.total); !ok {
			return cut{}, w.beyond(r.total)
		}
	}
	first, last := w.first(), w.last()
	switch {
	case w.tail > 0 && r.total == unknown:
		return cut{}, fault(dragonfly.SourceFailed, "answers 206 without the total length: which bytes these are cannot be told")
	case w.tail > 0:
		first, last = max(0, r.total-w.tail), r.total-1
	case r.total != unknown && (last == unknown || last >= r.total):
		last = r.total - 1
	case last == unknown && w.cond.Length > 0 && !w.cond.IfChanged:
		last = start + w.cond.Length - 1
	case last == unknown:
		last = r.last
	}
	if r.first != first || r.last != last {
		c.fault = fmt.Sprintf("was asked for the bytes %d to %d and gives %d to %d", first, last, r.first, r.last)
		return c, nil
	}
	if bodyLength >= 0 && bodyLength != last-first+1 {
		c.fault = fmt.Sprintf("announces %d bytes for the bytes %d to %d", bodyLength, first, last)
		return c, nil
	}
	if r.total == unknown && w.window.length != unknown && last+1 == start+w.window.length {
		c.length = w.window.length
	}
	begin, end := start+w.from, last+1
	if w.to != unknown {
		end = min(end, start+w.to)
	}
	if begin < first || begin > end {
		return c, w.beyond(r.total)
	}
	c.skip = begin - first
	c.left = end - begin
	c.mustEnd = end == last+1
	return c, nil
}

// ofNothing cuts a 416, which is right when nothing is left to read.
func (w *wish) ofNothing(header string) (cut, error) {
	r, ok := parseContentRange(header)
	if !ok || r.first != unknown {
		return cut{}, w.beyond(unknown)
	}
	atEnd := w.window == whole && w.from == r.total
	if atEnd && (r.total == 0 || w.cond.ifRange() != "" && !w.cond.IfChanged) {
		return cut{length: r.total}, nil
	}
	return cut{}, w.beyond(r.total)
}

// beyond is the error for a content that ends before what is wanted of it.
func (w *wish) beyond(total int64) error {
	size := ""
	if total != unknown {
		size = fmt.Sprintf(", it has %d bytes", total)
	}
	if w.from > 0 && (w.cond.named() || w.cond.Length > 0) {
		return fault(dragonfly.SourceChanged, fmt.Sprintf("has no byte at offset %d any more%s", w.from, size))
	}
	return fault(dragonfly.NotFound, "does not have the range that is asked for"+size)
}

// check says whether the content of an answer is the one that cond names. A
// strong ETag decides; without one on both sides Last-Modified does; without
// that a 206 is vouched for by If-Range or, failing that, by its length. A
// zero Condition names nothing and is content with any 206.
func (w *wish) check(i Info, status int) error {
	c := w.cond
	if c.Length > 0 && i.Length != unknown && c.Length != i.Length {
		return fault(dragonfly.SourceChanged, fmt.Sprintf("has another content now: %d bytes instead of %d", i.Length, c.Length))
	}
	changed := fault(dragonfly.SourceChanged, "has another content now")
	ranged := status == http.StatusPartialContent || status == http.StatusRequestedRangeNotSatisfiable
	was, is := strongETag(c.ETag), anyETag(i.ETag)
	dated := isDate(c.LastModified)
	switch {
	case was != "" && is == was:
		return nil
	case was != "" && strings.TrimPrefix(is, "W/") != was && is != "",
		dated && isDate(i.LastModified) && c.LastModified != i.LastModified:
		return changed
	case ranged && c.ifRange() != "":
		return nil
	case ranged && (c == Condition{To: c.To} || c.Length > 0 && i.Length == c.Length):
		return nil
	case ranged:
		return fault(dragonfly.SourceChanged, "gives no strong validator: its content cannot be continued, only read anew")
	case was != "", dated && !isDate(i.LastModified):
		return changed // nothing shows that it is the same
	case w.from > 0 && !dated:
		return fault(dragonfly.SourceChanged, "ignores ranges and gives no strong validator: its content cannot be continued, only read anew")
	}
	return nil
}
