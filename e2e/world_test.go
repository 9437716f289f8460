// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dragonfly/internal/swarm"
)

// limit bounds each test: a download that hangs fails it.
const limit = 90 * time.Second

// piece is the content of one piece of a small file.
const piece = 4<<20 - 5

// build compiles the commands once for all tests.
var build = sync.OnceValues(func() (swarm.Programs, error) {
	dir, err := os.MkdirTemp("", "dragonfly-e2e-bin-")
	if err != nil {
		return swarm.Programs{}, err
	}
	return swarm.Build(context.Background(), dir, "supernode", "dfget", "dfdaemon")
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv("DRAGONFLY_E2E") == "1" {
		if programs, err := build(); err == nil {
			programs.End(5 * time.Second)
			if err := os.RemoveAll(programs.Dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	os.Exit(code)
}

// world is the ground of one test: its directory, its processes and a context
// that ends before the test is given up.
type world struct {
	*testing.T
	swarm.Programs
	ctx   context.Context
	dir   string
	peers int
	nodes int
}

// start skips the test unless real processes are wanted, and otherwise makes
// its ground. At the end of the test it checks that nothing is left.
func start(t *testing.T) *world {
	t.Helper()
	if os.Getenv("DRAGONFLY_E2E") != "1" {
		t.Skip("starts real processes: set DRAGONFLY_E2E=1 to run it")
	}
	programs, err := build()
	if err != nil {
		t.Fatal(err)
	}
	if left := programs.Running(); len(left) > 0 {
		t.Fatalf("processes of an earlier test run: %v", left)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	w := &world{T: t, Programs: programs, ctx: ctx, dir: t.TempDir()}
	t.Cleanup(func() {
		for _, forced := range programs.End(15 * time.Second) {
			t.Errorf("did not end when asked to: %s", forced)
		}
		if t.Failed() {
			w.showLogs()
		}
	})
	return w
}

// showLogs prints the ends of all logs of a failed test.
func (w *world) showLogs() {
	_ = filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".log" {
			return nil // what cannot be read is not shown
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		w.Logf("%s:\n%s", strings.TrimPrefix(path, w.dir+"/"), strings.Join(lines[max(0, len(lines)-40):], "\n"))
		return nil
	})
}

// supernode starts one; zero ports are free ones.
func (w *world) supernode(o swarm.SupernodeOptions) *swarm.Supernode {
	w.Helper()
	if o.Home == "" && o.Control == 0 {
		w.nodes++
		o.Home = filepath.Join(w.dir, fmt.Sprintf("supernode%d", w.nodes))
	} else if o.Home == "" { // the same again after a restart
		o.Home = filepath.Join(w.dir, fmt.Sprintf("supernode-%d", o.Control))
	}
	s, err := w.StartSupernode(w.ctx, o)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// ports are two free ones, to start a supernode twice at the same place.
func (w *world) ports() (control, data int) {
	w.Helper()
	for _, p := range []*int{&control, &data} {
		var err error
		if *p, err = swarm.FreePort(); err != nil {
			w.Fatal(err)
		}
	}
	return control, data
}

// host makes a peer with its own home and address.
func (w *world) host(args ...string) swarm.Host {
	w.Helper()
	w.peers++
	home := filepath.Join(w.dir, fmt.Sprintf("peer%d", w.peers))
	if err := os.Mkdir(home, 0o755); err != nil {
		w.Fatal(err)
	}
	return swarm.Host{
		Programs: w.Programs, Home: home, IP: fmt.Sprintf("127.0.0.%d", 10+w.peers),
		Args: append([]string{"--locallimit", "0"}, args...),
	}
}

// target is a path in a directory of its own, so that what is left beside it
// shows.
func (w *world) target(name string) string {
	w.Helper()
	dir := filepath.Join(w.dir, "out-"+name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// download must succeed.
func (w *world) download(h swarm.Host, url, out string, args ...string) swarm.Result {
	w.Helper()
	r, err := h.Download(w.ctx, url, out, args...)
	if err != nil {
		w.Fatal(err)
	}
	return r
}

// job is a dfget in the background.
type job struct {
	cmd    *exec.Cmd
	out    swarm.Tail // stdout
	stderr swarm.Tail
	done   chan struct{}
	err    error // of the process, once done is closed
}

// background starts a dfget and does not wait for it.
func (w *world) background(h swarm.Host, url, out string, args ...string) *job {
	w.Helper()
	j := &job{cmd: h.Dfget(w.ctx, url, out, args...), done: make(chan struct{})}
	j.cmd.Stdout, j.cmd.Stderr = &j.out, &j.stderr
	if err := j.cmd.Start(); err != nil {
		w.Fatal(err)
	}
	go func() {
		j.err = j.cmd.Wait()
		close(j.done)
	}()
	w.Cleanup(func() {
		_ = j.cmd.Process.Kill() // fails when it has ended
		<-j.done
	})
	return j
}

// midway starts a download that stands still, held up by the origin, when it
// has its first n pieces.
func (w *world) midway(h swarm.Host, o *origin, out string, n int, args ...string) (*job, *gate) {
	w.Helper()
	held := o.holdAt(int64(n) * piece)
	j := w.background(h, o.url(), out, args...)
	w.reached(held)
	w.until(fmt.Sprint(n, " pieces"), func() bool { return verified(h) >= n })
	return j, held
}

// result waits for the end of a job that must succeed.
func (w *world) result(j *job) swarm.Result {
	w.Helper()
	<-j.done // its context is the test's
	r, err := swarm.ParseResult([]byte(j.out.String()))
	if j.err != nil || err != nil {
		w.Fatalf("dfget: %v, %v\n%s%s", j.err, err, &j.out, &j.stderr)
	}
	return r
}

// fails runs a dfget that must not succeed, and gives its exit status and all
// that it printed.
func (w *world) fails(h swarm.Host, url, out string, args ...string) (status int, printed string) {
	w.Helper()
	cmd := h.Dfget(w.ctx, url, out, args...)
	text, err := cmd.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		w.Fatalf("dfget: %v, want it to fail\n%s", err, text)
	}
	return exit.ExitCode(), string(text)
}

// isContent checks a finished target, and that nothing lies beside it.
func (w *world) isContent(path string, want []byte) {
	w.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		w.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		w.Errorf("%s is not what the origin has: %d bytes, want %d", path, len(got), len(want))
	}
	w.nothingBut(path)
}

// nothingBut checks that the directory of a target holds the given files only.
func (w *world) nothingBut(path string, others ...string) {
	w.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) && !slices.Contains(others, e.Name()) {
			w.Errorf("%s is left beside the target", e.Name())
		}
	}
}

// noTarget checks that a failed download left nothing at all.
func (w *world) noTarget(path string) {
	w.Helper()
	if _, err := os.Lstat(path); err == nil {
		w.Errorf("%s is there after a failure", path)
	}
	w.nothingBut(path)
}

// reached waits until the origin was asked for the byte at a gate.
func (w *world) reached(g *gate) {
	w.Helper()
	select {
	case <-g.reached:
	case <-w.ctx.Done():
		w.Fatalf("the origin was never asked for byte %d", g.at)
	}
}

// until waits for something that no channel tells: a file that another
// process writes.
func (w *world) until(what string, f func() bool) {
	w.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.Fatalf("never came: %s", what)
		}
	}
}

// log is a host's dfclient.log.
func log(h swarm.Host) string {
	raw, err := os.ReadFile(filepath.Join(h.Home, "logs", "dfclient.log"))
	if err != nil {
		return ""
	}
	return string(raw)
}

// signedPieces counts the pieces that a host's downloads got by its log, however
// many parts they came in (FAQ: block piece distributed).
func signedPieces(h swarm.Host) int {
	got := map[string]struct{}{}
	for _, line := range pieceLine.FindAllStringSubmatch(log(h), -1) {
		got[line[1]+" "+line[2]] = struct{}{}
	}
	return len(got)
}

var pieceLine = regexp.MustCompile(`sign:(\S+) : downloading piece:.*"status":701,.*"pieceNum":(\d+)`)

// verified counts the pieces that a host has verified, by its store.
func verified(h swarm.Host) int {
	const recordLen, kindAt, pieceAt = 64, 8, 12
	seen := map[string]struct{}{}
	_ = filepath.WalkDir(h.Home, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".pieces" {
			raw, _ := os.ReadFile(path)
			for ; len(raw) >= recordLen; raw = raw[recordLen:] {
				if raw[kindAt] == 'V' {
					seen[path+string(raw[pieceAt:pieceAt+4])] = struct{}{}
				}
			}
		}
		return nil
	})
	return len(seen)
}

// processes are those that belong to a home: dfget and its agent.
func (w *world) processes(home string) (pids []int) {
	for _, pid := range w.Running() {
		if strings.Contains(swarm.CommandLine(pid), home) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// signal sends to all processes of a home.
func (w *world) signal(home string, s syscall.Signal) (pids []int) {
	w.Helper()
	pids = w.processes(home)
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil {
			w.Logf("signal %v to %d: %v", s, pid, err)
		}
	}
	return pids
}

// kill ends all processes of a home as a power cut would, and waits for them.
func (w *world) kill(home string) {
	w.Helper()
	pids := w.signal(home, syscall.SIGKILL)
	if len(pids) == 0 {
		w.Fatalf("no process of %s runs", home)
	}
	for _, pid := range pids {
		if err := swarm.Gone(w.ctx, pid); err != nil {
			w.Fatal(err)
		}
	}
}
