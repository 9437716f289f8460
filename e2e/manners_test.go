// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"dragonfly/internal/swarm"
)

// plain is a dfget without --json, as people call it.
func (w *world) plain(h swarm.Host, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.ctx, filepath.Join(w.Dir, "dfget"), append(append([]string{"--home", h.Home, "--ip", h.IP}, h.Args...), args...)...)
	cmd.Env = swarm.Environment(h.Home)
	return cmd
}

// TestStdoutLines: v1's lines and nothing else when standard output is no
// terminal (v1-protocol 9).
func TestStdoutLines(t *testing.T) {
	w := start(t)
	o := newOrigin(t, piece+1)
	node := w.supernode(swarm.SupernodeOptions{})
	h, out := w.host("--node", node.Addr), w.target("file")
	text, err := w.plain(h, "-u", o.url(), "-o", out).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	w.isContent(out, o.content)
	want := []string{
		`--\d{4}-\d\d-\d\d \d\d:\d\d:\d\d--  ` + regexp.QuoteMeta(o.url()),
		`dfget version:.*`,
		`workspace:` + regexp.QuoteMeta(h.Home),
		`sign:\d+-\d+\.\d{3}`,
		`client:` + regexp.QuoteMeta(h.IP) + ` connected to node:` + regexp.QuoteMeta(node.Addr),
		`start download by dragonfly\.\.\.`,
		`download SUCCESS cost:\d+\.\d{3}s length:4194300 reason:0`,
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), text)
	}
	for i, line := range lines {
		if !regexp.MustCompile(`^` + want[i] + `$`).MatchString(line) {
			t.Errorf("line %d is %q, want %s", i+1, line, want[i])
		}
	}
}

// TestToStdout: -o - gives the bytes and nothing but them.
func TestToStdout(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 3*piece+5)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	for range 2 { // from the swarm, then from the agent's store
		got, err := w.plain(h, "-u", o.url(), "-o", "-").Output()
		if err != nil || !bytes.Equal(got, o.content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := w.plain(h, "-u", o.url(), "-o", "-")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = full, &stderr
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "no space") {
		t.Errorf("to a full device: %v\n%s", err, stderr.String())
	}
}

// TestPositionalURL: the URL may stand without a flag, and the output's name
// comes from it.
func TestPositionalURL(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 1000)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	out := w.target("file.bin")
	cmd := w.plain(h, o.url()+"?x=1")
	cmd.Dir = filepath.Dir(out)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	w.isContent(out, o.content)
}

// TestLinks: however the output is made, it is the content, and writing into
// it hurts nobody who gets it from this host later.
func TestLinks(t *testing.T) {
	w := start(t)
	node := w.supernode(swarm.SupernodeOptions{})
	for _, how := range []string{"auto", "copy", "hard"} {
		o := newOrigin(t, 2*piece)
		h, out := w.host("--node", node.Addr), w.target(how)
		w.download(h, o.url(), out, "--link", how)
		w.isContent(out, o.content)
		f, err := os.OpenFile(out, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("changed by its owner"), 100); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for _, other := range []swarm.Host{h, w.host("--node", node.Addr)} {
			again := w.target(how + "-" + other.IP)
			w.download(other, o.url(), again)
			w.isContent(again, o.content)
		}
	}
}

// TestInterrupted: Ctrl-C ends the download and leaves nothing beside the
// target; what was verified is not fetched again.
func TestInterrupted(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 4*piece)
	h, out := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr), w.target("file")
	j, half := w.midway(h, o, out, 2)
	if err := j.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-j.done
	if j.err == nil {
		t.Error("an interrupted download succeeds")
	}
	w.noTarget(out)
	half.release()
	r := w.download(h, o.url(), out)
	w.isContent(out, o.content)
	if r.Fetched() > 2*piece+piece/2 {
		t.Errorf("fetched again what was there: %+v", r)
	}
}

// TestTimeout: --timeout ends a download that an origin holds up.
func TestTimeout(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 1000)
	o.holdAt(0)
	out := w.target("file")
	code, printed := w.fails(w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr), o.url(), out, "--timeout", "1")
	if code != exitDownload {
		t.Errorf("exit status %d\n%s", code, printed)
	}
	w.noTarget(out)
}

