// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"dragonfly"
	"dragonfly/internal/swarm"
)

// grep is the recipe as users run it.
func (w *world) grep(pattern string, h swarm.Host) []string {
	w.Helper()
	out, err := exec.CommandContext(w.ctx, "grep", "-e", pattern, h.Home+"/logs/dfclient.log").Output()
	if err != nil {
		w.Fatalf("grep %q: %v\n%s", pattern, err, log(h))
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// logLine is v1's form of a line of dfclient.log (v1-protocol 9).
var logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBU|INFO|WARN|ERRO) sign:(\d+-\d+\.\d{3}) : (.*)$`)

// TestFAQBlockPieceDistributed: the log says of each piece where it came
// from: dstCid begins with cdnnode for the supernode, and is the cid of
// another dfget otherwise (FAQ: block piece distributed among dfgets nodes).
func TestFAQBlockPieceDistributed(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 3*piece)
	node := w.supernode(swarm.SupernodeOptions{})
	first, second := w.host("--node", node.Addr), w.host("--node", node.Addr)
	one, two := w.target("one"), w.target("two")
	w.download(first, o.url(), one)
	r := w.download(second, o.url(), two)
	w.isContent(two, o.content)
	task := dragonfly.Request{URL: o.url()}.TaskID().String()
	for _, h := range []swarm.Host{first, second} {
		numbers := map[int]bool{}
		for _, line := range w.grep("downloading piece", h) {
			m := logLine.FindStringSubmatch(line)
			if m == nil {
				t.Errorf("not v1's form: %s", line)
				continue
			}
			var p struct {
				TaskID    string `json:"taskID"`
				SuperNode string `json:"superNode"`
				DstCid    string `json:"dstCid"`
				Range     string `json:"range"`
				Status    int    `json:"status"`
				PieceNum  int    `json:"pieceNum"`
			}
			if err := json.Unmarshal([]byte(strings.TrimPrefix(m[3], "downloading piece:")), &p); err != nil {
				t.Errorf("%v: %s", err, line)
				continue
			}
			if p.Status != 701 {
				continue
			}
			numbers[p.PieceNum] = true
			fromSupernode := strings.HasPrefix(p.DstCid, "cdnnode:") && strings.HasSuffix(p.DstCid, "~"+task)
			fromPeer := strings.HasPrefix(p.DstCid, first.IP+"-")
			if p.TaskID != task || h.IP == first.IP && !fromSupernode || h.IP == second.IP && !fromSupernode && !fromPeer {
				t.Errorf("piece of %s: %+v", h.IP, p)
			}
			if h.IP == second.IP && fromPeer != (r.FromPeers > 0) && r.FromSeed == 0 {
				t.Errorf("log and result disagree: %+v, %+v", p, r)
			}
		}
		if len(numbers) != 3 {
			t.Errorf("%s logged the pieces %v, want 3", h.IP, numbers)
		}
	}
}

// TestFAQLogsOfATask: a failed task is found by "download FAIL", and all its
// lines by its sign (FAQ: all the dfget logs of a task).
func TestFAQLogsOfATask(t *testing.T) {
	w := start(t)
	bad, good := newOrigin(t, 1000), newOrigin(t, 1000)
	bad.status = 500
	node := w.supernode(swarm.SupernodeOptions{})
	h := w.host("--node", node.Addr)
	w.download(h, good.url(), w.target("good"))
	w.fails(h, bad.url(), w.target("bad"))
	failed := w.grep("download FAIL", h)
	if len(failed) != 1 {
		t.Fatalf("%d failures, want 1: %q", len(failed), failed)
	}
	m := logLine.FindStringSubmatch(failed[0])
	if m == nil || !regexp.MustCompile(`^download FAIL cost:\d+\.\d{3}s length:-?\d+ reason:\d+`).MatchString(m[3]) {
		t.Fatalf("not v1's form: %s", failed[0])
	}
	lines := w.grep(m[2], h)
	if !strings.Contains(lines[0], "get cmd params:[") || !strings.Contains(lines[0], fmt.Sprintf("%q", bad.url())) {
		t.Errorf("the first line of the sign is %s", lines[0])
	}
	if lines[len(lines)-1] != failed[0] {
		t.Errorf("the last line of the sign is %s", lines[len(lines)-1])
	}
	for _, line := range lines {
		if strings.Contains(line, good.url()) {
			t.Errorf("a line of another job bears the sign: %s", line)
		}
	}
	if n := len(w.grep("download SUCCESS cost:", h)); n != 1 {
		t.Errorf("%d successes, want 1", n)
	}
}

// TestFAQNodeTwice: dfget --node a --node b uses both (FAQ: config
// supernodes).
func TestFAQNodeTwice(t *testing.T) {
	w := start(t)
	o := newOrigin(t, 1000)
	node := w.supernode(swarm.SupernodeOptions{})
	for _, order := range [][]string{{"127.0.0.1:1", node.Addr}, {node.Addr, "127.0.0.1:1"}} {
		out := w.target(order[0])
		r := w.download(w.host("--node", order[0], "--node", order[1]), o.url(), out)
		w.isContent(out, o.content)
		if r.FromSource != 0 {
			t.Errorf("--node %s --node %s: %+v, want it from the supernode", order[0], order[1], r)
		}
	}
}
