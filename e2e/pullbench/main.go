// SPDX-License-Identifier: Apache-2.0

// Command pullbench measures what pulls cost through dfdaemon, with a real
// docker and a real registry. It needs root, docker and the tools of iproute2;
// it builds the commands and the registry itself.
//
//	go run ./e2e/pullbench
//
// Each figure is measured by itself, with stores and engines that are new.
// What is compared alternates, and medians are compared.
//
// Invariants: whatever happens, also on Ctrl-C, everything that was started
// has ended and everything that was written is removed before it returns.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"dragonfly"
	"dragonfly/e2e/engine"
	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil && interrupted:
		fmt.Fprintln(os.Stderr, "pullbench: interrupted, everything is ended")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "pullbench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	size    dragonfly.Size
	layers  int
	runs    int
	mbits   int
	nodes   int
	clients int
	dir     string
	only    string
}

func parse(args []string) (options, error) {
	o := options{size: 1 << 30}
	flags := flag.NewFlagSet("pullbench", flag.ContinueOnError)
	flags.Var(&o.size, "size", "size of the image, as in `300MB`")
	flags.IntVar(&o.layers, "layers", 8, "`number` of its layers")
	flags.IntVar(&o.runs, "runs", 3, "`number` of pulls each way")
	flags.IntVar(&o.mbits, "mbits", 200, "speed of the registry's link in `Mbit/s` where that is limited")
	flags.IntVar(&o.nodes, "nodes", 10, "`number` of hosts that pull at the same time")
	flags.IntVar(&o.clients, "clients", 20, "`number` of clients that pull from one dfdaemon at the same time")
	flags.StringVar(&o.dir, "dir", "", "`directory` for everything that is written (default: the system's for temporary files)")
	flags.StringVar(&o.only, "only", "", "measure these `figures` only, as in shaped,memory")
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
	case o.nodes < 1 || o.nodes > 200:
		return options{}, fmt.Errorf("-nodes %d: want 1 to 200", o.nodes)
	case o.layers < 1 || o.runs < 1 || o.mbits < 1 || o.clients < 1:
		return options{}, errors.New("-layers, -runs, -mbits and -clients want at least 1")
	}
	return o, nil
}

// figure is one line of the table.
type figure struct {
	name    string
	what    string
	goal    string
	measure func(*bench, context.Context) (string, error)
}

var figures = []figure{
	{"shaped", "first docker pull over the limited link, through ÷ straight", "≤ 1.05", (*bench).shaped},
	{"cpu", "CPU seconds per GiB of supernode and dfdaemon, no limit", "≤ 5", (*bench).cpu},
	{"once", "registry blob bytes ÷ image, all hosts at once", "1.00", (*bench).once},
	{"start", "first byte of a cold blob, through − straight", "≤ 20 ms", (*bench).start},
	{"memory", "peak memory of dfdaemon, all clients at once", "≤ 128 MiB", (*bench).memory},
}

func run(ctx context.Context, args []string, w io.Writer) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := engine.Missing("dockerd", "docker", "ip", "tc", "nsenter"); err != nil {
		return err
	}
	// Sockets of engines lie below it: its path is short.
	dir, err := os.MkdirTemp(o.dir, "pull-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, out: w}
	fmt.Fprintln(w, "building the commands and the registry …")
	if b.programs, err = swarm.Build(ctx, b.mkdir("bin"), "supernode", "dfdaemon"); err != nil {
		return err
	}
	defer func() {
		for _, forced := range b.programs.End(10 * time.Second) {
			err = errors.Join(err, fmt.Errorf("had to be killed: %s", forced))
		}
	}()
	if err := registry.Build(ctx, b.programs.Dir); err != nil {
		return err
	}
	fmt.Fprintf(w, "making an image of %s in %d layers …\n", o.size, o.layers)
	b.image, err = registry.NewImage(registry.ImageOptions{Seed: uint64(time.Now().UnixNano()), Layers: o.layers, LayerLen: int(o.size) / o.layers})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "figure\twhat\tgoal\tmeasured")
	for _, f := range figures {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+f.name+",") {
			continue
		}
		fmt.Fprintf(w, "%s: %s …\n", f.name, f.what)
		measured, err := f.measure(b, ctx)
		if err := errors.Join(err, b.cleanUp()); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		fmt.Fprintf(w, "  %s\n", measured)
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", f.name, f.what, f.goal, measured)
	}
	fmt.Fprintln(w)
	return table.Flush()
}
