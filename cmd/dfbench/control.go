// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dragonfly"
	"dragonfly/internal/swarm"
	"dragonfly/wire"
)

// What holds.
const (
	controlWait = 50 * time.Millisecond // p99 of a sync with work
	// controlFloor is the part of the offered reports that has to arrive.
	controlFloor = 0.95
)

// controlled is what one rate of reports cost.
type controlled struct {
	Peers     int     `json:"peers"`
	Active    int     `json:"active"`
	Offered   int     `json:"offered"` // reports a second
	Reports   float64 `json:"reports"` // pieces and parts of pieces reported a second
	Syncs     float64 `json:"syncs"`   // answered a second, those that only wait included
	Median    float64 `json:"medianMs"`
	P99       float64 `json:"p99Ms"`
	Slowest   float64 `json:"slowestMs"`
	Supernode float64 `json:"supernodeCores"`
	Cost      float64 `json:"supernodeUsPerReport"` // processor time
	Load      float64 `json:"loadCores"`
	Others    float64 `json:"otherCores"` // what else ran on the machine meanwhile
	Memory    int64   `json:"memory"`     // of the supernode, its peak so far
	Holds     bool    `json:"holds"`      // the p99, at nearly all reports
}

type controlOptions struct {
	peers, active, reports, tasks, slots int
	warm, time                           time.Duration
	profile                              string
}

