// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"dragonfly"
)

// longestPath is how many bytes a unix socket's path may have.
const longestPath = 107

// Place is where the agent of one home is found by the processes of its
// account. The same home gives the same Place, however it is written.
type Place struct {
	// Sockets are the paths where the agent may listen; it takes the first. A
	// login session has a directory of its own that a cron job does not know,
	// so there may be several.
	Sockets []string
	// lock is held by an agent as long as it runs, start while a client starts
	// one. Both lie where every process of the account looks.
	lock, start string
}

// PlaceOf names the place of a home, which must exist. runtimeDir is
// $XDG_RUNTIME_DIR or empty, temp the directory for all users, usually /tmp.
func PlaceOf(home, runtimeDir, temp string) (Place, error) {
	real, err := filepath.EvalSymlinks(home)
	if err != nil {
		return Place{}, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return Place{}, err
	}
	sum := sha256.Sum256([]byte(real))
	name := hex.EncodeToString(sum[:8]) // a home's path may be longer than a socket's
	uid := strconv.Itoa(os.Geteuid())
	shared := filepath.Join(temp, "dragonfly-"+uid, name)
	p := Place{lock: shared + ".lock", start: shared + ".start"}
	for _, dir := range []string{runtimeDir, "/run/user/" + uid} {
		socket := filepath.Join(dir, "dragonfly", name+".sock")
		if dir != "" && len(socket) <= longestPath && ownDir(dir) == nil && (len(p.Sockets) == 0 || p.Sockets[0] != socket) {
			p.Sockets = append(p.Sockets, socket)
		}
	}
	p.Sockets = append(p.Sockets, shared+".sock")
	if len(shared)+len(".sock") > longestPath {
		return Place{}, fmt.Errorf("the path %s.sock is too long for a socket", shared)
	}
	return p, nil
}

// ownDir checks that dir is a directory of this account that nobody else can
// write to.
func ownDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return &dragonfly.Error{Kind: dragonfly.Denied,
			Message: fmt.Sprintf("%s must be a directory of this account that nobody else can write to: remove it or give it back", dir)}
	}
	return nil
}

// privateDir makes the directory of a socket or lock, for this account alone.
func privateDir(path string) error {
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := ownDir(dir); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// Lock is a lock that the kernel takes back when its process ends.
type Lock struct {
	path string
	file *os.File
}

// acquire waits for the lock at path until done is closed.
func acquire(path string, done <-chan struct{}) (*Lock, error) {
	if err := privateDir(path); err != nil {
		return nil, err
	}
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(file, done); err != nil {
			return nil, err
		}
		l := &Lock{path, file}
		if l.current() {
			return l, nil
		}
		file.Close() // who had it before took it away, the next one is at another file
	}
}

// flock locks the file, or closes it.
func flock(file *os.File, done <-chan struct{}) error {
	if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return nil
	}
	locked := make(chan error, 1)
	go func() {
		// flock cannot be interrupted: if nobody waits any more, the
		// descriptor is closed as soon as the call comes back.
		for {
			err := unix.Flock(int(file.Fd()), unix.LOCK_EX)
			if err != unix.EINTR {
				locked <- err
				return
			}
		}
	}()
	select {
	case err := <-locked:
		if err != nil {
			file.Close()
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		return nil
	case <-done:
		go func() {
			<-locked
			file.Close()
		}()
		return errWaited
	}
}

var errWaited = errors.New("gave up waiting")

// current says that the locked file is the one that others find.
func (l *Lock) current() bool {
	ours, err := l.file.Stat()
	if err != nil {
		return false
	}
	theirs, err := os.Stat(l.path)
	return err == nil && os.SameFile(ours, theirs)
}

// Release lets the next one have the lock, and leaves no file behind.
func (l *Lock) Release() {
	if l.current() {
		os.Remove(l.path) // before the lock goes: whoever gets it then looks again
	}
	l.file.Close()
}

// Own takes the lock that an agent holds as long as it runs. It waits for an
// agent that is just ending until done is closed.
func (p Place) Own(done <-chan struct{}) (*Lock, error) {
	l, err := acquire(p.lock, done)
	if errors.Is(err, errWaited) {
		return nil, &dragonfly.Error{Kind: dragonfly.Unavailable,
			Message: "another dfget server of this home holds " + p.lock + " and does not answer: end it and try again"}
	}
	return l, err
}

// Starting takes the lock under which a client starts an agent, so that of
// several clients only one does.
func (p Place) Starting(done <-chan struct{}) (*Lock, error) { return acquire(p.start, done) }

// listen opens the socket. The caller owns the place, so what lies there is of
// a dead agent.
func (p Place) listen() (*net.UnixListener, error) {
	path := p.Sockets[0]
	if err := privateDir(path); err != nil {
		return nil, err
	}
	for _, stale := range p.Sockets {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) && stale == path {
			return nil, err
		}
	}
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}
