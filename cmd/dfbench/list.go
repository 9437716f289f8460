// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"dragonfly"
)

// listed is what a list of many small files cost. Times are medians in
// milliseconds, ratios those of the pairs.
type listed struct {
	Files     int     `json:"files"`
	Size      int64   `json:"size"`
	RoundTrip float64 `json:"roundTripMs"`
	Agent     string  `json:"agent"`
	Serial    float64 `json:"curlMs"`         // over one connection
	Parallel  float64 `json:"curlParallelMs"` // with --parallel
	Dfget     float64 `json:"dfgetMs"`
	Ratio     float64 `json:"ratio"`
	Beside    float64 `json:"ratioToParallel"`
	CPU       float64 `json:"cpuMs"` // of dfget and agent
	Good      bool    `json:"good"`
}

// listMost is how much longer than curl over one connection a list may take.
const listMost = 1.2

// manyFiles is the command that measures lists.
func manyFiles() *cobra.Command {
	size := dragonfly.Size(10 << 10)
	files, runs := 1000, 5
	delays := []time.Duration{0, 20 * time.Millisecond}
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "measure many small files by one dfget, beside curl",
		Long: `list downloads many small files that nobody has yet by dfget --input-file, in turn
with curl over one connection and with curl --parallel. Relays in front of origin
and supernode delay every byte by half the round trip each way.

Wanted: 1.2 times the time of curl over one connection.`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if files < 1 {
				return fmt.Errorf("--files %d: want 1 at least", files)
			}
			var lines []listed
			b := &bench{size: int64(size), runs: runs, out: cmd.ErrOrStderr()}
			err := b.measure(cmd.Context(), dir, figure{name: "list", what: strconv.Itoa(files) + " files", run: func(ctx context.Context, b *bench) error {
				for _, delay := range delays {
					these, err := b.list(ctx, files, delay)
					if err != nil {
						return err
					}
					lines = append(lines, these...)
				}
				return nil
			}})
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), asJSON, lines, listTable)
		},
	}
	cmd.Flags().Var(&size, "size", "of each file")
	cmd.Flags().IntVar(&files, "files", files, "how many there are")
	cmd.Flags().DurationSliceVar(&delays, "roundtrip", delays, "between peer, supernode and origin")
	cmd.Flags().StringVar(&dir, "dir", "", "where homes and files go; default: a temporary directory")
	cmd.Flags().IntVar(&runs, "runs", runs, "how often each command is measured; the medians count")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all figures as JSON")
	return cmd
}

// list measures lists of files over links with one round trip: by a host
// without an agent, and by the same host when it has one.
func (b *bench) list(ctx context.Context, files int, roundTrip time.Duration) (lines []listed, err error) {
	w := &lonely{bench: b, links: allLinks[0], roundTrip: roundTrip}
	defer w.close()
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	var serial, parallel, dfget, cpu [2][]float64
	for i := range b.runs {
		h := w.host(i, w.node)
		for run := range serial {
			w.asked++
			at := strings.TrimSuffix(b.origin, "/file") + "/" + strconv.Itoa(w.asked) + "-"
			var curl, urls strings.Builder
			for n := range files {
				fmt.Fprintf(&curl, "url=%s%d\noutput=%s\n", at, n, filepath.Join(b.path("curl"), strconv.Itoa(n)))
				fmt.Fprintf(&urls, "%s%d\n", at, n)
			}
			if err := os.WriteFile(b.path("curl.list"), []byte(curl.String()), 0o600); err != nil {
				return nil, err
			}
			if err := os.WriteFile(b.path("dfget.list"), []byte(urls.String()), 0o600); err != nil {
				return nil, err
			}
			for out, args := range [][]string{nil, {"--parallel"}} {
				took, _, err := b.many(exec.CommandContext(ctx, "curl", append(args, "-sS", "--fail", "-K", b.path("curl.list"))...), "curl", files)
				if err != nil {
					return nil, err
				}
				if out == 0 {
					serial[run] = append(serial[run], ms(took))
				} else {
					parallel[run] = append(parallel[run], ms(took))
				}
			}
			before := b.agentCPU(h)
			cmd := h.Dfget(ctx, "", b.path("dfget"), "--input-file", b.path("dfget.list"))
			took, used, err := b.many(cmd, "dfget", files)
			if err != nil {
				return nil, err
			}
			dfget[run], cpu[run] = append(dfget[run], ms(took)), append(cpu[run], ms(used+b.agentCPU(h)-before))
		}
		if err := b.remove(ctx, h); err != nil {
			return nil, err
		}
	}
	for run, agent := range []string{"started", "running"} {
		l := listed{Files: files, Size: b.size, RoundTrip: ms(roundTrip), Agent: agent}
		var ratio, beside []float64
		for i := range dfget[run] {
			ratio, beside = append(ratio, dfget[run][i]/serial[run][i]), append(beside, dfget[run][i]/parallel[run][i])
		}
		l.Ratio, l.Beside = median(ratio), median(beside)
		l.Serial, l.Parallel, l.Dfget, l.CPU = median(serial[run]), median(parallel[run]), median(dfget[run]), median(cpu[run])
		l.Good = l.Ratio <= listMost
		lines = append(lines, l)
	}
	return lines, os.RemoveAll(b.path("supernode"))
}

// many runs a command that makes files in the directory out, and looks at them.
func (b *bench) many(cmd *exec.Cmd, out string, files int) (took, cpu time.Duration, err error) {
	if err := os.Mkdir(b.path(out), 0o755); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	said, err := cmd.CombinedOutput()
	took = time.Since(began)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w\n%s", out, err, said)
	}
	made, err := os.ReadDir(b.path(out))
	if err != nil {
		return 0, 0, err
	}
	if len(made) != files {
		return 0, 0, fmt.Errorf("%s made %d files of %d", out, len(made), files)
	}
	for _, f := range made {
		if err := same(b.path("file"), b.path(out, f.Name())); err != nil {
			return 0, 0, err
		}
	}
	return took, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), os.RemoveAll(b.path(out))
}

func listTable(out io.Writer, lines []listed) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "files\tsize\tround trip\tagent\tcurl\tcurl --parallel\tdfget\tratio\tto parallel\tCPU\twant\t")
	for _, l := range lines {
		verdict := "✓"
		if !l.Good {
			verdict = "✗"
		}
		fmt.Fprintf(w, "%d\t%v\t%.0f ms\t%s\t%.0f ms\t%.0f ms\t%.0f ms\t%.2f\t%.2f\t%.0f ms\t%s ≤ %.2f ×\t\n", l.Files, dragonfly.Size(l.Size), l.RoundTrip, l.Agent,
			l.Serial, l.Parallel, l.Dfget, l.Ratio, l.Beside, l.CPU, verdict, listMost)
	}
	return w.Flush()
}
