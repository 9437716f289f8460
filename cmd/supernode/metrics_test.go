// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"dragonfly"
	"dragonfly/wire"
)

// TestRequestMetrics: every request is counted under the template of what
// answered it, whatever its path and method (v1-protocol 13).
func TestRequestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	admin := http.NewServeMux()
	state := http.NewServeMux()
	state.HandleFunc("GET /p2p/v1/state/tasks/{id}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 5000)) })
	admin.Handle("/p2p/v1/state/", state)
	admin.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{DisableCompression: true}))
	tracker := patient{waiting: make(chan struct{}, 1)}
	s := service{tracker: tracker, admin: admin, metrics: newRequests(reg), log: slog.New(slog.DiscardHandler)}
	api := wire.NewServer(tracker, wire.ServerOptions{})
	server := httptest.NewServer(s.control(t.Context(), api))
	defer server.Close()

	do := func(method, path string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	peer := wire.NewClient(strings.TrimPrefix(server.URL, "http://"), wire.ClientOptions{})
	defer peer.Close()
	session, err := peer.Open(t.Context(), dragonfly.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Register(t.Context(), dragonfly.Registration{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	polled := make(chan struct{})
	go func() { defer close(polled); _, _ = session.Sync(ctx, dragonfly.Report{Seq: 1}) }()
	<-tracker.waiting
	api.Close() // an open poll is counted when it ends
	<-polled
	cancel()
	for i := range 50 {
		do("GET", fmt.Sprintf("/p2p/v1/state/tasks/%d", i))
		do("GET", fmt.Sprintf("/nothing/%d", i))
		do("GET", fmt.Sprintf("/p2p/v1/nothing/%d", i))
		do("POST", "/healthy")
	}
	do("GET", "/_ping")
	do("BREW", "/healthy")
	do("GET", "/metrics")
	text := do("GET", "/metrics") // itself included
	for _, series := range []string{
		`dragonfly_supernode_http_requests_total{code="200",handler="/p2p/v1/sessions"} 1`,
		`dragonfly_supernode_http_requests_total{code="200",handler="/p2p/v1/session/register"} 1`,
		`dragonfly_supernode_http_requests_total{code="503",handler="/p2p/v1/session/sync"} 1`,
		`dragonfly_supernode_http_requests_total{code="200",handler="/p2p/v1/state/tasks/{id}"} 50`,
		`dragonfly_supernode_http_requests_total{code="200",handler="/_ping"} 1`,
		`dragonfly_supernode_http_requests_total{code="200",handler="/metrics"} 1`,
		`dragonfly_supernode_http_request_duration_seconds_count{handler="/_ping"} 1`,
		`dragonfly_supernode_http_request_duration_seconds_bucket{handler="/_ping",le="120"} 1`,
		`dragonfly_supernode_http_request_size_bytes_bucket{handler="/p2p/v1/session/register",le="1e+09"} 1`,
		`dragonfly_supernode_http_response_size_bytes_bucket{handler="/p2p/v1/state/tasks/{id}",le="1000"} 0`,
		`dragonfly_supernode_http_response_size_bytes_bucket{handler="/p2p/v1/state/tasks/{id}",le="10000"} 50`,
		`dragonfly_supernode_http_response_size_bytes_sum{handler="/p2p/v1/state/tasks/{id}"} 250000`,
	} {
		if !strings.Contains(text, series+"\n") {
			t.Errorf("missing: %s", series)
		}
	}
	var handlers []string
	for _, m := range regexp.MustCompile(`handler="([^"]*)"`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(handlers, m[1]) {
			handlers = append(handlers, m[1])
		}
	}
	slices.Sort(handlers)
	if want := []string{"/_ping", "/metrics", "/p2p/v1/session/register", "/p2p/v1/session/sync", "/p2p/v1/sessions", "/p2p/v1/state/tasks/{id}", "other"}; !slices.Equal(handlers, want) {
		t.Errorf("handlers %q", handlers)
	}
	if t.Failed() {
		t.Log(text)
	}
}
