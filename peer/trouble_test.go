// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// TestTrouble plays downloads through random trouble that passes: killed and
// restarted processes, cut, frozen and lying hosts, lost supernodes. Everybody
// gets the right bytes in the end.
func TestTrouble(t *testing.T) {
	t.Parallel()
	seeds := 12
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) { w.trouble(rand.New(rand.NewPCG(uint64(seed), 1))) })
		})
	}
}

func (w *world) trouble(r *rand.Rand) {
	w.origin.content = random(byte(r.IntN(256)), pieceLen+r.IntN(2*pieceLen))
	if r.IntN(4) == 0 {
		w.origin.chunked = true
	}
	nodes := []*node{w.node(nodeA), w.node(nodeB)}[:1+r.IntN(2)]
	for _, n := range nodes {
		w.net.limit(n.ip, int64(4+r.IntN(12))*mib)
	}
	w.net.limit(originHost, int64(2+r.IntN(8))*mib)
	hosts := w.hosts(3 + r.IntN(3))
	downloads := make([]*peer.Download, len(hosts))
	for i, m := range hosts {
		w.net.limit(m.ip, int64(2+r.IntN(8))*mib)
		downloads[i] = m.start(job(nodes...))
	}
	for range 8 {
		<-time.After(time.Duration(r.IntN(1500)) * time.Millisecond)
		n, i := nodes[r.IntN(len(nodes))], r.IntN(len(hosts))
		host, spell := hosts[i].ip, time.Duration(100+r.IntN(8000))*time.Millisecond
		switch r.IntN(7) {
		case 0:
			hosts[i] = hosts[i].restart(hosts[i].kill())
			downloads[i] = hosts[i].start(job(nodes...))
		case 1:
			hosts[i].close()
			hosts[i] = hosts[i].restart(hosts[i].dir)
			downloads[i] = hosts[i].start(job(nodes...))
		case 2:
			n.kill()
			<-time.After(min(spell, 4*time.Second))
			n.start()
		case 3:
			w.net.cut(host, true)
			time.AfterFunc(spell, func() { w.net.cut(host, false) })
		case 4:
			w.net.freeze(host, true)
			time.AfterFunc(spell, func() { w.net.freeze(host, false) })
		case 5:
			w.net.mangle(host, func(b []byte) {
				if len(b) > 8*kib {
					b[len(b)/2] ^= 1
				}
			})
			time.AfterFunc(spell, func() { w.net.mangle(host, nil) })
		case 6:
			downloads[i].Close()
			downloads[i] = hosts[i].start(job(nodes...))
		}
	}
	for i, d := range downloads {
		// A source that knows no ranges may be given up while it is troubled.
		if err := w.wait(d); err != nil && dragonfly.KindOf(err) == dragonfly.SourceChanged && w.origin.chunked {
			d = hosts[i].start(job(nodes...))
		}
		w.succeed(d, w.origin.content)
	}
	<-time.After(10 * time.Second) // until the trouble has passed
}

// TestSeedTellsTheDigestOfWhatItHoldsAlready: an assignment of a piece that the
// seed has by then ends with the digest, too, for which others may wait.
func TestSeedTellsTheDigestOfWhatItHoldsAlready(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		s := w.script("seed")
		m := w.machine(nodeA, filepath.Join(w.dir, nodeA), options{dial: func(dragonfly.Member) dragonfly.Tracker { return s }})
		self := dragonfly.Member{ID: "script", Addr: "script:8002", Weight: 1}
		if err := m.engine.Seed(self).Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.engine.Seed(self).Prepare(t.Context(), job().Request, peer.Known{}); err != nil {
			t.Fatal(err)
		}
		first, again := s.whole(0, fromSource, dragonfly.PieceDigest{}), dragonfly.AssignmentID(0)
		w.hears(s, first, dragonfly.EventVerified)
		again = s.whole(0, fromSource, dragonfly.PieceDigest{})
		for _, id := range []dragonfly.AssignmentID{first, again} {
			if ev := w.hears(s, id, dragonfly.EventVerified); ev.Digest != w.digest(0) {
				t.Errorf("reported %+v", ev)
			}
		}
	})
}

