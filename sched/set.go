// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"math/bits"

	"dragonfly"
)

// set is a bitmap of pieces that can be intersected without allocation.
type set []uint64

func (s set) has(n dragonfly.PieceNum) bool {
	i := int(n) >> 6
	return i < len(s) && s[i]&(1<<(uint(n)&63)) != 0
}

// put adds n when on, else takes it out.
func (s *set) put(n dragonfly.PieceNum, on bool) {
	i := int(n) >> 6
	if on {
		for i >= len(*s) {
			*s = append(*s, 0)
		}
		(*s)[i] |= 1 << (uint(n) & 63)
	} else if i < len(*s) {
		(*s)[i] &^= 1 << (uint(n) & 63)
	}
}

// meets says whether s and o have a piece in common.
func (s set) meets(o set) bool {
	for i := range min(len(s), len(o)) {
		if s[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

// join adds the pieces of o.
func (s *set) join(o set) {
	for len(*s) < len(o) {
		*s = append(*s, 0)
	}
	for i, w := range o {
		(*s)[i] |= w
	}
}

// next is the first piece of s at or after n, -1 if there is none.
func (s set) next(n dragonfly.PieceNum) dragonfly.PieceNum {
	for i := int(n) >> 6; i < len(s); i++ {
		w := s[i]
		if i == int(n)>>6 {
			w &^= 1<<(uint(n)&63) - 1
		}
		if w != 0 {
			return dragonfly.PieceNum(i<<6 + bits.TrailingZeros64(w))
		}
	}
	return -1
}

func (s set) count() int {
	total := 0
	for _, w := range s {
		total += bits.OnesCount64(w)
	}
	return total
}
