// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// claimTime is how long pieces whose digests only their holders know count as
// held while a second host is asked.
const claimTime = 2 * time.Second

// manifest holds the piece digests of a version. A digest from a peer is a
// claim, and nobody is told of it, until two hosts give the same or the seed
// has verified the piece: otherwise one liar could give false bytes together
// with their digest.
type manifest struct {
	proven []dragonfly.PieceDigest // zero: not known for sure
	claims map[dragonfly.PieceNum][]claim
	by     time.Time // when unproven pieces stop counting as held; zero: none are
}

type claim struct {
	host   string
	digest dragonfly.PieceDigest
}

// maxClaims bounds the claims kept for one piece.
const maxClaims = 8

// digest is the proven digest of a piece; zero: none.
func (m *manifest) digest(n dragonfly.PieceNum) dragonfly.PieceDigest {
	if n < 0 || int(n) >= len(m.proven) {
		return dragonfly.PieceDigest{}
	}
	return m.proven[n]
}

// count is how many digests are proven.
func (m *manifest) count() (n int) {
	for _, d := range m.proven {
		if !d.IsZero() {
			n++
		}
	}
	return n
}

// prove enters a digest that is certain and tells everybody who needs it.
func (s *Supernode) prove(v *version, n dragonfly.PieceNum, d dragonfly.PieceDigest) {
	m := &v.manifest
	if d.IsZero() || !v.inRange(n) || m.digest(n) == d {
		return
	}
	if missing := int(n) + 1 - len(m.proven); missing > 0 {
		m.proven = append(m.proven, make([]dragonfly.PieceDigest, missing)...)
	}
	m.proven[n] = d
	claims := m.claims[n]
	delete(m.claims, n)
	for _, r := range v.task.those(func(r *registration) bool {
		return r.version == v && (r.lacks.Has(n) || r.shelved.Has(n))
	}) {
		if r.lacks.Has(n) {
			r.lacks.Remove(n)
			r.session.push(item{entry: &entryItem{v.task.id, v.id, n, d}})
		}
		if r.shelved.Has(n) {
			r.shelved.Remove(n)
			if claimed(claims, r.session.where.Host, d) {
				s.holds(r, n, 0)
			}
		}
	}
}

func claimed(claims []claim, host string, d dragonfly.PieceDigest) bool {
	for _, c := range claims {
		if c.host == host && c.digest == d {
			return true
		}
	}
	return false
}

// claim enters a digest that a peer gives for a piece that it holds.
func (s *Supernode) claim(r *registration, n dragonfly.PieceNum, d dragonfly.PieceDigest) {
	v := r.version
	m := &v.manifest
	if d.IsZero() || !v.inRange(n) || !m.digest(n).IsZero() || !r.held.Has(n) && !r.shelved.Has(n) {
		return
	}
	host := r.session.where.Host
	agreed := false
	for _, c := range m.claims[n] {
		if c.host == host {
			return // the first word counts
		}
		agreed = agreed || c.digest == d
	}
	if len(m.claims[n]) >= maxClaims && !agreed {
		return
	}
	if m.claims == nil {
		m.claims = map[dragonfly.PieceNum][]claim{}
	}
	m.claims[n] = append(m.claims[n], claim{host, d})
	if agreed {
		s.prove(v, n, d)
	}
}

// askManifest asks a peer for the digests of what it holds where they are not
// known for sure.
func (s *Supernode) askManifest(r *registration) {
	m := &r.version.manifest
	for n := range r.held.All() {
		if m.digest(n).IsZero() {
			r.session.push(item{question: &dragonfly.Question{Kind: dragonfly.AskManifest, Task: r.task.id, Version: r.version.id}})
			if m.by.IsZero() {
				m.by = time.Now().Add(claimTime)
			}
			return
		}
	}
}

// shelve stops counting pieces as held whose digests nobody could confirm, so
// that the seed gets them from the source; they count again when the digest
// that their holder gave proves right.
func (s *Supernode) shelve(v *version, now time.Time) {
	m := &v.manifest
	if m.by.IsZero() || now.Before(m.by) {
		return
	}
	m.by = time.Time{}
	for _, r := range v.task.registered() {
		if r.version != v || r.session.seed {
			continue
		}
		for n := range r.held.Clone().All() {
			if m.digest(n).IsZero() {
				r.held.Remove(n)
				r.shelved.Add(n)
				if r.known {
					s.step(sched.Event{Kind: sched.Lost, Peer: r.session.peer, Task: v.handle, Piece: n})
				}
			}
		}
	}
}
