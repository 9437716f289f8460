// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"maps"
	"slices"
	"time"
)

// peer is the book of one peer process over all its tasks.
type peer struct {
	id    Peer
	where Where
	host  int32 // the same number is the same host, rack or zone; 0 is unknown
	rack  int32
	zone  int32

	seed   bool
	serves bool
	whole  bool // gets whole pieces, from holders, and serves what it holds
	up     int  // children at once, at most
	ease   int  // of these: as many as do not slow one another down

	sent      int64   // KiB to its children
	since     Instant // then
	complaint int32   // host of the last child that found it slow
	rests     int     // how often it served nobody for a while

	members  []*member     // its tasks, in the order it came to them
	children []*assignment // what others fetch from it now: its load

	listen  listening
	conduct conduct
	left    bool
}

// listening is whether a peer hears what it is told.
type listening struct {
	open    bool    // it has an open sync
	closed  Instant // since when it has not
	silent  bool    // for longer than Config.Silent
	gone    bool    // for longer than Config.Gone
	armed   bool    // a timer looks at it
	free    int     // assignments that it would still take
	unacked int     // assignments that it may not have heard of
	pause   Instant // no assignments before
	stumble int     // failures of its own in a row
}

// conduct is what is known against a peer, and what it has against others.
type conduct struct {
	charges   []charge   // mismatches, each by another host
	transport []int32    // hosts that could not fetch from it
	refused   []Peer     // children whose dial it refused
	failing   []Peer     // parents that it could not fetch from, in a row
	alone     []Peer     // verified parents that only it accuses
	bans      []ban      // its local blacklist
	penalties [3]penalty // by verdict
}

type charge struct {
	host  int32
	child Peer
}

// ban is an entry of a local blacklist (FAQ: local blacklist).
type ban struct {
	parent Peer
	until  Instant
	retry  Instant // from here on the only copy is tried again
	times  int     // how often in a row it was renewed
}

// maxBans is the length from which on a blacklist is rid of old entries.
const maxBans = 32

// verdict names what keeps a peer's pieces out of the books.
type verdict int

const (
	quarantined verdict = iota // it serves nobody (FAQ: global blacklist)
	isolated                   // it gets from the seed only and serves nobody (FAQ: self-isolation)
	unreachable                // its data port refuses
)

// penalty is one verdict's term; every next one is twice as long.
type penalty struct {
	until Instant // 0: not under it
	times int
}

func (p *peer) under(v verdict) bool { return p.conduct.penalties[v].until != 0 }

// trusted says whether what p holds is in the books.
func (p *peer) trusted() bool {
	return p.serves && !p.listen.gone && !p.under(quarantined) && !p.under(isolated) && !p.under(unreachable)
}

func (p *peer) full() bool { return !p.seed && len(p.children) >= p.ease }

// full says that m has no slot free: a peer has them for all of its tasks, the
// seed for each. Else the pieces of one task, which wait for the source in turn,
// would keep the seed from the others.
func (m *member) full() bool {
	if m.p.seed {
		return m.load >= m.p.up
	}
	return m.p.full()
}

// near is the closest circle of p with a name: its rack, else its host.
func (p *peer) near() int32 {
	if p.rack != 0 {
		return p.rack
	}
	return p.host
}

// manyNames is how many names are kept whoever has them.
const manyNames = 1024

// intern numbers a name; the empty name is 0, which equals nothing.
func (k *Machine) intern(name string) int32 {
	if name == "" {
		return 0
	}
	n, ok := k.names[name]
	if !ok {
		k.lastName++
		n = k.lastName
		k.names[name] = n
	}
	return n
}

// forgetNames drops the names that no peer has and no charge stands by. Their
// numbers are not given again.
func (k *Machine) forgetNames() {
	used := map[int32]bool{}
	for _, p := range k.peers {
		used[p.host], used[p.rack], used[p.zone] = true, true, true
		for _, c := range p.conduct.charges {
			used[c.host] = true
		}
		for _, host := range p.conduct.transport {
			used[host] = true
		}
	}
	maps.DeleteFunc(k.names, func(_ string, n int32) bool { return !used[n] })
}

