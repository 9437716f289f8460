// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/internal/swarm"
)

// bench is what every figure works with.
type bench struct {
	dir      string
	size     int64
	runs     int
	peers    int
	out      io.Writer
	programs swarm.Programs
	origin   string       // URL of the file
	sent     atomic.Int64 // bytes that the origin sent
	onSent   func(total int64)
	pace     *rate.Limiter // of what the origin sends; nil: none
}

func (b *bench) path(parts ...string) string {
	return filepath.Join(append([]string{b.dir}, parts...)...)
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, "  "+format+"\n", args...) }

// printJSON prints figures for programs.
func printJSON(out io.Writer, figures any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(figures)
}

// show prints figures as JSON, or as the table that people read.
func show[T any](out io.Writer, asJSON bool, figures T, table func(io.Writer, T) error) error {
	if asJSON {
		return printJSON(out, figures)
	}
	return table(out, figures)
}

// makeFile writes the file that the origin serves.
func (b *bench) makeFile() error {
	file, err := os.Create(b.path("file"))
	if err != nil {
		return err
	}
	defer file.Close()
	// Beyond 2 GiB the file is sparse: those figures are not about time.
	random := min(b.size, 2<<30)
	if _, err := io.CopyN(file, rand.NewChaCha8([32]byte{1}), random); err != nil {
		return err
	}
	return file.Truncate(b.size)
}

// serveOrigin writes the file and serves it in this process, with sendfile.
func (b *bench) serveOrigin() (stop func(), err error) {
	if err := b.makeFile(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return b.serve(l), nil
}

// serve serves the file.
func (b *bench) serve(l net.Listener) (stop func()) {
	b.origin = "http://" + l.Addr().String() + "/file"
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+strconv.FormatInt(b.size, 10)+`"`)
		http.ServeFile(&counted{w, b}, r, b.path("file"))
	})}
	go func() { _ = srv.Serve(l) }()
	return func() { srv.Close() }
}

// counted counts what the origin sends and keeps sendfile.
type counted struct {
	http.ResponseWriter
	b *bench
}

func (c *counted) count(n int64) {
	total := c.b.sent.Add(n)
	if c.b.onSent != nil {
		c.b.onSent(total)
	}
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.count(int64(n))
	return n, err
}

func (c *counted) ReadFrom(r io.Reader) (total int64, err error) {
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	// In steps, so that the count follows what was sent.
	for limited.N > 0 && err == nil {
		part := &io.LimitedReader{R: limited.R, N: min(limited.N, 4<<20)}
		if pace := c.b.pace; pace != nil {
			part.N = min(part.N, int64(pace.Burst()))
			if err := pace.WaitN(context.Background(), int(part.N)); err != nil {
				return total, err
			}
		}
		var n int64
		n, err = c.ResponseWriter.(io.ReaderFrom).ReadFrom(part)
		limited.N -= n
		total += n
		c.count(n)
		if n == 0 {
			break
		}
	}
	return total, err
}

// cost is what a command took.
type cost struct {
	wall, cpu time.Duration
}

// curl measures a plain download.
func (b *bench) curl(ctx context.Context, url string) (cost, error) {
	cmd := exec.CommandContext(ctx, "curl", "-sS", "--fail", "-o", b.path("curl.out"), url)
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return cost{}, fmt.Errorf("curl: %w\n%s", err, out)
	}
	c := cost{time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	return c, os.Remove(b.path("curl.out"))
}

// dfget measures a download by a host that has an agent or starts one; the
// agent's share is counted in. Afterwards it looks whether it brought the file.
func (b *bench) dfget(ctx context.Context, h swarm.Host, args ...string) (cost, swarm.Result, error) {
	out := b.path("dfget.out")
	c, result, err := b.dfgetTo(ctx, h, out, args...)
	if err != nil {
		return c, result, err
	}
	return c, result, os.Remove(out)
}

// dfgetTo is dfget with an output that stays.
func (b *bench) dfgetTo(ctx context.Context, h swarm.Host, to string, args ...string) (cost, swarm.Result, error) {
	before := b.agentCPU(h)
	cmd := h.Dfget(ctx, b.origin, to, args...)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return cost{}, swarm.Result{}, fmt.Errorf("dfget: %w\n%s", err, out)
	}
	c := cost{time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	c.cpu += b.agentCPU(h) - before
	result, err := swarm.ParseResult(out)
	if err != nil {
		return c, result, err
	}
	return c, result, same(b.path("file"), to)
}

// host is a peer with a home of its own.
func (b *bench) host(n int, nodes ...string) swarm.Host {
	h := swarm.Host{Programs: b.programs, Home: b.path("peer" + strconv.Itoa(n)), IP: fmt.Sprintf("127.0.1.%d", n%250+1)}
	h.Args = []string{"--locallimit", "0"}
	if len(nodes) > 0 {
		h.Args = append(h.Args, "--node", strings.Join(nodes, ","))
	}
	return h
}

func (b *bench) supernode(ctx context.Context, home string, args ...string) (*swarm.Supernode, error) {
	return b.programs.StartSupernode(ctx, swarm.SupernodeOptions{Home: b.path(home), Args: args})
}

// agents are the background processes of a host.
func (b *bench) agents(h swarm.Host) (pids []int) {
	for _, pid := range b.programs.Running() {
		if strings.Contains(swarm.CommandLine(pid), h.Home) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// clockTick is the unit of times in /proc on Linux (USER_HZ).
const clockTick = time.Second / 100

func (b *bench) agentCPU(h swarm.Host) (total time.Duration) {
	for _, pid := range b.agents(h) {
		total += processCPU(pid)
	}
	return total
}

// processCPU is the processor time that a process and its threads took; 0 if it has
// ended.
func processCPU(pid int) time.Duration {
	var t unix.Timespec
	clock := int32(^pid<<3 | 2) // the process's, as clock_getcpuclockid makes it: /proc counts in steps of 10 ms
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// peakMemory is a process's largest resident set.
func peakMemory(pid int) (dragonfly.Size, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			return dragonfly.Size(kb << 10), err
		}
	}
	return 0, fmt.Errorf("no VmHWM of process %d", pid)
}

// remove ends a host's agent, which leaves its swarms, and forgets its home.
func (b *bench) remove(ctx context.Context, h swarm.Host) error {
	for _, pid := range b.agents(h) {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Signal(syscall.SIGTERM) // fails only when it has ended
		}
		if err := swarm.Gone(ctx, pid); err != nil {
			return err
		}
	}
	return os.RemoveAll(h.Home)
}

// progress reads the lines of dfget --json until done reaches the wanted
// bytes.
func progress(r io.Reader, wanted int64) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var p struct {
			Done int64 `json:"done"`
		}
		if json.Unmarshal(lines.Bytes(), &p) == nil && p.Done >= wanted {
			return nil
		}
	}
	if lines.Err() != nil {
		return fmt.Errorf("read what dfget prints: %w", lines.Err())
	}
	return fmt.Errorf("dfget ended before %d bytes", wanted)
}

func median[T ~int64 | ~float64](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}
