// SPDX-License-Identifier: Apache-2.0

package sched

// zone is what the members of a task in one zone give, the seed not counted.
// Each piece comes into a zone once: who lacks one that somebody there holds or
// receives gets it there, be it a moment later.
type zone struct {
	members   int
	providers [][]seat // by unit
	lost      bool     // in Machine.lostZones
}

// givers are those in z who give u.
func (z *zone) givers(u unit) []seat {
	if z == nil || int(u) >= len(z.providers) {
		return nil
	}
	return z.providers[u]
}

// gives enters m, which is in z, as one who gives u.
func (z *zone) gives(m *member, u unit) {
	if z == nil {
		return
	}
	for int(u) >= len(z.providers) {
		z.providers = append(z.providers, nil)
	}
	if int(u) >= len(m.zonePlace) {
		m.zonePlace = append(make([]int32, 0, m.t.units), m.zonePlace...)[:m.t.units]
	}
	m.zonePlace[u] = int32(len(z.providers[u]))
	z.providers[u] = append(z.providers[u], m.seat)
}

// givesNoMore takes m out again.
func (z *zone) givesNoMore(m *member, u unit) {
	if z == nil {
		return
	}
	l := z.providers[u]
	last := l[len(l)-1]
	l[m.zonePlace[u]], m.t.seats[last].zonePlace[u] = last, m.zonePlace[u]
	z.providers[u] = l[:len(l)-1]
}

// home is the zone in which m is to get u: its own while somebody there gives u,
// serves children at all and is not on m's blacklist. nil: it may come from
// anywhere.
func (k *Machine) home(m *member, u unit) *zone {
	z := m.zone
	if z == nil || m.p.under(isolated) {
		return nil
	}
	if s := m.t.seed; s != nil && s.zone == z && s != m && s.give.has(u) && !k.banned(m.p, s.p, false) {
		return z
	}
	for _, at := range z.givers(u) {
		if o := m.t.seats[at]; o != m && o.p.ease > 0 && !k.banned(m.p, o.p, false) {
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
