// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/internal/network"
	"dragonfly/internal/swarm"
)

// swarmOptions are the flags of dfbench swarm.
type swarmOptions struct {
	peers      []int
	size       dragonfly.Size
	rate       linkRate
	queue      time.Duration
	congestion string
	systems    []string
	cold       bool
	limit      time.Duration
	noRoot     bool
	dir        string
	keep       string
	json       string
	chart      string
	timeline   string
}

const swarmHelp = `swarm brings one file to many hosts at once and measures when the last of them has
it, beside other ways to do that, in one run on the same links:

  ours   dfget on each host, a supernode, an origin
  curl   curl on each host, straight from the origin
  aria2  aria2c on each host as a BitTorrent swarm, the origin's host as its seed

As root each host is a network namespace with a link of its own to a switch,
limited to --rate in both directions (tc tbf, a queue of --queue); the origin and
the supernode are hosts like all others. Everything that was made goes at the
end, and at the next start when a run was killed. Without root, or with
--no-root, all is on loopback addresses and the programs limit themselves by
their own flags, which is less exact.

The background agents of all hosts are started beforehand, as on a host that
used dfget in the last minutes, for it is not the start of N processes on one
machine that is to be measured; --cold leaves their start to dfget. Each of our
peers is given one core. A time goes
from the start of the first process that fetches to the end of the last one.
Each copy is verified by SHA-256 after that.

The bound is what one curl takes alone over such a link: with a seed as fast as
a peer and N equal peers nothing can be faster than size ÷ rate.`