// TestSeedTellsDigestsBeforeTheLength: those of the pieces that an earlier
// process left of a content without length.
func TestSeedTellsDigestsBeforeTheLength(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.chunked = true
		w.net.limit(originHost, 4*mib)
		start := func(dir string) (*machine, *script, peer.Prepared) {
			s := w.script("seed")
			m := w.machine(nodeA, dir, options{dial: func(dragonfly.Member) dragonfly.Tracker { return s }})
			self := dragonfly.Member{ID: "script", Addr: "script:8002", Weight: 1}
			if err := m.engine.Seed(self).Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			p, err := m.engine.Seed(self).Prepare(t.Context(), job().Request, peer.Known{})
			if err != nil {
				t.Fatal(err)
			}
			return m, s, p
		}
		m, s, _ := start(filepath.Join(w.dir, nodeA))
		w.hears(s, s.whole(0, fromSource, dragonfly.PieceDigest{}), dragonfly.EventVerified)
		_, _, p := start(m.kill())
		if p.Held.Count() != 1 || len(p.Manifest) != 1 || p.Manifest[0] != w.digest(0) {
			t.Errorf("%d pieces held, manifest %v", p.Held.Count(), p.Manifest)
		}
	})
}

// TestSupernodeThatIsJustRestarting: one that was named and refuses is asked
// again a moment later, so that its restart sends nobody to the source; one
// that nobody named is not waited for.
func TestSupernodeThatIsJustRestarting(t *testing.T) {
	t.Parallel()
	for _, guess := range []bool{false, true} {
		t.Run(fmt.Sprint("guess ", guess), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				n := w.node(nodeA)
				n.stop()
				m := w.host("10.0.1.1")
				j := job(n)
				j.Guess = guess
				d := m.start(j)
				<-time.After(300 * time.Millisecond)
				n.start()
				w.succeed(d, w.origin.content)
				if direct := d.Progress().FromSource > 0; direct != guess {
					t.Errorf("%+v", d.Progress())
				}
			})
		})
	}
}

// TestOtherOwner: a supernode that does not own the task names those that it
// knows, and the one of them that does is asked; when the owner is lost the
// next rank takes over.
func TestOtherOwner(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		one, two := w.node(nodeA), w.node(nodeB)
		all := []dragonfly.Member{one.member, two.member}
		one.sn.SetMembers(all)
		two.sn.SetMembers(all)
		owner, other := one, two
		if dragonfly.Rank(job().Request.TaskID(), all)[0] != one.member {
			owner, other = two, one
		}
		w.net.limit(owner.ip, 4*mib)
		d := w.host("10.0.1.1").start(job(other)) // it has not heard of the owner
		before := w.middle(d)
		if d.Progress().Node != owner.member.Addr {
			t.Errorf("the task is at %s, its owner is %s", d.Progress().Node, owner.member.Addr)
		}
		if n := len(other.seed.told()); n > 0 {
			t.Errorf("the seed of the other one reported %d events", n)
		}
		owner.kill()
		other.sn.SetMembers([]dragonfly.Member{other.member}) // it has seen so
		w.succeed(d, w.origin.content)
		if d.Progress().Node != other.member.Addr {
			t.Errorf("the task went on at %s", d.Progress().Node)
		}
		if got := received(d.Progress()); got > int64(len(w.origin.content))+4*mib {
			t.Errorf("%d bytes were received, %d were here before", got, before.Done)
		}
	})
}

// slow is an observer that takes its time over each piece.
type slow struct{ watcher }

func (o *slow) Piece(p peer.PieceDone) {
	<-time.After(time.Second)
	o.watcher.Piece(p)
}

// TestObserverHearsOfEveryPiece before the job is over: the log of a download
// tells of its last piece, too (FAQ: block piece distributed).
func TestObserverHearsOfEveryPiece(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		j := job(w.node(nodeA))
		var watch slow
		j.Observe = &watch
		d := w.host("10.0.1.1").start(j)
		if err := w.wait(d); err != nil {
			t.Fatal(err)
		}
		heard := map[dragonfly.PieceNum]bool{}
		watch.note(func() {
			for _, p := range watch.pieces {
				heard[p.Assignment.Piece] = true
			}
		})
		if len(heard) != 3 {
			t.Errorf("heard of %v when the job was over, want 3 pieces", heard)
		}
	})
}
