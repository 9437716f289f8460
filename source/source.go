// SPDX-License-Identifier: Apache-2.0

// Package source reads the places where content comes from: HTTP and HTTPS
// servers.
//
// Invariants:
//   - One GET gives both what is to be known about a content and its bytes.
//     Reading begins with no HEAD and no probe: signed URLs are made for one
//     method, and a source sends each byte once. Allowed asks for rights only.
//   - A Body gives exactly the bytes of the content from Info.From on. A body
//     that ends early, or that goes on for longer than announced, ends in an
//     error and never in io.EOF. Only a body whose end nothing but the end of
//     the connection marks (HTTP/1.0 without a length) is taken as it comes.
//   - Bytes of two states of a content are never joined: what cannot be shown
//     to continue the state that a Condition names is SourceChanged.
//   - A user's own Range header makes the content a window of the resource: all
//     offsets and lengths are those of the window.
//   - Credentials go to the host that they were given for and to no other, and
//     no message holds them. With Options.Guard no connection is made to an
//     address that the Guard refuses, whatever name or redirect led to it.
package source

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"dragonfly"
)

// ErrNotModified is what Open answers to Condition.IfChanged when the content
// is still in the state that the Condition names.
var ErrNotModified = errors.New("the source's content is unchanged")

// Timeouts bound the steps of a read; zero values stand for the defaults.
// Nothing bounds a whole body but the context.
type Timeouts struct {
	Dial   time.Duration // resolve and connect; default 3 s
	TLS    time.Duration // handshake; default 5 s
	Header time.Duration // from the request to the answer's header; default 10 s
	Idle   time.Duration // a Read of a body without any byte; default 30 s
}

// Options of a Client. The zero value reads like curl: no guard, no proxy.
type Options struct {
	// Guard refuses addresses that a server must not be talked into reading:
	// link-local, cloud metadata, unspecified, multicast. Every server-side
	// read has it on. Allow and Deny amend it: of all prefixes that hold an
	// address, built-in ones included, the longest decides, and refusal wins
	// between equals.
	Guard bool
	Allow []netip.Prefix
	Deny  []netip.Prefix

	Timeouts  Timeouts
	UserAgent string // "dragonfly" if empty; a user's own header comes first

	// Proxy says which proxy a request goes through, nil for none, as in
	// http.Transport. Behind a proxy the Guard sees the proxy's address and
	// targets that are written as addresses; names are resolved by the proxy.
	Proxy func(*http.Request) (*url.URL, error)
	// Certificates are shown to sources that ask for one, but not to hosts
	// that a redirect led to.
	Certificates []tls.Certificate
	// Dial replaces the network, for in-memory ones. The Guard checks the
	// address before it if that is not a name.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client reads sources. It keeps connections for reuse; its methods may be
// called from several goroutines.
type Client struct {
	options    Options
	guard      *guard // nil: off
	transports transports
	throttled  throttled
}

// New makes a Client.
func New(o Options) *Client {
	set := func(d *time.Duration, preset time.Duration) {
		if *d <= 0 {
			*d = preset
		}
	}
	set(&o.Timeouts.Dial, 3*time.Second)
	set(&o.Timeouts.TLS, 5*time.Second)
	set(&o.Timeouts.Header, 10*time.Second)
	set(&o.Timeouts.Idle, 30*time.Second)
	if o.UserAgent == "" {
		o.UserAgent = "dragonfly"
	}
	c := &Client{options: o}
	if o.Guard {
		c.guard = newGuard(o.Allow, o.Deny)
	}
	return c
}

// Close closes the connections that no Body uses.
func (c *Client) Close() { c.transports.close() }

// Condition names a state of the content, as an earlier Info told it, and says
// which part is wanted. The zero value takes the content as it is.
type Condition struct {
	ETag         string // as the source wrote it; weak ones count for IfChanged only
	LastModified string // as the source wrote it
	Length       int64  // of the content; 0 or less: not known

	// IfChanged asks for the content only if it is in another state:
	// ErrNotModified says that it is not. Without IfChanged the content must
	// be in the named state, else Open answers SourceChanged.
	IfChanged bool
	// To ends the wanted part [from, To) of the content; 0 or less: to the
	// content's end. It may lie beyond that.
	To int64
}

// Info is what a source says about a content. Header may hold secrets; Info
// logs without it.
type Info struct {
	Length       int64 // of the whole content (the window), UnknownLength if not told
	From         int64 // where this body starts in the content
	ETag         string
	LastModified string
	// Ranges says that the source serves ranges: it has just done so, or says
	// so. False is also "not known", except after a ranged request.
	Ranges bool
	Header http.Header // of the answer
	URL    string      // where redirects ended, redacted
}

// Validator is what tells this state of the content from others: the strong
// ETag, else Last-Modified and length, else "": the source gives none.
func (i Info) Validator() string {
	if tag := strongETag(i.ETag); tag != "" {
		return tag
	}
	return dateAndLength(i.LastModified, i.Length)
}

// LogValue keeps slog from printing the header.
func (i Info) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", i.URL), slog.Int64("length", i.Length),
		slog.Int64("from", i.From), slog.Bool("ranges", i.Ranges))
}

