// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// originCommand makes the demo's own program serve a file instead.
const originCommand = "serve-origin"

// origin is the process that serves the file.
type origin struct {
	url   string
	sum   [sha256.Size]byte
	cmd   *exec.Cmd
	alive io.Closer // its standard input: it ends when this is closed
}

// startOrigin writes a file of random bytes and starts a process that serves
// it. That process ends with this one, however this one ends.
func startOrigin(dir string, size int64) (*origin, error) {
	o := &origin{}
	path := filepath.Join(dir, "file")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, h), rand.Reader, size)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("write the origin's file: %w", err)
	}
	o.sum = [sha256.Size]byte(h.Sum(nil))

	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	o.cmd = exec.Command(program, originCommand, path)
	o.cmd.Stderr = os.Stderr
	stdin, err := o.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	o.alive = stdin
	stdout, err := o.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		o.stop()
		return nil, fmt.Errorf("the origin did not start: %w", err)
	}
	o.url = strings.TrimSpace(line)
	return o, nil
}

func (o *origin) stop() {
	_ = o.alive.Close()
	_ = o.cmd.Wait() // it has said on stderr what went wrong
}

// sent asks how many bytes of the file have left the origin.
func (o *origin) sent(ctx context.Context) (n int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(o.url, "/file")+"/sent", nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Transport{}).RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := fmt.Fscan(resp.Body, &n); err != nil {
		return 0, fmt.Errorf("the origin's count: %w", err)
	}
	return n, nil
}

// serveOrigin is the origin's process: it serves the file at path under /file
// with a validator and ranges, says its URL on w, and ends when alive ends.
func serveOrigin(path string, alive io.Reader, w io.Writer) error {
	var sent atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		http.ServeFile(&countingWriter{w, &sent}, r, path)
	})
	mux.HandleFunc("GET /sent", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, sent.Load()) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Fprintf(w, "http://%s/file\n", l.Addr())
	_, err = io.Copy(io.Discard, alive)
	err = errors.Join(err, server.Close())
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// countingWriter counts the bytes of bodies, also those that go out by
// sendfile.
type countingWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

func (c *countingWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.sent.Add(n)
	return n, err
}
