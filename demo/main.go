// SPDX-License-Identifier: Apache-2.0

// Command demo shows a swarm on one machine: it builds the commands, starts an
// HTTP origin, a supernode and several peers, each its own process with its
// own home and loopback address, downloads a file with all peers at once,
// checks every copy and prints where the bytes came from.
//
// Invariants: whatever happens, also on Ctrl-C, everything that was started
// has ended and everything that was written is removed before it returns.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"dragonfly"
	"dragonfly/internal/swarm"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == originCommand {
		if err := serveOrigin(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "origin:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil && interrupted:
		fmt.Fprintln(os.Stderr, "demo: interrupted, everything is ended")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	size  dragonfly.Size
	peers int
	url   string
	dir   string
}

// maxPeers is how many loopback addresses the demo hands out.
const maxPeers = 200

func parse(args []string) (options, error) {
	o := options{size: 300 << 20}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.Var(&o.size, "size", "size of the file that the origin serves, as in `300MB`")
	flags.IntVar(&o.peers, "peers", 5, "`number` of peers that download at the same time")
	flags.StringVar(&o.url, "url", "", "download this `URL` instead of a file of our own")
	flags.StringVar(&o.dir, "dir", "", "`directory` for everything that is written (default: the system's for temporary files)")
	flags.SetOutput(io.Discard) // main says what is wrong, once
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stdout)
			flags.PrintDefaults()
		}
		return options{}, err
	}
	switch {
	case flags.NArg() > 0:
		return options{}, fmt.Errorf("%q is no flag", flags.Arg(0))
	case o.peers < 1 || o.peers > maxPeers:
		return options{}, fmt.Errorf("-peers %d: want 1 to %d", o.peers, maxPeers)
	}
	return o, nil
}

// peer is one downloader and what became of it.
type peer struct {
	swarm.Host
	out    string
	result swarm.Result
	sum    [sha256.Size]byte
	err    error
}

func run(ctx context.Context, args []string, w io.Writer) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "dragonfly-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := enoughSpace(dir, int64(o.size)*int64(o.peers+2)); err != nil && o.url == "" {
		return err
	}

	fmt.Fprintln(w, "building the commands …")
	programs := filepath.Join(dir, "bin")
	if err := os.Mkdir(programs, 0o755); err != nil {
		return err
	}
	built, err := swarm.Build(ctx, programs, "supernode", "dfget")
	if err != nil {
		return err
	}
	defer func() {
		for _, forced := range built.End(10 * time.Second) {
			err = errors.Join(err, fmt.Errorf("had to be killed: %s", forced))
		}
	}()

	var from *origin
	url := o.url
	if url == "" {
		fmt.Fprintf(w, "starting an origin with a file of %s …\n", o.size)
		if from, err = startOrigin(dir, int64(o.size)); err != nil {
			return err
		}
		defer from.stop()
		url = from.url
	}
	fmt.Fprintln(w, "starting a supernode …")
	startCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	node, err := built.StartSupernode(startCtx, swarm.SupernodeOptions{Home: filepath.Join(dir, "supernode")})
	if err != nil {
		return err
	}
	defer node.Stop()

	fmt.Fprintf(w, "downloading %s with %d peers at once …\n\n", url, o.peers)
	peers := make([]*peer, o.peers)
	var all sync.WaitGroup
	for i := range peers {
		home := filepath.Join(dir, fmt.Sprintf("peer%d", i+1))
		p := &peer{
			Host: swarm.Host{
				Programs: built, Home: home, IP: fmt.Sprintf("127.0.0.%d", 11+i),
				Args: []string{"--node", node.Addr, "--locallimit", "0"},
			},
			out: filepath.Join(home, "file"),
		}
		peers[i] = p
		if err := os.Mkdir(home, 0o755); err != nil {
			return err
		}
		all.Go(func() { p.result, p.err = p.Download(ctx, url, p.out) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, p := range peers {
		if p.err == nil {
			p.sum, p.err = checksum(p.out)
		}
	}
	want := peers[0].sum // of a foreign URL we know only that all copies must be equal
	if from != nil {
		want = from.sum
	}
	for _, p := range peers {
		if p.err == nil && p.sum != want {
			p.err = fmt.Errorf("the copy is not the file: SHA-256 %x, want %x", p.sum, want)
		}
	}
	printPeers(w, peers)
	return verdict(ctx, w, peers, from)
}

func printPeers(w io.Writer, peers []*peer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "peer\taddress\ttime\tfrom source\tfrom seed\tfrom peers\tSHA-256\t")
	for i, p := range peers {
		check := "ok"
		if p.err != nil {
			check = "FAILED"
		}
		r := p.result
		fmt.Fprintf(table, "%d\t%s\t%.2f s\t%s\t%s\t%s\t%s\t\n",
			i+1, p.IP, r.Seconds, inMiB(r.FromSource), inMiB(r.FromSeed), inMiB(r.FromPeers), check)
	}
	table.Flush()
	fmt.Fprintln(w)
}

// verdict says in words what the table shows, and errs when it is not what a
// swarm should give.
func verdict(ctx context.Context, w io.Writer, peers []*peer, from *origin) error {
	var fetched, exchanged, length int64
	var slowest float64
	for i, p := range peers {
		if p.err != nil {
			return fmt.Errorf("peer %d: %w", i+1, p.err)
		}
		fetched += p.result.Fetched()
		exchanged += p.result.FromPeers
		length = p.result.Length
		slowest = max(slowest, p.result.Seconds)
	}
	fmt.Fprintf(w, "%d peers got %s each in %.2f s; %.0f %% of it came from one another\n",
		len(peers), inMiB(length), slowest, 100*float64(exchanged)/float64(max(1, fetched)))
	if from == nil {
		fmt.Fprintf(w, "ok: all copies are equal, SHA-256 %x\n", peers[0].sum)
		return nil
	}
	sent, err := from.sent(ctx)
	if err != nil {
		return err
	}
	ratio := float64(sent) / float64(max(1, length))
	fmt.Fprintf(w, "the origin sent %s for a file of %s: %.2f times\n", inMiB(sent), inMiB(length), ratio)
	if ratio > 1.005 {
		return fmt.Errorf("the origin was read more than once")
	}
	fmt.Fprintf(w, "ok: every copy is the file, SHA-256 %x\n", from.sum)
	return nil
}

func inMiB(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func checksum(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, fmt.Errorf("read %s: %w", path, err)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// enoughSpace errs when the file system of dir has less than n bytes left.
func enoughSpace(dir string, n int64) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < n {
		return fmt.Errorf("%s has %s free, the demo needs %s: give a smaller -size or another -dir",
			strings.TrimSuffix(dir, "/"), inMiB(free), inMiB(n))
	}
	return nil
}
