// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dragonfly"
	"dragonfly/internal/piecehash"
)

// Content is one version of a task in the store. Who got it from the store has
// a reference and calls Release once; until then its methods may be called
// from several goroutines.
type Content struct {
	s        *Store
	task     dragonfly.TaskID
	version  dragonfly.Version
	pieceLen int64

	// guarded by the store's mutex
	refs    int
	used    time.Time
	charged int64 // bytes of the quota

	length atomic.Int64 // of the content, or UnknownLength
	room   atomic.Int64 // content offset up to which its space is reserved
	pieces atomic.Pointer[pieces]
	writer atomic.Pointer[os.File] // opened when first written
	// writing keeps the bytes of a piece from being written while it becomes
	// held or is dropped; pieces share the locks by their number.
	writing [16]sync.RWMutex

	mu       sync.Mutex // guards all below; writing is taken before it
	meta     Meta
	digests  []dragonfly.PieceDigest
	prefixes map[dragonfly.PieceNum]int64
	reader   *os.File // open while referenced
	log      *os.File // the .pieces file, opened when first written
	records  int64    // in it
	settled  bool     // all of them are on the disk or older than this boot
	gone     bool     // the files have no names any more
	changed  bool     // the bytes are somebody else's
	seal     *stamp   // of the file when it became complete
	pending  *stamp   // becomes the seal when no piece is doubtful any more
}

// pieces is an immutable state of a content.
type pieces struct {
	held     dragonfly.PieceSet
	doubtful dragonfly.PieceSet // of the held ones
}

func newContent(s *Store, m Meta) *Content {
	c := &Content{s: s, task: m.Task, version: m.Version, pieceLen: m.Layout.PieceLen,
		meta: m, prefixes: map[dragonfly.PieceNum]int64{}, settled: true}
	c.length.Store(m.Layout.Length)
	c.pieces.Store(&pieces{})
	return c
}

// take fills a content that was read from the disk; now is what its file is
// like.
func (c *Content) take(l ledger, now stamp) {
	c.digests, c.prefixes, c.records, c.settled, c.seal = l.digests, l.prefixes, l.records, l.settled, l.seal
	p := &pieces{held: l.held, doubtful: l.doubtful}
	if l.seal == nil && complete(c.meta.Layout, p.held) {
		// It was sealed and nobody knows with what: somebody may have changed it.
		p.doubtful, c.pending = p.held, &now
	}
	c.pieces.Store(p)
}

func complete(l dragonfly.Layout, held dragonfly.PieceSet) bool {
	return l.Known() && held.Count() == l.Pieces()
}

// Meta describes the content.
func (c *Content) Meta() Meta {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.meta
}

// Held is the set of pieces that were verified and recorded. Some of them may
// be doubtful.
func (c *Content) Held() dragonfly.PieceSet { return c.pieces.Load().held.Clone() }

// Has says whether a piece is held.
func (c *Content) Has(n dragonfly.PieceNum) bool { return c.pieces.Load().held.Has(n) }

// Complete says whether all pieces are held.
func (c *Content) Complete() bool {
	return complete(dragonfly.Layout{Length: c.length.Load(), PieceLen: c.pieceLen}, c.pieces.Load().held)
}

// Doubtful says whether a held piece must be verified (Verify) before any of
// its bytes is given out: the machine crashed after it was recorded, or
// somebody may have changed the file.
func (c *Content) Doubtful(n dragonfly.PieceNum) bool { return c.pieces.Load().doubtful.Has(n) }

// Digest is the digest of a held piece, zero when it is not held.
func (c *Content) Digest(n dragonfly.PieceNum) dragonfly.PieceDigest {
	if !c.Has(n) {
		return dragonfly.PieceDigest{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.digests[n]
}

// Prefixes says how far pieces that are not held are there: the content offset
// up to which the bytes of the piece were received, without being verified.
func (c *Content) Prefixes() map[dragonfly.PieceNum]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.prefixes)
}

