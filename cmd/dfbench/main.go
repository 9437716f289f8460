// SPDX-License-Identifier: Apache-2.0

// Command dfbench measures the built commands on this machine, each figure as
// a ratio to curl or to the file's size within one run: shared machines are
// noisy, and a ratio is not. It needs curl and Go, starts everything on
// loopback addresses and ends it again.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dragonfly"
	"dragonfly/internal/swarm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		os.Exit(1)
	}
}

// figure is one thing that dfbench measures.
type figure struct {
	name string
	what string
	size dragonfly.Size // of the file, unless --size says otherwise
	run  func(ctx context.Context, b *bench) error
}

var figures = []figure{
	{"small", "second and later requests of a small file, beside curl", 1 << 10, small},
	{"memory", "peak memory of agent and supernode during a download", 10 << 30, memory},
	{"crowd", "many peers at once: bytes of the source ÷ size", 256 << 20, crowd},
	{"restart", "the same with the supernode killed and restarted in the middle", 256 << 20, restart},
	{"resume", "dfget and agent killed at half: share fetched the second time", 1 << 30, resume},
}

func command() *cobra.Command {
	var (
		size  dragonfly.Size
		dir   string
		runs  int
		peers int
	)
	names := make([]string, len(figures))
	var list strings.Builder
	for i, f := range figures {
		names[i] = f.name
		fmt.Fprintf(&list, "  %-8s %s (%s)\n", f.name, f.what, f.size)
	}
	cmd := &cobra.Command{
		Use:          "dfbench [figure ...]",
		Short:        "measure the swarm on this machine, beside curl",
		Long:         "dfbench measures, each figure as a ratio within one run:\n\n" + list.String() + "\nWithout arguments it measures all of them.",
		ValidArgs:    names,
		Args:         cobra.OnlyValidArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if peers < 1 {
				return fmt.Errorf("--peers %d: want 1 at least", peers)
			}
			for _, f := range figures {
				if len(args) > 0 && !slices.Contains(args, f.name) {
					continue
				}
				b := &bench{size: int64(f.size), runs: runs, peers: peers, out: cmd.OutOrStdout()}
				if size > 0 {
					b.size = int64(size)
				}
				if err := b.measure(cmd.Context(), dir, f); err != nil {
					return fmt.Errorf("%s: %w", f.name, err)
				}
			}
			return nil
		},
	}
	cmd.AddCommand(replay(), simulate(), direct(), loopback(), manyFiles(), swarmCommand(), compress(), control())
	cmd.Flags().Var(&size, "size", "size of the file, as in 1GB; default: the figure's own")
	cmd.Flags().StringVar(&dir, "dir", "", "where homes and files go; default: a temporary directory")
	cmd.Flags().IntVar(&runs, "runs", 3, "how often each command is measured; the median counts")
	cmd.Flags().IntVar(&peers, "peers", 20, "how many peers download at once")
	return cmd
}

// measure runs one figure in a directory of its own and leaves nothing behind.
func (b *bench) measure(ctx context.Context, dir string, f figure) error {
	if b.runs < 1 {
		return fmt.Errorf("--runs %d: want 1 at least", b.runs)
	}
	home, err := os.MkdirTemp(dir, "dfbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	b.dir = home
	if err := os.Mkdir(b.path("bin"), 0o755); err != nil {
		return err
	}
	if b.programs, err = swarm.Build(ctx, b.path("bin"), "dfget", "supernode"); err != nil {
		return err
	}
	defer b.programs.End(5 * time.Second)
	stop, err := b.serveOrigin()
	if err != nil {
		return err
	}
	defer stop()
	fmt.Fprintf(b.out, "%s: %s, %s\n", f.name, f.what, dragonfly.Size(b.size))
	return f.run(ctx, b)
}
