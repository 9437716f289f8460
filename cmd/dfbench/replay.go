// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"dragonfly/record"
)

// replayed is what came of running one run of a record again.
type replayed struct {
	Build   string            `json:"build"` // of the supernode
	Began   time.Time         `json:"began"`
	Peers   int               `json:"peers"`
	Tasks   int               `json:"tasks"`
	Span    time.Duration     `json:"span"`
	Steps   uint64            `json:"steps"`
	Events  map[string]uint64 `json:"events"`
	Actions map[string]uint64 `json:"actions"`
	Average time.Duration     `json:"average"` // of a step, here
	P99     time.Duration     `json:"p99"`
	Slowest time.Duration     `json:"slowest"`
	Same    bool              `json:"same"`
	Parted  *record.Parting   `json:"parted,omitempty"`
	End     string            `json:"end,omitempty"` // empty: killed, or at work
	Torn    bool              `json:"torn,omitempty"`
}

// replay runs what a supernode recorded again.
func replay() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "run what a supernode recorded with --record again",
		Long: `replay gives the events of a record to this build's scheduler and says whether it
decides alike, or from which event on it does not: from there on the peers of the
record answer what the recorded scheduler told them, and only the time that a step
takes is worth comparing.`,
		Args:         cobra.ExactArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			outcomes, err := record.Replay(file, record.Visitor{})
			if err == nil && len(outcomes) == 0 {
				err = errors.New("no run of a supernode is recorded there")
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", args[0], err)
			}
			runs := make([]replayed, len(outcomes))
			for i, o := range outcomes {
				runs[i] = replayed{o.Run.Build, o.Run.Began, o.Peers, o.Tasks, o.Span, o.Steps, o.Events, o.Actions,
					o.Costs.Average(), o.Costs.Share(0.99), o.Costs.Slowest(), o.Parted == nil, o.Parted, o.End, o.Torn}
			}
			return errors.Join(err, show(cmd.OutOrStdout(), asJSON, runs, replayTable))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all figures as JSON")
	return cmd
}

func replayTable(out io.Writer, runs []replayed) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, r := range runs {
		fmt.Fprintf(w, "run %d\tbegan %s, build %s\n", i+1, r.Began.Local().Format(time.DateTime), r.Build)
		fmt.Fprintf(w, "peers, tasks\t%d, %d, in %v\n", r.Peers, r.Tasks, r.Span.Round(time.Millisecond))
		fmt.Fprintf(w, "events\t%d: %s\n", r.Steps, byKind(r.Events))
		fmt.Fprintf(w, "actions\t%s\n", byKind(r.Actions))
		fmt.Fprintf(w, "a step took\t%v on average, p99 %v, at most %v\n", r.Average, r.P99, r.Slowest)
		if p := r.Parted; p != nil {
			fmt.Fprintf(w, "actions differ\tfrom event %d on (%s, after %v): this build's are %s; %d events have others\n",
				p.Step, p.Kind, p.At.Round(time.Millisecond), byKind(p.Actions), p.Steps)
		} else {
			fmt.Fprintf(w, "same\tall actions are those of the record\n")
		}
		end := r.End
		if end == "" {
			end = "killed, or still at work"
		}
		if r.Torn {
			end += "; the last line was cut off and is left out"
		}
		fmt.Fprintf(w, "end\t%s\n\n", end)
	}
	return w.Flush()
}

// byKind are counts by kind, the kinds in order.
func byKind(counts map[string]uint64) string {
	if len(counts) == 0 {
		return "none"
	}
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%s %d", kind, counts[kind]))
	}
	return strings.Join(out, ", ")
}
