// SPDX-License-Identifier: Apache-2.0

// Package store keeps contents on disk, piece by piece, so that nothing that
// was verified is lost when the process dies and nothing that was torn is
// taken for good when the machine does.
//
// Each content has three files, named by its task alone:
//
//	<dir>/<first 3 of TaskID>/<TaskID>.server   its bytes at their final offsets, sparse
//	<dir>/<first 3 of TaskID>/<TaskID>.meta     what it is (Meta), replaced at once by renaming
//	<dir>/<first 3 of TaskID>/<TaskID>.pieces   which pieces are there: records with checksums, appended
//
// Invariants:
//
//   - A piece is recorded after its bytes were written. Nothing is synced per
//     piece: the page cache outlives the process, and each record carries the
//     kernel's boot id. Records of a boot that ended without Close are
//     doubtful: such a piece is verified again before its first use.
//   - The bytes of a held piece are never written again. A piece that proves
//     bad is dropped first, and the drop is recorded before new bytes come.
//   - A content is one version of its task. Another version gets new files;
//     descriptors of the older one go on with the bytes they had.
//   - The file of a complete content may be hard-linked by its users. Nothing
//     is ever written into a file that is shared in this way, and it is
//     compared with what it was when it became complete before it is given out.
//   - No name inside the directory comes from outside, and none leads out of it.
//   - One process at a time has the directory.
package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dragonfly"
)

// ErrInUse says that a content cannot be removed now.
var ErrInUse = errors.New("content is in use")

// ErrChanged says that somebody changed the file of a complete content through
// a hard link. The store has let go of it.
var ErrChanged = errors.New("the file was changed by somebody else")

// errDeleted says that somebody deleted the file of a content.
var errDeleted = errors.New("the file was deleted by somebody else")

// settleTime is how long Close writes contents to the disk; those that are
// left are doubtful after a crash of the machine.
const settleTime = 5 * time.Second

// Options is what a Store works with. Dir is required.
type Options struct {
	Dir string // made if it is missing
	// BootID names the running kernel, HostName the machine. An empty BootID
	// stands for a kernel of its own: whatever an earlier process left without
	// Close is doubtful.
	BootID, HostName string
	Now              func() time.Time // nil: time.Now
	// Quota bounds the bytes of all contents; 0: no bound.
	Quota dragonfly.Size
	// Free is how many bytes the file system has left; nil: it is asked.
	Free func() (int64, error)
	Log  *slog.Logger // nil: none

	fault func(o op, name string, n int) (int, error)
}

// Store is the contents of one directory. Its methods may be called from
// several goroutines.
type Store struct {
	disk  disk
	boot  boot
	now   func() time.Time
	quota int64
	free  func() (int64, error)
	log   *slog.Logger

	// mu guards all below, and the fields of each Content that say so. It is
	// taken before a Content's own.
	mu       sync.Mutex
	lock     *os.File // nil: closed
	contents map[dragonfly.TaskID]*Content
	digests  map[dragonfly.Digest][]*Content
	used     int64 // bytes that are charged to contents
}

