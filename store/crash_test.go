// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"dragonfly"
)

// child is what this test binary does as another process.
func child(what, dir string) error {
	o := options(dir)
	o.HostName = "there"
	s, err := Open(o)
	if err != nil {
		return err
	}
	switch what {
	case "hold":
		fmt.Println("ready")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	case "write":
		// Contents of five pieces, each in a few writes, without end.
		for task := 0; ; task++ {
			const length = 5*pieceLen - 1
			m := metaOf(task, 1, length)
			c, err := s.Create(m)
			if err != nil {
				return err
			}
			data := bytesOf(m.Task, m.Version, length)
			held := c.Held()
			for i := range m.Layout.Pieces() {
				n := dragonfly.PieceNum((i*3 + task) % 5)
				if held.Has(n) {
					continue
				}
				from, to := m.Layout.Extent(n)
				for at := from; at < to; at += 40_000 {
					if _, err := c.WriteAt(data[at:min(to, at+40_000)], at); err != nil {
						return err
					}
					if err := c.Prefix(n, min(to, at+40_000)); err != nil {
						return err
					}
				}
				if err := c.Commit(n, digest(data[from:to])); err != nil {
					return err
				}
				fmt.Println(task, n)
			}
			c.Release()
		}
	}
	return fmt.Errorf("no such child: %s", what)
}

// TestKill: a process is killed while it writes. Whatever it said it had
// committed is there for the next one, with the right bytes.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	committed := map[string]bool{}
	for round, lines := range []int{1, 7, 30, 3, 100} {
		cmd, out, in := startChild(t, "write", dir)
		for range lines {
			if !out.Scan() {
				t.Fatal("the writer ended")
			}
			committed[out.Text()] = true
		}
		must(t, cmd.Process.Kill())
		for out.Scan() {
			committed[out.Text()] = true
		}
		in.Close()
		_ = cmd.Wait()

		s := mustOpen(t, options(dir))
		held := map[string]bool{}
		for task := range len(s.Contents()) {
			c, ok := s.Lookup(taskID(task))
			if !ok {
				continue // killed in the middle of Create
			}
			checkHeld(t, c, 5*pieceLen-1)
			for n := range c.Held().All() {
				if c.Doubtful(n) && !c.Complete() {
					t.Errorf("round %d: piece %d of task %d is doubtful", round, n, task)
				}
				held[fmt.Sprint(task, " ", n)] = true
			}
			c.Release()
		}
		for line := range committed {
			if !held[line] {
				t.Errorf("round %d: %q was committed and is not held", round, line)
			}
		}
		t.Logf("round %d: %d pieces were committed, %d are held", round, len(committed), len(held))
		must(t, s.Close())
	}
}

var errKilled = errors.New("killed")

// story does a bit of everything, and knows at each moment what must be true
// if it is killed now.
type story struct {
	t       testing.TB
	pin     bool            // keep what is made in use: on a full disk the rest may go
	held    map[string]bool // task, version, piece that were committed
	digests map[dragonfly.Digest]int
}

const storyLength = 3*pieceLen - 7

func (st *story) tell(s *Store) error {
	st.held, st.digests = map[string]bool{}, map[dragonfly.Digest]int{}
	write := func(c *Content, task, v int, n dragonfly.PieceNum) error {
		data := bytesOf(taskID(task), version(v), storyLength)
		from, to := (dragonfly.Layout{Length: storyLength, PieceLen: pieceLen}).Extent(n)
		for at := from; at < to; at += 60_000 {
			if _, err := c.WriteAt(data[at:min(to, at+60_000)], at); err != nil {
				return err
			}
			if err := c.Prefix(n, min(to, at+60_000)); err != nil {
				return err
			}
		}
		err := c.Commit(n, digest(data[from:to]))
		if err == nil {
			st.held[fmt.Sprint(task, v, n)] = true
		}
		return err
	}
	var pinned []*Content
	defer func() {
		for _, c := range pinned {
			c.Release()
		}
	}()
	steps := func(c *Content, err error, task, v int, numbers ...dragonfly.PieceNum) error {
		if err != nil {
			return err
		}
		if st.pin && task != 3 {
			pinned = append(pinned, c)
		} else {
			defer c.Release()
		}
		for _, n := range numbers {
			if err := write(c, task, v, n); err != nil {
				return err
			}
		}
		return nil
	}

	c, err := s.Create(metaOf(1, 1, storyLength))
	if err := steps(c, err, 1, 1, 2, 0); err != nil {
		return err
	}
	c, err = s.Create(metaOf(2, 1, dragonfly.UnknownLength))
	if err := steps(c, err, 2, 1, 0, 1); err != nil {
		return err
	}
	c, ok := s.Lookup(taskID(2))
	if !ok {
		return errKilled
	}
	defer c.Release()
	if err := c.SetLength(storyLength); err != nil {
		return err
	}
	if err := write(c, 2, 1, 2); err != nil {
		return err
	}
	sum := sha256.Sum256(bytesOf(c.task, c.version, storyLength))
	d, err := dragonfly.NewDigest("sha256", sum[:])
	must(st.t, err)
	if err := c.SetDigest(d); err != nil {
		return err
	}
	st.digests[d] = 2
	delete(st.held, "2 1 1")
	delete(st.digests, d)
	if err := c.Drop(1); err != nil {
		return err
	}
	if err := write(c, 2, 1, 1); err != nil {
		return err
	}
	st.digests[d] = 2
	// Another version of the first.
	for n := range 3 {
		delete(st.held, fmt.Sprint(1, 1, n))
	}
	c, err = s.Create(metaOf(1, 2, storyLength))
	if err := steps(c, err, 1, 2, 0, 1, 2); err != nil {
		return err
	}
	c, err = s.Create(metaOf(3, 1, storyLength))
	if err := steps(c, err, 3, 1, 0, 1, 2); err != nil {
		return err
	}
	for n := range 3 {
		delete(st.held, fmt.Sprint(3, 1, n))
	}
	if err := s.Remove(taskID(3)); err != nil {
		return err
	}
	return s.Close()
}

