// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/peer"
)

// TestWrongBytesAreNotContinued: when what a client was given has proved wrong,
// no right rest makes the content right.
func TestWrongBytesAreNotContinued(t *testing.T) {
	blob := random(31, 2*mib)
	s := newStand(t, &fakeEngine{content: blob, lostAt: mib, lost: fmt.Errorf("reading: %w", peer.ErrTakenBack)}, nil)
	if _, got, err := s.get(s.registry.add(blob)); err == nil || len(got) >= len(blob) {
		t.Errorf("%d bytes end with %v", len(got), err)
	}
	if asked := s.registry.asked(); len(asked) > 0 {
		t.Error("the registry goes on")
	}
}

// TestRestOfUnknownLength: of a content without a length only a range to its end
// is a rest.
func TestRestOfUnknownLength(t *testing.T) {
	blob := random(32, 2*mib)
	for contentRange, whole := range map[string]bool{
		"bytes 1048576-2097151/2097152": true,
		"bytes 1048576-2097050/2097152": false,
		"bytes 1048576-2097151/*":       false,
	} {
		s := newStand(t, &fakeEngine{content: blob, lostAt: mib, lost: errLost, unknown: true}, nil)
		path := s.registry.add(blob)
		s.registry.handle = func(w http.ResponseWriter, r *http.Request) bool {
			var from, to int
			fmt.Sscanf(contentRange, "bytes %d-%d", &from, &to)
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			w.Write(blob[from : to+1])
			return true
		}
		if _, got, err := s.get(path); (err == nil) != whole || whole && !bytes.Equal(got, blob) {
			t.Errorf("%s: %d bytes end with %v", contentRange, len(got), err)
		}
	}
}

// TestRestOfMutable: what no digest names goes on only where the server shows
// that it has the version that the client has the start of, and the parts of
// one answer are of one version.
func TestRestOfMutable(t *testing.T) {
	file := random(33, 2*mib)
	one := piecehash.Validator(`"one"`)
	readers := 0
	for name, k := range map[string]struct {
		engine *fakeEngine
		etag   string
		ranges string
		whole  bool
	}{
		"the same":    {engine: &fakeEngine{lostAt: mib, lost: errLost, version: func() dragonfly.Version { return one }}, etag: `"one"`, ranges: "bytes=0-", whole: true},
		"another":     {engine: &fakeEngine{lostAt: mib, lost: errLost, version: func() dragonfly.Version { return one }}, etag: `"two"`, ranges: "bytes=0-"},
		"nobody says": {engine: &fakeEngine{lostAt: mib, lost: errLost, version: func() dragonfly.Version { return one }}, ranges: "bytes=0-"},
		"parts": {engine: &fakeEngine{version: func() dragonfly.Version { return one }}, etag: `"one"`,
			ranges: "bytes=0-9,1048576-1048585", whole: true},
		"parts of two versions": {engine: &fakeEngine{version: func() dragonfly.Version {
			readers++ // the first two are of the first part
			return dragonfly.Version{byte(max(2, readers))}
		}}, etag: `"one"`, ranges: "bytes=0-9,1048576-1048585"},
	} {
		t.Run(name, func(t *testing.T) {
			k.engine.content = file
			server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if k.etag != "" {
					w.Header().Set("ETag", k.etag)
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
			}))
			s := newStand(t, k.engine, nil)
			proxy := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				u := *r.URL
				u.Scheme, u.Host = "http", server.Listener.Addr().String()
				r = r.Clone(r.Context())
				r.URL = &u
				s.mirror.ServeURL(w, r, false, nil)
			}))
			r, err := http.NewRequestWithContext(t.Context(), "GET", proxy.URL+"/file", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Range", k.ranges)
			resp, err := client.Do(r)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			if (err == nil) != k.whole {
				t.Errorf("it ends with %v", err)
			}
		})
	}
}

// TestRestTakesNothingElsewhere: where a registry redirects to for the rest gets
// none of the client's credentials, a port of the same host included.
func TestRestTakesNothingElsewhere(t *testing.T) {
	blob := random(34, 2*mib)
	for _, header := range []string{"Authorization", "Cookie"} {
		s := newStand(t, &fakeEngine{content: blob, lostAt: mib, lost: errLost}, nil)
		var seen http.Header
		store := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen = r.Header.Clone()
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
		}))
		path := s.registry.add(blob)
		s.registry.handle = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, store.URL+"/x", http.StatusTemporaryRedirect)
			return true
		}
		if _, got, err := s.get(path, header+": "+secret); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if seen == nil || seen.Get(header) != "" || seen.Get("Referer") != "" || seen.Get("Range") == "" {
			t.Errorf("the store was sent %v", seen)
		}
	}
}

// TestRegistryHangsInMidStream: a rest of which nothing comes is given up.
func TestRegistryHangsInMidStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPaced(t, time.Hour, 0, http.StatusOK, nil)
		p.engine.gateAt = 2000
		p.hang = true
		began, abort := time.Now(), any(nil)
		func() {
			defer func() { abort = recover() }()
			p.get(withServer(t.Context()))
		}()
		p.mirror.Close()
		if took := time.Since(began); abort != http.ErrAbortHandler || took != 42*time.Second {
			t.Errorf("after %v: %v", took, abort)
		}
	})
}

// TestEngineSaysNothing: an engine that does not even begin is left in the end,
// also where the registry has no better answer.
func TestEngineSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPaced(t, time.Hour, 0, http.StatusServiceUnavailable, nil)
		if w, took := p.get(t.Context()); w.Code != http.StatusServiceUnavailable || took != 12*time.Second {
			t.Errorf("%d after %v", w.Code, took)
		}
	})
}

// hanging is a body that gives nothing until its request ends.
type hanging struct{ r *http.Request }

func (h hanging) Read([]byte) (int, error) {
	<-h.r.Context().Done()
	return 0, h.r.Context().Err()
}

func (hanging) Close() error { return nil }

// hung makes an answer whose body never comes.
func hung(resp *http.Response) *http.Response {
	resp.Body = hanging{resp.Request}
	return resp
}
