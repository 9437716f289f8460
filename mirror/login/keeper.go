// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"dragonfly/source"
)

const (
	maxToken = 1 << 20
	// tokenLife is that of a token whose realm does not say it; the
	// specification of realms has it so.
	tokenLife = time.Minute
	// longestLife bounds what a realm may say.
	longestLife = 24 * time.Hour
	// failureLife is how long a failed login is not tried again: realms lock
	// accounts that come with a wrong password too often.
	failureLife = time.Minute
	// youth is the age below which a token that is refused is not replaced: the
	// next one would be refused too.
	youth = 10 * time.Second
)

// Keeper logs in at registries with what a docker config.json holds. Its
// methods may be called from many goroutines.
type Keeper struct {
	realms      *Realms
	log         *slog.Logger
	file        file
	credentials book[credential]
	grants      book[grant]
}

// grant is what a registry gets to see.
type grant struct {
	authorization string // empty: nothing could be had
	since         time.Time
}

// NewKeeper makes a Keeper. The file at path is read again whenever it has
// changed and need not exist.
func NewKeeper(path string, realms *Realms, log *slog.Logger) *Keeper {
	return &Keeper{realms: realms, log: log, file: file{path: path}}
}

// Authorize gives the Authorization header for pulling a repository from r, or
// for its /v2/ if repository is empty: the user and password of the
// configuration, or a token for them, kept until shortly before its end. It is
// empty where the configuration has nothing for r, where r wants nothing, and
// where the login fails, which is logged with what to do.
func (k *Keeper) Authorize(ctx context.Context, r Registry, repository string) string {
	key, found := k.known(ctx, r)
	if found == (credential{}) {
		return ""
	}
	g, err := k.grants.get(ctx, key+" "+repository, func(ctx context.Context) (grant, time.Duration, error) {
		authorization, life, err := k.fetch(ctx, r, repository, found)
		if err != nil && ctx.Err() != nil {
			return grant{}, 0, err // the caller went away
		}
		if err != nil {
			k.log.Warn("the login at the registry fails: its private images are not pulled through here; log in again with docker login, as the user of dfdaemon",
				"registry", r.URL.Host, "file", k.file.path, "why", err)
			life = failureLife
		}
		return grant{authorization, time.Now()}, life, nil
	})
	if err != nil {
		return ""
	}
	return g.authorization
}

// Refused says that r answered 401 to an Authorization that Authorize gave, and
// gives another one, or nothing if there is none.
func (k *Keeper) Refused(ctx context.Context, r Registry, repository, authorization string) string {
	key, found := k.known(ctx, r)
	if found == (credential{}) {
		return ""
	}
	old := func(g grant) bool { return g.authorization == authorization && time.Since(g.since) > youth }
	if k.grants.drop(ctx, key+" "+repository, old) {
		k.credentials.drop(ctx, key, func(credential) bool { return true }) // its helper may have a new one
	}
	if next := k.Authorize(ctx, r, repository); next != authorization || next == "" {
		return next
	}
	k.log.Warn("the registry refuses the login: the account may not pull from there, or its password has changed; log in again with docker login, as the user of dfdaemon",
		"registry", r.URL.Host, "repository", repository, "file", k.file.path)
	return ""
}

// known is the credential for r, and a key that changes with it.
func (k *Keeper) known(ctx context.Context, r Registry) (key string, found credential) {
	c, state, err := k.file.load()
	key = r.URL.String() + " " + strconv.Itoa(state)
	found, err = k.credentials.get(ctx, key, func(ctx context.Context) (credential, time.Duration, error) {
		found := credential{}
		if err == nil {
			found, err = c.find(ctx, r.URL.Host)
		}
		if err != nil && ctx.Err() != nil {
			return credential{}, 0, err
		}
		if err != nil {
			k.log.Warn("there is no login for the registry: its private images are not pulled through here", "registry", r.URL.Host, "file", k.file.path, "why", err)
			return credential{}, failureLife, nil
		}
		return found, credentialLife, nil
	})
	if err != nil {
		return key, credential{}
	}
	return key, found
}

// fetch gets what r wants to see.
func (k *Keeper) fetch(ctx context.Context, r Registry, repository string, found credential) (authorization string, life time.Duration, err error) {
	c, err := k.realms.Challenge(ctx, r)
	if err != nil {
		return "", 0, err
	}
	switch {
	case c.Scheme == source.SchemeNone:
		return "", 0, nil // asked anew each time: it may be found to want something
	case c.Scheme == source.SchemeBearer && found.registry != "":
		return "Bearer " + found.registry, credentialLife, nil
	case c.Scheme == source.SchemeBearer:
		token, life, err := r.token(ctx, c, repository, found)
		if err != nil {
			return "", 0, err
		}
		return "Bearer " + token, life, nil
	case found.user == "" || found.refresh != "": // beside a token, docker keeps a user without a password
		return "", 0, errors.New("it wants user and password, and the configuration has a token only")
	}
	return found.basic(), credentialLife, nil
}

func (c credential) basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password))
}

// token asks the realm of c for a token that lets pull a repository, and says
// how long it can be used.
func (r Registry) token(ctx context.Context, c source.Challenge, repository string, found credential) (token string, life time.Duration, err error) {
	q := url.Values{}
	if c.Service != "" {
		q.Set("service", c.Service)
	}
	if repository != "" {
		q.Set("scope", "repository:"+repository+":pull")
	}
	authorization := ""
	if found.refresh != "" {
		q.Set("grant_type", "refresh_token")
		q.Set("refresh_token", found.refresh)
		q.Set("client_id", userAgent)
	} else {
		q.Set("account", found.user)
		authorization = found.basic()
	}
	resp, err := r.Ask(ctx, c, q, found.refresh != "", authorization)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("%s answers %d", c.Realm.Host, resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil || len(text) > maxToken {
		return "", 0, fmt.Errorf("%s breaks off while it gives a token, or gives more than %d bytes", c.Realm.Host, maxToken)
	}
	return parseToken(c.Realm.Host, text)
}

// parseToken reads the answer of a realm; the life is shortened so that a token
// does not end on its way. Errors repeat nothing of it.
func parseToken(realm string, text []byte) (token string, life time.Duration, err error) {
	var answer struct {
		Token   string  `json:"token"`
		Access  string  `json:"access_token"`
		Expires float64 `json:"expires_in"`
	}
	if json.Unmarshal(text, &answer) != nil {
		return "", 0, fmt.Errorf("%s does not give a token as JSON", realm)
	}
	if token = answer.Token; token == "" {
		token = answer.Access
	}
	if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", 0, fmt.Errorf("%s gives no token", realm)
	}
	life = tokenLife
	if answer.Expires > 0 {
		life = time.Duration(min(answer.Expires, longestLife.Seconds()) * float64(time.Second))
	}
	return token, life - min(life/4, 30*time.Second), nil
}
