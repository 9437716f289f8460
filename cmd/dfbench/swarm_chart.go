// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"dragonfly"
	"dragonfly/sched/sim"
)

// point is a time by the number of peers.
type point struct {
	Peers   int     `json:"peers"`
	Seconds float64 `json:"seconds"`
}

// simulatedCurve plays swarms over the same links in virtual time.
func simulatedCurve(ctx context.Context, rep report) (curve []point, err error) {
	full := dragonfly.PieceLenFor(rep.Size)
	pieces := max(1, int(rep.Size/full)) // a last piece of a few bytes is none there: all are equal
	length := (rep.Size/int64(pieces) + dragonfly.BlockLen - 1) / dragonfly.BlockLen * dragonfly.BlockLen
	speed := dragonfly.Rate(rep.Reached)
	for _, n := range []int{4, 8, 16, 32, 64, 128, 256, 600, 1200} {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r, err := sim.Run(sim.Scenario{Name: "chart", Peers: n, Pieces: pieces, PieceLen: length, Up: []dragonfly.Rate{speed},
			Down: speed, SeedUp: speed, SeedDown: speed, Company: 20 * time.Millisecond})
		if err != nil {
			return nil, err
		}
		curve = append(curve, point{n, r.Slowest * r.Bound.Seconds()})
	}
	return curve, nil
}

// curve is one line of the chart.
type curve struct {
	name, color string
	dashed      bool
	points      []point
}

// curves are the lines of a report: what was measured, the simulator's, and the
// bound.
func (rep report) curves() []curve {
	all := []curve{}
	for _, c := range []curve{
		{name: "curl", color: "#c0392b"}, {name: "aria2", color: "#d68910"}, {name: "ours", color: "#1f618d"},
	} {
		for _, r := range rep.Runs {
			if r.System == c.name && !r.GivenUp {
				c.points = append(c.points, point{r.Peers, r.Slowest})
			}
		}
		if len(c.points) > 0 {
			slices.SortFunc(c.points, func(a, b point) int { return a.Peers - b.Peers })
			all = append(all, c)
		}
	}
	if len(rep.Simulated) > 0 {
		all = append(all, curve{"ours, simulated", "#1f618d", true, rep.Simulated})
	}
	return all
}

// drawChart draws the times by the number of peers, both axes logarithmic.
func drawChart(rep report) []byte {
	const width, height, left, right, top, bottom = 760, 420, 60, 150, 46, 46
	all := rep.curves()
	from, to, low, high := math.Inf(1), 0.0, rep.Bound, rep.Bound
	for _, c := range all {
		for _, p := range c.points {
			from, to = min(from, float64(p.Peers)), max(to, float64(p.Peers))
			low, high = min(low, p.Seconds), max(high, p.Seconds)
		}
	}
	if to <= from {
		from, to = max(1, from/2), 2*from
	}
	low, high = low/1.5, high*1.3
	x := func(n float64) float64 {
		return left + (width-left-right)*math.Log(n/from)/math.Log(to/from)
	}
	y := func(s float64) float64 {
		return height - bottom - (height-top-bottom)*math.Log(s/low)/math.Log(high/low)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	rate := linkRate(rep.Rate)
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="15">Until the last of N hosts has %s, links of %s each way</text>`+"\n", left, dragonfly.Size(rep.Size), &rate)
	for n := 1.0; n <= to; n *= 2 {
		if n >= from {
			fmt.Fprintf(&b, `<path d="M%.1f %d V%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%.0f</text>`+"\n", x(n), top, height-bottom, x(n), height-bottom+17, n)
		}
	}
	for _, s := range []float64{0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000} {
		if s >= low && s <= high {
			fmt.Fprintf(&b, `<path d="M%d %.1f H%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g s</text>`+"\n", left, y(s), width-right, left-6, y(s)+4, s)
		}
	}
	fmt.Fprintf(&b, `<path d="M%d %.1f H%d" stroke="#666" stroke-dasharray="2 3"/><text x="%d" y="%.1f" fill="#666">bound %.1f s</text>`+"\n",
		left, y(rep.Bound), width-right, width-right+6, y(rep.Bound)+14, rep.Bound)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">hosts</text>`+"\n", (left+width-right)/2, height-8)
	for _, c := range all {
		path, dash := "", ""
		for i, p := range c.points {
			path += fmt.Sprintf("%c%.1f %.1f", "ML"[min(i, 1)], x(float64(p.Peers)), y(p.Seconds))
			if !c.dashed {
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x(float64(p.Peers)), y(p.Seconds), c.color)
			}
		}
		if c.dashed {
			dash = ` stroke-dasharray="6 4"`
		}
		last := c.points[len(c.points)-1]
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", path, c.color, dash)
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" fill="%s">%s</text>`+"\n", x(float64(last.Peers))+6, y(last.Seconds)-4, c.color, c.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
