// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/agent"
)

// launcher is what a dfget of this host uses, of the build with a number.
func (h *host) launcher(number int64, start func(context.Context) error) launcher {
	h.t.Helper()
	if err := os.MkdirAll(h.home, 0o755); err != nil {
		h.t.Fatal(err)
	}
	place, err := h.surroundings(nil, nil).place(h.home)
	if err != nil {
		h.t.Fatal(err)
	}
	return launcher{place: place, build: agent.Build{Version: "test", Protocol: agent.Protocol, Number: number}, start: start}
}

// agentAt runs an agent without an engine, of the build with a number.
func (l launcher) agentAt(t *testing.T, number int64) (*agent.Agent, func()) {
	t.Helper()
	return l.agentOf(t, agent.Build{Version: "test", Protocol: agent.Protocol, Number: number})
}

func (l launcher) agentOf(t *testing.T, build agent.Build) (*agent.Agent, func()) {
	t.Helper()
	lock, err := l.place.Own(t.Context().Done())
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.Listen(agent.Options{Place: l.place, Build: build,
		Engine: agent.EngineOf(nil), Log: quiet, JobLog: nil})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		err := a.Serve(ctx)
		lock.Release()
		ended <- err
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return a, stop
}

var errTest = errors.New("the test ends it")

// TestOneStarts: of many clients at once one starts the agent, however slowly
// it starts, and all are served.
func TestOneStarts(t *testing.T) {
	h := newHost(t)
	var starts atomic.Int64
	starting, slow := make(chan struct{}), make(chan struct{})
	var l launcher
	l = h.launcher(1, func(context.Context) error {
		starts.Add(1)
		close(starting)
		<-slow
		l.agentAt(t, 1)
		return nil
	})
	var wg sync.WaitGroup
	connect := func() {
		c, err := l.connect(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		c.Close()
	}
	wg.Go(connect)
	<-starting
	for range 5 {
		wg.Go(connect)
	}
	// One that is cancelled does not wait for it.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTest)
	if _, err := l.connect(ctx); !errors.Is(err, errTest) {
		t.Errorf("cancelled: %v", err)
	}
	close(slow)
	wg.Wait()
	if n := starts.Load(); n != 1 {
		t.Errorf("%d starts", n)
	}
}

// TestTwoAtOnce: two downloads of one URL, with no agent before: one agent, one
// request to the source, two outputs.
func TestTwoAtOnce(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 100_000)
	held := o.hold()
	go func() {
		<-held.reached
		o.held.Store(nil)
		close(held.open)
	}()
	var wg sync.WaitGroup
	outs := []string{h.path("one"), h.path("two")}
	for _, out := range outs {
		wg.Go(func() {
			if got := h.get("-p", "source", "-o", out, "-u", o.URL+"/f"); got.status != 0 {
				t.Errorf("exit status %d: %s", got.status, got.out)
			}
		})
	}
	wg.Wait()
	for _, out := range outs {
		h.isContent(out, o.content)
	}
	if n := strings.Count(contentOfPath(t, filepath.Join(h.home, "logs", "dfserver.log")), "start peer server success"); n != 1 {
		t.Errorf("%d agents", n)
	}
	if n := strings.Count(h.log(), "download SUCCESS"); n != 2 {
		t.Errorf("%d successes in\n%s", n, h.log())
	}
}

// TestStartFails: the error reaches the user, and the next client may try.
func TestStartFails(t *testing.T) {
	h := newHost(t)
	n := 0
	l := h.launcher(1, func(context.Context) error { n++; return errTest })
	for range 2 {
		if _, err := l.connect(t.Context()); !errors.Is(err, errTest) {
			t.Error(err)
		}
	}
	if n != 2 {
		t.Errorf("%d starts", n)
	}
}

// TestOlderAgent: an older agent makes way for a new one; a newer one serves.
func TestOlderAgent(t *testing.T) {
	h := newHost(t)
	var l launcher
	starts := 0
	l = h.launcher(5, func(context.Context) error {
		starts++
		l.agentAt(t, 5) // waits for the older one's lock
		return nil
	})
	older := l
	l.agentAt(t, 4)
	c, err := l.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Agent.Number != 5 || starts != 1 {
		t.Errorf("agent %+v after %d starts", c.Agent, starts)
	}
	older.build.Number = 3
	c, err = older.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Agent.Number != 5 || starts != 1 {
		t.Errorf("an older client got %+v after %d starts", c.Agent, starts)
	}
}

