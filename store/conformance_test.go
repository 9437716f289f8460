// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dragonfly"
)

// lives are the ways from one use of a store to the next. What the suite below
// demands holds in each of them.
var lives = map[string]func(t *testing.T, s *Store) *Store{
	"kept open": func(t *testing.T, s *Store) *Store { return s },
	"closed": func(t *testing.T, s *Store) *Store {
		must(t, s.Close())
		return mustOpen(t, options(s.disk.dir))
	},
	"killed": func(t *testing.T, s *Store) *Store {
		kill(s)
		return mustOpen(t, options(s.disk.dir))
	},
	"closed, machine restarted": func(t *testing.T, s *Store) *Store {
		must(t, s.Close())
		o := options(s.disk.dir)
		o.BootID = "boot two"
		return mustOpen(t, o)
	},
	"machine crashed, all verified": func(t *testing.T, s *Store) *Store {
		kill(s)
		o := options(s.disk.dir)
		o.BootID = "boot two"
		s = mustOpen(t, o)
		must(t, s.Scrub(t.Context()))
		return s
	},
}

func TestConformance(t *testing.T) {
	for name, next := range lives {
		t.Run(name, func(t *testing.T) {
			for name, f := range suite {
				t.Run(name, func(t *testing.T) {
					f(t, mustOpen(t, options(t.TempDir())), func(s *Store) *Store { return next(t, s) })
				})
			}
		})
	}
}

