// SPDX-License-Identifier: Apache-2.0

package sim

import "dragonfly/sched"

// kind says what happens at an event.
type kind uint8

const (
	sent      kind = iota + 1 // host's uplink is done with a quantum
	arrived                   // a quantum of stream is at its child
	requested                 // stream is known to its parent
	broken                    // stream is found broken by its child
	reported                  // message is at the supernode
	answered                  // message is at its peer
	spoke                     // host's reports had company long enough
	joined                    // host comes
	vanished                  // host stops
	expired                   // its open report ends
	left                      // host closes its session
	published                 // digest of a piece is with the peers
	ticked                    // the machine wants to be stepped
	swept                     // stalled streams are looked for
)

// event is something that happens at a time. Events of the same time happen in
// the order in which they were planned.
type event struct {
	at   sched.Instant
	seq  uint32
	gen  uint32 // of the stream
	who  int32  // host, stream, message or piece
	size int32  // bytes
	kind kind
	bad  bool
}

// queue is a heap of events with four branches at each node, which halves the
// cache misses of one with two.
type queue struct {
	heap []event
	seq  uint32
}

func (a *event) before(b *event) bool {
	return a.at < b.at || a.at == b.at && int32(a.seq-b.seq) < 0
}

func (q *queue) push(e event) {
	q.seq++
	e.seq = q.seq
	q.heap = append(q.heap, e)
	h, i := q.heap, len(q.heap)-1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
}

func (q *queue) pop() event {
	h := q.heap
	top := h[0]
	n := len(h) - 1
	last := h[n]
	q.heap = h[:n]
	h = q.heap
	i := 0
	for {
		first := 4*i + 1
		if first >= n {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, n); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if !h[least].before(&last) {
			break
		}
		h[i] = h[least]
		i = least
	}
	if n > 0 {
		h[i] = last
	}
	return top
}
