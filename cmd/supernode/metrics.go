// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// requests are v1's metrics of the control port (v1-protocol 13). A handler is
// named by its template, one that does not exist "other": nothing that a client
// chooses becomes a label. A sync that waits shows its waiting time under its
// own name.
type requests struct {
	total    *prometheus.CounterVec   // code, handler
	duration *prometheus.HistogramVec // handler
	received *prometheus.HistogramVec // handler
	sent     *prometheus.HistogramVec // handler
}

func newRequests(reg prometheus.Registerer) *requests {
	const name = "dragonfly_supernode_http_"
	histogram := func(what, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name + what, Help: help, Buckets: buckets}, []string{"handler"})
	}
	sizes := prometheus.ExponentialBuckets(100, 10, 8)
	m := &requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name + "requests_total", Help: "Requests at the control port."}, []string{"code", "handler"}),
		duration: histogram("request_duration_seconds", "Time to answer a request, waiting for work included.",
			[]float64{.01, .02, .04, .1, .2, .4, 1, 2, 4, 8, 20, 60, 120}),
		received: histogram("request_size_bytes", "Bytes of the bodies of requests.", sizes),
		sent:     histogram("response_size_bytes", "Bytes of the bodies of answers.", sizes),
	}
	reg.MustRegister(m.total, m.duration, m.received, m.sent)
	return m
}

// count counts what next answers. next is made of ServeMux, which leaves the
// pattern that matched in the request.
func (m *requests) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		out, in := &countedAnswer{ResponseWriter: w, status: http.StatusOK}, &countedBody{ReadCloser: r.Body}
		r.Body = in
		defer func() {
			handler := template(r)
			m.total.WithLabelValues(strconv.Itoa(out.status), handler).Inc()
			m.duration.WithLabelValues(handler).Observe(time.Since(began).Seconds())
			m.received.WithLabelValues(handler).Observe(float64(in.n))
			m.sent.WithLabelValues(handler).Observe(float64(out.n))
		}()
		next.ServeHTTP(out, r)
	})
}

// protocol are the routes behind the one pattern of the native protocol.
var protocol = []string{"/p2p/v1/sessions", "/p2p/v1/session", "/p2p/v1/session/register", "/p2p/v1/session/sync"}

// template names what answered a request.
func template(r *http.Request) string {
	_, pattern, hasMethod := strings.Cut(r.Pattern, " ")
	if !hasMethod {
		pattern = r.Pattern
	}
	switch {
	case pattern == "":
		return "other"
	case pattern != "/p2p/v1/":
		return pattern
	case slices.Contains(protocol, r.URL.Path):
		return r.URL.Path
	}
	return "other"
}

// countedAnswer remembers status and length of an answer.
type countedAnswer struct {
	http.ResponseWriter
	status int
	begun  bool
	n      int64
}

func (a *countedAnswer) WriteHeader(status int) {
	if !a.begun && status >= http.StatusOK { // not an informational one
		a.status, a.begun = status, true
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *countedAnswer) Write(b []byte) (int, error) {
	a.begun = true
	n, err := a.ResponseWriter.Write(b)
	a.n += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach deadlines and Flush.
func (a *countedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

type countedBody struct {
	io.ReadCloser
	n int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}
