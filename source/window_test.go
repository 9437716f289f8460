// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"testing"

	"dragonfly"
)

func TestParseWindow(t *testing.T) {
	for text, want := range map[string]window{
		"bytes=0-0":                  {0, 1, 0},
		"bytes=10-99":                {10, 90, 0},
		"bytes=10-":                  {10, unknown, 0},
		"bytes=-10":                  {0, 0, 10},
		"Bytes = 1 - 2":              {1, 2, 0},
		"bytes=0-":                   whole,
		"bytes=0-999999999999999999": {0, 1e18, 0},
	} {
		got, err := parseWindow([]string{text})
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, values := range [][]string{
		{""}, {"bytes"}, {"bytes="}, {"bytes=-"}, {"bytes=-0"}, {"bytes=5-4"}, {"bytes=1-2,5-6"},
		{"bytes=1-2", "bytes=5-6"}, {"items=1-2"}, {"bytes=a-b"}, {"bytes=1-2-3"}, {"bytes=+1-2"},
		{"bytes=1-9999999999999999999"}, {"bytes=1"}, {"1-2"},
	} {
		_, err := parseWindow(values)
		wantKind(t, err, dragonfly.Invalid, "bytes=0-1023")
	}
}

func TestParseContentRange(t *testing.T) {
	for text, want := range map[string]contentRange{
		"bytes 0-0/1":  {0, 0, 1},
		"bytes 5-9/10": {5, 9, 10},
		"bytes 5-9/*":  {5, 9, unknown},
		"bytes */10":   {unknown, unknown, 10},
		"bytes */0":    {unknown, unknown, 0},
	} {
		got, ok := parseContentRange(text)
		if !ok || got != want {
			t.Errorf("%q: %+v, %t", text, got, ok)
		}
	}
	for _, text := range []string{
		"", "bytes", "bytes ", "bytes 5-9", "bytes */*", "bytes 9-5/10", "bytes 5-10/10", "bytes=5-9/10",
		"items 5-9/10", "bytes 5-9/10 ", "bytes  5-9/10", "bytes -9/10", "bytes 5-/10", "bytes 5-9/-1",
		"bytes +5-9/10", "bytes 5-9/9999999999999999999", "bytes 5-9/10/11", "bytes 5/10",
	} {
		if got, ok := parseContentRange(text); ok {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 5-9/10", "bytes */10", "bytes 5-9/*", "bytes 05-9/10"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := parseContentRange(s)
		if !ok {
			return
		}
		span, total := "*", "*"
		if r.first != unknown {
			span = fmt.Sprintf("%d-%d", r.first, r.last)
		}
		if r.total != unknown {
			total = fmt.Sprint(r.total)
		}
		again, ok := parseContentRange("bytes " + span + "/" + total)
		if !ok || again != r {
			t.Errorf("%q: %+v, again %+v", s, r, again)
		}
		if r.first > r.last || r.total != unknown && r.last >= r.total || r.total == unknown && r.first == unknown {
			t.Errorf("%q: %+v", s, r)
		}
	})
}

// FuzzRange: whatever a user and a source say, the cut lies within the body,
// within the wanted part and gives the right bytes.
func FuzzRange(f *testing.F) {
	f.Add("bytes=10-99", int64(5), int64(20), int64(90), "bytes 15-29/1000", int64(1000))
	f.Add("bytes=-50", int64(0), int64(0), int64(0), "bytes 950-999/1000", int64(-1))
	f.Add("bytes=-50", int64(5), int64(0), int64(50), "bytes 955-999/1000", int64(30))
	f.Add("", int64(5), int64(0), int64(0), "bytes 5-9/*", int64(3))
	f.Add("", int64(0), int64(7), int64(0), "bytes */0", int64(0))
	f.Fuzz(func(t *testing.T, header string, from, to, length int64, answer string, size int64) {
		r := dragonfly.Request{}
		if header != "" {
			r.Header = dragonfly.Header{"Range": {header}}
		}
		w, err := newWish(r, from, Condition{To: to, Length: length})
		if err != nil {
			return
		}
		judge := func(c cut, first, end int64) {
			if c.fault != "" {
				return
			}
			if c.skip < 0 || c.left < unknown || c.length < unknown {
				t.Fatalf("%+v", c)
			}
			if end != unknown && c.left != unknown && first+c.skip+c.left > end {
				t.Errorf("%+v goes beyond the body, %d to %d", c, first, end)
			}
			if c.mustEnd && first+c.skip+c.left != end {
				t.Errorf("%+v ends elsewhere than the body, %d to %d", c, first, end)
			}
			if to > 0 && c.left > to-from {
				t.Errorf("%+v is more than %d to %d", c, from, to)
			}
			if c.length != unknown && c.left != unknown && from+c.left > c.length {
				t.Errorf("%+v goes beyond the content from %d on", c, from)
			}
			if w.window.suffix == 0 && first+c.skip != w.window.start+from && c.left != 0 {
				t.Errorf("%+v starts at %d", c, first+c.skip)
			}
		}
		if size < maxOffset {
			if c, err := w.ofWhole(size); err == nil {
				judge(c, 0, max(size, unknown))
			}
		}
		if c, err := w.ofPart(answer, unknown); err == nil {
			r, _ := parseContentRange(answer)
			judge(c, r.first, r.last+1)
		}
		if c, err := w.ofNothing(answer); err == nil {
			judge(c, from, from)
		}
	})
}

func TestContentAddressed(t *testing.T) {
	const hash = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, u := range []string{
		"https://r.test/v2/a/b/blobs/" + hash,
		"http://127.0.0.1:5000/v2/a/blobs/" + hash + "?ns=docker.io",
		"https://r.test/v2/a/blobs/sha256%3A" + hash[7:],
		"/v2/a/blobs/" + hash,
	} {
		if d, ok := ContentAddressed(u); !ok || d.String() != hash {
			t.Errorf("%s: %s, %t", u, d, ok)
		}
	}
	for _, u := range []string{
		"https://r.test/v2/a/manifests/" + hash,
		"https://r.test/v2/a/blobs/" + hash + "/x",
		"https://r.test/v2/a/blobs/" + hash + "0",
		"https://r.test/v2/a/blobs/" + hash[:70],
		"https://r.test/v2/a/blobs/sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
		"https://r.test/f?x=/blobs/" + hash,
		"https://r.test/v2/a/blobs/uploads/", "", "%zz",
	} {
		if d, ok := ContentAddressed(u); ok {
			t.Errorf("%s: %s", u, d)
		}
	}
}

func TestValidator(t *testing.T) {
	for _, test := range []struct {
		info Info
		want string
	}{
		{Info{ETag: `"a"`, LastModified: date, Length: 5}, `"a"`},
		{Info{ETag: `W/"a"`, LastModified: date, Length: 5}, date + " 5"},
		{Info{ETag: `""`, LastModified: date, Length: 5}, date + " 5"},
		{Info{ETag: `a`, LastModified: date, Length: 0}, date + " 0"},
		{Info{LastModified: date, Length: unknown}, ""},
		{Info{LastModified: "yesterday", Length: 5}, ""},
		{Info{ETag: `W/"a"`, Length: 5}, ""},
		{Info{ETag: "\"a\x7f\""}, ""},
		{Info{ETag: `"a"b"`}, ""},
		{Info{}, ""},
	} {
		if got := test.info.Validator(); got != test.want {
			t.Errorf("%+v: %q, want %q", test.info, got, test.want)
		}
	}
}
