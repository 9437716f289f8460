// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"dragonfly"
	"dragonfly/internal/swarm"
)

// What downloading and serving may cost in processor time.
const (
	downloadMost = 2.0 // times curl's, for dfget and agent together
	servingMost  = 1.2 // times nginx's, for the seed
)

// servings is how often a round reads the file from each server: it takes little
// time and varies much.
const servings = 4

// loopbackReport is what loopback measured.
type loopbackReport struct {
	Size      int64      `json:"size"`
	Runs      int        `json:"runs"`
	Downloads []download `json:"downloads"`
	Serving   []serving  `json:"serving"` // empty without nginx
}

// download is what bringing the file to a host cost beside curl from the origin:
// medians in seconds per GiB, ratios those of the rounds, bytes ÷ size.
type download struct {
	Case      string  `json:"case"` // cold, warm or peer
	CurlWall  float64 `json:"curlWall"`
	CurlCPU   float64 `json:"curlCPU"`
	Wall      float64 `json:"wall"`
	CPU       float64 `json:"cpu"` // of dfget and agent
	WallRatio float64 `json:"wallRatio"`
	CPURatio  float64 `json:"cpuRatio"`
	Supernode float64 `json:"supernodeCPU"`
	Parent    float64 `json:"parentCPU"` // of the other host's agent
	SeedSent  float64 `json:"seedSent"`  // as the supernode counts it
	FromPeers float64 `json:"fromPeers"` // as dfget counts it
	Good      bool    `json:"good"`
}

