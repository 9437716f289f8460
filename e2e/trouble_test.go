// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dragonfly/internal/swarm"
)

// Exit codes as in v1-protocol 9.
const (
	exitParameter = 1
	exitLaunch    = 76
	exitDownload  = 80
)

// TestOriginRefuses: a clear error that names the status, v1's exit code, and
// nothing left behind, with a supernode and without.
func TestOriginRefuses(t *testing.T) {
	w := start(t)
	nodes := map[string]string{"with": w.supernode(swarm.SupernodeOptions{}).Addr, "without": "127.0.0.1:1"}
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone, http.StatusInternalServerError, http.StatusBadGateway} {
		for name, node := range nodes {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				w := &world{T: t, Programs: w.Programs, ctx: w.ctx, dir: t.TempDir(), peers: w.peers}
				o := newOrigin(t, 1000)
				o.status = status
				h, out := w.host("--node", node), w.target("file")
				code, printed := w.fails(h, o.url(), out)
				if code != exitDownload || !strings.Contains(printed, fmt.Sprint(status)) {
					t.Errorf("exit status %d, want %d and the status %d in\n%s", code, exitDownload, status, printed)
				}
				w.noTarget(out)
				w.signalAll(h.Home)
			})
		}
	}
}

// signalAll ends a host that a subtest used.
func (w *world) signalAll(home string) {
	w.Helper()
	if len(w.processes(home)) > 0 {
		w.kill(home)
	}
}

// TestWrongParameters: exit code 1 and a remedy, before anything is asked.
func TestWrongParameters(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 1000)
	h := w.host("--node", "127.0.0.1:1")
	dir := filepath.Dir(w.target("x"))
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ url, out string }{
		"scheme":           {"ftp://127.0.0.1/f", w.target("a")},
		"malformed":        {"http://[::1/f", w.target("b")},
		"no host":          {"http:///f", w.target("c")},
		"directory":        {o.url(), dir},
		"below a file":     {o.url(), filepath.Join(file, "x")},
		"not writable":     {o.url(), "/proc/dragonfly"},
		"port no number":   {"http://127.0.0.1:http/f", w.target("d")},
		"nothing to fetch": {"", w.target("e")},
	} {
		code, printed := w.fails(h, c.url, c.out)
		if code != exitParameter || strings.Contains(printed, "goroutine ") || strings.TrimSpace(printed) == "" {
			t.Errorf("%s: exit status %d, want %d\n%s", name, code, exitParameter, printed)
		}
	}
	if code, printed := w.fails(h, o.url(), w.target("f"), "--locallimit", "20XB"); code != exitParameter || !strings.Contains(printed, "20XB") {
		t.Errorf("exit status %d\n%s", code, printed)
	}
	if o.asked() != 0 {
		t.Errorf("the origin was asked %d times", o.asked())
	}
}

// TestWrongDigest: that request fails, another for the same URL does not.
func TestWrongDigest(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 2*piece)
	node := w.supernode(swarm.SupernodeOptions{})
	h := w.host("--node", node.Addr)
	right := fmt.Sprintf("%x", md5.Sum(o.content))
	for name, args := range map[string][]string{
		"md5":    {"--md5", strings.Repeat("0", 32)},
		"sha256": {"--digest", "sha256:" + strings.Repeat("0", 64)},
	} {
		out := w.target("wrong-" + name)
		code, printed := w.fails(h, o.url(), out, args...)
		if code != exitDownload || !strings.Contains(strings.ToLower(printed), "digest") && !strings.Contains(printed, "md5") {
			t.Errorf("%s: exit status %d\n%s", name, code, printed)
		}
		w.noTarget(out)
	}
	for name, args := range map[string][]string{
		"md5":    {"--md5", right},
		"sha256": {"--digest", fmt.Sprintf("sha256:%x", sha256.Sum256(o.content))},
		"none":   nil,
	} {
		out := w.target("right-" + name)
		w.download(h, o.url(), out, args...)
		w.isContent(out, o.content)
	}
}

// TestTruncatedOrigin: an answer that breaks off is gone on with by range; one
// that always does in the same place without ranges is an error.
func TestTruncatedOrigin(t *testing.T) {
	w := start(t)
	node := w.supernode(swarm.SupernodeOptions{})
	o := newOrigin(t, 3*piece)
	o.truncate = piece + 1000
	out := w.target("file")
	w.download(w.host("--node", node.Addr), o.url(), out)
	w.isContent(out, o.content)
	if o.ratio() != 1 {
		t.Errorf("the origin was read %.2f times", o.ratio())
	}
}

