// SPDX-License-Identifier: Apache-2.0

package sched

import "dragonfly"

// zone is what the members of a task in one zone give, the seed not counted.
// Each piece comes into a zone once: who lacks one that somebody there holds or
// receives gets it there, be it a moment later.
type zone struct {
	members   int
	providers [][]*member // by piece
	lost      bool        // in Machine.lostZones
}

// givers are those in z who give n.
func (z *zone) givers(n dragonfly.PieceNum) []*member {
	if z == nil || int(n) >= len(z.providers) {
		return nil
	}
	return z.providers[n]
}

// gives enters m, which is in z, as one who gives n.
func (z *zone) gives(m *member, n dragonfly.PieceNum) {
	if z == nil {
		return
	}
	for int(n) >= len(z.providers) {
		z.providers = append(z.providers, nil)
	}
	for int(n) >= len(m.zonePlace) {
		m.zonePlace = append(m.zonePlace, 0)
	}
	m.zonePlace[n] = int32(len(z.providers[n]))
	z.providers[n] = append(z.providers[n], m)
}

// givesNoMore takes m out again.
func (z *zone) givesNoMore(m *member, n dragonfly.PieceNum) {
	if z == nil {
		return
	}
	l := z.providers[n]
	last := l[len(l)-1]
	l[m.zonePlace[n]], last.zonePlace[n] = last, m.zonePlace[n]
	l[len(l)-1] = nil
	z.providers[n] = l[:len(l)-1]
}

// home is the zone in which m is to get n: its own while somebody there gives n
// who is not on m's blacklist. nil: it may come from anywhere.
func (k *Machine) home(m *member, n dragonfly.PieceNum) *zone {
	z := m.zone
	if z == nil || m.p.under(isolated) {
		return nil
	}
	if s := m.t.seed; s != nil && s.zone == z && s != m && s.give.has(n) && !k.banned(m.p, s.p, false) {
		return z
	}
	for _, o := range z.givers(n) {
		if o != m && !k.banned(m.p, o.p, false) {
			return z
		}
	}
	return nil
}

// lose lets those of a zone who wait look abroad, at the end of the step.
func (k *Machine) lose(z *zone, t *task) {
	if z != nil && !z.lost {
		z.lost = true
		k.lostZones = append(k.lostZones, zoneOf{z, t})
	}
}

type zoneOf struct {
	z *zone
	t *task
}

// lookAbroad is for those who waited for somebody in their zone.
func (k *Machine) lookAbroad(l zoneOf) {
	l.z.lost = false
	for w := l.t.waiters.head; w != nil; w = w.then {
		if w.zone == l.z {
			k.retry(w)
		}
	}
}
