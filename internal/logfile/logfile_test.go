// SPDX-License-Identifier: Apache-2.0

package logfile

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"
)

// TestFormat: v1's line, byte for byte (v1-protocol 9).
func TestFormat(t *testing.T) {
	var out bytes.Buffer
	h := NewHandler(&out, slog.LevelDebug).WithAttrs([]slog.Attr{slog.String(SignKey, "17818-1795376938.013")})
	at := time.Date(2026, 11, 22, 19, 48, 58, 684*int(time.Millisecond), time.Local)
	for _, v := range []struct {
		level slog.Level
		text  string
		want  string
	}{
		{slog.LevelInfo, "download SUCCESS cost:0.671s length:10485760", "INFO sign:17818-1795376938.013 : download SUCCESS cost:0.671s length:10485760"},
		{slog.LevelWarn, "w", "WARN sign:17818-1795376938.013 : w"},
		{slog.LevelError, "e", "ERRO sign:17818-1795376938.013 : e"},
		{slog.LevelDebug, "d", "DEBU sign:17818-1795376938.013 : d"},
		{slog.LevelError + 4, "f", "FATA sign:17818-1795376938.013 : f"},
		{slog.LevelInfo, "a\nb\x1b[1m\r\n", `INFO sign:17818-1795376938.013 : a\nb\x1b[1m\r`},
	} {
		out.Reset()
		if err := h.Handle(t.Context(), slog.NewRecord(at, v.level, v.text, 0)); err != nil {
			t.Fatal(err)
		}
		if got, want := out.String(), "2026-11-22 19:48:58.684 "+v.want+"\n"; got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

// TestLocalTime: the zone is the machine's, whatever zone a time comes in (FAQ:
// the time in the log).
func TestLocalTime(t *testing.T) {
	old := time.Local
	defer func() { time.Local = old }()
	time.Local = time.FixedZone("CST", 8*3600)
	var out bytes.Buffer
	at := time.Date(2026, 11, 22, 19, 48, 58, 0, time.UTC)
	if err := NewHandler(&out, nil).Handle(t.Context(), slog.NewRecord(at, slog.LevelInfo, "m", 0)); err != nil {
		t.Fatal(err)
	}
	if want := "2026-11-23 03:48:58.000 INFO sign: : m\n"; out.String() != want {
		t.Errorf("%q, want %q", &out, want)
	}
}

func TestAttributes(t *testing.T) {
	var out bytes.Buffer
	log := New(&out, nil, "1-1.000")
	log.Debug("hidden")
	log.With("n", 3).WithGroup("g").Info("m", "err", errors.New("a b"), "empty", "", "x", slog.GroupValue(slog.Int("y", 1)))
	log.Info("other", SignKey, "2-2.000")
	want := regexp.MustCompile(`^\S+ \S+ INFO sign:1-1\.000 : m n=3 g\.err="a b" g\.empty="" g\.x\.y=1\n\S+ \S+ INFO sign:2-2\.000 : other\n$`)
	if !want.MatchString(out.String()) {
		t.Errorf("%s", out.String())
	}
}

// TestHandlerContract runs the standard suite for slog handlers over a reader
// of our lines.
func TestHandlerContract(t *testing.T) {
	var out bytes.Buffer
	line := regexp.MustCompile(`^(\S+ \S+) (\S+) sign:\S* : (\S+)(.*)$`)
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		if strings.Contains(t.Name(), "zero-time") {
			t.Skip("a line without a time would not be v1's")
		}
		out.Reset()
		return NewHandler(&out, nil)
	}, func(t *testing.T) map[string]any {
		m := line.FindStringSubmatch(strings.TrimSuffix(out.String(), "\n"))
		if m == nil {
			t.Fatalf("line %q", out.String())
		}
		record := map[string]any{slog.TimeKey: m[1], slog.LevelKey: m[2], slog.MessageKey: m[3]}
		for _, pair := range strings.Fields(m[4]) {
			key, value, _ := strings.Cut(pair, "=")
			at := record
			for group, rest, ok := strings.Cut(key, "."); ok; group, rest, ok = strings.Cut(key, ".") {
				inner, _ := at[group].(map[string]any)
				if inner == nil {
					inner = map[string]any{}
					at[group] = inner
				}
				at, key = inner, rest
			}
			at[key] = value
		}
		return record
	})
}

func TestSign(t *testing.T) {
	if got := Sign(17818, time.UnixMilli(1795376938013)); got != "17818-1795376938.013" {
		t.Error(got)
	}
}

// TestRotation: a full file is put aside, one is kept, no line is lost or cut.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "logs", "dfclient.log")
		f, err := Open(path, Options{MaxSize: 100})
		if err != nil {
			t.Fatal(err)
		}
		lineOf := func(i int) string { return strings.Repeat(string(rune('a'+i)), 39) + "\n" }
		for i := range 7 { // two lines a file
			if _, err := io.WriteString(f, lineOf(i)); err != nil {
				t.Fatal(err)
			}
			tick := time.NewTimer(time.Second) // the fake clock moves on
			<-tick.C
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		aside, err := filepath.Glob(filepath.Join(filepath.Dir(path), "dfclient-*.log"))
		if err != nil || len(aside) != 1 {
			t.Fatalf("put aside: %v, %v", aside, err)
		}
		for path, want := range map[string]string{path: lineOf(6), aside[0]: lineOf(4) + lineOf(5)} {
			if raw, err := os.ReadFile(path); err != nil || string(raw) != want {
				t.Errorf("%s: %q, %v", path, raw, err)
			}
		}
	})
}

// TestAppend: a file that exists is gone on with, also after Close.
func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	for _, line := range []string{"one\n", "two\n"} {
		f, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, line)
		f.Close()
		f.Close()
		io.WriteString(f, "late\n")
		f.Close()
	}
	if raw, _ := os.ReadFile(path); string(raw) != "one\nlate\ntwo\nlate\n" {
		t.Errorf("%q", raw)
	}
}

// TestLinesStayWhole: lines of several loggers never mix.
func TestLinesStayWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	f, err := Open(path, Options{MaxSize: 4096, Backups: 100})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			log := New(f, nil, "1-1.000")
			for range 50 {
				log.Info(strings.Repeat("x", 50))
			}
		})
	}
	wg.Wait()
	f.Close()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole := regexp.MustCompile(`^\S+ \S+ INFO sign:1-1\.000 : x{50}\n$`)
	for line := range strings.Lines(string(raw)) {
		if !whole.MatchString(line) {
			t.Fatalf("line %q", line)
		}
	}
}