// TestDeadSocket: what an agent left that was killed is in nobody's way.
func TestDeadSocket(t *testing.T) {
	h := newHost(t)
	var l launcher
	l = h.launcher(1, func(context.Context) error { l.agentAt(t, 1); return nil })
	path := l.place.Sockets[0]
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	c, err := l.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestForeignSocket: a directory that others can write to is not trusted with
// the socket; v1's line tells what to do.
func TestForeignSocket(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join(h.temp, "dragonfly-"+strconv.Itoa(os.Geteuid()))
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	got := h.get("-o", h.path("f"), "-u", "http://127.0.0.1:1/f")
	if got.status != 76 {
		t.Errorf("exit status %d", got.status)
	}
	contains(t, "stdout", got.out, "download FAIL(1100) ", dir+" must be a directory of this account that nobody else can write to: remove it or give it back")
	if err := os.Chmod(dir, 0o700); err != nil { // for the end of the test
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		got := h.get("-o", h.path("f"), "-u", "http://127.0.0.1:1/f")
		contains(t, "stdout", got.out, "download FAIL(1100) ", dir+" must be a directory of this account")
		if err := os.Chown(dir, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNobodyAnswers: somebody listens at the socket who is no agent.
func TestNobodyAnswers(t *testing.T) {
	h := newHost(t)
	l := h.launcher(1, func(context.Context) error { return errTest })
	path := l.place.Sockets[0]
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	other, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(c).ReadString('\n') // closing with something unread would be a reset
			_, _ = c.Write([]byte("500 unknown command\n"))
			c.Close()
		}
	}()
	if _, err := l.connect(t.Context()); dragonfly.KindOf(err) != dragonfly.ProtocolMismatch || !strings.Contains(err.Error(), "no dfget server") {
		t.Error(err)
	}
}

// TestSpawn: an agent that does not get ready is ended, and the error says why
// and where its log is.
func TestSpawn(t *testing.T) {
	dir := t.TempDir()
	logPath := filepath.Join(dir, "logs", "dfserver.log")
	if err := os.Mkdir(filepath.Dir(logPath), 0o755); err != nil {
		t.Fatal(err)
	}
	program := func(name, script string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.WriteFile(logPath, []byte("dfget: an old story\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip(err)
	}
	hang := program("hang", "echo $$ >"+dir+"/pid\nexec tail -f /dev/null\n")
	for _, v := range []struct {
		name, script string
		want         string // none: it starts
	}{
		{"ready", `echo "dfget uploader server port is 20001"`, ""},
		{"refuses", "echo 'dfget: the data port 15001 cannot be opened' >&2; exit 1", "the dfget server did not start: the data port 15001 cannot be opened (see " + logPath + ")"},
		{"dies", "exit 7", "the dfget server did not start: exit status 7 (see " + logPath + ")"},
		{"babbles", "echo hello; exec tail -f /dev/null", "the dfget server did not start: hello (see " + logPath + ")"},
		{"is killed", "kill -9 $$", "the dfget server did not start: signal: killed (see " + logPath + ")"},
	} {
		err := spawner{program(strings.ReplaceAll(v.name, " ", ""), v.script+"\n"), logPath, time.Minute}.start(t.Context(), []string{"--x"})
		if (err == nil) != (v.want == "") || err != nil && err.Error() != v.want {
			t.Errorf("%s: %v, want %s", v.name, err, v.want)
		}
	}
	gone := func() {
		t.Helper()
		text, err := os.ReadFile(dir + "/pid")
		if err != nil {
			return // it was ended before it could say anything
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err == nil && syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d goes on", pid)
		}
		os.Remove(dir + "/pid")
	}
	err := spawner{hang, logPath, 1}.start(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "was not ready after 1ns and was ended: see "+logPath) {
		t.Error(err)
	}
	gone()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for { // the script has begun
			if _, err := os.Stat(dir + "/pid"); err == nil || t.Context().Err() != nil {
				break
			}
			runtime.Gosched()
		}
		cancel(errTest)
	}()
	if err := (spawner{hang, logPath, time.Minute}).start(ctx, nil); !errors.Is(err, errTest) {
		t.Errorf("cancelled: %v", err)
	}
	gone()
	if err := (spawner{dir + "/none", logPath, time.Minute}).start(t.Context(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestAgentDoesNotStart: what dfget server said reaches the user of dfget.
func TestAgentDoesNotStart(t *testing.T) {
	h := newHost(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	if port < agent.LowestPort || port > agent.HighestPort {
		t.Skipf("the port %d is none of a peer", port)
	}
	got := h.get("--ip", "127.0.0.1", "--port", strconv.Itoa(port), "-o", h.path("f"), "-u", "http://127.0.0.1:1/f")
	if got.status != 76 {
		t.Errorf("exit status %d", got.status)
	}
	contains(t, "stdout", got.out, "download FAIL(1100) ", "the data port "+strconv.Itoa(port)+" cannot be opened: give another one with --port", filepath.Join(h.home, "logs", "dfserver.log"))
	only(t, h.dir, "home")
}
