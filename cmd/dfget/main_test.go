// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dragonfly"
	"dragonfly/peer"
	"dragonfly/source"
	"dragonfly/store"
	"dragonfly/supernode"
	"dragonfly/transfer"
	"dragonfly/wire"
)

// tempVariable makes the test program a dfget that looks for agents there.
const tempVariable = "DFGET_TEST_TEMP"

// TestMain is dfget itself where a test runs one in a process of its own.
func TestMain(m *testing.M) {
	if temp := os.Getenv(tempVariable); temp != "" {
		ctx, stop := signals()
		code := run(ctx, os.Args, surroundings{os.Stdin, os.Stdout, os.Stderr, os.LookupEnv, settingsPath + ".none", iniPath + ".none", temp})
		stop()
		os.Exit(code)
	}
	if len(os.Args) > 1 && os.Args[1] == "server" {
		os.Exit(3) // an agent of a test that has no host: it would be this test again
	}
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(m.Run())
}

// host is one machine's account with its own home.
type host struct {
	t    *testing.T
	dir  string // everything below, unknown to dfget
	home string
	temp string // short, for sockets
	env  map[string]string
	// settings and ini are files that need not exist.
	settings, ini string
}

func newHost(t *testing.T) *host {
	t.Helper()
	temp, err := os.MkdirTemp("", "df") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	dir := t.TempDir()
	h := &host{t: t, dir: dir, home: filepath.Join(dir, "home"), temp: temp, env: map[string]string{},
		settings: filepath.Join(dir, "dfget.yml"), ini: filepath.Join(dir, "dragonfly.conf")}
	t.Setenv(tempVariable, temp) // for an agent in a process of its own
	t.Cleanup(h.endAgent)
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) surroundings(out, err *os.File) surroundings {
	return surroundings{in: nil, out: out, err: err, settings: h.settings, ini: h.ini, temp: h.temp,
		lookup: func(name string) (string, bool) { v, ok := h.env[name]; return v, ok }}
}

// said is how a run of dfget ended and what it printed.
type said struct {
	status   int
	out, err string
}

// dfget runs a command line in this process.
func (h *host) dfget(args ...string) said { return h.dfgetUntil(h.t.Context(), args...) }

func (h *host) dfgetUntil(ctx context.Context, args ...string) said {
	h.t.Helper()
	out, err := h.file(), h.file()
	defer out.Close()
	defer err.Close()
	status := run(ctx, append([]string{"dfget"}, args...), h.surroundings(out, err))
	return said{status, contentOf(h.t, out), contentOf(h.t, err)}
}

// get downloads with this host's home.
func (h *host) get(args ...string) said {
	return h.dfget(append([]string{"--home", h.home}, args...)...)
}

func (h *host) file() *os.File {
	f, err := os.CreateTemp(h.temp, "said")
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

func contentOf(t *testing.T, f *os.File) string {
	t.Helper()
	text, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// serve runs "dfget server" in this process until the test or stop ends it.
func (h *host) serve(args ...string) (port int, stop func()) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	complaints := h.file()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, append([]string{"dfget", "server", "--home", h.home}, args...), h.surroundings(w, complaints))
		w.Close()
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if status := <-ended; status != 0 {
			h.t.Errorf("dfget server: exit status %d: %s", status, contentOf(h.t, complaints))
		}
		complaints.Close()
	})
	h.t.Cleanup(stop)
	line, err := bufio.NewReader(r).ReadString('\n')
	r.Close()
	if err != nil {
		h.t.Fatalf("no ready line: %v: %s", err, contentOf(h.t, complaints))
	}
	number, ok := strings.CutPrefix(strings.TrimSpace(line), readyLine)
	if port, err = strconv.Atoi(number); !ok || err != nil {
		h.t.Fatalf("the ready line is %q, %v", line, contentOf(h.t, complaints))
	}
	return port, stop
}

// endAgent ends the agent that was started in a process of its own, if any.
func (h *host) endAgent() {
	place, err := h.surroundings(nil, nil).place(h.home)
	if err != nil {
		return // no home, no agent
	}
	pid := agentOf(place.Sockets)
	if pid > 0 {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	lock, err := place.Own(ctx.Done()) // it lets go of it when it ends
	if err != nil {
		h.t.Errorf("the agent %d does not end: %v", pid, err)
		return
	}
	lock.Release()
}

// agentOf is the process that listens at one of the sockets.
func agentOf(sockets []string) int {
	for _, path := range sockets {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			continue
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			continue
		}
		pid := 0
		_ = raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				pid = int(cred.Pid)
			}
		})
		return pid
	}
	return 0
}

