// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"dragonfly"
	"dragonfly/internal/network"
	"dragonfly/internal/swarm"
)

const (
	// compressQueue is how long a packet may wait for the slow link.
	compressQueue = 50 * time.Millisecond
	// compressPrefix begins the names of the namespaces.
	compressPrefix = "dfzstd-"
)

var compressFirst = netip.MustParseAddr("10.78.0.1")

// compared is what compression did for one content over one link.
type compared struct {
	What    string  `json:"what"` // dfget or transfer
	Link    string  `json:"link"` // slow or fast
	Content string  `json:"content"`
	Pairs   int     `json:"pairs"`
	Auto    float64 `json:"autoMs"` // medians
	Off     float64 `json:"offMs"`
	Gain    float64 `json:"gain"` // median of off ÷ auto, pair by pair
	Low     float64 `json:"gainLow"`
	High    float64 `json:"gainHigh"` // between these it is with a probability of 95 %
	Share   float64 `json:"share"`    // of the size, what came over the link; 0: not known
}

type compressOptions struct {
	size  dragonfly.Size
	rate  dragonfly.Rate
	runs  int
	pairs int
}

// compress is the command that measures what compression gains and costs.
func compress() *cobra.Command {
	o := compressOptions{size: 64 << 20, rate: 20_000_000, runs: 3, pairs: 1000}
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compress",
		Short: "measure what compression gains over a slow link and costs over a fast one",
		Long: `compress sends text, JSON, logs and random bytes over a slow link, in a network
namespace, and over loopback, with --compress auto and off in turn:

  dfget     a supernode that has the file gives it to one new peer after the other
            (fast: five times the pairs)
  transfer  both ends of the data plane in this process, on new connections, 64 MB
            (slow: 16 MB, a hundredth of the pairs, random bytes only): many
            short runs, so that what others do on this machine averages out

gain is off ÷ auto, the median of the pairs; between the two figures behind it the
true median lies with a probability of 95 %. Wanted: 2 for text, JSON and logs over
the slow link, 0.98 for everything else. Without root the
supernode limits itself; there is no slow link then, but a slow sender.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.size <= 0 || o.rate <= 0 || o.runs < 0 || o.pairs < 0 {
				return errors.New("--size and --rate: want more than 0; --runs and --pairs: want 0 at least")
			}
			var lines []compared
			b := &bench{size: int64(o.size), runs: 1, out: cmd.ErrOrStderr()}
			err := b.measure(cmd.Context(), dir, figure{name: "compress", what: "compressed and not in turn", run: func(ctx context.Context, b *bench) (err error) {
				lines, err = o.measure(ctx, b)
				return err
			}})
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), asJSON, lines, compressTable)
		},
	}
	cmd.Flags().Var(&o.size, "size", "of the files that dfget downloads")
	cmd.Flags().Var(&o.rate, "rate", "of the slow link, bytes per second")
	cmd.Flags().IntVar(&o.runs, "runs", o.runs, "pairs of downloads by dfget over the slow link")
	cmd.Flags().IntVar(&o.pairs, "pairs", o.pairs, "pairs of transfers in this process over the fast link")
	cmd.Flags().StringVar(&dir, "dir", "", "where homes and files go; default: a temporary directory")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all figures as JSON")
	return cmd
}

func compressTable(out io.Writer, lines []compared) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\twhat\tlink\tcontent\tpairs\tauto\toff\tgain\t95 %\tover the link\t")
	for _, l := range lines {
		share := "-"
		if l.Share > 0 {
			share = fmt.Sprintf("%.2f", l.Share)
		}
		fmt.Fprintf(w, "\t%s\t%s\t%s\t%d\t%.1f ms\t%.1f ms\t%.3f\t%.3f-%.3f\t%s\t\n", l.What, l.Link, l.Content, l.Pairs, l.Auto, l.Off, l.Gain, l.Low, l.High, share)
	}
	return w.Flush()
}

func (o compressOptions) measure(ctx context.Context, b *bench) (lines []compared, err error) {
	slow := &between{bench: b, name: "slow", limit: o.rate}
	if os.Geteuid() == 0 {
		slow.net, err = network.Build(ctx, network.Options{Prefix: compressPrefix, Hosts: 2, First: compressFirst,
			Shape: network.Shape{Rate: o.rate, Queue: compressQueue}})
		if err != nil {
			return nil, err
		}
		slow.limit = 0
		defer func() {
			b.programs.End(5 * time.Second)
			err = errors.Join(err, slow.net.Close())
		}()
	}
	for _, w := range []*between{slow, {bench: b, name: "fast"}} {
		runs := o.runs
		if w.name == "fast" {
			runs *= 5
		}
		these, err := w.downloads(ctx, runs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		lines = append(lines, these...)
		for _, k := range kinds {
			size, pairs := int64(64<<20), o.pairs
			if w.name == "slow" {
				size, pairs = 16<<20, (o.pairs+99)/100
				if k.name != "random" {
					continue
				}
			}
			if pairs == 0 {
				continue
			}
			line, err := w.transfers(ctx, k, size, pairs)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", w.name, k.name, err)
			}
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// between are two hosts with a link between them; without a net loopback.
type between struct {
	*bench
	name  string
	net   *network.Net
	limit dragonfly.Rate // of the sender, where there is no slow link
	seen  int            // peers so far
}

func (w *between) host(i int) *network.Host {
	if w.net == nil {
		return nil
	}
	return w.net.Hosts[i]
}

// start starts a command on one of the hosts.
func start(h *network.Host, cmd *exec.Cmd) error {
	if h == nil {
		return cmd.Start()
	}
	return h.Do(cmd.Start)
}

// listen listens at the sender's host.
func (w *between) listen() (net.Listener, error) {
	if h := w.host(0); h != nil {
		return h.Listen(0)
	}
	return net.Listen("tcp", "127.0.0.1:0")
}

// downloads measures dfget: supernodes that have a content give it to new peers.
func (w *between) downloads(ctx context.Context, runs int) (lines []compared, err error) {
	if runs == 0 {
		return nil, nil
	}
	l, err := w.listen()
	if err != nil {
		return nil, err
	}
	straight := w.origin
	defer func() { w.origin = straight }()
	defer w.serve(l)()
	at := w.origin
	var nodes [2]string
	for i, mode := range modes {
		home := w.path("supernode-" + w.name + "-" + mode)
		defer os.RemoveAll(home)
		args := []string{"--compress", mode}
		if w.limit > 0 {
			args = append(args, "--max-bandwidth", strconv.FormatInt(int64(w.limit), 10))
		}
		sn, err := w.programs.StartSupernode(ctx, swarm.SupernodeOptions{Home: home, Network: w.host(0), Args: args})
		if err != nil {
			return nil, err
		}
		defer sn.Stop()
		nodes[i] = sn.Addr
	}
	for _, k := range kinds {
		if err := w.makeKind(ctx, k); err != nil {
			return nil, err
		}
		w.origin = at + "?" + k.name
		line, err := w.kind(ctx, k.name, nodes, runs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// modes are the values of --compress in the order of each pair.
var modes = [2]string{"auto", "off"}

// kind measures the downloads of one content.
func (w *between) kind(ctx context.Context, name string, nodes [2]string, runs int) (line compared, err error) {
	sum, err := digestOf(w.path("file"))
	if err != nil {
		return line, err
	}
	for _, node := range nodes { // it gets the content
		if _, _, err := w.fetch(ctx, 0, node, sum); err != nil {
			return line, err
		}
	}
	var t pairTimes
	for i := range runs {
		for j := range nodes {
			mode := (i + j) % 2 // the other order than that of the pair before
			took, came, err := w.fetch(ctx, 1, nodes[mode], sum)
			if err != nil {
				return line, err
			}
			t.add(mode, took, came)
		}
	}
	return t.line("dfget", w.name, name, w.size), nil
}

// fetch lets a new peer on a host download the content, and says what came over
// its link where there is one.
func (w *between) fetch(ctx context.Context, on int, node string, sum [32]byte) (took time.Duration, came int64, err error) {
	w.seen++
	h, at := w.bench.host(w.seen, node), w.host(on)
	if at != nil {
		h.IP = at.IP.String()
	}
	before, err := w.came(on)
	if err != nil {
		return 0, 0, err
	}
	out := w.path("dfget.out")
	cmd := h.Dfget(ctx, w.origin, out)
	log := &swarm.Tail{}
	cmd.Stdout, cmd.Stderr = log, log
	began := time.Now()
	if err = start(at, cmd); err == nil {
		err = cmd.Wait()
	}
	took = time.Since(began)
	if err != nil {
		return took, 0, fmt.Errorf("dfget: %w\n%s", err, log)
	}
	after, err := w.came(on)
	if err == nil {
		err = verify(out, sum)
	}
	if err == nil {
		err = os.Remove(out)
	}
	if err == nil {
		err = w.remove(ctx, h)
	}
	return took, after - before, err
}

// came is how many bytes came to a host so far.
func (w *between) came(host int) (int64, error) {
	if w.net == nil {
		return 0, nil
	}
	all, err := w.net.Traffic()
	if err != nil {
		return 0, err
	}
	return all[host].In, nil
}

// pairTimes are the times of pairs, compressed and not.
type pairTimes struct {
	took [2][]time.Duration
	came []float64 // compressed
}

func (t *pairTimes) add(mode int, took time.Duration, came int64) {
	t.took[mode] = append(t.took[mode], took)
	if mode == 0 {
		t.came = append(t.came, float64(came))
	}
}

func (t *pairTimes) line(what, link, content string, size int64) compared {
	var gains []float64
	for i := range t.took[0] {
		gains = append(gains, t.took[1][i].Seconds()/t.took[0][i].Seconds())
	}
	slices.Sort(gains)
	n := len(gains)
	spread := int(math.Ceil(0.98 * math.Sqrt(float64(n)))) // of the rank of the median
	ms := func(all []time.Duration) float64 { return float64(median(all)) / float64(time.Millisecond) }
	return compared{What: what, Link: link, Content: content, Pairs: n, Auto: ms(t.took[0]), Off: ms(t.took[1]),
		Gain: median(gains), Low: gains[max(0, n/2-spread)], High: gains[min(n-1, n/2+spread)], Share: median(t.came) / float64(size)}
}
