// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"dragonfly/sched/sim"
)

// simulated is one line of the table.
type simulated struct {
	sim.Result
	Want   string   `json:"want"`
	Missed []string `json:"missed,omitempty"`
	// Wall is what playing it took here.
	Wall time.Duration `json:"wall"`
}

// simulate plays the scenarios that the scheduler is tuned against.
func simulate() *cobra.Command {
	var (
		seeds         uint64
		first         uint64
		peers, pieces int
		check         int
		asJSON        bool
	)
	goals := sim.Goals()
	names := make([]string, len(goals))
	var list strings.Builder
	for i, g := range goals {
		names[i] = g.Name
		fmt.Fprintf(&list, "  %-12s %s\n", g.Name, g.Want)
	}
	cmd := &cobra.Command{
		Use:   "simulate [scenario ...]",
		Short: "play swarms in virtual time, with the real scheduler, against the bound of their links",
		Long: "simulate plays swarms in virtual time, with the real scheduler inside, and compares when\n" +
			"peers finish with the least time that the links allow:\n\n" + list.String() +
			"\nWithout arguments it plays all of them, which takes some minutes.",
		ValidArgs:    names,
		Args:         cobra.OnlyValidArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			var lines []simulated
			for _, g := range goals {
				if len(args) > 0 && !slices.Contains(args, g.Name) {
					continue
				}
				for seed := first; seed < first+max(1, seeds); seed++ {
					s := g.Scenario
					s.Seed, s.Check = seed, check
					if peers > 0 {
						s.Peers = peers
					}
					if pieces > 0 {
						s.Pieces = pieces
					}
					began := time.Now()
					r, err := sim.Run(s)
					if err != nil {
						return err
					}
					lines = append(lines, simulated{r, g.Want, g.Missed(r), time.Since(began)})
					if cmd.Context().Err() != nil {
						return cmd.Context().Err()
					}
				}
			}
			return show(cmd.OutOrStdout(), asJSON, lines, table)
		},
	}
	cmd.Flags().Uint64Var(&first, "seed", 1, "of all that is drawn")
	cmd.Flags().Uint64Var(&seeds, "seeds", 1, "play each scenario with so many seeds")
	cmd.Flags().IntVar(&peers, "peers", 0, "instead of the scenario's own")
	cmd.Flags().IntVar(&pieces, "pieces", 0, "instead of the scenario's own")
	cmd.Flags().IntVar(&check, "check", 0, "compare the scheduler's invariants each so many events; 0: never")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all figures as JSON")
	return cmd
}

func table(out io.Writer, lines []simulated) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "scenario\tpeers\tpieces\tbound\tslowest\tp99\tmedian\tseed ÷ F\tsource ÷ F\tcrossed ÷ F\treports/s\tevents\tplayed in\twant\t")
	for _, l := range lines {
		verdict := "✓ " + l.Want
		if len(l.Missed) > 0 {
			verdict = "✗ " + strings.Join(l.Missed, "; ")
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%v\t%.3f\t%.3f\t%.3f\t%.2f\t%.2f\t%.2f\t%.0f\t%d\t%v\t%s\t\n", l.Scenario, l.Peers, l.Pieces,
			l.Bound.Round(time.Millisecond), l.Slowest, l.P99, l.Median, l.SeedEgress, l.SourceEgress, l.Crossed,
			l.Reports, l.Events, l.Wall.Round(100*time.Millisecond), verdict)
	}
	return w.Flush()
}
