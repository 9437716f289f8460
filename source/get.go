// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"dragonfly"
)

// maxRedirects is how many redirects a request follows.
const maxRedirects = 10

// answer is what the last GET of a chain of redirects gave. Whoever gets one
// passes its body on or discards it.
type answer struct {
	resp   *http.Response
	url    *url.URL // without userinfo
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// parseURL accepts absolute http and https URLs. Its errors do not quote the
// text, which may hold a password.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fault(dragonfly.Invalid, "the source URL cannot be parsed: write it as http://host/path or https://host/path, other characters percent-encoded")
	}
	if u.Scheme != "http" && u.Scheme != "https" { // Parse made it lower-case
		return nil, fault(dragonfly.Invalid, fmt.Sprintf("the scheme %.20q of the source URL is not supported: use http or https", u.Scheme))
	}
	if u.Hostname() == "" {
		return nil, fault(dragonfly.Invalid, "the source URL has no host: write it as http://host/path or https://host/path")
	}
	return u, nil
}

// ours are the headers that the client decides on. A user's own would change
// what bytes an answer holds or how it is framed. A Range that is spelled so
// has made the window; one spelled otherwise has no effect, as in v1.
var ours = []string{
	"Accept-Encoding", "Connection", "Content-Length", "Expect", "If-Match",
	"If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since",
	"Keep-Alive", "Proxy-Connection", "Range", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

// harmless are the headers that every host may see; all others go to the host
// that they were given for.
var harmless = []string{
	"Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language",
	"Cache-Control", "If-Modified-Since", "If-None-Match", "If-Range", "Pragma",
	"Range", "User-Agent",
}

// header makes the request header of the user's one; host is the user's Host.
func (c *Client) header(user dragonfly.Header) (h http.Header, host string, err error) {
	h = http.Header{}
	for name, values := range user {
		key := textproto.CanonicalMIMEHeaderKey(name)
		if slices.Contains(ours, key) {
			continue
		}
		for _, v := range values {
			if !isToken(name) || !isFieldValue(v) {
				return nil, "", fault(dragonfly.Invalid, fmt.Sprintf("header %.60q has characters that HTTP does not allow", name))
			}
			if key == "Host" {
				host = v
				continue
			}
			h.Add(key, v)
		}
	}
	if h.Get("User-Agent") == "" {
		h.Set("User-Agent", c.options.UserAgent)
	}
	h.Set("Accept-Encoding", "identity")
	return h, host, nil
}

func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

func isFieldValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// get sends the request and follows redirects. Once a redirect leaves the
// host that the request was made for, credentials are gone for good.
func (c *Client) get(ctx context.Context, r dragonfly.Request, u *url.URL, h http.Header, host string) (*answer, error) {
	seen := map[string]bool{}
	own := true // still at the host of the request
	for hop := 0; ; hop++ {
		u = takeUser(u, h)
		seen[u.String()] = true
		a, err := c.once(ctx, r, http.MethodGet, u, h, host, own)
		if err != nil {
			return nil, err
		}
		if !isRedirect(a.resp.StatusCode) {
			return a, nil
		}
		next, err := target(a, seen, hop)
		if err != nil {
			err = a.describe(err)
			a.discard()
			return nil, err
		}
		a.discard()
		if !SameHost(u, next) {
			own, host, h = false, "", Harmless(h)
		}
		u = next
	}
}

// Harmless is what of a header every host may see, wherever a redirect leads.
func Harmless(h http.Header) http.Header {
	kept := http.Header{}
	for _, name := range harmless {
		if v := h[name]; v != nil {
			kept[name] = v
		}
	}
	return kept
}

// once sends one request.
func (c *Client) once(ctx context.Context, r dragonfly.Request, method string, u *url.URL, h http.Header, host string, own bool) (*answer, error) {
	transport, err := c.transport(r, own)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req := (&http.Request{Method: method, URL: u, Header: h.Clone(), Host: host}).WithContext(ctx)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		err = c.failure(ctx, u, err)
		cancel(nil)
		return nil, err
	}
	return &answer{resp: resp, url: u, ctx: ctx, cancel: cancel}, nil
}

// takeUser turns the userinfo of a URL into a header, so that it is treated as
// any other credential and is in no text made of the URL.
func takeUser(u *url.URL, h http.Header) *url.URL {
	if u.User == nil {
		return u
	}
	if h.Get("Authorization") == "" {
		password, _ := u.User.Password()
		req := http.Request{Header: h}
		req.SetBasicAuth(u.User.Username(), password)
	}
	plain := *u
	plain.User = nil
	return &plain
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// target is where the redirect a leads.
func target(a *answer, seen map[string]bool, hop int) (*url.URL, error) {
	location := a.resp.Header.Get("Location")
	if location == "" {
		return nil, fault(dragonfly.SourceFailed, fmt.Sprintf("answers %d without saying where to go", a.resp.StatusCode))
	}
	next, err := a.url.Parse(location)
	if err != nil {
		return nil, fault(dragonfly.SourceFailed, "redirects to a URL that cannot be parsed")
	}
	if next.Scheme != "http" && next.Scheme != "https" || next.Hostname() == "" {
		return nil, fault(dragonfly.SourceFailed, fmt.Sprintf("redirects to a URL with the scheme %.20q: only http and https are followed", next.Scheme))
	}
	next.Fragment, next.RawFragment = "", ""
	plain := *next
	plain.User = nil
	if seen[plain.String()] {
		return nil, fault(dragonfly.SourceFailed, "redirects in a loop, back to "+redact(next))
	}
	if hop >= maxRedirects {
		return nil, fault(dragonfly.SourceFailed, fmt.Sprintf("redirects once more after %d redirects", maxRedirects))
	}
	return next, nil
}

// SameHost says that what was given for a may go to b: same host and port, and
// not from https to http. From http to https on the default ports is the same
// host, only better.
func SameHost(a, b *url.URL) bool {
	if !strings.EqualFold(a.Hostname(), b.Hostname()) {
		return false
	}
	if a.Scheme == b.Scheme {
		return port(a) == port(b)
	}
	return a.Scheme == "http" && port(a) == "80" && port(b) == "443"
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// discard closes an answer whose body is not wanted. A small one is read to
// its end, so that the connection can be used again.
func (a *answer) discard() {
	const small, patience = 16 << 10, 500 * time.Millisecond
	if n := a.resp.ContentLength; n > 0 && n <= small {
		stop := time.AfterFunc(patience, func() { a.cancel(context.DeadlineExceeded) })
		_, _ = io.CopyN(io.Discard, a.resp.Body, n) // an error only costs the connection
		stop.Stop()
	}
	_ = a.resp.Body.Close()
	a.cancel(nil)
}

// maxText bounds a URL in a message.
const maxText = 300

// redact writes a URL for messages and logs: without userinfo, with the names
// of query parameters but not their values.
func redact(u *url.URL) string {
	plain := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath, Opaque: u.Opaque}
	text := plain.String()
	if u.RawQuery != "" {
		text += "?"
		for i, item := range strings.Split(u.RawQuery, "&") {
			if i > 0 {
				text += "&"
			}
			if name, _, ok := strings.Cut(item, "="); ok {
				text += name + "="
			}
			text += "…"
		}
	}
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// Redact is the URL without userinfo and without the values of its query
// parameters, for messages and logs. A text that is not a URL gives a fixed
// one.
func Redact(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "(a URL that cannot be parsed)"
	}
	return redact(u)
}
