// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
	"dragonfly/peer"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// block is the piece length of contents in tests: such pieces are never parted.
const block = dragonfly.BlockLen

// world is a supernode in virtual time, with a seed and sources in memory.
type world struct {
	*testing.T
	cfg   Config
	sn    *Supernode // changed under net.mu
	seed  *seed
	logs  *bytes.Buffer // slog's handler locks
	reg   *prometheus.Registry
	ctx   context.Context
	swarm *sync.WaitGroup
	stop  func() // the supernode, and waits for it
	net   *network
	hosts byte
}

// inTime runs body beside a supernode in virtual time. All that it starts has
// ended when it returns.
func inTime(t *testing.T, change func(*Config), body func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, logs: &bytes.Buffer{}, net: &network{agents: map[dragonfly.SessionID]*agent{}}}
		cfg := Config{
			Self: dragonfly.Member{ID: "sn1", Addr: "10.0.0.1:8002", Weight: 1},
			Log:  slog.New(slog.NewTextHandler(w.logs, nil)),
		}
		if change != nil {
			change(&cfg)
		}
		w.seed = &seed{w: w, sources: map[string]*origin{}, tickets: map[dragonfly.Version]dragonfly.Ticket{}, news: make(chan struct{})}
		w.cfg, w.swarm = cfg, &sync.WaitGroup{}
		alive, kill := context.WithCancel(t.Context())
		w.ctx = alive
		w.boot()
		defer func() { kill(); w.stop(); w.swarm.Wait() }()
		w.seed.agent = newAgent(w, 100, 1)
		w.seed.agent.seed = w.seed
		w.seed.agent.start()
		synctest.Wait() // for its first sync
		body(w)
	})
}

// boot starts the supernode, or the next one after a stop, which knows nothing.
func (w *world) boot() {
	w.reg = prometheus.NewRegistry()
	w.cfg.Metrics = w.reg
	sn := New(w.cfg, w.seed)
	w.net.mu.Lock()
	w.sn = sn
	w.net.mu.Unlock()
	ctx, cancel := context.WithCancel(w.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := sn.Run(ctx); err != nil {
			w.Errorf("run: %v", err)
		}
	})
	w.stop = func() { cancel(); running.Wait() }
}

// tracker is where the peers of a world open their sessions now.
func (w *world) tracker(seed bool) dragonfly.Tracker {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	if seed {
		return w.sn.SeedTracker()
	}
	return w.sn
}

// wait lets virtual time pass.
func (w *world) wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// source makes a content of whole pieces at a new source and returns its URL.
func (w *world) source(name string, pieces int) (string, *origin) {
	o := &origin{version: versionOf(name), pieces: pieces, known: true}
	url := "http://origin.test/" + name
	w.seed.mu.Lock()
	w.seed.sources[url] = o
	w.seed.mu.Unlock()
	return url, o
}

// change changes what a source says.
func (w *world) change(o *origin, f func(*origin)) {
	w.seed.mu.Lock()
	defer w.seed.mu.Unlock()
	f(o)
	close(w.seed.news)
	w.seed.news = make(chan struct{})
}

func versionOf(name string) (v dragonfly.Version) {
	sum := sha256.Sum256([]byte(name))
	copy(v[:], sum[:])
	return v
}

// digestOf is the digest of a piece of a content that has no bytes.
func digestOf(v dragonfly.Version, n dragonfly.PieceNum) dragonfly.PieceDigest {
	return sha256.Sum256(binary.BigEndian.AppendUint32(v[:], uint32(n)))
}

func request(url string) dragonfly.Request { return dragonfly.Request{URL: url} }

func taskOf(url string) dragonfly.TaskID { return request(url).TaskID() }

// origin is a source in memory.
type origin struct {
	version dragonfly.Version
	pieces  int
	length  int64         // 0: whole pieces
	known   bool          // the length
	fail    error         // what Prepare says instead
	broken  error         // what reading says instead
	held    bool          // the seed has it from before
	latency time.Duration // of Prepare
	pace    time.Duration // of one piece
	asked   int           // Prepare was called so often
	reads   map[dragonfly.PieceNum]int
	header  dragonfly.Header // of the last Prepare
	from    peer.Known       // of the last Prepare
}

func (o *origin) layout() dragonfly.Layout {
	l := dragonfly.Layout{Length: dragonfly.UnknownLength, PieceLen: block}
	if o.known {
		l.Length = o.length
		if l.Length == 0 {
			l.Length = int64(o.pieces) * block
		}
	}
	return l
}

// seed is the Seed of the world: its contents have digests but no bytes. Its
// session is an agent's.
type seed struct {
	w     *world
	agent *agent

	mu        sync.Mutex
	sources   map[string]*origin
	news      chan struct{} // closed when a source changed
	tickets   map[dragonfly.Version]dragonfly.Ticket
	forgotten []dragonfly.TaskID
	forgets   time.Duration                                  // that Forget takes
	allowed   func(context.Context, dragonfly.Request) error // nil: everything is
}

