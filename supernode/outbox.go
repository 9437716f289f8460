// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"slices"
	"time"

	"dragonfly"
)

// resend is how long an answer may be unacknowledged before its items go into
// another one. Lost answers are repeated at once, when their seq comes again.
const resend = 500 * time.Millisecond

// item is one thing to tell a peer; exactly one of its fields from assignment
// on is set.
type item struct {
	first uint64    // Work.Seq of the first answer that held it; 0: none yet
	sent  time.Time // when it went out last

	assignment *dragonfly.Assignment
	cancel     dragonfly.AssignmentID
	entry      *entryItem
	info       *dragonfly.TaskInfo
	question   *dragonfly.Question
	members    []dragonfly.Member
}

// entryItem is one digest of a manifest.
type entryItem struct {
	task    dragonfly.TaskID
	version dragonfly.Version
	piece   dragonfly.PieceNum
	digest  dragonfly.PieceDigest
}

// outbox holds what a peer was not told yet or has not acknowledged. Every
// answer carries all of it, so acknowledging an answer acknowledges everything
// that was in it or in an earlier one, received or not.
type outbox struct {
	seq   uint64 // of the newest answer that held something
	items []item
}

// put adds an item. Newer news of a task replaces the older, the same question
// is not put twice, and a cancellation takes its assignment with it.
func (o *outbox) put(it item) {
	switch {
	case it.info != nil:
		o.items = slices.DeleteFunc(o.items, func(x item) bool { return x.info != nil && x.info.Task == it.info.Task })
	case it.members != nil:
		o.items = slices.DeleteFunc(o.items, func(x item) bool { return x.members != nil })
	case it.question != nil:
		if slices.ContainsFunc(o.items, func(x item) bool { return x.question != nil && *x.question == *it.question }) {
			return
		}
	case it.cancel != 0:
		told := true
		o.items = slices.DeleteFunc(o.items, func(x item) bool {
			found := x.assignment != nil && x.assignment.ID == it.cancel
			if found && x.first == 0 {
				told = false
			}
			return found
		})
		if !told {
			return
		}
	}
	o.items = append(o.items, it)
}

// forget drops what was to be told about a version of a task.
func (o *outbox) forget(task dragonfly.TaskID, v dragonfly.Version) {
	o.items = slices.DeleteFunc(o.items, func(x item) bool {
		switch {
		case x.assignment != nil:
			return x.assignment.Task == task && x.assignment.Version == v
		case x.entry != nil:
			return x.entry.task == task && x.entry.version == v
		case x.question != nil:
			return x.question.Task == task && x.question.Version == v
		}
		return false
	})
}

// acknowledge drops what the answers up to seq held and adds the assignments
// among it to assigned.
func (o *outbox) acknowledge(seq uint64, assigned []dragonfly.AssignmentID) []dragonfly.AssignmentID {
	if seq > o.seq {
		return assigned // of another life of the peer: nothing was said under this number
	}
	o.items = slices.DeleteFunc(o.items, func(x item) bool {
		acked := x.first != 0 && x.first <= seq
		if acked && x.assignment != nil {
			assigned = append(assigned, x.assignment.ID)
		}
		return acked
	})
	return assigned
}

// due says whether there is something to answer now, and if not, how long
// until something must be repeated (0: nothing).
func (o *outbox) due(now time.Time) (ready bool, in time.Duration) {
	for _, x := range o.items {
		if x.first == 0 {
			return true, 0
		}
		wait := resend - now.Sub(x.sent)
		if wait <= 0 {
			return true, 0
		}
		if in == 0 || wait < in {
			in = wait
		}
	}
	return false, in
}

// repeat makes everything due again: the answer that held it was lost.
func (o *outbox) repeat() {
	for i := range o.items {
		o.items[i].sent = time.Time{}
	}
}

// take makes an answer of all items.
func (o *outbox) take(now time.Time) dragonfly.Work {
	if len(o.items) == 0 {
		return dragonfly.Work{Seq: o.seq}
	}
	o.seq++
	w := dragonfly.Work{Seq: o.seq}
	assignments := 0
	for i := range o.items {
		if o.items[i].assignment != nil {
			assignments++
		}
	}
	w.Assignments = slices.Grow(w.Assignments, assignments)
	var entries []entryItem
	for i := range o.items {
		x := &o.items[i]
		if x.first == 0 {
			x.first = o.seq
		}
		x.sent = now
		switch {
		case x.assignment != nil:
			w.Assignments = append(w.Assignments, *x.assignment)
		case x.cancel != 0:
			w.Cancellations = append(w.Cancellations, x.cancel)
		case x.entry != nil:
			entries = append(entries, *x.entry)
		case x.info != nil:
			w.Tasks = append(w.Tasks, *x.info)
		case x.question != nil:
			w.Questions = append(w.Questions, *x.question)
		default:
			w.Members = x.members
		}
	}
	w.Manifest = runs(entries)
	return w
}

// runs joins digests of consecutive pieces.
func runs(entries []entryItem) (out []dragonfly.Entries) {
	slices.SortStableFunc(entries, func(a, b entryItem) int {
		if c := slices.Compare(a.task[:], b.task[:]); c != 0 {
			return c
		}
		if c := slices.Compare(a.version[:], b.version[:]); c != 0 {
			return c
		}
		return int(a.piece) - int(b.piece)
	})
	for _, e := range entries {
		if last := len(out) - 1; last >= 0 && out[last].Task == e.task && out[last].Version == e.version &&
			out[last].First+dragonfly.PieceNum(len(out[last].Digests)) == e.piece {
			out[last].Digests = append(out[last].Digests, e.digest)
			continue
		}
		out = append(out, dragonfly.Entries{Task: e.task, Version: e.version, First: e.piece, Digests: []dragonfly.PieceDigest{e.digest}})
	}
	return out
}
