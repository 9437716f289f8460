// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// swarm starts a holder of the content and then everybody else at once, in a
// swarm in which seed and origin are too slow to do it alone.
func (w *world) swarm(n *node, bad *machine, others []*machine, spoil func()) []*peer.Download {
	w.t.Helper()
	w.succeed(bad.start(job(n)), w.origin.content)
	spoil()
	w.net.limit(nodeA, 8*mib)
	var downloads []*peer.Download
	for _, m := range others {
		downloads = append(downloads, m.start(job(n)))
	}
	return downloads
}

// TestLiarInTheSwarm: everybody gets the right bytes, and nobody but the liar
// is accused.
func TestLiarInTheSwarm(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n, liar, others := w.node(nodeA), w.host("10.0.1.66"), w.hosts(6)
		downloads := w.swarm(n, liar, others, func() {
			w.net.mangle(liar.ip, func(b []byte) {
				if len(b) > 8*kib {
					b[len(b)/2] ^= 1
				}
			})
		})
		for _, d := range downloads {
			w.succeed(d, w.origin.content)
		}
		accused := 0
		for _, m := range others {
			for _, ev := range m.failures() {
				if ev.Reason != dragonfly.FailMismatch {
					continue
				}
				// Who passed the liar's bytes on before they could be verified may
				// be named by its children, but no one who verified them.
				if p := m.assignment(ev.Assignment).Parent; len(p.Addrs) > 0 && p.Addrs[0].Addr().String() == liar.ip {
					accused++
				}
			}
		}
		if accused == 0 {
			t.Error("the liar was accused by nobody")
		}
		if sent := w.origin.Sent(); sent != int64(len(w.origin.content)) {
			t.Errorf("the origin sent %d bytes for a content of %d", sent, len(w.origin.content))
		}
	})
}

func TestStallingPeerInTheSwarm(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n, bad, others := w.node(nodeA), w.host("10.0.1.66"), w.hosts(6)
		began := time.Now()
		for _, d := range w.swarm(n, bad, others, func() { w.net.freeze(bad.ip, true) }) {
			w.succeed(d, w.origin.content)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("took %v", took)
		}
		w.net.freeze(bad.ip, false)
	})
}

func TestDeadPeerInTheSwarm(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n, bad, others := w.node(nodeA), w.host("10.0.1.66"), w.hosts(6)
		for _, d := range w.swarm(n, bad, others, func() { bad.kill() }) {
			w.succeed(d, w.origin.content)
		}
	})
}

// rot changes a byte of a content on a machine's disk, behind its back.
func (m *machine) rot(task dragonfly.TaskID, at int64) {
	m.w.t.Helper()
	id := task.String()
	f, err := os.OpenFile(filepath.Join(m.dir, id[:3], id+".server"), os.O_RDWR, 0)
	if err != nil {
		m.w.t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		m.w.t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		m.w.t.Fatal(err)
	}
}

// TestRottenDiskInTheSwarm: a file that changed on the disk of a peer is served
// to nobody.
func TestRottenDiskInTheSwarm(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n, bad, others := w.node(nodeA), w.host("10.0.1.66"), w.hosts(4)
		downloads := w.swarm(n, bad, others, func() { bad.rot(job().Request.TaskID(), 1000) })
		for i, d := range downloads {
			w.succeed(d, w.origin.content)
			for _, ev := range others[i].failures() {
				if ev.Reason == dragonfly.FailMismatch {
					t.Errorf("a rotten byte was served: %+v", ev)
				}
			}
		}
		// Its own user gets the right bytes, too.
		w.succeed(bad.start(job(n)), w.origin.content)
	})
}

// TestQuestions: whether a piece is still good, and what the digests are.
func TestQuestions(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		a := w.holder("10.0.1.1")
		ask := func(kind dragonfly.QuestionKind, n dragonfly.PieceNum) {
			a.say(dragonfly.Work{Questions: []dragonfly.Question{{Kind: kind, Task: a.info.Task, Version: a.info.Version, Piece: n}}})
		}
		ask(dragonfly.AskManifest, 0)
		w.hears(a.script, 0, dragonfly.EventEntry)
		<-time.After(time.Second)
		var pieces []dragonfly.PieceNum
		for _, ev := range a.script.told(0) {
			if ev.Kind == dragonfly.EventEntry {
				pieces = append(pieces, ev.Piece)
				if ev.Digest != w.digest(ev.Piece) {
					t.Errorf("piece %d has another digest", ev.Piece)
				}
			}
		}
		if !slices.Equal(pieces, []dragonfly.PieceNum{0, 1, 2}) {
			t.Errorf("entries of pieces %v", pieces)
		}
		ask(dragonfly.AskReverify, 1)
		if ev := w.hears(a.script, 0, dragonfly.EventIntact); ev.Piece != 1 {
			t.Errorf("%+v", ev)
		}
		a.rot(a.info.Task, pieceLen+100)
		ask(dragonfly.AskReverify, 1)
		if ev := w.hears(a.script, 0, dragonfly.EventLost); ev.Piece != 1 {
			t.Errorf("%+v", ev)
		}
	})
}

// TestCloseInMidDownload: everything ends, the jobs with a clear error.
func TestCloseInMidDownload(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n, hosts := w.node(nodeA), w.hosts(3)
		w.net.limit(originHost, 4*mib)
		var downloads []*peer.Download
		for _, m := range hosts {
			downloads = append(downloads, m.start(job(n)))
		}
		w.middle(downloads[0])
		for i, m := range hosts {
			began := time.Now()
			m.close()
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("to close took %v", took)
			}
			if err := w.wait(downloads[i]); dragonfly.KindOf(err) != dragonfly.Canceled {
				t.Errorf("ended with %v", err)
			}
			if _, err := m.engine.Start(t.Context(), job(n)); dragonfly.KindOf(err) != dragonfly.Canceled {
				t.Errorf("a closed engine takes a job: %v", err)
			}
		}
	})
}

// TestMinRate: a download that is slower than the least rate is given up.
func TestMinRate(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.net.limit(originHost, 64*kib)
		j := job()
		j.MinRate = mib
		began := time.Now()
		err := w.wait(w.host("10.0.1.1").start(j))
		if took := time.Since(began); dragonfly.KindOf(err) != dragonfly.Unavailable || took < 15*time.Second || took > time.Minute {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
