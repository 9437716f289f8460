// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// stream is one assignment at work. Offsets are within the piece.
type stream struct {
	gen    uint32 // counts the uses of this place
	live   bool
	id     dragonfly.AssignmentID
	child  int32
	parent int32
	piece  int32
	from   int64
	at     int64 // sent up to here
	landed int64 // arrived up to here
	to     int64
	flight int           // quanta under way
	last   sched.Instant // a byte came, or it began
}

// link is one direction of a shared line: it takes what comes in turn.
type link struct {
	perByte float64 // nanoseconds; 0: no limit
	busy    sched.Instant
}

func (l *link) carry(size int64, ready sched.Instant) sched.Instant {
	l.busy = max(ready, l.busy+sched.Instant(float64(size)*l.perByte))
	return l.busy
}

func perByte(r dragonfly.Rate) float64 {
	if r == 0 {
		return 0
	}
	return float64(time.Second) / float64(r)
}

// begin makes a stream, which is at its parent after the latency.
func (w *world) begin(id dragonfly.AssignmentID, child, parent, piece int32, from, to int64) {
	var i int32
	if n := len(w.spare); n > 0 {
		i, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		i = int32(len(w.streams))
		w.streams = append(w.streams, stream{})
	}
	s := &w.streams[i]
	*s = stream{gen: s.gen + 1, live: true, id: id, child: child, parent: parent, piece: piece, from: from, at: from, landed: from, to: to, last: w.now}
	w.hosts[child].in = append(w.hosts[child].in, i)
	w.plan(event{kind: requested, who: i, gen: s.gen}, w.Latency)
}

// finish takes a stream out of both ends; what is under way of it is lost.
func (w *world) finish(i int32) {
	s := &w.streams[i]
	c, p := &w.hosts[s.child], &w.hosts[s.parent]
	c.in = slices.Delete(c.in, slices.Index(c.in, i), slices.Index(c.in, i)+1)
	if at := slices.Index(p.out, i); at >= 0 {
		p.out = slices.Delete(p.out, at, at+1)
		if at < p.turn {
			p.turn--
		}
	}
	s.live = false
	s.gen++
	w.spare = append(w.spare, i)
}

// started puts a stream among those of its parent, if that is there.
func (w *world) started(i int32) {
	s := &w.streams[i]
	p := &w.hosts[s.parent]
	switch {
	case p.left || s.parent > 0 && !p.joined:
		w.plan(event{kind: broken, who: i, gen: s.gen, size: refused}, w.Latency)
	case p.vanished: // nothing answers
	default:
		p.out = append(p.out, i)
		w.send(s.parent)
	}
}

// send puts the next quantum onto a host's uplink, if it is idle.
func (w *world) send(host int32) {
	p := &w.hosts[host]
	if p.sending || p.vanished || p.left {
		return
	}
	n := len(p.out)
	for k := range n {
		at := k
		if host != source { // which serves one request after the other
			if at = p.turn + k; at >= n {
				at -= n
			}
		}
		i := p.out[at]
		s := &w.streams[i]
		full := s.flight >= w.window && host != source // the source has one stream for all
		if s.at == s.to || full || !p.offers(s.piece, s.at/w.Quantum) {
			continue
		}
		size := min(w.Quantum-s.at%w.Quantum, s.to-s.at)
		bad := p.lies || p.tainted(s.piece, s.at/w.Quantum)
		s.at += size
		s.flight++
		p.sending = true
		p.turn = at + 1
		if p.turn >= n {
			p.turn = 0
		}
		p.current, p.currentGen = i, s.gen
		w.plan(event{kind: sent, who: host, size: int32(size), bad: bad}, time.Duration(float64(size)*p.perByte))
		return
	}
}

// delivered brings a quantum that left host's uplink on its way.
func (w *world) delivered(e *event) {
	p := &w.hosts[e.who]
	p.sending = false
	if p.vanished {
		return
	}
	size := int64(e.size)
	p.egress += size
	if s := &w.streams[p.current]; s.gen == p.currentGen {
		c := &w.hosts[s.child]
		at := w.now
		if c.zone != p.zone && e.who != source {
			w.crossed += size
			at = max(w.zonesOut[p.zone].carry(size, at), w.zonesIn[c.zone].carry(size, at))
		}
		at = c.down.carry(size, at.Add(w.Latency))
		w.queue.push(event{at: at, kind: arrived, who: p.current, gen: p.currentGen, size: e.size, bad: e.bad})
	}
	w.send(e.who)
}

// landed enters a quantum at the child.
func (w *world) landed(i int32, size int64, bad bool) {
	s := &w.streams[i]
	child := s.child
	c := &w.hosts[child]
	s.flight--
	unit := s.landed / w.Quantum
	s.landed += size
	s.last = w.now
	parent := s.parent
	if pt := c.partial(s.piece); pt != nil {
		if !pt.take(unit, bad) {
			c.twice += size
		}
		pt.credit(s, bad)
	}
	if s.landed == s.to {
		w.land(child, i)
	}
	if len(c.out) > 0 && !c.sending {
		w.send(child)
	}
	if p := &w.hosts[parent]; !p.sending {
		w.send(parent)
	}
}

// sweep finds the streams that stall.
func (w *world) sweep() {
	for h := range w.hosts {
		c := &w.hosts[h]
		if c.vanished || c.left {
			continue
		}
		for k := len(c.in) - 1; k >= 0; k-- {
			if k < len(c.in) && w.streams[c.in[k]].parent != source && w.now >= w.streams[c.in[k]].last.Add(w.Stall) {
				w.fail(c.in[k], dragonfly.FailStalled)
			}
		}
	}
	w.plan(event{kind: swept}, sweepEvery)
}

const sweepEvery = 250 * time.Millisecond

// Sizes of a broken event: why.
const (
	reset   = 0
	refused = 1
)
