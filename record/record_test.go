// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dragonfly"
	"dragonfly/sched"
	"dragonfly/sched/sim"
)

type moment struct {
	at sched.Instant
	ev sched.Event
}

// swarm are the events of a made-up swarm with all that goes wrong in one.
var swarm = sync.OnceValues(func() (all []moment, err error) {
	_, err = sim.Run(sim.Scenario{Peers: 12, Pieces: 3, Vanish: 0.1, Lie: 0.1, Seed: 3, Record: func(at sched.Instant, ev sched.Event) {
		ev.Held, ev.Want = ev.Held.Clone(), ev.Want.Clone()
		all = append(all, moment{at, ev})
	}})
	return all, err
})

// played records the swarm and returns how many events it has.
func played(t testing.TB, out io.Writer, limit int64, ended func(error)) (events uint64) {
	t.Helper()
	all, err := swarm()
	if err != nil {
		t.Fatal(err)
	}
	m := sched.New(sched.Config{Seed: 5})
	w := NewWriter(out, Run{Build: "test", Began: time.Unix(0, 0).UTC(), Config: m.Config()}, limit, ended)
	w.Task(Task{Number: 1, ID: dragonfly.TaskID{1}, URL: "http://origin.test/a"})
	var actions []sched.Action
	for _, x := range all {
		if x.ev.Kind == sched.PeerJoined {
			w.Peer(Peer{x.ev.Peer, "host" + x.ev.Where.Host})
		}
		actions = m.Step(x.at, x.ev, actions[:0])
		w.Step(x.at, x.ev, actions)
	}
	w.Close()
	return uint64(len(all))
}

func unended(t *testing.T) func(error) {
	return func(err error) { t.Errorf("the record ended: %v", err) }
}

func sum(counts map[string]uint64) (all uint64) {
	for _, n := range counts {
		all += n
	}
	return all
}

// TestReplay: a record gives the same actions again, and its decisions.
func TestReplay(t *testing.T) {
	var file bytes.Buffer
	events := played(t, &file, 1<<30, unended(t))
	var tasks []Task
	peers, decisions, steps := 0, uint64(0), uint64(0)
	got, err := Replay(bytes.NewReader(file.Bytes()), Visitor{
		Task: func(x Task) { tasks = append(tasks, x) }, Peer: func(Peer) { peers++ }, Decide: func(sched.Decision) { decisions++ },
		Step: func(_ sched.Instant, _ sched.Event, m *sched.Machine) {
			if steps++; m.Counts().Steps != steps {
				t.Errorf("step %d of the machine is visited as %d", m.Counts().Steps, steps)
			}
		},
	})
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	o := got[0]
	if o.Steps != events || sum(o.Events) != events || o.Parted != nil || o.End != "closed" || o.Torn || o.Peers != 13 || o.Tasks != 1 || o.Run.Build != "test" ||
		o.Actions["assign"] < 12*3 || o.Span < time.Second || o.Costs.Average() <= 0 {
		t.Errorf("%+v", o)
	}
	if len(tasks) != 1 || tasks[0].URL != "http://origin.test/a" || peers != 13 || decisions != sum(o.Actions) || steps != events {
		t.Errorf("%+v, %d peers, %d decisions of %d", tasks, peers, decisions, sum(o.Actions))
	}
	names, visited := 0, uint64(0)
	err = Read(bytes.NewReader(file.Bytes()), Visitor{Peer: func(Peer) { names++ }, Step: func(_ sched.Instant, _ sched.Event, m *sched.Machine) {
		if visited++; m != nil {
			t.Error("a machine is there")
		}
	}})
	if err != nil || names != peers || visited != events {
		t.Errorf("%d names, %d events, %v", names, visited, err)
	}
}

// TestPartsWays: a replay that decides otherwise says from which event on, and goes
// on to the end.
func TestPartsWays(t *testing.T) {
	var file bytes.Buffer
	events := played(t, &file, 1<<30, unended(t))
	changed := bytes.Replace(file.Bytes(), []byte(`"Down":4`), []byte(`"Down":3`), 1)
	if bytes.Equal(changed, file.Bytes()) {
		t.Fatal("nothing was changed")
	}
	got, err := Replay(bytes.NewReader(changed), Visitor{})
	if err != nil || got[0].Parted == nil || got[0].Steps != events {
		t.Fatalf("%+v %v", got[0], err)
	}
	var want uint64
	four, three := sched.New(sched.Config{Seed: 5}), sched.New(sched.Config{Seed: 5, Down: 3})
	steps := uint64(0)
	err = Read(bytes.NewReader(changed), Visitor{Step: func(at sched.Instant, ev sched.Event, _ *sched.Machine) {
		steps++
		if !slices.Equal(four.Step(at, ev, nil), three.Step(at, ev, nil)) && want == 0 {
			want = steps
		}
	}})
	p := got[0].Parted
	if err != nil || p.Step != want || p.Kind == "" || p.Actions["assign"] != 3 || p.Steps < 2 || p.Steps > events {
		t.Errorf("%+v %v, want event %d", p, err, want)
	}
}