// control is the command that measures the control plane.
func control() *cobra.Command {
	o := controlOptions{peers: 10_000, active: 2500, reports: 25_000, tasks: 3, slots: 4, warm: 8 * time.Second, time: 15 * time.Second}
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "control",
		Short: "measure one supernode with thousands of live sessions",
		Long: `control opens thousands of sessions at one supernode, a process of its own, over
real sockets, each peer at an address of its own. Most of them have everything and
wait for news. The active ones get several tasks at once: once in a period they
report what they were told to fetch, pieces or parts of pieces; no data is moved. The
sync that acknowledges an answer stays open until the next report. Tasks that a
peer has are served on for a while and then begun anew.

The time of a sync with work counts from the moment when its report was due to
the answer with new assignments; a peer that falls behind its period does not
stop that clock. The load runs on the same cores; what other processes take of
them, which makes syncs late too, is told.

Wanted: a p99 of 50 ms and 1 GiB of memory at 25,000 reports in 6,000 syncs a
second. When the p99 is not held, fewer of the active peers report, until the
highest rate is found that holds it.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lines, err := o.measure(cmd.Context(), dir, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), asJSON, lines, controlTable)
		},
	}
	cmd.Flags().IntVar(&o.peers, "peers", o.peers, "live sessions")
	cmd.Flags().IntVar(&o.active, "active", o.active, "sessions that get and report pieces; the others serve")
	cmd.Flags().IntVar(&o.reports, "reports", o.reports, "pieces, or parts of them, reported a second by all of them")
	cmd.Flags().IntVar(&o.tasks, "tasks", o.tasks, "that a peer gets at once")
	cmd.Flags().IntVar(&o.slots, "slots", o.slots, "pieces of one task in work at a peer; a report tells of all of them")
	cmd.Flags().DurationVar(&o.warm, "warm", o.warm, "load before the measurement")
	cmd.Flags().DurationVar(&o.time, "time", o.time, "of the measurement")
	cmd.Flags().StringVar(&o.profile, "profile", "", "file for a CPU profile of the supernode; its heap goes to the same name with .heap")
	cmd.Flags().StringVar(&dir, "dir", "", "where homes and files go; default: a temporary directory")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all figures as JSON")
	return cmd
}

// controlTasks is how many tasks there are for each that a peer gets at once.
const controlTasks = 2

func (o controlOptions) measure(ctx context.Context, dir string, progress io.Writer) (lines []controlled, err error) {
	switch {
	case o.peers < 1 || o.peers > maxLoadPeers:
		return nil, fmt.Errorf("--peers %d: want 1 to %d", o.peers, maxLoadPeers)
	case o.active < 1 || o.active > o.peers:
		return nil, fmt.Errorf("--active %d: want 1 to --peers", o.active)
	case o.reports < 1 || o.tasks < 1 || o.slots < 1 || o.tasks*o.slots > loadFree || o.time <= 0:
		return nil, fmt.Errorf("want --reports, --tasks, --slots and --time of more than 0, and at most %d pieces in work at a peer", loadFree)
	}
	if err := allowFiles(o.connections() + loadReserve); err != nil {
		return nil, err
	}
	b := &bench{size: 200 << 20, runs: 1, out: progress}
	err = b.measure(ctx, dir, figure{name: "control", what: strconv.Itoa(o.peers) + " live sessions", run: func(ctx context.Context, b *bench) error {
		lines, err = o.run(ctx, b)
		return err
	}})
	return lines, err
}

// connections is how many the load holds: whoever reports needs a second one.
func (o controlOptions) connections() int { return o.peers + o.active }

// allowFiles makes room for n open files in this process and in those that it
// starts. Only root may do so beyond the hard limit.
func allowFiles(n int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if limit.Cur >= uint64(n) {
		return nil
	}
	limit.Cur, limit.Max = uint64(n), max(limit.Max, uint64(n))
	// Through syscall, which then passes the limit on to processes started.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, (*syscall.Rlimit)(&limit)); err != nil {
		return fmt.Errorf("%d open files are needed, more than allowed (%w): raise the limit with ulimit -Hn as root, or take fewer --peers and --active", n, err)
	}
	return nil
}

func (o controlOptions) run(ctx context.Context, b *bench) (lines []controlled, err error) {
	// Debug level would log each session; its file is no part of the figure.
	sn, err := b.supernode(ctx, "supernode", "--log-level", "warn", "--profiler")
	if err != nil {
		return nil, err
	}
	defer sn.Stop()
	l := newLoad(sn.Addr, o)
	if l.tasks, err = b.seeded(ctx, sn.Addr, o.tasks*controlTasks); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	began := time.Now()
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	b.say("%d sessions over %d connections in %v", o.peers, o.connections(), time.Since(began).Round(100*time.Millisecond))
	rate := func(reports int, warm, time time.Duration, profile string) (holds bool, err error) {
		line, err := l.window(ctx, sn, reports, warm, time, profile)
		if err == nil {
			lines = append(lines, line)
			b.say("%d reports/s: p99 %.1f ms at %.0f reports, %.0f syncs; supernode %.2f cores, %.0f µs a report; load %.2f cores, others %.2f",
				reports, line.P99, line.Reports, line.Syncs, line.Supernode, line.Cost, line.Load, line.Others)
		}
		return line.Holds, err
	}
	holds, err := rate(o.reports, o.warm, o.time, o.profile)
	for low, high := 0, o.reports; err == nil && low < high-o.reports/16 && (low > 0 || !holds); {
		middle := (low + high) / 2
		if holds, err = rate(middle, o.warm/2, o.time/2, ""); holds {
			low = middle
		} else {
			high = middle
		}
	}
	return lines, err
}

// seeded makes the seed have some tasks, so that all digests are known, and
// gives how to register for them with all of it.
func (b *bench) seeded(ctx context.Context, node string, tasks int) (all []dragonfly.Registration, err error) {
	origin := b.origin
	defer func() { b.origin = origin }()
	h := b.host(1, node)
	probe, err := wire.NewClient(node, wire.ClientOptions{}).Open(ctx, dragonfly.Hello{Protocol: dragonfly.ProtocolNumber, Agent: strings.Repeat("0", 32), Build: "dfbench"})
	if err != nil {
		return nil, err
	}
	for i := range tasks {
		b.origin = origin + "-" + strconv.Itoa(i)
		if _, _, err := b.dfget(ctx, h); err != nil {
			return nil, err
		}
		r := dragonfly.Registration{Job: "dfbench", Serve: true, Request: dragonfly.Request{URL: b.origin}}
		info, err := probe.Register(ctx, r)
		if err != nil {
			return nil, err
		}
		r.Version, r.Layout, r.Held = info.Version, info.Layout, dragonfly.NewPieceSet(info.Layout.Pieces())
		all = append(all, r)
	}
	return all, errors.Join(probe.Close(ctx, "measured"), b.remove(ctx, h))
}

// window offers one rate and measures it.
func (l *load) window(ctx context.Context, sn *swarm.Supernode, reports int, warm, length time.Duration, profile string) (controlled, error) {
	l.offer(reports)
	if err := l.pass(ctx, warm); err != nil {
		return controlled{}, err
	}
	profiled := make(chan error, 1)
	if profile != "" {
		go func() {
			profiled <- errors.Join(
				fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", sn.Addr, max(1, int(length/time.Second)-1)), profile),
				fetch(ctx, "http://"+sn.Addr+"/debug/pprof/heap", profile+".heap"))
		}()
	} else {
		profiled <- nil
	}
	pid := sn.Cmd.Process.Pid
	cpu, own, all, began := processCPU(pid), ownCPU(), machineCPU(), time.Now()
	l.measure(true)
	err := l.pass(ctx, length)
	waits, told, syncs := l.measure(false)
	took := time.Since(began).Seconds()
	if err = errors.Join(err, <-profiled); err != nil {
		return controlled{}, err
	}
	memory, err := peakMemory(pid)
	if err != nil {
		return controlled{}, err
	}
	if len(waits) == 0 {
		return controlled{}, errors.New("no sync was answered with work: the supernode's log may say why")
	}
	slices.Sort(waits)
	line := controlled{
		Peers: l.o.peers, Active: l.o.active, Offered: reports, Reports: float64(told) / took, Syncs: float64(syncs) / took,
		Median: ms(waits[len(waits)/2]), P99: ms(waits[len(waits)*99/100]), Slowest: ms(waits[len(waits)-1]),
		Supernode: (processCPU(pid) - cpu).Seconds() / took, Load: (ownCPU() - own).Seconds() / took, Memory: int64(memory),
	}
	line.Others = max(0, (machineCPU()-all).Seconds()/took-line.Supernode-line.Load)
	line.Cost = line.Supernode / max(1, line.Reports) * 1e6
	line.Holds = line.P99 <= ms(controlWait) && line.Reports >= controlFloor*float64(reports)
	return line, nil
}

// ownCPU is the processor time of this process.
func ownCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// machineCPU is the processor time that everything on this machine took.
func machineCPU() (total time.Duration) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	for i, f := range strings.Fields(line) {
		const name, idle, waiting, guest = 0, 4, 5, 9 // the guests' time is in the user's
		if i != name && i != idle && i != waiting && i < guest {
			ticks, _ := strconv.Atoi(f)
			total += time.Duration(ticks) * clockTick
		}
	}
	return total
}

// fetch writes what a URL gives to a file.
func fetch(ctx context.Context, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, resp.Body)
	return errors.Join(err, file.Close())
}

func controlTable(out io.Writer, lines []controlled) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "peers\tactive\toffered/s\treports/s\tsyncs/s\tmedian\tp99\tslowest\tsupernode\ta report\tload\tothers\tmemory\t")
	highest := controlled{}
	for _, l := range lines {
		mark := ""
		if l.Holds {
			mark = "holds"
			if l.Offered > highest.Offered {
				highest = l
			}
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%.0f\t%.0f\t%.1f ms\t%.1f ms\t%.0f ms\t%.2f cores\t%.0f µs\t%.2f cores\t%.2f cores\t%s\t%s\n", l.Peers, l.Active, l.Offered, l.Reports, l.Syncs,
			l.Median, l.P99, l.Slowest, l.Supernode, l.Cost, l.Load, l.Others, dragonfly.Size(l.Memory>>20<<20), mark)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if highest.Offered == 0 {
		_, err := fmt.Fprintf(out, "no rate held a p99 of %v\n", controlWait)
		return err
	}
	_, err := fmt.Fprintf(out, "highest rate that held a p99 of %v: %.0f reports/s in %.0f syncs/s, %s of memory\n",
		controlWait, highest.Reports, highest.Syncs, dragonfly.Size(highest.Memory>>20<<20))
	return err
}
