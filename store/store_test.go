// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/internal/piecehash"
)

// pieceLen is small, no multiple of a block and longer than one.
const pieceLen = 100_000

func TestMain(m *testing.M) {
	if what, dir, ok := strings.Cut(os.Getenv("STORE_TEST_CHILD"), ":"); ok {
		if err := child(what, dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// startChild runs a function of this test binary as another process.
func startChild(t *testing.T, what, dir string) (*exec.Cmd, *bufio.Scanner, io.Closer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+what+":"+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out), in
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func options(dir string) Options {
	return Options{Dir: dir, BootID: "boot one", HostName: "here", Log: slog.New(slog.DiscardHandler)}
}

func mustOpen(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// kill ends the store as a dying process does: without a mark.
func kill(s *Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.contents {
		c.closeFiles()
	}
	s.shut()
}

func taskID(i int) dragonfly.TaskID {
	return dragonfly.Request{URL: fmt.Sprintf("http://origin/%d", i)}.TaskID()
}

func version(i int) (v dragonfly.Version) {
	binary.BigEndian.PutUint64(v[:], uint64(i)+1)
	return v
}

// bytesOf is the content of a version of a task: anything, but always the same.
func bytesOf(task dragonfly.TaskID, v dragonfly.Version, n int) []byte {
	var seed [32]byte
	copy(seed[:], task[:16])
	copy(seed[16:], v[:])
	b := make([]byte, n)
	rand.NewChaCha8(seed).Read(b)
	return b
}

func metaOf(task, v int, length int64) Meta {
	return Meta{Task: taskID(task), Version: version(v), Layout: dragonfly.Layout{Length: length, PieceLen: pieceLen}}
}

func digest(b []byte) dragonfly.PieceDigest {
	var blocks []piecehash.Block
	for rest := b; len(rest) > 0 || len(blocks) == 0; {
		n := min(len(rest), dragonfly.BlockLen)
		blocks = append(blocks, piecehash.SumBlock(rest[:n]))
		rest = rest[n:]
	}
	return piecehash.Piece(blocks)
}

func mustCreate(t testing.TB, s *Store, m Meta) *Content {
	t.Helper()
	c, err := s.Create(m)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustLookup(t testing.TB, s *Store, task int) *Content {
	t.Helper()
	c, ok := s.Lookup(taskID(task))
	if !ok {
		t.Fatalf("task %d is not found", task)
	}
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err error, kind dragonfly.Kind) {
	t.Helper()
	if e, ok := errors.AsType[*dragonfly.Error](err); !ok || e.Kind != kind {
		t.Fatalf("error %v, want one of kind %s", err, kind)
	}
}

// fill writes and commits pieces of a content whose length is data's.
func fill(t testing.TB, c *Content, data []byte, numbers ...dragonfly.PieceNum) {
	t.Helper()
	l := dragonfly.Layout{Length: int64(len(data)), PieceLen: c.pieceLen}
	for _, n := range numbers {
		from, to := l.Extent(n)
		if m, err := c.WriteAt(data[from:to], from); err != nil || m != int(to-from) {
			t.Fatalf("write of piece %d: %d, %v", n, m, err)
		}
		must(t, c.Commit(n, digest(data[from:to])))
	}
}

// mustFill makes a complete content and releases it.
func mustFill(t testing.TB, s *Store, task, v, length int) {
	t.Helper()
	c := mustCreate(t, s, metaOf(task, v, int64(length)))
	defer c.Release()
	data := bytesOf(c.task, c.version, length)
	for n := range c.Meta().Layout.Pieces() {
		fill(t, c, data, dragonfly.PieceNum(n))
	}
}

// checkHeld compares the bytes of all held pieces with their digests and with
// what they should be, and says how many there are.
func checkHeld(t testing.TB, c *Content, length int) int {
	t.Helper()
	data := bytesOf(c.task, c.version, length)
	l := dragonfly.Layout{Length: int64(length), PieceLen: c.pieceLen}
	held := c.Held()
	for n := range held.All() {
		from, to := l.Extent(n)
		got := make([]byte, to-from)
		if _, err := c.File().ReadAt(got, from); err != nil {
			t.Fatalf("piece %d is held and cannot be read: %v", n, err)
		}
		if d := digest(got); d != c.Digest(n) || d != digest(data[from:to]) {
			t.Fatalf("piece %d is held with wrong bytes", n)
		}
	}
	return held.Count()
}

func pathOf(s *Store, task int, suffix string) string {
	return filepath.Join(s.disk.dir, baseOf(taskID(task))+suffix)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestNames(t *testing.T) {
	s := mustOpen(t, options(t.TempDir()))
	mustFill(t, s, 1, 1, 10)
	id := taskID(1).String()
	for _, suffix := range []string{".server", ".meta", ".pieces"} {
		if !exists(filepath.Join(s.disk.dir, id[:3], id+suffix)) {
			t.Errorf("there is no %s file", suffix)
		}
	}
}

func TestLockedByAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	cmd, out, in := startChild(t, "hold", dir)
	defer cmd.Wait()
	defer in.Close()
	if !out.Scan() {
		t.Fatal("the other process says nothing")
	}
	_, err := Open(options(dir))
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || locked.PID != cmd.Process.Pid || locked.Host != "there" || locked.Boot != "boot one" || locked.Dir != dir {
		t.Fatalf("error %v (%+v), want one that names process %d", err, locked, cmd.Process.Pid)
	}
	if !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) || !strings.Contains(err.Error(), "there") {
		t.Errorf("the message %q does not tell the owner", err)
	}

	// What a dead process left in the lock file is no obstacle.
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	if !exists(filepath.Join(dir, lockName)) {
		t.Fatal("the lock file of the dead process is gone: this shows nothing")
	}
	mustOpen(t, options(dir))
}

func TestLockedByThisProcess(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, options(dir))
	if _, err := Open(options(dir)); err == nil {
		t.Fatal("a store is opened twice")
	}
	must(t, s.Close())
	must(t, s.Close())
	mustOpen(t, options(dir))
}

func TestNewerFormat(t *testing.T) {
	dir := t.TempDir()
	must(t, mustOpen(t, options(dir)).Close())
	must(t, os.WriteFile(filepath.Join(dir, formatName), []byte("2\n"), 0o600))
	_, err := Open(options(dir))
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "format 2") || !strings.Contains(err.Error(), dir) {
		t.Fatalf("error %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, formatName), []byte("x"), 0o600))
	if _, err = Open(options(dir)); err == nil || errors.Is(err, ErrNewer) {
		t.Fatalf("error %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, formatName)))
	mustOpen(t, options(dir))
}

// TestUnreadableContents: what cannot be understood stays out and stays there;
// the rest of the store works, and the task can be made anew.
func TestUnreadableContents(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "newer": `{"format":2}`, "torn": `{"format":1,"task":"`, "huge pieces": `{"format":1,"layout":{"length":-1,"pieceLen":9223372036854775807}}`,
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir())
			s := mustOpen(t, o)
			mustFill(t, s, 1, 1, 10)
			mustFill(t, s, 2, 1, 10)
			must(t, s.Close())
			must(t, os.WriteFile(pathOf(s, 1, metaSuffix), []byte(text), 0o600))
			s = mustOpen(t, o)
			if _, ok := s.Lookup(taskID(1)); ok {
				t.Fatal("a content with a damaged description is found")
			}
			mustLookup(t, s, 2).Release()
			if !exists(pathOf(s, 1, contentSuffix)) {
				t.Error("its bytes are gone at once")
			}
			mustFill(t, s, 1, 2, 20)
			c := mustLookup(t, s, 1)
			defer c.Release()
			if checkHeld(t, c, 20) != 1 {
				t.Error("the new content does not hold its piece")
			}
		})
	}
}

// TestForeignDescription: a .meta file under another task's name is not taken.
func TestForeignDescription(t *testing.T) {
	o := options(t.TempDir())
	s := mustOpen(t, o)
	mustFill(t, s, 1, 1, 10)
	mustFill(t, s, 2, 1, 10)
	must(t, s.Close())
	text, err := os.ReadFile(pathOf(s, 1, metaSuffix))
	must(t, err)
	must(t, os.WriteFile(pathOf(s, 2, metaSuffix), text, 0o600))
	s = mustOpen(t, o)
	if _, ok := s.Lookup(taskID(2)); ok {
		t.Error("the description of another task is taken")
	}
}

func TestDirectoryErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	_, err := Open(options(file))
	wantKind(t, err, dragonfly.Internal)
	if !strings.Contains(err.Error(), file) {
		t.Errorf("the message %q does not name the path", err)
	}
}

// TestLinkOutOfTheDirectory: no name leads out of the store, even if somebody
// puts symbolic links there.
func TestLinkOutOfTheDirectory(t *testing.T) {
	outside := t.TempDir()
	s := mustOpen(t, options(t.TempDir()))
	id := taskID(1).String()
	must(t, os.Symlink(outside, filepath.Join(s.disk.dir, id[:3])))
	if _, err := s.Create(metaOf(1, 1, 10)); err == nil {
		t.Fatal("a content is made through a link that leads out")
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Fatalf("%s is there", entries[0].Name())
	}
	must(t, os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600))
	s.now = func() time.Time { return time.Now().Add(24 * time.Hour) }
	s.Sweep(Policy{Residue: time.Hour})
	if !exists(filepath.Join(outside, "precious")) {
		t.Fatal("a file outside was swept")
	}
}