// WriteAt writes bytes at a content offset. Bytes of held pieces are left as
// they are and count as written. No two calls may write the same bytes at a
// time, nor go on when their piece is committed. Errors: NoSpace when the disk or the quota is
// full, Invalid outside of the content; n bytes were written nevertheless.
func (c *Content) WriteAt(p []byte, off int64) (n int, err error) {
	end := off + int64(len(p))
	length := c.length.Load()
	if off < 0 || end < off || length >= 0 && end > length || end > maxPieces*c.pieceLen {
		return 0, &dragonfly.Error{Kind: dragonfly.Invalid,
			Message: fmt.Sprintf("task %s: bytes %d to %d are outside of the content of %d bytes", c.task, off, end, length)}
	}
	if end > c.room.Load() {
		if err := c.s.grow(c, end); err != nil {
			return 0, err
		}
	}
	for n < len(p) && err == nil {
		at := off + int64(n)
		piece := at / c.pieceLen
		part := p[n:min(int64(len(p)), (piece+1)*c.pieceLen-off)]
		m := 0
		m, err = c.writePiece(dragonfly.PieceNum(piece), part, at)
		if noSpace(err) && c.s.makeRoom(int64(len(part))) {
			var rest int
			rest, err = c.writePiece(dragonfly.PieceNum(piece), part[m:], at+int64(m))
			m += rest
		}
		n += m
	}
	if err != nil {
		return n, c.s.disk.failure("write", baseOf(c.task)+contentSuffix, err)
	}
	return n, nil
}

func (c *Content) writePiece(n dragonfly.PieceNum, p []byte, off int64) (int, error) {
	lock := c.lockOf(n)
	lock.RLock()
	defer lock.RUnlock()
	if c.Has(n) {
		return len(p), nil
	}
	f := c.writer.Load()
	if f == nil {
		var err error
		if f, err = c.openWriter(); err != nil {
			return 0, err
		}
	}
	return c.s.disk.write(f, contentSuffix, p, off)
}

func (c *Content) lockOf(n dragonfly.PieceNum) *sync.RWMutex {
	return &c.writing[uint32(n)%uint32(len(c.writing))]
}

// Commit makes a piece held: all its bytes were written and have the digest.
// Again with the same digest it does nothing. On an error the piece is not
// held; its bytes stay where they are.
func (c *Content) Commit(n dragonfly.PieceNum, d dragonfly.PieceDigest) error {
	lock := c.lockOf(n)
	lock.Lock()
	defer lock.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	_, end, err := c.extent(n)
	if err != nil {
		return err
	}
	p := c.pieces.Load()
	if p.held.Has(n) {
		if c.digests[n] != d {
			return c.invalid("piece %d is held with another digest", n)
		}
		return nil
	}
	st, _, err := c.stat()
	if err != nil {
		return err
	}
	if st.size < end {
		return c.invalid("piece %d was not written: the file has %d bytes, the piece ends at %d", n, st.size, end)
	}
	next := &pieces{held: p.held.Clone(), doubtful: p.doubtful}
	next.held.Add(n)
	records := []record{{boot: c.s.boot, kind: recordVerified, piece: n, digest: d}}
	whole := complete(c.meta.Layout, next.held)
	if whole && next.doubtful.Count() == 0 {
		// Nobody writes any more: all pieces but this are held, and this is locked.
		records = append(records, sealRecord(c.s.boot, st))
	}
	if err := c.append(records...); err != nil {
		return err
	}
	if len(records) > 1 {
		c.seal = &st
	} else if whole {
		c.pending = &st
	}
	for int(n) >= len(c.digests) {
		c.digests = append(c.digests, dragonfly.PieceDigest{})
	}
	c.digests[n] = d
	delete(c.prefixes, n)
	c.pieces.Store(next)
	if whole {
		c.closeWriter()
	}
	return nil
}

// Prefix records that the bytes of a piece from its start to the content
// offset to were written, so that a later process can go on there. They are
// not verified.
func (c *Content) Prefix(n dragonfly.PieceNum, to int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	start, end, err := c.extent(n)
	if err != nil {
		return err
	}
	if to <= start || to > end {
		return c.invalid("a prefix of piece %d ends at %d, the piece goes from %d to %d", n, to, start, end)
	}
	if c.Has(n) || to <= c.prefixes[n] {
		return nil
	}
	if err := c.append(record{boot: c.s.boot, kind: recordPrefix, piece: n, value: to}); err != nil {
		return err
	}
	c.prefixes[n] = to
	return nil
}

