// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"dragonfly"
	"dragonfly/agent"
)

// target is where the content goes.
type target struct {
	path string // absolute, or "-" for stdout
	// stream says that the bytes are written as they come: stdout, a device, a
	// pipe. Everything else is made beside its path and renamed.
	stream bool
}

// targetOf checks the output before anything starts.
func targetOf(output, rawURL string) (target, error) {
	if output == "-" {
		return target{"-", true}, nil
	}
	if output == "" {
		u, err := url.Parse(rawURL)
		if err != nil {
			return target{}, err
		}
		if output = path.Base(u.Path); output == "." || output == "/" {
			return target{}, fmt.Errorf("the url %s names no file: say where to put it with -o", agent.RedactURL(rawURL))
		}
	}
	abs, err := filepath.Abs(output)
	if err != nil {
		return target{}, err
	}
	info, err := os.Stat(abs)
	switch {
	case err == nil && info.IsDir():
		u, _ := url.Parse(rawURL)
		return target{}, fmt.Errorf("the output %s is a directory: name a file in it, as in -o %s", abs, filepath.Join(abs, path.Base("/"+u.Path)))
	case err == nil && !info.Mode().IsRegular():
		return target{abs, true}, nil // replacing /dev/null by a file helps nobody
	case err != nil && os.IsPathSeparator(output[len(output)-1]):
		return target{}, fmt.Errorf("the output %s is a directory: name a file in it", output)
	}
	// As v1 did: the first of the path's ancestors that exists must be writable.
	for at := abs; ; at = filepath.Dir(at) {
		err := unix.Access(at, unix.W_OK)
		if err == nil && at != abs {
			if info, err := os.Stat(at); err == nil && !info.IsDir() {
				return target{}, fmt.Errorf("the output %s cannot be made: %s is no directory", abs, at)
			}
		}
		switch {
		case err == nil && at == abs:
			// The new file is made beside the old one.
			if err := unix.Access(filepath.Dir(abs), unix.W_OK|unix.X_OK); err != nil {
				return target{}, fmt.Errorf("the output %s cannot be replaced (%s: %w): choose another place with -o, or run dfget as another user", abs, filepath.Dir(abs), err)
			}
			return target{abs, false}, nil
		case err == nil && pseudo(at):
			return target{}, fmt.Errorf("the output %s cannot be made: %s holds no files of users: choose another place with -o", abs, at)
		case err == nil:
			return target{abs, false}, nil
		case !errors.Is(err, fs.ErrNotExist) || at == "/":
			return target{}, fmt.Errorf("the output %s cannot be written (%s: %w): choose another place with -o, or run dfget as another user", abs, at, err)
		}
	}
}

// pseudo says that a directory is a window into the kernel, where root may
// write and nobody can make a file.
func pseudo(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC:
		return true
	}
	return false
}

// Ways to make the output of a content that is in the store (--link).
const (
	linkAuto    = "auto" // the first of the others that works, in their order
	linkReflink = "reflink"
	linkHard    = "hard"
	linkCopy    = "copy"
)

// outputMode is v1's mode of outputs, before the umask.
const outputMode os.FileMode = 0o755

// temporary names the file that the output is made in, as v1 did.
func (t target) temporary(sign string) string {
	return filepath.Join(filepath.Dir(t.path), "dfget-"+sign+".tmp-"+strconv.FormatUint(uint64(rand.Uint32()), 10))
}