func TestContents(t *testing.T) {
	s := mustOpen(t, options(t.TempDir()))
	mustFill(t, s, 1, 1, 2*pieceLen)
	c := mustCreate(t, s, metaOf(2, 1, 3*pieceLen))
	defer c.Release()
	fill(t, c, bytesOf(c.task, c.version, 3*pieceLen), 1)
	all := s.Contents()
	if len(all) != 2 {
		t.Fatalf("%d contents", len(all))
	}
	for _, v := range all {
		switch v.Task {
		case taskID(1):
			if v.Held.Count() != 2 || v.InUse || v.Bytes < 2*pieceLen {
				t.Errorf("%+v", v)
			}
		case taskID(2):
			if v.Held.Count() != 1 || !v.InUse || v.Bytes != 3*pieceLen {
				t.Errorf("%+v", v)
			}
		}
	}
}

func TestRemove(t *testing.T) {
	s := mustOpen(t, options(t.TempDir()))
	mustFill(t, s, 1, 1, 10)
	c := mustLookup(t, s, 1)
	if err := s.Remove(taskID(1)); !errors.Is(err, ErrInUse) {
		t.Fatalf("error %v", err)
	}
	c.Release()
	must(t, s.Remove(taskID(1)))
	must(t, s.Remove(taskID(1)))
	if _, ok := s.Lookup(taskID(1)); ok || s.Used() != 0 {
		t.Errorf("found %v, %d bytes are charged", ok, s.Used())
	}
	for _, suffix := range []string{contentSuffix, metaSuffix, piecesSuffix} {
		if exists(pathOf(s, 1, suffix)) {
			t.Errorf("the %s file is still there", suffix)
		}
	}
}

