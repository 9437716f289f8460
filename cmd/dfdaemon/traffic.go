// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"dragonfly/internal/version"
)

// viaHeader says in answers which way they came.
const viaHeader = "X-Dragonfly-Via"

// Ways of an answer, besides those that the header names.
const (
	viaTunnel = "tunnel"
	viaOwn    = "own"   // dfdaemon's pages
	viaNone   = "none"  // it refused
	viaOther  = "other" // what nobody should say
)

// traffic is dfdaemon's metrics. Nothing that a client or a registry chooses
// becomes a label.
type traffic struct {
	registry     *prometheus.Registry
	requests     *prometheus.CounterVec   // via, code
	bytes        *prometheus.CounterVec   // via
	firstByte    *prometheus.HistogramVec // via
	tunnels      prometheus.Gauge
	uploaded     prometheus.Counter
	certificates prometheus.Counter
}

// newTraffic makes the metrics; saved tells what compression kept off the links.
func newTraffic(saved func() int64) *traffic {
	const name = "dragonfly_dfdaemon_"
	i := version.Get()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: name + "build_info", Help: "The build, always 1.",
		ConstLabels: prometheus.Labels{"version": i.Version, "revision": i.Revision, "os": i.OS, "arch": i.Arch, "goversion": i.GoVersion}})
	build.Set(1)
	t := &traffic{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name + "requests_total",
			Help: "Answers by the way they came (swarm, source, direct, proxy, tunnel, own, none) and class of status."}, []string{"via", "code"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name + "bytes_total",
			Help: "Bytes of bodies that clients were given, by the way they came."}, []string{"via"}),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name + "first_byte_seconds",
			Help: "Time to the first byte of a body.", Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30}}, []string{"via"}),
		tunnels: prometheus.NewGauge(prometheus.GaugeOpts{Name: name + "tunnels", Help: "Tunnels that are open."}),
		uploaded: prometheus.NewCounter(prometheus.CounterOpts{Name: name + "tunnel_sent_bytes_total",
			Help: "Bytes that clients sent through tunnels."}),
		certificates: prometheus.NewCounter(prometheus.CounterOpts{Name: name + "certificates_total",
			Help: "Certificates that were made for intercepted hosts."}),
	}
	compressed := prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name + "saved_bytes_total",
		Help: "Bytes that did not have to be sent to other hosts since they were compressed."}, func() float64 { return float64(saved()) })
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build,
		t.requests, t.bytes, t.firstByte, t.tunnels, t.uploaded, t.certificates, compressed)
	return t
}

// The proxy's observer.

func (t *traffic) TunnelOpened()    { t.tunnels.Inc() }
func (t *traffic) CertificateMade() { t.certificates.Inc() }
func (t *traffic) TunnelClosed(sent, received int64) {
	t.uploaded.Add(float64(sent))
	t.bytes.WithLabelValues(viaTunnel).Add(float64(received))
	t.tunnels.Dec()
}

// count counts what next answers, and tells it to each of hear.
func (t *traffic) count(next http.Handler, hear ...func(*http.Request, *answer)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w, began: time.Now()}
		defer func() { // also when the transfer is aborted
			via := a.via(r)
			t.requests.WithLabelValues(via, a.class()).Inc()
			if via != viaTunnel {
				t.bytes.WithLabelValues(via).Add(float64(a.n))
			}
			if a.n > 0 {
				t.firstByte.WithLabelValues(via).Observe(a.first.Sub(a.began).Seconds())
			}
			for _, f := range hear {
				f(r, a)
			}
		}()
		next.ServeHTTP(a, r)
	})
}

// answer remembers what was answered.
type answer struct {
	http.ResponseWriter
	own    bool // it is one of dfdaemon's pages
	status int
	began  time.Time
	first  time.Time // when the first byte of the body was written
	n      int64     // bytes of it
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && (status >= http.StatusOK || status == http.StatusSwitchingProtocols) { // no informational one
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	a.begin()
	n, err := a.ResponseWriter.Write(b)
	a.n += int64(n)
	return n, err
}

// ReadFrom keeps the way by which the kernel sends files.
func (a *answer) ReadFrom(r io.Reader) (int64, error) {
	a.begin()
	n, err := io.Copy(a.ResponseWriter, r)
	a.n += n
	return n, err
}

func (a *answer) begin() {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if a.first.IsZero() {
		a.first = time.Now()
	}
}

// Unwrap lets http.ResponseController flush and hijack.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// via is the way that the answer came.
func (a *answer) via(r *http.Request) string {
	switch via := a.Header().Get(viaHeader); {
	case a.own:
		return viaOwn
	case r.Method == http.MethodConnect:
		return viaTunnel
	case via == "":
		return viaNone
	case via == "swarm" || via == "source" || via == "direct" || via == "proxy":
		return via
	}
	return viaOther
}

// class is the first digit of the status; a connection that was taken over has
// got its answer on the way.
func (a *answer) class() string {
	if a.status == 0 {
		return "2xx"
	}
	return strconv.Itoa(a.status/100) + "xx"
}