// check says whether the store that was opened afterwards keeps the promises.
func (st *story) check(s *Store) {
	t := st.t
	t.Helper()
	held := map[string]bool{}
	for _, task := range []int{1, 2, 3} {
		c, ok := s.Lookup(taskID(task))
		if !ok {
			continue
		}
		v := 1
		if c.Meta().Version == version(2) {
			v = 2
		}
		checkHeld(t, c, storyLength)
		for n := range c.Held().All() {
			held[fmt.Sprint(task, v, n)] = true
		}
		for n, to := range c.Prefixes() {
			from := int64(n) * pieceLen
			got := make([]byte, to-from)
			if _, err := c.File().ReadAt(got, from); err != nil || string(got) != string(bytesOf(c.task, c.version, storyLength)[from:to]) {
				t.Errorf("a prefix of piece %d of task %d has other bytes, %v", n, task, err)
			}
		}
		c.Release()
	}
	for piece := range st.held {
		if !held[piece] {
			t.Errorf("piece %q (task, version, piece) was committed and is lost", piece)
		}
	}
	for d, task := range st.digests {
		if c, ok := s.ByDigest(d); !ok || c.task != taskID(task) {
			t.Errorf("task %d is not found by its digest", task)
		} else {
			c.Release()
		}
	}
}

// TestKilledAtEachOperation: the process dies in the middle of each operation
// on the disk in turn, after none, half, nearly all or all of what it writes.
func TestKilledAtEachOperation(t *testing.T) {
	operations := 0
	run := func(t *testing.T, at int, share func(n int) int) (op, *story, Options) {
		o := options(t.TempDir())
		var which op
		count := 0
		o.fault = func(kind op, _ string, n int) (int, error) {
			count++
			switch {
			case count == at:
				which = kind
				return share(n), errKilled
			case at > 0 && count > at:
				return 0, errKilled
			}
			return n, nil
		}
		s, err := Open(o)
		st := &story{t: t}
		if err == nil {
			err = st.tell(s)
			kill(s)
		}
		if at == 0 {
			must(t, err)
			operations = count
		}
		o.fault = nil
		return which, st, o
	}
	_, st, o := run(t, 0, nil)
	st.check(mustOpen(t, o))
	t.Logf("%d operations", operations)
	for at := 1; at <= operations; at++ {
		for name, share := range map[string]func(int) int{
			"none": func(int) int { return 0 }, "half": func(n int) int { return n / 2 },
			"nearly all": func(n int) int { return max(0, n-1) }, "all": func(n int) int { return n },
		} {
			which, st, o := run(t, at, share)
			if which != opWrite && name != "none" {
				continue
			}
			t.Run(fmt.Sprintf("%s %d, %s", which, at, name), func(t *testing.T) {
				st.t = t
				s := mustOpen(t, o)
				st.check(s)
				// Nothing stands in the way of doing it all again.
				must(t, st.tell(s))
				s = mustOpen(t, o)
				st.check(s)
				must(t, s.Scrub(t.Context()))
				if len(st.held) != 6 {
					t.Errorf("%d pieces at the end", len(st.held))
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, c := range s.contents {
					if c.pieces.Load().doubtful.Count() > 0 {
						t.Error("doubt is left")
					}
				}
			})
		}
	}
}

// TestFailedOperation: each operation on the disk fails once, as on a full or
// faulty disk. The error has a kind, a path and a remedy; nothing that was
// committed is lost, and the same can be done again at once.
func TestFailedOperation(t *testing.T) {
	for name, v := range map[string]struct {
		err  error
		kind dragonfly.Kind
	}{
		"full":  {syscall.ENOSPC, dragonfly.NoSpace},
		"fault": {syscall.EIO, dragonfly.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			for at := 1; ; at++ {
				o := options(t.TempDir())
				count := 0
				var which op
				o.fault = func(kind op, _ string, n int) (int, error) {
					if count++; count == at {
						which = kind
						return n / 2, v.err
					}
					return n, nil
				}
				s, err := Open(o)
				if err != nil {
					wantKind(t, err, v.kind)
					continue
				}
				st := &story{t: t, pin: true}
				err = st.tell(s)
				if which == "" {
					must(t, err)
					t.Logf("%d operations", at-1)
					return
				}
				if err != nil && err != errKilled {
					wantKind(t, err, v.kind)
					if !strings.Contains(err.Error(), o.Dir) || !errors.Is(err, v.err) {
						t.Fatalf("%s %d: the message %q does not name the path, or hides its cause", which, at, err)
					}
				}
				if s.lock != nil {
					st.check(s)
					must(t, st.tell(s))
				}
				o.fault = nil
				s = mustOpen(t, o)
				st.check(s)
				must(t, s.Close())
			}
		})
	}
}

