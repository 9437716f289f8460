// SPDX-License-Identifier: Apache-2.0

package sched

import "fmt"

// Choice is why the machine decided as it did: a closed list. It is derived
// from the books at the moment of the decision, for observers only.
type Choice string

const (
	ChoiceNone       Choice = ""
	ChoiceSource     Choice = "no-copy"          // nobody has it: the seed reads the source
	ChoiceSeedFirst  Choice = "seed-only-holder" // no other peer has or gets it
	ChoiceSeedBusy   Choice = "peers-busy"       // those that have it are full, on the child's blacklist, or follow it
	ChoiceSeedForced Choice = "child-isolated"   // the child gets from the seed only
	ChoiceOnly       Choice = "only-holder"      // no other peer has or gets it
	ChoiceSame       Choice = "gave-the-last"    // the same parent goes on
	ChoiceHost       Choice = "same-host"        // the nearest that had a free slot
	ChoiceRack       Choice = "same-rack"
	ChoiceZone       Choice = "same-zone"
	ChoiceLoad       Choice = "least-loaded" // for its capacity and distance from a holder, among equally near ones

	ChoiceChildGone   Choice = "child-gone"     // cancelled: the child does not listen
	ChoiceParentGone  Choice = "parent-gone"    // the parent left the task or the books
	ChoiceParentLost  Choice = "parent-lost-it" // the parent has the piece no more, nor gets it
	ChoiceHeld        Choice = "held"           // the child holds the piece
	ChoiceParentSlow  Choice = "parent-slow"    // the parent serves nobody for a while, or gets it from a slow one
	ChoiceUnwanted    Choice = "not-wanted"     // the child wants it no more
	ChoiceUnheard     Choice = "not-heard"      // the child did not acknowledge it in time
	ChoiceFoundBetter Choice = "found-better"   // it took too long and another parent can give the rest
	ChoiceStartAgain  Choice = "piece-given-up" // by the child, with what was there of it
)

// Words say what a choice means, in the middle of a sentence; "" for ChoiceNone.
func (c Choice) Words() string {
	switch c {
	case ChoiceSource:
		return "nobody has it"
	case ChoiceSeedFirst, ChoiceOnly:
		return "no other peer has or gets it"
	case ChoiceSeedBusy:
		return "the peers that have it are full, on its blacklist, or get it from this one"
	case ChoiceSeedForced:
		return "isolated, it gets from the seed only"
	case ChoiceSame:
		return "it gave the last one, too"
	case ChoiceHost:
		return "the nearest with a free slot, on the same host"
	case ChoiceRack:
		return "the nearest with a free slot, in the same rack"
	case ChoiceZone:
		return "the nearest with a free slot, in the same zone"
	case ChoiceLoad:
		return "the least loaded of the nearest"
	case ChoiceChildGone:
		return "the peer does not listen"
	case ChoiceParentGone:
		return "the parent left"
	case ChoiceParentLost:
		return "the parent has it no more"
	case ChoiceHeld:
		return "the peer holds the piece"
	case ChoiceUnwanted:
		return "the peer wants it no more"
	case ChoiceUnheard:
		return "the peer did not acknowledge it in time"
	case ChoiceFoundBetter:
		return "it took too long, and another can give the rest"
	case ChoiceStartAgain:
		return "the peer gave the piece up"
	}
	return string(c)
}

// Words say why a peer waits, in the middle of a sentence; "" for WaitNothing.
func (r Reason) Words() string {
	switch r {
	case WaitSlots:
		return "all its slots are in work"
	case WaitSource:
		return "the seed still reads the source"
	case WaitParents:
		return "all that have what it lacks serve as many as they may"
	case WaitBlacklist:
		return "only parents on its blacklist have what it lacks"
	case WaitIsolated:
		return "it is isolated, and the seed is busy"
	case WaitSilent:
		return "it has no sync open: it does not listen"
	case WaitClosed:
		return "the source is over its budget or failed"
	case WaitFree:
		return "it said that it takes no more now"
	case WaitUnverified:
		return "all bytes are there, their digests are not"
	case WaitPause:
		return "it could not write, or gave up by itself, a moment ago"
	}
	return string(r)
}

// Decision is an action with its reason. The books are those of the moment
// before the action.
type Decision struct {
	At     Instant
	Action Action
	Choice Choice // of Assign and Cancel; the others have Action.Why
	// Of an Assign from a peer or the seed:
	Receives  bool // the parent is itself getting the piece
	Load, Up  int  // children of the parent before this one, and how many it may have; of the seed in this task
	Providers int  // peers that had or got the piece, the seed not counted
}