var _ Seed = (*seed)(nil)

func (s *seed) Prepare(ctx context.Context, r dragonfly.Request, known peer.Known) (peer.Prepared, error) {
	s.mu.Lock()
	o := s.sources[r.URL]
	s.mu.Unlock()
	if o == nil {
		return peer.Prepared{}, &dragonfly.Error{Kind: dragonfly.NotFound, Status: 404, Message: "no such source"}
	}
	s.mu.Lock()
	o.asked++
	o.header, o.from = r.Header, known
	latency := o.latency
	s.mu.Unlock()
	select {
	case <-time.After(latency):
	case <-ctx.Done():
		return peer.Prepared{}, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.fail != nil {
		return peer.Prepared{}, o.fail
	}
	p := peer.Prepared{Task: r.TaskID(), Version: o.version, Layout: o.layout(), Asked: true}
	if o.held {
		s.agent.own(p.Task, o.version, p.Layout.Pieces())
	}
	p.Held = s.agent.holds(p.Task, o.version)
	for n := range p.Held.All() {
		p.Manifest = append(p.Manifest, make([]dragonfly.PieceDigest, int(n)+1-len(p.Manifest))...)
		p.Manifest[n] = digestOf(o.version, n)
	}
	return p, nil
}

func (s *seed) Allowed(ctx context.Context, r dragonfly.Request) error {
	s.mu.Lock()
	allowed := s.allowed
	s.mu.Unlock()
	if allowed == nil {
		return nil
	}
	return allowed(ctx, r)
}

func (s *seed) Inline(task dragonfly.TaskID, v dragonfly.Version) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for url, o := range s.sources {
		if taskOf(url) == task && o.version == v && o.held {
			return bytes.Repeat([]byte{'x'}, int(o.layout().Length)), true
		}
	}
	return nil, false
}

func (s *seed) Admit(info dragonfly.TaskInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tickets[info.Version] = info.Ticket
}

func (s *seed) Forget(task dragonfly.TaskID) {
	<-time.After(s.forgets)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgotten = append(s.forgotten, task)
}

// read reads one piece from the source. Behind its end it gives the length of
// the content, else 0.
func (s *seed) read(ctx context.Context, a dragonfly.Assignment) (length int64, err error) {
	s.mu.Lock()
	var o *origin
	for url, x := range s.sources {
		if taskOf(url) == a.Task && x.version == a.Version {
			o = x
		}
	}
	if o == nil {
		s.mu.Unlock()
		return 0, &dragonfly.Error{Kind: dragonfly.SourceChanged, Message: "the content changed"}
	}
	pace := o.pace
	if int(a.Piece) >= o.pieces {
		pace *= 20 // the end shows late
	}
	s.mu.Unlock()
	select {
	case <-time.After(pace):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case o.broken != nil:
		return 0, o.broken
	case int(a.Piece) >= o.pieces:
		return int64(o.pieces) * block, nil
	}
	if o.reads == nil {
		o.reads = map[dragonfly.PieceNum]int{}
	}
	o.reads[a.Piece]++
	return 0, nil
}

// asked is how often the seed asked the source.
func (w *world) asked(o *origin) int {
	w.seed.mu.Lock()
	defer w.seed.mu.Unlock()
	return o.asked
}

// reads is how many pieces were read, and how often at most one was.
func (w *world) reads(o *origin) (pieces, most int) {
	w.seed.mu.Lock()
	defer w.seed.mu.Unlock()
	if len(o.reads) > 0 {
		most = slices.Max(slices.Collect(maps.Values(o.reads)))
	}
	return len(o.reads), most
}

// hello introduces the n-th host of the test: its agent and its address.
func hello(n byte) (context.Context, dragonfly.Hello) {
	ip := netip.AddrFrom4([4]byte{10, 0, 0, n})
	return dragonfly.WithRemoteAddr(context.Background(), ip), dragonfly.Hello{
		Protocol: dragonfly.ProtocolNumber, Agent: fmt.Sprintf("%032x", n), Build: "test",
		Host:  dragonfly.Host{Name: fmt.Sprintf("host%d", n), Zone: "z"},
		Addrs: []netip.AddrPort{netip.AddrPortFrom(ip, 15000)},
	}
}

// client is a peer that does what the test says.
type client struct {
	*world
	dragonfly.Session
	host byte
	seq  uint64
	ack  uint64
	last *pending
}

// peer opens a session from a new host.
func (w *world) peer() *client {
	w.Helper()
	w.hosts++
	return w.peerAt(w.hosts + 10)
}

func (w *world) peerAt(host byte) *client {
	w.Helper()
	ctx, h := hello(host)
	s, err := w.sn.Open(ctx, h)
	if err != nil {
		w.Fatalf("open: %v", err)
	}
	return &client{world: w, Session: s, host: host}
}

