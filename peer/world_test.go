// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
	"dragonfly/peer"
	"dragonfly/sched"
	"dragonfly/source"
	"dragonfly/store"
	"dragonfly/supernode"
	"dragonfly/transfer"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	// pieceLen is that of all contents up to 200 MiB.
	pieceLen = 4*mib - 5

	originHost = "origin"
	fileURL    = "http://origin/file"
	nodeA      = "10.0.0.1"
	nodeB      = "10.0.0.2"
)

// world is a swarm in memory and virtual time: one origin, supernodes with
// their seeds, and hosts. Everything in it but the network and the origin is
// the real thing.
type world struct {
	t      *testing.T
	dir    string
	net    *network
	origin *origin
	log    *slog.Logger

	mu       sync.Mutex // guards all below
	nodes    map[string]*node
	agents   int
	machines []*machine
}

// inWorld runs a test in a world of its own.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), net: newNetwork(), nodes: map[string]*node{}, log: slog.New(slog.DiscardHandler)}
		if os.Getenv("DRAGONFLY_TEST_LOG") != "" {
			w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		w.origin = w.newOrigin()
		test(t, w)
	})
}

// random is n reproducible bytes.
func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// serve runs an HTTP server on a host until the test ends.
func (w *world) serve(addr string, h http.Handler) (stop func()) {
	s := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	l := w.net.listen(addr)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	stop = sync.OnceFunc(func() {
		s.Close()
		wg.Wait()
	})
	w.t.Cleanup(stop)
	return stop
}

// until waits in virtual time until something is true.
func (w *world) until(what string, true func() bool) {
	w.t.Helper()
	for range 600_000 {
		if true() {
			return
		}
		<-time.After(time.Millisecond)
	}
	w.t.Fatalf("not within 10 minutes: %s", what)
}

// origin is where the contents come from.
type origin struct {
	mu       sync.Mutex // guards all below
	content  []byte
	etag     string
	modified time.Time
	plain    bool                                               // knows no ranges
	chunked  bool                                               // does not say its length
	handle   func(http.ResponseWriter, *http.Request) (ok bool) // answers by itself if ok
	cutAfter int                                                // breaks each body off there; 0: never
	sent     int64                                              // bytes of bodies
	asked    []string                                           // Range header of each request; "" for none
	hosts    []string                                           // that asked
}

func (w *world) newOrigin() *origin {
	o := &origin{content: random(1, 2*pieceLen+mib), etag: `"one"`}
	w.serve(originHost+":80", o)
	return o
}

// set changes the origin.
func (o *origin) set(change func(o *origin)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
}

// Sent is how many bytes of bodies left the origin.
func (o *origin) Sent() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent
}

// Asked is how many requests came.
func (o *origin) Asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.asked)
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.asked = append(o.asked, r.Header.Get("Range"))
	o.hosts = append(o.hosts, hostOf(r.RemoteAddr))
	content, etag, modified, plain, chunked, handle := o.content, o.etag, o.modified, o.plain, o.chunked, o.handle
	body := &body{ResponseWriter: w, o: o, left: o.cutAfter}
	o.mu.Unlock()
	if handle != nil && handle(body, r) {
		return
	}
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	switch {
	case chunked:
		if !modified.IsZero() {
			w.Header().Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
		}
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		io.Copy(body, bytes.NewReader(content))
	case plain:
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		io.Copy(body, bytes.NewReader(content))
	default:
		http.ServeContent(body, r, "", modified, bytes.NewReader(content))
	}
}

// body counts what is written, and breaks off where it is told to.
type body struct {
	http.ResponseWriter
	o    *origin
	left int
}

