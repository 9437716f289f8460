// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// tear makes dir what a power cut leaves: pieces are recorded whose bytes the
// disk did not get.
func (w *world) tear(dir string, torn ...dragonfly.PieceNum) {
	w.t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".server") {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		for _, n := range torn {
			if _, err := f.WriteAt(make([]byte, 4096), int64(n)*pieceLen+70_000); err != nil {
				return err
			}
		}
		return os.Chtimes(path, info.ModTime(), info.ModTime())
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// crash is a power cut, after which the machine runs again.
func (m *machine) crash(torn ...dragonfly.PieceNum) *machine {
	m.w.t.Helper()
	dir := m.kill()
	m.w.tear(dir, torn...)
	return m.w.machine(m.ip, dir, options{boot: "next boot"})
}

// TestTornPiecesAreFetchedAgain: after a crash of the machine each piece is
// verified before its first use; what the disk lost is fetched again, and
// nothing else.
func TestTornPiecesAreFetchedAgain(t *testing.T) {
	t.Parallel()
	for name, swarm := range map[string]bool{"swarm": true, "source": false} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				j := job()
				if swarm {
					j = job(w.node(nodeA))
				}
				m := w.host("10.0.1.1")
				w.succeed(m.start(j), w.origin.content)
				d := m.crash(1).start(j)
				w.succeed(d, w.origin.content)
				if got := received(d.Progress()); got != pieceLen {
					t.Errorf("%d bytes were fetched again, want one piece", got)
				}
			})
		})
	}
}

// TestTornPiecesAreNotServed: children get no byte of a piece that the disk
// lost; the swarm hears that it is lost.
func TestTornPiecesAreNotServed(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		m := w.host("10.0.1.1")
		w.succeed(m.start(job(n)), w.origin.content)
		m = m.crash(0)
		// It serves what it holds, as far as the swarm knows, while it gets
		// the rest for itself.
		again := m.start(job(n))
		other := w.host("10.0.1.2")
		w.succeed(other.start(job(n)), w.origin.content)
		w.succeed(again, w.origin.content)
		for _, ev := range other.told() {
			if ev.Reason == dragonfly.FailMismatch {
				t.Errorf("the child got bad bytes: %+v", ev)
			}
		}
		lost := 0
		for _, ev := range m.told() {
			if ev.Kind == dragonfly.EventLost && ev.Piece == 0 {
				lost++
			}
		}
		if lost == 0 {
			t.Error("the swarm was not told that the piece is lost")
		}
	})
}

// TestSeedCrash: a seed whose disk lost a piece reads that piece anew.
func TestSeedCrash(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		w.succeed(w.host("10.0.1.1").start(job(n)), w.origin.content)
		n.kill()
		w.tear(n.dir, 2)
		n.boot = "next boot"
		n.start()
		w.succeed(w.host("10.0.1.2").start(job(n)), w.origin.content)
	})
}

// TestFinishedJobKeepsItsVersion: a job that is over has the file of the
// version that it got, though another job of the same task began a newer one.
func TestFinishedJobKeepsItsVersion(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		m := w.host("10.0.1.1")
		old := w.origin.content
		first := m.start(job(n))
		if err := w.wait(first); err != nil {
			t.Fatal(err)
		}
		w.origin.set(func(o *origin) { o.content, o.etag = random(9, 2*pieceLen), `"two"` })
		<-time.After(11 * time.Second)
		second := m.start(job(n))
		w.succeed(second, w.origin.content)
		if first.Progress().Length != int64(len(old)) {
			t.Errorf("the older job's length became %d", first.Progress().Length)
		}
		w.isFile(first, old)
	})
}

// isFile checks what a finished download hands out.
func (w *world) isFile(d *peer.Download, want []byte) {
	w.t.Helper()
	f, err := d.File()
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(want)+1)
	n, _ := f.ReadAt(got, 0) // the end of the file
	if string(got[:n]) != string(want) {
		w.t.Errorf("the file has %d bytes, and not those of its version", n)
	}
}