func swarmCommand() *cobra.Command {
	o := swarmOptions{peers: []int{8}, size: 32 << 20, rate: linkRate(20_000_000 / 8)}
	cmd := &cobra.Command{
		Use:   "swarm",
		Short: "bring one file to many hosts over limited links, beside curl and BitTorrent",
		Long:  swarmHelp,
		Example: "  dfbench swarm --peers 32 --size 32MB --rate 20mbit\n" +
			"  dfbench swarm --peers 4,8,16,32,64 --chart swarm.svg --timeline timeline.svg --json swarm.json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runSwarms(cmd.Context(), o, cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	f.IntSliceVar(&o.peers, "peers", o.peers, "how many hosts fetch at once; several numbers are measured one after the other")
	f.Var(&o.size, "size", "size of the file")
	f.Var(&o.rate, "rate", "of each link and direction: 20mbit, 1gbit, or bytes a second as in 2MB")
	f.DurationVar(&o.queue, "queue", 50*time.Millisecond, "how long a packet may wait at a link")
	f.StringVar(&o.congestion, "congestion", "", "congestion control of all hosts, one that the machine allows; default: the machine's")
	f.StringSliceVar(&o.systems, "systems", nil, "ours, curl, aria2; default: all that are installed")
	f.BoolVar(&o.cold, "cold", false, "let each dfget start its agent within the measured time")
	f.DurationVar(&o.limit, "limit", 10*time.Minute, "give a run up after this time")
	f.BoolVar(&o.noRoot, "no-root", false, "use loopback addresses and the programs' own limits even as root")
	f.StringVar(&o.dir, "dir", "", "where homes and files go; default: a temporary directory")
	f.StringVar(&o.keep, "keep", "", "keep the logs of our own processes and the supernode's last state in this directory")
	f.StringVar(&o.json, "json", "", "write all figures to this file")
	f.StringVar(&o.chart, "chart", "", "draw the times by the number of peers into this SVG file, with simulated ones to 1,200 peers")
	f.StringVar(&o.timeline, "timeline", "", "draw what our largest swarm's links carried into this SVG file; as root")
	return cmd
}

// linkRate is a rate in bytes a second that may be written in bits.
type linkRate int64

func (r *linkRate) Set(s string) error {
	for suffix, factor := range map[string]float64{"kbit": 1e3, "mbit": 1e6, "gbit": 1e9} {
		if digits, ok := strings.CutSuffix(s, suffix); ok {
			n, err := strconv.ParseFloat(digits, 64)
			if err != nil || n <= 0 || n*factor > 1e12 {
				return fmt.Errorf("rate %q: want a number before %s, as in 20%s", s, suffix, suffix)
			}
			*r = linkRate(n * factor / 8)
			return nil
		}
	}
	n, err := dragonfly.ParseRate(s)
	if err == nil && n <= 0 {
		err = fmt.Errorf("rate %q: want more than 0", s)
	}
	*r = linkRate(n)
	return err
}

func (r *linkRate) Type() string { return "rate" }

func (r *linkRate) String() string {
	return strconv.FormatFloat(float64(*r)*8/1e6, 'f', -1, 64) + "mbit"
}

// contender is one way to bring a file to many hosts.
type contender struct {
	name    string
	program string // that has to be installed; "": ours
	// prepare starts what stands ready before the clock runs, and gives what
	// each host does then: fetch returns when the whole file is at out.
	prepare func(ctx context.Context, w *world) (fetch func(ctx context.Context, host int, out string) error, err error)
}

var contenders = []contender{
	{"ours", "", ours},
	{"curl", "curl", curls},
	{"aria2", "aria2c", aria2},
}

// selected are the contenders that were asked for, or that are installed.
func (o *swarmOptions) selected() (out []contender, err error) {
	for _, c := range contenders {
		asked := slices.Contains(o.systems, c.name)
		if len(o.systems) > 0 && !asked {
			continue
		}
		if c.program != "" {
			if _, err := lookPath(c.program); err != nil {
				if asked {
					return nil, fmt.Errorf("%s: %w: install it, or leave it out of --systems", c.name, err)
				}
				continue
			}
		}
		out = append(out, c)
	}
	for _, name := range o.systems {
		if !slices.ContainsFunc(contenders, func(c contender) bool { return c.name == name }) {
			return nil, fmt.Errorf("system %q: want ours, curl or aria2", name)
		}
	}
	return out, nil
}

func (o *swarmOptions) check() error {
	for _, n := range o.peers {
		if n < 1 || n > 500 {
			return fmt.Errorf("--peers %d: want 1 to 500", n)
		}
	}
	if o.size < 1 || o.size > 2<<30 {
		return fmt.Errorf("--size %s: want at most 2GB", o.size)
	}
	if o.queue < time.Millisecond || o.queue > time.Second {
		return fmt.Errorf("--queue %s: want 1ms to 1s", o.queue)
	}
	if o.noRoot && o.timeline != "" {
		return errors.New("--timeline reads the counters of links: run as root, without --no-root")
	}
	return nil
}

// Numbers of hosts in a network: the peers follow.
const (
	originHost = 0
	nodeHost   = 1
	firstPeer  = 2
)

// world is what one run has: hosts, an origin with the file, directories.
type world struct {
	*bench
	o     *swarmOptions
	net   *network.Net // nil: loopback addresses
	peers int
	home  string // of this run
	undo  []func()
	keep  string // where logs go; "": nowhere
}

func (w *world) later(f func()) { w.undo = append(w.undo, f) }

// host is where number i runs; nil without namespaces.
func (w *world) on(i int) *network.Host {
	if w.net == nil {
		return nil
	}
	return w.net.Hosts[i]
}

// firstAddr is the address of the first host of a network, firstLoopback
// without one.
var (
	firstAddr     = netip.MustParseAddr("10.77.0.1")
	firstLoopback = netip.MustParseAddr("127.77.0.1")
)

// ip is the address of host i.
func (w *world) ip(i int) string {
	if w.net != nil {
		return w.net.Hosts[i].IP.String()
	}
	a := firstLoopback.As4()
	a[2] += byte((i + 1) / 250)
	a[3] = byte((i+1)%250 + 1)
	return netip.AddrFrom4(a).String()
}

// listen listens on host i; port 0 is any.
func (w *world) listen(i int, port uint16) (net.Listener, error) {
	if h := w.on(i); h != nil {
		return h.Listen(port)
	}
	return net.Listen("tcp", net.JoinHostPort(w.ip(i), strconv.Itoa(int(port))))
}

// do calls f on host i.
func (w *world) do(i int, f func() error) error {
	if h := w.on(i); h != nil {
		return h.Do(f)
	}
	return f()
}

// path is a file of this run.
func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.home}, parts...)...)
}

// swarmPrefix begins the names of the namespaces.
const swarmPrefix = "dfbench-"