func (d Decision) String() string {
	return d.Text(func(p Peer) string { return fmt.Sprintf("peer %d", p) })
}

// Text says what was decided about Action.Peer and why, with the names that
// others go by.
func (d Decision) Text(name func(Peer) string) string {
	a := d.Action
	switch a.Kind {
	case Assign:
		s := fmt.Sprintf("piece %d [%d, %d) from ", a.Piece, a.Span.From, a.Span.To)
		why := fmt.Sprintf(": %s (%s)", d.Choice.Words(), d.Choice)
		if a.Parent == Source {
			return s + "the source" + why
		}
		has := "holds"
		if d.Receives {
			has = "is getting"
		}
		return s + name(a.Parent) + why + fmt.Sprintf("; it %s the piece, peers with it: %d, children: %d of %d", has, d.Providers, d.Load, d.Up)
	case Cancel:
		return fmt.Sprintf("piece %d [%d, %d) cancelled: %s (%s)", a.Piece, a.Span.From, a.Span.To, d.Choice.Words(), d.Choice)
	case Reverify:
		return fmt.Sprintf("asked whether piece %d is still good: a child got other bytes of it", a.Piece)
	case Quarantined:
		return "quarantined: " + a.Why
	case Isolated:
		return "isolated: " + a.Why
	case Released:
		return "released: its term is over"
	case Exhausted:
		return fmt.Sprintf("piece %d cannot be had: %s", a.Piece, a.Why)
	case Forgotten:
		return "forgotten: it did not listen for long"
	}
	return fmt.Sprintf("action %d", a.Kind)
}

// Observe makes the machine tell f each decision before Step returns it; f must
// not use the machine. It changes no decision. nil ends it.
func (k *Machine) Observe(f func(Decision)) { k.observer = f }

// explainAssign tells why parent, nil for the source, is given to child. It is
// called before the assignment enters the books.
func (k *Machine) explainAssign(child, parent *member, a Action) {
	d := Decision{At: k.now, Action: a, Choice: ChoiceSource, Providers: len(child.t.providers[child.t.unitAt(a.Piece, a.Span.From)])}
	if parent != nil {
		d.Choice = k.chosen(child, parent, d.Providers)
		d.Receives, d.Load, d.Up = !parent.have.has(a.Piece), len(parent.p.children), parent.p.ease
		if parent.p.seed {
			d.Load, d.Up = parent.load, parent.p.up
		}
	}
	k.observer(d)
}

func (k *Machine) chosen(child, parent *member, providers int) Choice {
	c, p := child.p, parent.p
	switch {
	case p.seed && providers == 0:
		return ChoiceSeedFirst
	case p.seed && c.under(isolated):
		return ChoiceSeedForced
	case p.seed:
		return ChoiceSeedBusy
	case providers == 1:
		return ChoiceOnly
	case child.before == parent:
		return ChoiceSame
	case p.host == c.host:
		return ChoiceHost
	case p.rack != 0 && p.rack == c.rack:
		return ChoiceRack
	case p.zone != 0 && p.zone == c.zone:
		return ChoiceZone
	}
	return ChoiceLoad
}

// explainCancel tells why an assignment is taken back. It is called while the
// assignment is in the books.
func (k *Machine) explainCancel(a *assignment) {
	d := Decision{At: k.now, Action: a.cancellation(), Choice: ChoiceStartAgain}
	child, parent := a.child, a.parent
	switch {
	case child.p.listen.gone:
		d.Choice = ChoiceChildGone
	case child.have.has(a.piece):
		d.Choice = ChoiceHeld
	case !child.p.seed && !child.seeks(a.piece):
		d.Choice = ChoiceUnwanted
	case !a.acked && k.now >= a.began.Add(k.cfg.Ack):
		d.Choice = ChoiceUnheard
	case parent != nil && (parent.gone || !parent.listed):
		d.Choice = ChoiceParentGone
	case parent != nil && (parent.p.ease == 0 || !parent.have.has(a.piece) && parent.trickles(a.piece, a.span)):
		d.Choice = ChoiceParentSlow
	case parent != nil && (!parent.give.has(child.t.unitAt(a.piece, a.span.From)) || !parent.have.has(a.piece) && parent.arrival(a.piece) == nil):
		d.Choice = ChoiceParentLost
	case k.overdue(a):
		d.Choice = ChoiceFoundBetter
	}
	k.observer(d)
}

// tellRest tells the decisions of a step that carry their reason themselves.
func (k *Machine) tellRest(out []Action) {
	for _, a := range out {
		if a.Kind != Assign && a.Kind != Cancel {
			k.observer(Decision{At: k.now, Action: a})
		}
	}
}
