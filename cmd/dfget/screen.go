// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dragonfly/peer"
)

// defaultWide is how wide a screen is that does not say it.
const defaultWide = 80

// screen shows a download to its user: v1's lines, and a bar or JSON if wanted.
type screen struct {
	w        io.Writer
	terminal bool // somebody looks at it
	bar      bool
	json     bool
	wide     func() int // columns, which change with the window

	mu     sync.Mutex // guards below
	drawn  bool       // the bar stands in the last line
	known  bool       // there was progress
	state  peer.Progress
	last   time.Time // when the rate was computed last
	bytes  int64     // that were done then
	rate   float64   // bytes per second, smoothed
	report time.Time // when progress was printed as JSON last
}

// isTerminal says whether somebody looks at f.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func columns(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return defaultWide
	}
	return int(size.Col)
}

// newScreen shows on f. A terminal that does not know how to erase a line
// (TERM=dumb) gets the bar only if it is asked for.
func newScreen(f *os.File, o *options, term string) *screen {
	s := &screen{w: f, json: o.JSON, terminal: isTerminal(f), wide: func() int { return defaultWide }}
	s.bar = !o.JSON && !o.Console && (s.terminal && term != "dumb" || o.ShowBar)
	if s.terminal {
		s.wide = func() int { return columns(f) }
	}
	return s
}

// line prints one of v1's lines.
func (s *screen) line(text string) {
	if s.json {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	fmt.Fprintln(s.w, text)
}

// raw prints a log line, which has its own end.
func (s *screen) raw(text string) { s.line(strings.TrimSuffix(text, "\n")) }

// event prints one JSON object.
func (s *screen) event(v any) {
	if !s.json {
		return
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own structs
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, "%s\n", text)
}

// progressEvent is a line of --json while the download runs.
type progressEvent struct {
	Event string `json:"event"`
	peer.Progress
	Rate int64 `json:"rate"` // bytes per second
}

// keep shows once a second that nothing happens, until ctx ends: an agent
// tells changes only.
func (s *screen) keep(ctx context.Context) {
	if !s.bar && !s.json {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		state, known, quiet := s.state, s.known, time.Since(s.last) >= time.Second
		s.mu.Unlock()
		if known && quiet {
			s.progress(state, time.Now())
		}
	}
}

func (s *screen) progress(p peer.Progress, now time.Time) {
	s.mu.Lock()
	s.measure(p.Done, now)
	s.state, s.known = p, true
	rate := s.rate
	due := now.Sub(s.report) >= time.Second
	if due {
		s.report = now
	}
	if s.bar {
		fmt.Fprint(s.w, "\r"+barText(p, rate, s.wide())+"\x1b[K")
		s.drawn = true
	}
	s.mu.Unlock()
	if s.json && due {
		s.event(progressEvent{"progress", p, int64(rate)})
	}
}

// measure smooths the rate over about three seconds.
func (s *screen) measure(done int64, now time.Time) {
	if s.last.IsZero() {
		s.last, s.bytes = now, done
		return
	}
	elapsed := now.Sub(s.last).Seconds()
	if elapsed <= 0 {
		return
	}
	current := float64(max(0, done-s.bytes)) / elapsed
	weight := min(1, elapsed/3)
	if s.rate == 0 {
		weight = 1
	}
	s.rate += (current - s.rate) * weight
	s.last, s.bytes = now, done
}

// seen is the progress that was shown last, if any.
func (s *screen) seen() (p peer.Progress, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.known
}

func (s *screen) erase() {
	if s.drawn {
		fmt.Fprint(s.w, "\r\x1b[K")
		s.drawn = false
	}
}

// shortestBar and longestBar bound the bar itself, in columns.
const shortestBar, longestBar = 10, 40

// margin stays free at the right: a full line would make the terminal begin the
// next one, and so would the ^C of a user who ends the download.
const margin = 3

// barText is percentage, bar, bytes, rate, time left and share from peers, as
// far as they are known. What does not fit into a line of wide columns is left
// out whole, the least important first.
func barText(p peer.Progress, rate float64, wide int) string {
	room := max(0, wide-margin)
	var percent, amount, left, share string
	done := max(0, p.Done)
	amount = bytesText(float64(done))
	if p.Length > 0 {
		done = min(done, p.Length)
		percent = fmt.Sprintf("%3d%%", done*100/p.Length)
		amount = bytesText(float64(done)) + "/" + bytesText(float64(p.Length))
		if rate > 0 {
			left = leftText(float64(p.Length-done)/rate) + " left"
		}
	}
	if all := p.FromPeers + p.FromSeed + p.FromSource; all > 0 {
		share = fmt.Sprintf(", %d%% from peers", p.FromPeers*100/all)
	}
	speed := bytesText(rate) + "/s"

	// In the order of their importance, each with the blank before it.
	used := 0
	for _, part := range []*string{&percent, &speed, &left, &amount, &share} {
		if *part == "" {
			continue
		}
		need := len(*part)
		if used > 0 && part != &share {
			need++
		}
		if used+need > room {
			*part = ""
			continue
		}
		used += need
	}
	bar := ""
	if wide := min(longestBar, room-used-len(" []")); percent != "" && wide >= shortestBar {
		full := int(done * int64(wide) / p.Length)
		bar = "[" + strings.Repeat("=", full) + strings.Repeat(" ", wide-full) + "]"
	}
	var shown []string
	for _, part := range []string{percent, bar, amount, speed, left} {
		if part != "" {
			shown = append(shown, part)
		}
	}
	return strings.Join(shown, " ") + share
}

// leftText is a time in seconds as a user counts it.
func leftText(seconds float64) string {
	if seconds >= 100*3600 {
		return "days"
	}
	return (time.Duration(seconds) * time.Second).String()
}

func bytesText(n float64) string {
	for _, unit := range []string{"B", "KB", "MB", "GB"} {
		if n < 1024 {
			if unit == "B" {
				return fmt.Sprintf("%.0f%s", n, unit)
			}
			return fmt.Sprintf("%.1f%s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1fTB", n)
}
