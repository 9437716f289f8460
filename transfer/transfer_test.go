// SPDX-License-Identifier: Apache-2.0

package transfer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/transfer"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// reason is why a fetch or read failed; "" is a success.
func reason(t *testing.T, err error) dragonfly.FailReason {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*transfer.FetchError](err)
	if !ok {
		t.Fatalf("%T is no FetchError: %v", err, err)
	}
	if e.Err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a FetchError of %v", e.Err)
	}
	return e.Reason
}

func fetchAll(t *testing.T, c *transfer.Client, f transfer.Fetch) ([]byte, error) {
	t.Helper()
	body, err := c.Fetch(t.Context(), f)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// TestSpans: a child gets the very bytes of its span, over one connection.
func TestSpans(t *testing.T) {
	parent := full(t, 3*mib+17)
	var dials atomic.Int64
	c := newClient(t, transfer.ClientOptions{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	var sent atomic.Int64
	s := newServer(shelf{taskID: parent})
	s.Observe = func(n transfer.Sent) { sent.Add(n.Bytes) }
	h := httptest.NewServer(s)
	defer h.Close()
	addr := addrOf(h.Listener)
	var total int64
	for _, span := range []dragonfly.Span{{From: 0, To: 1}, {From: 0, To: 3*mib + 17}, {From: 64 * kib, To: 128 * kib}, {From: 3*mib + 16, To: 3*mib + 17}, {From: 1, To: mib}} {
		got, err := fetchAll(t, c, want(addr, span.From, span.To))
		if err != nil || !bytes.Equal(got, parent.data[span.From:span.To]) {
			t.Errorf("%v: %d bytes, %v", span, len(got), err)
		}
		total += span.Len()
	}
	// The child may not know yet where the content ends.
	if got, err := fetchAll(t, c, want(addr, 3*mib, 4*mib)); err != nil || !bytes.Equal(got, parent.data[3*mib:]) {
		t.Errorf("a span over the end: %d bytes, %v", len(got), err)
	}
	if dials.Load() != 1 {
		t.Errorf("%d connections for one fetch after the other", dials.Load())
	}
	c.Close()
	h.Close() // waits for the handlers
	if sent.Load() != total+17 {
		t.Errorf("%d bytes observed, %d sent", sent.Load(), total+17)
	}
}

// TestEmptyContent: an empty content is one empty span.
func TestEmptyContent(t *testing.T) {
	c := newClient(t, transfer.ClientOptions{})
	if got, err := fetchAll(t, c, want(serve(t, newServer(shelf{taskID: full(t, 0)})), 0, 0)); err != nil || len(got) > 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := fetchAll(t, c, want(serve(t, newServer(shelf{taskID: full(t, 1)})), 0, 0)); reason(t, err) != dragonfly.FailReset {
		t.Errorf("a content that is not empty: %v", err)
	}
}

// TestCutThrough: bytes that a parent is still receiving are sent on as they
// come: the child has them before the parent has the rest.
func TestCutThrough(t *testing.T) {
	parent := newContent(t, mib)
	body, err := newClient(t, transfer.ClientOptions{}).Fetch(t.Context(), want(serve(t, newServer(shelf{taskID: parent})), 100, mib))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	buf := make([]byte, mib)
	for from := int64(100); from < mib; {
		to := min(from*2, mib)
		parent.grow(t, to)
		if _, err := io.ReadFull(body, buf[from:to]); err != nil {
			t.Fatalf("bytes [%d, %d): %v", from, to, err)
		}
		from = to
	}
	if _, err := body.Read(buf); err != io.EOF || !bytes.Equal(buf[100:mib], parent.data[100:]) {
		t.Errorf("wrong bytes, or %v", err)
	}
}

// TestChain: five hops that all receive while they send.
func TestChain(t *testing.T) {
	const n = 2*mib + 5
	source := newContent(t, n)
	addr := serve(t, newServer(shelf{taskID: source}))
	c := newClient(t, transfer.ClientOptions{})
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 5 {
		hop := newContent(t, n)
		clear(hop.data)
		body, err := c.Fetch(t.Context(), want(addr, 0, n))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer body.Close()
			for have := int64(0); have < n; {
				m, err := body.Read(hop.data[have:min(have+64*kib, n)])
				have += int64(m)
				hop.grow(t, have)
				if err != nil && have < n {
					hop.fail(err)
					return
				}
			}
		})
		addr = serve(t, newServer(shelf{taskID: hop}))
	}
	leaf, err := c.Fetch(t.Context(), want(addr, 0, n))
	if err != nil {
		t.Fatal(err)
	}
	defer leaf.Close()
	got := make([]byte, n)
	for from := 0; from < n; from += 300 * kib { // the last hop has each part before the first has the next
		to := min(from+300*kib, n)
		source.grow(t, int64(to))
		if _, err := io.ReadFull(leaf, got[from:to]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, source.data) {
		t.Error("the leaf has other bytes than the source")
	}
}

// TestReset: when a parent's bytes will not come, its children see a broken
// stream at that very place, whether the length is known or not.
func TestReset(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("known=%v", known), func(t *testing.T) {
			parent := newContent(t, mib)
			if !known {
				parent.unknown()
			}
			parent.grow(t, 300*kib)
			body, err := newClient(t, transfer.ClientOptions{}).Fetch(t.Context(), want(serve(t, newServer(shelf{taskID: parent})), 0, mib))
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			got := make([]byte, mib)
			if _, err := io.ReadFull(body, got[:300*kib]); err != nil {
				t.Fatal(err)
			}
			parent.fail(errors.New("the piece proved bad"))
			for range 2 { // the error stays
				if n, err := body.Read(got[300*kib:]); n > 0 || reason(t, err) != dragonfly.FailReset {
					t.Errorf("%d bytes, %v", n, err)
				}
			}
		})
	}
}