// Open takes the directory for this process and reads what is there, without
// the contents themselves. Errors: *LockedError, ErrNewer, and those of the
// disk.
func Open(o Options) (*Store, error) {
	s := &Store{
		disk:     disk{dir: o.Dir, fault: o.fault},
		boot:     bootOf(cmp.Or(o.BootID, rand.Text())),
		now:      o.Now,
		quota:    int64(o.Quota),
		free:     o.Free,
		log:      o.Log,
		contents: map[dragonfly.TaskID]*Content{},
		digests:  map[dragonfly.Digest][]*Content{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.free == nil {
		s.free = s.disk.free
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, s.disk.failure("make", "", err)
	}
	var err error
	if s.disk.root, err = os.OpenRoot(o.Dir); err != nil {
		return nil, s.disk.failure("open", "", err)
	}
	if s.lock, err = s.disk.lock(o.HostName, o.BootID); err == nil {
		if err = s.disk.checkFormat(); err == nil {
			err = s.load()
		}
	}
	if err != nil {
		s.shut()
		return nil, err
	}
	return s, nil
}

// shut lets the directory go, without a mark.
func (s *Store) shut() {
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
	s.disk.root.Close()
}

// Close writes to the disk what was recorded and not yet settled, so that it
// is trusted even if the machine crashes, and lets the directory go. Contents
// that are still referenced can be read until they are released, and no more
// written. It may be called twice.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	var errs []error
	for _, c := range s.contents {
		if ctx.Err() == nil {
			errs = append(errs, c.settle())
		}
		c.stopWriting()
	}
	s.shut()
	return errors.Join(errs...)
}

// load reads the .meta and .pieces files of all contents. Files that are not
// whole stay out; they are swept as residues.
func (s *Store) load() error {
	var found []dragonfly.TaskID
	err := s.disk.walk(func(name string) {
		if id, suffix := taskOf(name); suffix == metaSuffix {
			found = append(found, id)
		}
	})
	if err != nil {
		return err
	}
	const readers = 8
	contents := make([]*Content, len(found))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(readers, len(found)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(found)); i = next.Add(1) - 1 {
				c, err := s.read(found[i])
				if errors.Is(err, errDeleted) {
					err = s.unlink(baseOf(found[i]))
				}
				if err != nil {
					s.log.Warn("a content of the store cannot be read, it is left out", "task", found[i], "error", err)
					continue
				}
				contents[i] = c
			}
		})
	}
	wg.Wait()
	for _, c := range contents {
		if c != nil {
			s.contents[c.task] = c
			s.used += c.charged
			s.index(c)
		}
	}
	return nil
}

// read makes a content of its files.
func (s *Store) read(task dragonfly.TaskID) (*Content, error) {
	base := baseOf(task)
	file, err := s.disk.open(base + metaSuffix)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxMeta))
	if err != nil {
		return nil, err
	}
	meta, err := parseMeta(text)
	if err != nil {
		return nil, err
	}
	if meta.Task != task {
		return nil, fmt.Errorf("it is of task %s", meta.Task)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	content, err := s.disk.open(base + contentSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errDeleted
	}
	if err != nil {
		return nil, err
	}
	defer content.Close()
	now, written, err := stat(content)
	if err != nil {
		return nil, err
	}
	c := newContent(s, meta)
	c.charged, c.used = written, info.ModTime()
	if t := s.now(); c.used.After(t) {
		c.used = t
	}
	records, err := s.disk.open(base + piecesSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil // nothing was recorded yet
	}
	if err != nil {
		return nil, err
	}
	defer records.Close()
	l, err := replay(records, s.boot, meta.Version, meta.Layout, now.size)
	if err != nil {
		return nil, err
	}
	c.take(l, now)
	return c, nil
}

// Lookup gives the content of a task, with a reference: Release it when done.
// A content that somebody else changed or deleted is let go and not found.
func (s *Store) Lookup(task dragonfly.TaskID) (*Content, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(s.contents[task])
}

// ByDigest gives a complete content, of whichever task, that has the digest of
// the whole; with a reference.
func (s *Store) ByDigest(d dragonfly.Digest) (*Content, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range slices.Clone(s.digests[d]) {
		if !c.Complete() {
			continue
		}
		if c, ok := s.find(c); ok {
			return c, true
		}
	}
	return nil, false
}

// find takes a reference to a content, nil for none. s.mu is held.
func (s *Store) find(c *Content) (*Content, bool) {
	if c == nil || s.lock == nil {
		return nil, false
	}
	if err := s.acquire(c); err != nil {
		s.log.Warn("a content of the store cannot be used", "task", c.task, "error", err)
		return nil, false
	}
	c.used = s.now()
	return c, true
}

// acquire takes a reference, or lets the content go when its file is not what
// it was. s.mu is held.
func (s *Store) acquire(c *Content) error {
	err := c.openReader()
	if errors.Is(err, fs.ErrNotExist) {
		err = errDeleted
		if derr := s.discard(c); derr != nil {
			err = derr
		}
		return err
	}
	if err == nil {
		err = s.compare(c)
	}
	if err != nil {
		if c.refs == 0 {
			c.closeFiles()
		}
		return err
	}
	c.refs++
	return nil
}

