// SPDX-License-Identifier: Apache-2.0

package transfer_test

import (
	"context"
	"crypto/subtle"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/transfer"
)

var (
	taskID  = dragonfly.TaskID{1, 2, 3}
	version = dragonfly.Version{4, 5}
	ticket  = dragonfly.Ticket{6, 7, 8}
)

const session = dragonfly.SessionID("session-of-the-parent")

// shelf holds contents that grow under control of a test.
type shelf map[dragonfly.TaskID]*content

func (s shelf) Open(id dragonfly.TaskID, v dragonfly.Version, t dragonfly.Ticket) (transfer.View, error) {
	c := s[id]
	switch {
	case c == nil || subtle.ConstantTimeCompare(t[:], ticket[:]) != 1:
		return nil, transfer.ErrUnknown
	case v != version:
		return nil, transfer.ErrVersion
	}
	f, err := os.Open(c.path)
	if err != nil {
		return nil, err
	}
	return &view{c, f}, nil
}

// content is a file that has its first bytes so far.
type content struct {
	path string
	data []byte // all that will ever be there

	mu     sync.Mutex // guards what follows
	layout dragonfly.Layout
	have   int64
	err    error
	grown  chan struct{} // closed when one of the above changes
}

// newContent is a content of n bytes, none of which is there.
func newContent(t testing.TB, n int64) *content {
	t.Helper()
	c := &content{path: filepath.Join(t.TempDir(), "content"), data: make([]byte, n), grown: make(chan struct{}),
		layout: dragonfly.Layout{Length: n, PieceLen: 1 << 20}}
	rand.NewChaCha8([32]byte{byte(n)}).Read(c.data)
	if err := os.WriteFile(c.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// full is a content of n bytes that is there.
func full(t testing.TB, n int64) *content {
	c := newContent(t, n)
	c.grow(t, n)
	return c
}

// change does something to c and wakes those who wait for it.
func (c *content) change(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
	close(c.grown)
	c.grown = make(chan struct{})
}

// grow brings the bytes up to off.
func (c *content) grow(t testing.TB, off int64) {
	t.Helper()
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(c.data[c.have:off], c.have)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.change(func() { c.have = off })
}

func (c *content) fail(err error) { c.change(func() { c.err = err }) }

// unknown makes the length unknown until end is called.
func (c *content) unknown() *content {
	c.change(func() { c.layout.Length = dragonfly.UnknownLength })
	return c
}

func (c *content) end() { c.change(func() { c.layout.Length = c.have }) }

type view struct {
	*content
	file *os.File
}

func (v *view) Layout() dragonfly.Layout {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.layout
}

func (v *view) Ready(ctx context.Context, off int64) (int64, error) {
	for {
		v.mu.Lock()
		have, err, grown, length := v.have, v.err, v.grown, v.layout.Length
		v.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case have > off:
			return have, nil
		case off == length:
			return off, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (v *view) File() *os.File { return v.file }

func (v *view) Holds(span dragonfly.Span) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return span.To <= v.have
}

func (v *view) Close() error { return v.file.Close() }

func (v *view) Blocks(n dragonfly.PieceNum) ([]piecehash.Block, error) {
	from, to := v.Layout().Extent(n)
	if to > v.have {
		return nil, transfer.ErrUnknown
	}
	blocks := make([]piecehash.Block, piecehash.Blocks(to-from))
	h := piecehash.NewHasher(blocks, 0)
	defer h.Close()
	h.Write(v.data[from:to])
	h.Flush()
	return blocks, nil
}

// newServer is a parent that gives what is in s.
func newServer(s shelf) *transfer.Server {
	return &transfer.Server{Shelf: s, Sessions: func() []dragonfly.SessionID {
		return []dragonfly.SessionID{"another session of the parent", session}
	}}
}

// serve runs a parent until the test ends.
func serve(t testing.TB, s *transfer.Server) netip.AddrPort {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(transfer.Pattern, s)
	h := httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return addrOf(h.Listener)
}

func addrOf(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

func newClient(t testing.TB, o transfer.ClientOptions) *transfer.Client {
	c := transfer.New(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// want is a fetch of [from, to) from the parent at addr.
func want(addr netip.AddrPort, from, to int64) transfer.Fetch {
	return transfer.Fetch{Addrs: []netip.AddrPort{addr}, Task: taskID, Version: version, Ticket: ticket,
		Span: dragonfly.Span{From: from, To: to}, Session: session}
}
