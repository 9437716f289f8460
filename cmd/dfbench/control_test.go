// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dragonfly"
)

// TestReadWork holds the load's reader to what supernodes write.
func TestReadWork(t *testing.T) {
	one, other := dragonfly.TaskID{1}, dragonfly.TaskID{2}
	type read struct {
		ID    dragonfly.AssignmentID
		Task  string
		Piece dragonfly.PieceNum
		Bytes int64
	}
	for name, c := range map[string]struct {
		work dragonfly.Work
		want []read
	}{
		"nothing": {work: dragonfly.Work{Seq: 7}},
		"news only": {work: dragonfly.Work{Seq: 8, Cancellations: []dragonfly.AssignmentID{3},
			Members: []dragonfly.Member{{ID: "a", Addr: "a:1"}}}},
		"assignments": {
			work: dragonfly.Work{Seq: 9,
				Assignments: []dragonfly.Assignment{
					{ID: 1, Task: one, Piece: 0, Span: dragonfly.Span{From: 5, To: 9}, Parent: dragonfly.Parent{Kind: dragonfly.ParentPeer, Session: "s"}},
					{ID: 1 << 40, Task: other, Piece: 49, Digest: dragonfly.PieceDigest{1}},
				},
				Tasks:   []dragonfly.TaskInfo{{Task: one}},
				Members: []dragonfly.Member{{ID: "5", Addr: "a:1"}}},
			want: []read{{1, one.String(), 0, 4}, {1 << 40, other.String(), 49, 0}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := json.Marshal(c.work)
			if err != nil {
				t.Fatal(err)
			}
			seq, assignments, err := readWork(body)
			if err != nil || seq != c.work.Seq {
				t.Fatalf("seq %d, %v; want %d", seq, err, c.work.Seq)
			}
			var got []read
			for _, a := range assignments {
				got = append(got, read{a.id, string(a.task), a.piece, a.bytes})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, bad := range []string{"", "{}", `{"seq":1,"assignments":[{"id":2}]}`, `{"seq":1,"assignments":[{"id":`} {
		if _, _, err := readWork([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// FuzzReadWork looks that no answer makes the load panic or wait.
func FuzzReadWork(f *testing.F) {
	f.Add([]byte(`{"seq":1,"assignments":[{"id":2,"task":"ab","piece":3}],"members":[{"id":"a"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, assignments, err := readWork(body); err != nil && assignments != nil {
			t.Error("an error and assignments")
		}
	})
}

func TestLoadConnAnswer(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nX-Dragonfly-Session: abc\r\nContent-Length: 5\r\n\r\n"
	for name, c := range map[string]struct{ text, want, err string }{
		"whole":          {head + "hello", "hello", ""},
		"ends early":     {head + "hell", "", "EOF"},
		"another status": {strings.Replace(head, "200 OK", "409 Conflict", 1) + "hello", "", "409 Conflict"},
		"without length": {"HTTP/1.1 200 OK\r\n\r\nhello", "", "without a length"},
		"too long":       {"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "", "without a length"},
		"negative":       {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "", "without a length"},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			defer here.Close()
			go func() {
				defer there.Close()
				for _, part := range []string{c.text[:10], c.text[10:]} {
					_, _ = io.WriteString(there, part)
				}
			}()
			conn := &loadConn{Conn: here}
			body, err := conn.answer()
			if string(body) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q, %v", body, err)
			}
		})
	}
}