func TestReleaseTooOften(t *testing.T) {
	s := mustOpen(t, options(t.TempDir()))
	c := mustCreate(t, s, metaOf(1, 1, 10))
	c.Release()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	c.Release()
}

// TestDeletedByHand: a content whose file somebody deleted is let go, and who
// reads it goes on (FAQ: delete the source files).
func TestDeletedByHand(t *testing.T) {
	s := mustOpen(t, options(t.TempDir()))
	mustFill(t, s, 1, 1, pieceLen)
	mustFill(t, s, 2, 1, pieceLen)
	c := mustLookup(t, s, 1)
	defer c.Release()
	for _, i := range []int{1, 2} {
		must(t, os.Remove(pathOf(s, i, contentSuffix)))
		if _, ok := s.Lookup(taskID(i)); ok {
			t.Fatalf("deleted content %d is found", i)
		}
	}
	f, err := c.OpenFile()
	must(t, err)
	f.Close()
	if checkHeld(t, c, pieceLen) != 1 {
		t.Error("the reader lost its piece")
	}
	mustFill(t, s, 1, 1, pieceLen)
}

// TestOldVersionGoesOn: another version of a task gets new files; readers and
// writers of the old one see none of it.
func TestOldVersionGoesOn(t *testing.T) {
	const length = 3 * pieceLen
	s := mustOpen(t, options(t.TempDir()))
	old := mustCreate(t, s, metaOf(1, 1, length))
	oldData := bytesOf(old.task, old.version, length)
	fill(t, old, oldData, 0, 1)
	f, err := old.OpenFile()
	must(t, err)
	defer f.Close()

	mustFill(t, s, 1, 2, length)
	newer := mustLookup(t, s, 1)
	defer newer.Release()
	if newer == old || newer.Meta().Version != version(2) {
		t.Fatal("the new version is not found")
	}
	fill(t, old, oldData, 2) // its writer goes on
	again, err := old.OpenFile()
	must(t, err)
	defer again.Close()
	for _, f := range []*os.File{f, again} {
		got := make([]byte, length)
		if _, err := f.ReadAt(got, 0); err != nil || string(got) != string(oldData) {
			t.Fatalf("the old descriptor gives other bytes, %v", err)
		}
	}
	if checkHeld(t, old, length) != 3 || checkHeld(t, newer, length) != 3 {
		t.Error("pieces are missing")
	}
	used := s.Used()
	old.Release()
	if s.Used() >= used {
		t.Error("the old version is still charged")
	}
	// Its end leaves the new files alone.
	o := options(s.disk.dir)
	kill(s)
	s = mustOpen(t, o)
	c := mustLookup(t, s, 1)
	defer c.Release()
	if checkHeld(t, c, length) != 3 || c.Meta().Version != version(2) {
		t.Error("the new version is not what is on disk")
	}
}