func (b *body) Write(p []byte) (int, error) {
	limited := b.left > 0
	if limited && len(p) >= b.left {
		b.count(b.ResponseWriter.Write(p[:b.left]))
		http.NewResponseController(b.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	if limited {
		b.left -= len(p)
	}
	return b.count(b.ResponseWriter.Write(p))
}

func (b *body) count(n int, err error) (int, error) {
	b.o.mu.Lock()
	defer b.o.mu.Unlock()
	b.o.sent += int64(n)
	return n, err
}

// machine is a process with an engine: a host's agent or a seed.
type machine struct {
	w       *world
	ip      string
	dir     string
	store   *store.Store
	source  *source.Client
	parents *transfer.Client
	engine  *peer.Engine
	stop    func() // of the data port

	mu      sync.Mutex // guards all below
	dead    bool
	jobs    int
	reports []dragonfly.Event // all that it told supernodes
	history strings.Builder   // that and what it was given, in words
	given   map[dragonfly.AssignmentID]dragonfly.Assignment
	answers func() // called between a registration and its answer
}

// options of a machine; zero values stand for the usual.
type options struct {
	dial    func(dragonfly.Member) dragonfly.Tracker
	quota   dragonfly.Size
	receive dragonfly.Rate
	send    dragonfly.Rate
	source  peer.Source
	stall   time.Duration
	boot    string // of the kernel
}

// machine starts an engine on a directory, which may be of an earlier one.
func (w *world) machine(ip, dir string, o options) *machine {
	w.t.Helper()
	w.mu.Lock()
	w.agents++
	agent := sha256.Sum256(fmt.Append(nil, ip, w.agents))
	w.mu.Unlock()
	m := &machine{w: w, ip: ip, dir: dir, given: map[dragonfly.AssignmentID]dragonfly.Assignment{}}
	w.mu.Lock()
	w.machines = append(w.machines, m)
	w.mu.Unlock()
	var err error
	m.store, err = store.Open(store.Options{Dir: dir, BootID: cmp.Or(o.boot, "this boot"), HostName: "this host", Quota: o.quota, Log: w.log})
	if err != nil {
		w.t.Fatal(err)
	}
	m.source = source.New(source.Options{Dial: w.net.dialer(ip)})
	m.parents = transfer.New(transfer.ClientOptions{Dial: w.net.dialer(ip), Stall: o.stall})
	if o.dial == nil {
		o.dial = func(n dragonfly.Member) dragonfly.Tracker { return line{m, n} }
	}
	config := peer.Config{
		Store: m.store, Source: m.source, Parents: m.parents, Dial: o.dial, Log: w.log.With("at", ip),
		Hello: func() dragonfly.Hello {
			return dragonfly.Hello{Protocol: dragonfly.ProtocolNumber, Agent: hex.EncodeToString(agent[:16]),
				Host: dragonfly.Host{Name: ip}, Addrs: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(ip), 15000)}}
		},
	}
	if o.source != nil {
		config.Source = o.source
	}
	if o.receive > 0 {
		config.Receive = peer.NewLimiter(o.receive)
	}
	m.engine = peer.New(config)
	data := &transfer.Server{Shelf: m.engine.Shelf(), Sessions: m.engine.Sessions, Limit: peer.NewLimiter(o.send), Log: w.log}
	m.stop = w.serve(net.JoinHostPort(ip, "15000"), data)
	w.t.Cleanup(m.close)
	return m
}

// host starts the agent of a host with an empty store.
func (w *world) host(ip string) *machine { return w.machine(ip, filepath.Join(w.dir, ip), options{}) }

// hosts starts n agents.
func (w *world) hosts(n int) []*machine {
	out := make([]*machine, n)
	for i := range out {
		out[i] = w.host(fmt.Sprintf("10.0.1.%d", i+1))
	}
	return out
}

// close ends a machine in good order. It may be called twice.
func (m *machine) close() {
	if err := m.engine.Close(); err != nil {
		m.w.t.Errorf("close the engine of %s: %v", m.ip, err)
	}
	m.stop()
	m.parents.Close()
	m.source.Close()
	if err := m.store.Close(); err != nil {
		m.w.t.Errorf("close the store of %s: %v", m.ip, err)
	}
}

// kill is kill -9: nobody hears of it, and dir is what is left on the disk.
func (m *machine) kill() (dir string) {
	m.w.t.Helper()
	synctest.Wait()
	dir = m.dir + "+"
	if err := snapshot(dir, m.dir); err != nil {
		m.w.t.Fatal(err)
	}
	m.mu.Lock()
	m.dead = true
	m.mu.Unlock()
	m.w.net.cut(m.ip, true)
	m.close()
	m.w.net.cut(m.ip, false)
	return dir
}

// snapshot copies a directory, times included: the store knows its files by
// them.
func snapshot(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return os.Chtimes(filepath.Join(to, strings.TrimPrefix(path, from)), info.ModTime(), info.ModTime())
	})
}

// restart starts an engine on what another one left.
func (m *machine) restart(dir string) *machine {
	m.w.t.Helper()
	return m.w.machine(m.ip, dir, options{})
}

// told are the events that a machine reported so far.
func (m *machine) told() []dragonfly.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.reports)
}

// note adds a line to the history. m.mu is held.
func (m *machine) note(format string, args ...any) {
	fmt.Fprintf(&m.history, "%s %s "+format+"\n", append([]any{time.Now().Format("04:05.000"), m.ip}, args...)...)
}

// failures are the assignments that a machine reported as failed, for another
// reason than having been cancelled.
func (m *machine) failures() (out []dragonfly.Event) {
	for _, ev := range m.told() {
		if ev.Kind == dragonfly.EventFailed && ev.Reason != dragonfly.FailCanceled {
			out = append(out, ev)
		}
	}
	return out
}

// assignment is one that a machine was given.
func (m *machine) assignment(id dragonfly.AssignmentID) dragonfly.Assignment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.given[id]
}

