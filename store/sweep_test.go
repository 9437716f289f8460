// SPDX-License-Identifier: Apache-2.0

package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"dragonfly"
)

func swept(s *Store, p Policy, tasks ...int) bool {
	removed := s.Sweep(p)
	if len(removed) != len(tasks) {
		return false
	}
	for i, task := range tasks {
		if removed[i] != taskID(task) {
			return false
		}
		for _, suffix := range []string{contentSuffix, metaSuffix, piecesSuffix} {
			if exists(pathOf(s, task, suffix)) {
				return false
			}
		}
	}
	return true
}

// TestFAQNotAccessedInThreeMinutes: «files which are not accessed in three
// minutes» go; each access counts, and what is in use stays.
func TestFAQNotAccessedInThreeMinutes(t *testing.T) {
	clock := newClock()
	o := options(t.TempDir())
	o.Now = clock.now
	s := mustOpen(t, o)
	policy := Policy{Idle: 3 * time.Minute}
	for task := range 3 {
		mustFill(t, s, task, 1, 10)
	}
	used := mustLookup(t, s, 0)
	clock.advance(3*time.Minute - time.Second)
	if !swept(s, policy) {
		t.Fatal("something went too early")
	}
	mustLookup(t, s, 1).Release()
	clock.advance(time.Second)
	if !swept(s, policy, 2) {
		t.Fatal("not exactly the unused content went")
	}
	clock.advance(3 * time.Minute)
	if !swept(s, policy, 1) {
		t.Fatal("not exactly the unused content went")
	}
	used.Release() // the end of its use counts
	clock.advance(3*time.Minute - time.Second)
	if !swept(s, policy) {
		t.Fatal("something went too early")
	}
	clock.advance(time.Second)
	if !swept(s, policy, 0) || s.Used() != 0 {
		t.Fatal("the last content did not go")
	}
}

// TestFAQAccessIsRemembered: the three minutes go on over a restart.
func TestFAQAccessIsRemembered(t *testing.T) {
	clock := newClock()
	o := options(t.TempDir())
	o.Now = clock.now
	s := mustOpen(t, o)
	mustFill(t, s, 1, 1, 10)
	clock.advance(2 * time.Minute)
	mustFill(t, s, 2, 1, 10)
	kill(s)
	clock.advance(time.Minute)
	s = mustOpen(t, o)
	if !swept(s, Policy{Idle: 3 * time.Minute}, 1) {
		t.Fatal("not exactly the content that was unused for three minutes went")
	}
}

// TestFAQResidualFilesOlderThanAnHour: «the residual files that live longer
// than one hour» go: what dead processes, version 1 and others left.
func TestFAQResidualFilesOlderThanAnHour(t *testing.T) {
	clock := newClock()
	o := options(t.TempDir())
	o.Now = clock.now
	s := mustOpen(t, o)
	mustFill(t, s, 1, 1, 10)
	orphan := baseOf(taskID(7))
	residues := []string{
		"file-of-version-1.service",
		"format.tmp",
		orphan + contentSuffix,
		orphan + piecesSuffix,
		orphan + metaSuffix + ".tmp",
		baseOf(taskID(1)) + ".unknown",
		baseOf(taskID(1))[:4] + taskID(7).String() + contentSuffix,
	}
	must(t, os.MkdirAll(filepath.Join(o.Dir, orphan[:dirLen]), 0o700))
	must(t, os.Mkdir(filepath.Join(o.Dir, "somebody's"), 0o700))
	kept := filepath.Join(o.Dir, "somebody's", "file")
	start := clock.now()
	for _, name := range append(residues, "somebody's/file") {
		must(t, os.WriteFile(filepath.Join(o.Dir, name), []byte("x"), 0o600))
		must(t, os.Chtimes(filepath.Join(o.Dir, name), start, start))
	}
	for _, advance := range []time.Duration{time.Hour, time.Second} {
		for _, name := range residues {
			if !exists(filepath.Join(o.Dir, name)) {
				t.Errorf("%s went too early", name)
			}
		}
		clock.advance(advance)
		if !swept(s, Policy{Residue: time.Hour}) {
			t.Fatal("a content went")
		}
	}
	for _, name := range residues {
		if exists(filepath.Join(o.Dir, name)) {
			t.Errorf("%s is still there", name)
		}
	}
	if exists(filepath.Join(o.Dir, orphan[:dirLen])) {
		t.Error("the directory that became empty is still there")
	}
	if !exists(kept) {
		t.Error("a file in a directory that is not ours went")
	}
	c := mustLookup(t, s, 1)
	defer c.Release()
	if ok, err := c.Verify(0); !ok || err != nil {
		t.Errorf("the content does not work any more: %v, %v", ok, err)
	}
	must(t, s.Close())
	mustOpen(t, o)
}