// Drop makes a piece be held no more, because its bytes are bad. The whole
// content goes when its file is shared with a user, who must have changed it
// and whose file is not to be mended. When the drop cannot be recorded it is
// an error and the piece is doubtful.
func (c *Content) Drop(n dragonfly.PieceNum) error {
	if shared, err := c.s.discardShared(c); shared || err != nil {
		return err
	}
	lock := c.lockOf(n)
	lock.Lock()
	defer lock.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pieces.Load()
	prefix := c.prefixes[n] > 0
	if !p.held.Has(n) && !prefix {
		return nil
	}
	err := c.append(record{boot: c.s.boot, kind: recordDropped, piece: n})
	if err == nil && c.log != nil {
		// The drop must reach the disk before the bytes that will replace these:
		// the older record may be trusted after a crash of the machine.
		if err = c.s.disk.sync(c.log, piecesSuffix); err != nil {
			err = c.s.disk.failure("sync", baseOf(c.task)+piecesSuffix, err)
		}
	}
	next := &pieces{held: p.held.Clone(), doubtful: p.doubtful.Clone()}
	if err != nil {
		if p.held.Has(n) {
			next.doubtful.Add(n)
			c.pieces.Store(next)
		}
		return err
	}
	next.held.Remove(n)
	next.doubtful.Remove(n)
	delete(c.prefixes, n)
	c.seal, c.pending = nil, nil
	c.pieces.Store(next)
	return nil
}

// Verify reads a piece again and says whether it is held and has its digest.
// A bad one is dropped (Drop). A doubtful one that is good is so no more.
func (c *Content) Verify(n dragonfly.PieceNum) (bool, error) {
	c.mu.Lock()
	start, end, err := c.extent(n)
	held, f := c.Has(n), c.reader
	var want dragonfly.PieceDigest
	if held {
		want = c.digests[n]
	}
	if err == nil {
		_, _, err = c.stat() // it is open
	}
	c.mu.Unlock()
	if err != nil || !held {
		return false, err
	}
	got, err := digestOf(f, start, end)
	switch {
	case err == nil && got == want:
		c.trust(n, want)
		return true, nil
	case errors.Is(err, io.EOF):
		err = nil // the file was cut: as bad as wrong bytes
	case err != nil:
		err = c.s.disk.failure("read", baseOf(c.task)+contentSuffix, err)
		if !errors.Is(err, syscall.EIO) {
			return false, err
		}
	}
	return false, errors.Join(err, c.Drop(n))
}

// VerifyDoubtful verifies all doubtful pieces; what proves bad is dropped. It
// returns early at the end of ctx.
func (c *Content) VerifyDoubtful(ctx context.Context) error {
	for n := range c.pieces.Load().doubtful.All() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !c.Doubtful(n) {
			continue
		}
		if _, err := c.Verify(n); err != nil {
			return err
		}
	}
	return nil
}

var blockBuffers = sync.Pool{New: func() any { return new([dragonfly.BlockLen]byte) }}

// digestOf computes the digest of the piece from start to end; io.EOF when the
// file ends before.
func digestOf(f *os.File, start, end int64) (dragonfly.PieceDigest, error) {
	buf := blockBuffers.Get().(*[dragonfly.BlockLen]byte)
	defer blockBuffers.Put(buf)
	blocks := make([]piecehash.Block, 0, piecehash.Blocks(end-start))
	for at := start; at < end || len(blocks) == 0; at += dragonfly.BlockLen {
		b := buf[:min(dragonfly.BlockLen, end-at)]
		if n, err := f.ReadAt(b, at); n < len(b) {
			return dragonfly.PieceDigest{}, err
		}
		blocks = append(blocks, piecehash.SumBlock(b))
	}
	return piecehash.Piece(blocks), nil
}

