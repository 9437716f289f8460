// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"dragonfly"
	"dragonfly/peer"
)

// TestBarText: what is known and fits, the most important first; never as
// wide as the screen.
func TestBarText(t *testing.T) {
	half := peer.Progress{Length: 200 << 20, Done: 90 << 20, FromPeers: 60 << 20, FromSeed: 20 << 20, FromSource: 10 << 20}
	for _, v := range []struct {
		p    peer.Progress
		rate float64
		wide int
		want string
	}{
		{half, 10 << 20, 200, " 45% [==================                      ] 90.0MB/200.0MB 10.0MB/s 11s left, 66% from peers"},
		{half, 10 << 20, 80, " 45% [=========            ] 90.0MB/200.0MB 10.0MB/s 11s left, 66% from peers"},
		{half, 10 << 20, 60, " 45% 90.0MB/200.0MB 10.0MB/s 11s left, 66% from peers"},
		{half, 10 << 20, 40, " 45% 90.0MB/200.0MB 10.0MB/s 11s left"},
		{half, 10 << 20, 25, " 45% 10.0MB/s 11s left"},
		{half, 10 << 20, 20, " 45% 10.0MB/s"},
		{half, 0, 80, " 45% [===============                   ] 90.0MB/200.0MB 0B/s, 66% from peers"},
		{half, 1, 80, " 45% [==========              ] 90.0MB/200.0MB 1B/s days left, 66% from peers"},
		{peer.Progress{Length: dragonfly.UnknownLength, Done: 5000}, 100, 80, "4.9KB 100B/s"},
		{peer.Progress{Length: 0}, 0, 80, "0B 0B/s"},
		{peer.Progress{Length: 10, Done: 10, FromSource: 10}, 10, 80, "100% [=================================] 10B/10B 10B/s 0s left, 0% from peers"},
		{peer.Progress{Length: 10, Done: 20}, 10, 80, "100% [========================================] 10B/10B 10B/s 0s left"}, // told twice
		{peer.Progress{Length: 3 << 40, Done: 1 << 40}, 1 << 30, 80, " 33% [=============                          ] 1.0TB/3.0TB 1.0GB/s 34m8s left"},
	} {
		if got := barText(v.p, v.rate, v.wide); got != v.want {
			t.Errorf("%+v in %d columns:\n%q, want\n%q", v.p, v.wide, got, v.want)
		}
	}
	for wide := 0; wide <= 200; wide++ {
		for _, p := range []peer.Progress{half, {Length: dragonfly.UnknownLength, Done: 1 << 40}, {Length: 1, Done: 1}, {Done: -1}} {
			got := barText(p, 123456789, wide)
			if len(got) > max(0, wide-margin) || strings.HasPrefix(got, "  ") || strings.HasSuffix(got, " ") {
				t.Errorf("%d columns: %q", wide, got)
			}
			if strings.Contains(got, "[") {
				bar := got[strings.Index(got, "["):strings.Index(got, "]")]
				if n := len(bar) - 1; n < shortestBar || n > longestBar {
					t.Errorf("%d columns: a bar of %d", wide, n)
				}
			}
		}
	}
}

// newTestScreen draws into a builder.
func newTestScreen(o options) (*screen, *strings.Builder) {
	var out strings.Builder
	return &screen{w: &out, json: o.JSON, bar: o.ShowBar, wide: func() int { return 60 }}, &out
}

// TestBarGivesWay: a line that comes takes the bar's place, and nothing of it
// stays.
func TestBarGivesWay(t *testing.T) {
	s, out := newTestScreen(options{ShowBar: true})
	now := time.Now()
	s.line("one")
	s.progress(peer.Progress{Length: 100, Done: 10}, now)
	s.progress(peer.Progress{Length: 100, Done: 20}, now.Add(time.Second))
	s.line("two")
	s.line("three")
	if got, want := played(out.String()), "one\ntwo\nthree\n"; got != want {
		t.Errorf("the screen shows %q, want %q; written %q", got, want, out)
	}
	s.progress(peer.Progress{Length: 100, Done: 100}, now.Add(2*time.Second))
	if got := played(out.String()); !strings.HasSuffix(got, "three\n100% [==========] 100B/100B 36B/s 0s left") && !strings.Contains(got, "three\n100% [") {
		t.Errorf("the screen shows %q", got)
	}
}