// newWorld builds the hosts of a run and starts the origin.
func newWorld(ctx context.Context, b *bench, o *swarmOptions, peers int) (*world, error) {
	w := &world{bench: b, o: o, peers: peers, home: filepath.Join(b.dir, "run")}
	w.sent.Store(0)
	if err := os.Mkdir(w.home, 0o755); err != nil {
		return nil, err
	}
	w.later(func() { _ = os.RemoveAll(w.home) })
	if o.noRoot {
		w.pace = rate.NewLimiter(rate.Limit(o.rate), 64<<10)
	} else {
		var err error
		w.net, err = network.Build(ctx, network.Options{Prefix: swarmPrefix, Hosts: firstPeer + peers, First: firstAddr,
			Shape: network.Shape{Rate: dragonfly.Rate(o.rate), Queue: o.queue}, Congestion: o.congestion})
		if err != nil {
			return w, err
		}
		w.later(func() {
			if err := w.net.Close(); err != nil {
				w.say("%v", err)
			}
		})
	}
	l, err := w.listen(originHost, 0)
	if err != nil {
		return w, err
	}
	w.later(w.serve(l))
	return w, nil
}

// close ends and removes what the run made, the last first.
func (w *world) close() {
	for _, f := range slices.Backward(w.undo) {
		f()
	}
	w.undo = nil
}

// outcome is one run: one file, one system, so many peers.
type outcome struct {
	System string `json:"system"`
	Peers  int    `json:"peers"`
	// Seconds are those of each peer that came to its end, in order.
	Seconds []float64 `json:"seconds"`
	Slowest float64   `json:"slowest"` // seconds; of a run that was given up: how long it was
	Median  float64   `json:"median"`
	Ratio   float64   `json:"ratio"`  // Slowest ÷ bound
	Origin  float64   `json:"origin"` // bytes that the origin's file server sent ÷ size
	CPU     float64   `json:"cpu"`    // share of all cores that was busy
	GivenUp bool      `json:"givenUp,omitempty"`
	Error   string    `json:"error,omitempty"`

	traffic []sample
}

// run measures one system.
func (b *bench) swarm(ctx context.Context, o *swarmOptions, c contender, peers int, sum [sha256.Size]byte) (r outcome, err error) {
	w, err := newWorld(ctx, b, o, peers)
	if w != nil {
		defer w.close()
	}
	if err != nil {
		return r, err
	}
	if o.keep != "" {
		w.keep = filepath.Join(o.keep, c.name+"-"+strconv.Itoa(peers))
		if err := os.MkdirAll(w.keep, 0o755); err != nil {
			return r, err
		}
	}
	fetch, err := c.prepare(ctx, w)
	if err != nil {
		return r, fmt.Errorf("prepare %s: %w", c.name, err)
	}
	limited, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	r = outcome{System: c.name, Peers: peers}
	stop := w.watch()
	busy := processorTime()
	began := time.Now()
	took := make([]time.Duration, peers)
	errs := make([]error, peers)
	var all sync.WaitGroup
	for i := range peers {
		all.Go(func() {
			errs[i] = fetch(limited, firstPeer+i, w.path("out"+strconv.Itoa(i)))
			took[i] = time.Since(began)
		})
	}
	all.Wait()
	r.Slowest = time.Since(began).Seconds()
	r.CPU = processorTime().since(busy)
	r.traffic = stop()
	r.Origin = float64(w.sent.Load()) / float64(w.size)
	r.GivenUp = limited.Err() != nil && ctx.Err() == nil
	for i := range peers {
		if errs[i] == nil {
			errs[i] = verify(w.path("out"+strconv.Itoa(i)), sum)
		}
		if errs[i] == nil {
			r.Seconds = append(r.Seconds, took[i].Seconds())
		} else {
			errs[i] = fmt.Errorf("peer %d: %w", i+1, errs[i])
		}
	}
	slices.Sort(r.Seconds)
	if n := len(r.Seconds); n > 0 {
		r.Median = r.Seconds[n/2]
	}
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err := errors.Join(errs...); err != nil {
		r.Error = err.Error()
		if !r.GivenUp {
			return r, err
		}
	}
	return r, nil
}

