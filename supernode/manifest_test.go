// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"testing"
	"time"

	"dragonfly"
)

// entries answers the question for a manifest: with the true digests, or with
// those of another content.
func (p *client) entries(url string, o *origin, as string, pieces int) (events []dragonfly.Event) {
	for n := range dragonfly.PieceNum(pieces) {
		events = append(events, dragonfly.Event{Kind: dragonfly.EventEntry, Task: taskOf(url), Version: o.version, Piece: n, Digest: digestOf(versionOf(as), n)})
	}
	return events
}

// questions takes the questions of one kind that a peer is asked now.
func (p *client) questions(kind dragonfly.QuestionKind) (n int) {
	p.Helper()
	work, _ := p.next()
	for _, q := range work.Questions {
		if q.Kind == kind {
			n++
		}
	}
	return n
}

// TestFailover: a supernode that knows nothing of a content learns its manifest
// from two hosts that hold it. Nothing is read from the source.
func TestFailover(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 3)
		a, b, child := w.peer(), w.peer(), w.peer()
		a.register(a.has(url, o, 3))
		if got := a.questions(dragonfly.AskManifest); got != 1 {
			w.Fatalf("asked %d times", got)
		}
		a.later(a.report(a.entries(url, o, "a", 3)...))
		if got := w.detail(url).Manifest; got != 0 {
			w.Errorf("one host convinced it of %d digests", got)
		}
		child.register(child.wants(url))
		work := child.sync()
		if len(work.Assignments) != 3 {
			w.Fatalf("%+v", work)
		}
		for _, x := range work.Assignments {
			if x.Parent.Kind != dragonfly.ParentPeer || !x.Digest.IsZero() {
				w.Errorf("%+v", x)
			}
		}
		next := child.later(child.report())
		b.register(b.has(url, o, 3))
		if got := b.questions(dragonfly.AskManifest); got != 1 {
			w.Fatalf("asked %d times", got)
		}
		b.later(b.report(b.entries(url, o, "a", 3)...))
		if got := w.detail(url).Manifest; got != 3 {
			w.Errorf("%d digests are known", got)
		}
		<-next.done
		if m := next.work.Manifest; len(m) != 1 || m[0].First != 0 || len(m[0].Digests) != 3 || m[0].Digests[2] != digestOf(o.version, 2) {
			w.Errorf("the child hears %+v", m)
		}
		w.wait(5 * time.Second)
		if n, _ := w.reads(o); n != 0 {
			w.Errorf("%d pieces were read from the source", n)
		}
		if got := w.detail(url).Holders; got[0] != 2 || got[2] != 2 {
			w.Errorf("holders %v", got)
		}
		// Who comes now gets the digests with its assignments.
		late := w.peer()
		late.register(late.wants(url))
		if work := late.sync(); len(work.Assignments) != 3 || work.Assignments[0].Digest != digestOf(o.version, work.Assignments[0].Piece) {
			w.Errorf("%+v", work)
		}
	})
}

// TestOneLiarDoesNotConvince: neither alone, nor with a second process on its
// host, nor by speaking twice; two others at different hosts do.
func TestOneLiarDoesNotConvince(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 2)
		liar, accomplice, a, b := w.peer(), w.peer(), w.peer(), w.peer()
		w.sn.mu.Lock()
		w.sn.agents["0000000000000000000000000000000c"].where.Host = "10.0.0.11" // another process of the liar's host
		w.sn.mu.Unlock()
		for _, p := range []*client{liar, accomplice} {
			p.register(p.has(url, o, 2))
			p.later(p.report(p.entries(url, o, "b", 2)...))
			p.later(p.report(p.entries(url, o, "b", 2)...))
		}
		if got := w.detail(url).Manifest; got != 0 {
			w.Errorf("one host convinced it of %d digests", got)
		}
		a.register(a.has(url, o, 2))
		a.later(a.report(a.entries(url, o, "a", 2)...))
		if got := w.detail(url).Manifest; got != 0 {
			w.Errorf("one against one: %d digests", got)
		}
		b.register(b.has(url, o, 2))
		b.later(b.report(b.entries(url, o, "a", 2)...))
		if got := w.detail(url).Manifest; got != 2 {
			w.Errorf("two hosts agree: %d digests", got)
		}
		child := w.peer()
		child.register(child.wants(url))
		for _, x := range child.sync().Assignments {
			if x.Digest != digestOf(o.version, x.Piece) {
				w.Errorf("the liar's digest is given: %+v", x)
			}
		}
	})
}