// trust ends the doubt about a piece.
func (c *Content) trust(n dragonfly.PieceNum, d dragonfly.PieceDigest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pieces.Load()
	if !p.doubtful.Has(n) || c.digests[n] != d {
		return
	}
	next := &pieces{held: p.held, doubtful: p.doubtful.Clone()}
	next.doubtful.Remove(n)
	c.pieces.Store(next)
	records := []record{{boot: c.s.boot, kind: recordVerified, piece: n, digest: d}}
	if c.pending != nil && next.doubtful.Count() == 0 {
		records = append(records, sealRecord(c.s.boot, *c.pending))
		c.seal, c.pending = c.pending, nil
	}
	_ = c.append(records...) // lost: it is doubtful again for the next process
}

// SetLength tells the length of a content that was begun without. Errors:
// Invalid when it is known and another, or pieces are held beyond it; NoSpace
// when the quota does not allow for it.
func (c *Content) SetLength(length int64) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.meta
	if m.Layout.Known() {
		if m.Layout.Length != length {
			return c.invalid("its length is %d, not %d", m.Layout.Length, length)
		}
		return nil
	}
	m.Layout.Length = length
	if err := m.validate(); err != nil || length < 0 {
		return c.invalid("length %d", length)
	}
	p := c.pieces.Load()
	for n := range p.held.All() {
		if _, end := c.meta.Layout.Extent(n); end > length {
			return c.invalid("length %d, but piece %d is held up to %d", length, n, end)
		}
	}
	st, _, err := c.stat()
	if err != nil {
		return err
	}
	if !c.gone {
		if err := c.s.reserve(c, length); err != nil {
			return err
		}
	}
	if st.size > length {
		f, err := c.openWriterLocked()
		if err == nil {
			err = c.s.disk.truncate(f, contentSuffix, length)
		}
		if err != nil {
			return c.s.disk.failure("cut", baseOf(c.task)+contentSuffix, err)
		}
	}
	if err := c.describe(m); err != nil {
		return err
	}
	c.length.Store(length)
	for n, to := range c.prefixes {
		if to > length {
			delete(c.prefixes, n)
		}
	}
	if !complete(m.Layout, p.held) {
		return nil
	}
	if st, _, err = c.stat(); err != nil {
		return err
	}
	if p.doubtful.Count() > 0 {
		c.pending = &st
		return nil
	}
	if err := c.append(sealRecord(c.s.boot, st)); err != nil {
		return err
	}
	c.seal = &st
	return nil
}

// SetDigest says that the whole content, which must be complete, has a digest;
// ByDigest then finds it.
func (c *Content) SetDigest(d dragonfly.Digest) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if !c.Complete() {
		return c.invalid("it has no digest before it is complete")
	}
	m := c.Meta()
	if m.Digest == d {
		return nil
	}
	c.s.unindex(c)
	m.Digest = d
	c.mu.Lock()
	err := c.describe(m)
	gone := c.gone
	c.mu.Unlock()
	if !gone {
		c.s.index(c)
	}
	return err
}

// describe replaces the .meta file. c.mu is held.
func (c *Content) describe(m Meta) error {
	if !c.gone {
		text, err := m.encode()
		if err == nil {
			err = c.s.disk.replace(baseOf(c.task)+metaSuffix, text, true)
		}
		if err != nil {
			return c.s.disk.failure("write", baseOf(c.task)+metaSuffix, err)
		}
	}
	c.meta = m
	return nil
}

// File is the content's file for ReadAt, until Release. It must not be closed.
func (c *Content) File() *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reader
}

// OpenFile opens the content's file anew, read-only, with an offset of its
// own; the caller closes it, before or after Release. A complete content that
// somebody changed is an error: ErrChanged.
func (c *Content) OpenFile() (*os.File, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.used = c.s.now()
	if err := c.s.compare(c); err != nil && !errors.Is(err, errDeleted) {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := baseOf(c.task) + contentSuffix
	if c.gone {
		f, err := os.Open(fmt.Sprintf("/dev/fd/%d", c.reader.Fd())) // the name is away or another's
		if err != nil {
			return nil, c.s.disk.failure("reopen", name, err)
		}
		return f, nil
	}
	f, err := c.s.disk.open(name)
	if err != nil {
		return nil, c.s.disk.failure("open", name, err)
	}
	return f, nil
}

// Linked says that the caller just made a hard link of the complete content's
// file, which changes the file's times as a write would: without it the pieces
// would be verified once more.
func (c *Content) Linked() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seal == nil || c.pending != nil {
		return nil
	}
	st, _, err := c.stat()
	if err != nil {
		return err
	}
	if st == *c.seal || st.size != c.seal.size || st.mtime != c.seal.mtime {
		return nil
	}
	if err := c.append(sealRecord(c.s.boot, st)); err != nil {
		return err
	}
	c.seal = &st
	return nil
}

