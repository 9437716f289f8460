// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// A client that names registries in the path gets one challenge for all of
// them, before it has named one, so that it brings tokens even to registries
// that want a password with each request, or nothing. The mirror gives it
// tokens of its own for these: sealed, so that only this process can read what
// the client is to be to the registry.

const (
	// sealedMark begins each of the mirror's own tokens, so that one of an
	// earlier process is known for what it is and never sent anywhere.
	sealedMark = "dfdaemon-1."
	// sealedLife is how long a token can be used. Clients fetch a new one by
	// themselves; not all of them take less than a minute for an answer.
	sealedLife = 5 * time.Minute
	// maxAuthorization bounds what is sealed.
	maxAuthorization = 16 << 10
)

// pass is what one of the mirror's own tokens says.
type pass struct {
	Registry      string    `json:"r"` // host[:port]; empty: none, it is good for the ping only
	Authorization string    `json:"a"` // for the registry; empty: none
	Until         time.Time `json:"u"`
}

// seal makes tokens of passes and reads them again.
type seal struct{ aead cipher.AEAD }

func newSeal() (seal, error) {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return seal{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return seal{aead}, err
}

func (s seal) close(p pass) (token string, err error) {
	if len(p.Authorization) > maxAuthorization {
		return "", errors.New("user and password are too long")
	}
	text, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	return sealedMark + base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, text, nil)), nil
}

// open reads the value of an Authorization header. own says that it is one of
// the mirror's tokens; then err says why it is not good, if it is not.
func (s seal) open(authorization string, now time.Time) (p pass, own bool, err error) {
	scheme, token, _ := strings.Cut(authorization, " ")
	token, own = strings.CutPrefix(strings.TrimLeft(token, " "), sealedMark)
	if !own || !strings.EqualFold(scheme, "bearer") {
		return pass{}, false, nil
	}
	const stale = "the token is from before dfdaemon was started, or too old: fetch a new one"
	sealed, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return pass{}, true, errors.New(stale)
	}
	text, err := s.aead.Open(nil, nil, sealed, nil)
	if err != nil || json.Unmarshal(text, &p) != nil || !now.Before(p.Until) {
		return pass{}, true, errors.New(stale)
	}
	return p, true, nil
}
