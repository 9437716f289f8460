// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dragonfly"
	"dragonfly/sched"
	"dragonfly/transfer"
)

// maxCallSystems bounds the values of the callsystem label, which users choose;
// the rest is "other".
const maxCallSystems = 32

// metrics are v1's names where they still mean something (v1-protocol 13),
// without labels that grow with the number of peers, and our own.
type metrics struct {
	systems map[string]bool // values of callsystem so far; guarded by Supernode.mu

	tasksRegistered, gcTasks, gcPeers, gcDisks                      prometheus.Counter
	lastGCDisks                                                     prometheus.Gauge
	triggered, triggerFailed, cacheHits, downloads, downloadsFailed prometheus.Counter
	downloadedBytes, seedPieceBytes, originBytes                    prometheus.Counter
	seedEgress, seedSaved, seedCopied                               prometheus.Counter
	jobs, jobsFailed                                                *prometheus.CounterVec // callsystem
	peerDownloads, peerBytes                                        *prometheus.CounterVec // callsystem
	peerFailures                                                    *prometheus.CounterVec // callsystem, reason
	peerDuration                                                    *prometheus.HistogramVec
	bytes, pieceFailures, verdicts, admissions                      *prometheus.CounterVec
	syncDuration, scheduleDuration                                  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, s *Supernode) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	const node, dfget = "dragonfly_supernode_", "dragonfly_dfget_"
	m := &metrics{
		systems:          map[string]bool{},
		tasksRegistered:  counter(node+"tasks_registered_total", "Versions of tasks that were opened."),
		gcTasks:          counter(node+"gc_tasks_total", "Tasks that were forgotten since nobody used them."),
		gcPeers:          counter(node+"gc_peers_total", "Sessions of peers that ended."),
		gcDisks:          counter(node+"gc_disks_total", "Contents that were removed from the disk."),
		lastGCDisks:      prometheus.NewGauge(prometheus.GaugeOpts{Name: node + "last_gc_disks_timestamp_seconds", Help: "When contents were removed from the disk last."}),
		triggered:        counter(node+"cdn_trigger_total", "Times that the seed was told to prepare a task."),
		triggerFailed:    counter(node+"cdn_trigger_failed_total", "Times that the seed could not."),
		cacheHits:        counter(node+"cdn_cache_hit_total", "Versions that the seed held completely when they were opened."),
		downloads:        counter(node+"cdn_download_total", "Versions that the seed began or continued to read from the source."),
		downloadsFailed:  counter(node+"cdn_download_failed_total", "Versions that the seed gave up in the middle."),
		downloadedBytes:  counter(node+"cdn_download_size_bytes_total", "Bytes that the seed reported from the source."),
		seedPieceBytes:   counter(node+"pieces_downloaded_size_bytes_total", "Bytes that peers reported from the seed."),
		originBytes:      counter(node+"origin_bytes_total", "Bytes that the seed reported from the source."),
		seedEgress:       counter(node+"seed_egress_bytes_total", "Bytes of content that the seed's data port sent."),
		seedSaved:        counter(node+"seed_saved_bytes_total", "Of these, bytes that compression kept off the link."),
		seedCopied:       counter(node+"seed_copied_bytes_total", "Of these, bytes that passed through this process: the others the kernel sent from the file."),
		jobs:             vec(node+"dfgettasks_registered_total", "Registrations of jobs.", "callsystem"),
		jobsFailed:       vec(node+"dfgettasks_failed_total", "Registrations and jobs that failed by the source.", "callsystem"),
		bytes:            vec(node+"bytes_total", "Bytes that peers and the seed reported, by where they came from.", "from"),
		pieceFailures:    vec(node+"piece_failures_total", "Assignments that failed, by reason.", "reason"),
		verdicts:         vec(node+"verdicts_total", "Peers that were taken out of the books, by verdict.", "verdict"),
		peerDownloads:    vec(dfget+"download_total", "Downloads that peers completed.", "callsystem"),
		peerBytes:        vec(dfget+"download_size_bytes_total", "Bytes of completed downloads.", "callsystem"),
		peerFailures:     vec(dfget+"download_failed_total", "Downloads that failed by the source, by what it said.", "callsystem", "reason"),
		admissions:       vec(node+"admissions_total", "Registrations that were let in or not: it was known, the source was asked, it refused, it could not be asked.", "result"),
		syncDuration:     histogram(node+"sync_duration_seconds", "Time to take a report in, before it waits for work.", prometheus.ExponentialBuckets(0.00001, 4, 10)),
		scheduleDuration: histogram(node+"schedule_duration_milliseconds", "Time of one step of the scheduler.", prometheus.ExponentialBuckets(0.01, 2, 7)),
		peerDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: dfget + "download_duration_seconds",
			Help: "Time from the registration of a peer to its last piece.", Buckets: []float64{1, 2, 5, 10, 30, 60, 120, 300, 600}}, []string{"callsystem"}),
	}
	reg.MustRegister(m.lastGCDisks, m.peerDuration, collector{s})
	return m
}

// callSystem bounds the label.
func (m *metrics) callSystem(name string) string {
	if !m.systems[name] {
		if len(m.systems) >= maxCallSystems {
			return "other"
		}
		m.systems[name] = true
	}
	return name
}