// TestMachineCrash: the machine dies. What was not settled may have lost any
// part of its bytes and records; nothing of it is used without being verified.
func TestMachineCrash(t *testing.T) {
	const count = 12
	const length = count * pieceLen
	random := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		o := options(t.TempDir())
		s := mustOpen(t, o)
		c := mustCreate(t, s, metaOf(1, 1, length))
		data := bytesOf(c.task, c.version, length)
		settled := random.IntN(count)
		for n := range settled {
			fill(t, c, data, dragonfly.PieceNum(n))
		}
		c.Release()
		must(t, s.Close())
		s = mustOpen(t, o)
		c = mustLookup(t, s, 1)
		for n := settled; n < count; n++ {
			fill(t, c, data, dragonfly.PieceNum(n))
		}
		c.Release()
		kill(s)

		// Some blocks of the unsettled pieces never reached the disk, and the
		// records end somewhere behind the settled ones, maybe torn.
		lost := map[dragonfly.PieceNum]bool{}
		f, err := os.OpenFile(pathOf(s, 1, contentSuffix), os.O_RDWR, 0)
		must(t, err)
		for n := settled; n < count; n++ {
			if random.IntN(2) == 0 {
				lost[dragonfly.PieceNum(n)] = true
				_, err := f.WriteAt(make([]byte, 4096), int64(n)*pieceLen+random.Int64N(pieceLen-4096))
				must(t, err)
			}
		}
		f.Close()
		records := pathOf(s, 1, piecesSuffix)
		info, err := os.Stat(records)
		must(t, err)
		safe := int64(2+settled) * recordLen // header, pieces, mark
		if settled == 0 {
			safe = 0
		}
		must(t, os.Truncate(records, safe+random.Int64N(info.Size()-safe+1)))

		o.BootID = "boot two"
		s = mustOpen(t, o)
		c = mustLookup(t, s, 1)
		for n := range c.Held().All() {
			if c.Complete() {
				break // its seal is not known: all are doubtful
			}
			if want := int(n) >= settled; c.Doubtful(n) != want {
				t.Fatalf("piece %d of %d settled ones: doubtful is %v", n, settled, !want)
			}
		}
		for n := range settled {
			if !c.Has(dragonfly.PieceNum(n)) {
				t.Fatalf("piece %d was settled and is lost", n)
			}
		}
		if random.IntN(2) == 0 {
			must(t, s.Scrub(t.Context()))
		} else {
			for n := range c.Held().All() {
				ok, err := c.Verify(n)
				if must(t, err); ok == lost[n] {
					t.Fatalf("piece %d: verified %v, lost %v", n, ok, lost[n])
				}
			}
		}
		checkHeld(t, c, length)
		for n := range c.Held().All() {
			if c.Doubtful(n) {
				t.Fatalf("piece %d is still doubtful", n)
			}
		}
		held := c.Held()
		c.Release()
		// What was verified under this boot is trusted by the next process.
		kill(s)
		s = mustOpen(t, o)
		c = mustLookup(t, s, 1)
		for n := range c.Held().All() {
			if c.Doubtful(n) {
				t.Fatalf("piece %d is doubtful again", n)
			}
		}
		if !c.Held().Equal(held) {
			t.Fatal("other pieces are held")
		}
		c.Release()
		must(t, s.Close())
	}
}