func (p *client) job() dragonfly.JobID { return dragonfly.JobID(fmt.Sprintf("10.0.0.%d-1", p.host)) }

// wants is a registration for a URL.
func (p *client) wants(url string) dragonfly.Registration {
	return dragonfly.Registration{Job: p.job(), Request: request(url), Serve: true}
}

// has is a registration of who holds pieces 0 to n-1 of a version.
func (p *client) has(url string, o *origin, n int) dragonfly.Registration {
	r := p.wants(url)
	r.Version, r.Layout, r.Held = o.version, o.layout(), dragonfly.NewPieceSet(n)
	return r
}

func (p *client) register(r dragonfly.Registration) dragonfly.TaskInfo {
	p.Helper()
	info, err := p.Register(p.T.Context(), r)
	if err != nil {
		p.Fatalf("register: %v", err)
	}
	return info
}

// fails is the kind of the error that a registration gets.
func (p *client) fails(r dragonfly.Registration) dragonfly.Kind {
	p.Helper()
	info, err := p.Register(p.T.Context(), r)
	if err == nil {
		p.Fatalf("registered: %+v", info)
	}
	return dragonfly.KindOf(err)
}

// report is the next report with all that came acknowledged.
func (p *client) report(events ...dragonfly.Event) dragonfly.Report {
	p.seq++
	return dragonfly.Report{Seq: p.seq, Ack: p.ack, Free: 32, Events: events}
}

// send sends a report and waits for the answer, which it acknowledges next time.
func (p *client) send(r dragonfly.Report) dragonfly.Work {
	p.Helper()
	work, err := p.Sync(p.T.Context(), r)
	if err != nil {
		p.Fatalf("sync: %v", err)
	}
	p.ack = max(p.ack, work.Seq)
	return work
}

func (p *client) sync(events ...dragonfly.Event) dragonfly.Work {
	p.Helper()
	return p.send(p.report(events...))
}

// later is a sync that waits in the background.
func (p *client) later(r dragonfly.Report) *pending {
	x := &pending{done: make(chan struct{})}
	p.last = x
	go func() {
		x.work, x.err = p.Sync(p.T.Context(), r)
		close(x.done)
	}()
	synctest.Wait()
	return x
}

// next is what the peer is told now: by the sync that waits in the background,
// or by a new one, which is left waiting if there is nothing.
func (p *client) next() (dragonfly.Work, bool) {
	p.Helper()
	synctest.Wait()
	x := p.last
	if x == nil || x.taken || !x.over() {
		x = p.later(p.report())
	}
	if !x.over() {
		return dragonfly.Work{}, false
	}
	if x.err != nil {
		p.Fatalf("sync: %v", x.err)
	}
	x.taken = true
	p.ack = max(p.ack, x.work.Seq)
	return x.work, true
}

type pending struct {
	done  chan struct{}
	work  dragonfly.Work
	err   error
	taken bool
}

func (x *pending) over() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// about is an event about an assignment.
func about(kind dragonfly.EventKind, a dragonfly.Assignment) dragonfly.Event {
	return dragonfly.Event{Kind: kind, Task: a.Task, Version: a.Version, Piece: a.Piece, Assignment: a.ID}
}

func failure(a dragonfly.Assignment, why dragonfly.FailReason) dragonfly.Event {
	e := about(dragonfly.EventFailed, a)
	e.Reason, e.Offset = why, a.Span.From
	return e
}

// detail is the state of a task.
func (w *world) detail(url string) TaskDetail {
	w.Helper()
	synctest.Wait()
	d, ok := w.sn.Task(taskOf(url))
	if !ok {
		w.Fatalf("no task %s", url)
	}
	return d
}

// seen is the state of a peer in a task.
func (p *client) seen(url string) TaskPeer {
	p.Helper()
	for _, x := range p.detail(url).Everyone {
		if x.Host == fmt.Sprintf("host%d", p.host) {
			return x
		}
	}
	p.Fatalf("%s: host %d is not there", url, p.host)
	return TaskPeer{}
}

// scrape is the text of all metrics.
func (w *world) scrape() string {
	synctest.Wait()
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(w.reg, promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	return rec.Body.String()
}

// metric is the value of one series as it stands in the text; "" if missing.
func (w *world) metric(series string) string {
	for line := range strings.Lines(w.scrape()) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// number is a metric that must be there.
func (w *world) number(series string) float64 {
	w.Helper()
	n, err := strconv.ParseFloat(w.metric(series), 64)
	if err != nil {
		w.Errorf("%s: %v", series, err)
	}
	return n
}

// same compares what has fields of its own.
var same = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})

func kindOf(err error) dragonfly.Kind {
	if err == nil {
		return "no error"
	}
	return dragonfly.KindOf(err)
}
