// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dragonfly/internal/swarm"
)

// smallDisk mounts a file system of little size.
func (w *world) smallDisk(name, options string) string {
	w.Helper()
	if os.Getuid() != 0 {
		w.Skip("mounts a small file system: needs root")
	}
	dir := filepath.Join(w.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		w.Skipf("cannot mount a small file system: %v", err)
	}
	w.Cleanup(func() {
		w.End(15 * time.Second) // a busy one cannot be taken away
		if err := syscall.Unmount(dir, 0); err != nil {
			w.Error(err)
		}
	})
	return dir
}

// TestStoreFull: no room for the content is a clear error; what was verified
// is kept, and with more room the download goes on there.
func TestStoreFull(t *testing.T) {
	w := start(t)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	h.Home = w.smallDisk("small", "size=11m")
	o := newOrigin(t, 4*piece)
	out := w.target("file")
	code, printed := w.fails(h, o.url(), out)
	if code != exitDownload || !strings.Contains(printed, "no space") {
		t.Errorf("exit status %d\n%s", code, printed)
	}
	w.noTarget(out)
	if err := syscall.Mount("", h.Home, "", syscall.MS_REMOUNT, "size=100m"); err != nil {
		t.Fatal(err)
	}
	r := w.download(h, o.url(), out)
	w.isContent(out, o.content)
	if r.Fetched() > 3*piece {
		t.Errorf("fetched again what was there: %+v", r)
	}
}