// Create makes a fresh content, with a reference. Another version of the task
// loses its files; who has it open goes on with what is there. The same version
// with the same piece length is given back as it is, with all it holds.
//
// With a known length its space is reserved: Kind NoSpace when the quota does
// not allow for it even without all that is idle.
func (s *Store) Create(m Meta) (*Content, error) {
	if err := m.validate(); err != nil {
		return nil, &dragonfly.Error{Kind: dragonfly.Invalid, Message: "store", Err: err}
	}
	m.Digest = dragonfly.Digest{}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil, s.closed()
	}
	if old := s.contents[m.Task]; old != nil {
		if old.version == m.Version && old.pieceLen == m.Layout.PieceLen {
			err := s.acquire(old)
			if err == nil {
				old.used = s.now()
				return old, nil
			}
			if !errors.Is(err, ErrChanged) && !errors.Is(err, errDeleted) {
				return nil, err
			}
		} else if err := s.discard(old); err != nil {
			return nil, err
		}
	}
	c := newContent(s, m)
	if err := s.reserve(c, max(0, m.Layout.Length)); err != nil {
		return nil, err
	}
	err := s.make(c)
	if err != nil && noSpace(err) && s.evict(1) > 0 {
		err = s.make(c)
	}
	if err != nil {
		s.used -= c.charged
		return nil, s.disk.failure("create", baseOf(c.task)+contentSuffix, err)
	}
	c.refs, c.used = 1, s.now()
	s.contents[c.task] = c
	return c, nil
}

// make puts the files of a fresh content in place of whatever an earlier
// process left. The .meta file comes last: without it the others are residues.
func (s *Store) make(c *Content) (err error) {
	base := baseOf(c.task)
	if err := s.disk.mkdir(base[:dirLen]); err != nil {
		return err
	}
	// Records of bytes that are not there must not be found. The other files
	// are in the way if they are there.
	if err := s.disk.remove(base + piecesSuffix); err != nil {
		return err
	}
	text, err := c.meta.encode()
	if err != nil {
		return err
	}
	file, err := s.disk.create(base+contentSuffix, 0o644)
	if errors.Is(err, fs.ErrExist) {
		if err := s.unlink(base); err != nil {
			return err
		}
		file, err = s.disk.create(base+contentSuffix, 0o644)
	}
	if err != nil {
		return err
	}
	if err := s.disk.replace(base+metaSuffix, text, false); err != nil {
		file.Close()
		_ = s.disk.remove(base + contentSuffix) // else it is swept as a residue
		return err
	}
	c.writer.Store(file)
	if err := c.openReader(); err != nil {
		c.closeFiles()
		return errors.Join(err, s.unlink(base))
	}
	return nil
}

// unlink takes the files of a content away. The .meta file goes last, so that
// a process that dies in between leaves what the next one recognises.
func (s *Store) unlink(base string) error {
	for _, suffix := range []string{contentSuffix, piecesSuffix, metaSuffix} {
		if err := s.disk.remove(base + suffix); err != nil {
			return s.disk.failure("remove", base+suffix, err)
		}
	}
	return nil
}

// Remove takes a content away. An unknown one is no error; one that is
// referenced stays: ErrInUse.
func (s *Store) Remove(task dragonfly.TaskID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.contents[task]
	switch {
	case c == nil:
		return nil
	case s.lock == nil:
		return s.closed()
	case c.refs > 0:
		return &dragonfly.Error{Kind: dragonfly.Invalid, Message: fmt.Sprintf("task %s", task), Err: ErrInUse}
	}
	return s.discard(c)
}

// discard lets a content go: its names on disk, and its bytes as soon as
// nobody has them open. s.mu is held.
func (s *Store) discard(c *Content) error {
	base := baseOf(c.task)
	if err := s.disk.remove(base + contentSuffix); err != nil {
		return s.disk.failure("remove", base+contentSuffix, err)
	}
	if s.contents[c.task] == c {
		delete(s.contents, c.task)
	}
	s.unindex(c)
	c.detach()
	if c.refs == 0 {
		s.forget(c)
	}
	if err := s.unlink(base); err != nil {
		s.log.Warn("a file of a removed content is left over", "task", c.task, "error", err)
	}
	return nil
}

