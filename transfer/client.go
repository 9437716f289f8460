// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dragonfly"
	"dragonfly/internal/piecehash"
)

// maxBlocks bounds an answer of block digests; the largest piece has 240.
const maxBlocks = 1 << 12

// Fetch says what is wanted, and from whom.
type Fetch struct {
	// Addrs are the parent's. The first that takes a connection is used;
	// later ones are tried too when the earlier are slow.
	Addrs   []netip.AddrPort
	Task    dragonfly.TaskID
	Version dragonfly.Version
	Ticket  dragonfly.Ticket
	// Span is what to get of the content, in its offsets. An empty span is an
	// empty content.
	Span dragonfly.Span
	// Session is as whom the parent must answer; "" is anybody.
	Session dragonfly.SessionID

	encoded bool // the answer may come compressed
}

// FetchError is why bytes did not come. Reading and fetching give no other
// error but io.EOF; Err is never io.EOF.
type FetchError struct {
	Reason dragonfly.FailReason
	Err    error
}

func (e *FetchError) Error() string { return string(e.Reason) + ": " + e.Err.Error() }
func (e *FetchError) Unwrap() error { return e.Err }

func failed(reason dragonfly.FailReason, format string, args ...any) *FetchError {
	return &FetchError{reason, fmt.Errorf(format, args...)}
}