// TestCloseBeforeRelease: readers go on after Close, writers are refused.
func TestCloseBeforeRelease(t *testing.T) {
	s := mustOpen(t, options(t.TempDir()))
	c := mustCreate(t, s, metaOf(1, 1, 2*pieceLen))
	fill(t, c, bytesOf(c.task, c.version, 2*pieceLen), 0)
	must(t, s.Close())
	if checkHeld(t, c, 2*pieceLen) != 1 {
		t.Error("the piece is not readable")
	}
	if _, err := c.WriteAt([]byte("x"), pieceLen); err == nil {
		t.Error("a closed store is written to")
	}
	if _, ok := s.Lookup(c.task); ok {
		t.Error("a closed store finds contents")
	}
	if _, err := s.Create(metaOf(3, 1, 1)); err == nil {
		t.Error("a closed store makes contents")
	}
	c.Release()
}

// TestManyContents: files are open only while they are used.
func TestManyContents(t *testing.T) {
	o := options(t.TempDir())
	s := mustOpen(t, o)
	for i := range 300 {
		mustFill(t, s, i, 1, 10)
	}
	must(t, s.Close())
	before := descriptors(t)
	s = mustOpen(t, o)
	if got := len(s.Contents()); got != 300 {
		t.Errorf("%d contents", got)
	}
	if now := descriptors(t); now > before+10 {
		t.Errorf("%d descriptors are open, %d before", now, before)
	}
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc/self/fd:", err)
	}
	return len(entries)
}

// TestFailure: errors of the disk name the path, keep their cause and say what
// to do.
func TestFailure(t *testing.T) {
	d := &disk{dir: "/home/dragonfly"}
	for _, v := range []struct {
		err    error
		kind   dragonfly.Kind
		remedy string
	}{
		{syscall.ENOSPC, dragonfly.NoSpace, "free space"},
		{syscall.EDQUOT, dragonfly.NoSpace, "free space"},
		{syscall.EACCES, dragonfly.Internal, "must be able to write"},
		{syscall.EROFS, dragonfly.Internal, "must be able to write"},
		{syscall.EIO, dragonfly.Internal, "kernel's log"},
		{syscall.EMFILE, dragonfly.Internal, "limit of open files"},
		{io.ErrShortWrite, dragonfly.Internal, ""},
	} {
		err := d.failure("write", "abc/def", &os.PathError{Op: "write", Path: "abc/def", Err: v.err})
		wantKind(t, err, v.kind)
		if !strings.Contains(err.Error(), "/home/dragonfly/abc/def") || !strings.Contains(err.Error(), v.remedy) || !errors.Is(err, v.err) {
			t.Errorf("%v", err)
		}
		if again := d.failure("close", "x", err); again != err {
			t.Errorf("%v is told twice: %v", err, again)
		}
	}
}
