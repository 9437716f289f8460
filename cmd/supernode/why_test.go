// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/sched"
	"dragonfly/supernode"
)

// TestWhy: tasks and peers go by what people know of them; what is not clear is
// answered with what there is.
func TestWhy(t *testing.T) {
	ids := []dragonfly.TaskID{{0xab, 0xc1}, {0xab, 0xc2}}
	first := supernode.TaskDetail{
		TaskState: supernode.TaskState{ID: ids[0], URL: "http://origin/a", Pieces: 3, SeedHeld: 3, Source: "open"},
		Everyone: []supernode.TaskPeer{
			{Peer: 1, Seed: true, Host: "center", Held: 3},
			{Peer: 2, Host: "one", IP: netip.MustParseAddr("10.0.0.2"), Job: "job-1", Held: 1, Waits: sched.WaitParents},
			{Peer: 3, Host: "one", IP: netip.MustParseAddr("10.0.0.3"), Held: 1},
		},
	}
	part := supernode.Part{
		TaskPeer:  first.Everyone[1],
		Work:      []supernode.PartWork{{Piece: 2, Span: dragonfly.Span{From: 20, To: 30}, From: "the seed"}},
		Decisions: []supernode.Decided{{At: time.Unix(1, 0), Text: "gets piece 2 from the seed"}},
	}
	answers := map[string]any{
		"/p2p/v1/state/tasks":                                 map[string]any{"tasks": []supernode.TaskState{first.TaskState, {ID: ids[1], URL: "http://origin/b"}}},
		"/p2p/v1/state/tasks/" + ids[0].String():              first,
		"/p2p/v1/state/tasks/" + ids[0].String() + "/peers/2": part,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	defer srv.Close()
	for _, k := range []struct {
		args string
		code int
		want []string
	}{
		{"http://origin/a job-1", 0, []string{"http://origin/a", "peer 2, one (10.0.0.2): 1 of 3 pieces", "waits: all that have",
			"gets bytes 20 to 30 of piece 2 from the seed, of which it has not heard", "gets piece 2 from the seed"}},
		{"ABC1 10.0.0.2", 0, []string{"peer 2, one"}},
		{"abc1 2", 0, []string{"peer 2, one"}},
		{"abc1", 0, []string{"     1  center, the seed: 3 of 3", "     3  one (10.0.0.3)"}},
		{"abc 2", 1, []string{"may be one of 2 tasks", "http://origin/a", "http://origin/b"}},
		{"http://origin/c 2", 1, []string{"no task is"}},
		{"abc1 one", 1, []string{"may be one of 2 peers", "10.0.0.3"}},
		{"abc1 two", 1, []string{"no peer of the task", "10.0.0.3"}},
		{"abc2 2", 1, []string{"404"}},
	} {
		t.Run(k.args, func(t *testing.T) {
			var out bytes.Buffer
			p := program{lookup: func(string) (string, bool) { return "", false }, stdout: &out, stderr: &out}
			code := p.execute(t.Context(), append([]string{"why", "--at", srv.URL}, strings.Fields(k.args)...))
			for _, want := range k.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q", want)
				}
			}
			if code != k.code || t.Failed() {
				t.Errorf("exit code %d, want %d:\n%s", code, k.code, out.String())
			}
		})
	}
	srv.Close()
	for args, want := range map[string]string{
		"why --at " + srv.URL + " a": "no supernode answers",
		"why --at nonsense a":        "no URL of a supernode",
		"why":                        "want a task",
		"why a b c":                  "not 3 names",
	} {
		var out bytes.Buffer
		p := program{lookup: func(string) (string, bool) { return "", false }, stdout: &out, stderr: &out}
		if code := p.execute(t.Context(), strings.Fields(args)); code != 1 || !strings.Contains(out.String(), want) {
			t.Errorf("%s: exit code %d, no %q: %s", args, code, want, out.String())
		}
	}
}
