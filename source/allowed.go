// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"dragonfly"
)

// maxToken bounds the answer of a registry's token service in bytes.
const maxToken = 256 << 10

// Allowed asks the source whether it gives the content to whoever asks as r
// does; nil says that it does. Of the content at most a byte is sent. A registry
// that gives its public content to holders of a token only, which it gives to
// everybody, is asked with such a token if r has no credentials.
//
// Errors are those of Open.
func (c *Client) Allowed(ctx context.Context, r dragonfly.Request) error {
	u, err := parseURL(r.URL)
	if err != nil {
		return err
	}
	if _, ok := repository(u); !ok {
		return c.allowsByte(ctx, r)
	}
	h, host, err := c.header(r.Header)
	if err != nil {
		return err
	}
	u = takeUser(u, h)
	status, err := c.head(ctx, r, u, h, host)
	if status.code == http.StatusUnauthorized && h.Get("Authorization") == "" {
		if token := c.anonymous(ctx, r, u, status.challenges); token != "" {
			h.Set("Authorization", "Bearer "+token)
			status, err = c.head(ctx, r, u, h, host)
		}
	}
	if status.code == http.StatusMethodNotAllowed || status.code == http.StatusNotImplemented {
		return c.allowsByte(ctx, r)
	}
	return err
}

// allowsByte asks for the first byte of the content.
func (c *Client) allowsByte(ctx context.Context, r dragonfly.Request) error {
	body, err := c.Open(ctx, r, 0, Condition{To: 1})
	if err != nil {
		return err
	}
	return body.Close()
}

// headed is what a HEAD was answered with.
type headed struct {
	code       int
	challenges []string
}

// head asks a registry for a blob's or manifest's header. Redirects to where a
// registry answers are followed: they may only change names, or http to https.
// Where else one leads to is made for another method, and the registry has
// decided by then.
func (c *Client) head(ctx context.Context, r dragonfly.Request, u *url.URL, h http.Header, host string) (headed, error) {
	seen := map[string]bool{}
	for own, hop := true, 0; ; hop++ {
		seen[u.String()] = true
		a, err := c.once(ctx, r, http.MethodHead, u, h, host, own)
		if err != nil {
			return headed{}, err
		}
		got := headed{a.resp.StatusCode, a.resp.Header.Values("WWW-Authenticate")}
		var next *url.URL
		switch {
		case isRedirect(got.code):
			if next, err = target(a, seen, hop); err != nil {
				err = a.describe(err)
			} else if _, ok := repository(next); !ok {
				next = nil
			}
		case got.code >= 300:
			err = statusError(a)
		}
		a.discard()
		if next == nil || err != nil {
			return got, err
		}
		if !SameHost(u, next) {
			own, host, h = false, "", Harmless(h)
		}
		u = takeUser(next, h)
	}
}

// anonymous is a token that the registry's token service gives to everybody;
// empty: it gives none.
func (c *Client) anonymous(ctx context.Context, r dragonfly.Request, at *url.URL, challenges []string) string {
	challenge := ParseChallenge(challenges)
	if challenge.Scheme != SchemeBearer {
		return ""
	}
	realm := *challenge.Realm
	name, _ := repository(at)
	query := realm.Query()
	query.Set("scope", "repository:"+name+":pull")
	if challenge.Service != "" {
		query.Set("service", challenge.Service)
	}
	realm.RawQuery = query.Encode()
	h, _, err := c.header(nil)
	if err != nil {
		return ""
	}
	a, err := c.get(ctx, dragonfly.Request{Insecure: r.Insecure, RootCAs: r.RootCAs}, &realm, h, "")
	if err != nil {
		return ""
	}
	defer a.discard()
	var got struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	if a.resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(a.resp.Body, maxToken)).Decode(&got) != nil {
		return ""
	}
	for _, token := range []string{got.Token, got.Access} {
		if token != "" && isFieldValue(token) {
			return token
		}
	}
	return ""
}

// repository is the name of the repository in the URL of a registry's blob or
// manifest (…/v2/NAME/blobs/ALGORITHM:HEX, …/v2/NAME/manifests/REFERENCE).
func repository(u *url.URL) (name string, ok bool) {
	_, path, ok := strings.Cut(u.Path, "/v2/")
	if !ok || u.RawPath != "" { // escaped slashes: some servers see other names in it
		return "", false
	}
	for _, kind := range []string{"/blobs/", "/manifests/"} {
		i := strings.LastIndex(path, kind)
		if i <= 0 {
			continue
		}
		reference := path[i+len(kind):]
		if reference != "" && !strings.Contains(reference, "/") && (kind == "/manifests/" || strings.Contains(reference, ":")) {
			return path[:i], true
		}
	}
	return "", false
}
