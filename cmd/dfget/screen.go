// SPDX-License-Identifier: Apache-2.0

package main

import (
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

// screen shows a download to its user: v1's lines, and a bar or JSON if wanted.
type screen struct {
	w    io.Writer
	bar  bool
	json bool
	wide int // columns

	mu     sync.Mutex // guards below
	drawn  bool       // the bar stands in the last line
	last   time.Time  // when the rate was computed last
	bytes  int64      // that were done then
	rate   float64    // bytes per second, smoothed
	report time.Time  // when progress was printed as JSON last
}

// isTerminal says whether somebody looks at f.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func columns(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 {
		return 80
	}
	return int(size.Col)
}

func newScreen(f *os.File, o *options) *screen {
	terminal := isTerminal(f)
	s := &screen{w: f, json: o.JSON, bar: !o.JSON && !o.Console && (terminal || o.ShowBar), wide: 80}
	if terminal {
		s.wide = columns(f)
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

func (s *screen) progress(p peer.Progress, now time.Time) {
	s.mu.Lock()
	s.measure(p.Done, now)
	rate := s.rate
	due := now.Sub(s.report) >= time.Second
	if due {
		s.report = now
	}
	if s.bar {
		text := barText(p, rate, s.wide)
		fmt.Fprint(s.w, "\r"+text+"\x1b[K")
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

func (s *screen) erase() {
	if s.drawn {
		fmt.Fprint(s.w, "\r\x1b[K")
		s.drawn = false
	}
}

// barText is percentage, bar, bytes, rate, time left and share from peers, as
// far as they are known and fit.
func barText(p peer.Progress, rate float64, wide int) string {
	text := bytesText(float64(p.Done))
	if p.Length > 0 {
		text += "/" + bytesText(float64(p.Length))
	}
	text += " " + bytesText(rate) + "/s"
	if p.Length > 0 && rate > 0 {
		left := time.Duration(float64(p.Length-p.Done) / rate * float64(time.Second))
		text += " " + left.Round(time.Second).String() + " left"
	}
	if all := p.FromPeers + p.FromSeed + p.FromSource; all > 0 {
		text += fmt.Sprintf(", %d%% from peers", p.FromPeers*100/all)
	}
	if p.Length <= 0 {
		return clip(text, wide-1)
	}
	head := fmt.Sprintf("%3d%% ", p.Done*100/p.Length)
	if room := min(40, wide-1-len(head)-len(text)-3); room >= 10 {
		full := int(p.Done * int64(room) / p.Length)
		head += "[" + strings.Repeat("=", full) + strings.Repeat(" ", room-full) + "] "
	}
	return clip(head+text, wide-1)
}

func clip(s string, n int) string { return s[:min(len(s), max(0, n))] }

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
