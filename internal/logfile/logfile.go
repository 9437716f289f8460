// SPDX-License-Identifier: Apache-2.0

// Package logfile writes log files as v1 of dfget did, so that what users grep
// for stays where it was (v1-protocol 9; FAQ: view all the dfget logs of a
// task).
//
// Invariants: one record is one line, written by one write call, so that lines
// of several writers of a file never mix; no text of a record can begin a line
// of its own. A full file is renamed beside itself, and only as many of the
// renamed ones are kept as asked for.
package logfile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// DefaultMaxSize is v1's size at which a file is put aside, in bytes.
	DefaultMaxSize = 40 << 20
	// DefaultBackups is v1's number of files that were put aside and are kept.
	DefaultBackups = 1
	// backupTime is when a file was put aside, in its name.
	backupTime = "2006-01-02T15-04-05.000"
)

// File is a log file that is put aside when it is full. Its methods may be
// called from several goroutines.
type File struct {
	path    string
	maxSize int64
	backups int
	now     func() time.Time

	mu   sync.Mutex // guards file and size
	file *os.File   // nil: closed, or it could not be opened again
	size int64
}

// Options of a File; zero values stand for the defaults.
type Options struct {
	MaxSize int64 // bytes
	Backups int
	Now     func() time.Time
}

// Open opens the log file at path for appending and makes its directory.
func Open(path string, o Options) (*File, error) {
	f := &File{path: path, maxSize: o.MaxSize, backups: cmp.Or(o.Backups, DefaultBackups), now: o.Now}
	if f.maxSize <= 0 {
		f.maxSize = DefaultMaxSize
	}
	if f.now == nil {
		f.now = time.Now
	}
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("open the log file: %w", err)
	}
	return f, nil
}

func (f *File) open() error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	f.file, f.size = file, info.Size()
	return nil
}

// Write appends one or more whole lines.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil && f.size > 0 && f.size+int64(len(p)) > f.maxSize {
		f.rotate()
	}
	if f.file == nil {
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	n, err := f.file.Write(p)
	f.size += int64(n)
	return n, err
}

// rotate puts the file aside. A file that cannot be put aside goes on growing:
// a line too much is better than a line lost.
func (f *File) rotate() {
	ext := filepath.Ext(f.path)
	aside := strings.TrimSuffix(f.path, ext) + "-" + f.now().Format(backupTime) + ext
	if os.Rename(f.path, aside) != nil {
		return
	}
	f.file.Close()
	f.file = nil
	f.prune()
}

// prune removes the oldest files that were put aside. Their names sort by age.
func (f *File) prune() {
	ext := filepath.Ext(f.path)
	prefix := strings.TrimSuffix(filepath.Base(f.path), ext) + "-"
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		return
	}
	var aside []string
	for _, e := range entries {
		stamp, isOurs := strings.CutPrefix(strings.TrimSuffix(e.Name(), ext), prefix)
		if _, err := time.Parse(backupTime, stamp); isOurs && err == nil {
			aside = append(aside, e.Name())
		}
	}
	for ; len(aside) > f.backups; aside = aside[1:] {
		os.Remove(filepath.Join(filepath.Dir(f.path), aside[0]))
	}
}

// Close closes the file. A later Write opens it again.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}