// played is what a terminal shows that understands \r and "erase to the end of
// the line".
func played(text string) string {
	var lines []string
	line, at := []byte{}, 0
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\n':
			lines, line, at = append(lines, strings.TrimRight(string(line), " ")+"\n"), line[:0], 0
		case text[i] == '\r':
			at = 0
		case strings.HasPrefix(text[i:], "\x1b[K"):
			line = line[:at]
			i += 2
		default:
			line = append(line[:at], append([]byte{text[i]}, line[min(len(line), at+1):]...)...)
			at++
		}
	}
	return strings.Join(lines, "") + string(line)
}

// TestRate: smoothed over a few seconds, and it falls when nothing comes.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, out := newTestScreen(options{JSON: true})
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second+time.Millisecond)
		defer cancel()
		step := time.NewTicker(100 * time.Millisecond)
		defer step.Stop()
		ended := make(chan struct{})
		go func() { s.keep(ctx); close(ended) }()
		for i := range 50 { // 5 s at 1000 B/s
			<-step.C
			s.progress(peer.Progress{Length: 1e6, Done: int64(i) * 100}, time.Now())
		}
		<-ended // 20 s of nothing
		var rates []int64
		for line := range strings.Lines(out.String()) {
			var e progressEvent
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event != "progress" || e.Length != 1e6 {
				t.Fatalf("%q: %v", line, err)
			}
			rates = append(rates, e.Rate)
		}
		if n := len(rates); n < 24 || n > 26 { // one a second
			t.Fatalf("%d lines in 25 s: %v", n, rates)
		}
		if r := rates[4]; r < 990 || r > 1010 {
			t.Errorf("the rate is %d after 5 s at 1000 B/s", r)
		}
		if r := rates[len(rates)-1]; r > 10 {
			t.Errorf("the rate is %d after 20 s of nothing", r)
		}
	})
}

// TestWhatIsShown: a bar on a terminal or when asked for, never beside the log
// or JSON, and not where a line cannot be erased.
func TestWhatIsShown(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	terminal := openTerminal(t, 33)
	for _, v := range []struct {
		f    *os.File
		o    options
		term string
		bar  bool
	}{
		{file, options{}, "xterm", false},
		{file, options{ShowBar: true}, "", true},
		{terminal, options{}, "xterm", true},
		{terminal, options{}, "", true},
		{terminal, options{}, "dumb", false},
		{terminal, options{ShowBar: true}, "dumb", true},
		{terminal, options{Console: true}, "xterm", false},
		{terminal, options{JSON: true}, "xterm", false},
	} {
		if v.f == nil {
			continue // no terminals here
		}
		s := newScreen(v.f, &v.o, v.term)
		if s.bar != v.bar || s.terminal != (v.f == terminal) {
			t.Errorf("%+v: %+v", v, s)
		}
		if want := map[bool]int{true: 33, false: 80}[s.terminal]; s.wide() != want {
			t.Errorf("%d columns, want %d", s.wide(), want)
		}
	}
}

// openTerminal is a terminal that nobody looks at; nil where there is none to
// be had.
func openTerminal(t *testing.T, wide uint16) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	t.Cleanup(func() { slave.Close() })
	if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: wide}); err != nil {
		t.Fatal(err)
	}
	return slave
}

// TestDownloadOnATerminal: v1's lines stay, no rest of a bar does.
func TestDownloadOnATerminal(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 1000)
	h.serve()
	for _, status := range []int64{0, 404} {
		o.status.Store(status)
		got := h.get("--showbar", "-p", "source", "-i", strconv.FormatInt(status, 10), "-o", h.path("out"), "-u", o.URL+"/f")
		shown := strings.TrimSuffix(played(got.out), "\n")
		lines := strings.Split(shown, "\n")
		if len(lines) != 6 || !strings.HasPrefix(lines[5], "download ") {
			t.Errorf("the screen shows\n%s", shown)
		}
	}
}

// TestConsole: the log's lines on stdout, beside v1's, and no bar.
func TestConsole(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 1000)
	h.serve()
	got := h.get("--console", "-p", "source", "-o", h.path("out"), "-u", o.URL+"/f")
	contains(t, "stdout", got.out, " : get cmd params:[\"dfget\"", "start download out from the source station", "download SUCCESS cost:")
	if strings.Contains(got.out, "\r") || strings.Contains(got.out, "\x1b") {
		t.Errorf("there is a bar: %q", got.out)
	}
	for line := range strings.Lines(h.log()) {
		if !strings.Contains(got.out, line) && !strings.Contains(line, "move src:") && !strings.Contains(line, "download S") && !strings.Contains(line, "download s") {
			t.Errorf("stdout lacks %q", line)
		}
	}
}
