// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
)

// swarmTable prints each run when it is over.
type swarmTable struct{ out io.Writer }

func newTable(out io.Writer) *swarmTable {
	fmt.Fprintf(out, "  %5s  %-6s  %9s  %9s  %9s  %10s  %5s  %s\n", "peers", "system", "slowest", "÷ bound", "median", "origin ÷ F", "CPU", "copies")
	return &swarmTable{out}
}

func (t *swarmTable) row(r outcome) {
	mark := "   "
	if r.GivenUp {
		mark = " > "
	}
	fmt.Fprintf(t.out, "  %5d  %-6s%s%7.2f s  %9.3f  %7.2f s  %10.2f  %3.0f %%  %d verified\n",
		r.Peers, r.System, mark[1:], r.Slowest, r.Ratio, r.Median, r.Origin, 100*r.CPU, len(r.Seconds))
}

// end says what is to be known of the figures.
func (t *swarmTable) end(rep report) {
	for _, r := range rep.Runs {
		if r.CPU > tooBusy {
			fmt.Fprintf(t.out, "  the processor was %.0f %% busy with %s and %d peers: that run shows this machine, not its links\n", 100*r.CPU, r.System, r.Peers)
		}
		if r.GivenUp {
			fmt.Fprintf(t.out, "  %s with %d peers was given up after %.0f s: %d had the file\n", r.System, r.Peers, r.Slowest, len(r.Seconds))
		}
	}
}