// TestQuota: space is reserved when a content is made, idle contents make
// room, and those in use do not.
func TestQuota(t *testing.T) {
	clock := newClock()
	o := options(t.TempDir())
	o.Now, o.Quota = clock.now, 10*pieceLen
	s := mustOpen(t, o)
	mustFill(t, s, 1, 1, 3*pieceLen)
	clock.advance(time.Second)
	mustFill(t, s, 2, 1, 3*pieceLen)
	clock.advance(time.Second)
	mustLookup(t, s, 1).Release() // 2 is the least recently used one now
	four := mustCreate(t, s, metaOf(4, 1, 6*pieceLen))
	if _, ok := s.Lookup(taskID(2)); ok {
		t.Error("the least recently used content is still there")
	}
	mustLookup(t, s, 1).Release()
	if got := s.Used(); got != 9*pieceLen {
		t.Errorf("%d bytes are charged", got)
	}
	_, err := s.Create(metaOf(5, 1, 4*pieceLen+1))
	wantKind(t, err, dragonfly.NoSpace)
	mustCreate(t, s, metaOf(5, 1, pieceLen)).Release()
	four.Release() // nothing was written: nothing is charged
	if got := s.Used(); got > 4*pieceLen {
		t.Errorf("%d bytes are charged", got)
	}
	_, err = s.Create(metaOf(6, 1, 10*pieceLen+1))
	wantKind(t, err, dragonfly.NoSpace)
	mustCreate(t, s, metaOf(6, 1, 10*pieceLen)).Release()
}

// TestQuotaOfUnknownLength: space is reserved as the content grows; what is
// verified stays when there is no more.
func TestQuotaOfUnknownLength(t *testing.T) {
	o := options(t.TempDir())
	o.Quota = 4 * pieceLen
	s := mustOpen(t, o)
	mustFill(t, s, 1, 1, pieceLen)
	c := mustCreate(t, s, metaOf(2, 1, dragonfly.UnknownLength))
	defer c.Release()
	data := bytesOf(c.task, c.version, 5*pieceLen)
	fill(t, c, data, 0, 1, 2)
	mustLookup(t, s, 1).Release()
	fill(t, c, data, 3)
	if _, ok := s.Lookup(taskID(1)); ok {
		t.Error("the idle content is still there")
	}
	_, err := c.WriteAt(data[4*pieceLen:], 4*pieceLen)
	wantKind(t, err, dragonfly.NoSpace)
	wantKind(t, c.SetLength(5*pieceLen), dragonfly.NoSpace)
	if checkHeld(t, c, 5*pieceLen) != 4 {
		t.Error("a verified piece is lost")
	}
	must(t, c.SetLength(4*pieceLen))
	if !c.Complete() || s.Used() != 4*pieceLen {
		t.Errorf("complete %v, %d bytes are charged", c.Complete(), s.Used())
	}
}

// TestQuotaAfterRestart: a content that was begun is charged with what is on
// the disk, and with all of itself when it is written again.
func TestQuotaAfterRestart(t *testing.T) {
	const length = 8 * pieceLen
	o := options(t.TempDir())
	o.Quota = 10 * pieceLen
	s := mustOpen(t, o)
	c := mustCreate(t, s, metaOf(1, 1, length))
	data := bytesOf(c.task, c.version, length)
	fill(t, c, data, 7)
	kill(s)
	s = mustOpen(t, o)
	if got := s.Used(); got < pieceLen || got > 2*pieceLen {
		t.Errorf("%d bytes are charged for one piece of %d", got, pieceLen)
	}
	other := mustCreate(t, s, metaOf(2, 1, 4*pieceLen))
	c = mustLookup(t, s, 1)
	defer c.Release()
	_, err := c.WriteAt(data[:10], 0)
	wantKind(t, err, dragonfly.NoSpace)
	other.Release()
	fill(t, c, data, 0)
	if got := s.Used(); got != length {
		t.Errorf("%d bytes are charged", got)
	}
}

// TestQuotaLowered: a sweep brings the store under a quota that was lowered.
func TestQuotaLowered(t *testing.T) {
	clock := newClock()
	o := options(t.TempDir())
	o.Now = clock.now
	s := mustOpen(t, o)
	for task := range 4 {
		mustFill(t, s, task, 1, pieceLen)
		clock.advance(time.Second)
	}
	must(t, s.Close())
	o.Quota = 2*pieceLen + pieceLen/2
	s = mustOpen(t, o)
	if !swept(s, Policy{}, 0, 1) {
		t.Error("not the two oldest contents went")
	}
}

