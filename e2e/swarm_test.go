// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"dragonfly"
	"dragonfly/internal/swarm"
)

func TestOnePeer(t *testing.T) {
	w := start(t)
	for _, size := range []int{0, 1, 1 << 10, 64 << 10, piece, piece + 1, 5*piece + 3} {
		o := newOrigin(t, size)
		node := w.supernode(swarm.SupernodeOptions{})
		out := w.target(fmt.Sprint(size))
		r := w.download(w.host("--node", node.Addr), o.url(), out)
		w.isContent(out, o.content)
		if r.Length != int64(size) || r.FromSeed != int64(size) || r.Fetched() != int64(size) {
			t.Errorf("%d bytes: result %+v, want all from the seed", size, r)
		}
		if o.bytesSent() != int64(size) {
			t.Errorf("the origin sent %d of %d bytes", o.bytesSent(), size)
		}
		if state := node.Stop(); !state.Success() {
			t.Errorf("supernode ended with %s\n%s", state, node.Log)
		}
	}
}

// TestTwentyPeers: the origin sends each byte once, whatever the number of
// peers that ask at the same time.
func TestTwentyPeers(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 48<<20)
	node := w.supernode(swarm.SupernodeOptions{})
	var all sync.WaitGroup
	results := make([]swarm.Result, 20)
	for i := range results {
		h, out := w.host("--node", node.Addr), w.target(fmt.Sprint("copy", i))
		all.Go(func() {
			var err error
			if results[i], err = h.Download(w.ctx, o.url(), out); err != nil {
				t.Error(err)
				return
			}
			w.isContent(out, o.content)
		})
	}
	all.Wait()
	if o.bytesSent() != int64(len(o.content)) {
		t.Errorf("the origin was read %.2f times", o.ratio())
	}
	var seed, peers int64
	for i, r := range results {
		seed, peers = seed+r.FromSeed, peers+r.FromPeers
		// Who is given another parent in the middle of a block fetches that again.
		if n := int64(len(o.content)); r.FromSource != 0 || r.Fetched() < n || r.Fetched() > n+n/64 {
			t.Errorf("peer %d: %+v", i, r)
		}
	}
	if peers <= seed {
		t.Errorf("%d bytes from the seed, %d from peers: the swarm does not carry its load", seed, peers)
	}
	t.Logf("origin %.2f, seed %.2f, peers %.2f of 20 copies", o.ratio(), float64(seed)/float64(len(o.content)), float64(peers)/float64(len(o.content)))
}

// TestNoSupernode: with none at all dfget downloads from the source and says
// so.
func TestNoSupernode(t *testing.T) {
	w := start(t)
	if err := swarm.Answers(w.ctx, fmt.Sprintf("http://127.0.0.1:%d/_ping", dragonfly.DefaultControlPort)); err == nil {
		t.Skip("a supernode runs on this machine's default port")
	}
	o := newOrigin(t, 2*piece+7)
	out := w.target("file")
	r := w.download(w.host(), o.url(), out)
	w.isContent(out, o.content)
	if r.FromSource != int64(len(o.content)) || o.ratio() != 1 {
		t.Errorf("result %+v, the origin was read %.2f times", r, o.ratio())
	}
}

// TestResumeFromSource: dfget and its agent are killed at half of the file;
// run again, they fetch the other half only.
func TestResumeFromSource(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 8*piece)
	h, out := w.host("--node", "127.0.0.1:1"), w.target("file")
	j, half := w.midway(h, o, out, 4)
	w.kill(h.Home)
	<-j.done
	w.noTarget(out)
	half.release()
	before := o.bytesSent()
	r := w.download(h, o.url(), out)
	w.isContent(out, o.content)
	again := float64(o.bytesSent()-before) / float64(len(o.content))
	if again > 0.52 || float64(r.Fetched())/float64(len(o.content)) > 0.52 {
		t.Errorf("fetched %.2f of the file the second time: %+v", again, r)
	}
}

// TestResumeFromSwarm is the same with a supernode.
func TestResumeFromSwarm(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 8*piece)
	node := w.supernode(swarm.SupernodeOptions{})
	h, out := w.host("--node", node.Addr), w.target("file")
	j, half := w.midway(h, o, out, 4)
	w.kill(h.Home)
	<-j.done
	w.noTarget(out)
	half.release()
	r := w.download(h, o.url(), out)
	w.isContent(out, o.content)
	if share := float64(r.Fetched()) / float64(len(o.content)); share > 0.52 {
		t.Errorf("fetched %.2f of the file the second time: %+v", share, r)
	}
	if o.ratio() != 1 {
		t.Errorf("the origin was read %.2f times", o.ratio())
	}
}

// TestSupernodeRestart: the supernode is killed in the middle and comes back;
// everybody finishes, no verified piece is fetched twice, and the origin is
// not read again.
func TestSupernodeRestart(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 12*piece)
	control, data := w.ports()
	options := swarm.SupernodeOptions{Control: control, Data: data}
	node := w.supernode(options)
	half := o.holdAt(6 * piece)
	const n = 4
	var hosts []swarm.Host
	var jobs []*job
	var outs []string
	for i := range n {
		h, out := w.host("--node", node.Addr), w.target(fmt.Sprint("copy", i))
		hosts, outs = append(hosts, h), append(outs, out)
		jobs = append(jobs, w.background(h, o.url(), out))
	}
	w.reached(half)
	for i, h := range hosts {
		w.until(fmt.Sprintf("half of the file at peer %d", i), func() bool { return verified(h) >= 6 })
	}
	node.Kill()
	w.supernode(options)
	half.release()
	for i, j := range jobs {
		r := w.result(j)
		w.isContent(outs[i], o.content)
		if r.Fetched() > int64(len(o.content))+piece/2 {
			t.Errorf("peer %d fetched pieces twice: %+v", i, r)
		}
	}
	if o.ratio() > 1.05 {
		t.Errorf("the origin was read %.2f times", o.ratio())
	}
}

