// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"dragonfly"
	"dragonfly/internal/swarm"
)

// What one peer alone, with nobody to share with, may cost beside curl.
const (
	alone     = 1.05                  // times, for large files
	aloneFrom = 16 << 20              // bytes that make a file large
	aloneMore = 10 * time.Millisecond // and a round trip, for small ones
)

// links are what the relays let through, in bytes per second; 0: no limit.
type links struct {
	name              string
	origin, supernode dragonfly.Rate
}

const megabit = 1_000_000 / 8

var allLinks = []links{
	{"unlimited", 0, 0},
	{"slow-origin", 200 * megabit, 1000 * megabit},
	{"slow-supernode", 1000 * megabit, 200 * megabit},
}

// lone is what a download by one peer alone cost beside curl from the same
// origin. Times are medians in milliseconds, ratio and more those of the pairs.
type lone struct {
	Size      int64   `json:"size"`
	RoundTrip float64 `json:"roundTripMs"`
	Links     string  `json:"links"`
	Agent     string  `json:"agent"` // started by the download, or running
	Curl      float64 `json:"curlMs"`
	Dfget     float64 `json:"dfgetMs"`
	Ratio     float64 `json:"ratio"`
	More      float64 `json:"moreMs"`
	CPU       float64 `json:"cpuRatio"` // of dfget and agent
	Origin    float64 `json:"originRatio"`
	Good      bool    `json:"good"`
}

