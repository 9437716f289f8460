// SPDX-License-Identifier: Apache-2.0

// Package swarm runs a real swarm on this machine: the built commands, each
// its own process with its own home and loopback address. The demo and the
// end-to-end tests stand on it.
//
// Invariants: every process that it starts, and every background process that
// those start, runs a program out of Programs.Dir, so that End finds all of
// them and nothing else; what it waits for is an event (a process's end, an
// answer), bounded by the caller's context.
package swarm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dragonfly/internal/network"
)

// Programs are the commands, built into Dir.
type Programs struct{ Dir string }

// Build compiles the named commands (supernode, dfget, …) into dir. The
// working directory must lie inside the module.
func Build(ctx context.Context, dir string, commands ...string) (Programs, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return Programs{}, err
	}
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	for _, c := range commands {
		args = append(args, "dragonfly/cmd/"+c)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0") // as they are installed
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if out, err := cmd.CombinedOutput(); err != nil {
		return Programs{}, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return Programs{Dir: dir}, nil
}

// Running lists the processes whose program lies in p.Dir, this process
// excepted.
func (p Programs) Running() []int {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil // only a bad pattern gives an error
	}
	var pids []int
	for _, link := range links {
		program, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(program, p.Dir+string(filepath.Separator)) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// CommandLine is what a process was started with, for messages.
func CommandLine(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return fmt.Sprintf("process %d, ended", pid)
	}
	return strings.ReplaceAll(strings.TrimRight(string(raw), "\x00"), "\x00", " ")
}

// Gone waits until a process has ended; it need not be a child of this one.
func Gone(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		// The descriptor becomes readable when the process ends; the time-out
		// only lets ctx be looked at.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch process %d: %w", pid, err)
		}
	}
	return fmt.Errorf("process %d (%s) still runs: %w", pid, CommandLine(pid), ctx.Err())
}

// End ends every process that runs a program of p: politely, and after the
// grace by force. It gives the command lines of those that it had to force.
func (p Programs) End(grace time.Duration) (forced []string) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		// A process may start another while it ends: look until none is left.
		for pids := p.Running(); len(pids) > 0; pids = p.Running() {
			for _, pid := range pids {
				if signal == syscall.SIGKILL {
					forced = append(forced, CommandLine(pid))
				}
				_ = syscall.Kill(pid, syscall.SIGCONT) // a stopped one cannot end
				_ = syscall.Kill(pid, signal)
			}
			for _, pid := range pids {
				if err := Gone(ctx, pid); err != nil {
					break
				}
			}
			if ctx.Err() != nil {
				break
			}
		}
		if signal == syscall.SIGTERM && ctx.Err() != nil {
			var again context.CancelFunc
			ctx, again = context.WithTimeout(context.Background(), 5*time.Second)
			defer again()
		}
	}
	return forced
}

