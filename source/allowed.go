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

// head asks a registry for a blob's or manifest's header. Where a redirect
// leads to is made for another method, and the registry has decided by then.
func (c *Client) head(ctx context.Context, r dragonfly.Request, u *url.URL, h http.Header, host string) (headed, error) {
	a, err := c.once(ctx, r, http.MethodHead, u, h, host, true)
	if err != nil {
		return headed{}, err
	}
	defer a.discard()
	got := headed{a.resp.StatusCode, a.resp.Header.Values("WWW-Authenticate")}
	if got.code < 400 {
		return got, nil
	}
	return got, statusError(a)
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

// Repository is the name of the repository in the URL of a registry's blob or
// manifest (…/v2/NAME/blobs/…).
func Repository(rawURL string) (name string, ok bool) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", false
	}
	return repository(u)
}

func repository(u *url.URL) (name string, ok bool) {
	_, path, ok := strings.Cut(u.Path, "/v2/")
	if !ok {
		return "", false
	}
	for _, kind := range []string{"/blobs/", "/manifests/"} {
		if i := strings.LastIndex(path, kind); i > 0 {
			return path[:i], true
		}
	}
	return "", false
}
