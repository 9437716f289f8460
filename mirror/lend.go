// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"net/http"
	"strings"

	"dragonfly/source"
)

// docker keeps the credentials of a registry to itself when it asks a mirror of
// it, and goes to the registry when the mirror has not got an image. So that
// private images come through the mirror all the same, it logs in with what
// docker login has stored on its host.

// lends says whether the mirror logs in for the client of r. It does so for who
// asks as docker does: a client that names a registry has credentials of its
// own for it and shall see its challenge. Nothing is lent for a push.
func (m *Mirror) lends(to route, r *http.Request) bool {
	return m.keeper != nil && to.remote && to.element == "" && to.ns == "" &&
		(r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.HasPrefix(r.URL.Path, "/v2/") &&
		len(r.Header.Values("Authorization")) == 0 && (m.o.Lend == nil || m.o.Lend(r))
}

// authorize gives out the credentials that are lent for it, if any are, as they
// are now: what a stream of an hour began with may have ended.
func (m *Mirror) authorize(to route, out *http.Request) (authorization string) {
	if !to.lend {
		return ""
	}
	if authorization = m.keeper.Authorize(out.Context(), m.registry(to), to.repository(out)); authorization != "" {
		out.Header.Set("Authorization", authorization)
	}
	return authorization
}

// lend answers a request after it was given credentials, where the mirror
// lends some. A refused one is fetched anew once; what the registry says then
// is the client's.
func (m *Mirror) lend(to route, out *http.Request, answer func(route, *http.Request) (*http.Response, error)) (*http.Response, error) {
	if !to.lend {
		return answer(to, out)
	}
	name, authorization := to.repository(out), m.authorize(to, out)
	resp, err := answer(to, out)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	if c := source.ParseChallenge(resp.Header.Values("Www-Authenticate")); c.Scheme != source.SchemeNone {
		m.realms.Learn(m.registry(to), c)
	}
	next := m.keeper.Refused(out.Context(), m.registry(to), name, authorization)
	if next == "" {
		return resp, nil
	}
	resp.Body.Close()
	again := out.Clone(out.Context())
	again.Header.Set("Authorization", next)
	return answer(to, again)
}
