// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dragonfly"
	"dragonfly/peer"
)

const (
	testURL  = "http://127.0.0.1:1/dir/file?x=1"
	testSign = "17818-1795376938.013"
)

func testJob(url string) Job {
	node, err := dragonfly.ParseMember("127.0.0.1:20002")
	if err != nil {
		panic(err)
	}
	return Job{Sign: testSign, Request: dragonfly.Request{URL: url}, Pattern: peer.PatternP2P, Nodes: []dragonfly.Member{node},
		Argv: []string{"dfget", "-u", url}, Config: []byte(`{"url":"` + url + `"}`), Target: "/out/a.bin", TempTarget: "/out/dfget-x.tmp-1"}
}

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

// messages are the lines of a job log without their time.
func messages(t *testing.T, log string) (out []string) {
	t.Helper()
	for line := range strings.Lines(log) {
		if len(line) < len("2006-01-02 15:04:05.000 ") {
			t.Fatalf("line %q", line)
		}
		if _, err := time.Parse("2006-01-02 15:04:05.000 ", line[:24]); err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimSuffix(line[24:], "\n"))
	}
	return out
}

// TestJob: the whole of a download, with v1's lines for the user and in the
// log (v1-protocol 9).
func TestJob(t *testing.T) {
	e, p := newFakeEngine(t), testPlace(t)
	want := content(10 << 20)
	e.contents[testURL] = want
	e.script = func(o peer.Observer, id dragonfly.TaskID) {
		node, _ := dragonfly.ParseMember("127.0.0.1:20002")
		layout := dragonfly.Layout{Length: int64(len(want)), PieceLen: dragonfly.PieceLenFor(int64(len(want)))}
		o.Registered(node, dragonfly.TaskInfo{Task: id, Layout: layout}, 7*time.Millisecond, nil)
		piece := func(n dragonfly.PieceNum, parent dragonfly.Parent) peer.PieceDone {
			from, to := layout.Extent(n)
			return peer.PieceDone{Layout: layout, Bytes: to - from,
				Assignment: dragonfly.Assignment{Task: id, Piece: n, Span: dragonfly.Span{From: from, To: to}, Parent: parent}}
		}
		o.Piece(piece(2, dragonfly.Parent{Kind: dragonfly.ParentSeed, CID: "cdnnode:127.0.0.1~" + id.String()}))
		o.PieceFailed(piece(0, dragonfly.Parent{Kind: dragonfly.ParentPeer, CID: "127.0.0.2-1-1.000",
			Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:20001")}}), dragonfly.FailReset, errBroken)
		o.PieceFailed(piece(0, dragonfly.Parent{}), dragonfly.FailCanceled, errBroken) // says nothing
		o.Piece(piece(0, dragonfly.Parent{Kind: dragonfly.ParentSeed}))
		o.Piece(piece(1, dragonfly.Parent{Kind: dragonfly.ParentSource}))
	}
	var linked []dragonfly.TaskID
	a := startAgent(t, p, e, func(o *Options) { o.Linked = func(id dragonfly.TaskID) { linked = append(linked, id) } })
	c := dial(t, p, testBuild)
	var lines []string
	result, file, err := c.Run(t.Context(), testJob(testURL), Listener{Line: func(s string) { lines = append(lines, s) }})
	if err != nil || result.Error != nil {
		t.Fatal(err, result.Error)
	}
	defer file.Close()
	if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := file.Write([]byte("x")); err == nil {
		t.Error("the descriptor can be written")
	}
	c.Placed(Placed{Source: "/out/dfget-x.tmp-1", Target: "/out/a.bin", Moved: 20 * time.Millisecond, Cost: 671 * time.Millisecond, Linked: true})

	a.stop()
	id := dragonfly.Request{URL: testURL}.TaskID()
	if len(linked) != 1 || linked[0] != id {
		t.Errorf("links told: %v", linked)
	}
	if diff := cmp.Diff([]string{"client:127.0.0.9 connected to node:127.0.0.1:20002", "start download by dragonfly..."}, lines); diff != "" {
		t.Error(diff)
	}
	task := id.String()
	res := `{"code":200,"msg":"success","data":{"taskId":"` + task + `","fileLength":10485760,"pieceSize":4194304,"cdnSource":"supernode","asSeed":false,"seedTaskID":""}}`
	line := func(dst, span string, result, status, size, n int) string {
		return fmt.Sprintf(`downloading piece:{"taskID":"%s","superNode":"127.0.0.1:20002","dstCid":"%s","range":"%s","result":%d,"status":%d,"pieceSize":%d,"pieceNum":%d}`,
			task, dst, span, result, status, size, n)
	}
	var wantLog []string
	for _, m := range []string{
		`get cmd params:["dfget" "-u" "` + testURL + `"]`,
		`get init config:{"url":"` + testURL + `"}`,
		`target file path:/out/a.bin`,
		`runtimeVariable: {"MetaPath":"/home/h/meta/host.meta","SystemDataDir":"/home/h/data","DataDir":"/home/h/data","RealTarget":"/out/a.bin","StreamMode":false,"TargetDir":"/out","TempTarget":"/out/dfget-x.tmp-1","Cid":"127.0.0.9-` + testSign + `","TaskURL":"` + testURL + `","TaskFileName":"a.bin-` + testSign + `","LocalIP":"127.0.0.9","PeerPort":20001,"FileLength":-1,"DataExpireTime":180000000000,"ServerAliveTime":300000000000}`,
		`use peer server on port:20001`,
		`do register to one of config:[127.0.0.1:20002=1]`,
		`do register to 127.0.0.1:20002, res:` + res + ` error:<nil>`,
		`do register result:` + res + ` and cost:0.007s`,
		line("", "", 502, 700, 0, 0),
		line("cdnnode:127.0.0.1~"+task, "8388608-12582911", 503, 701, 4194304, 2),
		"ERRO" + `failed to read piece cont(0-4194303) from dst:127.0.0.2:20001, wait 0 ms: reset: broken`,
		line("127.0.0.2-1-1.000", "0-4194303", 500, 701, 4194304, 0),
		line("cdnnode:127.0.0.1~"+task, "0-4194303", 503, 701, 4194304, 0),
		line("source:127.0.0.1:1", "4194304-8388607", 503, 701, 4194304, 1),
		`move src:/out/dfget-x.tmp-1 to dst:/out/a.bin result:true cost:0.020`,
		`download successfully from dragonfly`,
		`download SUCCESS cost:0.671s length:10485760`,
	} {
		level := "INFO"
		if rest, ok := strings.CutPrefix(m, "ERRO"); ok {
			level, m = "ERRO", rest
		}
		wantLog = append(wantLog, level+" sign:"+testSign+" : "+m)
	}
	if diff := cmp.Diff(wantLog, messages(t, a.log.String())); diff != "" {
		t.Error(diff)
	}
}

// TestNamesInPieceLines: the supernode as the FAQ's log shows it, and a parent
// that is never nobody.
func TestNamesInPieceLines(t *testing.T) {
	for addr, want := range map[string]string{"127.0.0.1:8002": "127.0.0.1", "sn.example:8002": "sn.example", "127.0.0.1:20002": "127.0.0.1:20002", "[fd00::1]:8002": "fd00::1"} {
		if got := superNode(addr); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	r := &Record{job: testJob("http://user:pw@o.example:81/f")}
	task := r.job.Request.TaskID()
	for _, v := range []struct {
		parent dragonfly.Parent
		want   string
	}{
		{dragonfly.Parent{Kind: dragonfly.ParentPeer, CID: "127.0.0.2-1-1.000"}, "127.0.0.2-1-1.000"},
		{dragonfly.Parent{Kind: dragonfly.ParentSeed}, "cdnnode:10.0.0.1~" + task.String()},
		{dragonfly.Parent{Kind: dragonfly.ParentSource}, "source:o.example:81"},
		{dragonfly.Parent{Kind: dragonfly.ParentPeer, Addrs: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:20001")}}, "10.0.0.2:20001"},
		{dragonfly.Parent{Kind: dragonfly.ParentPeer}, "peer"},
		{dragonfly.Parent{}, "unknown"},
	} {
		if got := r.dstCid(dragonfly.Assignment{Task: task, Parent: v.parent}, "10.0.0.1:8002"); got != v.want {
			t.Errorf("%+v: %s, want %s", v.parent, got, v.want)
		}
	}
}

// TestLogOfFallbacks: what v1 wrote when it went to the source.
func TestLogOfFallbacks(t *testing.T) {
	node, _ := dragonfly.ParseMember("127.0.0.1:20002")
	refused := errors.New("connection refused")
	for _, v := range []struct {
		name   string
		script func(peer.Observer, dragonfly.TaskID)
		lines  []string
		log    []string
	}{
		{"no supernode takes it", func(o peer.Observer, _ dragonfly.TaskID) {
			o.Registered(node, dragonfly.TaskInfo{}, 0, refused)
			o.Fallback(peer.ReasonRegister, refused)
		}, []string{"start download a.bin from the source station"}, []string{
			"INFO do register to 127.0.0.1:20002, res:null error:connection refused",
			`ERRO register fail:{"Code":-100,"Msg":"connection refused"}`,
			`WARN register fail but try to download from source, reason:1({"Code":-100,"Msg":"connection refused"})`,
			"INFO start download a.bin from the source station",
		}},
		{"the swarm is lost", func(o peer.Observer, _ dragonfly.TaskID) {
			o.Migrated(node)
			o.Fallback(peer.ReasonDownload, refused)
		}, []string{
			"migrated to node:127.0.0.1:20002",
			"failed to download by dragonfly: failed to download with p2p pattern, reason: 3, and start try to download from source",
			"start download a.bin from the source station",
		}, []string{
			"INFO migrated to node:127.0.0.1:20002",
			`ERRO failed to download piece: {"Code":-100,"Msg":"connection refused"}`,
			"ERRO failed to download by dragonfly: failed to download with p2p pattern, reason: 3, and start try to download from source",
			"INFO start download a.bin from the source station",
		}},
		{"no supernode at all", func(o peer.Observer, _ dragonfly.TaskID) { o.Fallback(peer.ReasonNoNodes, nil) },
			[]string{"start download a.bin from the source station"}, []string{"INFO start download a.bin from the source station"}},
		{"the source is forbidden", func(o peer.Observer, _ dragonfly.TaskID) {
			o.Fallback(peer.ReasonNoSource+peer.ReasonRegister, refused)
		}, nil, []string{`ERRO register fail:{"Code":-100,"Msg":"connection refused"}`}},
	} {
		t.Run(v.name, func(t *testing.T) {
			e, p := newFakeEngine(t), testPlace(t)
			e.script = v.script
			e.failures[testURL] = &dragonfly.Error{Kind: dragonfly.NotFound, Message: "the source answers 404", Status: 404}
			a := startAgent(t, p, e)
			c := dial(t, p, testBuild)
			var lines []string
			result, file, err := c.Run(t.Context(), testJob(testURL), Listener{Line: func(s string) { lines = append(lines, s) }})
			if err != nil || file != nil || result.Error == nil || result.Error.Kind != dragonfly.NotFound || result.Error.Status != 404 {
				t.Fatalf("%+v, %v, %v", result, file, err)
			}
			c.Placed(Placed{Cost: 96 * time.Millisecond, Error: result.Error.Message})
			if diff := cmp.Diff(v.lines, lines); diff != "" {
				t.Error(diff)
			}
			got := messages(t, a.log.String())
			for i := range got {
				got[i] = strings.Replace(got[i], "sign:"+testSign+" : ", "", 1)
			}
			want := append(append([]string{}, v.log...), "INFO download FAIL cost:0.096s length:0 reason:0 error:the source answers 404")
			if diff := cmp.Diff(want, got[6:]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFailureLeavesTheAgent: jobs that fail, are invalid or make no sense do
// not disturb the next one.
func TestFailureLeavesTheAgent(t *testing.T) {
	e, p := newFakeEngine(t), testPlace(t)
	e.contents[testURL] = content(10)
	e.failures["http://127.0.0.1:1/broken"] = errBroken
	startAgent(t, p, e)
	for url, kind := range map[string]dragonfly.Kind{"http://127.0.0.1:1/broken": dragonfly.Internal, "http://127.0.0.1:1/invalid": dragonfly.Invalid} {
		result, _, err := dial(t, p, testBuild).Run(t.Context(), testJob(url), Listener{})
		if err != nil || result.Error == nil || result.Error.Kind != kind {
			t.Errorf("%s: %+v, %v", url, result, err)
		}
	}
	job := testJob(testURL)
	job.Sign = "x\n2026-01-01 00:00:00.000 INFO sign:1-1.000 : forged"
	if _, _, err := dial(t, p, testBuild).Run(t.Context(), job, Listener{}); dragonfly.KindOf(err) != dragonfly.ProtocolMismatch {
		t.Errorf("a forged sign: %v", err)
	}
	for _, garbage := range []string{"", "GET / HTTP/1.1\r\n\r\n", "{}\n", `{"protocol":1}` + "\n{}\n", `{"protocol":1}` + "\n" + strings.Repeat("x", longestLine+1)} {
		u, err := net.Dial("unix", p.Sockets[0])
		if err != nil {
			t.Fatal(err)
		}
		u.Write([]byte(garbage)) // the agent may close in the middle
		u.Close()
	}
	result, file, err := dial(t, p, testBuild).Run(t.Context(), testJob(testURL), Listener{})
	if err != nil || result.Error != nil {
		t.Fatal(err, result.Error)
	}
	file.Close()
}

// TestStream: the bytes come through a pipe, and the result after them.
func TestStream(t *testing.T) {
	e, p := newFakeEngine(t), testPlace(t)
	e.contents[testURL] = content(3 << 20)
	startAgent(t, p, e)
	job := testJob(testURL)
	job.Stream = true
	got := make(chan []byte, 1)
	result, file, err := dial(t, p, testBuild).Run(t.Context(), job, Listener{Stream: func(pipe *os.File) {
		go func() {
			defer pipe.Close()
			b, err := io.ReadAll(pipe)
			if err != nil {
				t.Error(err)
			}
			got <- b
		}()
	}})
	if err != nil || result.Error != nil || file != nil {
		t.Fatal(err, result.Error, file)
	}
	if b := <-got; !bytes.Equal(b, e.contents[testURL]) {
		t.Errorf("%d bytes", len(b))
	}
	// A reader that goes away ends the stream and the job, not the agent.
	result, _, err = dial(t, p, testBuild).Run(t.Context(), job, Listener{Stream: func(pipe *os.File) { pipe.Close() }})
	if err != nil || result.Error == nil {
		t.Errorf("%+v, %v", result, err)
	}
}

// TestStreamThatJustEnded: a download that ends in the moment in which its
// bytes are asked for has no reader yet; it is asked for once more. If there is
// none at all the job fails, and the agent goes on.
func TestStreamThatJustEnded(t *testing.T) {
	job := testJob(testURL)
	job.Stream = true
	for _, nothing := range []int{1, 2} {
		e, p := newFakeEngine(t), testPlace(t)
		e.contents[testURL], e.noReader = content(1000), nothing
		startAgent(t, p, e)
		got := make(chan []byte, 1)
		c := dial(t, p, testBuild)
		result, _, err := c.Run(t.Context(), job, Listener{Stream: func(pipe *os.File) {
			go func() {
				defer pipe.Close()
				b, _ := io.ReadAll(pipe)
				got <- b
			}()
		}})
		if err != nil || (result.Error == nil) != (nothing == 1) {
			t.Fatalf("%d times nothing: %v, %v", nothing, result.Error, err)
		}
		if b := <-got; nothing == 1 && !bytes.Equal(b, e.contents[testURL]) {
			t.Errorf("%d bytes", len(b))
		}
		c.Placed(Placed{})
		dial(t, p, testBuild)
	}
}

// begun waits until n jobs wait for a task.
func begun(t *testing.T, e *fakeEngine, url string, n int) {
	t.Helper()
	for e.waiting(url) != n {
		if t.Context().Err() != nil {
			t.Fatal("the job does not begin")
		}
		runtime.Gosched()
	}
}

// TestTwoClientsOneTask: one download for both; when one client goes away the
// other gets the content all the same.
func TestTwoClientsOneTask(t *testing.T) {
	e, p := newFakeEngine(t), testPlace(t)
	e.contents[testURL] = content(1000)
	gate := e.gate(testURL)
	a := startAgent(t, p, e)
	ctx, cancel := context.WithCancelCause(t.Context())
	var wg sync.WaitGroup
	for i := range 3 {
		ctx := ctx
		if i > 0 {
			ctx = t.Context()
		}
		c := dial(t, p, testBuild)
		wg.Go(func() {
			result, file, err := c.Run(ctx, testJob(testURL), Listener{})
			if i == 0 {
				if !errors.Is(err, errBroken) {
					t.Errorf("cancelled: %v", err)
				}
				return
			}
			if err != nil || result.Error != nil {
				t.Error(err, result.Error)
				return
			}
			defer file.Close()
			if got, _ := io.ReadAll(file); !bytes.Equal(got, e.contents[testURL]) {
				t.Errorf("%d bytes", len(got))
			}
			c.Placed(Placed{})
		})
	}
	begun(t, e, testURL, 3)
	cancel(errBroken)
	begun(t, e, testURL, 2)
	close(gate)
	wg.Wait()
	a.stop()
	if e.runs != 1 {
		t.Errorf("%d downloads, want 1", e.runs)
	}
	if n := strings.Count(a.log.String(), "download FAIL"); n != 1 || strings.Count(a.log.String(), "download SUCCESS") != 2 {
		t.Errorf("log:\n%s", a.log.String())
	}
}

// TestClosedSocketCancels: with its only client a job ends.
func TestClosedSocketCancels(t *testing.T) {
	e, p := newFakeEngine(t), testPlace(t)
	e.gate(testURL)
	a := startAgent(t, p, e)
	c := dial(t, p, testBuild)
	if err := c.c.send(order{Job: new(testJob(testURL))}, nil); err != nil {
		t.Fatal(err)
	}
	begun(t, e, testURL, 1)
	c.Close()
	begun(t, e, testURL, 0)
	for !strings.Contains(a.log.String(), "error:the download was cancelled by the user") {
		if t.Context().Err() != nil {
			t.Fatalf("log:\n%s", a.log.String())
		}
	}
}

// TestConsole: a client that wants them gets its job's log lines.
func TestConsole(t *testing.T) {
	e, p := newFakeEngine(t), testPlace(t)
	startAgent(t, p, e)
	job := testJob(testURL)
	job.Console = true
	var log strings.Builder
	_, file, err := dial(t, p, testBuild).Run(t.Context(), job, Listener{Log: func(s string) { log.WriteString(s) }})
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if got := messages(t, log.String()); len(got) == 0 || !strings.HasPrefix(got[0], "INFO sign:"+testSign+" : get cmd params") {
		t.Errorf("%q", got)
	}
}

// TestLimits: a job's total limit is the agent's from then on.
func TestLimits(t *testing.T) {
	e, p := newFakeEngine(t), testPlace(t)
	var limits []dragonfly.Rate
	a := startAgent(t, p, e, func(o *Options) { o.Limit = func(r dragonfly.Rate) { limits = append(limits, r) } })
	for _, total := range []dragonfly.Rate{0, 25 << 20} {
		job := testJob(testURL)
		job.TotalLimit = total
		c := dial(t, p, testBuild)
		_, file, err := c.Run(t.Context(), job, Listener{})
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		c.Close()
	}
	a.stop()
	if len(limits) != 1 || limits[0] != 25<<20 {
		t.Errorf("limits %v", limits)
	}
}

// TestStaleSocket: what a dead agent left is replaced by who owns the place,
// and is no agent to a client.
func TestStaleSocket(t *testing.T) {
	p := testPlace(t)
	if _, err := Dial(t.Context(), p, testBuild); !errors.Is(err, ErrGone) {
		t.Fatalf("no socket: %v", err)
	}
	if err := privateDir(p.Sockets[0]); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.Sockets[0], Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	if _, err := Dial(t.Context(), p, testBuild); !errors.Is(err, ErrGone) {
		t.Fatalf("stale socket: %v", err)
	}
	startAgent(t, p, newFakeEngine(t))
	dial(t, p, testBuild)
}

// TestLongHome: a home's path may be longer than a socket's.
func TestLongHome(t *testing.T) {
	home := filepath.Join(t.TempDir(), strings.Repeat("d", 120), strings.Repeat("e", 120))
	if err := os.MkdirAll(home, 0o755); err != nil {
		t.Fatal(err)
	}
	temp, err := os.MkdirTemp("", "df")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	p, err := PlaceOf(home, filepath.Join(home, "run"), temp)
	if err != nil {
		t.Fatal(err)
	}
	startAgent(t, p, newFakeEngine(t))
	dial(t, p, testBuild)
	// The same home by another name is the same place.
	link := filepath.Join(temp, "link")
	if err := os.Symlink(home, link); err != nil {
		t.Fatal(err)
	}
	q, err := PlaceOf(link, "", temp)
	if err != nil || q.lock != p.lock {
		t.Errorf("%+v, %v", q, err)
	}
	dial(t, q, testBuild)
	other, err := PlaceOf(filepath.Dir(home), "", temp)
	if err != nil || other.lock == p.lock {
		t.Errorf("another home: %+v, %v", other, err)
	}
}

// TestForeignDirectory: a directory that others can write to, or a link, is
// not used for sockets.
func TestForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	open, link := filepath.Join(dir, "open"), filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{open, link} {
		if err := privateDir(filepath.Join(d, "x.sock")); dragonfly.KindOf(err) != dragonfly.Denied {
			t.Errorf("%s: %v", d, err)
		}
	}
	if os.Getuid() == 0 {
		if err := os.Chown(dir, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if err := ownDir(dir); dragonfly.KindOf(err) != dragonfly.Denied {
			t.Errorf("another's: %v", err)
		}
	}
	private := filepath.Join(open, "dragonfly", "x.sock")
	if err := privateDir(private); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Dir(private)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestOneOwner: the place belongs to one agent at a time; who waits for it
// gets it when the other ends.
func TestOneOwner(t *testing.T) {
	p := testPlace(t)
	first, err := p.Own(nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	close(done)
	if _, err := p.Own(done); dragonfly.KindOf(err) != dragonfly.Unavailable {
		t.Errorf("a second owner: %v", err)
	}
	next := make(chan *Lock)
	go func() {
		l, err := p.Own(nil)
		if err != nil {
			t.Error(err)
		}
		next <- l
	}()
	first.Release()
	(<-next).Release()
	if _, err := os.Stat(p.lock); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock's file is still there: %v", err)
	}
}

// TestLockIsExclusive: though its file comes and goes, one at a time has it.
func TestLockIsExclusive(t *testing.T) {
	p := testPlace(t)
	var wg sync.WaitGroup
	var inside atomic.Int32
	for range 8 {
		wg.Go(func() {
			for range 50 {
				l, err := p.Starting(t.Context().Done())
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				runtime.Gosched()
				inside.Add(-1)
				l.Release()
			}
		})
	}
	wg.Wait()
}

// TestHandOver: a newer client makes an older agent go, whose jobs go on at
// the next one; an older client is served.
func TestHandOver(t *testing.T) {
	e, p := newFakeEngine(t), testPlace(t)
	e.contents[testURL] = content(100)
	gate := e.gate(testURL)
	a := startAgent(t, p, e)

	older := dial(t, p, Build{"older", Protocol, 99})
	if older.Older() {
		t.Error("a newer agent is called older")
	}
	if err := older.HandOver(); dragonfly.KindOf(err) != dragonfly.ProtocolMismatch {
		t.Errorf("an older client takes over: %v", err)
	}
	ended := make(chan error, 1)
	job := dial(t, p, testBuild)
	go func() {
		_, _, err := job.Run(context.Background(), testJob(testURL), Listener{})
		ended <- err
	}()
	begun(t, e, testURL, 1)

	newer := Build{"newer", Protocol, 101}
	c := dial(t, p, newer)
	if !c.Older() {
		t.Fatal("an older agent is not called so")
	}
	if err := c.HandOver(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, ErrGone) {
		t.Errorf("an open job: %v", err)
	}
	a.stop()
	if _, err := os.Stat(p.Sockets[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if !strings.Contains(a.log.String(), "takes over") || strings.Contains(a.log.String(), "FAIL") {
		t.Errorf("log:\n%s", a.log.String())
	}
	close(gate)
	startAgent(t, p, e, func(o *Options) { o.Build = newer })
	_, file, err := dial(t, p, testBuild).Run(t.Context(), testJob(testURL), Listener{}) // the older one is served
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
}

func TestCompareBuilds(t *testing.T) {
	for _, v := range []struct {
		a, b Build
		want int
	}{
		{Build{"", 1, 5}, Build{"", 1, 5}, 0},
		{Build{"", 1, 6}, Build{"", 1, 5}, 1},
		{Build{"", 1, 6}, Build{"", 2, 5}, -1},
		{Build{"", 2, 0}, Build{"", 1, 5}, 1},
		{Build{"", 1, 0}, Build{"", 1, 5}, 0}, // not known: as new as any
		{Build{"", 1, 5}, Build{"", 1, 0}, 0},
	} {
		if got := v.a.Compare(v.b); got != v.want {
			t.Errorf("%v to %v: %d, want %d", v.a, v.b, got, v.want)
		}
	}
}

// TestAliveTime: the agent goes when it had nothing to do for its time, not
// before, and counts from the last work.
func TestAliveTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newFakeEngine(t)
		own := &safeBuffer{}
		a := &Agent{o: Options{Engine: e, Alive: 5 * time.Minute, Log: discard(own)}, busy: time.Now(), retired: make(chan struct{})}
		l, err := testPlace(t).listen()
		if err != nil {
			t.Fatal(err)
		}
		a.listener = l
		began := time.Now()
		go a.watch()
		done := a.occupy() // a client at work
		step := time.NewTimer(7 * time.Minute)
		<-step.C
		done()
		<-a.retired
		if got := time.Since(began); got != 12*time.Minute {
			t.Errorf("it went after %s, want 7m+5m", got)
		}
		if !strings.Contains(own.String(), "no more task, peer server will stop...") || !strings.Contains(own.String(), "aliveTime:5m0s") {
			t.Errorf("log: %s", own.String())
		}
	})
}

// busyDownload changes all the time.
type busyDownload struct {
	fakeDownload
	asked int
}

func (d *busyDownload) Changed() <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(time.Millisecond, func() { close(c) })
	return c
}

func (d *busyDownload) Progress() peer.Progress {
	d.asked++
	return peer.Progress{Done: int64(d.asked)}
}

// TestProgressRate: progress is told at most ten times a second, and only when
// there is some.
func TestProgressRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second+50*time.Millisecond)
		defer cancel()
		told := 0
		report(ctx, &busyDownload{}, func(peer.Progress) { told++ })
		if told < 9 || told > 10 {
			t.Errorf("%d reports in a second", told)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		told = 0
		still := &fakeDownload{t: &fakeTask{e: &fakeEngine{}, done: make(chan struct{})}}
		report(ctx, still, func(peer.Progress) { told++ })
		if told != 1 {
			t.Errorf("%d reports of nothing", told)
		}
	})
}

// TestHostMeta: v1's file, in a directory that users may empty.
func TestHostMeta(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "meta")
	for _, v := range []struct {
		port int
		want string
	}{{20301, `{"servicePort":20301}`}, {0, `{"servicePort":0}`}} {
		if err := writeHostMeta(dir, v.port); err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(filepath.Join(dir, "host.meta")); err != nil || string(raw) != v.want {
			t.Errorf("%q, %v", raw, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"http://o/f?a=1&b=2":                       "http://o/f?a=1&b=2",
		"https://user:pw@o:1/f@x?y=z":              "https://***@o:1/f@x?y=z",
		"https://token@o/f":                        "https://***@o/f",
		"http://o/f?X-Amz-Signature=abc&sig=1&k=2": "http://o/f?X-Amz-Signature=***&sig=***&k=2",
		"http://o/f?access%5Ftoken=abc&design=":    "http://o/f?access%5Ftoken=***&design=",
		"no url":                                   "no url",
		"http://o":                                 "http://o",
	} {
		if got := RedactURL(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	got := RedactArgs([]string{"dfget", "--header", "Authorization: Bearer x", "--header=Cookie:y", "-u", "http://a:b@o/f", "--url=http://a:b@o/f?token=t", "--header", "empty"})
	want := []string{"dfget", "--header", "Authorization:***", "--header=Cookie:***", "-u", "http://***@o/f", "--url=http://***@o/f?token=***", "--header", "empty"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
