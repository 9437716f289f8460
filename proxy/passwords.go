// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Passwords are those of the users of a Proxy.
type Passwords struct {
	sums [][sha256.Size]byte // of user:password; never empty
}

const (
	usersMax        = 1000
	passwordLineMax = 1024 // bytes
)

// ParsePasswords reads lines of the form user:password. Empty lines and those
// that begin with # are left out. Errors name a line and nothing that is in it.
func ParsePasswords(r io.Reader) (*Passwords, error) {
	p := &Passwords{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, passwordLineMax), passwordLineMax)
	n := 0
	for lines.Scan() {
		n++
		line := lines.Text()
		if text := strings.TrimSpace(line); text == "" || text[0] == '#' {
			continue
		}
		user, password, _ := strings.Cut(line, ":")
		if user == "" || password == "" {
			return nil, fmt.Errorf("line %d: want user:password", n)
		}
		if len(p.sums) == usersMax {
			return nil, fmt.Errorf("line %d: more than %d users", n, usersMax)
		}
		p.sums = append(p.sums, sha256.Sum256([]byte(line)))
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d: longer than %d bytes", n+1, passwordLineMax)
	case err != nil:
		return nil, err
	case len(p.sums) == 0:
		return nil, errors.New("there is no line user:password")
	}
	return p, nil
}

// Admit says that r brings user and password of one of them, as Basic
// Proxy-Authorization. Its time does not depend on what is right in them. Nil
// Passwords admit everybody.
func (p *Passwords) Admit(r *http.Request) bool {
	if p == nil {
		return true
	}
	said := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	user, password, ok := said.BasicAuth()
	sum, found := sha256.Sum256([]byte(user+":"+password)), 0
	for i := range p.sums {
		found |= subtle.ConstantTimeCompare(sum[:], p.sums[i][:])
	}
	return ok && found == 1
}
