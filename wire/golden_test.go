// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dragonfly"
	"dragonfly/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// script is a Tracker whose answers are written down here.
type script struct{}

var (
	task    = dragonfly.Request{URL: "http://o/f"}.TaskID()
	version = dragonfly.Version{0xfe, 0xdc}
	members = []dragonfly.Member{{ID: "s1", Addr: "10.0.0.1:8002", Weight: 2}, {ID: "[2001:db8::2]:8002", Addr: "[2001:db8::2]:8002", Weight: 1}}
	info    = dragonfly.TaskInfo{
		Task: task, Version: version, Layout: dragonfly.Layout{Length: 5, PieceLen: 4194299},
		Ticket: dragonfly.Ticket{0xab}, Complete: true, Inline: []byte("hello"), Members: members,
	}
)

func (script) Open(context.Context, dragonfly.Hello) (dragonfly.Session, error) { return script{}, nil }
func (script) Welcome() dragonfly.Welcome {
	return dragonfly.Welcome{Session: "0123", Node: members[0], Members: members, Poll: 20 * time.Second, IP: netip.MustParseAddr("10.0.0.9")}
}

func (script) Register(_ context.Context, r dragonfly.Registration) (dragonfly.TaskInfo, error) {
	if r.Job == "" {
		return dragonfly.TaskInfo{}, &dragonfly.Error{Kind: dragonfly.NotOwner, Message: "s2 owns this task", Members: members}
	}
	return info, nil
}

func (script) Sync(context.Context, dragonfly.Report) (dragonfly.Work, error) {
	failed := info
	failed.Inline, failed.Complete, failed.Members = nil, false, nil
	failed.Grant = dragonfly.GrantDirect
	failed.Whole, _ = dragonfly.ParseDigest("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
	failed.Failed = &dragonfly.Error{Kind: dragonfly.NotFound, Message: "the source says 404", Status: 404}
	return dragonfly.Work{
		Seq: 3,
		Assignments: []dragonfly.Assignment{{
			ID: 9, Task: task, Version: version, Piece: 1, Span: dragonfly.Span{From: 4194299, To: 4259835},
			Parent: dragonfly.Parent{Kind: dragonfly.ParentPeer, Session: "4567", Addrs: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.8:20001")}, CID: "10.0.0.8-1-1.0"},
			Digest: dragonfly.PieceDigest{1}, More: true,
		}},
		Cancellations: []dragonfly.AssignmentID{8},
		Manifest:      []dragonfly.Entries{{Task: task, Version: version, First: 2, Digests: []dragonfly.PieceDigest{{2}, {3}}}},
		Tasks:         []dragonfly.TaskInfo{failed},
		Questions:     []dragonfly.Question{{Kind: dragonfly.AskReverify, Task: task, Version: version, Piece: 1}},
		Members:       members,
	}, nil
}
func (script) Close(context.Context, string) error { return nil }

// conversation calls everything that a Session has.
func conversation(ctx context.Context, tr dragonfly.Tracker) error {
	s, err := tr.Open(ctx, hello)
	if err != nil {
		return err
	}
	digest, err := dragonfly.ParseDigest("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
	if err != nil {
		return err
	}
	_, err = s.Register(ctx, dragonfly.Registration{
		Job: "10.0.0.9-17-1.5",
		Request: dragonfly.Request{
			URL: "http://o/f?a=1", TaskURL: "http://o/f", Digest: digest, Identifier: "i", Header: dragonfly.Header{"Range": {"bytes=0-9"}},
			Insecure: true, RootCAs: []byte("PEM"), CallSystem: "c",
		},
		Serve: true, Slots: 6, Version: version, Layout: info.Layout, Held: dragonfly.NewPieceSet(9), Holding: true, Inline: true,
		Want: []dragonfly.Span{{From: 5, To: 6}, {From: 9, To: dragonfly.UnknownLength}},
	})
	if err != nil {
		return err
	}
	if _, err := s.Register(ctx, dragonfly.Registration{}); dragonfly.KindOf(err) != dragonfly.NotOwner {
		return errors.Join(errors.New("want not-owner"), err)
	}
	_, err = s.Sync(ctx, dragonfly.Report{Seq: 2, Ack: 1, Free: 4, Events: []dragonfly.Event{
		{Kind: dragonfly.EventVerified, Task: task, Version: version, Piece: 1, Assignment: 9, Digest: dragonfly.PieceDigest{1}},
		{Kind: dragonfly.EventFailed, Task: task, Version: version, Assignment: 8, Reason: dragonfly.FailSource, Offset: 65536, Failure: &dragonfly.Error{Kind: dragonfly.NotFound, Message: "gone", Status: 410}},
		{Kind: dragonfly.EventWhole, Task: task, Version: version, Whole: digest},
		{Kind: dragonfly.EventPosition, Task: task, Version: version, Job: "10.0.0.9-17-1.5", Offset: 1},
	}})
	if err != nil {
		return err
	}
	return s.Close(ctx, "done")
}

// TestGolden: the bytes of a whole conversation are those of the golden file:
// a change of them breaks peers and supernodes of other builds.
func TestGolden(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := http.Server{Handler: wire.NewServer(script{}, wire.ServerOptions{})}
	var wg sync.WaitGroup
	wg.Go(func() { h.Serve(l) })
	defer wg.Wait()
	defer h.Close()

	var spoken record
	c := wire.NewClient("supernode.example:8002", wire.ClientOptions{Build: "test", Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, l.Addr().String())
		return &recorded{conn, &spoken}, err
	}})
	if err := conversation(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	c.Close()

	got := spoken.String()
	for pattern, word := range map[string]string{
		`(?m)^Date: .*\r\n`:                   "",
		`(X-Dragonfly-Session: )[0-9a-f]{64}`: "${1}KEY",
	} {
		got = regexp.MustCompile(pattern).ReplaceAllString(got, word)
	}
	golden := filepath.Join("testdata", "conversation.http")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

// TestGoldenIsReadable: what the golden conversation says can be read by a
// server and a client of this build, message by message.
func TestGoldenIsReadable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "conversation.http"))
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(bytes.NewReader(text))
	n := 0
	for ; ; n++ {
		if _, err := r.Peek(1); err == io.EOF {
			break
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	if n != 5 {
		t.Errorf("%d exchanges", n)
	}
}

// record collects what is said in both directions.
type record struct {
	mu   sync.Mutex
	said bytes.Buffer
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String()
}

type recorded struct {
	net.Conn
	record *record
}

func (c *recorded) Write(b []byte) (int, error) {
	c.record.add(b)
	return c.Conn.Write(b)
}

func (c *recorded) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.record.add(b[:n])
	return n, err
}

func (r *record) add(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said.Write(b)
}