// TestDiskMarks: above the young mark nothing goes; below it what was not used
// for a while; below the full mark whatever is idle; the oldest first, and no
// more than needed.
func TestDiskMarks(t *testing.T) {
	const size = 4 * pieceLen
	policy := Policy{Young: 100 * size, Full: 5 * size, Regular: 2 * time.Hour}
	for name, v := range map[string]struct {
		free int64
		want []int
	}{
		"above young":          {100 * size, nil},
		"one below young":      {99*size + size/2, []int{3}},
		"far below young":      {50 * size, []int{3, 2}}, // the others are in regular use
		"just above full":      {5 * size, []int{3, 2}},
		"one below full":       {4*size + size/2, []int{3, 2}},
		"three below full":     {2*size + size/2, []int{3, 2, 1}},
		"nothing left":         {0, []int{3, 2, 1, 4}},
		"nothing left at all":  {-100 * size, []int{3, 2, 1, 4}},
		"two below full, more": {3*size + size/2, []int{3, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			o := options(t.TempDir())
			o.Now, o.Free = clock.now, func() (int64, error) { return v.free, nil }
			s := mustOpen(t, o)
			for _, task := range []int{3, 2, 1, 4, 5} {
				switch task {
				case 1:
					clock.advance(2 * time.Hour) // 3 and 2 are older
				case 5:
					defer mustCreate(t, s, metaOf(5, 1, size)).Release() // in use
					continue
				}
				clock.advance(time.Second)
				mustFill(t, s, task, 1, size)
			}
			if !swept(s, policy, v.want...) {
				t.Errorf("not %v went, %d contents are left", v.want, len(s.Contents()))
			}
		})
	}
}

// TestFreeUnknown: without knowing the free space nothing is removed for it.
func TestFreeUnknown(t *testing.T) {
	o := options(t.TempDir())
	o.Free = func() (int64, error) { return 0, fs.ErrPermission }
	s := mustOpen(t, o)
	mustFill(t, s, 1, 1, 10)
	if !swept(s, Policy{Young: 1, Full: 1}) {
		t.Error("a content went")
	}
}

func TestFreeOfFileSystem(t *testing.T) {
	s := mustOpen(t, options(t.TempDir()))
	if free, err := s.free(); err != nil || free <= 0 {
		t.Errorf("%d, %v", free, err)
	}
}

// TestLRUOrder: idle contents come least recently used first.
func TestLRUOrder(t *testing.T) {
	clock := newClock()
	o := options(t.TempDir())
	o.Now = clock.now
	s := mustOpen(t, o)
	for _, task := range []int{2, 0, 1} {
		clock.advance(time.Second)
		mustFill(t, s, task, 1, 10)
	}
	clock.advance(time.Second)
	c := mustLookup(t, s, 0)
	f, err := c.OpenFile()
	must(t, err)
	f.Close()
	c.Release()
	var got []dragonfly.TaskID
	s.mu.Lock()
	for _, c := range s.idle() {
		got = append(got, c.task)
	}
	s.mu.Unlock()
	if !slices.Equal(got, []dragonfly.TaskID{taskID(2), taskID(1), taskID(0)}) {
		t.Errorf("%v", got)
	}
}

// TestClockJumps: a clock that jumps back keeps what is there and lets it go in
// its time; one that jumps ahead costs nothing that is in use.
func TestClockJumps(t *testing.T) {
	clock := newClock()
	o := options(t.TempDir())
	o.Now = clock.now
	s := mustOpen(t, o)
	policy := Policy{Idle: 3 * time.Minute, Residue: time.Hour}
	for task := range 2 {
		mustFill(t, s, task, 1, 10)
	}
	used := mustLookup(t, s, 0)
	clock.advance(-24 * time.Hour)
	if !swept(s, policy) {
		t.Fatal("something went when the clock jumped back")
	}
	mustLookup(t, s, 1).Release()
	clock.advance(3 * time.Minute)
	if !swept(s, policy, 1) {
		t.Fatal("after the jump the unused content does not go in its time")
	}
	clock.advance(48 * time.Hour)
	if !swept(s, policy) {
		t.Fatal("a content that is in use went when the clock jumped ahead")
	}
	used.Release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, o)
	if c := mustLookup(t, again, 0); !c.Has(0) {
		t.Error("the piece is gone")
	}
}