// TestUserRange: a user's own Range header makes a content of its own.
func TestUserRange(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 3*piece)
	h, out := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr), w.target("part")
	w.download(h, o.url(), out, "--header", "Range: bytes=1000-5000999")
	w.isContent(out, o.content[1000:5001000])
	whole := w.target("whole")
	w.download(h, o.url(), whole)
	w.isContent(whole, o.content)
}

// TestContentChanges: the origin gets another content in mid-download; nobody
// gets a mixture.
func TestContentChanges(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 6*piece)
	node := w.supernode(swarm.SupernodeOptions{})
	half := o.holdAt(3 * piece)
	outs := []string{w.target("one"), w.target("two")}
	var jobs []*job
	for _, out := range outs {
		h := w.host("--node", node.Addr)
		jobs = append(jobs, w.background(h, o.url(), out))
		w.until("the first pieces", func() bool { return verified(h) >= 2 })
	}
	w.reached(half)
	second := pattern(2, 5*piece+17)
	o.change(`"v2"`, second)
	half.release()
	for i, j := range jobs {
		w.result(j)
		w.isContent(outs[i], second)
	}
}

// TestGarbageFromAPeer: a peer whose disk rotted serves garbage; whoever gets
// it notices, and downloads the right content all the same.
func TestGarbageFromAPeer(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 4*piece)
	node := w.supernode(swarm.SupernodeOptions{})
	rotten := w.host("--node", node.Addr)
	w.download(rotten, o.url(), w.target("first"), "--link", "copy")
	files, err := filepath.Glob(filepath.Join(rotten.Home, "data", "*", "*.server"))
	if err != nil || len(files) != 1 {
		t.Fatalf("content files %q, %v", files, err)
	}
	f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(4) {
		if _, err := f.WriteAt([]byte("rot"), n*piece+1000); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	for _, name := range []string{"second", "third"} {
		out := w.target(name)
		w.download(w.host("--node", node.Addr), o.url(), out)
		w.isContent(out, o.content)
	}
	if o.ratio() != 1 {
		t.Errorf("the origin was read %.2f times", o.ratio())
	}
}

// TestTargetDiskFull: an output that does not fit is a clear error that leaves
// nothing; the content stays shared.
func TestTargetDiskFull(t *testing.T) {
	w := start(t)
	small := w.smallDisk("small", "size=1m")
	o := newOrigin(t, 2*piece)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	out := filepath.Join(small, "file")
	if _, printed := w.fails(h, o.url(), out); !strings.Contains(printed, "no space") {
		t.Errorf("printed\n%s", printed)
	}
	w.noTarget(out)
	elsewhere := w.target("file")
	w.download(h, o.url(), elsewhere)
	w.isContent(elsewhere, o.content)
	if o.ratio() != 1 {
		t.Errorf("the origin was read %.2f times", o.ratio())
	}
}

// TestVersionAndHelp: both commands say what they are, and every flag that
// their help names is in the documents.
func TestVersionAndHelp(t *testing.T) {
	w := start(t)
	flag := regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z][a-z-]*)`)
	for _, name := range []string{"dfget", "supernode"} {
		program := filepath.Join(w.Dir, name)
		if out, err := exec.CommandContext(w.ctx, program, "version").Output(); err != nil || len(bytes.TrimSpace(out)) == 0 {
			t.Errorf("%s version: %q, %v", name, out, err)
		}
		help, err := exec.CommandContext(w.ctx, program, "--help").Output()
		if err != nil {
			t.Errorf("%s --help: %v", name, err)
		}
		document, err := os.ReadFile(filepath.Join("..", "docs", name+".md"))
		if err != nil {
			t.Fatal(err)
		}
		flags := flag.FindAllSubmatch(help, -1)
		if len(flags) == 0 {
			t.Errorf("%s --help names no flag:\n%s", name, help)
		}
		for _, m := range flags {
			if f := string(m[1]); f != "help" && f != "version" && !bytes.Contains(document, []byte("--"+f)) {
				t.Errorf("docs/%s.md does not name --%s", name, f)
			}
		}
	}
}