var suite = map[string]func(t *testing.T, s *Store, next func(*Store) *Store){
	"committed pieces are held": func(t *testing.T, s *Store, next func(*Store) *Store) {
		const length = 3*pieceLen + 17
		c := mustCreate(t, s, metaOf(1, 1, length))
		fill(t, c, bytesOf(c.task, c.version, length), 3, 1)
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		if checkHeld(t, c, length) != 2 || !c.Has(1) || !c.Has(3) || c.Has(0) || c.Has(4) || c.Complete() {
			t.Errorf("held are %v pieces", c.Held().Count())
		}
		if c.Doubtful(1) || c.Doubtful(3) {
			t.Error("pieces are doubtful")
		}
		if !c.Digest(0).IsZero() || !c.Digest(99).IsZero() {
			t.Error("a piece that is not held has a digest")
		}
	},
	"a content goes on where it stopped": func(t *testing.T, s *Store, next func(*Store) *Store) {
		const length = 4*pieceLen - 1
		c := mustCreate(t, s, metaOf(1, 1, length))
		data := bytesOf(c.task, c.version, length)
		for _, n := range []dragonfly.PieceNum{2, 0, 3, 1} {
			fill(t, c, data, n)
			c.Release()
			s = next(s)
			c = mustLookup(t, s, 1)
		}
		defer c.Release()
		if checkHeld(t, c, length) != 4 || !c.Complete() {
			t.Error("the content is not complete")
		}
	},
	"the description survives": func(t *testing.T, s *Store, next func(*Store) *Store) {
		m := metaOf(1, 1, 10)
		m.TaskURL, m.ETag, m.LastModified, m.Resumable = "http://o/f", `"e"`, "Mon, 02 Jan 2006 15:04:05 GMT", true
		mustCreate(t, s, m).Release()
		s = next(s)
		c := mustLookup(t, s, 1)
		defer c.Release()
		if diff := cmp.Diff(m, c.Meta(), cmp.AllowUnexported(dragonfly.Digest{})); diff != "" {
			t.Error(diff)
		}
	},
	"an empty content is one empty piece": func(t *testing.T, s *Store, next func(*Store) *Store) {
		c := mustCreate(t, s, metaOf(1, 1, 0))
		if c.Complete() {
			t.Error("it is complete before its piece is")
		}
		must(t, c.Commit(0, digest(nil)))
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		if ok, err := c.Verify(0); !ok || err != nil || !c.Complete() {
			t.Errorf("verified %v, %v, complete %v", ok, err, c.Complete())
		}
	},
	"an unknown length becomes known": func(t *testing.T, s *Store, next func(*Store) *Store) {
		const length = 2*pieceLen + 5
		c := mustCreate(t, s, metaOf(1, 1, dragonfly.UnknownLength))
		data := bytesOf(c.task, c.version, length)
		fill(t, c, data[:2*pieceLen], 0, 1)
		_, err := c.WriteAt(data[2*pieceLen:], 2*pieceLen)
		must(t, err)
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		if c.Complete() || checkHeld(t, c, length) != 2 {
			t.Error("it is complete without a length")
		}
		wantKind(t, c.SetLength(2*pieceLen-1), dragonfly.Invalid) // piece 1 is held
		must(t, c.SetLength(length))
		must(t, c.SetLength(length))
		wantKind(t, c.SetLength(length+1), dragonfly.Invalid)
		must(t, c.Commit(2, digest(data[2*pieceLen:])))
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		if !c.Complete() || checkHeld(t, c, length) != 3 || c.Meta().Layout.Length != length {
			t.Error("it is not complete")
		}
	},
	"the length comes last": func(t *testing.T, s *Store, next func(*Store) *Store) {
		c := mustCreate(t, s, metaOf(1, 1, dragonfly.UnknownLength))
		fill(t, c, bytesOf(c.task, c.version, 2*pieceLen), 0, 1)
		_, err := c.WriteAt([]byte("too much"), 2*pieceLen)
		must(t, err)
		must(t, c.SetLength(2*pieceLen))
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		if info, err := c.File().Stat(); err != nil || info.Size() != 2*pieceLen || !c.Complete() {
			t.Errorf("size %v, %v, complete %v", info.Size(), err, c.Complete())
		}
	},
	"received prefixes are remembered": func(t *testing.T, s *Store, next func(*Store) *Store) {
		c := mustCreate(t, s, metaOf(1, 1, 3*pieceLen))
		data := bytesOf(c.task, c.version, 3*pieceLen)
		_, err := c.WriteAt(data[:2*pieceLen+1], 0)
		must(t, err)
		must(t, c.Prefix(0, dragonfly.BlockLen))
		must(t, c.Prefix(1, pieceLen+dragonfly.BlockLen))
		must(t, c.Prefix(1, pieceLen+1)) // less than is known
		must(t, c.Commit(0, digest(data[:pieceLen])))
		wantKind(t, c.Prefix(1, pieceLen), dragonfly.Invalid)
		wantKind(t, c.Prefix(1, 2*pieceLen+1), dragonfly.Invalid)
		wantKind(t, c.Prefix(3, 3*pieceLen+1), dragonfly.Invalid)
		c.Release()
		crashed := s.boot
		s = next(s)
		want := map[dragonfly.PieceNum]int64{1: pieceLen + dragonfly.BlockLen}
		c = mustLookup(t, s, 1)
		defer c.Release()
		if s.boot != crashed && !t.Failed() && len(c.Prefixes()) == 0 {
			want = map[dragonfly.PieceNum]int64{} // nothing vouches for them after a crash of the machine
		}
		if diff := cmp.Diff(want, c.Prefixes()); diff != "" {
			t.Error(diff)
		}
	},
	"a dropped piece is lost": func(t *testing.T, s *Store, next func(*Store) *Store) {
		const length = 2 * pieceLen
		c := mustCreate(t, s, metaOf(1, 1, length))
		data := bytesOf(c.task, c.version, length)
		fill(t, c, data, 0, 1)
		must(t, c.Drop(0))
		must(t, c.Drop(0))
		must(t, c.Drop(7))
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		if c.Has(0) || !c.Has(1) || c.Complete() {
			t.Fatal("the wrong pieces are held")
		}
		fill(t, c, data, 0)
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		if !c.Complete() || checkHeld(t, c, length) != 2 {
			t.Error("it was not replaced")
		}
	},
	"held bytes are not written": func(t *testing.T, s *Store, next func(*Store) *Store) {
		const length = 2 * pieceLen
		c := mustCreate(t, s, metaOf(1, 1, length))
		fill(t, c, bytesOf(c.task, c.version, length), 0)
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		n, err := c.WriteAt(make([]byte, length), 0)
		if n != length || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		checkHeld(t, c, length)
		got := make([]byte, pieceLen)
		if _, err := c.File().ReadAt(got, pieceLen); err != nil || !bytes.Equal(got, make([]byte, pieceLen)) {
			t.Errorf("the piece that is not held was not written, %v", err)
		}
	},
	"verify finds what went bad": func(t *testing.T, s *Store, next func(*Store) *Store) {
		const length = 2 * pieceLen
		c := mustCreate(t, s, metaOf(1, 1, length+1))
		data := bytesOf(c.task, c.version, length)
		fill(t, c, data, 0, 1)
		c.Release()
		s = next(s)
		spoil(t, s, 1, 10)
		c = mustLookup(t, s, 1)
		for n, want := range []bool{false, true, false} {
			if ok, err := c.Verify(dragonfly.PieceNum(n)); ok != want || err != nil {
				t.Errorf("piece %d: %v, %v", n, ok, err)
			}
		}
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		if c.Has(0) || !c.Has(1) {
			t.Error("the bad piece is held, or the good one is not")
		}
	},
	"pieces cannot be committed without their bytes": func(t *testing.T, s *Store, next func(*Store) *Store) {
		c := mustCreate(t, s, metaOf(1, 1, 3*pieceLen))
		_, err := c.WriteAt(make([]byte, pieceLen-1), pieceLen)
		must(t, err)
		wantKind(t, c.Commit(1, digest(make([]byte, pieceLen))), dragonfly.Invalid)
		wantKind(t, c.Commit(3, dragonfly.PieceDigest{1}), dragonfly.Invalid)
		wantKind(t, c.Commit(-1, dragonfly.PieceDigest{1}), dragonfly.Invalid)
		_, err = c.WriteAt(make([]byte, 1), 2*pieceLen-1)
		must(t, err)
		must(t, c.Commit(1, digest(make([]byte, pieceLen))))
		must(t, c.Commit(1, digest(make([]byte, pieceLen))))
		wantKind(t, c.Commit(1, dragonfly.PieceDigest{1}), dragonfly.Invalid)
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		if c.Held().Count() != 1 {
			t.Error("more is held than was written")
		}
	},
	"nothing is written outside": func(t *testing.T, s *Store, next func(*Store) *Store) {
		mustCreate(t, s, metaOf(1, 1, 10)).Release()
		mustCreate(t, s, metaOf(2, 1, dragonfly.UnknownLength)).Release()
		s = next(s)
		for _, v := range []struct {
			task int
			off  int64
		}{{1, 10}, {1, -1}, {1, 1<<63 - 1}, {2, -1}, {2, 1<<63 - 1}, {2, maxPieces * pieceLen}} {
			c := mustLookup(t, s, v.task)
			_, err := c.WriteAt([]byte("x"), v.off)
			wantKind(t, err, dragonfly.Invalid)
			c.Release()
		}
	},
	"a content is found by its digest": func(t *testing.T, s *Store, next func(*Store) *Store) {
		const length = 2 * pieceLen
		var want dragonfly.Digest
		for task := range 3 {
			c := mustCreate(t, s, metaOf(task, 1, length))
			data := bytesOf(c.task, c.version, length)
			sum := sha256.Sum256(data)
			d, err := dragonfly.NewDigest("sha256", sum[:])
			must(t, err)
			wantKind(t, c.SetDigest(d), dragonfly.Invalid)
			fill(t, c, data, 0, 1)
			if task == 1 {
				want = d
			}
			if _, ok := s.ByDigest(d); ok {
				t.Error("found by a digest that nobody set")
			}
			must(t, c.SetDigest(d))
			c.Release()
		}
		s = next(s)
		c, ok := s.ByDigest(want)
		if !ok || c.Meta().Task != taskID(1) || c.Meta().Digest != want || !c.Complete() {
			t.Fatal("not found")
		}
		must(t, c.Drop(0))
		c.Release()
		if _, ok := s.ByDigest(want); ok {
			t.Error("an incomplete content is found")
		}
		s = next(s)
		if _, ok := s.ByDigest(want); ok {
			t.Error("an incomplete content is found")
		}
		must(t, s.Remove(taskID(1)))
		if len(s.digests) != 2 {
			t.Errorf("%d digests are known", len(s.digests))
		}
	},
	"the same version is given back": func(t *testing.T, s *Store, next func(*Store) *Store) {
		const length = 2 * pieceLen
		c := mustCreate(t, s, metaOf(1, 1, length))
		fill(t, c, bytesOf(c.task, c.version, length), 0)
		c.Release()
		s = next(s)
		c = mustCreate(t, s, metaOf(1, 1, length))
		if checkHeld(t, c, length) != 1 {
			t.Error("its piece is lost")
		}
		c.Release()
		s = next(s)
		c = mustCreate(t, s, metaOf(1, 2, length))
		if c.Held().Count() != 0 {
			t.Error("another version has its pieces")
		}
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		if c.Meta().Version != version(2) {
			t.Error("the old version is back")
		}
	},
	"descriptors are read-only and on their own": func(t *testing.T, s *Store, next func(*Store) *Store) {
		mustFill(t, s, 1, 1, pieceLen)
		s = next(s)
		c := mustLookup(t, s, 1)
		one, err := c.OpenFile()
		must(t, err)
		two, err := c.OpenFile()
		must(t, err)
		c.Release()
		for _, f := range []*os.File{one, two} {
			if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, bytesOf(taskID(1), version(1), pieceLen)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if _, err := f.WriteAt([]byte("x"), 0); err == nil {
				t.Error("it can be written")
			}
			f.Close()
		}
	},
	"many write at once": func(t *testing.T, s *Store, next func(*Store) *Store) {
		const count = 40
		const length = count * pieceLen
		c := mustCreate(t, s, metaOf(1, 1, length))
		data := bytesOf(c.task, c.version, length)
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for n := w; n < count; n += 4 {
					from, to := c.Meta().Layout.Extent(dragonfly.PieceNum(n))
					for at := from; at < to; at += 30_000 {
						if _, err := c.WriteAt(data[at:min(to, at+30_000)], at); err != nil {
							t.Error(err)
						}
					}
					if err := c.Commit(dragonfly.PieceNum(n), digest(data[from:to])); err != nil {
						t.Error(err)
					}
					_ = c.Held().Count()
				}
			})
		}
		wg.Wait()
		c.Release()
		s = next(s)
		c = mustLookup(t, s, 1)
		defer c.Release()
		if checkHeld(t, c, length) != count || !c.Complete() {
			t.Error("pieces are missing")
		}
	},
}

// spoil changes one byte of a content's file behind the store's back.
func spoil(t testing.TB, s *Store, task int, off int64) {
	t.Helper()
	f, err := os.OpenFile(pathOf(s, task, contentSuffix), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	must(t, err)
	b[0] ^= 0xff
	_, err = f.WriteAt(b[:], off)
	must(t, err)
}
