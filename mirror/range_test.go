// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"testing"

	"dragonfly"
)

// TestRanges: a range is answered with exactly its bytes, as the registry itself
// would, and the engine is asked for these only (design 9).
func TestRanges(t *testing.T) {
	blob := random(21, 5000)
	tag := `"` + digest(blob) + `"`
	const end = dragonfly.UnknownLength
	for _, v := range []struct {
		name, header, ifRange string
		status                int
		want                  [][2]int // nil: as straight
		asked                 []dragonfly.Span
		via                   string
	}{
		{"middle", "bytes=10-19", "", 206, [][2]int{{10, 20}}, []dragonfly.Span{{From: 10, To: 20}}, "swarm"},
		{"first byte", "bytes=0-0", "", 206, [][2]int{{0, 1}}, []dragonfly.Span{{From: 0, To: 1}}, "swarm"},
		{"open", "bytes=4990-", "", 206, [][2]int{{4990, 5000}}, []dragonfly.Span{{From: 4990, To: end}}, "swarm"},
		{"all", "bytes=0-", "", 206, [][2]int{{0, 5000}}, []dragonfly.Span{{From: 0, To: end}}, "swarm"},
		{"suffix", "bytes=-5", "", 206, [][2]int{{4995, 5000}}, []dragonfly.Span{{From: 4995, To: 5000}}, "swarm"},
		{"longer than all", "bytes=4000-9000", "", 206, [][2]int{{4000, 5000}}, []dragonfly.Span{{From: 4000, To: 9001}}, "swarm"},
		{"long suffix", "bytes=-9000", "", 206, [][2]int{{0, 5000}}, []dragonfly.Span{{From: 0, To: 5000}}, "swarm"},
		{"several", "bytes=0-9,100-199,-3", "", 206, [][2]int{{0, 10}, {100, 200}, {4997, 5000}},
			[]dragonfly.Span{{From: 0, To: 10}, {From: 100, To: 200}, {From: 4997, To: 5000}}, "swarm"},
		{"one of several", "bytes=9000-9001,1-2", "", 206, [][2]int{{1, 3}}, nil, "swarm"},
		{"same", "bytes=10-19", tag, 206, [][2]int{{10, 20}}, nil, "swarm"},
		{"another", "bytes=10-19", `"other"`, 0, nil, nil, "direct"},
		{"behind the end", "bytes=9000-", "", 416, nil, nil, "direct"},
		{"nonsense", "bytes=b-a", "", 0, nil, nil, "direct"},
		{"another unit", "lines=1-2", "", 0, nil, nil, "direct"},
	} {
		t.Run(v.name, func(t *testing.T) {
			engine := &fakeEngine{content: blob}
			s := newStand(t, engine, nil)
			path := s.registry.add(blob)
			header := []string{"Range: " + v.header}
			if v.ifRange != "" {
				header = append(header, "If-Range: "+v.ifRange)
			}
			resp, got, err := s.get(path, header...)
			if err != nil {
				t.Fatal(err)
			}
			if via := resp.Header.Get("X-Dragonfly-Via"); via != v.via {
				t.Errorf("via %s", via)
			}
			if v.want == nil {
				straight := do(t, s.origin.URL, "GET", path, nil, header...)
				want, err := io.ReadAll(straight.Body)
				if err != nil || resp.StatusCode != straight.StatusCode || !bytes.Equal(got, want) || v.status != 0 && resp.StatusCode != v.status {
					t.Errorf("%d with %d bytes, and straight %d with %d: %v", resp.StatusCode, len(got), straight.StatusCode, len(want), err)
				}
				return
			}
			if resp.StatusCode != v.status || resp.ContentLength != int64(len(got)) || resp.Header.Get("Etag") != tag {
				t.Errorf("%d, %d of %d bytes, %v", resp.StatusCode, len(got), resp.ContentLength, resp.Header)
			}
			if v.asked != nil && fmt.Sprint(engine.started()[0].Want) != fmt.Sprint(v.asked) {
				t.Errorf("the engine is asked for %v, want %v", engine.started()[0].Want, v.asked)
			}
			if len(v.want) == 1 {
				wantRange(t, resp.Header.Get("Content-Range"), v.want[0], len(blob))
				if !bytes.Equal(got, blob[v.want[0][0]:v.want[0][1]]) {
					t.Errorf("%d other bytes", len(got))
				}
				return
			}
			_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
			if err != nil {
				t.Fatal(err)
			}
			parts := multipart.NewReader(bytes.NewReader(got), params["boundary"])
			for _, span := range v.want {
				p, err := parts.NextPart()
				if err != nil {
					t.Fatal(err)
				}
				wantRange(t, p.Header.Get("Content-Range"), span, len(blob))
				if b, err := io.ReadAll(p); err != nil || !bytes.Equal(b, blob[span[0]:span[1]]) {
					t.Errorf("%v: %d bytes, %v", span, len(b), err)
				}
			}
			if _, err := parts.NextPart(); err != io.EOF {
				t.Errorf("after the last part: %v", err)
			}
		})
	}
}

func wantRange(t *testing.T, header string, span [2]int, length int) {
	t.Helper()
	if want := fmt.Sprintf("bytes %d-%d/%d", span[0], span[1]-1, length); header != want {
		t.Errorf("Content-Range: %s, want %s", header, want)
	}
}

// TestRangesGoOnAtRegistry: each part that the engine loses, and those after it.
func TestRangesGoOnAtRegistry(t *testing.T) {
	blob := random(22, mib)
	s := newStand(t, &fakeEngine{content: blob, lostAt: 1500, lost: errLost}, nil)
	path := s.registry.add(blob)
	resp, got, err := s.get(path, "Range: bytes=1000-1999,5000-5999")
	if err != nil || resp.StatusCode != http.StatusPartialContent || !bytes.Contains(got, blob[1000:2000]) || !bytes.Contains(got, blob[5000:6000]) {
		t.Fatalf("%d with %d bytes: %v", resp.StatusCode, len(got), err)
	}
	var asked []string
	for _, r := range s.registry.asked() {
		asked = append(asked, r.Header.Get("Range"))
	}
	if fmt.Sprint(asked) != "[bytes=1500-1999 bytes=5000-5999]" {
		t.Errorf("the registry was asked for %v", asked)
	}
}

// TestCredentialsGoAlong: the engine's request to the registry carries what the
// client's would, and nothing of it is logged.
func TestCredentialsGoAlong(t *testing.T) {
	blob := random(23, 5000)
	engine := &fakeEngine{content: blob}
	s := newStand(t, engine, nil)
	path := s.registry.add(blob)
	for _, header := range [][]string{{"Authorization: Bearer " + secret}, {"Cookie: s=" + secret}, {"Authorization: Bearer " + secret, "Connection: Authorization"}} {
		if resp, got, err := s.get(path, header...); err != nil || resp.Header.Get("X-Dragonfly-Via") != "swarm" || !bytes.Equal(got, blob) {
			t.Fatalf("%v: %d bytes, %v", header, len(got), err)
		}
	}
	jobs := engine.started()
	if len(jobs[0].Request.Header["Authorization"]) != 1 || len(jobs[1].Request.Header["Cookie"]) != 1 || len(jobs[2].Request.Header) != 0 {
		t.Errorf("%v", jobs)
	}
	for _, job := range jobs {
		if !job.Guarded {
			t.Error("a job that anybody may share")
		}
	}
}