// TestMigration: the supernode of a task dies for good in mid-download; the
// peer goes on with the next one and keeps all its pieces (FAQ: HA of
// supernode).
func TestMigration(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 8*piece)
	nodes := map[string]*swarm.Supernode{}
	var members []dragonfly.Member
	for range 2 {
		s := w.supernode(swarm.SupernodeOptions{Home: fmt.Sprintf("%s/node%d", w.dir, len(nodes))})
		nodes[s.Addr] = s
		m, err := dragonfly.ParseMember(s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	h, out := w.host("--node", members[0].Addr+","+members[1].Addr), w.target("file")
	owner := dragonfly.Rank(dragonfly.Request{URL: o.url()}.TaskID(), members)[0]
	j, half := w.midway(h, o, out, 4)
	nodes[owner.Addr].Kill()
	half.release()
	r := w.result(j)
	w.isContent(out, o.content)
	if r.Fetched() > int64(len(o.content))+piece/2 {
		t.Errorf("pieces were fetched twice: %+v", r)
	}
	if o.ratio() > 1.05 {
		t.Errorf("the origin was read %.2f times: the next supernode did not take from the peer what it had", o.ratio())
	}
}

// TestTwoAtOnce: two dfgets of one account for one URL are one download.
func TestTwoAtOnce(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 4*piece)
	h := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	begin := o.holdAt(0)
	one, two := w.target("one"), w.target("two")
	first := w.background(h, o.url(), one)
	w.reached(begin)
	second := w.background(h, o.url(), two)
	w.until("both are known to the agent", func() bool { return strings.Count(log(h), "get cmd params:") == 2 })
	begin.release()
	a, b := w.result(first), w.result(second)
	w.isContent(one, o.content)
	w.isContent(two, o.content)
	if o.ratio() != 1 {
		t.Errorf("the origin was read %.2f times", o.ratio())
	}
	if n := max(a.Fetched(), b.Fetched()); n != int64(len(o.content)) {
		t.Errorf("fetched %d bytes, want the file once: %+v, %+v", n, a, b)
	}
	if n := signedPieces(h); n != 2*4 {
		t.Errorf("%d pieces in the log, want 4 for each of the two signs", n)
	}
}

// TestTwoURLsOneFile: the later one to finish is the file, whole.
func TestTwoURLsOneFile(t *testing.T) {
	w := start(t)
	o, p := newOrigin(t, 2*piece), newOrigin(t, 2*piece)
	p.content = pattern(2, 2*piece)
	h, out := w.host("--node", w.supernode(swarm.SupernodeOptions{}).Addr), w.target("file")
	a, b := w.background(h, o.url(), out), w.background(h, p.url(), out)
	w.result(a)
	w.result(b)
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, o.content) && !bytes.Equal(got, p.content) {
		t.Error("the target is a mixture")
	}
	w.nothingBut(out)
}

// TestChunkedOrigin: no length, no ranges, no validator.
func TestChunkedOrigin(t *testing.T) {
	w := start(t)
	for _, size := range []int{0, 100, 2*piece + 11} {
		o := newOrigin(t, size)
		o.chunked, o.noRanges, o.etag = true, true, ""
		node := w.supernode(swarm.SupernodeOptions{})
		out := w.target(fmt.Sprint(size))
		r := w.download(w.host("--node", node.Addr), o.url(), out)
		w.isContent(out, o.content)
		if r.Length != int64(size) {
			t.Errorf("length %d, want %d", r.Length, size)
		}
	}
}

// TestEachAnswerDifferent: whatever the origin does, all peers of one swarm
// get the same bytes.
func TestEachAnswerDifferent(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 3*piece)
	o.fresh, o.etag, o.noRanges = true, "", true
	node := w.supernode(swarm.SupernodeOptions{})
	begin := o.holdAt(0)
	var jobs []*job
	var outs []string
	for i := range 3 {
		outs = append(outs, w.target(fmt.Sprint("copy", i)))
		jobs = append(jobs, w.background(w.host("--node", node.Addr), o.url(), outs[i]))
	}
	w.reached(begin)
	begin.release()
	var first []byte
	for i, j := range jobs {
		w.result(j)
		got, err := os.ReadFile(outs[i])
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = got
		}
		if len(got) != len(o.content) || !bytes.Equal(got, first) {
			t.Errorf("copy %d differs from copy 0", i)
		}
	}
}

// TestAgentStopped: an agent that does not run for a while holds up nobody
// else, and finishes when it runs again.
func TestAgentStopped(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 8*piece)
	node := w.supernode(swarm.SupernodeOptions{})
	h, out := w.host("--node", node.Addr), w.target("stopped")
	half := o.holdAt(4 * piece)
	j := w.background(h, o.url(), out)
	w.reached(half)
	w.until("some pieces", func() bool { return verified(h) >= 2 })
	w.signal(h.Home, syscall.SIGSTOP)
	half.release()
	other := w.target("other")
	w.download(w.host("--node", node.Addr), o.url(), other)
	w.isContent(other, o.content)
	w.signal(h.Home, syscall.SIGCONT)
	w.result(j)
	w.isContent(out, o.content)
	if o.ratio() != 1 {
		t.Errorf("the origin was read %.2f times", o.ratio())
	}
}