// TestUnknownLength: while the length is unknown a span ends cleanly where the
// content turns out to end, and only there.
func TestUnknownLength(t *testing.T) {
	c := newClient(t, transfer.ClientOptions{})
	parent := newContent(t, mib).unknown()
	addr := serve(t, newServer(shelf{taskID: parent}))
	body, err := c.Fetch(t.Context(), want(addr, 10, 4*mib))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	parent.grow(t, 100)
	first := make([]byte, 90)
	if _, err := io.ReadFull(body, first); err != nil {
		t.Fatal(err)
	}
	parent.grow(t, mib)
	whole, err := c.Fetch(t.Context(), want(addr, 0, mib)) // within the bytes that are there
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	if got, err := io.ReadAll(whole); err != nil || !bytes.Equal(got, parent.data) {
		t.Errorf("a span that is there: %d bytes, %v", len(got), err)
	}
	parent.end()
	rest, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(append(first, rest...), parent.data[10:]) {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
	if got, err := fetchAll(t, c, want(addr, 0, 4*mib)); err != nil || !bytes.Equal(got, parent.data) {
		t.Errorf("after the end: %d bytes, %v", len(got), err)
	}
}

// TestBlocks: the block digests of a held piece, the short last one included.
func TestBlocks(t *testing.T) {
	parent := full(t, mib+100*kib)
	c := newClient(t, transfer.ClientOptions{})
	addr := serve(t, newServer(shelf{taskID: parent}))
	for n, blocks := range []int{16, 2} {
		got, err := c.Blocks(t.Context(), want(addr, 0, 0), dragonfly.PieceNum(n))
		if err != nil || len(got) != blocks {
			t.Fatalf("piece %d: %d digests, %v", n, len(got), err)
		}
		for i := range got {
			at := n*mib + i*dragonfly.BlockLen
			if got[i] != piecehash.SumBlock(parent.data[at:min(at+dragonfly.BlockLen, len(parent.data))]) {
				t.Errorf("block %d of piece %d is wrong", i, n)
			}
		}
	}
	if _, err := c.Blocks(t.Context(), want(addr, 0, 0), 2); reason(t, err) != dragonfly.FailUnknown {
		t.Errorf("a piece behind the end: %v", err)
	}
	if _, err := c.Blocks(t.Context(), want(serve(t, newServer(shelf{taskID: newContent(t, mib)})), 0, 0), 0); reason(t, err) != dragonfly.FailUnknown {
		t.Errorf("a piece that is not held: %v", err)
	}
}

// raw sends a request of its own making.
func raw(t *testing.T, addr netip.AddrPort, method, path string, header map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		if v != "" {
			req.Header.Set(k, v)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func contentPath(id dragonfly.TaskID) string { return "/p2p/v1/tasks/" + id.String() + "/content" }

// TestAnswers: every status, with the headers that go with it, and the
// parent's sessions on each.
func TestAnswers(t *testing.T) {
	parent := full(t, 1000)
	growing := full(t, 1000).unknown()
	other := dragonfly.TaskID{9}
	h := httptest.NewServer(newServer(shelf{taskID: parent, other: growing})) // without a mux
	defer h.Close()
	addr := addrOf(h.Listener)
	const (
		right = "Dragonfly 06070800000000000000000000000000"
		tag   = `"04050000000000000000000000000000"`
	)
	path := contentPath(taskID)
	blocks := strings.TrimSuffix(path, "content") + "blocks"
	for _, v := range []struct {
		name, method, path, ticket, match, ask string
		status                                 int
		length, extent                         string
	}{
		{name: "whole", path: path, ticket: right, match: tag, status: 200, length: "1000"},
		{name: "closed", path: path, ticket: right, match: tag, ask: "bytes=10-19", status: 206, length: "10", extent: "bytes 10-19/1000"},
		{name: "open", path: path, ticket: right, match: tag, ask: "bytes=990-", status: 206, length: "10", extent: "bytes 990-999/1000"},
		{name: "over the end", path: path, ticket: right, match: tag, ask: "bytes=990-5000", status: 206, length: "10", extent: "bytes 990-999/1000"},
		{name: "unknown length", path: contentPath(other), ticket: right, match: tag, ask: "bytes=990-999", status: 206, extent: "bytes 990-999/*"},
		{name: "beyond", path: path, ticket: right, match: tag, ask: "bytes=1000-", status: 416, length: "34", extent: "bytes */1000"},
		{name: "suffix", path: path, ticket: right, match: tag, ask: "bytes=-5", status: 400},
		{name: "two ranges", path: path, ticket: right, match: tag, ask: "bytes=0-1,5-6", status: 400},
		{name: "no version", path: path, ticket: right, status: 412},
		{name: "any version", path: path, ticket: right, match: "*", status: 412},
		{name: "weak version", path: path, ticket: right, match: "W/" + tag, status: 412},
		{name: "other version", path: path, ticket: right, match: strings.ReplaceAll(tag, "4", "5"), status: 412},
		{name: "blocks", path: blocks + "?piece=0", ticket: right, match: tag, status: 200, length: "32"},
		{name: "blocks of no piece", path: blocks, ticket: right, match: tag, status: 400},
		{name: "blocks of a negative piece", path: blocks + "?piece=-1", ticket: right, match: tag, status: 400},
		{name: "blocks behind the end", path: blocks + "?piece=1", ticket: right, match: tag, status: 404},
		{name: "other document", path: path + "s", ticket: right, match: tag, status: 404},
		{name: "bad task", path: "/p2p/v1/tasks/xyz/content", ticket: right, match: tag, status: 404},
		{name: "zero ticket", path: path, ticket: "Dragonfly " + strings.Repeat("0", 32), match: tag, status: 404},
		{name: "other scheme", path: path, ticket: strings.Replace(right, "Dragonfly", "Bearer", 1), match: tag, status: 404},
		{name: "post", method: "POST", path: path, ticket: right, match: tag, status: 405},
		{name: "head", method: "HEAD", path: path, ticket: right, match: tag, status: 405},
	} {
		t.Run(v.name, func(t *testing.T) {
			resp, body := raw(t, addr, v.method, v.path, map[string]string{"Authorization": v.ticket, "If-Match": v.match, "Range": v.ask})
			if resp.StatusCode != v.status || resp.Header.Get("Content-Range") != v.extent {
				t.Errorf("status %d, Content-Range %q: %s", resp.StatusCode, resp.Header.Get("Content-Range"), body)
			}
			if length := resp.Header.Get("Content-Length"); v.length != "" && length != v.length {
				t.Errorf("Content-Length %q", length)
			}
			if got := resp.Header.Values("X-Dragonfly-Peer"); !slices.Contains(got, string(session)) {
				t.Errorf("X-Dragonfly-Peer %q", got)
			}
			if v.status >= 400 && strings.Contains(body, parent.path) {
				t.Errorf("the answer names a path: %s", body)
			}
		})
	}
}

// TestOwnTrouble: what goes wrong inside the parent is logged there and not
// told to the child.
func TestOwnTrouble(t *testing.T) {
	parent := full(t, 1000)
	if err := os.Remove(parent.path); err != nil {
		t.Fatal(err)
	}
	s := newServer(shelf{taskID: parent})
	var log bytes.Buffer
	s.Log = slog.New(slog.NewTextHandler(&log, nil))
	h := httptest.NewServer(s)
	defer h.Close()
	header := map[string]string{"If-Match": `"` + version.String() + `"`, "Authorization": "Dragonfly " + ticket.Secret()}
	resp, body := raw(t, addrOf(h.Listener), "GET", contentPath(taskID), header)
	if resp.StatusCode != 500 || strings.Contains(body, parent.path) {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	h.Close() // waits for the handlers
	if !strings.Contains(log.String(), parent.path) || strings.Contains(log.String(), ticket.Secret()) {
		t.Errorf("logged: %s", log.String())
	}
}

// TestNoHint: whoever has no ticket cannot tell a task that exists from one
// that does not, whatever he asks for.
func TestNoHint(t *testing.T) {
	addr := serve(t, newServer(shelf{taskID: full(t, 1000)}))
	for _, ask := range []string{"", "bytes=0-9", "bytes=5000-", "bytes=-1"} {
		for _, match := range []string{"", `"` + version.String() + `"`, `"` + dragonfly.Version{1}.String() + `"`} {
			for _, auth := range []string{"", "Dragonfly 00", "Dragonfly " + dragonfly.Ticket{1}.Secret()} {
				header := map[string]string{"Range": ask, "If-Match": match, "Authorization": auth}
				there, thereBody := raw(t, addr, "GET", contentPath(taskID), header)
				absent, absentBody := raw(t, addr, "GET", contentPath(dragonfly.TaskID{7}), header)
				there.Header.Del("Date")
				absent.Header.Del("Date")
				if there.StatusCode != absent.StatusCode || thereBody != absentBody {
					t.Errorf("%v: %d %q and %d %q", header, there.StatusCode, thereBody, absent.StatusCode, absentBody)
				}
				if diff := cmp.Diff(there.Header, absent.Header); diff != "" {
					t.Errorf("%v: %s", header, diff)
				}
				if there.StatusCode < 400 {
					t.Errorf("%v: status %d", header, there.StatusCode)
				}
			}
		}
	}
}

// TestReasons: what a parent answers becomes the reason that is reported.
func TestReasons(t *testing.T) {
	addr := serve(t, newServer(shelf{taskID: full(t, 1000)}))
	gone := httptest.NewServer(nil)
	gone.Close()
	c := newClient(t, transfer.ClientOptions{})
	for _, v := range []struct {
		name   string
		change func(*transfer.Fetch)
		want   dragonfly.FailReason
	}{
		{"success", func(*transfer.Fetch) {}, ""},
		{"anybody", func(f *transfer.Fetch) { f.Session = "" }, ""},
		{"ticket", func(f *transfer.Fetch) { f.Ticket[0]++ }, dragonfly.FailUnknown},
		{"task", func(f *transfer.Fetch) { f.Task[0]++ }, dragonfly.FailUnknown},
		{"version", func(f *transfer.Fetch) { f.Version[0]++ }, dragonfly.FailVersion},
		{"behind the end", func(f *transfer.Fetch) { f.Span = dragonfly.Span{From: 1000, To: 1001} }, dragonfly.FailUnknown},
		{"session", func(f *transfer.Fetch) { f.Session = "someone else" }, dragonfly.FailIdentity},
		{"session before status", func(f *transfer.Fetch) { f.Session, f.Task = "someone else", dragonfly.TaskID{} }, dragonfly.FailIdentity},
		{"nobody there", func(f *transfer.Fetch) { f.Addrs[0] = addrOf(gone.Listener) }, dragonfly.FailRefused},
		{"no address", func(f *transfer.Fetch) { f.Addrs = nil }, dragonfly.FailRefused},
		{"one address is dead", func(f *transfer.Fetch) { f.Addrs = append([]netip.AddrPort{addrOf(gone.Listener)}, f.Addrs...) }, ""},
		{"all addresses are dead", func(f *transfer.Fetch) { f.Addrs[0] = addrOf(gone.Listener); f.Addrs = append(f.Addrs, f.Addrs[0]) }, dragonfly.FailRefused},
	} {
		t.Run(v.name, func(t *testing.T) {
			f := want(addr, 0, 1000)
			v.change(&f)
			_, err := fetchAll(t, c, f)
			if got := reason(t, err); got != v.want {
				t.Errorf("%q, want %q: %v", got, v.want, err)
			}
			if err != nil && strings.Contains(err.Error(), ticket.Secret()) {
				t.Errorf("the ticket is in the error: %v", err)
			}
		})
	}
}

// TestBadParents: answers that a parent should not give.
func TestBadParents(t *testing.T) {
	const head = "HTTP/1.1 206 Partial Content\r\nX-Dragonfly-Peer: session-of-the-parent\r\n"
	for name, v := range map[string]struct {
		answer string
		want   dragonfly.FailReason
	}{
		"another process":    {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhey!", dragonfly.FailIdentity},
		"no http":            {"SSH-2.0-OpenSSH\r\n", dragonfly.FailReset},
		"nothing":            {"", dragonfly.FailReset},
		"status":             {"HTTP/1.1 500 Oops\r\nX-Dragonfly-Peer: session-of-the-parent\r\n\r\n", dragonfly.FailReset},
		"busy":               {"HTTP/1.1 503 Busy\r\nX-Dragonfly-Peer: session-of-the-parent\r\n\r\n", dragonfly.FailStalled},
		"range ignored":      {"HTTP/1.1 200 OK\r\nX-Dragonfly-Peer: session-of-the-parent\r\nContent-Length: 100\r\n\r\n", dragonfly.FailReset},
		"no range":           {head + "Content-Length: 10\r\n\r\n0123456789", dragonfly.FailReset},
		"other start":        {head + "Content-Length: 10\r\nContent-Range: bytes 0-9/100\r\n\r\n0123456789", dragonfly.FailReset},
		"other end":          {head + "Content-Length: 5\r\nContent-Range: bytes 10-14/100\r\n\r\n01234", dragonfly.FailReset},
		"longer":             {head + "Content-Length: 20\r\nContent-Range: bytes 10-29/100\r\n\r\n", dragonfly.FailReset},
		"two lengths":        {head + "Content-Length: 11\r\nContent-Range: bytes 10-19/100\r\n\r\n01234567890", dragonfly.FailReset},
		"short":              {head + "Content-Length: 10\r\nContent-Range: bytes 10-19/100\r\n\r\n01234", dragonfly.FailReset},
		"short chunks":       {head + "Transfer-Encoding: chunked\r\nContent-Range: bytes 10-19/*\r\n\r\n5\r\n01234\r\n", dragonfly.FailReset},
		"broken chunks":      {head + "Transfer-Encoding: chunked\r\nContent-Range: bytes 10-19/*\r\n\r\n5\r\n01234zz", dragonfly.FailReset},
		"until close":        {head + "Content-Range: bytes 10-19/*\r\n\r\n0123456789", dragonfly.FailReset},
		"endless header":     {head + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 100), dragonfly.FailReset},
		"good":               {head + "Content-Length: 10\r\nContent-Range: bytes 10-19/100\r\n\r\n0123456789", ""},
		"good and more":      {head + "Content-Length: 10\r\nContent-Range: bytes 10-19/100\r\n\r\n0123456789more", ""},
		"good chunks":        {head + "Transfer-Encoding: chunked\r\nContent-Range: bytes 10-19/*\r\n\r\na\r\n0123456789\r\n0\r\n\r\n", ""},
		"good, early end":    {head + "Transfer-Encoding: chunked\r\nContent-Range: bytes 10-19/*\r\n\r\n5\r\n01234\r\n0\r\n\r\n", ""},
		"good, known end":    {head + "Content-Length: 5\r\nContent-Range: bytes 10-14/15\r\n\r\n01234", ""},
		"chunks beyond span": {head + "Transfer-Encoding: chunked\r\nContent-Range: bytes 10-19/*\r\n\r\nf\r\n012345678901234\r\n0\r\n\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			addr := answering(t, v.answer)
			got, err := fetchAll(t, newClient(t, transfer.ClientOptions{}), want(addr, 10, 20))
			if r := reason(t, err); r != v.want {
				t.Errorf("%q, want %q: %v", r, v.want, err)
			}
			if !strings.HasPrefix("0123456789", string(got)) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// answering is a parent that gives everybody one answer and hangs up.
func answering(t testing.TB, answer string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				buf := make([]byte, 4096)
				for at := 0; !bytes.Contains(buf[:at], []byte("\r\n\r\n")); {
					n, err := nc.Read(buf[at:])
					if err != nil {
						return
					}
					at += n
				}
				io.WriteString(nc, answer)
				nc.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, nc) // until the child hangs up
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return addrOf(l)
}

// TestCancel: a child that wants no more sees so, before and after the answer.
func TestCancel(t *testing.T) {
	why := errors.New("cancelled by assignment")
	parent := newContent(t, mib)
	s := newServer(shelf{taskID: parent})
	addr := serve(t, s)
	c := newClient(t, transfer.ClientOptions{})
	ctx, cancel := context.WithCancelCause(t.Context())
	body, err := c.Fetch(ctx, want(addr, 0, mib))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	cancel(why)
	if _, err := body.Read(make([]byte, 1)); reason(t, err) != dragonfly.FailCanceled || !errors.Is(err, why) {
		t.Errorf("a read after the cancellation: %v", err)
	}
	if _, err := c.Fetch(ctx, want(addr, 0, mib)); reason(t, err) != dragonfly.FailCanceled {
		t.Errorf("a fetch after the cancellation: %v", err)
	}
}

// TestStaleConnection: a kept connection that the parent closed meanwhile is
// not the parent's failure.
func TestStaleConnection(t *testing.T) {
	h := httptest.NewUnstartedServer(newServer(shelf{taskID: full(t, 1000)}))
	closed := make(chan struct{}, 1)
	h.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	h.Start()
	defer h.Close()
	c := newClient(t, transfer.ClientOptions{})
	for range 3 {
		if _, err := fetchAll(t, c, want(addrOf(h.Listener), 0, 1000)); err != nil {
			t.Fatal(err)
		}
		h.CloseClientConnections()
		<-closed
	}
}

// TestMaxStreams: one stream too many is told to come back.
func TestMaxStreams(t *testing.T) {
	s := newServer(shelf{taskID: newContent(t, 1000)})
	s.MaxStreams = 1
	addr := serve(t, s)
	body, err := newClient(t, transfer.ClientOptions{}).Fetch(t.Context(), want(addr, 0, 1000))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	header := map[string]string{"If-Match": `"` + version.String() + `"`, "Authorization": "Dragonfly " + ticket.Secret()}
	if resp, _ := raw(t, addr, "GET", contentPath(taskID), header); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	header["Authorization"] = ""
	if resp, _ := raw(t, addr, "GET", contentPath(taskID), header); resp.StatusCode != 404 {
		t.Errorf("status %d without a ticket", resp.StatusCode)
	}
}

// TestCopied: over a plain connection the kernel sends every byte of content from
// the file, limited or not. What has to be chunked or encrypted is said to have
// passed through the process.
func TestCopied(t *testing.T) {
	for _, test := range []struct {
		name           string
		limit          *rate.Limiter
		tls            bool
		unknown        bool
		copied, direct int64
	}{
		{name: "plain", direct: 2 * mib},
		{name: "limited", limit: rate.NewLimiter(1<<40, 1<<20), direct: 2 * mib},
		{name: "encrypted", tls: true, copied: 2 * mib},
		{name: "chunked", unknown: true, copied: 2 * mib},
	} {
		t.Run(test.name, func(t *testing.T) {
			parent := full(t, 2*mib)
			if test.unknown {
				parent.unknown()
			}
			var sent, copied atomic.Int64
			s := newServer(shelf{taskID: parent})
			s.Limit = test.limit
			s.Observe = func(n transfer.Sent) { sent.Add(n.Bytes); copied.Add(n.Copied) }
			h := httptest.NewUnstartedServer(s)
			files := &files{Listener: h.Listener}
			var o transfer.ClientOptions
			if test.tls {
				h.StartTLS()
				o.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
				o.TLS.RootCAs.AddCert(h.Certificate())
			} else {
				h.Listener = files
				h.Start()
			}
			c := newClient(t, o)
			if got, err := fetchAll(t, c, want(addrOf(files.Listener), 0, 2*mib)); err != nil || !bytes.Equal(got, parent.data) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			c.Close()
			h.Close() // waits for the handler
			if sent.Load() != 2*mib || copied.Load() != test.copied || files.direct.Load() != test.direct {
				t.Errorf("%d bytes sent, %d of them copied, want %d; %d by sendfile, want %d",
					sent.Load(), copied.Load(), test.copied, files.direct.Load(), test.direct)
			}
		})
	}
}

// files is a listener that counts what is sent by sendfile.
type files struct {
	net.Listener
	direct atomic.Int64
}

func (l *files) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &filed{nc.(*net.TCPConn), &l.direct}, nil
}

// filed takes bytes by sendfile and counts them: a reader whose Read must not be
// called.
type filed struct {
	*net.TCPConn
	direct *atomic.Int64
}

func (c *filed) ReadFrom(r io.Reader) (int64, error) {
	part, ok := r.(*io.LimitedReader)
	if !ok {
		return c.TCPConn.ReadFrom(r)
	}
	file, ok := part.R.(interface {
		io.Reader
		syscall.Conn
	})
	if !ok {
		return c.TCPConn.ReadFrom(r)
	}
	n, err := c.TCPConn.ReadFrom(&io.LimitedReader{R: &unread{file}, N: part.N})
	part.N -= n
	c.direct.Add(n)
	return n, err
}

// unread is a file that only the kernel may read.
type unread struct{ syscall.Conn }

func (*unread) Read([]byte) (int, error) { return 0, errors.New("the process reads the file") }

// TestTLS: both ends work over TLS, with a certificate for the parent's address.
func TestTLS(t *testing.T) {
	parent := full(t, mib)
	h := httptest.NewUnstartedServer(newServer(shelf{taskID: parent}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.StartTLS()
	defer h.Close()
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	got, err := fetchAll(t, newClient(t, transfer.ClientOptions{TLS: &tls.Config{RootCAs: roots}}), want(addrOf(h.Listener), 0, mib))
	if err != nil || !bytes.Equal(got, parent.data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_, err = fetchAll(t, newClient(t, transfer.ClientOptions{TLS: &tls.Config{}}), want(addrOf(h.Listener), 0, mib))
	if reason(t, err) != dragonfly.FailRefused {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
}

// TestIdle: no more connections are kept than allowed, and none after Close.
func TestIdle(t *testing.T) {
	addr := serve(t, newServer(shelf{taskID: full(t, 1000)}))
	var open atomic.Int64
	c := transfer.New(transfer.ClientOptions{MaxIdle: 2, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			open.Add(1)
			nc = &countedConn{Conn: nc, open: &open}
		}
		return nc, err
	}})
	var bodies []io.ReadCloser
	for range 5 {
		body, err := c.Fetch(t.Context(), want(addr, 0, 1000))
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	for _, b := range bodies[1:] {
		if _, err := io.ReadAll(b); err != nil {
			t.Error(err)
		}
		b.Close()
	}
	if open.Load() != 3 {
		t.Errorf("%d connections are open, want two idle ones and one in use", open.Load())
	}
	c.Close()
	c.Close()
	if _, err := io.ReadAll(bodies[0]); err != nil {
		t.Errorf("an answer under way: %v", err)
	}
	bodies[0].Close()
	if open.Load() != 0 {
		t.Errorf("%d connections are open after Close", open.Load())
	}
}

type countedConn struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