// TestUnconfirmedPieces: where only one host says what a piece's digest is, its
// piece counts as held for a moment; then the seed reads it, and the holder
// counts again if it told the truth.
func TestUnconfirmedPieces(t *testing.T) {
	for _, honest := range []bool{true, false} {
		inTime(t, nil, func(w *world) {
			url, o := w.source("a", 2)
			o.pace = time.Second
			p, child := w.peer(), w.peer()
			p.register(p.has(url, o, 2))
			as := "a"
			if !honest {
				as = "b"
			}
			p.later(p.report(p.entries(url, o, as, 2)...))
			child.register(child.wants(url))
			child.later(child.report())
			w.wait(1500 * time.Millisecond)
			if got := p.seen(url).Held; got != 2 {
				w.Errorf("holds %d", got)
			}
			w.wait(time.Second)
			if got := p.seen(url).Held; got != 0 {
				w.Errorf("still holds %d", got)
			}
			w.wait(3 * time.Second)
			if n, most := w.reads(o); n != 2 || most != 1 {
				w.Errorf("%d pieces read, one %d times", n, most)
			}
			want := 0
			if honest {
				want = 2
			}
			if got := p.seen(url).Held; got != want {
				w.Errorf("honest %v: holds %d", honest, got)
			}
		})
	}
}

// TestClaimsAreBounded: digests of pieces that a peer does not hold, and of
// pieces that do not exist, are no claims; neither are more than a few per piece.
func TestClaimsAreBounded(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 3)
		for i := range byte(20) {
			p := w.peer()
			r := p.has(url, o, 2)
			r.Holding = i > 0 // the first wants the rest: that makes the task
			p.register(r)
			events := p.entries(url, o, string('b'+rune(i)), 4)
			events = append(events, dragonfly.Event{Kind: dragonfly.EventEntry, Task: taskOf(url), Version: o.version, Piece: 1 << 30, Digest: digestOf(o.version, 0)},
				dragonfly.Event{Kind: dragonfly.EventEntry, Task: taskOf(url), Version: o.version, Piece: -1, Digest: digestOf(o.version, 0)})
			p.later(p.report(events...))
		}
		if got := w.detail(url).Manifest; got != 1 { // what the seed read
			w.Errorf("%d digests are known", got)
		}
		m := w.sn.tasks[taskOf(url)].current.manifest
		if len(m.claims) != 2 || len(m.claims[0]) != maxClaims {
			w.Errorf("%d pieces, %d claims of the first", len(m.claims), len(m.claims[0]))
		}
		// The crowd of liars delays the truth, which comes from the source then.
		child := w.agent(1)
		child.want(url)
		w.wait(10 * time.Second)
		if n, most := w.reads(o); !child.has(url) || n != 3 || most != 1 {
			w.Errorf("done %v, %d pieces read, one %d times", child.has(url), n, most)
		}
	})
}

// TestDigestOfTheSeed: proves everything at once, whatever was claimed.
func TestDigestOfTheSeed(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 2)
		o.held = true
		p := w.peer()
		p.register(p.has(url, o, 2))
		if got := p.questions(dragonfly.AskManifest); got != 0 {
			w.Errorf("asked %d times for what is known", got)
		}
		p.later(p.report(p.entries(url, o, "b", 2)...))
		if d := w.detail(url); d.Manifest != 2 || d.Status != "SUCCESS" || d.Holders[0] != 2 {
			w.Errorf("%+v", d)
		}
	})
}
