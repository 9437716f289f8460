// SPDX-License-Identifier: Apache-2.0

package transfer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/transfer"
)

// text is a content of n bytes that is there and compresses.
func text(t testing.TB, n int64) *content {
	c := newContent(t, n)
	var b bytes.Buffer
	for i := 0; int64(b.Len()) < n; i++ {
		fmt.Fprintf(&b, "2026-02-03T04:05:%02d.%06d INFO request %d of host-%x took %d us\n", i%60, i*7919%1_000_000, i, c.data[i%len(c.data)], i*31%9973)
	}
	copy(c.data, b.Bytes())
	c.grow(t, n)
	return c
}

// slowLink is a limit that no encoder is too slow for. It does not hold a test
// back.
func slowLink() *rate.Limiter { return rate.NewLimiter(200*kib, 64*mib) }

// meter counts connections and what came over them.
type meter struct{ dials, bytes atomic.Int64 }

func (m *meter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	m.dials.Add(1)
	nc, err := new(net.Dialer).DialContext(ctx, network, address)
	return &meteredConn{nc, m}, err
}

type meteredConn struct {
	net.Conn
	m *meter
}

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.m.bytes.Add(int64(n))
	return n, err
}

// TestEncoded: over a slow link a child gets the very bytes of its spans, with
// fewer on the way, and keeps its connection.
func TestEncoded(t *testing.T) {
	const n = 5*mib + 17
	parent := text(t, n)
	s := newServer(shelf{taskID: parent})
	s.Limit = slowLink()
	var sent, saved atomic.Int64
	s.Observe = func(n transfer.Sent) { sent.Add(n.Bytes); saved.Add(n.Saved) }
	h := httptest.NewServer(s)
	defer h.Close()
	var m meter
	c := newClient(t, transfer.ClientOptions{Dial: m.dial})
	total := int64(0)
	for _, span := range []dragonfly.Span{{From: 0, To: n}, {From: 3, To: 3 + 128*kib}, {From: mib + 1, To: 2*mib + 1}, {From: 256 * kib, To: 768 * kib}, {From: 4 * mib, To: n}} {
		before := m.bytes.Load()
		got, err := fetchAll(t, c, want(addrOf(h.Listener), span.From, span.To))
		if err != nil || !bytes.Equal(got, parent.data[span.From:span.To]) {
			t.Errorf("%v: %d bytes, %v", span, len(got), err)
		}
		if came := m.bytes.Load() - before; came > span.Len()/2 {
			t.Errorf("%v came as %d bytes", span, came)
		}
		total += span.Len()
	}
	// The child may not know yet where the content ends.
	if got, err := fetchAll(t, c, want(addrOf(h.Listener), 4*mib, 8*mib)); err != nil || !bytes.Equal(got, parent.data[4*mib:]) {
		t.Errorf("a span over the end: %d bytes, %v", len(got), err)
	}
	if m.dials.Load() != 1 {
		t.Errorf("%d connections for one fetch after the other", m.dials.Load())
	}
	c.Close()
	h.Close()
	if total += n - 4*mib; sent.Load() != total {
		t.Errorf("%d bytes of content observed, %d sent", sent.Load(), total)
	}
	// What came has headers, too.
	if less := total - m.bytes.Load(); saved.Load() < less || saved.Load() > less+4*kib {
		t.Errorf("%d bytes saved, %d did not come", saved.Load(), less)
	}
}

