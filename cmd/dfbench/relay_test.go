// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// What goes through a relay comes out as it was, both ways, with the ends of
// the streams.
func TestRelay(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // the client sees what is missing
			}()
		}
	}()
	for _, handshake := range []bool{false, true} {
		r, err := newRelay(echo.Addr().String(), time.Millisecond, 1<<30, handshake)
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		c, err := net.Dial("tcp", r.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want := bytes.Repeat([]byte("0123456789"), 100_000)
		go func() {
			_, _ = c.Write(want)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("handshake %v: %d bytes came back of %d, %v", handshake, len(got), len(want), err)
		}
	}
}
