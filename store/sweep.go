// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"dragonfly"
)

// Policy says what Sweep takes away. A zero field takes nothing away.
type Policy struct {
	// Idle is how long a content may lie unused (FAQ: clean up; 3 minutes for
	// what is served to peers).
	Idle time.Duration
	// Residue is how long a file that belongs to no content may lie there (FAQ:
	// clean up; one hour): what killed processes and older versions left, and
	// whatever else is found directly in the directory.
	Residue time.Duration
	// Young and Full are marks of free disk space. Below Full contents go,
	// least recently used first, until Full is free again; below Young only
	// those that were not used for Regular, until Young is free.
	Young, Full dragonfly.Size
	Regular     time.Duration
}

// Sweep removes what the policy and the quota do not allow for, never what is
// referenced, and says which contents went. What cannot be removed is logged
// and stays for the next time.
func (s *Store) Sweep(p Policy) (removed []dragonfly.TaskID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	now := s.now()
	drop := func(c *Content) bool {
		if err := s.discard(c); err != nil {
			s.log.Warn("a content cannot be removed", "task", c.task, "error", err)
			return false
		}
		removed = append(removed, c.task)
		return true
	}
	idle := s.idle()
	if p.Idle > 0 {
		idle = slices.DeleteFunc(idle, func(c *Content) bool { return now.Sub(c.used) >= p.Idle && drop(c) })
	}
	if s.quota > 0 {
		idle = slices.DeleteFunc(idle, func(c *Content) bool { return s.used > s.quota && drop(c) })
	}
	if p.Young > 0 || p.Full > 0 {
		free, err := s.free()
		if err != nil {
			s.log.Warn("free disk space is not known", "error", s.disk.failure("ask about", "", err))
		} else {
			for _, c := range idle {
				full := free < int64(p.Full)
				young := free < int64(p.Young) && now.Sub(c.used) >= p.Regular
				if size := c.charged; (full || young) && drop(c) {
					free += size
				}
			}
		}
	}
	if p.Residue > 0 {
		s.sweepResidues(now.Add(-p.Residue))
	}
	return removed
}

// sweepResidues removes files that belong to no content and were last written
// before a time, and directories that became empty. s.mu is held, so no file
// is just being made.
func (s *Store) sweepResidues(before time.Time) {
	dirs := map[string]bool{}
	err := s.disk.walk(func(name string) {
		dir := path.Dir(name)
		dirs[dir] = dirs[dir] || false
		task, suffix := taskOf(name)
		switch {
		case name == lockName, name == formatName, suffix != "" && s.contents[task] != nil:
			dirs[dir] = true
			return
		}
		info, err := s.disk.root.Lstat(name)
		if err == nil && info.ModTime().Before(before) {
			if err = s.disk.remove(name); err == nil {
				s.log.Info("a residual file was removed", "name", name)
				return
			}
		}
		dirs[dir] = true
		if err != nil {
			s.log.Warn("a residual file cannot be removed", "error", s.disk.failure("remove", name, err))
		}
	})
	if err != nil {
		s.log.Warn("residual files are not known", "error", err)
	}
	for dir, full := range dirs {
		if !full && dir != "." {
			_ = s.disk.remove(dir) // one that is not empty stays
		}
	}
}

// idle is the contents without references, least recently used first. s.mu is
// held.
func (s *Store) idle() []*Content {
	var idle []*Content
	for _, c := range s.contents {
		if c.refs == 0 {
			idle = append(idle, c)
		}
	}
	slices.SortFunc(idle, func(a, b *Content) int {
		if c := a.used.Compare(b.used); c != 0 {
			return c
		}
		return slices.Compare(a.task[:], b.task[:])
	})
	return idle
}

// evict removes idle contents until need bytes are free, and says how many
// were freed. s.mu is held.
func (s *Store) evict(need int64) (freed int64) {
	for _, c := range s.idle() {
		if freed >= need {
			break
		}
		size := c.charged
		if err := s.discard(c); err != nil {
			s.log.Warn("a content cannot be removed", "task", c.task, "error", err)
			continue
		}
		s.log.Info("a content was removed to make room", "task", c.task, "bytes", size)
		freed += size
	}
	return freed
}

// makeRoom frees disk space for a write that found none.
func (s *Store) makeRoom(need int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evict(need) > 0
}

// reserve charges bytes to a content in place of what was charged to it. s.mu
// is held.
func (s *Store) reserve(c *Content, bytes int64) error {
	more := bytes - c.charged
	if over := s.used + more - s.quota; s.quota > 0 && more > 0 && over > 0 && s.evict(over) < over {
		return &dragonfly.Error{Kind: dragonfly.NoSpace,
			Message: fmt.Sprintf("the cache quota of %s does not hold %d more bytes beside what is in use: raise it", dragonfly.Size(s.quota), more)}
	}
	s.used += more
	c.charged = bytes
	c.room.Store(bytes)
	return nil
}

// grow reserves space for a write that ends at a content offset: all of a
// content whose length is known, else by whole pieces.
func (s *Store) grow(c *Content, end int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return s.closed()
	}
	bytes := c.length.Load()
	if bytes < 0 {
		bytes = max(c.charged, (end+c.pieceLen-1)/c.pieceLen*c.pieceLen)
	}
	return s.reserve(c, bytes)
}

// walk calls f for each file of the directory that is not one itself: those at
// the top, and those in the directories of tasks. The others are not ours.
func (d *disk) walk(f func(name string)) error {
	top, err := d.list(".")
	if err != nil {
		return err
	}
	for _, e := range top {
		if !e.IsDir() {
			f(e.Name())
			continue
		}
		if len(e.Name()) != dirLen || strings.Trim(e.Name(), "0123456789abcdef") != "" {
			continue
		}
		files, err := d.list(e.Name())
		if err != nil {
			return err
		}
		for _, file := range files {
			if !file.IsDir() {
				f(e.Name() + "/" + file.Name())
			}
		}
	}
	return nil
}

func (d *disk) list(dir string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(dir)
	if err != nil {
		return nil, d.failure("open", dir, err)
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, d.failure("read", dir, err)
	}
	return entries, nil
}