// job is the usual wish: the origin's file through the swarm of some nodes.
func job(nodes ...*node) peer.Job {
	j := peer.Job{ID: "job", Pattern: peer.PatternP2P, Request: dragonfly.Request{URL: fileURL}}
	for _, n := range nodes {
		j.Nodes = append(j.Nodes, n.member)
	}
	return j
}

// start begins a job; one without an ID gets one of its own.
func (m *machine) start(j peer.Job) *peer.Download {
	m.w.t.Helper()
	if j.ID == "job" {
		m.mu.Lock()
		m.jobs++
		j.ID = dragonfly.JobID(fmt.Sprint(m.ip, "-", m.jobs))
		m.mu.Unlock()
	}
	d, err := m.engine.Start(context.Background(), j)
	if err != nil {
		m.w.t.Fatal(err)
	}
	return d
}

// wait is a download's outcome.
func (w *world) wait(d *peer.Download) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return d.Wait(ctx)
}

// state is what the supernodes say about the usual task.
func (w *world) state() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var text strings.Builder
	for addr, n := range w.nodes {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/p2p/v1/state/tasks/"+job().Request.TaskID().String(), nil)
		n.sn.Admin().ServeHTTP(rec, r)
		fmt.Fprintf(&text, "%s: %s\n", addr, rec.Body)
	}
	for _, m := range w.machines {
		m.mu.Lock()
		text.WriteString(m.history.String())
		m.mu.Unlock()
	}
	return text.String()
}

// succeed waits for a download and compares its bytes.
func (w *world) succeed(d *peer.Download, want []byte) {
	w.t.Helper()
	if err := w.wait(d); err != nil {
		w.t.Fatalf("the download failed: %v; %s", err, w.state())
	}
	f, err := d.File()
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		w.t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		w.t.Fatalf("the download has %d bytes that are not the %d bytes of the origin", len(got), len(want))
	}
}

// received is how many bytes a job got from anywhere.
func received(p peer.Progress) int64 { return p.FromSource + p.FromSeed + p.FromPeers }

// node is a supernode and its seed, joined as the command does it.
type node struct {
	w      *world
	boot   string // of the kernel
	member dragonfly.Member
	ip     string

	mu     sync.Mutex // guards all below
	sn     *supernode.Supernode
	seed   *machine
	life   int  // how often it was started
	down   bool // refuses connections
	silent bool // accepts, never answers
	halt   func()
	dir    string
	quota  dragonfly.Size // of the seed from the next start on
}

// node starts a supernode.
func (w *world) node(ip string) *node {
	w.t.Helper()
	addr := net.JoinHostPort(ip, "8002")
	n := &node{w: w, ip: ip, member: dragonfly.Member{ID: addr, Addr: addr, Weight: 1}, dir: filepath.Join(w.dir, ip)}
	w.mu.Lock()
	w.nodes[addr] = n
	w.mu.Unlock()
	n.start()
	w.t.Cleanup(n.stop)
	return n
}

func (n *node) start() {
	n.w.t.Helper()
	var sn *supernode.Supernode
	var seed *machine
	seed = n.w.machine(n.ip, n.dir, options{quota: n.quota, boot: n.boot,
		dial: func(dragonfly.Member) dragonfly.Tracker { return house{sn.SeedTracker(), &seed} }})
	sn = supernode.New(supernode.Config{Self: n.member, Sched: sched.Config{Seed: 1}, Log: n.w.log.With("node", n.ip)}, seed.engine.Seed(n.member))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { sn.Run(ctx) })
	if err := seed.engine.Seed(n.member).Open(ctx); err != nil {
		n.w.t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sn, n.seed, n.down = sn, seed, false
	n.life++
	n.halt = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
}

// stop ends the supernode and its seed. It may be called twice.
func (n *node) stop() {
	n.mu.Lock()
	seed, halt := n.seed, n.halt
	n.down = true
	n.mu.Unlock()
	halt()
	seed.close()
}

// kill is kill -9; the seed's bytes are kept for the next start.
func (n *node) kill() {
	n.w.t.Helper()
	n.mu.Lock()
	n.down = true
	n.mu.Unlock()
	dir := n.seed.kill()
	n.halt()
	n.mu.Lock()
	n.dir = dir
	n.mu.Unlock()
}

// mute makes the supernode accept connections and never answer.
func (n *node) mute(silent bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent = silent
}

// recorder notes what is said in a session.
type recorder struct {
	dragonfly.Session
	m *machine
}

