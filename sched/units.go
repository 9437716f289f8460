// SPDX-License-Identifier: Apache-2.0

package sched

import "dragonfly"

// unit is what is assigned at once: a piece, or in a task of few pieces a part of
// one, numbered from 0 through the task. The seed reads its source in order, so
// everybody wants the unit that it reads just then: with few of them one parent
// divides its uplink among all who follow it while the others have nothing to
// give. Small units let every peer be in the middle of one unit's tree and at the
// end of the others'. What is verified, reported and blamed is a piece always.
type unit int32

// minPart is the shortest span into which a piece is parted.
const minPart = 2 * dragonfly.BlockLen

type unitOf struct {
	m *member
	u unit
}

// split is into how many units each piece of a new task is parted, so that the
// task has about Units of them: one where the pieces are as many, or nobody knows
// how many.
func (k *Machine) split(l dragonfly.Layout) int {
	if !l.Known() {
		return 1
	}
	pieces := l.Pieces()
	return max(1, min((k.cfg.Units+pieces-1)/pieces, int(min(l.PieceLen, l.Length)/minPart)))
}

// count is how many units t has: its last piece may be too short for all.
func (t *task) count() int {
	if t.parts == 1 {
		return t.pieces
	}
	last := dragonfly.PieceNum(t.pieces - 1)
	return int(last)*t.parts + min(t.parts, max(1, int(blocks(t.extent(last).Len()))))
}

// first is the first unit of a piece, behind the first one behind it.
func (t *task) first(n dragonfly.PieceNum) unit { return unit(int(n) * t.parts) }

func (t *task) behind(n dragonfly.PieceNum) unit { return unit(min((int(n)+1)*t.parts, t.units)) }

func (t *task) pieceOf(u unit) dragonfly.PieceNum { return dragonfly.PieceNum(int(u) / t.parts) }

// span is where a unit lies in the content: whole blocks of its piece.
func (t *task) span(u unit) dragonfly.Span {
	n := t.pieceOf(u)
	e := t.extent(n)
	if t.parts == 1 {
		return e
	}
	first, parts := t.first(n), int64(t.behind(n)-t.first(n))
	at := func(i int64) int64 { return min(e.To, e.From+blocks(e.Len())*i/parts*dragonfly.BlockLen) }
	return dragonfly.Span{From: at(int64(u - first)), To: at(int64(u-first) + 1)}
}

// unitAt is the unit of a piece in which an offset of the content lies.
func (t *task) unitAt(n dragonfly.PieceNum, off int64) unit {
	u := t.first(n)
	for u+1 < t.behind(n) && t.span(u).To <= off {
		u++
	}
	return u
}

// begun says that something of u is there, or of its piece when that is not in
// parts.
func (t *task) begun(ar *arrival, u unit) bool {
	if t.parts == 1 {
		return true
	}
	span := t.span(u)
	missing, open := ar.gap(span)
	return open && missing != span
}

// blocks is how many blocks n bytes have.
func blocks(n int64) int64 { return (n + dragonfly.BlockLen - 1) / dragonfly.BlockLen }

// overlap says that two spans have a byte in common, or are the same.
func overlap(a, b dragonfly.Span) bool { return a.From < b.To && b.From < a.To || a == b }
