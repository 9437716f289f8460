// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Beside a file that setup has changed lie the file as it was, if there was
// one, and a mark that says what was written. No engine reads either.
const (
	backupSuffix = ".before-dragonfly"
	markSuffix   = ".by-dragonfly"
)

// mark says what setup has done to a file.
type mark struct {
	SHA256 string   `json:"sha256"` // of what was written
	Made   []string `json:"made"`   // directories that were made, the outer ones first
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// apply writes the file, after a backup and in one step each: whenever it is
// broken off, the file is the old one or the new one.
func (e edit) apply() (err error) {
	path, err := throughLinks(e.path)
	if err != nil {
		return err
	}
	now, err := current(path)
	if err != nil {
		return err
	}
	if (now == nil) != (e.before == nil) || string(now) != string(e.before) {
		return fmt.Errorf("%s was changed just now: try again", e.path)
	}
	m := mark{SHA256: sum(e.text)}
	if m.Made, err = makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	var owner *syscall.Stat_t
	if now != nil {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
		owner, _ = info.Sys().(*syscall.Stat_t)
	}
	before, err := readMark(path)
	switch {
	case err != nil:
		return err
	case before != nil && before.SHA256 == sum(now): // ours: what lay before it is kept
		m.Made = append(before.Made, m.Made...)
	case now != nil:
		if err := replaceOwned(path+backupSuffix, now, mode, owner); err != nil {
			return fmt.Errorf("a backup cannot be made: %w", err)
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := replaceFile(path+markSuffix, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return replaceOwned(path, e.text, mode, owner)
}

// replaceOwned is replaceFile for a file that keeps its owner.
func replaceOwned(path string, text []byte, mode fs.FileMode, owner *syscall.Stat_t) error {
	if err := replaceFile(path, text, mode); err != nil {
		return err
	}
	if owner == nil || int(owner.Uid) == os.Geteuid() && int(owner.Gid) == os.Getegid() {
		return nil
	}
	return os.Lchown(path, int(owner.Uid), int(owner.Gid))
}

// undo puts a file back to what it was before setup; done says that setup had
// changed it.
func undo(name string) (done bool, err error) {
	path, err := throughLinks(name)
	if err != nil {
		return false, err
	}
	m, err := readMark(path)
	if err != nil || m == nil {
		return false, err
	}
	now, err := current(path)
	if err != nil {
		return false, err
	}
	backup, err := current(path + backupSuffix)
	if err != nil {
		return false, err
	}
	written := sum(now) == m.SHA256
	before := now == nil && backup == nil || backup != nil && string(now) == string(backup) // broken off, or undone by hand
	if !written && !before {
		return false, fmt.Errorf("%s was changed after setup wrote it: take dfdaemon's lines out by hand, then remove %s (%s is the file as it was)", name, path+markSuffix, path+backupSuffix)
	}
	if backup != nil {
		err = os.Rename(path+backupSuffix, path)
	} else if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return false, err
	}
	if err := os.Remove(path + markSuffix); err != nil {
		return false, err
	}
	for i := len(m.Made) - 1; i >= 0; i-- {
		_ = os.Remove(m.Made[i]) // unless something else is in it
	}
	return true, nil
}

// readMark is the mark beside a file; nil: setup has not changed it.
func readMark(path string) (*mark, error) {
	text, err := current(path + markSuffix)
	if err != nil || text == nil {
		return nil, err
	}
	m := &mark{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%s: %w: compare %s with %s and remove this one", path+markSuffix, err, path, path+backupSuffix)
	}
	return m, nil
}

// makeDir makes a directory and those around it, and tells which.
func makeDir(dir string) (made []string, err error) {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		made = append([]string{at}, made...)
	}
	return made, os.MkdirAll(dir, 0o755)
}

// throughLinks is the file that a name leads to, so that a link stays one.
func throughLinks(name string) (string, error) {
	path, err := filepath.EvalSymlinks(name)
	if errors.Is(err, fs.ErrNotExist) {
		return name, nil
	}
	return path, err
}
