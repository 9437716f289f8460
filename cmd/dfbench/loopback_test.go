// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestLoopbackReport: ratios are those of the rounds, times are per GiB, and what
// costs too much is marked.
func TestLoopbackReport(t *testing.T) {
	took := func(cpu ...time.Duration) (costs []cost) {
		for _, c := range cpu {
			costs = append(costs, cost{wall: 2 * c, cpu: c})
		}
		return costs
	}
	passes := func(cpu ...time.Duration) (p []passage) {
		for _, c := range took(cpu...) {
			p = append(p, passage{ours: c, supernode: time.Second, seedSent: 1 << 28})
		}
		return p
	}
	serves := func(cpu ...time.Duration) (s []serve) {
		for _, c := range took(cpu...) {
			s = append(s, serve{c, 1 << 29})
		}
		return s
	}
	const s = time.Second
	l := looped{
		curl: took(s, 2*s, 4*s),
		cold: passes(3*s, 2*s, 4*s), warm: passes(3*s, 5*s, 8*s), peer: passes(s, s, s),
		nginxWhole: serves(s, s, s), seedWhole: serves(s, s, 3*s),
		nginxInRanges: serves(s, s, s), seedInRanges: serves(2*s, s, 2*s),
	}
	b := &bench{size: 1 << 29, runs: 3}
	r := l.report(b)
	for i, want := range []struct {
		name  string
		ratio float64
		good  bool
	}{{"cold", 1, true}, {"warm", 2.5, false}, {"peer", 0.5, true}} {
		d := r.Downloads[i]
		if d.Case != want.name || d.CPURatio != want.ratio || d.WallRatio != want.ratio || d.Good != want.good ||
			d.CurlCPU != 4 || d.Supernode != 2 || d.SeedSent != 0.5 {
			t.Errorf("%+v, want ratio %v", d, want.ratio)
		}
	}
	for i, want := range []struct {
		requests int
		ratio    float64
		good     bool
	}{{1, 1, true}, {128, 2, false}} {
		s := r.Serving[i]
		if s.Requests != want.requests || s.Ratio != want.ratio || s.Good != want.good || s.Sendfile != 1 || s.NginxCPU != 2 {
			t.Errorf("%+v, want ratio %v", s, want.ratio)
		}
	}
	var table strings.Builder
	if err := loopbackTable(&table, r); err != nil || strings.Count(table.String(), "✗") != 2 || strings.Count(table.String(), "✓") != 3 {
		t.Errorf("%v\n%s", err, table.String())
	}
}

// TestProcessCPU: the time of a process that works grows, and is no other's.
func TestProcessCPU(t *testing.T) {
	before := processCPU(os.Getpid())
	for now := before; now <= before; {
		now = processCPU(os.Getpid())
	}
	if used := processCPU(1 << 23); used != 0 { // beyond the largest id of Linux
		t.Errorf("a process that cannot be used %v", used)
	}
}
