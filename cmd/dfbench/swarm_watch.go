// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"strings"
	"time"

	"dragonfly/internal/network"
)

// sampleEvery is the time between two looks at the links.
const sampleEvery = 100 * time.Millisecond

// sample is what all links had carried at one moment of a run.
type sample struct {
	at    time.Duration
	hosts []network.Traffic
}

// watch looks at the links until stop is called. Without links there is nothing
// to see.
func (w *world) watch() (stop func() []sample) {
	if w.net == nil {
		return func() []sample { return nil }
	}
	began := time.Now()
	quit, seen := make(chan struct{}), make(chan []sample)
	go func() {
		var all []sample
		look := func() {
			if hosts, err := w.net.Traffic(); err == nil {
				all = append(all, sample{time.Since(began), hosts})
			}
		}
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for look(); ; look() {
			select {
			case <-tick.C:
			case <-quit:
				look()
				seen <- all
				return
			}
		}
	}()
	return func() []sample {
		close(quit)
		return <-seen
	}
}

// processor is how long all cores were busy, and how long there was, in ticks.
type processor struct{ busy, all int64 }

// processorTime reads /proc/stat; zero where there is none.
func processorTime() processor {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return processor{}
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	return parseProcessor(line)
}

// parseProcessor reads the line of all cores: user, nice, system, idle, waiting
// for disks, interrupts, soft interrupts, stolen. Of what is stolen by other
// machines of the same host nothing is idle.
func parseProcessor(line string) (p processor) {
	for i, field := range strings.Fields(line) {
		if i == 0 || i > 8 {
			continue // guests are counted as users
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return processor{}
		}
		p.all += n
		if i != 4 && i != 5 {
			p.busy += n
		}
	}
	return p
}

// since is the share of all cores that was busy since then.
func (p processor) since(then processor) float64 {
	if p.all <= then.all {
		return 0
	}
	return float64(p.busy-then.busy) / float64(p.all-then.all)
}