// loopback is the command that measures what a GiB costs.
func loopback() *cobra.Command {
	size := dragonfly.Size(1 << 30)
	runs := 5
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "loopback",
		Short: "measure what a GiB costs: dfget beside curl, the seed beside nginx",
		Long: `loopback measures time and processor time, each round with all of these in turn:

  curl   from the origin
  cold   dfget; the supernode's seed reads the origin at the same time
  warm   dfget; the seed has the file, nobody else does
  peer   dfget; the agent of another host has the file, too

Then a lean client reads the file from nginx, where it is installed, and from the
seed: as one stream, and as ranges of 4 MiB over one connection. Every copy is
compared with the file.

Wanted, in processor time: dfget and agent 2 times curl's, the seed 1.2 times
nginx's.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if size <= 0 {
				return fmt.Errorf("--size %d: want a byte at least", size)
			}
			b := &bench{size: int64(size), runs: runs, out: cmd.ErrOrStderr()}
			var l looped
			err := b.measure(cmd.Context(), dir, figure{name: "loopback", what: "beside curl and nginx", run: l.run})
			if err != nil {
				return err
			}
			report := l.report(b)
			return show(cmd.OutOrStdout(), asJSON, report, loopbackTable)
		},
	}
	cmd.Flags().Var(&size, "size", "of the file")
	cmd.Flags().StringVar(&dir, "dir", "", "where homes and files go; default: a temporary directory")
	cmd.Flags().IntVar(&runs, "runs", runs, "how many rounds there are; the medians count")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all figures as JSON")
	return cmd
}

// looped is what the rounds brought.
type looped struct {
	curl                        []cost
	cold, warm, peer            []passage
	nginxWhole, seedWhole       []serve
	nginxInRanges, seedInRanges []serve
}

// passage is one download by dfget.
type passage struct {
	ours              cost
	supernode, parent time.Duration // processor time meanwhile
	seedSent          int64
	fromPeers         int64
}

func (l *looped) run(ctx context.Context, b *bench) error {
	rival, err := b.startNginx(ctx)
	if err != nil {
		return err
	}
	defer rival.stop()
	for i := range b.runs {
		if err := l.round(ctx, b, rival, i); err != nil {
			return err
		}
	}
	return nil
}

// round measures everything once.
func (l *looped) round(ctx context.Context, b *bench, rival *nginx, i int) error {
	if err := warmMemory(2 * b.size); err != nil {
		return err
	}
	curl, err := b.curl(ctx, b.origin)
	if err != nil {
		return err
	}
	l.curl = append(l.curl, curl)
	data, err := swarm.FreePort()
	if err != nil {
		return err
	}
	home := b.path("supernode" + strconv.Itoa(i))
	defer os.RemoveAll(home)
	sn, err := b.programs.StartSupernode(ctx, swarm.SupernodeOptions{Home: home, Data: data})
	if err != nil {
		return err
	}
	defer sn.Stop()
	first, second, third := b.host(3*i, sn.Addr), b.host(3*i+1, sn.Addr), b.host(3*i+2, sn.Addr)
	if err := b.pass(ctx, sn, first, nil, &l.cold); err != nil {
		return fmt.Errorf("cold: %w", err)
	}
	if err := b.leave(ctx, first); err != nil { // the seed alone has it then
		return err
	}
	if err := b.pass(ctx, sn, second, nil, &l.warm); err != nil {
		return fmt.Errorf("warm: %w", err)
	}
	if err := b.pass(ctx, sn, third, &second, &l.peer); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	for _, h := range []swarm.Host{second, third} {
		if err := b.leave(ctx, h); err != nil {
			return err
		}
	}
	if rival == nil {
		return nil
	}
	seed, err := b.seed(ctx, sn, data)
	if err != nil {
		return err
	}
	reads := []struct {
		server server
		length int64
		to     *[]serve
	}{
		{rival, b.size, &l.nginxWhole}, {seed, b.size, &l.seedWhole},
		{rival, rangeLen, &l.nginxInRanges}, {seed, rangeLen, &l.seedInRanges},
	}
	for range servings {
		for _, r := range reads {
			if err := b.serving(ctx, r.server, r.length, r.to); err != nil {
				return err
			}
		}
		slices.Reverse(reads) // who comes first shall not matter
	}
	return nil
}

// leave ends a host and forgets what it downloaded.
func (b *bench) leave(ctx context.Context, h swarm.Host) error {
	if err := b.remove(ctx, h); err != nil {
		return err
	}
	return os.Remove(h.Home + ".out")
}

// pass measures a download by a host; parent is another one that may be asked.
func (b *bench) pass(ctx context.Context, sn *swarm.Supernode, h swarm.Host, parent *swarm.Host, to *[]passage) error {
	type state struct {
		supernode, parent time.Duration
		sent              int64
	}
	now := func() (s state, err error) {
		s.supernode = processCPU(sn.Cmd.Process.Pid)
		if parent != nil {
			s.parent = b.agentCPU(*parent)
		}
		s.sent, err = counter(ctx, sn, "dragonfly_supernode_seed_egress_bytes_total")
		return s, err
	}
	if err := warmMemory(2 * b.size); err != nil {
		return err
	}
	before, err := now()
	if err != nil {
		return err
	}
	// The output stays: what somebody deletes, the agent must take for changed.
	ours, result, err := b.dfgetTo(ctx, h, h.Home+".out")
	if err != nil {
		return err
	}
	after, err := now()
	if err != nil {
		return err
	}
	*to = append(*to, passage{ours, after.supernode - before.supernode, after.parent - before.parent, after.sent - before.sent, result.FromPeers})
	return nil
}

func (l *looped) report(b *bench) loopbackReport {
	r := loopbackReport{Size: b.size, Runs: b.runs}
	gib := float64(b.size) / (1 << 30)
	for _, c := range []struct {
		name   string
		passes []passage
	}{{"cold", l.cold}, {"warm", l.warm}, {"peer", l.peer}} {
		of := func(value func(curl cost, p passage) float64) float64 {
			values := make([]float64, len(c.passes))
			for i, p := range c.passes {
				values[i] = value(l.curl[i], p)
			}
			return median(values)
		}
		d := download{
			Case:      c.name,
			CurlWall:  of(func(curl cost, _ passage) float64 { return curl.wall.Seconds() / gib }),
			CurlCPU:   of(func(curl cost, _ passage) float64 { return curl.cpu.Seconds() / gib }),
			Wall:      of(func(_ cost, p passage) float64 { return p.ours.wall.Seconds() / gib }),
			CPU:       of(func(_ cost, p passage) float64 { return p.ours.cpu.Seconds() / gib }),
			WallRatio: of(func(curl cost, p passage) float64 { return p.ours.wall.Seconds() / curl.wall.Seconds() }),
			CPURatio:  of(func(curl cost, p passage) float64 { return p.ours.cpu.Seconds() / curl.cpu.Seconds() }),
			Supernode: of(func(_ cost, p passage) float64 { return p.supernode.Seconds() / gib }),
			Parent:    of(func(_ cost, p passage) float64 { return p.parent.Seconds() / gib }),
			SeedSent:  of(func(_ cost, p passage) float64 { return float64(p.seedSent) / float64(b.size) }),
			FromPeers: of(func(_ cost, p passage) float64 { return float64(p.fromPeers) / float64(b.size) }),
		}
		d.Good = d.CPURatio <= downloadMost
		r.Downloads = append(r.Downloads, d)
	}
	if len(l.seedWhole) > 0 {
		r.Serving = []serving{
			servingOf(b.size, b.size, l.nginxWhole, l.seedWhole),
			servingOf(b.size, rangeLen, l.nginxInRanges, l.seedInRanges),
		}
	}
	return r
}

func mark(good bool) string {
	if good {
		return "✓"
	}
	return "✗"
}

func loopbackTable(out io.Writer, r loopbackReport) error {
	fmt.Fprintf(out, "Seconds per GiB, medians of %d rounds with %v:\n\n", r.Runs, dragonfly.Size(r.Size))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tcurl\tdfget\tratio\tCPU: curl\tdfget + agent\tratio\twant\tsupernode\tother agent\tseed sent ÷ F\tpeers ÷ F\t")
	for _, d := range r.Downloads {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%s ≤ %.1f\t%.2f\t%.2f\t%.3f\t%.3f\t\n", d.Case, d.CurlWall, d.Wall, d.WallRatio,
			d.CurlCPU, d.CPU, d.CPURatio, mark(d.Good), downloadMost, d.Supernode, d.Parent, d.SeedSent, d.FromPeers)
	}
	if err := w.Flush(); err != nil || len(r.Serving) == 0 {
		return err
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "requests\tnginx\tseed\tCPU: nginx\tseed\tratio\twant\tby sendfile ÷ F\t")
	for _, s := range r.Serving {
		fmt.Fprintf(w, "%d\t%.2f\t%.2f\t%.3f\t%.3f\t%.2f\t%s ≤ %.1f\t%.3f\t\n", s.Requests, s.NginxWall, s.SeedWall, s.NginxCPU, s.SeedCPU, s.Ratio,
			mark(s.Good), servingMost, s.Sendfile)
	}
	return w.Flush()
}