// TestRuns: a supernode that starts again goes on in the file, whatever the one
// before left at its end.
func TestRuns(t *testing.T) {
	var file bytes.Buffer
	events := played(t, &file, 1<<30, unended(t))
	whole := file.Len()
	for _, cut := range []int{0, 1, 7, 400} {
		file.Truncate(whole - cut)
		text := append(bytes.Clone(file.Bytes()), '\n')
		text = append(text, file.Bytes()...)
		got, err := Replay(bytes.NewReader(text), Visitor{})
		if err != nil || len(got) != 2 {
			t.Fatalf("%d bytes cut off: %d runs, %v", cut, len(got), err)
		}
		for _, o := range got {
			if o.Steps > events || o.Steps < events-20 || o.Parted != nil || (o.Steps == events) != (cut < 400) ||
				(o.End == "closed") != (cut <= 1) || o.Torn != (cut > 1) {
				t.Errorf("%d bytes cut off: %+v", cut, o)
			}
		}
	}
}

// TestBroken: what is no record, or a damaged one, is said with its line.
func TestBroken(t *testing.T) {
	const run = `{"run":{"format":1,"build":"b","config":{}}}` + "\n"
	for text, want := range map[string]string{
		"hello":                                "line 1",
		`{"e":{"t":1,"k":"tick"}}`:             "begins with a run",
		`{"run":{"format":2,"build":"other"}}`: `use the build that wrote it, "other"`,
		`{"run":{"format":1,"config":{"Down":9999999}}}`:                                             "out of range",
		run + `{"e":{"t":1,"k":"what"}}`:                                                             `no event is called "what": use the build that wrote it`,
		run + "{\n" + `{"e":{"t":1,"k":"tick"}}`:                                                     "line 2",
		run + `{"e":{"t":1,"k":"opened","q":1,"layout":{"length":9,"pieceLen":0}}}`:                  "no layout",
		run + `{"e":{"t":1,"k":"opened","q":1,"layout":{"length":1125899906842624,"pieceLen":1}}}`:   "no layout",
		run + `{"e":{"t":1,"k":"joined"}}`:                                                           "peer 0",
		run + `{"e":{"t":1,"k":"lost","p":1,"q":1,"n":1048576}}`:                                     "out of range",
		run + `{"e":{"t":1,"k":"wanted","p":1,"q":1,"held":"!"}}`:                                    "piece set",
		run + `{"e":{"t":1,"k":"wanted","p":1,"q":1,"held":"` + strings.Repeat("A", 200_000) + `"}}`: "a set of more than",
		run + `{"end":{"events":3}}`:                                                                 "lines are missing",
		run + `{"e":{"t":1,"k":"failed","why":"because"}}`:                                           `"because" is no reason`,
		run + `{"e":{"t":1,"k":"joined","p":1,"where":{"Host":"\u001b[2J"}}}`:                        "cannot be printed",
		run + `{"peer":{"n":1,"host":"\n"}}`:                                                         "cannot be printed",
		run + `{"task":{"n":1,"url":"\u001b"}}`:                                                      "cannot be printed",
		run + `{"end":{"why":"\u001b"}}`:                                                             "cannot be printed",
		`{"run":{"format":1,"build":"\u001b"}}`:                                                      "cannot be printed",
		run + "{\n{":                                                                                 "line 2",
		`{"run":{"format":1,"config":{"Ack":-1}}}`:                                                   "out of range",
		run + `{"e":{"k":"` + strings.Repeat("x", maxLine) + `"}}`:                                   "too long",
	} {
		if _, err := Replay(strings.NewReader(text), Visitor{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

// TestTooManyPieces: a record cannot make a replay take all memory.
func TestTooManyPieces(t *testing.T) {
	p := player{}
	if err := p.play(&line{Run: &Run{Format: format}}); err != nil {
		t.Fatal(err)
	}
	p.pieces = maxBooked
	err := p.step(&event{Kind: "opened", Task: 1, Layout: &dragonfly.Layout{Length: 1, PieceLen: 1}})
	if err == nil || !strings.Contains(err.Error(), "too many") {
		t.Error(err)
	}
}

// TestEvents: every kind of event has a name, and all that an event says comes
// back.
func TestEvents(t *testing.T) {
	if len(kinds) != int(sched.Tick)+1 || slices.Contains(kinds[1:], "") || slices.Contains(kinds[int(sched.Tick):], "") {
		t.Errorf("kinds without a name: %q", kinds)
	}
	for kind := sched.PeerJoined; kind <= sched.Tick; kind++ {
		want := sched.Event{Kind: kind, Peer: 1, Task: 2, Piece: 3, Assignment: 4, Reason: dragonfly.FailReset, Offset: 5,
			Layout: dragonfly.Layout{Length: 6, PieceLen: 7}, Held: dragonfly.NewPieceSet(70), Want: dragonfly.NewPieceSet(1),
			Where: sched.Where{Host: "h", Rack: "r", Zone: "z"}, Up: 8, Slots: 9, Free: 10, Serves: true, Seed: true, Whole: true}
		for field, v := range reflect.ValueOf(want).Fields() {
			if v.IsZero() {
				t.Fatalf("the event's %s is not tried: is it recorded?", field.Name)
			}
		}
		text, err := json.Marshal(lined(11, &want))
		if err != nil {
			t.Fatal(err)
		}
		var e event
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		if got, err := e.event(); err != nil || e.At != 11 || !cmp.Equal(want, got) {
			t.Errorf("%v\n%s", err, cmp.Diff(want, got))
		}
	}
}

// TestHash: whatever differs in an action, the hash does.
func TestHash(t *testing.T) {
	if n := len(actionKinds); n != int(sched.Forgotten)+1 || slices.Contains(actionKinds[1:], "") {
		t.Errorf("kinds without a name: %q", actionKinds)
	}
	var h hasher
	none := h.of(nil)
	seen := map[uint32]string{none: "nothing", h.of(make([]sched.Action, 1)): "one", h.of(make([]sched.Action, 2)): "two"}
	var a sched.Action
	var change func(name string, v reflect.Value)
	change = func(name string, v reflect.Value) {
		before := reflect.ValueOf(v.Interface())
		switch {
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				change(name+"."+v.Type().Field(i).Name, v.Field(i))
			}
			return
		case v.CanInt():
			v.SetInt(7)
		case v.CanUint():
			v.SetUint(7)
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
		default:
			v.SetString("x")
		}
		if other, ok := seen[h.of([]sched.Action{a})]; ok {
			t.Errorf("%s does not change the hash of %s", name, other)
		}
		seen[h.of([]sched.Action{a})] = name
		v.Set(before)
	}
	change("action", reflect.ValueOf(&a).Elem())
	if none != 0 || len(seen) < 10 {
		t.Errorf("nothing has the hash %d; %d hashes", none, len(seen))
	}
}

// TestCosts: shares are right within a bucket.
func TestCosts(t *testing.T) {
	var c Costs
	if c.Average() != 0 || c.Share(0.99) != 0 {
		t.Errorf("%v, %v of nothing", c.Average(), c.Share(0.99))
	}
	for d := range time.Duration(1000) {
		c.add(d + 1)
	}
	c.add(time.Hour)
	for share, want := range map[float64]time.Duration{0: 1, 0.5: 500, 0.99: 990, 1: time.Hour} {
		if got := c.Share(share); got < want || got > want+want/7 {
			t.Errorf("%v is %v, want %v", share, got, want)
		}
	}
	if c.Slowest() != time.Hour || c.Average() != (time.Hour+500500)/1001 {
		t.Errorf("%v, %v", c.Slowest(), c.Average())
	}
	for d := time.Duration(1); d < 1<<62; d <<= 1 {
		for _, x := range []time.Duration{d, d + d/2, 2*d - 1} {
			if b := bucket(x); x > edge(b) || b > 0 && x < edge(b-1) {
				t.Errorf("%d is in bucket %d, which ends at %d", x, b, edge(b))
			}
		}
	}
}

// limited takes so many bytes and then fails once as a full disk does.
type limited struct {
	bytes.Buffer
	room int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	n := len(p)
	if l.room < n {
		n, l.room = l.room, 1<<30
		l.Buffer.Write(p[:n])
		return n, l.err
	}
	l.room -= n
	return l.Buffer.Write(p)
}

// TestEnds: a record that reached its limit, or whose disk is full, is good up to
// there, and the supernode is told once.
func TestEnds(t *testing.T) {
	full := errors.New("no space left on device")
	var all bytes.Buffer
	played(t, &all, 1<<30, unended(t))
	atLine := 10_001 + bytes.IndexByte(all.Bytes()[10_000:], '\n')
	for _, c := range []struct {
		name  string
		limit int64
		room  int
		want  error
		end   string
		torn  bool
	}{
		{"limit", 40_000, 1 << 30, ErrFull, ErrFull.Error(), false},
		{"disk full", 1 << 30, atLine - 1, full, "", false}, // the newline alone is missing
		{"disk full at the end of a line", 1 << 30, atLine, full, "", false},
		{"disk full in a line", 1 << 30, atLine - 5, full, "", true},
		{"nothing fits", 10, 1 << 30, ErrFull, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			told := make(chan error, 10)
			out := limited{room: c.room, err: full}
			events := played(t, &out, c.limit, func(err error) { told <- err })
			if err := <-told; !errors.Is(err, c.want) || len(told) > 0 {
				t.Errorf("told %v, %d more", err, len(told))
			}
			if int64(out.Len()) > c.limit || out.Len() > c.room {
				t.Errorf("%d bytes", out.Len())
			}
			got, err := Replay(&out.Buffer, Visitor{})
			if c.limit < 100 {
				if len(got) > 0 || err != nil {
					t.Errorf("%+v %v", got, err)
				}
				return
			}
			if err != nil || len(got) != 1 || got[0].Steps == 0 || got[0].Steps >= events || got[0].Parted != nil || got[0].End != c.end || got[0].Torn != c.torn {
				t.Errorf("%+v %v", got[0], err)
			}
		})
	}
}

// stuck takes nothing until it is let go.
type stuck struct {
	bytes.Buffer
	entered, leave chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	select {
	case <-s.entered:
	default:
		close(s.entered)
	}
	<-s.leave
	return s.Buffer.Write(p)
}

// TestBehind: a disk that hangs ends the record and holds nobody up.
func TestBehind(t *testing.T) {
	out := &stuck{entered: make(chan struct{}), leave: make(chan struct{})}
	told := make(chan error, 10)
	w := NewWriter(out, Run{Build: "test"}, 1<<30, func(err error) { told <- err })
	<-out.entered
	for range maxWaiting + 10 {
		w.Step(1, sched.Event{Kind: sched.Tick}, nil)
	}
	close(out.leave)
	if err := <-told; err != ErrBehind {
		t.Error(err)
	}
	w.Close()
	last := fmt.Sprintf("{\"end\":{\"events\":%d,\"why\":%q}}\n", maxWaiting, ErrBehind)
	if n := bytes.Count(out.Bytes(), []byte(`{"e":`)); n != maxWaiting || !bytes.HasSuffix(out.Bytes(), []byte(last)) {
		t.Errorf("%d events, and at last %s", n, out.Bytes()[out.Len()-len(last):])
	}
}

// FuzzRead: whatever the lines are, reading them ends well or with an error.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"run":{"format":1,"build":"b","began":"2026-01-02T03:04:05Z","config":{"Down":4}}}` + "\n" +
		`{"e":{"t":1,"k":"opened","q":1,"layout":{"length":9,"pieceLen":4}}}` + "\n" +
		`{"e":{"t":2,"k":"wanted","p":1,"q":1,"held":"AwAAAAAAAAA","where":{"Host":"h"}}}` + "\n" + `{"end":{"events":2,"why":"closed"}}`))
	f.Add([]byte(`{"run":{"format":1,"config":{"Ramp":-1}}}` + "\n\n" + `{"peer":{"n":1,"host":"h"}}` + "\n" + `{"e":{"t":-1,"k":"tick"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = Read(bytes.NewReader(b), Visitor{Step: func(_ sched.Instant, ev sched.Event, _ *sched.Machine) {
			if ev.Kind < sched.PeerJoined || ev.Kind > sched.Tick || ev.Kind == sched.TaskOpened && (ev.Layout.PieceLen < 1 || ev.Layout.Pieces() > maxPieces) {
				t.Errorf("taken: %+v", ev)
			}
		}})
	})
}

// BenchmarkStep is what recording costs whoever steps the machine.
func BenchmarkStep(b *testing.B) {
	w := &Writer{kick: make(chan struct{}, 1), rush: make(chan struct{}, 1)}
	actions := make([]sched.Action, 1)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Step(sched.Instant(i), sched.Event{Kind: sched.Verified, Peer: 7, Task: 3, Piece: 9, Assignment: dragonfly.AssignmentID(i)}, actions)
		if i%1024 == 0 {
			w.waiting.empty()
		}
	}
}

// BenchmarkWrite is what it costs beside, for each event.
func BenchmarkWrite(b *testing.B) {
	w := &Writer{out: io.Discard, left: 1 << 60}
	w.lines = json.NewEncoder(&w.buf)
	var one batch
	for i := range 1024 {
		one.entries = append(one.entries, entry{at: sched.Instant(i), actions: 1,
			event: sched.Event{Kind: sched.Verified, Peer: 7, Task: 3, Piece: 9, Assignment: dragonfly.AssignmentID(i)}})
		one.actions = append(one.actions, sched.Action{Kind: sched.Assign, Peer: 7, Task: 3, Piece: 11, Assignment: dragonfly.AssignmentID(i + 1)})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%len(one.entries) == 0 {
			if err := w.write(&one); err != nil {
				b.Fatal(err)
			}
		}
	}
}
