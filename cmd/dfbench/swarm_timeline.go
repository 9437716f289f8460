// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"

	"dragonfly/internal/network"
)

// drawTimeline draws the largest run of ours into a file.
func (rep report) drawTimeline(path string) error {
	var largest *outcome
	for i := range rep.Runs {
		if r := &rep.Runs[i]; r.System == "ours" && (largest == nil || r.Peers > largest.Peers) {
			largest = r
		}
	}
	if largest == nil || len(largest.traffic) < 2 {
		return fmt.Errorf("no run of ours to draw into %s: have ours among --systems", path)
	}
	return os.WriteFile(path, timeline(*largest, rep.Rate), 0o644)
}

// timeline draws how full each link was: a row for each host, first what it
// received, then what it sent.
func timeline(r outcome, rate int64) []byte {
	const left, top, wide, row, gap = 90, 40, 600, 9, 40
	hosts := len(r.traffic[0].hosts)
	end := r.traffic[len(r.traffic)-1].at.Seconds()
	height := top + 2*(hosts*row+gap)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", left+wide+20, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", left+wide+20, height)
	panel := func(y int, title string, of func(network.Traffic) int64) {
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="13">%s, darker is fuller</text>`+"\n", left, y-8, title)
		for h := range hosts {
			name := fmt.Sprint("peer ", h-firstPeer+1)
			switch h {
			case originHost:
				name = "origin"
			case nodeHost:
				name = "supernode"
			}
			if h < firstPeer || (h-firstPeer)%4 == 0 {
				fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" font-size="9">%s</text>`+"\n", left-6, y+h*row+row-1, name)
			}
			for i := 1; i < len(r.traffic); i++ {
				was, is := r.traffic[i-1], r.traffic[i]
				full := float64(of(is.hosts[h])-of(was.hosts[h])) / (is.at - was.at).Seconds() / float64(rate)
				if full < 0.02 {
					continue
				}
				x, w := wide*was.at.Seconds()/end, wide*(is.at-was.at).Seconds()/end
				fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#1f618d" fill-opacity="%.2f"/>`+"\n", left+x, y+h*row, w+0.1, row-1, min(1, full))
			}
		}
		for s := 0; s <= int(end); s += max(1, int(end)/10) {
			fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%d s</text>`+"\n", left+wide*float64(s)/end, y+hosts*row+13, s)
		}
	}
	panel(top, "received", func(t network.Traffic) int64 { return t.In })
	panel(top+hosts*row+gap, "sent", func(t network.Traffic) int64 { return t.Out })
	b.WriteString("</svg>\n")
	return b.Bytes()
}