// Body is an open content. Errors of Read are *dragonfly.Error, save io.EOF.
// One goroutine may read while another one closes. It must be closed.
type Body struct {
	Info
	io.ReadCloser
}

// Open asks the source for the content from the offset from on, up to cond.To.
// ctx bounds the whole body. Small and large buffers are read straight from
// the connection.
//
// With from > 0 the request carries a Range, and an If-Range where cond has a
// validator. A source that ignores ranges is read over from its start if it
// proves by its validator that the state is the same, else the content cannot
// be continued: SourceChanged. A 206 that shows no validator is trusted if its
// total length is right: a zero Condition checks nothing, and the caller must
// then compare Info.Validator itself before it joins the bytes to others.
//
// Errors are ErrNotModified or *dragonfly.Error: Invalid, NotFound,
// Unauthorized, Forbidden, Throttled (RetryAfter says how long), SourceChanged,
// SourceFailed (ctx's deadline included), Canceled. If the source gave a status other than 200 or 206, a
// *StatusError is in the chain.
func (c *Client) Open(ctx context.Context, r dragonfly.Request, from int64, cond Condition) (*Body, error) {
	u, err := parseURL(r.URL)
	if err != nil {
		return nil, err
	}
	want, err := newWish(r, from, cond)
	if err != nil {
		return nil, err
	}
	header, host, err := c.header(r.Header)
	if err != nil {
		return nil, err
	}
	want.set(header)
	a, err := c.get(ctx, r, u, header, host)
	if err != nil {
		return nil, err
	}
	body, err := c.body(a, want)
	if err != nil {
		a.discard()
		if kind := dragonfly.KindOf(err); kind == dragonfly.Throttled {
			c.throttled.note(u, RetryAfter(err))
		}
		return nil, err
	}
	return body, nil
}

// ThrottledUntil says until when the host of url asked to be left alone by a
// Throttled answer; the zero time if it did not or the time is over. Open does
// not wait for it: the caller decides.
func (c *Client) ThrottledUntil(url string) time.Time {
	u, err := parseURL(url)
	if err != nil {
		return time.Time{}
	}
	return c.throttled.until(u)
}

// body makes a Body of an answer, or says why there is none. It does not close
// the answer when it fails.
func (c *Client) body(a *answer, want wish) (*Body, error) {
	resp := a.resp
	info := Info{
		From:         want.from,
		ETag:         resp.Header.Get("ETag"),
		LastModified: resp.Header.Get("Last-Modified"),
		Header:       resp.Header,
		URL:          redact(a.url),
	}
	var (
		cut cut
		err error
	)
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNonAuthoritativeInfo:
		info.Ranges = want.value == "" && acceptsRanges(resp.Header)
		cut, err = want.ofWhole(resp.ContentLength)
	case http.StatusPartialContent:
		info.Ranges = true
		cut, err = want.ofPart(resp.Header.Get("Content-Range"), resp.ContentLength)
	case http.StatusNotModified:
		if want.cond.IfChanged && want.cond.named() {
			return nil, ErrNotModified
		}
		err = fault(dragonfly.SourceFailed, "answers 304 to a request without a condition")
	case http.StatusRequestedRangeNotSatisfiable:
		info.Ranges = true
		cut, err = want.ofNothing(resp.Header.Get("Content-Range"))
	default:
		return nil, statusError(a)
	}
	if err == nil {
		info.Length = cut.length
		if want.cond.IfChanged {
			if want.cond.same(info) {
				return nil, ErrNotModified // it sent the content nonetheless
			}
		} else {
			err = want.check(info, resp.StatusCode)
		}
	}
	if err == nil && cut.fault != "" {
		err = fault(dragonfly.SourceFailed, cut.fault)
	}
	if err != nil {
		return nil, a.describe(err)
	}
	return &Body{Info: info, ReadCloser: newReader(a, cut, c.options.Timeouts.Idle)}, nil
}

func acceptsRanges(h http.Header) bool { return h.Get("Accept-Ranges") == "bytes" }