// TestNewerStore: a data directory that a newer version wrote is left alone.
func TestNewerStore(t *testing.T) {
	w := start(t)
	h := w.host("--node", "127.0.0.1:1")
	format := filepath.Join(h.Home, "data", "format")
	if err := os.Mkdir(filepath.Dir(format), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(format, []byte("99\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o, out := newOrigin(t, 1000), w.target("file")
	code, printed := w.fails(h, o.url(), out)
	if code != exitLaunch || !strings.Contains(printed, "format 99") || !strings.Contains(printed, "newer version") {
		t.Errorf("exit status %d\n%s", code, printed)
	}
	w.noTarget(out)
}

// TestPresetLimit: 10 MB/s unless said otherwise, and a hint when that is what
// held a download back (FAQ: bandwidth limit).
func TestPresetLimit(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 3*piece)
	node := w.supernode(swarm.SupernodeOptions{})
	for _, v := range []struct {
		args []string
		hint bool
		rate int // bytes per second, 0: any
	}{
		{nil, true, 10 << 20},
		{[]string{"--locallimit", "10MB"}, false, 10 << 20},
		{[]string{"--locallimit", "0"}, false, 0},
	} {
		h, out := w.host(), w.target("file"+strings.Join(v.args, ""))
		h.Args = append([]string{"--node", node.Addr}, v.args...)
		began := time.Now()
		printed, err := h.Dfget(w.ctx, o.url(), out).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", v.args, err, printed)
		}
		w.isContent(out, o.content)
		if strings.Contains(string(printed), "--locallimit 0 lifts it") != v.hint {
			t.Errorf("%v: hint wanted: %t\n%s", v.args, v.hint, printed)
		}
		// A burst of a tenth of a second comes first.
		if least := time.Duration(float64(len(o.content)-v.rate/10) / float64(max(v.rate, 1)) * float64(time.Second)); v.rate > 0 && time.Since(began) < least {
			t.Errorf("%v: %d bytes in %v, sooner than the limit allows", v.args, len(o.content), time.Since(began))
		}
	}
}

// TestTotalLimit: all downloads of an account together keep to --totallimit
// (FAQ: bandwidth limit).
func TestTotalLimit(t *testing.T) {
	w := start(t)
	const rate = 8 << 20
	o, p := newOrigin(t, 2*piece), newOrigin(t, 2*piece)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr, "--totallimit", "8MB")
	began := time.Now()
	var both sync.WaitGroup
	for name, o := range map[string]*origin{"one": o, "two": p} {
		out := w.target(name)
		both.Go(func() {
			if _, err := h.Download(w.ctx, o.url(), out); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if least := time.Second * (4*piece - rate/10) / rate; time.Since(began) < least {
		t.Errorf("%d bytes in %v, sooner than the limit allows", 4*piece, time.Since(began))
	}
}

// TestSupernodeBandwidth: input and output of a supernode keep to
// --max-bandwidth less --system-bandwidth (FAQ: bandwidth limit).
func TestSupernodeBandwidth(t *testing.T) {
	w := start(t)
	const rate = 6 << 20
	o := newOrigin(t, 2*piece)
	node := w.supernode(swarm.SupernodeOptions{Args: []string{"--max-bandwidth", "8MB", "--system-bandwidth", "2MB"}})
	for _, direction := range []string{"input", "output"} { // the second time only output
		began := time.Now()
		w.download(w.host("--node", node.Addr, "--pattern", "cdn"), o.url(), w.target(direction))
		if least := time.Second * (2*piece - rate/10) / rate; time.Since(began) < least {
			t.Errorf("%s: %d bytes in %v, sooner than the limit allows", direction, 2*piece, time.Since(began))
		}
	}
}

// TestAgentEnds: dfget server ends by itself when nothing is to do, and tells
// so in host.meta; the next dfget starts another one (FAQ: dfget keeps
// running).
func TestAgentEnds(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 1000)
	h := w.host("--node", "127.0.0.1:1", "--alivetime", "200ms")
	for _, name := range []string{"one", "two"} {
		out := w.target(name)
		w.download(h, o.url(), out)
		w.isContent(out, o.content)
		w.until("the end of the agent", func() bool { return len(w.processes(h.Home)) == 0 })
		meta, err := os.ReadFile(filepath.Join(h.Home, "meta", "host.meta"))
		if err != nil || string(meta) != `{"servicePort":0}` {
			t.Errorf("host.meta: %q, %v", meta, err)
		}
	}
}

// TestExpired: what nobody asked for in --expiretime is cleaned up, and what
// is asked for is fetched again (FAQ: clean up the data directory).
func TestExpired(t *testing.T) {
	w := start(t)
	o := newOrigin(t, piece)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr, "--expiretime", "1s")
	w.download(h, o.url(), w.target("one"))
	w.until("the content was removed", func() bool {
		files, err := filepath.Glob(filepath.Join(h.Home, "data", "*", "*.server"))
		return err == nil && len(files) == 0
	})
	out := w.target("two")
	r := w.download(h, o.url(), out)
	w.isContent(out, o.content)
	if r.Fetched() != piece || o.ratio() != 1 {
		t.Errorf("%+v, the origin was read %.2f times", r, o.ratio())
	}
}

// TestMisspelledSetting: a key that is not known is named with its line and
// the nearest right one.
func TestMisspelledSetting(t *testing.T) {
	w := start(t)
	file := filepath.Join(w.dir, "dfget.yml")
	if err := os.WriteFile(file, []byte("nodes:\n- supernode01\nlocalLimt: 20MB\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := newOrigin(t, 1)
	code, printed := w.fails(w.host("--config", file), o.url(), w.target("file"))
	if code != exitParameter || !strings.Contains(printed, file+":3: localLimt") || !strings.Contains(printed, "localLimit?") {
		t.Errorf("exit status %d\n%s", code, printed)
	}
}

// TestSupernodeGone: the only supernode dies in mid-download and does not come
// back: the rest comes from the source, and nothing twice; with --notbs the
// download fails (FAQ: multiple-supernode mode).
func TestSupernodeGone(t *testing.T) {
	w := start(t)
	for _, v := range []struct {
		name string
		args []string
	}{{"source", nil}, {"notbs", []string{"--notbs"}}} {
		o := newOrigin(t, 4*piece)
		node := w.supernode(swarm.SupernodeOptions{})
		h, out := w.host("--node", node.Addr), w.target(v.name)
		j, half := w.midway(h, o, out, 2, v.args...)
		node.Kill()
		half.release()
		<-j.done
		r, err := swarm.ParseResult([]byte(j.out.String()))
		if err != nil {
			t.Fatal(err)
		}
		if v.args != nil {
			if r.Success || !strings.Contains(r.Error, "--notbs") {
				t.Errorf("%s: %+v", v.name, r)
			}
			w.noTarget(out)
			continue
		}
		w.isContent(out, o.content)
		if r.FromSource == 0 || r.Fetched() > int64(len(o.content))+piece/2 {
			t.Errorf("%s: %+v", v.name, r)
		}
	}
}

// TestSupernodeStopped: a supernode that is stopped for a while and goes on
// does not fail a download.
func TestSupernodeStopped(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 4*piece)
	node := w.supernode(swarm.SupernodeOptions{})
	h, out := w.host("--node", node.Addr), w.target("file")
	j, half := w.midway(h, o, out, 2)
	if err := node.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	half.release()
	r := w.result(j)
	if err := node.Cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	w.isContent(out, o.content)
	if r.Fetched() > int64(len(o.content))+piece/2 {
		t.Errorf("pieces were fetched twice: %+v", r)
	}
	again := w.target("again")
	w.download(w.host("--node", node.Addr), o.url(), again)
	w.isContent(again, o.content)
}
