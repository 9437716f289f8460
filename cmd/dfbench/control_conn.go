// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"dragonfly"
)

// loadConn is one connection to a supernode: HTTP/1.1 as far as its control
// port speaks it, one request at a time. It belongs to one goroutine.
type loadConn struct {
	net.Conn
	out []byte
	buf []byte // what was read of the answer
}

// post sends a request.
func (c *loadConn) post(path, key string, body []byte) error {
	c.out = append(c.out[:0], "POST "...)
	c.out = append(c.out, path...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: supernode\r\nContent-Type: application/json\r\nUser-Agent: dragonfly/dfbench\r\n"...)
	if key != "" {
		c.out = append(append(append(c.out, "X-Dragonfly-Session: "...), key...), "\r\n"...)
	}
	c.out = append(strconv.AppendInt(append(c.out, "Content-Length: "...), int64(len(body)), 10), "\r\n\r\n"...)
	c.out = append(c.out, body...)
	_, err := c.Write(c.out)
	return err
}

// await waits until an answer begins, or until a time; zero: without end.
func (c *loadConn) await(until time.Time) (begun bool, err error) {
	if len(c.buf) > 0 {
		return true, nil
	}
	if err := c.SetReadDeadline(until); err != nil {
		return false, err
	}
	err = c.more()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil
	}
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	return err == nil, err
}

// loadAnswerMax bounds an answer in bytes.
const loadAnswerMax = 8 << 20

// more reads once.
func (c *loadConn) more() error {
	if len(c.buf) == cap(c.buf) {
		if len(c.buf) > loadAnswerMax {
			return errors.New("the supernode's answer is too long")
		}
		c.buf = append(make([]byte, 0, max(4096, 2*cap(c.buf))), c.buf...)
	}
	n, err := c.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

// answer reads the answer to the request, to its end. It is good until the next.
func (c *loadConn) answer() ([]byte, error) {
	_, body, err := c.headAndBody()
	return body, err
}

func (c *loadConn) headAndBody() (head, body []byte, err error) {
	end := -1
	for end < 0 {
		if end = bytes.Index(c.buf, []byte("\r\n\r\n")); end < 0 {
			if err := c.more(); err != nil {
				return nil, nil, err
			}
		}
	}
	head = c.buf[:end+2]
	length, err := strconv.Atoi(string(field(head, "Content-Length")))
	if err != nil || length < 0 || length > loadAnswerMax {
		return nil, nil, fmt.Errorf("an answer without a length: %.200q", head)
	}
	for end += 4; len(c.buf) < end+length; {
		if err := c.more(); err != nil {
			return nil, nil, err
		}
	}
	head, body = c.buf[:end-2], c.buf[end:end+length]
	c.buf = c.buf[:0]
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return nil, nil, fmt.Errorf("the supernode answered %.40q: %.300q", head, body)
	}
	return head, body, nil
}

// field is a header of an answer, as Go's servers write it.
func field(head []byte, name string) []byte {
	_, rest, _ := bytes.Cut(head, []byte("\r\n"+name+": "))
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return value
}

// ask sends a message and reads the answer into out.
func (c *loadConn) ask(path, key string, in, out any) (head []byte, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	if err := c.post(path, key, body); err != nil {
		return nil, err
	}
	head, body, err = c.headAndBody()
	if err != nil {
		return nil, err
	}
	return head, json.Unmarshal(body, out)
}

// open opens a session and gives its key.
func (c *loadConn) open(hello dragonfly.Hello) (key string, err error) {
	var welcome dragonfly.Welcome
	head, err := c.ask("/p2p/v1/sessions", "", hello, &welcome)
	if err != nil {
		return "", err
	}
	if key = string(field(head, http.CanonicalHeaderKey("X-Dragonfly-Session"))); key == "" {
		return "", errors.New("the supernode opened no session")
	}
	return key, nil
}

// register registers for a task.
func (c *loadConn) register(key string, r dragonfly.Registration) (info dragonfly.TaskInfo, err error) {
	_, err = c.ask("/p2p/v1/session/register", key, r, &info)
	return info, err
}

// loadAssignment is what the load needs of an assignment.
type loadAssignment struct {
	id    dragonfly.AssignmentID
	task  []byte // as in JSON
	piece dragonfly.PieceNum
	bytes int64 // of the piece
}

// readWork reads the number and the assignments of an answer to a sync, in the
// order in which supernodes write their fields.
func readWork(body []byte) (seq uint64, assignments []loadAssignment, err error) {
	malformed := fmt.Errorf("an answer that is no work: %.200q", body)
	rest, ok := bytes.CutPrefix(body, []byte(`{"seq":`))
	if !ok {
		return 0, nil, malformed
	}
	number := func() (n uint64) {
		for len(rest) > 0 && '0' <= rest[0] && rest[0] <= '9' {
			n, rest = n*10+uint64(rest[0]-'0'), rest[1:]
		}
		return n
	}
	after := func(text string) (before []byte, found bool) {
		before, rest, found = bytes.Cut(rest, []byte(text))
		return before, found
	}
	seq = number()
	if !bytes.HasPrefix(rest, []byte(`,"assignments":[`)) {
		return seq, nil, nil
	}
	for {
		if _, found := after(`{"id":`); !found {
			return seq, assignments, nil
		}
		if bytes.HasPrefix(rest, []byte(`"`)) {
			continue // of a member
		}
		a := loadAssignment{id: dragonfly.AssignmentID(number())}
		_, hasTask := after(`"task":"`)
		task, ended := after(`"`)
		_, hasPiece := after(`"piece":`)
		a.task, a.piece = task, dragonfly.PieceNum(number())
		_, hasFrom := after(`"from":`)
		from := number()
		_, hasTo := after(`"to":`)
		if a.bytes = int64(number() - from); !hasTask || !ended || !hasPiece || !hasFrom || !hasTo || a.bytes < 0 {
			return 0, nil, malformed
		}
		assignments = append(assignments, a)
	}
}