// log is the file of all downloads.
func (h *host) log() string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.home, "logs", "dfclient.log"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// isContent compares a file.
func (h *host) isContent(path string, want []byte) {
	h.t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		h.t.Errorf("%s: %d bytes, %v; want %d", path, len(got), err, len(want))
	}
}

// only says that a directory holds these names and no others.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(names)
	if !slices.Equal(got, names) {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

// origin is a source with one content under every path.
type origin struct {
	*httptest.Server
	content []byte
	asked   atomic.Int64
	header  atomic.Pointer[http.Header] // of the last request
	status  atomic.Int64                // answered instead of the content
	held    atomic.Pointer[gate]        // if set, the second half waits
}

// gate is what a body waits for in the middle.
type gate struct {
	open    chan struct{}
	reached chan struct{} // closed when somebody waits
}

// hold makes bodies wait in the middle until open is closed.
func (o *origin) hold() *gate {
	g := &gate{make(chan struct{}), make(chan struct{})}
	o.held.Store(g)
	return g
}

func bytesOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func newOrigin(t *testing.T, size int) *origin {
	t.Helper()
	o := &origin{content: bytesOf(size)}
	o.Server = httptest.NewServer(o)
	t.Cleanup(o.Close)
	return o
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.asked.Add(1)
	header := r.Header.Clone()
	o.header.Store(&header)
	if status := int(o.status.Load()); status != 0 {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("ETag", `"1"`)
	g := o.held.Load()
	if g == nil {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(o.content))
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(o.content)))
	half := len(o.content) / 2
	_, _ = w.Write(o.content[:half])
	_ = http.NewResponseController(w).Flush()
	select {
	case <-g.reached:
	default:
		close(g.reached)
	}
	select {
	case <-g.open:
		_, _ = w.Write(o.content[half:])
	case <-r.Context().Done():
	}
}

// supernodeAt runs a supernode with its seed in this process and gives the
// address of its control port.
func supernodeAt(t *testing.T) string {
	t.Helper()
	control, data := listen(t), listen(t)
	self := dragonfly.Member{ID: control.Addr().String(), Addr: control.Addr().String(), Weight: 1}
	contents, err := store.Open(store.Options{Dir: t.TempDir(), BootID: "b", HostName: "h", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 16)
	rand.Read(id) // never fails
	var sn *supernode.Supernode
	parents := transfer.New(transfer.ClientOptions{})
	engine := peer.New(peer.Config{
		Store: contents, Source: source.New(source.Options{}), Parents: parents, Receive: peer.NewLimiter(0), Log: quiet,
		Dial: func(dragonfly.Member) dragonfly.Tracker { return sn.SeedTracker() },
		Hello: func() dragonfly.Hello {
			return dragonfly.Hello{Protocol: dragonfly.ProtocolNumber, Agent: hex.EncodeToString(id), Host: dragonfly.Host{Name: "h"},
				Addrs: []netip.AddrPort{netip.MustParseAddrPort(data.Addr().String())}}
		},
	})
	sn = supernode.New(supernode.Config{Self: self, Log: quiet}, engine.Seed(self))
	if err := engine.Seed(self).Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	api := wire.NewServer(sn, wire.ServerOptions{Log: quiet})
	mux := http.NewServeMux()
	mux.Handle("/p2p/v1/", api)
	dataMux := http.NewServeMux()
	dataMux.Handle(transfer.Pattern, &transfer.Server{Shelf: engine.Shelf(), Sessions: engine.Sessions, Log: quiet})
	servers := []*http.Server{{Handler: mux}, {Handler: dataMux}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = servers[0].Serve(control) })
	wg.Go(func() { _ = servers[1].Serve(data) })
	wg.Go(func() { _ = engine.Run(ctx) })
	wg.Go(func() { _ = sn.Run(ctx) })
	t.Cleanup(func() {
		api.Close()
		for _, s := range servers {
			s.Close()
		}
		cancel()
		wg.Wait()
		engine.Close()
		parents.Close()
		if err := contents.Close(); err != nil {
			t.Error(err)
		}
	})
	return control.Addr().String()
}

var quiet = slog.New(slog.DiscardHandler)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// nobody is an address where nothing listens.
func nobody(t *testing.T) string {
	t.Helper()
	l := listen(t)
	l.Close()
	return l.Addr().String()
}

// contains checks a text for parts, in any order.
func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s does not say %q:\n%s", what, p, text)
		}
	}
}
