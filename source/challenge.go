// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/url"
	"strings"
)

// Scheme is how a registry is convinced.
type Scheme int

const (
	SchemeNone   Scheme = iota // the registry asks nothing, or nothing that is known here
	SchemeBasic                // user and password with each request
	SchemeBearer               // a token of the realm with each request
)

// Challenge is what a registry wants. The zero Challenge is that of one which
// wants nothing.
type Challenge struct {
	Scheme  Scheme
	Realm   *url.URL // absolute, http or https, without user; nil unless SchemeBearer
	Service string
	Scope   string // of the resource that was asked for, if the registry said it
	Problem string // why a token was refused, as in insufficient_scope
}

// ParseChallenge reads the values of a WWW-Authenticate header. Where a
// registry offers several ways, the better one is taken: Bearer with a usable
// realm, then Basic.
func ParseChallenge(values []string) (best Challenge) {
	for _, v := range values {
		for _, offer := range offers(v) {
			switch {
			case best.Scheme < SchemeBearer && strings.EqualFold(offer.scheme, "bearer"):
				u, err := url.Parse(offer.params["realm"])
				if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
					continue
				}
				best = Challenge{Scheme: SchemeBearer, Realm: u, Service: offer.params["service"], Scope: offer.params["scope"], Problem: offer.params["error"]}
			case best.Scheme < SchemeBasic && strings.EqualFold(offer.scheme, "basic"):
				best = Challenge{Scheme: SchemeBasic}
			}
		}
	}
	return best
}

// offer is one challenge of a header. The names of params are in lower case.
type offer struct {
	scheme string
	params map[string]string
}

// maxOffers bounds what one header may offer.
const maxOffers = 16

// offers reads challenges as RFC 9110 11.6.1 writes them, as far as it can:
//
//	scheme name=value, name="quoted \" value", scheme …
func offers(s string) (all []offer) {
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := token(s)
		if word == "" || len(all) == maxOffers {
			return all
		}
		after := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(after, "=") || len(all) == 0 { // no parameter: a scheme
			all = append(all, offer{word, map[string]string{}})
			s = rest
			continue
		}
		value, rest, ok := value(strings.TrimLeft(after[1:], " \t"))
		if !ok {
			return all
		}
		params := all[len(all)-1].params
		if name := strings.ToLower(word); params[name] == "" { // the first one counts
			params[name] = value
		}
		s = rest
	}
}

// token cuts a token from the front of s; word is empty if there is none.
func token(s string) (word, rest string) {
	n := strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
	if n < 0 {
		n = len(s)
	}
	return s[:n], s[n:]
}

// value cuts the value of a parameter from the front of s, quoted or not. Not
// quoted it may hold more than a token: some registries forget the quotes.
func value(s string) (v, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		n := strings.IndexAny(s, ", \t")
		if n < 0 {
			n = len(s)
		}
		return s[:n], s[n:], true // it may be the padding of a token
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
