// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"strconv"
	"strings"

	"dragonfly"
)

// maxRanges bounds the parts of one answer; who asks for more is answered by
// the registry.
const maxRanges = 64

// byteRange is one range of a request as RFC 9110 (14.1.2) writes it: from to,
// which is not included, or the last suffix bytes.
type byteRange struct {
	from, to int64 // to dragonfly.UnknownLength: to the end
	suffix   int64 // > 0: from and to are not used
}

// parseRanges reads a Range header. Not ok: it is none that is understood
// here, or asks for nothing.
func parseRanges(header string) (ranges []byteRange, ok bool) {
	unit, set, found := strings.Cut(header, "=")
	if !found || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return nil, false
	}
	for item := range strings.SplitSeq(set, ",") {
		if item = strings.Trim(item, " \t"); item == "" {
			continue // empty elements of a list are allowed
		}
		first, last, found := strings.Cut(item, "-")
		if !found || len(ranges) == maxRanges {
			return nil, false
		}
		r := byteRange{to: dragonfly.UnknownLength}
		var good bool
		switch {
		case first == "":
			r.suffix, good = offset(last)
			good = good && r.suffix > 0
		case last == "":
			r.from, good = offset(first)
		default:
			var inclusive int64
			if r.from, good = offset(first); good {
				inclusive, good = offset(last)
			}
			good = good && inclusive >= r.from
			r.to = inclusive + 1
		}
		if !good {
			return nil, false
		}
		ranges = append(ranges, r)
	}
	return ranges, len(ranges) > 0
}

// offset reads a number of bytes, with room to count on.
func offset(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n < 1<<62
}

// spans are the ranges in a content of that length, without those that lie
// behind its end; the length is needed for suffixes only, else it may be
// dragonfly.UnknownLength.
func spans(ranges []byteRange, length int64) (out []dragonfly.Span) {
	for _, r := range ranges {
		s := dragonfly.Span{From: r.from, To: r.to}
		if r.suffix > 0 {
			s = dragonfly.Span{From: max(0, length-r.suffix), To: length}
		}
		if length >= 0 {
			if s.To < 0 || s.To > length {
				s.To = length
			}
			if s.From >= s.To {
				continue
			}
		}
		out = append(out, s)
	}
	return out
}