func (r recorder) Sync(ctx context.Context, report dragonfly.Report) (dragonfly.Work, error) {
	r.m.mu.Lock()
	r.m.reports = append(r.m.reports, report.Events...)
	for _, ev := range report.Events {
		r.m.note("told %d: %s %d of piece %d: %s at %d %v", report.Seq, ev.Kind, ev.Assignment, ev.Piece, ev.Reason, ev.Offset, ev.Failure)
	}
	r.m.mu.Unlock()
	work, err := r.Session.Sync(ctx, report)
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	for _, a := range work.Assignments {
		r.m.given[a.ID] = a
		r.m.note("given %d: %d %v of piece %d from %s %v", work.Seq, a.ID, a.Span, a.Piece, a.Parent.Kind, a.Parent.Addrs)
	}
	for _, c := range work.Cancellations {
		r.m.note("drops %d: %v", work.Seq, c)
	}
	return work, err
}

// house is the way from a seed to its supernode.
type house struct {
	dragonfly.Tracker
	m **machine
}

func (h house) Open(ctx context.Context, hello dragonfly.Hello) (dragonfly.Session, error) {
	s, err := h.Tracker.Open(ctx, hello)
	return recorder{s, *h.m}, err
}

// line is the way from a machine to a supernode: as HTTP, but in process.
type line struct {
	m      *machine
	member dragonfly.Member
}

func unreachable(what string) error {
	return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the supernode " + what}
}

// call does something at the supernode if it can be reached, a moment later;
// life is that of the supernode's process which must answer, 0 for any.
func (l line) call(ctx context.Context, life int, do func(ctx context.Context, n *node) error) error {
	select {
	case <-time.After(l.m.w.net.latency):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l.m.w.mu.Lock()
	n := l.m.w.nodes[l.member.Addr]
	l.m.w.mu.Unlock()
	if n == nil {
		return unreachable("does not exist")
	}
	lost := func() error {
		n.mu.Lock()
		down, silent, now := n.down, n.silent, n.life
		n.mu.Unlock()
		l.m.mu.Lock()
		dead := l.m.dead
		l.m.mu.Unlock()
		switch {
		case dead || down:
			return unreachable("cannot be reached")
		case silent:
			<-ctx.Done()
			return unreachable("does not answer")
		case life != 0 && life != now:
			return &dragonfly.Error{Kind: dragonfly.UnknownSession, Message: "the supernode does not know this session"}
		}
		return nil
	}
	if err := lost(); err != nil {
		return err
	}
	err := do(dragonfly.WithRemoteAddr(ctx, ip(l.m.ip)), n)
	if broken := lost(); broken != nil {
		return broken
	}
	return err
}

func (l line) Open(ctx context.Context, hello dragonfly.Hello) (s dragonfly.Session, err error) {
	err = l.call(ctx, 0, func(ctx context.Context, n *node) error {
		n.mu.Lock()
		sn, life := n.sn, n.life
		n.mu.Unlock()
		inner, err := sn.Open(ctx, hello)
		s = session{l, recorder{inner, l.m}, life}
		return err
	})
	return s, err
}

// session is a session over a line.
type session struct {
	line
	dragonfly.Session
	life int
}

func (s session) Register(ctx context.Context, r dragonfly.Registration) (info dragonfly.TaskInfo, err error) {
	err = s.call(ctx, s.life, func(ctx context.Context, _ *node) error {
		info, err = s.Session.Register(ctx, r)
		s.m.mu.Lock()
		late := s.m.answers
		s.m.mu.Unlock()
		if late != nil {
			late()
		}
		return err
	})
	return info, err
}

func (s session) Sync(ctx context.Context, r dragonfly.Report) (work dragonfly.Work, err error) {
	err = s.call(ctx, s.life, func(ctx context.Context, _ *node) error {
		work, err = s.Session.Sync(ctx, r)
		return err
	})
	return work, err
}

func (s session) Close(ctx context.Context, reason string) error {
	return s.call(ctx, s.life, func(ctx context.Context, _ *node) error { return s.Session.Close(ctx, reason) })
}

// watcher records what an observer is told.
type watcher struct {
	mu        sync.Mutex // guards all below
	pieces    []peer.PieceDone
	failed    []dragonfly.FailReason
	fallbacks []int
	migrated  []dragonfly.Member
	tried     []string // supernodes that were asked, with the outcome
}

var _ peer.Observer = (*watcher)(nil)

func (o *watcher) note(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

func (o *watcher) Registered(n dragonfly.Member, _ dragonfly.TaskInfo, _ time.Duration, err error) {
	o.note(func() { o.tried = append(o.tried, hostOf(n.Addr)) })
}
func (o *watcher) Piece(p peer.PieceDone) { o.note(func() { o.pieces = append(o.pieces, p) }) }
func (o *watcher) PieceFailed(_ peer.PieceDone, r dragonfly.FailReason, _ error) {
	o.note(func() { o.failed = append(o.failed, r) })
}
func (o *watcher) Fallback(reason int, _ error) {
	o.note(func() { o.fallbacks = append(o.fallbacks, reason) })
}
func (o *watcher) Migrated(n dragonfly.Member) {
	o.note(func() { o.migrated = append(o.migrated, n) })
}