// TestRedirects: followed, but not for ever.
func TestRedirects(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 1000)
	node := w.supernode(swarm.SupernodeOptions{})
	h, out := w.host("--node", node.Addr), w.target("file")
	w.download(h, o.URL+"/redirect/2", out)
	w.isContent(out, o.content)
	loop := w.target("loop")
	if code, printed := w.fails(h, o.URL+"/loop", loop); code != exitDownload || !strings.Contains(printed, "redirect") {
		t.Errorf("exit status %d\n%s", code, printed)
	}
	w.noTarget(loop)
}

// TestNotBackToSource: with --notbs a swarm that cannot be reached is a
// failure, after two rounds (FAQ: dfget connects to supernodes).
func TestNotBackToSource(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 1000)
	out := w.target("file")
	code, printed := w.fails(w.host("--node", "127.0.0.1:1,127.0.0.1:2"), o.url(), out, "--notbs")
	if code != exitDownload {
		t.Errorf("exit status %d, want %d\n%s", code, exitDownload, printed)
	}
	if o.asked() != 0 {
		t.Errorf("the origin was asked %d times", o.asked())
	}
	w.noTarget(out)
}

// TestHeadersReachTheOrigin: a user's headers go to the source and into no
// log.
func TestHeadersReachTheOrigin(t *testing.T) {
	w := start(t)
	o := newOrigin(t, piece+1)
	node := w.supernode(swarm.SupernodeOptions{})
	h, out := w.host("--node", node.Addr), w.target("file")
	const secret = "very-secret-value"
	w.download(h, o.url(), out, "--header", "Authorization: Bearer "+secret)
	w.isContent(out, o.content)
	o.mu.Lock()
	got := o.requests[0].Header.Get("Authorization")
	o.mu.Unlock()
	if got != "Bearer "+secret {
		t.Errorf("the origin saw Authorization %q", got)
	}
	w.noSecret(secret, node)
}

// noSecret looks for a text in every log and every small file of a home.
func (w *world) noSecret(secret string, node *swarm.Supernode) {
	w.Helper()
	if strings.Contains(node.Log.String(), secret) {
		w.Error("the supernode prints a header's value")
	}
	err := filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(raw), secret) {
			w.Errorf("%s holds a header's value", path)
		}
		return err
	})
	if err != nil {
		w.Error(err)
	}
}

// TestPortInUse: a supernode whose port another process holds ends at once,
// names the port and says what to do.
func TestPortInUse(t *testing.T) {
	w := start(t)
	taken, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for _, flag := range []string{"--port", "--download-port"} {
		control, data := w.ports()
		cmd := exec.CommandContext(w.ctx, filepath.Join(w.Dir, "supernode"), "--home-dir", filepath.Join(w.dir, "home"+flag),
			"--port", fmt.Sprint(control), "--download-port", fmt.Sprint(data), flag, fmt.Sprint(port))
		cmd.Env = swarm.Environment(w.dir)
		text, err := cmd.CombinedOutput()
		if err == nil || w.ctx.Err() != nil || !strings.Contains(string(text), fmt.Sprint(port)) || !strings.Contains(string(text), flag) {
			t.Errorf("%s %d: %v\n%s", flag, port, err, text)
		}
	}
}

// TestLongHome: a home whose path is longer than a unix socket's may be.
func TestLongHome(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 1000)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	h.Home = filepath.Join(h.Home, strings.Repeat("long/", 30))
	if err := os.MkdirAll(h.Home, 0o755); err != nil {
		t.Fatal(err)
	}
	out := w.target("file")
	w.download(h, o.url(), out)
	w.isContent(out, o.content)
}

// TestMetaEmptied: users are told to empty it (FAQ: data directory); it may
// happen at any time.
func TestMetaEmptied(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 4*piece)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	out := w.target("one")
	half := o.holdAt(2 * piece)
	j := w.background(h, o.url(), out)
	w.reached(half)
	entries, err := filepath.Glob(filepath.Join(h.Home, "meta", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(e); err != nil {
			t.Fatal(err)
		}
	}
	half.release()
	w.result(j)
	w.isContent(out, o.content)
	again := w.target("two")
	w.download(h, o.url(), again)
	w.isContent(again, o.content)
	if len(w.processes(h.Home)) != 1 {
		t.Errorf("%d agents run for one home", len(w.processes(h.Home)))
	}
}

// TestDeadAgent: socket and lock of an agent that was killed are in nobody's
// way.
func TestDeadAgent(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 1000)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	w.download(h, o.url(), w.target("one"))
	w.kill(h.Home)
	out := w.target("two")
	w.download(h, o.url(), out)
	w.isContent(out, o.content)
}