// TestNotEncoded: where compression is not asked for, not worth it or not
// possible, the bytes go as they are, from the file to the socket.
func TestNotEncoded(t *testing.T) {
	half := newContent(t, 2*mib)
	half.data = text(t, 2*mib).data
	half.grow(t, mib)
	unknown := text(t, 2*mib).unknown()
	for _, c := range []struct {
		name    string
		content *content
		to      int64
		change  func(s *transfer.Server)
	}{
		{"random bytes", full(t, 2*mib), 2 * mib, nil},
		{"a short span", text(t, 2*mib), 128*kib - 1, nil},
		{"a fast link", text(t, 2*mib), 2 * mib, func(s *transfer.Server) { s.Limit = rate.NewLimiter(1<<40, 1<<20) }},
		{"a link of unknown rate", text(t, 2*mib), 2 * mib, func(s *transfer.Server) { s.Limit = nil }},
		{"compression off", text(t, 2*mib), 2 * mib, func(s *transfer.Server) { s.Plain = true }},
		{"what is not held yet", half, 2 * mib, nil},
		{"a content of unknown length", unknown, 2 * mib, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(shelf{taskID: c.content})
			s.Limit = slowLink()
			if c.change != nil {
				c.change(s)
			}
			h := httptest.NewUnstartedServer(s)
			files := &files{Listener: h.Listener}
			h.Listener = files
			h.Start()
			defer h.Close()
			body, err := newClient(t, transfer.ClientOptions{}).Fetch(t.Context(), want(addrOf(files.Listener), 0, c.to))
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			if c.content == half {
				half.grow(t, 2*mib)
			}
			got, err := io.ReadAll(body)
			if err != nil || !bytes.Equal(got, c.content.data[:c.to]) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if direct := files.direct.Load(); direct != c.to && c.content != unknown { // a chunked answer is copied
				t.Errorf("%d of %d bytes were sent from the file", direct, c.to)
			}
		})
	}
	t.Run("not asked for", func(t *testing.T) {
		s := newServer(shelf{taskID: text(t, 2*mib)})
		s.Limit = slowLink()
		header := map[string]string{"If-Match": `"` + version.String() + `"`, "Authorization": "Dragonfly " + ticket.Secret(), "Range": "bytes=0-1048575"}
		resp, _ := raw(t, serve(t, s), "GET", contentPath(taskID), header)
		if resp.Header.Get("X-Dragonfly-Encoding") != "" || resp.ContentLength != mib {
			t.Errorf("encoding %q, %d bytes", resp.Header.Get("X-Dragonfly-Encoding"), resp.ContentLength)
		}
	})
}

// TestEncodedBreaks: a parent that loses its bytes in the middle of a frame
// breaks it off; the child has what came before and goes on from there.
func TestEncodedBreaks(t *testing.T) {
	parent := text(t, 2*mib)
	s := newServer(shelf{taskID: parent})
	s.Limit = slowLink()
	addr := serve(t, s)
	c := newClient(t, transfer.ClientOptions{})
	if err := os.Truncate(parent.path, mib+100*kib); err != nil {
		t.Fatal(err)
	}
	body, err := c.Fetch(t.Context(), want(addr, 100, 2*mib))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if reason(t, err) != dragonfly.FailReset || len(got) < mib || !bytes.Equal(got, parent.data[100:100+len(got)]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n, again := body.Read(make([]byte, 1)); n > 0 || again != err {
		t.Errorf("after an error: %d bytes, %v", n, again)
	}
	if err := os.WriteFile(parent.path, parent.data, 0o600); err != nil {
		t.Fatal(err)
	}
	rest, err := fetchAll(t, c, want(addr, 100+int64(len(got)), 2*mib))
	if err != nil || !bytes.Equal(append(got, rest...), parent.data[100:]) {
		t.Errorf("the rest: %d bytes, %v", len(rest), err)
	}
}

// scripted is a connection to a parent that says the same whatever it is asked.
type scripted struct {
	io.Reader
	net.Conn
}

func (s scripted) Read(p []byte) (int, error)     { return s.Reader.Read(p) }
func (scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (scripted) Close() error                     { return nil }
func (scripted) SetDeadline(time.Time) error      { return nil }
func (scripted) SetReadDeadline(time.Time) error  { return nil }
func (scripted) SetWriteDeadline(time.Time) error { return nil }

// encodedAnswer is a compressed answer for the first n bytes of a content of 1 MiB.
func encodedAnswer(n int64, frame []byte) []byte {
	b := fmt.Appendf(nil, "HTTP/1.1 206 Partial Content\r\nX-Dragonfly-Peer: %s\r\nX-Dragonfly-Encoding: zstd\r\n"+
		"Content-Range: bytes 0-%d/%d\r\nTransfer-Encoding: chunked\r\n\r\n", session, n-1, mib)
	if len(frame) > 0 {
		b = append(fmt.Appendf(b, "%x\r\n", len(frame)), frame...)
		b = append(b, "\r\n"...)
	}
	return append(b, "0\r\n\r\n"...)
}

// fetchScripted fetches n bytes from a parent that gives an answer.
func fetchScripted(t *testing.T, n int64, answer []byte) (got []byte, err error, reused bool) {
	t.Helper()
	dials := 0
	c := newClient(t, transfer.ClientOptions{Dial: func(context.Context, string, string) (net.Conn, error) {
		dials++
		return scripted{Reader: io.MultiReader(bytes.NewReader(answer), bytes.NewReader(answer))}, nil
	}})
	f := want(netip.AddrPortFrom(netip.IPv6Loopback(), 1), 0, n)
	if got, err = fetchAll(t, c, f); err != nil {
		return got, err, false
	}
	if body, err := c.Fetch(t.Context(), f); err == nil {
		body.Close()
	}
	return got, nil, dials == 1
}

func frameOf(t testing.TB, p []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithWindowSize(512*kib))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(p, nil)
}

// emptyBlocks is a frame of n blocks without content.
func emptyBlocks(n int) []byte {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x48}
	return append(frame, make([]byte, 3*n)...)
}