func (k *Machine) joined(ev *Event) {
	if ev.Peer == Source || k.peers[ev.Peer] != nil {
		return
	}
	p := &peer{id: ev.Peer, where: ev.Where, seed: ev.Seed, serves: ev.Serves || ev.Seed, whole: ev.Whole, up: ev.Up}
	p.host = k.intern(ev.Where.Host)
	if p.host == 0 {
		p.host = -int32(ev.Peer) // nobody else's
	}
	if w := ev.Where; w.Zone != "" {
		p.zone = k.intern("zone\x00" + w.Zone)
	}
	if w := ev.Where; w.Rack != "" {
		p.rack = k.intern("rack\x00" + w.Zone + "\x00" + w.Rack)
	}
	if p.up <= 0 {
		p.up = k.cfg.Up
		if p.seed {
			p.up = k.cfg.SeedUp
		}
	}
	p.ease = p.up
	if !p.seed {
		p.ease = min(p.up, k.cfg.Down)
	}
	k.peers[p.id] = p
	k.order = append(k.order, p)
	k.hearsNoMore(p)
}

// leave takes p out of everything: its children go on elsewhere, what it was
// given returns to the pool.
func (k *Machine) leave(p *peer) {
	for len(p.members) > 0 {
		k.dropMember(p.members[len(p.members)-1], false)
	}
	p.left = true
	delete(k.peers, p.id)
	if len(k.names) > manyNames+16*len(k.peers) {
		k.forgetNames()
	}
	k.departed++
	if k.departed > 32 && k.departed > len(k.order)/2 {
		k.order = slices.DeleteFunc(k.order, func(p *peer) bool { return p.left })
		k.departed = 0
	}
}

// relist brings the books in line with whether p is trusted.
func (k *Machine) relist(p *peer) {
	for _, m := range p.members {
		k.list(m)
	}
}

// loaded and unloaded keep the tasks' offers in line with p's load; they are
// called when it became full and when it is not full any more.
func (k *Machine) loaded(p *peer) {
	for _, m := range p.members {
		m.t.offer(m, false)
	}
}

func (k *Machine) unloaded(p *peer) {
	for _, m := range p.members {
		m.t.offer(m, m.listed)
		k.offering(m)
	}
}

// banned says whether child does not get parent now. The seed is banned for
// moments only; any other parent is tried again after a moment where it has
// the only copy.
func (k *Machine) banned(child, parent *peer, only bool) bool {
	for i := range child.conduct.bans {
		if b := &child.conduct.bans[i]; b.parent == parent.id {
			return k.now < b.until && !(only && k.now >= b.retry)
		}
	}
	return false
}

// ban puts parent on child's local blacklist: «When peer A fails to download
// from peer B, B will become the local blacklist of A» (FAQ). brief: for a
// moment only, as the seed always.
func (k *Machine) ban(child, parent *peer, brief bool) {
	bans := child.conduct.bans
	if len(bans) > maxBans {
		bans = slices.DeleteFunc(bans, func(b ban) bool { return k.now >= b.until })
	}
	i := slices.IndexFunc(bans, func(b ban) bool { return b.parent == parent.id })
	if i < 0 {
		bans = append(bans, ban{parent: parent.id})
		i = len(bans) - 1
	}
	child.conduct.bans = bans
	b := &bans[i]
	b.retry = k.now.Add(backoff(time.Second, b.times, time.Minute))
	b.until = k.now.Add(k.cfg.Probation)
	b.times++
	k.wakeAt(child, b.retry)
	k.retryAll(child) // what its zone had for it may come from elsewhere now
	if parent.seed || brief {
		b.until = b.retry
		return
	}
	k.wakeAt(child, b.until)
}

// unban ends a ban that proved to be without ground.
func (k *Machine) unban(child *peer, parent Peer) {
	child.conduct.bans = slices.DeleteFunc(child.conduct.bans, func(b ban) bool { return b.parent == parent })
	k.retryAll(child)
}

// backoff is first·2^times, at most limit.
func backoff(first time.Duration, times int, limit time.Duration) time.Duration {
	return min(first<<min(times, 16), limit)
}

// addOnce appends v to a small set.
func addOnce[T comparable](s []T, v T) []T {
	if slices.Contains(s, v) {
		return s
	}
	return append(s, v)
}

func without[T comparable](s []T, v T) []T {
	return slices.DeleteFunc(s, func(x T) bool { return x == v })
}
