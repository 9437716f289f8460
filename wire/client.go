// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"dragonfly"
)

const (
	sessionsPath = "/p2p/v1/sessions"
	sessionPath  = "/p2p/v1/session"
	registerPath = sessionPath + "/register"
	syncPath     = sessionPath + "/sync"

	// keyHeader carries a session's credential.
	keyHeader = "X-Dragonfly-Session"
)

const (
	// openSyncs is how many syncs a session may have open.
	openSyncs = 2
	// registers is how many connections are kept for registrations: a list of
	// small files brings many at once, each of which would open one anew.
	registers = 64
	// syncSlack is how much later than Welcome.Poll the answer to a sync may
	// come.
	syncSlack = 10 * time.Second
	// pollMax bounds the Welcome.Poll that a client believes.
	pollMax = 5 * time.Minute
	// closeTimeout bounds Close for a caller whose context has no end.
	closeTimeout = 3 * time.Second
	// dialTimeout is v1's; a supernode that takes longer is not there.
	dialTimeout = 3 * time.Second
	// answerLimit bounds the body of every answer in bytes.
	answerLimit = 8 << 20
)

// ClientOptions are what a Client may be told; the zero value will do.
type ClientOptions struct {
	// Dial opens connections, by default over TCP. Its address is the
	// Client's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Build names the software in the User-Agent header.
	Build string
}

// Client is the Tracker at one address. Its methods may be called from several
// goroutines; connections are kept and used again.
type Client struct {
	addr  string
	agent string
	http  http.Client
}

var (
	_ dragonfly.Tracker = (*Client)(nil)
	_ dragonfly.Session = (*session)(nil)
)