// Release ends a reference. The content stays in the store until it is swept.
func (c *Content) Release() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.used = c.s.now()
	c.s.release(c)
}

// compare lets a content go whose file is not what it was when it became
// complete. When only the time of its last change differs (a link was made or
// removed, or somebody wrote and set the other time back) all pieces become
// doubtful. s.mu is held, the reader is open.
func (s *Store) compare(c *Content) error {
	c.mu.Lock()
	st, _, err := c.stat()
	if err != nil {
		c.mu.Unlock()
		return err
	}
	verdict := error(nil)
	switch {
	case c.changed:
		verdict = ErrChanged
	case c.gone:
	case st.links == 0:
		verdict = errDeleted
	case c.seal != nil && (st.size != c.seal.size || st.mtime != c.seal.mtime):
		verdict = ErrChanged
	case c.pending != nil && st != *c.pending, c.pending == nil && c.seal != nil && st.ctime != c.seal.ctime:
		held := c.pieces.Load().held
		c.pieces.Store(&pieces{held: held, doubtful: held})
		c.pending = &st
	}
	known := c.changed || c.gone
	c.mu.Unlock()
	if verdict == nil {
		return nil
	}
	if !known {
		if err := s.discard(c); err != nil {
			return err
		}
		if verdict == ErrChanged {
			c.void()
		}
	}
	return &dragonfly.Error{Kind: dragonfly.Internal, Err: verdict,
		Message: fmt.Sprintf("content %s is dropped", baseOf(c.task)+contentSuffix)}
}

// discardShared lets a content with bad bytes go when a user has a hard link
// of its file, which must not be mended in place.
func (s *Store) discardShared(c *Content) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.mu.Lock()
	st, _, err := c.stat()
	gone, names := c.gone, int64(1)
	if gone {
		names = 0
	}
	c.mu.Unlock()
	if err != nil || st.links <= names {
		return false, err
	}
	if !gone {
		if err := s.discard(c); err != nil {
			return false, err
		}
	}
	c.void()
	return true, nil
}

// void says that nothing of the content may be used any more.
func (c *Content) void() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = true
	c.seal, c.pending = nil, nil
	c.closeWriter()
	c.pieces.Store(&pieces{})
}

// release ends a reference; after the last one the files are closed. s.mu is
// held.
func (s *Store) release(c *Content) {
	c.refs--
	switch {
	case c.refs < 0:
		panic("store: a content was released more often than it was given out")
	case c.refs > 0:
		return
	}
	c.mu.Lock()
	gone := c.gone
	_, written, err := c.stat()
	c.mu.Unlock()
	if gone {
		s.forget(c)
		return
	}
	if err == nil {
		s.used += written - c.charged
		c.charged = written
	}
	c.room.Store(0)
	c.closeFiles()
	s.disk.touch(baseOf(c.task)+metaSuffix, c.used)
}

// detach says that the files have no names any more. What is open goes on.
func (c *Content) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
}

// settle writes the bytes to the disk and records that.
func (c *Content) settle() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.settled || c.gone {
		return nil
	}
	name := baseOf(c.task) + contentSuffix
	f := c.reader
	if f == nil {
		var err error
		if f, err = c.s.disk.open(name); err != nil {
			return c.s.disk.failure("open", name, err)
		}
		defer f.Close()
	}
	if err := c.s.disk.sync(f, name); err != nil {
		return c.s.disk.failure("sync", name, err)
	}
	return c.append(record{boot: c.s.boot, kind: recordSettled})
}