// TestDoubtsOfAnEarlierBoot: a clean close vouches for what this boot wrote
// only, not for what an earlier one left and nobody verified since.
func TestDoubtsOfAnEarlierBoot(t *testing.T) {
	const length = 4 * pieceLen
	o := options(t.TempDir())
	s := mustOpen(t, o)
	c := mustCreate(t, s, metaOf(1, 1, length))
	data := bytesOf(c.task, c.version, length)
	fill(t, c, data, 0)
	c.Release()
	kill(s)
	o.BootID = "boot two"
	s = mustOpen(t, o)
	c = mustLookup(t, s, 1)
	fill(t, c, data, 1)
	c.Release()
	must(t, s.Close())
	o.BootID = "boot three"
	c = mustLookup(t, mustOpen(t, o), 1)
	defer c.Release()
	if !c.Doubtful(0) || c.Doubtful(1) {
		t.Errorf("doubtful: piece 0 %v, piece 1 %v", c.Doubtful(0), c.Doubtful(1))
	}
}

// TestUnknownBoot: without a boot id nothing that was not closed is trusted.
func TestUnknownBoot(t *testing.T) {
	o := options(t.TempDir())
	o.BootID = ""
	s := mustOpen(t, o)
	mustFill(t, s, 1, 1, 10)
	kill(s)
	c := mustLookup(t, mustOpen(t, o), 1)
	defer c.Release()
	if !c.Doubtful(0) {
		t.Error("the piece is trusted")
	}
}

// TestTornRecordsAreCut: a new record does not revive what stands behind a
// torn one.
func TestTornRecordsAreCut(t *testing.T) {
	const length = 6 * pieceLen
	o := options(t.TempDir())
	s := mustOpen(t, o)
	c := mustCreate(t, s, metaOf(1, 1, length))
	data := bytesOf(c.task, c.version, length)
	fill(t, c, data, 0, 1, 2, 3)
	c.Release()
	kill(s)
	f, err := os.OpenFile(pathOf(s, 1, piecesSuffix), os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{0xff}, 2*recordLen+20) // of piece 1
	must(t, err)
	f.Close()
	s = mustOpen(t, o)
	c = mustLookup(t, s, 1)
	if c.Held().Count() != 1 || !c.Has(0) {
		t.Fatalf("%d pieces are held", c.Held().Count())
	}
	fill(t, c, data, 4)
	c.Release()
	kill(s)
	c = mustLookup(t, mustOpen(t, o), 1)
	defer c.Release()
	if c.Held().Count() != 2 || !c.Has(0) || !c.Has(4) {
		t.Errorf("%d pieces are held", c.Held().Count())
	}
}

// TestShortContentFile: pieces that the file is too short for are not held.
func TestShortContentFile(t *testing.T) {
	o := options(t.TempDir())
	s := mustOpen(t, o)
	mustFill(t, s, 1, 1, 4*pieceLen)
	kill(s)
	must(t, os.Truncate(pathOf(s, 1, contentSuffix), 3*pieceLen-1))
	s = mustOpen(t, o)
	if c, ok := s.Lookup(taskID(1)); ok {
		defer c.Release()
		if checkHeld(t, c, 4*pieceLen) != 2 {
			t.Errorf("%d pieces are held", c.Held().Count())
		}
	}
}

// TestFullDisk uses a file system of one megabyte.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("needs leave to mount a tmpfs:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	const length = 20 * pieceLen
	s := mustOpen(t, options(dir))
	mustFill(t, s, 1, 1, 2*pieceLen)
	c := mustCreate(t, s, metaOf(2, 1, length))
	data := bytesOf(c.task, c.version, length)
	var err error
	n := dragonfly.PieceNum(0)
	for ; err == nil && n < 20; n++ {
		from, to := c.Meta().Layout.Extent(n)
		if _, err = c.WriteAt(data[from:to], from); err == nil {
			err = c.Commit(n, digest(data[from:to]))
		}
	}
	wantKind(t, err, dragonfly.NoSpace)
	if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "free space") {
		t.Errorf("the message %q does not say where and what to do", err)
	}
	if _, ok := s.Lookup(taskID(1)); ok {
		t.Error("an idle content was kept while the disk was full")
	}
	held := c.Held().Count()
	if held < 7 {
		t.Errorf("only %d pieces fitted", held)
	}
	c.Release()
	kill(s)
	s = mustOpen(t, options(dir))
	c = mustLookup(t, s, 2)
	if checkHeld(t, c, length) != held {
		t.Error("pieces are lost")
	}
	c.Release()
	must(t, s.Remove(taskID(2)))
	mustFill(t, s, 3, 1, 5*pieceLen)
}
