// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dragonfly"
)

// StatusError is what a source said instead of giving content. It is the cause
// of a *dragonfly.Error.
type StatusError struct {
	Status int
	Header http.Header // only what helps to ask again: challenges, Retry-After, Content-Type
	URL    string      // where redirects ended, redacted
	// RetryAfter is how long to leave the source alone after Throttled.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("status %d %s", e.Status, http.StatusText(e.Status)))
}

// RetryAfter is how long the source behind err wants to be left alone; 0 if
// err is not Throttled.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.RetryAfter
	}
	return 0
}

const (
	minRetryAfter    = time.Second
	presetRetryAfter = 5 * time.Second // 429 that does not say
	maxRetryAfter    = 10 * time.Minute
)

// kept are the headers of a StatusError.
var kept = []string{
	"Content-Type", "Docker-Distribution-Api-Version", "Proxy-Authenticate",
	"Retry-After", "Www-Authenticate",
}

// statusError is the error for an answer without content.
//
// 401, 407: Unauthorized. 402, 403, 451: Forbidden. 404, 410: NotFound. 429,
// and 503 with Retry-After: Throttled. 408, 421, 425: SourceFailed, as another
// try may do. Other 4xx: Invalid. All else: SourceFailed.
func statusError(a *answer) error {
	status := a.resp.StatusCode
	cause := &StatusError{Status: status, Header: http.Header{}, URL: redact(a.url)}
	for _, name := range kept {
		if v := a.resp.Header[name]; v != nil {
			cause.Header[name] = v
		}
	}
	wait, told := parseRetryAfter(a.resp.Header.Get("Retry-After"), time.Now())
	kind, text := dragonfly.SourceFailed, "fails: try again later"
	switch status {
	case http.StatusUnauthorized:
		kind, text = dragonfly.Unauthorized, "wants credentials, or other ones"
	case http.StatusProxyAuthRequired:
		kind, text = dragonfly.Unauthorized, "is behind a proxy that wants credentials"
	case http.StatusPaymentRequired, http.StatusForbidden, http.StatusUnavailableForLegalReasons:
		kind, text = dragonfly.Forbidden, "refuses access: check credentials, and whether a signed URL is still valid"
	case http.StatusNotFound, http.StatusGone:
		kind, text = dragonfly.NotFound, "does not exist: check the URL"
	case http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusTooEarly:
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if !told && status == http.StatusServiceUnavailable {
			break
		}
		if !told {
			wait = presetRetryAfter
		}
		cause.RetryAfter = min(max(wait, minRetryAfter), maxRetryAfter)
		kind, text = dragonfly.Throttled, fmt.Sprintf("is asked too often: wait for %s", cause.RetryAfter)
	default:
		switch {
		case status < 400:
			text = "answers without content"
		case status < 500:
			kind, text = dragonfly.Invalid, "does not take the request: check URL and headers"
		}
	}
	err := fault(kind, text)
	err.Err = cause
	return a.describe(err)
}

// parseRetryAfter reads seconds or a date.
func parseRetryAfter(text string, now time.Time) (time.Duration, bool) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	if t, err := http.ParseTime(text); err == nil {
		return t.Sub(now), true
	}
	return 0, false
}

// fault makes an error whose subject is added by describe.
func fault(kind dragonfly.Kind, text string) *dragonfly.Error {
	return &dragonfly.Error{Kind: kind, Message: text}
}

// describe completes an error made by fault with the subject and the status.
func (a *answer) describe(err error) error {
	e, ok := errors.AsType[*dragonfly.Error](err)
	if !ok {
		return err
	}
	e.Message = "source " + redact(a.url) + " " + e.Message
	if s := a.resp.StatusCode; s != http.StatusOK && s != http.StatusPartialContent {
		e.Status = s
		if e.Err == nil {
			e.Err = &StatusError{Status: s, Header: http.Header{}, URL: redact(a.url)}
		}
	}
	return e
}

// Causes of a request's end that its context tells.
var (
	errClosed = errors.New("the body is closed")
	errIdle   = errors.New("no byte came")
)

// canceled is the error for a request that ctx ended, nil if it did not.
func canceled(ctx context.Context, u *url.URL) error {
	cause := context.Cause(ctx)
	if cause == nil {
		return nil
	}
	e := &dragonfly.Error{Kind: dragonfly.Canceled, Message: "reading of source " + redact(u) + " was canceled", Err: cause}
	if errors.Is(cause, context.DeadlineExceeded) {
		e.Kind, e.Message = dragonfly.SourceFailed, "source "+redact(u)+" did not give its content in the time set for it"
	}
	return e
}

// failure says what went wrong with a request that has no answer, and what to
// do about it.
func (c *Client) failure(ctx context.Context, u *url.URL, err error) error {
	if e, ok := errors.AsType[*dragonfly.Error](err); ok {
		return e // from the guard or the proxy
	}
	if e := canceled(ctx, u); e != nil {
		return e
	}
	e := &dragonfly.Error{Kind: dragonfly.SourceFailed, Err: err}
	e.Message = "source " + u.Host + " " + c.trouble(u, err)
	return e
}

// trouble puts the cause of a failed request into words.
func (c *Client) trouble(u *url.URL, err error) string {
	opError, _ := errors.AsType[*net.OpError](err)
	if opError != nil && opError.Op == "proxyconnect" {
		return "is to be read through a proxy that does not connect: check the proxy settings"
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		if e.IsNotFound {
			return "has no address: check the host name in the URL and the DNS of this host"
		}
		return "could not be looked up: check the DNS of this host"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "has a certificate of an unknown authority: give its CA with --cacerts or use --insecure"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "has a certificate for another host: check the URL or use --insecure"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if e.Reason == x509.Expired {
			return "has a certificate that is not valid at this time: check the clock of this host, have the certificate renewed or use --insecure"
		}
		return "has an invalid certificate: have it replaced or use --insecure"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "has a certificate that cannot be verified: give its CA with --cacerts or use --insecure"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "does not speak TLS: use http:// in the URL"
	}
	// A refusal comes as a TLS alert; HTTP/2 hides it from whoever comes late.
	if opError != nil && opError.Op == "remote error" || strings.Contains(err.Error(), "client conn could not be established") {
		return "refuses the TLS connection: it may want a client certificate"
	}
	dialing := opError != nil && opError.Op == "dial"
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		switch {
		case dialing:
			return fmt.Sprintf("does not accept a connection within %s: check that it can be reached from here", c.options.Timeouts.Dial)
		case strings.Contains(err.Error(), "TLS"):
			return fmt.Sprintf("does not finish the TLS handshake within %s: try again later", c.options.Timeouts.TLS)
		}
		return fmt.Sprintf("does not answer within %s: try again later", c.options.Timeouts.Header)
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refuses connections: check host and port, and that the server runs"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "cannot be reached from this host: check network and routes"
	case dialing:
		return "cannot be connected to"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		if u.Scheme == "https" { // the alert may be lost with the connection
			return "broke the connection before it answered: try again later; it may want a client certificate"
		}
		return "broke the connection before it answered: try again later"
	}
	return "cannot be read"
}
