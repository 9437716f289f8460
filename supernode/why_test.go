// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/record"
	"dragonfly/sched"
)

// TestRecord: what the scheduler of a live supernode was given gives the same
// actions when it is run again; the record has no secret, whatever peers send.
func TestRecord(t *testing.T) {
	var file bytes.Buffer
	inTime(t, func(c *Config) {
		c.Record = &Recording{Out: &file, Limit: 1 << 30, Build: "test"}
	}, func(w *world) {
		_, o := w.source("a?X-Amz-Signature=hush&hush", 6)
		o.pace = time.Second
		url := "http://hush:hush@origin.test/a?X-Amz-Signature=hush&hush#hush"
		w.seed.sources[url] = o
		for range 3 {
			p := w.peer()
			r := p.wants(url)
			r.Request.Header = dragonfly.Header{"Authorization": {"Bearer hush"}, "Cookie": {"hush"}}
			r.Request.Identifier = "hush"
			p.register(r)
			for i := range 2 {
				work := p.sync()
				w.wait(700 * time.Millisecond)
				for _, a := range work.Assignments {
					if i == 0 && a.Piece == 1 {
						e := failure(a, "hush")
						e.Failure = &dragonfly.Error{Kind: dragonfly.Internal, Message: "hush"}
						p.later(p.report(e))
					} else {
						p.later(p.report(about(dragonfly.EventVerified, a)))
					}
				}
			}
		}
		w.wait(time.Minute) // they are silent
		if n := w.number(`dragonfly_supernode_piece_failures_total{reason="other"}`); n == 0 {
			w.Error("no assignment failed for a strange reason")
		}
	})
	var tasks []record.Task
	hosts, reasons := map[string]bool{}, map[dragonfly.FailReason]int{}
	got, err := record.Replay(bytes.NewReader(file.Bytes()), record.Visitor{
		Task: func(x record.Task) { tasks = append(tasks, x) }, Peer: func(p record.Peer) { hosts[p.Host] = true },
		Step: func(_ sched.Instant, ev sched.Event, _ *sched.Machine) {
			if ev.Kind == sched.Failed {
				reasons[ev.Reason]++
			}
		},
	})
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	if o := got[0]; o.Steps == 0 || o.Parted != nil || o.End != "closed" || o.Peers != 4 || o.Tasks != 1 || o.Actions["assign"] < 12 {
		t.Errorf("%+v", o)
	}
	if len(tasks) != 1 || tasks[0].URL != "http://%E2%80%A6@origin.test/a?X-Amz-Signature=…&…" || !hosts["host11"] {
		t.Errorf("%+v %v", tasks, hosts)
	}
	for r := range reasons {
		if !r.Listed() || reasons[dragonfly.FailReset] == 0 {
			t.Errorf("%v", reasons)
		}
	}
	if strings.Contains(file.String(), "hush") {
		t.Errorf("a secret is in\n%s", file.String())
	}
}

// fullDisk takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// TestRecordFails: the supernode goes on and says so once.
func TestRecordFails(t *testing.T) {
	inTime(t, func(c *Config) {
		c.Record = &Recording{Out: fullDisk{}, Limit: 1 << 30}
	}, func(w *world) {
		url, _ := w.source("a", 1)
		for range 2 {
			p := w.peer()
			p.register(p.wants(url))
			w.wait(time.Second)
			if len(p.sync().Assignments) == 0 {
				w.Error("no work")
			}
		}
		if n := strings.Count(w.logs.String(), "no space left"); n != 1 {
			w.Errorf("said %d times:\n%s", n, w.logs)
		}
	})
}

// TestPart: a peer's part in a task has its work, and why it got it.
func TestPart(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 3)
		o.pace = time.Second
		p := w.peer()
		p.register(p.wants(url))
		p.sync()
		at := "/p2p/v1/state/tasks/" + taskOf(url).String() + "/peers/"
		part := func(peer string) (out Part) {
			code, body := w.get(at + peer)
			if err := json.Unmarshal([]byte(body), &out); err != nil || code != 200 {
				w.Fatalf("%d %v: %s", code, err, body)
			}
			return out
		}
		mine := part("2")
		if mine.Host != "host11" || mine.IP.String() != "10.0.0.11" || mine.Waits != sched.WaitNothing && mine.Waits != sched.WaitSlots ||
			len(mine.Work) != 3 || mine.Work[1].Piece != 1 || mine.Work[1].From != "the seed" || len(mine.Decisions) != 3 {
			w.Fatalf("%+v", mine)
		}
		for _, d := range mine.Decisions {
			if d.Choice != sched.ChoiceSeedFirst || !strings.Contains(d.Text, "from the seed: no other peer has or gets it (seed-only-holder)") || d.At.Before(w.sn.epoch) {
				w.Errorf("%+v", d)
			}
		}
		if seeds := part("1"); len(seeds.Decisions) != 3 || !strings.Contains(seeds.Decisions[0].Text, "from the source: nobody has it (no-copy)") {
			w.Errorf("%+v", seeds)
		}
		other := w.peer()
		other.register(other.wants(url))
		other.sync()
		if from := part("3").Work[0].From; from != "peer 2 (host11, 10.0.0.11)" && from != "the seed" {
			w.Errorf("from %s", from)
		}
		for path, want := range map[string]int{at + "9": 404, at + "x": 400, "/p2p/v1/state/tasks/x/peers/2": 400} {
			if code, body := w.get(path); code != want {
				w.Errorf("%s: %d %s", path, code, body)
			}
		}
	})
}

// TestRecent: of many decisions the newest are kept, in order.
func TestRecent(t *testing.T) {
	var r recent
	for i := range maxRecent + 3 {
		r.add(sched.Decision{At: sched.Instant(i), Action: sched.Action{Task: sched.Task(i % 2)}})
	}
	got := r.about(1)
	if len(got) != maxRecent || got[0].At != 3 || got[len(got)-1].At != maxRecent+2 {
		t.Error(fmt.Sprint(len(got), got[0].At, got[len(got)-1].At))
	}
	if len(r.about(2)) != maxRecent/2 {
		t.Error("of another task")
	}
}
