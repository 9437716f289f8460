// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dragonfly"
)

// op is an operation that changes the disk; tests make each of them fail.
type op string

const (
	opMkdir    op = "mkdir"
	opCreate   op = "create"
	opWrite    op = "write"
	opTruncate op = "truncate"
	opRename   op = "rename"
	opRemove   op = "remove"
	opSync     op = "sync"
)

// disk is the directory of the store. Every change of it goes through these
// methods, and no name can lead out of it.
type disk struct {
	root *os.Root
	dir  string // for messages
	// fault, set by tests, says how many bytes of a write still reach the
	// disk and with which error the operation then fails.
	fault func(o op, name string, n int) (int, error)
}

func (d *disk) check(o op, name string) error {
	if d.fault == nil {
		return nil
	}
	_, err := d.fault(o, name, 0)
	return err
}

func (d *disk) mkdir(name string) error {
	if err := d.check(opMkdir, name); err != nil {
		return err
	}
	err := d.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// create makes a file that must not exist.
func (d *disk) create(name string, perm fs.FileMode) (*os.File, error) {
	if err := d.check(opCreate, name); err != nil {
		return nil, err
	}
	return d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
}

// open opens a file for reading.
func (d *disk) open(name string) (*os.File, error) {
	return d.root.Open(name)
}

// modify opens a file that exists for reading and writing.
func (d *disk) modify(name string) (*os.File, error) {
	return d.root.OpenFile(name, os.O_RDWR, 0)
}

func (d *disk) write(f *os.File, name string, p []byte, off int64) (int, error) {
	if d.fault != nil {
		if n, err := d.fault(opWrite, name, len(p)); err != nil {
			n, _ = f.WriteAt(p[:n], off)
			return n, err
		}
	}
	return f.WriteAt(p, off)
}

func (d *disk) truncate(f *os.File, name string, size int64) error {
	if err := d.check(opTruncate, name); err != nil {
		return err
	}
	return f.Truncate(size)
}

func (d *disk) sync(f *os.File, name string) error {
	if err := d.check(opSync, name); err != nil {
		return err
	}
	return f.Sync()
}

// remove takes a file away; one that is not there is no error.
func (d *disk) remove(name string) error {
	if err := d.check(opRemove, name); err != nil {
		return err
	}
	err := d.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// replace puts a small file in place of another, or of none, at once. With
// durable set it is on the disk before it takes its name, so that a power cut
// leaves the old file or the new one.
func (d *disk) replace(name string, text []byte, durable bool) error {
	temporary := name + ".tmp"
	f, err := d.create(temporary, 0o600)
	if errors.Is(err, fs.ErrExist) { // an earlier process was killed here
		if err := d.remove(temporary); err != nil {
			return err
		}
		f, err = d.create(temporary, 0o600)
	}
	if err != nil {
		return err
	}
	_, err = d.write(f, temporary, text, 0)
	if err == nil && durable {
		err = d.sync(f, temporary)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		if err = d.check(opRename, name); err == nil {
			err = d.root.Rename(temporary, name)
		}
	}
	if err != nil {
		_ = d.remove(temporary) // else it is swept as a residue
	}
	return err
}

// free is what the file system has left for this account.
func (d *disk) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// failure makes the error of a failed operation on a file of the store; it
// says what to do about it.
func (d *disk) failure(doing, name string, err error) error {
	if _, ok := errors.AsType[*dragonfly.Error](err); ok {
		return err
	}
	path := filepath.Join(d.dir, name)
	kind, remedy := dragonfly.Internal, ""
	switch {
	case noSpace(err):
		kind, remedy = dragonfly.NoSpace, ": free space on that file system or give another data directory"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		remedy = ": this account must be able to write there, or give another data directory"
	case errors.Is(err, syscall.EIO):
		remedy = ": the disk reports a fault, see the kernel's log"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		remedy = ": raise the limit of open files"
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err // its path is relative to the store's directory
	}
	return &dragonfly.Error{Kind: kind, Message: fmt.Sprintf("cannot %s %s%s", doing, path, remedy), Err: err}
}

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// stamp is what tells whether somebody changed a finished content through a
// hard link.
type stamp struct {
	size         int64
	mtime, ctime int64 // ns
	links        int64
}

// stat reads the stamp of an open file, and how many bytes of it are on the
// disk: less than its size when it is sparse.
func stat(f *os.File) (st stamp, written int64, err error) {
	var raw unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &raw); err != nil {
		return stamp{}, 0, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	st = stamp{size: raw.Size, mtime: raw.Mtim.Nano(), ctime: raw.Ctim.Nano(), links: int64(raw.Nlink)}
	return st, min(raw.Size, raw.Blocks*512), nil
}

// touch remembers in a file's time when its content was used last.
func (d *disk) touch(name string, at time.Time) {
	_ = d.root.Chtimes(name, at, at) // lost: the content is taken for older than it is
}