// append writes records behind the good ones of the .pieces file, all of them
// or, when it fails, none that counts. c.mu is held.
func (c *Content) append(records ...record) error {
	if c.gone && c.log == nil {
		return nil // nobody will read them
	}
	name := baseOf(c.task) + piecesSuffix
	if err := c.openLog(name); err != nil {
		return c.s.disk.failure("open", name, err)
	}
	if c.records == 0 {
		records = append([]record{headerRecord(c.s.boot, c.version)}, records...)
	}
	text := make([]byte, 0, 3*recordLen)
	for i, r := range records {
		text = r.append(text, c.records+int64(i))
	}
	if _, err := c.s.disk.write(c.log, piecesSuffix, text, c.records*recordLen); err != nil {
		// What reached the disk is true and cut before the next record.
		c.log.Close()
		c.log = nil
		return c.s.disk.failure("write", name, err)
	}
	c.records += int64(len(records))
	c.settled = records[len(records)-1].kind == recordSettled
	return nil
}

// openLog opens the .pieces file and cuts what was torn. c.mu is held.
func (c *Content) openLog(name string) error {
	if c.log != nil {
		return nil
	}
	f, err := c.s.disk.modify(name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = c.s.disk.create(name, 0o600)
	}
	if err != nil {
		return err
	}
	if err := c.s.disk.truncate(f, piecesSuffix, c.records*recordLen); err != nil {
		f.Close()
		return err
	}
	c.log = f
	return nil
}

// openReader opens the file for reading unless it is open.
func (c *Content) openReader() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reader != nil {
		return nil
	}
	name := baseOf(c.task) + contentSuffix
	f, err := c.s.disk.open(name)
	if err != nil {
		return c.s.disk.failure("open", name, err)
	}
	c.reader = f
	return nil
}

func (c *Content) openWriter() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.openWriterLocked()
}

// openWriterLocked opens the file for writing unless it is open. c.mu is held.
func (c *Content) openWriterLocked() (*os.File, error) {
	if f := c.writer.Load(); f != nil {
		return f, nil
	}
	name := baseOf(c.task) + contentSuffix
	if c.gone || c.reader == nil {
		return nil, &dragonfly.Error{Kind: dragonfly.Internal, Err: fs.ErrClosed,
			Message: fmt.Sprintf("content %s was replaced or released, nothing more is written", name)}
	}
	f, err := c.s.disk.modify(name)
	if err != nil {
		return nil, c.s.disk.failure("open", name, err)
	}
	c.writer.Store(f)
	return f, nil
}

// closeWriter keeps the file from being written until it is opened again. c.mu
// is held.
func (c *Content) closeWriter() {
	if f := c.writer.Swap(nil); f != nil {
		f.Close()
	}
}

// stopWriting closes what could write, for good.
func (c *Content) stopWriting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	c.closeWriter()
	if c.log != nil {
		c.log.Close()
		c.log = nil
	}
}

func (c *Content) closeFiles() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeWriter()
	for _, f := range []**os.File{&c.reader, &c.log} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// stat asks about the open file. c.mu is held.
func (c *Content) stat() (stamp, int64, error) {
	if c.reader == nil {
		return stamp{}, 0, &dragonfly.Error{Kind: dragonfly.Internal, Message: "task " + c.task.String() + ": its content was released", Err: fs.ErrClosed}
	}
	st, written, err := stat(c.reader)
	if err != nil {
		err = c.s.disk.failure("stat", baseOf(c.task)+contentSuffix, err)
	}
	return st, written, err
}

// extent is the byte range of a piece of this content. c.mu is held.
func (c *Content) extent(n dragonfly.PieceNum) (from, to int64, err error) {
	l := c.meta.Layout
	if c.changed {
		return 0, 0, &dragonfly.Error{Kind: dragonfly.Internal, Message: "task " + c.task.String(), Err: ErrChanged}
	}
	if n < 0 || n >= maxPieces || l.Known() && int(n) >= l.Pieces() {
		return 0, 0, c.invalid("it has no piece %d", n)
	}
	from, to = l.Extent(n)
	return from, to, nil
}

func (c *Content) invalid(format string, args ...any) error {
	return &dragonfly.Error{Kind: dragonfly.Invalid, Message: fmt.Sprintf("task %s: ", c.task) + fmt.Sprintf(format, args...)}
}
