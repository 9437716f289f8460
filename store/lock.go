// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"dragonfly"
)

const (
	lockName   = "lock"
	formatName = "format"
	// formatNumber is the newest layout of the directory that this build knows.
	formatNumber = 1
)

// ErrNewer says that the store was written by a newer version of the software.
var ErrNewer = errors.New("written by a newer version")

// LockedError says which process has the store. Host and Boot tell whether it
// is another machine that shares the file system; they are empty when the
// owner has not written them yet.
type LockedError struct {
	Dir  string `json:"-"`
	Host string `json:"host"`
	Boot string `json:"boot"`
	PID  int    `json:"pid"`
}

func (e *LockedError) Error() string {
	owner := "another process"
	if e.PID != 0 {
		owner = fmt.Sprintf("process %d on host %s", e.PID, e.Host)
	}
	return fmt.Sprintf("data directory %s is in use by %s: end it or give another data directory", e.Dir, owner)
}

// lock takes the directory for this process. What a dead process left in the
// file does not matter: the kernel's lock went with it.
func (d *disk) lock(host, bootID string) (*os.File, error) {
	f, err := d.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, d.failure("open", lockName, err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		defer f.Close()
		owner := &LockedError{Dir: d.dir}
		if text, err := io.ReadAll(io.LimitReader(f, maxMeta)); err == nil {
			_ = json.Unmarshal(text, owner) // not written yet: the owner stays unknown
		}
		return nil, owner
	}
	if err == nil {
		var text []byte
		if text, err = json.Marshal(LockedError{Host: host, Boot: bootID, PID: os.Getpid()}); err == nil {
			if err = f.Truncate(0); err == nil {
				_, err = f.WriteAt(append(text, '\n'), 0)
			}
		}
	}
	if err != nil {
		f.Close()
		return nil, d.failure("lock", lockName, err)
	}
	return f, nil
}

// checkFormat refuses a directory of a newer format and marks a new one.
func (d *disk) checkFormat() error {
	text, err := d.root.ReadFile(formatName)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.replace(formatName, fmt.Appendln(nil, formatNumber), true); err != nil {
			return d.failure("write", formatName, err)
		}
		return nil
	}
	if err != nil {
		return d.failure("read", formatName, err)
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(text)))
	switch {
	case err != nil || number < 1:
		return &dragonfly.Error{Kind: dragonfly.Invalid,
			Message: fmt.Sprintf("data directory %s: its file %q is damaged: empty the directory or give another one", d.dir, formatName)}
	case number > formatNumber:
		return &dragonfly.Error{Kind: dragonfly.Invalid, Err: ErrNewer,
			Message: fmt.Sprintf("data directory %s has format %d, this build knows up to %d: use the newer version, empty the directory or give another one", d.dir, number, formatNumber)}
	}
	return nil
}
