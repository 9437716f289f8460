// SPDX-License-Identifier: Apache-2.0

package sched

import "math/bits"

// set is a bitmap of pieces or units that can be intersected without allocation.
type set[N ~int32] []uint64

func (s set[N]) has(n N) bool {
	i := int(n) >> 6
	return i < len(s) && s[i]&(1<<(uint(n)&63)) != 0
}

// put adds n when on, else takes it out.
func (s *set[N]) put(n N, on bool) {
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

// meets says whether s and o have something in common.
func (s set[N]) meets(o set[N]) bool {
	for i := range min(len(s), len(o)) {
		if s[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

// join adds what is in o.
func (s *set[N]) join(o set[N]) {
	for len(*s) < len(o) {
		*s = append(*s, 0)
	}
	for i, w := range o {
		(*s)[i] |= w
	}
}

// next is the first of s at or after n, -1 if there is none.
func (s set[N]) next(n N) N {
	for i := int(n) >> 6; i < len(s); i++ {
		w := s[i]
		if i == int(n)>>6 {
			w &^= 1<<(uint(n)&63) - 1
		}
		if w != 0 {
			return N(i<<6 + bits.TrailingZeros64(w))
		}
	}
	return -1
}

func (s set[N]) count() int {
	total := 0
	for _, w := range s {
		total += bits.OnesCount64(w)
	}
	return total
}