func (m *metrics) registered(callSystem string) {
	m.jobs.WithLabelValues(m.callSystem(callSystem)).Inc()
}

// failed counts a job that failed by the source.
func (m *metrics) failed(callSystem string, kind dragonfly.Kind) {
	label := m.callSystem(callSystem)
	m.jobsFailed.WithLabelValues(label).Inc()
	m.peerFailures.WithLabelValues(label, kindLabel(kind)).Inc()
}

func (m *metrics) finished(callSystem string, took time.Duration, length int64) {
	label := m.callSystem(callSystem)
	m.peerDownloads.WithLabelValues(label).Inc()
	m.peerBytes.WithLabelValues(label).Add(float64(length))
	m.peerDuration.WithLabelValues(label).Observe(took.Seconds())
}

// received counts bytes that somebody got.
func (m *metrics) received(from dragonfly.ParentKind, n int64) {
	m.bytes.WithLabelValues(string(from)).Add(float64(n))
	switch from {
	case dragonfly.ParentSource:
		m.originBytes.Add(float64(n))
		m.downloadedBytes.Add(float64(n))
	case dragonfly.ParentSeed:
		m.seedPieceBytes.Add(float64(n))
	}
}

// failLabel keeps what peers send from growing the label beyond the list.
func failLabel(r dragonfly.FailReason) string {
	if r.Listed() {
		return string(r)
	}
	return "other"
}

// kindLabel keeps the label within what a source can say.
func kindLabel(k dragonfly.Kind) string {
	switch k {
	case dragonfly.NotFound, dragonfly.Unauthorized, dragonfly.Forbidden, dragonfly.SourceFailed, dragonfly.SourceChanged,
		dragonfly.Throttled, dragonfly.DigestMismatch, dragonfly.NoSpace, dragonfly.Invalid:
		return string(k)
	}
	return "other"
}

// SeedSent counts what the seed's data port sent; its server calls it.
func (s *Supernode) SeedSent(sent transfer.Sent) {
	s.metrics.seedEgress.Add(float64(sent.Bytes))
	s.metrics.seedCopied.Add(float64(sent.Copied))
	s.metrics.seedSaved.Add(float64(max(0, sent.Saved)))
}

// Swept counts contents that were removed from the disk; whoever sweeps it calls
// this.
func (s *Supernode) Swept(contents int) {
	s.metrics.gcDisks.Add(float64(contents))
	s.metrics.lastGCDisks.SetToCurrentTime()
}

// collector counts what is in the books when it is asked.
type collector struct{ s *Supernode }

var (
	peersDesc   = prometheus.NewDesc("dragonfly_supernode_peers", "Sessions of peers, the seed's included.", nil, nil)
	tasksDesc   = prometheus.NewDesc("dragonfly_supernode_tasks", "Tasks in the books, by the state of the seed's copy.", []string{"cdnstatus"}, nil)
	chargesDesc = prometheus.NewDesc("dragonfly_supernode_charges_total", "Bad pieces that a peer was found to have sent.", nil, nil)
	jobsDesc    = prometheus.NewDesc("dragonfly_supernode_dfgettasks", "Registrations of peers for tasks, by what they are doing.", []string{"callsystem", "status"}, nil)
)

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- peersDesc
	ch <- tasksDesc
	ch <- chargesDesc
	ch <- jobsDesc
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.s
	type job struct{ system, status string }
	tasks, jobs := map[string]int{}, map[job]int{}
	s.mu.Lock()
	peers, charges := len(s.sessions), s.machine.Counts().Charged
	for _, t := range s.tasks {
		tasks[s.status(t)]++
		for _, r := range t.regs {
			if !r.session.seed {
				jobs[job{s.metrics.callSystem(r.request.CallSystem), r.status()}]++
			}
		}
	}
	s.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(peersDesc, prometheus.GaugeValue, float64(peers))
	ch <- prometheus.MustNewConstMetric(chargesDesc, prometheus.CounterValue, float64(charges))
	for status, n := range tasks {
		ch <- prometheus.MustNewConstMetric(tasksDesc, prometheus.GaugeValue, float64(n), status)
	}
	for j, n := range jobs {
		ch <- prometheus.MustNewConstMetric(jobsDesc, prometheus.GaugeValue, float64(n), j.system, j.status)
	}
}

// status is v1's word for the state of the seed's copy of a task.
func (s *Supernode) status(t *task) string {
	switch v := t.current; {
	case v == nil && t.notFound != nil:
		return "SOURCEERROR"
	case v == nil:
		return "WAITING"
	case v.void:
		return "FAILED"
	default:
		if r := s.seedReg(t); r != nil && r.complete() {
			return "SUCCESS"
		}
		return "RUNNING"
	}
}

// status is v1's word for the state of a peer in a task.
func (r *registration) status() string {
	switch {
	case r.complete():
		return "SUCCESS"
	case r.wants:
		return "RUNNING"
	}
	return "WAITING"
}

// why is the scheduler's reason why a peer waits, "" if it does not.
func (s *Supernode) why(r *registration) sched.Reason {
	if !r.known || !r.waits() {
		return sched.WaitNothing
	}
	return s.machine.Why(r.version.handle, r.session.peer)
}
