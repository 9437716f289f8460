// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"dragonfly/agent"
	"dragonfly/store"
)

// TestServerFlags: v1's argument vector starts a server (v1-protocol 7.3), on
// the port asked for.
func TestServerFlags(t *testing.T) {
	h := newHost(t)
	free := listen(t)
	want := free.Addr().(*net.TCPAddr).Port
	free.Close()
	if want < agent.LowestPort || want > agent.HighestPort {
		want = 0
	}
	port, stop := h.serve("--ip", "127.0.0.1", "--port", strconv.Itoa(want), "--meta", h.path("meta"), "--data", h.path("data"), "--expiretime", "3m0s", "--alivetime", "5m0s", "--verbose")
	if want != 0 && port != want {
		t.Errorf("port %d, want %d", port, want)
	}
	if c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	// host.meta names the port while the server runs.
	meta := filepath.Join(h.path("meta"), "host.meta")
	if got := contentOfPath(t, meta); got != `{"servicePort":`+strconv.Itoa(port)+`}` {
		t.Errorf("host.meta is %s", got)
	}
	if _, err := os.Stat(h.path("data/format")); err != nil {
		t.Error(err)
	}
	stop()
	if got := contentOfPath(t, meta); got != `{"servicePort":0}` {
		t.Errorf("after the end host.meta is %s", got)
	}
	log := contentOfPath(t, filepath.Join(h.home, "logs", "dfserver.log"))
	contains(t, "dfserver.log", log, "INFO sign:", " : start peer server success, host:127.0.0.1, port:"+strconv.Itoa(port)+"\n",
		" : monitor peer server whether is alive, aliveTime:5m0s\n", " : start server gc, expireTime:3m0s\n", " : peer server is shutdown.\n")
}

// TestPortChoice: without --port one of v1's range; a port in use is an error
// with the remedy.
func TestPortChoice(t *testing.T) {
	h := newHost(t)
	port, _ := h.serve("--ip", "127.0.0.1")
	if port < agent.LowestPort || port >= agent.HighestPort {
		t.Errorf("port %d", port)
	}
	other := newHost(t)
	got := other.dfget("server", "--home", other.home, "--ip", "127.0.0.1", "--port", strconv.Itoa(port))
	if got.status != 1 || got.out != "" {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	contains(t, "stderr", got.err, "dfget: the data port "+strconv.Itoa(port)+" cannot be opened: give another one with --port: ", "address already in use")
	got = other.dfget("server", "--home", other.home, "--ip", "192.0.2.1", "--port", "15000")
	contains(t, "stderr", got.err, "dfget: ", "192.0.2.1:15000")
	got = other.dfget("server", "--home", other.home, "--port", "99999")
	contains(t, "stderr", got.err, "dfget: --port 99999: want 0 or a port from 15000 to 65000")
	got = other.dfget("server", "--home", other.home, "--ip", "nowhere")
	contains(t, "stderr", got.err, `dfget: --ip "nowhere": want an address`)
	got = other.dfget("server", "extra")
	if got.status != 1 {
		t.Errorf("exit status %d", got.status)
	}
	contains(t, "stderr", got.err, "dfget: ", "extra")
	got = other.dfget("server", "--hom", "/x")
	contains(t, "stderr", got.err, "unknown flag --hom; did you mean --home?")
}

// TestSecondServer: a home has one server; the second is told at once.
func TestSecondServer(t *testing.T) {
	h := newHost(t)
	h.serve()
	got := h.dfget("server", "--home", h.home, "--port", "20001")
	if got.status != 1 || got.out != "" {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	contains(t, "stderr", got.err, "dfget: a dfget server of the home "+h.home+" runs already, as process "+strconv.Itoa(os.Getpid())+": end it first, or give another home with --home")
}

// TestServerTakesOver: dfget server, too, makes an older one go.
func TestServerTakesOver(t *testing.T) {
	h := newHost(t)
	l := h.launcher(-1, nil) // older than any
	if build().Number == 0 {
		// Tests have no number: the protocol decides.
		l.build.Protocol = 0
	}
	l.agentOf(t, l.build)
	h.serve()
}

// TestMetaEmptied: users are told to empty it (FAQ: data directory); nothing
// minds, and the end writes it anew.
func TestMetaEmptied(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 10)
	_, stop := h.serve()
	if err := os.RemoveAll(filepath.Join(h.home, "meta")); err != nil {
		t.Fatal(err)
	}
	if got := h.get("-p", "source", "-o", h.path("f"), "-u", o.URL+"/f"); got.status != 0 {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	stop()
	if got := contentOfPath(t, filepath.Join(h.home, "meta", "host.meta")); got != `{"servicePort":0}` {
		t.Errorf("host.meta is %s", got)
	}
}

// TestSharedHome: a home over a network file system, whose data another
// machine has locked: this one gets data of its own beside.
func TestSharedHome(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 10)
	data := filepath.Join(h.home, "data")
	if err := os.MkdirAll(h.home, 0o755); err != nil {
		t.Fatal(err)
	}
	theirs, err := store.Open(store.Options{Dir: data, BootID: "another", HostName: "elsewhere", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	_, stop := h.serve()
	if got := h.get("-p", "source", "-o", h.path("f"), "-u", o.URL+"/f"); got.status != 0 {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	stop()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	only(t, h.home, "data", "data-"+name, "logs", "meta")
	// Another process of this machine is in the way: that is an error.
	other := newHost(t)
	mine, err := store.Open(store.Options{Dir: filepath.Join(other.dir, "data"), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	got := other.dfget("server", "--home", other.home, "--data", filepath.Join(other.dir, "data"))
	if got.status != 1 {
		t.Errorf("exit status %d", got.status)
	}
	contains(t, "stderr", got.err, "is in use by ", "end it or give another data directory")
}

// TestLongHome: a home whose path is longer than a socket's may be.
func TestLongHome(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 10)
	h.home = filepath.Join(h.home, strings.Repeat("long/", 40))
	h.serve()
	if got := h.get("-p", "source", "-o", h.path("f"), "-u", o.URL+"/f"); got.status != 0 {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	h.isContent(h.path("f"), o.content)
}

// TestAliveTime: the server ends by itself, well, when nothing is to do.
func TestAliveTime(t *testing.T) {
	h := newHost(t)
	out, err := h.file(), h.file()
	if status := run(t.Context(), []string{"dfget", "server", "--home", h.home, "--ip", "127.0.0.1", "--alivetime", "1ms"}, h.surroundings(out, err)); status != 0 {
		t.Errorf("exit status %d: %s", status, contentOf(t, err))
	}
	contains(t, "stdout", contentOf(t, out), readyLine)
	contains(t, "dfserver.log", contentOfPath(t, filepath.Join(h.home, "logs", "dfserver.log")), "no more task, peer server will stop...", "peer server is shutdown.")
	only(t, filepath.Join(h.temp, "dragonfly-"+strconv.Itoa(os.Geteuid()))) // neither socket nor lock
}

// TestServerKeepsUnreadReadyLine: nobody has to read the ready line.
func TestServerKeepsUnreadReadyLine(t *testing.T) {
	h := newHost(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	complaints := h.file()
	if status := run(t.Context(), []string{"dfget", "server", "--home", h.home, "--ip", "127.0.0.1", "--alivetime", "1ms"}, h.surroundings(w, complaints)); status != 0 {
		t.Errorf("exit status %d: %s", status, contentOf(t, complaints))
	}
}
