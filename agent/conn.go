// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// longestLine bounds a line of the protocol in bytes; private roots and
// request headers are the longest part.
const longestLine = 4 << 20

// conn carries lines of JSON and descriptors over a unix socket. One goroutine
// may receive; any may send.
type conn struct {
	u *net.UnixConn

	sending sync.Mutex

	in    []byte // received and not read yet
	files []*os.File
	buf   []byte
}

func newConn(u *net.UnixConn) *conn { return &conn{u: u, buf: make([]byte, 16<<10)} }

func (c *conn) Close() error { return c.u.Close() }

// closeFiles closes the descriptors that came and that nobody took; only when
// nobody receives any more.
func (c *conn) closeFiles() {
	for _, f := range c.files {
		f.Close()
	}
	c.files = nil
}

// send writes one line, with a descriptor beside it unless file is nil.
func (c *conn) send(v any, file *os.File) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if len(line) > longestLine {
		return fmt.Errorf("a message of %d bytes is longer than %d", len(line), longestLine)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if file == nil {
		_, err = c.u.Write(line)
		return err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	// Fd() would make the file blocking.
	err = errors.Join(raw.Control(func(fd uintptr) {
		n, _, err = c.u.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil)
	}), err)
	if err == nil && n < len(line) {
		_, err = c.u.Write(line[n:])
	}
	return err
}

// receive reads one line into v.
func (c *conn) receive(v any) error {
	for {
		if line, rest, ok := bytes.Cut(c.in, []byte{'\n'}); ok {
			c.in = rest
			return json.Unmarshal(line, v)
		}
		if len(c.in) > longestLine {
			return fmt.Errorf("a message is longer than %d bytes", longestLine)
		}
		var rights [64]byte
		n, oob, _, _, err := c.u.ReadMsgUnix(c.buf, rights[:])
		if err != nil {
			return err
		}
		if err := c.collect(rights[:oob]); err != nil {
			return err
		}
		if n == 0 {
			return net.ErrClosed
		}
		c.in = append(c.in, c.buf[:n]...)
	}
}

// collect keeps descriptors that came along.
func (c *conn) collect(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // something else that the kernel tells
		}
		for _, fd := range fds {
			c.files = append(c.files, os.NewFile(uintptr(fd), "content"))
		}
	}
	return nil
}

// file hands out the oldest descriptor that came.
func (c *conn) file() (*os.File, error) {
	if len(c.files) == 0 {
		return nil, errors.New("the agent sent no descriptor")
	}
	f := c.files[0]
	c.files = c.files[1:]
	return f, nil
}

// peer is who holds the other end, as the kernel says.
func (c *conn) peer() (uid int, pid int, err error) {
	raw, err := c.u.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(cerr, err); err != nil {
		return 0, 0, err
	}
	return int(cred.Uid), int(cred.Pid), nil
}