// FreePort is a TCP port that nobody listens on. It lies below those that the
// kernel takes for outgoing connections (32768 on, by default): one of these
// could have it before the caller does.
func FreePort() (int, error) {
	const first, end = 16000, 32000
	var err error
	for range 100 {
		port := first + rand.IntN(end-first)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

// Supernode is a running supernode.
type Supernode struct {
	Addr string // host:port of its control port
	Cmd  *exec.Cmd
	Log  *Tail
	done chan struct{}
}

// SupernodeOptions say where a supernode lives.
type SupernodeOptions struct {
	Home          string
	Control, Data int // ports; 0: free ones
	Args          []string
	Hosts         string        // as in DaemonOptions
	Network       *network.Host // where it runs; nil: on the loopback address 127.0.0.1
}

// StartSupernode starts a supernode and returns when it answers.
func (p Programs) StartSupernode(ctx context.Context, o SupernodeOptions) (*Supernode, error) {
	for _, port := range []*int{&o.Control, &o.Data} {
		if *port == 0 {
			var err error
			if *port, err = FreePort(); err != nil {
				return nil, err
			}
		}
	}
	ip, start, dial := "127.0.0.1", (*exec.Cmd).Start, new(net.Dialer).DialContext
	if o.Network != nil {
		ip, dial = o.Network.IP.String(), o.Network.Dial
		start = func(c *exec.Cmd) error { return o.Network.Do(c.Start) }
	}
	args := append([]string{
		"--home-dir", o.Home, "--port", strconv.Itoa(o.Control), "--download-port", strconv.Itoa(o.Data),
		"--advertise-ip", ip,
	}, o.Args...)
	s := &Supernode{
		Addr: net.JoinHostPort(ip, strconv.Itoa(o.Control)),
		Cmd:  exec.Command(filepath.Join(p.Dir, "supernode"), args...),
		Log:  &Tail{},
		done: make(chan struct{}),
	}
	sees(s.Cmd, o.Hosts)
	s.Cmd.Env = Environment(o.Home)
	s.Cmd.Stdout, s.Cmd.Stderr = s.Log, s.Log
	if err := start(s.Cmd); err != nil {
		return nil, err
	}
	go func() {
		_ = s.Cmd.Wait() // told by ProcessState
		close(s.done)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := answers(ctx, dial, "http://"+s.Addr+"/_ping"); err == nil {
			return s, nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			return nil, fmt.Errorf("supernode ended at once: %s\n%s", s.Cmd.ProcessState, s.Log)
		case <-ctx.Done():
			s.Kill()
			return nil, fmt.Errorf("supernode does not answer: %w\n%s", ctx.Err(), s.Log)
		}
	}
}

// Kill ends the supernode at once, as a power cut would, and waits for it.
func (s *Supernode) Kill() {
	_ = s.Cmd.Process.Kill() // fails only when it has ended
	<-s.done
}

// Stop asks the supernode to end and waits for it.
func (s *Supernode) Stop() *os.ProcessState {
	_ = s.Cmd.Process.Signal(syscall.SIGTERM)
	<-s.done
	return s.Cmd.ProcessState
}

// Answers asks once for url and says whether a 200 came.
func Answers(ctx context.Context, url string) error {
	return answers(ctx, new(net.Dialer).DialContext, url)
}

func answers(ctx context.Context, dial func(ctx context.Context, network, addr string) (net.Conn, error), url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Transport{DialContext: dial, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// Environment is what a process of the swarm sees of the outside: its own
// home and nothing else.
func Environment(home string) []string {
	return []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + home, "PATH=/usr/bin:/bin", "TZ=UTC"}
}

// Host is one peer: a home, an address, and how its dfget is called.
type Host struct {
	Programs
	Home string
	IP   string
	Args []string // for every dfget of this host
}

// Dfget is a dfget on this host, not yet started, that has --json and writes
// to out.
func (h Host) Dfget(ctx context.Context, url, out string, args ...string) *exec.Cmd {
	all := slices.Concat([]string{"-u", url, "-o", out, "--home", h.Home, "--ip", h.IP, "--json"}, h.Args, args)
	cmd := exec.CommandContext(ctx, filepath.Join(h.Dir, "dfget"), all...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = Environment(h.Home)
	return cmd
}

// Result is the last line of dfget --json.
type Result struct {
	Success    bool    `json:"success"`
	Length     int64   `json:"length"`
	FromSource int64   `json:"fromSource"`
	FromSeed   int64   `json:"fromSeed"`
	FromPeers  int64   `json:"fromPeers"`
	Seconds    float64 `json:"seconds"`
	Error      string  `json:"error"`
}

// Fetched is how much the download moved over the network.
func (r Result) Fetched() int64 { return r.FromSource + r.FromSeed + r.FromPeers }

// Download runs a dfget to its end. The error of one that failed holds what
// it printed.
func (h Host) Download(ctx context.Context, url, out string, args ...string) (Result, error) {
	cmd := h.Dfget(ctx, url, out, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	result, parseErr := ParseResult(stdout.Bytes())
	switch {
	case err != nil:
		return result, fmt.Errorf("dfget: %w\n%s%s", err, stdout.Bytes(), stderr.Bytes())
	case parseErr != nil:
		return result, fmt.Errorf("dfget: %w\n%s", parseErr, stdout.Bytes())
	}
	return result, nil
}

// ParseResult finds the result in what dfget --json printed.
func ParseResult(stdout []byte) (Result, error) {
	lines := bufio.NewScanner(bytes.NewReader(stdout))
	lines.Buffer(nil, 1<<20)
	var last []byte
	for lines.Scan() {
		if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
			last = append(last[:0], line...)
		}
	}
	var r Result
	if err := json.Unmarshal(last, &r); err != nil {
		return Result{}, fmt.Errorf("the last line %.200q is no result: %w", last, err)
	}
	return r, nil
}