// broken classifies an error of a connection that stood.
func broken(ctx context.Context, err error) *FetchError {
	switch {
	case ctx.Err() != nil:
		return &FetchError{dragonfly.FailCanceled, context.Cause(ctx)}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failed(dragonfly.FailStalled, "the parent sent nothing in time: %w", err)
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return &FetchError{dragonfly.FailReset, err}
}

// ClientOptions are how a Client reaches parents.
type ClientOptions struct {
	// Dial makes a connection and returns soon after ctx ends; nil: a
	// net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS, if not nil, is spoken to every parent. Without a ServerName the
	// parent's certificate must be for its address.
	TLS *tls.Config
	// Plain asks for nothing compressed.
	Plain bool
	// Stall is how long a parent may send nothing: while it connects, before
	// its answer, and between two bytes; 0: 5 s. It is measured to an eighth.
	Stall time.Duration
	// IdleTimeout is how long an unused connection is kept, MaxIdle how many
	// are, to all parents together; 0: 60 s and 64.
	IdleTimeout time.Duration
	MaxIdle     int
}

// Client is the child's end. It keeps connections to parents and may be used by
// many goroutines. Make one with New.
type Client struct {
	o ClientOptions

	mu     sync.Mutex // guards idle, count and closed
	idle   map[netip.AddrPort][]*conn
	count  int // of idle
	closed bool

	decoders atomic.Int64 // fetches whose answers may come compressed
}

// New makes a client that has no connection yet.
func New(o ClientOptions) *Client {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Stall == 0 {
		o.Stall = 5 * time.Second
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = time.Minute
	}
	if o.MaxIdle == 0 {
		o.MaxIdle = 64
	}
	return &Client{o: o, idle: map[netip.AddrPort][]*conn{}}
}

// Fetch asks a parent for a span and returns once it answered. The body ends
// with io.EOF where the span ends, or the content, if the parent knows or finds
// that it ends earlier. It must be closed, and not while it is read: to break
// off a read, cancel ctx, which governs the body too. Reads go past all buffers
// when they are of 4 KiB or more. Errors are *FetchError.
func (c *Client) Fetch(ctx context.Context, f Fetch) (io.ReadCloser, error) {
	if f.encoded = !c.o.Plain && f.Span.Len() >= minEncoded; f.encoded && c.decoders.Add(1) > maxDecoders {
		c.decoders.Add(-1)
		f.encoded = false
	}
	b, resp, err := c.ask(ctx, &f, contentRoute, 0)
	if err == nil {
		if err = b.expect(resp, &f); err != nil {
			b.drop()
		}
	}
	if f.encoded && (err != nil || b.decoder == nil) {
		c.decoders.Add(-1)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Blocks asks a parent for the block digests of a piece that it holds. They
// are as trustworthy as the parent until they were compared with the piece's
// digest. Errors are *FetchError.
func (c *Client) Blocks(ctx context.Context, f Fetch, n dragonfly.PieceNum) ([]piecehash.Block, error) {
	b, resp, err := c.ask(ctx, &f, blocksRoute, n)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	const size = int64(len(piecehash.Block{}))
	if resp.StatusCode != http.StatusOK || resp.ContentLength < size ||
		resp.ContentLength > maxBlocks*size || resp.ContentLength%size != 0 {
		return nil, failed(dragonfly.FailReset, "the parent answered with status %d and %d bytes of block digests", resp.StatusCode, resp.ContentLength)
	}
	b.left = resp.ContentLength
	blocks := make([]piecehash.Block, b.left/size)
	for i := range blocks {
		if _, err := io.ReadFull(b, blocks[i][:]); err != nil {
			return nil, err
		}
	}
	return blocks, nil
}

// ask sends a request and reads the header of the answer. A kept connection
// that proves dead before a byte of the answer came is replaced by another.
func (c *Client) ask(ctx context.Context, f *Fetch, what string, n dragonfly.PieceNum) (*body, *http.Response, error) {
	for {
		cn, err := c.connect(ctx, f.Addrs)
		if ctx.Err() != nil {
			if cn != nil {
				cn.close()
			}
			return nil, nil, &FetchError{dragonfly.FailCanceled, context.Cause(ctx)}
		}
		if err != nil {
			return nil, nil, &FetchError{dragonfly.FailRefused, err}
		}
		stop := context.AfterFunc(ctx, cn.close)
		resp, err := cn.roundTrip(f, what, n)
		if err == nil {
			b := &body{client: c, conn: cn, ctx: ctx, stop: stop, keep: !resp.Close}
			if err := check(resp, f.Session); err != nil {
				b.drop()
				return nil, nil, err
			}
			return b, resp, nil
		}
		stop()
		cn.close()
		stale := cn.kept && !cn.answered && !errors.Is(err, os.ErrDeadlineExceeded)
		if !stale || ctx.Err() != nil {
			return nil, nil, broken(ctx, err)
		}
	}
}

// check turns an answer that brings nothing into the reason for it. Who
// answers is looked at first: the failures of another process are not the
// parent's.
func check(resp *http.Response, want dragonfly.SessionID) error {
	if want != "" && !slices.Contains(resp.Header.Values(peerHeader), string(want)) {
		return failed(dragonfly.FailIdentity, "another process answers at the parent's address")
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		return nil
	case http.StatusNotFound:
		return failed(dragonfly.FailUnknown, "the parent does not have it, or not for us")
	case http.StatusRequestedRangeNotSatisfiable:
		return failed(dragonfly.FailUnknown, "the parent's content ends before the span")
	case http.StatusPreconditionFailed:
		return failed(dragonfly.FailVersion, "the parent has another version")
	case http.StatusServiceUnavailable:
		// Not refused: the parent is well, and may not be taken for gone.
		return failed(dragonfly.FailStalled, "the parent serves as many as it can")
	}
	return failed(dragonfly.FailReset, "the parent answered with status %d", resp.StatusCode)
}

// body is an answer that is being read.
type body struct {
	client  *Client
	conn    *conn
	ctx     context.Context
	stop    func() bool // ends ctx's hold on conn
	keep    bool        // conn may be used again
	left    int64       // bytes that may still come
	chunked io.Reader   // of an answer whose end is not known
	decoder *decoder    // of a compressed answer
	err     error       // of all further reads; conn is given up
}

// expect compares an answer with the span that was asked for.
func (b *body) expect(resp *http.Response, f *Fetch) error {
	want := f.Span
	if want.Len() == 0 {
		if resp.StatusCode != http.StatusOK || resp.ContentLength != 0 {
			return failed(dragonfly.FailReset, "the parent's content is not empty")
		}
		b.finish(true)
		return nil
	}
	got, length, ok := parseContentRange(resp.Header.Get("Content-Range"))
	switch {
	case resp.StatusCode != http.StatusPartialContent || !ok || got.From != want.From ||
		got.To != want.To && (got.To > want.To || got.To != length):
		return failed(dragonfly.FailReset, "the parent answered with status %d and another range than asked for", resp.StatusCode)
	case resp.Header.Get(encHeader) != "":
		return b.encoded(resp, f, got)
	case resp.ContentLength == got.Len():
	case resp.ContentLength < 0 && length == dragonfly.UnknownLength && len(resp.TransferEncoding) == 1:
		b.chunked = resp.Body
	default:
		return failed(dragonfly.FailReset, "the parent announced %d bytes for a range of %d", resp.ContentLength, got.Len())
	}
	b.left = got.Len()
	return nil
}

// encoded begins a compressed answer. Its raw length is the range's.
func (b *body) encoded(resp *http.Response, f *Fetch, got dragonfly.Span) error {
	if !f.encoded || resp.Header.Get(encHeader) != zstdCoding ||
		resp.ContentLength >= 0 || len(resp.TransferEncoding) != 1 {
		return failed(dragonfly.FailReset, "the parent answered in an encoding that was not asked for")
	}
	d, err := decode(resp.Body, got.Len())
	if err != nil {
		return broken(b.ctx, err)
	}
	b.left, b.decoder = got.Len(), d
	return nil
}

func (b *body) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	p = p[:min(int64(len(p)), b.left)]
	switch {
	case b.decoder != nil:
		n, err = b.decoder.Read(p)
	case b.chunked != nil:
		n, err = b.chunked.Read(p)
	default:
		n, err = b.conn.r.Read(p)
	}
	b.left -= int64(n)
	switch {
	case b.left == 0 && b.decoder != nil:
		b.finish(b.decoder.ended()) // the end was sent with the last bytes
		return n, nil
	case b.left == 0:
		b.finish(b.chunked == nil) // a terminator may follow that nobody waits for
		return n, nil
	case err == io.EOF && b.chunked != nil:
		b.finish(true)
		return n, io.EOF
	case err != nil:
		b.drop()
		b.err = broken(b.ctx, err)
		return n, b.err
	}
	return n, nil
}

// finish ends the answer, and keeps the connection if it is clean.
func (b *body) finish(clean bool) {
	b.err = io.EOF
	b.free()
	if !b.stop() || !b.keep || !clean {
		b.conn.close()
		return
	}
	b.client.put(b.conn)
}

// drop gives up the answer and its connection.
func (b *body) drop() {
	b.stop()
	b.free()
	b.conn.close()
}

func (b *body) free() {
	if b.decoder != nil {
		b.decoder.free()
		b.decoder = nil
		b.client.decoders.Add(-1)
	}
}

func (b *body) Close() error {
	if b.err == nil {
		b.drop()
		b.err = &FetchError{dragonfly.FailCanceled, os.ErrClosed}
	}
	return nil
}
