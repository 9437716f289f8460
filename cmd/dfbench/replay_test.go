// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dragonfly"
	"dragonfly/record"
	"dragonfly/sched"
)

// TestReplay: a record is said to be the same, or from where on it is not, as table
// and as JSON; a torn tail is left out.
func TestReplay(t *testing.T) {
	var file bytes.Buffer
	m := sched.New(sched.Config{})
	w := record.NewWriter(&file, record.Run{Build: "b", Config: m.Config()}, 1<<20, func(err error) { t.Error(err) })
	for i, ev := range []sched.Event{
		{Kind: sched.PeerJoined, Peer: 1, Serves: true, Seed: true},
		{Kind: sched.PollOpened, Peer: 1, Free: 9},
		{Kind: sched.TaskOpened, Task: 1, Layout: dragonfly.Layout{Length: 8, PieceLen: 2}},
		{Kind: sched.Wanted, Peer: 1, Task: 1, Serves: true},
		{Kind: sched.PeerJoined, Peer: 2, Serves: true},
		{Kind: sched.PollOpened, Peer: 2, Free: 9},
		{Kind: sched.Wanted, Peer: 2, Task: 1, Serves: true},
	} {
		w.Step(sched.Instant(i), ev, m.Step(sched.Instant(i), ev, nil))
	}
	w.Close()
	text := file.String()
	for _, c := range []struct {
		name, text string
		want       []string
		same, torn bool
	}{
		{"same", text, []string{"all actions are those of the record", "joined 2", "assign ", "closed"}, true, false},
		{"other", strings.Replace(text, `"h":`, `"h":1,"was":`, 1), []string{"from event ", "closed"}, false, false},
		{"torn", text[:len(text)-20], []string{"all actions are those", "cut off"}, true, true},
	} {
		path := filepath.Join(t.TempDir(), "record")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		run := func(args ...string) (string, error) {
			var out bytes.Buffer
			cmd := command()
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			cmd.SetArgs(append([]string{"replay", path}, args...))
			err := cmd.Execute()
			return out.String(), err
		}
		out, err := run()
		for _, want := range c.want {
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("%s: %v, no %q in\n%s", c.name, err, want, out)
			}
		}
		var runs []replayed
		out, err = run("--json")
		if wrong := json.Unmarshal([]byte(out), &runs); wrong != nil || err != nil || len(runs) != 1 || runs[0].Same != c.same || runs[0].Torn != c.torn || runs[0].Steps != 7 {
			t.Errorf("%s: %v %v\n%s", c.name, wrong, err, out)
		}
	}
}
