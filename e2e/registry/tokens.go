// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	tokenService = "test registry"
	tokenIssuer  = "test issuer"
	tokenKey     = "test key"
)

// Tokens is a token server. It gives pull rights for names below "library/"
// and "public/" to everybody and all rights to User.
type Tokens struct {
	Life time.Duration // of a token; at least a minute, as clients expect

	server *httptest.Server
	key    *ecdsa.PrivateKey

	mu     sync.Mutex // guards all below
	asked  []string   // "user scope", user is "-" for nobody
	closed bool       // nothing is public
}

// NewTokens starts a token server. Close it.
func NewTokens() (*Tokens, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &Tokens{Life: 5 * time.Minute, key: key}
	t.server = httptest.NewServer(http.HandlerFunc(t.serve))
	return t, nil
}

// Close stops the server.
func (t *Tokens) Close() { t.server.Close() }

// URL is where it answers, on /token.
func (t *Tokens) URL() string { return t.server.URL }

// Asked are all questions so far as "user scope", user "-" for nobody.
func (t *Tokens) Asked() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.asked)
}

// Closed says whether everything is for User only.
func (t *Tokens) Closed(closed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = closed
}

// serve answers GET with Basic credentials or without, and the form of OAuth 2.
func (t *Tokens) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/token" {
		http.NotFound(w, r)
		return
	}
	user, password, given := r.BasicAuth()
	_ = r.ParseForm() // what cannot be read is missing
	if r.Method == http.MethodPost {
		user, password, given = r.PostForm.Get("username"), r.PostForm.Get("password"), r.PostForm.Get("username") != ""
	}
	if given && (user != User || subtle.ConstantTimeCompare([]byte(password), []byte(Password)) != 1) {
		http.Error(w, `{"details":"incorrect username or password"}`, http.StatusUnauthorized)
		return
	}
	scopes := strings.Fields(strings.Join(r.Form["scope"], " "))
	name := "-"
	if given {
		name = user
	}
	t.mu.Lock()
	t.asked = append(t.asked, strings.Join(append([]string{name}, scopes...), " "))
	t.mu.Unlock()
	token, err := t.Sign(user, scopes...)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client may be gone
		"token": token, "access_token": token, "expires_in": int(t.Life.Seconds()), "issued_at": time.Now().UTC().Format(time.RFC3339),
	})
}

// Sign makes a token for a user, "" for nobody, with what of the scopes
// ("repository:NAME:ACTION,…") the user may do.
func (t *Tokens) Sign(user string, scopes ...string) (string, error) {
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	granted := []access{}
	for _, s := range scopes {
		kind, rest, _ := strings.Cut(s, ":")
		at := strings.LastIndex(rest, ":")
		if at < 0 {
			continue
		}
		a := access{kind, rest[:at], strings.Split(rest[at+1:], ",")}
		open := !closed && (strings.HasPrefix(a.Name, "library/") || strings.HasPrefix(a.Name, "public/"))
		a.Actions = slices.DeleteFunc(a.Actions, func(action string) bool { return user != User && (!open || action != "pull") })
		granted = append(granted, a)
	}
	now := time.Now()
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	part := func(v any) string {
		raw, _ := json.Marshal(v) // maps of plain values
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	text := part(map[string]string{"typ": "JWT", "alg": "ES256", "kid": tokenKey}) + "." + part(map[string]any{
		"iss": tokenIssuer, "sub": user, "aud": tokenService, "exp": now.Add(t.Life).Unix(), "nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(),
		"jti": fmt.Sprintf("%x", id), "access": granted,
	})
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, t.key, sum[:])
	if err != nil {
		return "", err
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)), nil
}

// keys is the public key as the registry reads it.
func (t *Tokens) keys() string {
	raw, _ := t.key.PublicKey.Bytes() // P-256 has one: 4, x, y
	coordinate := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","use":"sig","alg":"ES256","crv":"P-256","kid":%q,"x":%q,"y":%q}]}`, tokenKey, coordinate(raw[1:33]), coordinate(raw[33:]))
}
