// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestServeURL: what a proxy sends to the swarm comes through it, of whatever
// kind it is, and costs its server one copy; the rest goes straight.
func TestServeURL(t *testing.T) {
	w := newSwarm(t)
	file := random(31, 5*mib)
	sent := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path == "/private/model.tar.gz" && r.Header.Get("X-Key") != secret {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		if r.Method == http.MethodGet {
			sent++
		}
		rw.Header().Set("ETag", `"one"`)
		http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(file))
	}))
	t.Cleanup(server.Close)
	ask := func(host, method, path string, header ...string) (*http.Response, []byte) {
		t.Helper()
		s, _ := w.stand(host, line{w.sn})
		proxy := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			u := *r.URL
			u.Scheme, u.Host = "https", server.Listener.Addr().String()
			r = r.Clone(r.Context())
			r.URL = &u
			s.mirror.ServeURL(rw, r, true, nil)
		}))
		resp := do(t, proxy.URL, method, path, nil, header...)
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, got
	}
	for i, host := range []string{"one", "two"} {
		resp, got := ask(host, "GET", "/data/model.tar.gz")
		if resp.StatusCode != 200 || resp.Header.Get("X-Dragonfly-Via") != "swarm" || !bytes.Equal(got, file) {
			t.Errorf("%d: %d bytes, %v", resp.StatusCode, len(got), resp.Header)
		}
		if sent != 1 {
			t.Errorf("after %d hosts the server was asked %d times", i+1, sent)
		}
	}
	if resp, got := ask("three", "GET", "/data/model.tar.gz", "Range: bytes=5000000-5000009"); resp.StatusCode != 206 || !bytes.Equal(got, file[5000000:5000010]) {
		t.Errorf("%d: %d bytes", resp.StatusCode, len(got))
	}
	if resp, _ := ask("three", "HEAD", "/data/model.tar.gz"); resp.StatusCode != 200 || resp.Header.Get("X-Dragonfly-Via") != "direct" || resp.Header.Get("Etag") != `"one"` {
		t.Errorf("%d, %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := ask("four", "GET", "/data/model.tar.gz", "X-Original-URL: /other"); resp.Header.Get("X-Dragonfly-Via") != "direct" {
		t.Errorf("a request that may be about another content comes by %s", resp.Header.Get("X-Dragonfly-Via"))
	}
	for i, want := range []int{200, 403, 403} {
		var header []string
		if want == 200 {
			header = []string{"X-Key: " + secret}
		}
		resp, got := ask(fmt.Sprint("private", i), "GET", "/private/model.tar.gz", header...)
		if resp.StatusCode != want || want == 403 && len(got) > 0 {
			t.Errorf("%d with %d bytes, want %d", resp.StatusCode, len(got), want)
		}
	}
}