// NewClient makes a Client of the supernode at addr, the host:port of its
// control port. It connects when it is used.
func NewClient(addr string, o ClientOptions) *Client {
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	return &Client{
		addr:  addr,
		agent: "dragonfly/" + cmp.Or(o.Build, "unknown"),
		http: http.Client{
			Transport: &http.Transport{
				// No proxy: the environment's proxies are for the source.
				DialContext:         dial,
				DisableCompression:  true,
				MaxIdleConnsPerHost: openSyncs + registers,
				IdleConnTimeout:     90 * time.Second,
			},
			// A supernode does not redirect; whoever does is something else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Close gives up idle connections. Open calls go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Open implements dragonfly.Tracker. It takes as long as ctx allows. The
// answer to Hello.First is read by the first Register.
func (c *Client) Open(ctx context.Context, hello dragonfly.Hello) (dragonfly.Session, error) {
	s := &session{client: c, syncs: make(chan struct{}, openSyncs), closed: make(chan struct{}, 1)}
	var header http.Header
	var err error
	if hello.First == nil {
		header, err = c.do(ctx, http.MethodPost, sessionsPath, "", hello, &s.welcome)
	} else {
		header, err = s.openWith(ctx, hello)
	}
	if err != nil {
		return nil, err
	}
	s.key = header.Get(keyHeader)
	if s.key == "" || s.welcome.Session == "" || s.welcome.Poll <= 0 {
		s.first.take().drop()
		return nil, c.foreign("its answer lacks a session", nil)
	}
	s.welcome.Poll = min(s.welcome.Poll, pollMax)
	return s, nil
}

// session is a Session at a Client's supernode.
type session struct {
	client  *Client
	key     string // credential: never printed
	welcome dragonfly.Welcome
	syncs   chan struct{} // one element per open sync
	closed  chan struct{} // one element once Close was called
	first   first
}

func (s *session) Welcome() dragonfly.Welcome { return s.welcome }

func (s *session) Register(ctx context.Context, r dragonfly.Registration) (info dragonfly.TaskInfo, err error) {
	if info, answered, err := s.first.take().read(ctx, r); answered {
		return info, err
	}
	_, err = s.client.do(ctx, http.MethodPost, registerPath, s.key, r, &info)
	return info, err
}

// Sync waits for its turn while two other calls are open.
func (s *session) Sync(ctx context.Context, r dragonfly.Report) (work dragonfly.Work, err error) {
	select {
	case s.syncs <- struct{}{}:
		defer func() { <-s.syncs }()
	case <-ctx.Done():
		return work, s.client.unreachable(ctx, ctx.Err())
	}
	patience := s.welcome.Poll + syncSlack
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = s.client.do(limited, http.MethodPost, syncPath, s.key, r, &work)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = &dragonfly.Error{
			Kind:    dragonfly.Unavailable,
			Message: fmt.Sprintf("supernode %s did not answer a sync within %s", s.client.addr, patience),
		}
	}
	return work, err
}

// Close does nothing the second time, and takes a session that the supernode
// does not know for a closed one.
func (s *session) Close(ctx context.Context, reason string) error {
	select {
	case s.closed <- struct{}{}:
	default:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	s.first.take().drop()
	query := url.Values{"reason": {reason}}
	_, err := s.client.do(ctx, http.MethodDelete, sessionPath+"?"+query.Encode(), s.key, nil, nil)
	if dragonfly.KindOf(err) == dragonfly.UnknownSession {
		return nil
	}
	return err
}

// do sends one request and decodes the answer into out; without out an answer
// without a body is expected. Its errors are *dragonfly.Error.
func (c *Client) do(ctx context.Context, method, path, key string, in, out any) (http.Header, error) {
	resp, err := c.send(ctx, method, path, key, in)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body := borrow()
	defer giveBack(body)
	err = readBody(body, resp.Body, answerLimit)
	answer := body.Bytes()
	if errors.Is(err, errTooLong) {
		return nil, c.foreign("its answer is not ours", err)
	}
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	good := resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent && out == nil
	switch {
	case !good:
		return nil, c.failure(resp, answer)
	case out == nil:
		return resp.Header, nil
	case !isJSON(resp.Header.Get("Content-Type")):
		return nil, c.foreign(fmt.Sprintf("it answered 200 with content type %.40q", resp.Header.Get("Content-Type")), nil)
	}
	if err := decode(answer, answerLimit, out); err != nil {
		return nil, c.foreign("its answer cannot be read", err)
	}
	return resp.Header, nil
}

// send sends one request and gives the answer, whose body the caller closes.
func (c *Client) send(ctx context.Context, method, path, key string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, &dragonfly.Error{Kind: dragonfly.Invalid, Message: "the request cannot be written as JSON", Err: err}
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.addr+path, body)
	if err != nil {
		return nil, &dragonfly.Error{Kind: dragonfly.Invalid, Message: fmt.Sprintf("supernode %q: not an address", c.addr)}
	}
	req.Header.Set("User-Agent", c.agent)
	// The transport may send every request again on a new connection when the
	// kept one proves dead. An empty key says so and is not sent.
	req.Header["X-Idempotency-Key"] = nil
	if in != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if key != "" {
		req.Header.Set(keyHeader, key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return resp, nil
}

// failure makes an error of an answer that is none of success.
func (c *Client) failure(resp *http.Response, body []byte) error {
	if isJSON(resp.Header.Get("Content-Type")) {
		if e, err := decodeError(body); err == nil {
			return e
		}
	}
	why := fmt.Sprintf("it answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if server := resp.Header.Get("Server"); server != "" {
		why += fmt.Sprintf(" as %.40q", server)
	}
	if resp.StatusCode == http.StatusNotFound {
		return c.foreign(why, ErrNotNative)
	}
	return c.foreign(why, nil)
}

// decodeError reads a dragonfly.Error. A kind that this build does not know is
// taken for Internal; no kind at all is an error.
func decodeError(body []byte) (*dragonfly.Error, error) {
	var e dragonfly.Error
	if err := decode(body, answerLimit, &e); err != nil {
		return nil, err
	}
	if e.Kind == "" {
		return nil, errors.New("an error without a kind")
	}
	if _, known := statuses[e.Kind]; !known {
		e.Kind = dragonfly.Internal
	}
	return &e, nil
}

// foreign is for answers that no supernode of ours gives.
func (c *Client) foreign(why string, err error) error {
	return &dragonfly.Error{
		Kind:    dragonfly.Unavailable,
		Message: fmt.Sprintf("%s does not answer as a supernode does (%s); check its address and port", c.addr, why),
		Err:     err,
	}
}

// unreachable is for requests that got no answer; a call that its own user
// gave up is Canceled.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &dragonfly.Error{Kind: dragonfly.Canceled, Err: context.Canceled}
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // without method and URL
	}
	return &dragonfly.Error{Kind: dragonfly.Unavailable, Message: fmt.Sprintf("supernode %s cannot be reached", c.addr), Err: err}
}
