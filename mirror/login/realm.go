// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"dragonfly/source"
)

const (
	// realmTime is the longest wait for a realm or for a registry's challenge.
	realmTime = 15 * time.Second
	// maxRedirects of a realm or of a registry's /v2/.
	maxRedirects = 5
	// challengeLife is how long a registry's challenge is remembered: it changes
	// when somebody sets the registry up anew.
	challengeLife = 5 * time.Minute
	userAgent     = "dfdaemon"
)

// Registry is one registry and the way to it.
type Registry struct {
	URL     *url.URL // http or https, without user; what it has of a path comes before /v2/
	Through http.RoundTripper
	// Trusted is set for a registry that this host's owner chose: its realm may
	// be on this host.
	Trusted bool
}

// Realms asks registries for their challenges and remembers them. The zero
// Realms is ready; its methods may be called from many goroutines.
type Realms struct{ challenges book[source.Challenge] }

// source.Challenge is what r wants, by its answer to GET /v2/, remembered some
// minutes. It is the zero source.Challenge for a registry that answers anything but a
// challenge; only one that cannot be asked is an error.
func (s *Realms) Challenge(ctx context.Context, r Registry) (source.Challenge, error) {
	return s.challenges.get(ctx, r.URL.String(), func(ctx context.Context) (source.Challenge, time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, realmTime)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL.JoinPath("/v2/").String(), nil)
		if err != nil {
			return source.Challenge{}, 0, err
		}
		req.Header.Set("User-Agent", userAgent)
		resp, err := r.client().Do(req)
		if err != nil {
			return source.Challenge{}, 0, fmt.Errorf("ask the registry %s what it wants: %w", r.URL.Host, bare(err))
		}
		resp.Body.Close()
		if resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests {
			return source.Challenge{}, 0, fmt.Errorf("ask the registry %s what it wants: it answers %d", r.URL.Host, resp.StatusCode)
		}
		if resp.StatusCode != http.StatusUnauthorized {
			return source.Challenge{}, challengeLife, nil
		}
		c := source.ParseChallenge(resp.Header.Values("Www-Authenticate"))
		c.Scope, c.Problem = "", ""
		return c, challengeLife, nil
	})
}

// Learn takes over a challenge that r gave unasked: some give it for their
// contents only and not for /v2/.
func (s *Realms) Learn(r Registry, c source.Challenge) {
	c.Scope, c.Problem = "", ""
	s.challenges.put(r.URL.String(), c, challengeLife)
}

// Ask sends a request for a token to the realm of a Bearer challenge: by GET
// with q in the query or, if post is set, by POST as a form. authorization may
// be empty. The answer is the realm's own, whatever it says; the caller closes
// its body and bounds what it reads of it.
func (r Registry) Ask(ctx context.Context, c source.Challenge, q url.Values, post bool, authorization string) (*http.Response, error) {
	if c.Scheme != source.SchemeBearer || c.Realm == nil {
		return nil, errors.New("the registry " + r.URL.Host + " wants no token")
	}
	if err := r.allows(c.Realm); err != nil {
		return nil, err
	}
	u := *c.Realm
	u.Fragment = ""
	method, body := http.MethodGet, io.Reader(nil)
	if post {
		method, body = http.MethodPost, strings.NewReader(q.Encode())
	} else {
		all := u.Query() // a realm may have a query of its own
		for name, values := range q {
			all[name] = values
		}
		u.RawQuery = all.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("the realm of the registry %s cannot be asked", r.URL.Host) // the error holds its query
	}
	req.Header.Set("User-Agent", userAgent)
	if post {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := r.client().Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s for a token: %w", c.Realm.Host, bare(err))
	}
	return resp, nil
}

func (r Registry) client() *http.Client {
	return &http.Client{Transport: r.Through, Timeout: realmTime, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("it redirects more than %d times", maxRedirects)
		}
		if req.Method != http.MethodGet && req.URL.Host != via[0].URL.Host {
			return errors.New("it redirects a form to another host")
		}
		return r.allows(req.URL)
	}}
}

// allows says whether credentials for r may go to u.
func (r Registry) allows(u *url.URL) error {
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || r.URL.Scheme != "http"):
		return fmt.Errorf("the registry %s sends credentials to %s without TLS: its realm must be https", r.URL.Host, u.Host)
	case Local(u.Hostname()) && !Local(r.URL.Hostname()) && !r.Trusted:
		return fmt.Errorf("the registry %s names a realm on this host, %s: only one on this host may", r.URL.Host, u.Host)
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil && addr.Unmap().IsLinkLocalUnicast() {
		return fmt.Errorf("the registry %s names a realm on a link-local address, %s", r.URL.Host, u.Host)
	}
	return nil
}

// Local says that host, a name or an address without a port, is this host by
// what it looks like.
func Local(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") ||
		err == nil && (addr.Unmap().IsLoopback() || addr.IsUnspecified())
}

// bare is err without the URL that the HTTP client puts before it.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