// forget closes the files of a content that has no names and no references.
// s.mu is held.
func (s *Store) forget(c *Content) {
	c.closeFiles()
	s.used -= c.charged
	c.charged = 0
}

func (s *Store) index(c *Content) {
	if d := c.Meta().Digest; !d.IsZero() && !slices.Contains(s.digests[d], c) {
		s.digests[d] = append(s.digests[d], c)
	}
}

func (s *Store) unindex(c *Content) {
	d := c.Meta().Digest
	rest := slices.DeleteFunc(s.digests[d], func(x *Content) bool { return x == c })
	if len(rest) == 0 {
		delete(s.digests, d)
	} else {
		s.digests[d] = rest
	}
}

// Summary is what there is of a content.
type Summary struct {
	Meta
	Held     dragonfly.PieceSet `json:"held"`
	Doubtful int                `json:"doubtful"` // pieces of Held that must be verified before they are used
	Bytes    int64              `json:"bytes"`    // charged to it
	Used     time.Time          `json:"used"`     // last
	InUse    bool               `json:"inUse"`
}

// Contents says what the store has, ascending by task.
func (s *Store) Contents() []Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Summary, 0, len(s.contents))
	for _, c := range s.contents {
		pieces := c.pieces.Load()
		all = append(all, Summary{Meta: c.Meta(), Held: pieces.held.Clone(), Doubtful: pieces.doubtful.Count(),
			Bytes: c.charged, Used: c.used, InUse: c.refs > 0})
	}
	slices.SortFunc(all, func(a, b Summary) int { return slices.Compare(a.Task[:], b.Task[:]) })
	return all
}

// Used is how many bytes are charged to all contents: the length of those that
// are being written, and what is on the disk of the others.
func (s *Store) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// Scrub verifies all doubtful pieces, for the hours after a crash of the
// machine. It returns at the end of ctx or when none is left; what proves bad
// is dropped.
func (s *Store) Scrub(ctx context.Context) error {
	s.mu.Lock()
	var doubtful []*Content
	for _, c := range s.contents {
		if c.pieces.Load().doubtful.Count() > 0 {
			doubtful = append(doubtful, c)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(doubtful, func(a, b *Content) int { return slices.Compare(a.task[:], b.task[:]) })
	var errs []error
	for _, c := range doubtful {
		if err := s.scrub(ctx, c); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// scrub verifies one content; that does not count as using it.
func (s *Store) scrub(ctx context.Context, c *Content) error {
	s.mu.Lock()
	if s.lock == nil || s.contents[c.task] != c {
		s.mu.Unlock()
		return nil
	}
	err := s.acquire(c)
	s.mu.Unlock()
	if errors.Is(err, ErrChanged) || errors.Is(err, errDeleted) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.release(c)
	}()
	return c.VerifyDoubtful(ctx)
}

func (s *Store) closed() error {
	return &dragonfly.Error{Kind: dragonfly.Internal, Message: fmt.Sprintf("data directory %s is closed", s.disk.dir), Err: fs.ErrClosed}
}

const (
	contentSuffix = ".server" // FAQ: file cache of peers
	metaSuffix    = ".meta"
	piecesSuffix  = ".pieces"
	dirLen        = 3
)

// baseOf is the name of a task's files without their suffix.
func baseOf(task dragonfly.TaskID) string {
	id := task.String()
	return id[:dirLen] + "/" + id
}

// taskOf is the inverse of baseOf; suffix is "" for a foreign name.
func taskOf(name string) (task dragonfly.TaskID, suffix string) {
	for _, suffix := range []string{contentSuffix, metaSuffix, piecesSuffix} {
		if base, ok := strings.CutSuffix(name, suffix); ok && len(base) > dirLen {
			if task, err := dragonfly.ParseTaskID(base[dirLen+1:]); err == nil && baseOf(task) == base {
				return task, suffix
			}
		}
	}
	return task, ""
}
