// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// TestTraffic: what is counted and as what, with labels out of a closed list,
// and that flushing, hijacking and sending of files still work.
func TestTraffic(t *testing.T) {
	tr := newTraffic(func() int64 { return 4321 })
	heard := make(chan *answer, 20)
	next := make(chan struct{})
	s := httptest.NewServer(tr.count(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(viaHeader, r.Header.Get("Say"))
		switch r.URL.Path {
		case "/flush":
			fmt.Fprint(w, "begin ")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			<-next // the client has it by now
			fmt.Fprint(w, "end")
		case "/file":
			if n, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("12345")); n != 5 || err != nil {
				t.Error(n, err)
			}
		case "/hints":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusTeapot)
		case "/abort":
			fmt.Fprint(w, "x")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/hijack":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			conn.Close()
		}
	}), func(_ *http.Request, a *answer) { heard <- a }))
	defer s.Close()
	ask := func(path, say string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Say", say)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	resp := ask("/flush", "swarm")
	first := make([]byte, 6)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Error(err)
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); string(rest) != "end" {
		t.Error(string(rest), err)
	}
	ask("/file", "source")
	ask("/hints", "direct")
	if _, err := io.ReadAll(ask("/abort", "proxy").Body); err == nil {
		t.Error("an abort is a whole answer")
	}
	ask("/hijack", "")
	ask("/file", "what=a registry says")
	for range 6 {
		<-heard
	}
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		t.Error(err)
	}
	<-heard
	tr.TunnelOpened()
	tr.TunnelOpened()
	tr.TunnelClosed(3, 4)
	tr.CertificateMade()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(tr.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	const name = "dragonfly_dfdaemon_"
	contains(t, "the metrics", w.Body.String(),
		name+`requests_total{code="2xx",via="swarm"} 1`, name+`bytes_total{via="swarm"} 9`, name+`first_byte_seconds_count{via="swarm"} 1`,
		name+`bytes_total{via="source"} 5`, name+`requests_total{code="4xx",via="direct"} 1`, name+`bytes_total{via="proxy"} 1`,
		name+`requests_total{code="2xx",via="none"} 1`, name+`requests_total{code="2xx",via="other"} 1`, name+`requests_total{code="2xx",via="tunnel"} 1`,
		name+"tunnels 1", name+"tunnel_sent_bytes_total 3", name+`bytes_total{via="tunnel"} 4`, name+"certificates_total 1", name+"saved_bytes_total 4321")
	if strings.Contains(w.Body.String(), "registry says") {
		t.Error("a header became a label")
	}
}
