// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dragonfly"
)

const linkedLength = 3 * pieceLen

// linked is a store with a complete content, and a hard link of its file as a
// user has it.
func linked(t *testing.T) (s *Store, output string) {
	dir := t.TempDir()
	s = mustOpen(t, options(filepath.Join(dir, "data")))
	mustFill(t, s, 1, 1, linkedLength)
	output = filepath.Join(dir, "output")
	return s, output
}

func link(t *testing.T, s *Store, output string) {
	t.Helper()
	must(t, os.Link(pathOf(s, 1, contentSuffix), output))
}

// overwrite changes the user's file in place, with the size kept.
func overwrite(t *testing.T, output string) {
	t.Helper()
	f, err := os.OpenFile(output, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("the user's own bytes"), pieceLen+5)
	must(t, err)
}

// settle waits until the file system's clock has moved on from the file's
// times, so that a change of it can be seen.
func tick(t *testing.T, s *Store) {
	t.Helper()
	info, err := os.Stat(pathOf(s, 1, contentSuffix))
	must(t, err)
	for probe := filepath.Join(t.TempDir(), "probe"); ; {
		must(t, os.WriteFile(probe, []byte("x"), 0o600))
		now, err := os.Stat(probe)
		must(t, err)
		if now.ModTime().After(info.ModTime()) {
			return
		}
	}
}

func doubtful(c *Content) int { return c.pieces.Load().doubtful.Count() }

// TestLinkedOutputModified: a content that the user changed through a hard
// link is dropped before it is given out, and the user keeps the file.
func TestLinkedOutputModified(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, output string){
		"overwritten": overwrite,
		"cut":         func(t *testing.T, output string) { must(t, os.Truncate(output, 10)) },
		"emptied":     func(t *testing.T, output string) { must(t, os.WriteFile(output, nil, 0o600)) },
		"appended": func(t *testing.T, output string) {
			f, err := os.OpenFile(output, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteString("more")
			must(t, err)
		},
		"touched": func(t *testing.T, output string) { must(t, os.Chtimes(output, time.Time{}, time.Unix(1, 0))) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, where := range []string{"lookup", "open file", "next process"} {
				s, output := linked(t)
				link(t, s, output)
				c := mustLookup(t, s, 1)
				must(t, c.Linked())
				tick(t, s)
				change(t, output)
				before, err := os.ReadFile(output)
				must(t, err)
				switch where {
				case "open file":
					if _, err := c.OpenFile(); !errors.Is(err, ErrChanged) {
						t.Errorf("%s: error %v", where, err)
					}
					if c.Has(0) || c.Complete() || c.Held().Count() != 0 {
						t.Errorf("%s: pieces are held", where)
					}
					if err := c.Commit(0, digest(nil)); !errors.Is(err, ErrChanged) {
						t.Errorf("%s: error %v of a commit", where, err)
					}
				case "next process":
					kill(s)
					s = mustOpen(t, options(s.disk.dir))
				}
				if _, ok := s.Lookup(taskID(1)); ok {
					t.Fatalf("%s: a changed content is found", where)
				}
				if where != "next process" {
					c.Release()
				}
				// The task is downloaded anew; the user's file is left alone.
				mustFill(t, s, 1, 1, linkedLength)
				if after, err := os.ReadFile(output); err != nil || string(after) != string(before) {
					t.Errorf("%s: the user's file was changed, %v", where, err)
				}
				c = mustLookup(t, s, 1)
				checkHeld(t, c, linkedLength)
				c.Release()
			}
		})
	}
}

// TestLinked: a link that the store is told of costs nothing; any other makes
// the pieces doubtful until they were read once more.
func TestLinked(t *testing.T) {
	s, output := linked(t)
	c := mustLookup(t, s, 1)
	defer c.Release()
	tick(t, s)
	link(t, s, output)
	must(t, c.Linked())
	mustLookup(t, s, 1).Release()
	if n := doubtful(c); n != 0 {
		t.Fatalf("%d pieces are doubtful after a link that was told", n)
	}
	tick(t, s)
	must(t, os.Remove(output))
	mustLookup(t, s, 1).Release()
	if !c.Complete() || doubtful(c) != 3 {
		t.Fatalf("%d pieces are doubtful after the link was removed", doubtful(c))
	}
	must(t, s.Scrub(t.Context()))
	if doubtful(c) != 0 || !c.Complete() {
		t.Fatal("the doubt is not removed")
	}
	for range 2 {
		mustLookup(t, s, 1).Release()
		if doubtful(c) != 0 {
			t.Fatal("the same link raises doubts again")
		}
	}
	// The next process knows as well.
	o := options(s.disk.dir)
	kill(s)
	c = mustLookup(t, mustOpen(t, o), 1)
	defer c.Release()
	if doubtful(c) != 0 {
		t.Error("the next process doubts")
	}
}

// TestModifiedInSecret: a user who writes and sets the file's time back is
// found out when the pieces are verified.
func TestModifiedInSecret(t *testing.T) {
	s, output := linked(t)
	link(t, s, output)
	c := mustLookup(t, s, 1)
	must(t, c.Linked())
	tick(t, s)
	info, err := os.Stat(output)
	must(t, err)
	overwrite(t, output)
	must(t, os.Chtimes(output, time.Time{}, info.ModTime()))
	f, err := c.OpenFile()
	must(t, err)
	f.Close()
	for n := range 3 {
		if !c.Doubtful(dragonfly.PieceNum(n)) {
			t.Errorf("piece %d is trusted", n)
		}
	}
	if ok, err := c.Verify(0); !ok || err != nil {
		t.Errorf("piece 0: %v, %v", ok, err)
	}
	if ok, err := c.Verify(1); ok || err != nil {
		t.Errorf("piece 1, which was changed: %v, %v", ok, err)
	}
	if c.Held().Count() != 0 {
		t.Error("pieces of a file that the user changes are held")
	}
	if _, err := c.OpenFile(); !errors.Is(err, ErrChanged) {
		t.Errorf("error %v", err)
	}
	if _, err := c.WriteAt(make([]byte, 10), pieceLen); err != nil {
		t.Logf("write: %v", err)
	}
	c.Release()
	if _, ok := s.Lookup(taskID(1)); ok {
		t.Error("the content is found")
	}
	if got, err := os.ReadFile(output); err != nil || string(got[pieceLen+5:pieceLen+25]) != "the user's own bytes" {
		t.Errorf("the user's file was changed, %v", err)
	}
}

// TestMendedInPlace: a piece that went bad on the disk, in a file that nobody
// else has, is dropped alone and received again.
func TestMendedInPlace(t *testing.T) {
	o := options(t.TempDir())
	s := mustOpen(t, o)
	mustFill(t, s, 1, 1, linkedLength)
	c := mustLookup(t, s, 1)
	spoil(t, s, 1, 5)
	if ok, err := c.Verify(0); ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	if c.Held().Count() != 2 {
		t.Fatalf("%d pieces are held", c.Held().Count())
	}
	fill(t, c, bytesOf(c.task, c.version, linkedLength), 0)
	c.Release()
	kill(s)
	c = mustLookup(t, mustOpen(t, o), 1)
	defer c.Release()
	if checkHeld(t, c, linkedLength) != 3 || doubtful(c) != 0 {
		t.Error("the content is not whole")
	}
}