// place makes the output from a finished content: the file temp beside it,
// then a rename, so that the path holds the old file or all of the new one.
// It says which way it went.
func (t target) place(ctx context.Context, content *os.File, length int64, temp, link string) (way string, err error) {
	made, err := makeParents(t.path)
	defer func() {
		if err != nil {
			for _, dir := range made {
				os.Remove(dir) // only if nothing is in it
			}
		}
	}()
	if err != nil {
		return "", t.failure(err)
	}
	mode := outputMode &^ umask()
	defer func() {
		// A rename between two names of one file does nothing.
		if rerr := os.Remove(temp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) && err == nil {
			err = rerr
		}
	}()
	info, err := content.Stat()
	if err != nil {
		return "", t.failure(err)
	}
	if info.Size() < length {
		return "", fmt.Errorf("the content has %d bytes, %d were announced", info.Size(), length)
	}
	for _, way = range []string{linkReflink, linkHard, linkCopy} {
		if link != linkAuto && link != way {
			continue
		}
		switch way {
		case linkReflink:
			if link == linkAuto && !reflinks(content) {
				err = errors.ErrUnsupported
				continue
			}
			err = reflink(temp, content, mode)
		case linkHard:
			err = hardLink(temp, content, mode)
		default:
			err = copyTo(ctx, temp, content, length, mode)
		}
		if err == nil || way == linkCopy || link == way {
			break
		}
		os.Remove(temp)
	}
	if err != nil {
		if link != linkAuto && link != linkCopy {
			err = fmt.Errorf("--link %s does not work here (--link auto finds a way that does): %w", link, err)
		}
		return way, t.failure(err)
	}
	if ctx.Err() != nil {
		return way, context.Cause(ctx)
	}
	if err := os.Rename(temp, t.path); err != nil {
		return way, t.failure(err)
	}
	return way, nil
}

// makeParents makes the directories above path that are missing and names
// them, the deepest first.
func makeParents(path string) (made []string, err error) {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made = append(made, dir)
	}
	return made, os.MkdirAll(filepath.Dir(path), 0o755)
}

func (t target) failure(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &dragonfly.Error{Kind: dragonfly.NoSpace, Err: err,
			Message: "no room for the output in " + filepath.Dir(t.path) + ": make some or choose another place with -o; what was downloaded is kept for a while"}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the output %s cannot be written: choose another place with -o: %w", t.path, err)
	}
	return err
}

// umask is the process's. The system call that tells it also sets it, which
// would give what is made beside in that moment a wrong mode.
func umask() os.FileMode {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "\nUmask:\t")
	text, _, _ := strings.Cut(rest, "\n")
	mask, err := strconv.ParseUint(text, 8, 9)
	if err != nil {
		mask = 0o022 // without /proc the usual one
	}
	return os.FileMode(mask)
}

func create(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// reflinks says whether the content's file system may know reflinks: those that
// most hosts have do not, and an attempt costs as much as a small output.
func reflinks(content *os.File) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(int(content.Fd()), &st) != nil {
		return true
	}
	return int64(st.Type) != unix.EXT4_SUPER_MAGIC && int64(st.Type) != unix.TMPFS_MAGIC
}

// reflink shares the content's blocks until one of the files is written.
func reflink(name string, content *os.File, mode os.FileMode) (err error) {
	f, err := create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.IoctlFileClone(int(f.Fd()), int(content.Fd())); err != nil {
		return os.NewSyscallError("reflink", err)
	}
	return f.Chmod(mode)
}

// errShared says that a hard link would be seen where it should not.
var errShared = errors.New("the content is another account's, or another output of it has another mode")

// hardLink gives the content's file one more name. Both names share one inode,
// so its mode is set only where nobody else has an output of it.
func hardLink(name string, content *os.File, mode os.FileMode) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(content.Fd()), &st); err != nil {
		return err
	}
	as := os.FileMode(st.Mode).Perm()
	if int(st.Uid) != os.Geteuid() || as != mode && st.Nlink > 1 {
		return errShared
	}
	fd := int(content.Fd())
	err := unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	if err != nil && unix.Linkat(fd, "", unix.AT_FDCWD, name, unix.AT_EMPTY_PATH) == nil {
		err = nil
	}
	if err != nil {
		return os.NewSyscallError("link", err)
	}
	if as == mode {
		return nil
	}
	return os.Chmod(name, mode)
}

// copyStep is how much is copied between two looks at the context.
const copyStep = 64 << 20

// copyTo copies the content inside the kernel where that is possible.
func copyTo(ctx context.Context, name string, content *os.File, length int64, mode os.FileMode) (err error) {
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f, err := create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for left := length; left > 0; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.CopyN(f, content, min(left, copyStep))
		if err != nil {
			return err
		}
		left -= n
	}
	return f.Chmod(mode)
}