// TestHostileFrames: a child never takes more than its range has, nor reads
// without end for it.
func TestHostileFrames(t *testing.T) {
	const n = 256 * kib
	zeros := make([]byte, n)
	good := encodedAnswer(n, frameOf(t, zeros))
	if got, err, reused := fetchScripted(t, n, good); err != nil || !bytes.Equal(got, zeros) || !reused {
		t.Errorf("a good frame: %d bytes, %v, connection reused: %v", len(got), err, reused)
	}
	// More than the range is not looked at: the pieces' digests say whether
	// what came is right. The connection is given up.
	got, err, reused := fetchScripted(t, n, encodedAnswer(n, frameOf(t, make([]byte, 64*mib))))
	if err != nil || !bytes.Equal(got, zeros) || reused {
		t.Errorf("a bomb: %d bytes, %v, connection reused: %v", len(got), err, reused)
	}
	for name, answer := range map[string][]byte{
		"too little":      encodedAnswer(n, frameOf(t, zeros[1:])),
		"nothing":         encodedAnswer(n, nil),
		"no frame":        encodedAnswer(n, zeros),
		"cut":             encodedAnswer(n, frameOf(t, full(t, n).data)[:n/2]),
		"without end":     encodedAnswer(n, emptyBlocks(n)),
		"a large window":  encodedAnswer(n, append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x80}, emptyBlocks(1)[6:]...)),
		"skippable":       encodedAnswer(n, append(binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, 1<<31), zeros...)),
		"other encoding":  bytes.Replace(good, []byte("zstd"), []byte("gzip"), 1),
		"with its length": bytes.Replace(good, []byte("Transfer-Encoding: chunked"), []byte("Content-Length: 100"), 1),
	} {
		if got, err, _ := fetchScripted(t, n, answer); reason(t, err) != dragonfly.FailReset || len(got) >= n {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if _, err, _ := fetchScripted(t, kib, encodedAnswer(kib, frameOf(t, zeros[:kib]))); reason(t, err) != dragonfly.FailReset {
		t.Errorf("an encoding that was not asked for: %v", err)
	}
}

// TestDecoders: a child has so many decoders and no more: beyond them bytes
// come as they are.
func TestDecoders(t *testing.T) {
	const n, most = 128 * kib, 64
	parent := text(t, n)
	answer := encodedAnswer(n, frameOf(t, parent.data))
	var asked atomic.Int64
	c := newClient(t, transfer.ClientOptions{Dial: func(context.Context, string, string) (net.Conn, error) {
		return &scriptedAsked{scripted{Reader: bytes.NewReader(answer)}, &asked}, nil
	}})
	f := want(netip.AddrPortFrom(netip.IPv6Loopback(), 1), 0, n)
	var bodies []io.ReadCloser
	for range most {
		body, err := c.Fetch(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	if asked.Load() != most {
		t.Fatalf("%d of %d fetches asked for compression", asked.Load(), most)
	}
	if _, err := c.Fetch(t.Context(), f); reason(t, err) != dragonfly.FailReset || asked.Load() != most {
		t.Errorf("one more: %v, %d asked for compression", err, asked.Load())
	}
	for _, b := range bodies[1:] {
		b.Close()
	}
	if got, err := io.ReadAll(bodies[0]); err != nil || !bytes.Equal(got, parent.data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for range 2 * most {
		if got, err := fetchAll(t, c, f); err != nil || !bytes.Equal(got, parent.data) {
			t.Fatalf("after they were given up: %d bytes, %v", len(got), err)
		}
	}
}

// scriptedAsked counts the requests that ask for compression.
type scriptedAsked struct {
	scripted
	asked *atomic.Int64
}

func (s *scriptedAsked) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("X-Dragonfly-Encoding: zstd\r\n")) {
		s.asked.Add(1)
	}
	return len(p), nil
}

// FuzzEncoded: whatever a parent sends as a frame, the child gets its range in
// full or an error, and no byte more.
func FuzzEncoded(f *testing.F) {
	const n = 128 * kib
	words := []byte(strings.Repeat("what is said twice is shorter. ", n/31+1))[:n]
	good := frameOf(f, words)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(append(bytes.Clone(good), good...))
	f.Add(frameOf(f, make([]byte, mib)))
	f.Add(emptyBlocks(1000))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, frame []byte) {
		got, err, _ := fetchScripted(t, n, encodedAnswer(n, frame))
		if reason(t, err) == "" && len(got) != n || len(got) > n {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if bytes.Equal(frame, good) && !bytes.Equal(got, words) {
			t.Error("a good frame gives other bytes")
		}
	})
}

// BenchmarkEncoded is both ends with compression: what a core can do for text.
func BenchmarkEncoded(b *testing.B) {
	const n = 4*mib - 5
	s := newServer(shelf{taskID: text(b, n)})
	s.Limit = rate.NewLimiter(mib, 1<<40)
	c := newClient(b, transfer.ClientOptions{})
	f := want(serve(b, s), 0, n)
	measure(b, n, func(buf []byte) (int64, error) {
		body, err := c.Fetch(context.Background(), f)
		if err != nil {
			return 0, err
		}
		defer body.Close()
		return drain(body, buf)
	})
}

// BenchmarkFastLink is what a child pays for asking, and a parent for deciding
// that a link is too fast for compression.
func BenchmarkFastLink(b *testing.B) {
	const n = 4*mib - 5
	for _, plain := range []bool{false, true} {
		b.Run(fmt.Sprintf("plain=%v", plain), func(b *testing.B) {
			s := newServer(shelf{taskID: text(b, n)})
			s.Plain = plain
			h := httptest.NewUnstartedServer(s)
			h.Config.ConnContext = transfer.ConnContext
			h.Start()
			defer h.Close()
			c := newClient(b, transfer.ClientOptions{})
			measure(b, n, func(buf []byte) (int64, error) {
				body, err := c.Fetch(context.Background(), want(addrOf(h.Listener), 0, n))
				if err != nil {
					return 0, err
				}
				defer body.Close()
				return drain(body, buf)
			})
		})
	}
}