// direct is the command that measures one peer alone.
func direct() *cobra.Command {
	o := loneOptions{
		sizes:  []string{"1KB", "64KB", "1MB", "4MB", "16MB", "64MB", "256MB", "1GB"},
		delays: []time.Duration{0, 20 * time.Millisecond}, links: linkNames(), runs: 5,
	}
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "direct",
		Short: "measure one peer alone, cold, beside curl from the same origin",
		Long: `direct downloads what nobody has yet with one peer alone, in turn with curl from
the same origin: by a dfget that has to start its agent, and by one whose agent
runs. Relays in front of origin and supernode delay every byte by half the round
trip each way and hold both to the rates of the links:

  unlimited       as fast as this machine can
  slow-origin     origin 200 Mbit/s, supernode 1 Gbit/s
  slow-supernode  origin 1 Gbit/s, supernode 200 Mbit/s

Wanted: files from 16 MB on in 1.05 times curl's time, smaller ones within a round
trip and 10 ms more than curl.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lines, err := o.measure(cmd.Context(), dir, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), asJSON, lines, loneTable)
		},
	}
	cmd.Flags().StringSliceVar(&o.sizes, "sizes", o.sizes, "of the files")
	cmd.Flags().DurationSliceVar(&o.delays, "roundtrip", o.delays, "between peer, supernode and origin")
	cmd.Flags().StringSliceVar(&o.links, "links", o.links, "which of the links")
	cmd.Flags().BoolVar(&o.handshake, "handshake", false, "let new connections cost a round trip more, as in a network")
	cmd.Flags().StringVar(&dir, "dir", "", "where homes and files go; default: a temporary directory")
	cmd.Flags().IntVar(&o.runs, "runs", o.runs, "how often each command is measured; the medians count")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all figures as JSON")
	return cmd
}

func linkNames() (names []string) {
	for _, l := range allLinks {
		names = append(names, l.name)
	}
	return names
}

type loneOptions struct {
	sizes     []string
	delays    []time.Duration
	links     []string
	handshake bool
	runs      int
}

func (o loneOptions) measure(ctx context.Context, dir string, progress io.Writer) (lines []lone, err error) {
	for _, text := range o.sizes {
		var size dragonfly.Size
		if err := size.Set(text); err != nil {
			return nil, err
		}
		b := &bench{size: int64(size), runs: o.runs, out: progress}
		err := b.measure(ctx, dir, figure{name: "direct", what: "one peer alone, beside curl", run: func(ctx context.Context, b *bench) error {
			for _, l := range o.links {
				for _, delay := range o.delays {
					these, err := b.lone(ctx, l, delay, o.handshake)
					if err != nil {
						return err
					}
					lines = append(lines, these...)
				}
			}
			return nil
		}})
		if err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// lone measures one file over one kind of links.
func (b *bench) lone(ctx context.Context, name string, roundTrip time.Duration, handshake bool) (lines []lone, err error) {
	var l links
	for _, known := range allLinks {
		if known.name == name {
			l = known
		}
	}
	if l.name == "" {
		return nil, fmt.Errorf("--links %s: want some of %s", name, strings.Join(linkNames(), ", "))
	}
	w := &lonely{bench: b, links: l, roundTrip: roundTrip, handshake: handshake}
	defer w.close()
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	for i := range b.runs {
		if err := w.pair(ctx, i); err != nil {
			return nil, err
		}
	}
	for i, agent := range []string{"started", "running"} {
		line := w.line(&w.figures[i])
		line.Agent = agent
		b.say("%s, %v, agent %s: curl %.1f ms, dfget %.1f ms", name, roundTrip, agent, line.Curl, line.Dfget)
		lines = append(lines, line)
	}
	return lines, os.RemoveAll(b.path("supernode"))
}

// lonely is a supernode, an origin and a peer with links between them.
type lonely struct {
	*bench
	links     links
	roundTrip time.Duration
	handshake bool
	straight  string // URL of the file at the origin itself
	relays    []*relay
	supernode *swarm.Supernode
	node      string // host:port of the supernode's control port, as the peer sees it
	asked     int    // contents so far
	figures   [2]pairs
}

// pairs are downloads by dfget and by curl, and bytes of the origin ÷ size.
type pairs struct {
	ours, theirs []cost
	origin       []float64
}

// between gives the address of a relay to a server, or the server's where no
// relay is needed.
func (w *lonely) between(to string, rate dragonfly.Rate) (addr string, err error) {
	if w.roundTrip == 0 && rate == 0 {
		return to, nil
	}
	r, err := newRelay(to, w.roundTrip/2, rate, w.handshake)
	if err != nil {
		return "", err
	}
	w.relays = append(w.relays, r)
	return r.addr(), nil
}

// open starts the supernode and puts the relays in between, also when it fails:
// close ends them and takes them out again.
func (w *lonely) open(ctx context.Context) error {
	w.straight = w.origin
	at, err := url.Parse(w.straight)
	if err != nil {
		return err
	}
	origin, err := w.between(at.Host, w.links.origin)
	if err != nil {
		return err
	}
	w.origin = "http://" + origin + "/file"
	control, err := swarm.FreePort()
	if err != nil {
		return err
	}
	data, err := swarm.FreePort()
	if err != nil {
		return err
	}
	mapped, err := w.between("127.0.0.1:"+strconv.Itoa(data), w.links.supernode)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(mapped)
	if err != nil {
		return err
	}
	w.supernode, err = w.programs.StartSupernode(ctx, swarm.SupernodeOptions{Home: w.path("supernode"), Control: control, Data: data,
		Args: []string{"--advertise-data-port", port}})
	if err != nil {
		return err
	}
	w.node, err = w.between(w.supernode.Addr, w.links.supernode)
	return err
}

func (w *lonely) close() {
	w.origin = w.straight
	for _, r := range w.relays {
		r.close()
	}
	if w.supernode != nil {
		w.supernode.Stop()
	}
}

// fresh gives the file a name that nobody knows yet.
func (w *lonely) fresh() (restore func()) {
	w.asked++
	before := w.origin
	w.origin = fmt.Sprintf("%s?%d", before, w.asked)
	return func() { w.origin = before }
}

// pair measures a host without an agent, and the same host when it has one,
// each after curl.
func (w *lonely) pair(ctx context.Context, i int) error {
	h := w.host(i, w.node)
	for run := range w.figures {
		figures := &w.figures[run]
		err := func() error {
			defer w.fresh()()
			theirs, err := w.curl(ctx, w.origin)
			if err != nil {
				return err
			}
			w.sent.Store(0)
			ours, err := w.verified(ctx, h)
			if err != nil {
				return err
			}
			figures.ours, figures.theirs = append(figures.ours, ours), append(figures.theirs, theirs)
			figures.origin = append(figures.origin, float64(w.sent.Load())/float64(w.size))
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return w.remove(ctx, h)
}

// verified is dfget, and a look afterwards whether it brought the file.
func (w *lonely) verified(ctx context.Context, h swarm.Host) (c cost, err error) {
	out := w.path("dfget.out")
	before := w.agentCPU(h)
	cmd := h.Dfget(ctx, w.origin, out)
	began := time.Now()
	if said, err := cmd.CombinedOutput(); err != nil {
		return c, fmt.Errorf("dfget: %w\n%s", err, said)
	}
	c = cost{time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() + w.agentCPU(h) - before}
	if err := same(w.path("file"), out); err != nil {
		return c, err
	}
	return c, os.Remove(out)
}

// same compares two files.
func same(a, b string) error {
	f, err := os.Open(a)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return err
	}
	defer g.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(f, x)
		m, _ := io.ReadFull(g, y) // a shorter one differs
		if !bytes.Equal(x[:n], y[:m]) {
			return fmt.Errorf("%s is not %s", b, a)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line sums up pairs of a case.
func (w *lonely) line(f *pairs) lone {
	var curl, dfget, ratio, more, cpu []float64
	for i := range f.ours {
		ours, theirs := f.ours[i], f.theirs[i]
		curl, dfget = append(curl, ms(theirs.wall)), append(dfget, ms(ours.wall))
		ratio = append(ratio, ours.wall.Seconds()/theirs.wall.Seconds())
		more = append(more, ms(ours.wall-theirs.wall))
		cpu = append(cpu, ours.cpu.Seconds()/theirs.cpu.Seconds())
	}
	l := lone{Size: w.size, RoundTrip: ms(w.roundTrip), Links: w.links.name, Curl: median(curl), Dfget: median(dfget),
		Ratio: median(ratio), More: median(more), CPU: median(cpu), Origin: median(f.origin)}
	if w.size >= aloneFrom {
		l.Good = l.Ratio <= alone
	} else {
		l.Good = l.More <= ms(w.roundTrip+aloneMore)
	}
	return l
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func loneTable(out io.Writer, lines []lone) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "size\tround trip\tlinks\tagent\tcurl\tdfget\tratio\tmore\tCPU\torigin ÷ F\twant\t")
	for _, l := range lines {
		want := fmt.Sprintf("≤ %.2f ×", alone)
		if l.Size < aloneFrom {
			want = fmt.Sprintf("≤ +%.0f ms", l.RoundTrip+ms(aloneMore))
		}
		verdict := "✓ "
		if !l.Good {
			verdict = "✗ "
		}
		fmt.Fprintf(w, "%v\t%.0f ms\t%s\t%s\t%.1f ms\t%.1f ms\t%.2f\t%+.1f ms\t%.1f\t%.2f\t%s\t\n", dragonfly.Size(l.Size), l.RoundTrip, l.Links,
			l.Agent, l.Curl, l.Dfget, l.Ratio, l.More, l.CPU, l.Origin, verdict+want)
	}
	return w.Flush()
}
