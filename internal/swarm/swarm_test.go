// SPDX-License-Identifier: Apache-2.0

package swarm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain makes the test binary a program that does nothing until its input
// ends, when it is asked to.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "idle" {
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is closed or we are ended
		return
	}
	os.Exit(m.Run())
}

// idle starts a copy of the test binary out of dir.
func idle(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "idler")
	if err := os.WriteFile(program, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "idle")
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // fails when it has ended
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd
}

// TestEnd: what runs a program of the directory is found and ended, what runs
// another is not.
func TestEnd(t *testing.T) {
	p := Programs{Dir: t.TempDir()}
	other := Programs{Dir: t.TempDir()}
	mine, foreign := idle(t, p.Dir), idle(t, other.Dir)
	if got := p.Running(); len(got) != 1 || got[0] != mine.Process.Pid {
		t.Fatalf("running: %v, want %d", got, mine.Process.Pid)
	}
	if line := CommandLine(mine.Process.Pid); !strings.HasSuffix(line, "/idler idle") {
		t.Errorf("command line %q", line)
	}
	go func() { _ = mine.Wait() }() // a zombie has no program any more, but still an id
	if forced := p.End(30 * time.Second); len(forced) > 0 {
		t.Errorf("forced %q", forced)
	}
	if got := p.Running(); len(got) != 0 {
		t.Errorf("still running: %v", got)
	}
	if got := other.Running(); len(got) != 1 {
		t.Errorf("the other directory's process was ended: %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Gone(ctx, foreign.Process.Pid); err == nil {
		t.Error("a running process is said to be gone")
	}
}

func TestTail(t *testing.T) {
	var tail Tail
	waited := make(chan error)
	go func() { waited <- tail.WaitFor(t.Context(), "line", 2) }()
	fmt.Fprintln(&tail, "line 1")
	fmt.Fprintln(&tail, "line 2")
	if err := <-waited; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tail.WaitFor(ctx, "never", 1); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("%v: want an error with what was printed", err)
	}
}

func TestParseResult(t *testing.T) {
	r, err := ParseResult([]byte("{\"event\":\"progress\"}\n{\"success\":true,\"length\":3,\"fromSeed\":2,\"fromPeers\":1}\n\n"))
	if err != nil || !r.Success || r.Length != 3 || r.Fetched() != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := ParseResult([]byte("download FAIL\n")); err == nil {
		t.Error("text is taken for a result")
	}
}
