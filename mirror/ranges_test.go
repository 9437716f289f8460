// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"slices"
	"testing"

	"dragonfly"
)

func TestParseRanges(t *testing.T) {
	const end = dragonfly.UnknownLength
	for text, want := range map[string][]byteRange{
		"bytes=0-0":                   {{0, 1, 0}},
		"bytes=5-":                    {{5, end, 0}},
		"bytes=-7":                    {{0, end, 7}},
		"Bytes=1-2":                   {{1, 3, 0}},
		"bytes= 1-2 ,, 4-4":           {{1, 3, 0}, {4, 5, 0}},
		"bytes=0-1,3-,-2":             {{0, 2, 0}, {3, end, 0}, {0, end, 2}},
		"bytes=":                      nil,
		"bytes=,":                     nil,
		"bytes=2-1":                   nil,
		"bytes=-0":                    nil,
		"bytes=-":                     nil,
		"bytes=a-b":                   nil,
		"bytes=1-2-3":                 nil,
		"bytes=+1-2":                  nil,
		"bytes":                       nil,
		"items=1-2":                   nil,
		"bytes=1-9223372036854775807": nil,
	} {
		got, ok := parseRanges(text)
		if ok != (want != nil) || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v, want %v", text, got, ok, want)
		}
	}
}

func FuzzParseRanges(f *testing.F) {
	f.Add("bytes=0-1,3-,-2", int64(5))
	f.Add("bytes=9-", int64(5))
	f.Fuzz(func(t *testing.T, text string, length int64) {
		ranges, ok := parseRanges(text)
		if !ok {
			return
		}
		if len(ranges) == 0 || len(ranges) > maxRanges {
			t.Fatalf("%q: %d ranges", text, len(ranges))
		}
		if length < 0 {
			return
		}
		for _, s := range spans(ranges, length) {
			if s.From < 0 || s.To <= s.From || s.To > length {
				t.Fatalf("%q of %d: %v", text, length, s)
			}
		}
	})
}
