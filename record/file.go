// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// MinLimit is the least limit of a file that Open takes, in bytes.
const MinLimit = 1 << 20

// oldSuffix is what a record that had no room any more is renamed by.
const oldSuffix = ".old"

// beginning is how every record begins.
var beginning = []byte(`{"run":`)

// Open opens a file to append a run to, for this process alone and its user only,
// and says how many bytes are left to the limit. A file that has more than half of
// the limit is renamed to path.old first, and what had that name is gone: so a run
// always has half of the limit, and all records take one and a half at most. What
// is no record is not touched. The caller closes the file.
func Open(path string, limit int64) (file *os.File, left int64, err error) {
	file, size, err := openRecord(path)
	if err != nil {
		return nil, 0, fmt.Errorf("record: %w", err)
	}
	if size > limit/2 {
		err := os.Rename(path, path+oldSuffix)
		file.Close()
		if err != nil {
			return nil, 0, fmt.Errorf("record: make room: %w", err)
		}
		if file, size, err = openRecord(path); err != nil {
			return nil, 0, fmt.Errorf("record: %w", err)
		}
	}
	return file, limit - size, nil
}

// openRecord opens a record at its end, which is the start of a line.
func openRecord(path string) (file *os.File, size int64, err error) {
	// Opening anything else must not wait for its other end.
	file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, 0, err
	case !info.Mode().IsRegular():
		return nil, 0, &fs.PathError{Op: "write", Path: path, Err: errors.New("no regular file: give another one")}
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, 0, &fs.PathError{Op: "lock", Path: path, Err: fmt.Errorf("%w: if another supernode records there, give each a file of its own", err)}
	}
	size = info.Size()
	first := make([]byte, min(size, int64(len(beginning))))
	if _, err := file.ReadAt(first, 0); err != nil && err != io.EOF {
		return nil, 0, err
	}
	if !bytes.HasPrefix(beginning, first) {
		return nil, 0, &fs.PathError{Op: "write", Path: path, Err: errors.New("it holds something else than a record: give another file")}
	}
	if err := file.Chmod(0o600); err != nil {
		return nil, 0, err
	}
	if len(first) < len(beginning) { // nothing, or a first line that was cut off
		return file, 0, file.Truncate(0)
	}
	last := make([]byte, 1)
	if _, err := file.ReadAt(last, size-1); err != nil {
		return nil, 0, err
	}
	if last[0] != '\n' {
		if _, err := file.WriteString("\n"); err != nil {
			return nil, 0, err
		}
		size++
	}
	return file, size, nil
}