// verify says whether a copy is the file.
func verify(path string, sum [sha256.Size]byte) error {
	got, err := digestOf(path)
	if err == nil && got != sum {
		err = fmt.Errorf("%s has SHA-256 %s, want %s", filepath.Base(path), hex.EncodeToString(got[:]), hex.EncodeToString(sum[:]))
	}
	return err
}

func digestOf(path string) (sum [sha256.Size]byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// report is all that dfbench swarm measured.
type report struct {
	Size       int64     `json:"size"`       // bytes
	Rate       int64     `json:"rate"`       // of each link, bytes a second, headers included
	Reached    float64   `json:"reached"`    // bytes a second that curl alone reached
	Bound      float64   `json:"bound"`      // seconds
	Queue      string    `json:"queue"`      // at each link
	Congestion string    `json:"congestion"` // control of TCP
	Shaped     bool      `json:"shaped"`     // links in namespaces, else the programs' own limits
	Cores      int       `json:"cores"`
	Runs       []outcome `json:"runs"`
	Simulated  []point   `json:"simulated,omitempty"`
}

// tooBusy is the share of the processor above which a run says more about this
// machine than about its links.
const tooBusy = 0.85

func runSwarms(ctx context.Context, o swarmOptions, out io.Writer) error {
	if os.Geteuid() != 0 {
		o.noRoot = true
	}
	if err := o.check(); err != nil {
		return err
	}
	chosen, err := o.selected()
	if err != nil {
		return err
	}
	release, err := onlyOne()
	if err != nil {
		return err
	}
	defer release()
	if !o.noRoot {
		if err := network.Clean(swarmPrefix); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(o.dir, "dfbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{size: int64(o.size), dir: dir, out: out}
	if err := os.Mkdir(b.path("bin"), 0o755); err != nil {
		return err
	}
	if b.programs, err = swarm.Build(ctx, b.path("bin"), "dfget", "supernode"); err != nil {
		return err
	}
	defer b.programs.End(5 * time.Second)
	if err := b.makeFile(); err != nil {
		return err
	}
	sum, err := digestOf(b.path("file"))
	if err != nil {
		return err
	}
	rep := report{Size: b.size, Rate: int64(o.rate), Queue: o.queue.String(), Congestion: o.congestion, Shaped: !o.noRoot, Cores: runtime.NumCPU()}
	one, err := b.swarm(ctx, &o, contenders[1], 1, sum)
	if err != nil {
		return fmt.Errorf("one curl alone: %w", err)
	}
	rep.Bound = one.Slowest
	rep.Reached = float64(rep.Size) / rep.Bound
	fmt.Fprintf(out, "swarm: %s to N hosts at once, links of %s each way (%s), bound %.2f s: one curl alone, %.2f Mbit/s\n",
		o.size, &o.rate, linkKind(rep.Shaped), rep.Bound, rep.Reached*8/1e6)
	table := newTable(out)
	for _, n := range o.peers {
		for _, c := range chosen {
			r, err := b.swarm(ctx, &o, c, n, sum)
			if err != nil {
				return fmt.Errorf("%s with %d peers: %w", c.name, n, err)
			}
			r.Ratio = r.Slowest / rep.Bound
			rep.Runs = append(rep.Runs, r)
			table.row(r)
		}
	}
	table.end(rep)
	if o.chart != "" {
		if rep.Simulated, err = simulatedCurve(ctx, rep); err != nil {
			return err
		}
		if err := os.WriteFile(o.chart, drawChart(rep), 0o644); err != nil {
			return err
		}
	}
	if o.timeline != "" {
		if err := rep.drawTimeline(o.timeline); err != nil {
			return err
		}
	}
	if o.json != "" {
		text, err := json.MarshalIndent(rep, "", "  ")
		if err != nil {
			return err
		}
		return os.WriteFile(o.json, append(text, '\n'), 0o644)
	}
	return nil
}

func linkKind(shaped bool) string {
	if shaped {
		return "network namespaces"
	}
	return "loopback, the programs' own limits"
}

// onlyOne makes sure that no other run has the namespaces.
func onlyOne() (release func(), err error) {
	path := filepath.Join(os.TempDir(), "dfbench-swarm."+strconv.Itoa(os.Geteuid())+".lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another dfbench swarm is at work here: wait for its end (%s: %w)", path, err)
	}
	return func() { file.Close() }, nil
}
