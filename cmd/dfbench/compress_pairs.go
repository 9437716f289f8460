// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/peer"
	"dragonfly/transfer"
)

// pairSpan is what is asked for at once, pairStreams how many such requests are
// under way, as of a peer that gets 64 MB.
const pairSpan, pairStreams = 512 << 10, 4

// held is a content that is there, for anybody.
type held struct {
	path string
	size int64
}

func (h held) Open(dragonfly.TaskID, dragonfly.Version, dragonfly.Ticket) (transfer.View, error) {
	file, err := os.Open(h.path)
	if err != nil {
		return nil, err
	}
	return heldView{h, file}, nil
}

type heldView struct {
	held
	file *os.File
}

func (v heldView) Layout() dragonfly.Layout {
	return dragonfly.Layout{Length: v.size, PieceLen: 8 * pairSpan}
}
func (v heldView) Ready(context.Context, int64) (int64, error) { return v.size, nil }
func (v heldView) File() *os.File                              { return v.file }
func (v heldView) Holds(dragonfly.Span) bool                   { return true }
func (v heldView) Close() error                                { return v.file.Close() }
func (v heldView) Blocks(dragonfly.PieceNum) ([]piecehash.Block, error) {
	return nil, transfer.ErrUnknown
}

// transfers measures the data plane alone, pair by pair, each in the other order
// than the one before.
func (w *between) transfers(ctx context.Context, k kind, size int64, pairs int) (line compared, err error) {
	b := &bench{dir: w.dir, size: size}
	if err := b.makeKind(ctx, k); err != nil {
		return line, err
	}
	content, err := os.ReadFile(b.path("file"))
	if err != nil {
		return line, err
	}
	var at [2]netip.AddrPort
	for i, mode := range modes {
		l, err := w.listen()
		if err != nil {
			return line, err
		}
		at[i] = l.Addr().(*net.TCPAddr).AddrPort()
		data := &transfer.Server{Shelf: held{b.path("file"), size}, Plain: mode == "off", Limit: peer.NewLimiter(w.limit)}
		srv := &http.Server{Handler: data, ConnContext: transfer.ConnContext}
		go func() { _ = srv.Serve(l) }()
		defer srv.Close()
	}
	var t pairTimes
	for i := range pairs {
		for j := range modes {
			mode := (i + j) % 2
			took, came, err := w.transfer(ctx, at[mode], content)
			if err != nil {
				return line, err
			}
			t.add(mode, took, came)
		}
	}
	return t.line("transfer", w.name, k.name, size), nil
}

// transfer gets a content on new connections.
func (w *between) transfer(ctx context.Context, from netip.AddrPort, content []byte) (took time.Duration, came int64, err error) {
	var got atomic.Int64
	c := transfer.New(transfer.ClientOptions{Dial: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		if h := w.host(1); h != nil {
			conn, err = h.Dial(ctx, network, address)
		} else {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
		}
		return &countedConn{conn, &got}, err
	}})
	defer c.Close()
	var next atomic.Int64
	began := time.Now()
	work, ctx := errgroup.WithContext(ctx)
	for range pairStreams {
		work.Go(func() error {
			buf := make([]byte, 256<<10)
			for {
				off := next.Add(pairSpan) - pairSpan
				if off >= int64(len(content)) {
					return nil
				}
				want := content[off:min(off+pairSpan, int64(len(content)))]
				body, err := c.Fetch(ctx, transfer.Fetch{Addrs: []netip.AddrPort{from}, Task: dragonfly.TaskID{1}, Version: dragonfly.Version{1},
					Ticket: dragonfly.Ticket{1}, Span: dragonfly.Span{From: off, To: off + int64(len(want))}})
				if err != nil {
					return err
				}
				err = compare(body, want, buf)
				if err := errors.Join(err, body.Close()); err != nil {
					return err
				}
			}
		})
	}
	err = work.Wait()
	return time.Since(began), got.Load(), err
}

// compare reads what must be want.
func compare(r io.Reader, want, buf []byte) error {
	for {
		n, err := r.Read(buf)
		if n > len(want) || !bytes.Equal(buf[:n], want[:n]) {
			return errors.New("other bytes came than were sent")
		}
		want = want[n:]
		if err == io.EOF && len(want) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%d bytes before the end: %w", len(want), err)
		}
	}
}

// countedConn counts what comes.
type countedConn struct {
	net.Conn
	got *atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.got.Add(int64(n))
	return n, err
}
