// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"dragonfly"
	"dragonfly/agent"
	"dragonfly/internal/logfile"
)

const (
	// listAtOnce is how many files of a list are downloaded at once.
	listAtOnce = 64
	// longestEntry and mostEntries bound a list, in bytes of a line and in lines.
	longestEntry = 64 << 10
	mostEntries  = 1_000_000
)

// entry is one file of a list.
type entry struct {
	url  string
	name string // slash-separated, below the directory of the outputs
}

// parseList reads a list: a URL a line, and behind it, after blanks, the name
// of its output if it is not the last element of the URL's path. Empty lines
// and those that begin with # do not count. No name leads out of the directory
// and no two entries have the same one: of URLs whose last elements are equal
// the later ones get .1, .2 and so on. Errors name the line.
func parseList(r io.Reader) (entries []entry, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, longestEntry)
	taken := map[string]bool{}
	n := 0
	for lines.Scan() {
		n++
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if len(entries) == mostEntries {
			return nil, fmt.Errorf("line %d: a list has at most %d files: split it", n, mostEntries)
		}
		e := entry{url: text}
		if i := strings.IndexAny(text, " \t"); i > 0 {
			e = entry{text[:i], strings.TrimSpace(text[i:])}
		}
		if e.name != "" {
			name := path.Clean(e.name)
			if !filepath.IsLocal(e.name) || name == "." || strings.HasSuffix(e.name, "/") || unprintable(name) {
				return nil, fmt.Errorf("line %d: %q names no file below the directory of the outputs", n, e.name)
			}
			if taken[name] {
				return nil, fmt.Errorf("line %d: the output %q is another line's, too", n, name)
			}
			e.name, taken[name] = name, true
		} else if !named(e.url) {
			return nil, fmt.Errorf("line %d: the url %s names no file: write a name behind it", n, agent.RedactURL(e.url))
		}
		entries = append(entries, e)
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d is longer than %d bytes", n+1, longestEntry)
	}
	// The names that were chosen come first.
	counts := map[string]int{}
	for i := range entries {
		e := &entries[i]
		if e.name != "" {
			continue
		}
		base := lastElement(e.url)
		e.name = base
		for taken[e.name] {
			counts[base]++
			e.name = base + "." + strconv.Itoa(counts[base])
		}
		taken[e.name] = true
	}
	return entries, lines.Err()
}

func unprintable(name string) bool {
	return strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// named says that the last element of a URL's path is a name for a file.
func named(raw string) bool {
	name := lastElement(raw)
	return name != "" && filepath.IsLocal(name) && name != "." && !unprintable(name)
}

// lastElement is that of the URL's path; "" for none.
func lastElement(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || strings.HasSuffix(u.Path, "/") {
		return ""
	}
	if name := path.Base(u.Path); name != "." && name != "/" {
		return name
	}
	return ""
}

// readList reads the list that --input-file names, - for standard input.
func readList(name string, in io.Reader) ([]entry, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("--input-file: %w", err)
		}
		defer f.Close()
		in = f
	}
	entries, err := parseList(in)
	if err != nil {
		return nil, fmt.Errorf("--input-file %s: %w", name, err)
	}
	return entries, nil
}

// list is one run of dfget for all files of a list.
type list struct {
	o      *options
	args   []string
	std    surroundings
	preset bool
	dir    string
	screen *screen
	start  time.Time

	mu     sync.Mutex // guards below
	done   int
	bytes  int64
	failed int
	status int // of the first that failed
	held   bool
}

// checkList says what of the options does not go with a list.
func (o *options) checkList() error {
	switch {
	case o.URL != "":
		return errors.New("--input-file and a url exclude each other: write the url into the list")
	case o.Output == "-":
		return errors.New("--input-file makes files: name a directory for them with -o")
	case o.MD5 != "" || o.Digest != "":
		return errors.New("--input-file: a digest is that of one file: download it alone")
	case o.Console:
		return errors.New("--input-file and --console exclude each other: the log file has the lines of all downloads")
	}
	return nil
}

// run downloads all files, as many at once as are good for it. One that fails
// does not hold the others up.
func (l *list) run(ctx context.Context) error {
	if err := l.o.checkList(); err != nil {
		return err
	}
	entries, err := readList(l.o.InputFile, l.std.in)
	if err != nil {
		return err
	}
	if l.dir, err = filepath.Abs(l.o.Output); err != nil {
		return err
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return fmt.Errorf("the directory of the outputs: choose another with -o: %w", err)
	}
	term, _ := l.std.lookup("TERM")
	l.screen = newScreen(l.std.out, l.o, term)
	l.start = time.Now()
	if l.o.WorkHome, err = homeOf(l.o.WorkHome); err != nil {
		return err
	}
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(listAtOnce, len(entries)) {
		workers.Go(func() {
			for i := range next {
				l.one(ctx, i, entries[i], len(entries))
			}
		})
	}
	for i := range entries {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	workers.Wait()
	return l.finish(ctx, len(entries))
}

// one downloads one file and tells how it went.
func (l *list) one(ctx context.Context, i int, e entry, of int) {
	o := *l.o
	o.URL, o.Output = e.url, filepath.Join(l.dir, filepath.FromSlash(e.name))
	shown := &screen{w: io.Discard, json: l.o.JSON}
	if l.o.JSON {
		shown.w = l.std.out
	}
	// Signs are told apart by their milliseconds.
	start := time.Now()
	g := &get{o: &o, args: l.args, std: l.std, start: start, screen: shown, quiet: true,
		sign: logfile.Sign(os.Getpid(), l.start.Add(time.Duration(i)*time.Millisecond))}
	err := g.prepared(ctx)
	if _, told := errors.AsType[exitStatus](err); err != nil && !told {
		g.fail(nil, agent.Result{Length: dragonfly.UnknownLength}, failed{exitUsage, err})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
	l.held = l.held || g.told.Limited
	if g.told.Success {
		l.bytes += g.told.Length
	} else if ctx.Err() == nil {
		l.failed++
		if l.status == 0 {
			l.status = g.told.Status
		}
		l.screen.erase()
		fmt.Fprintf(l.std.err, "%s%s: %s\n", complaint, agent.RedactURL(e.url), g.told.Error)
	}
	if l.screen.bar {
		fmt.Fprintf(l.screen.w, "\r%d/%d files, %s\x1b[K", l.done, of, bytesText(float64(l.bytes)))
		l.screen.drawn = true
	}
}

// summary is the last line of --json for a list.
type summary struct {
	Event   string  `json:"event"`
	Success bool    `json:"success"`
	Status  int     `json:"status"`
	Files   int     `json:"files"`
	Failed  int     `json:"failed"`
	Left    int     `json:"left,omitempty"` // not tried
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// finish says how all went and gives the exit status.
func (l *list) finish(ctx context.Context, of int) error {
	status := l.status
	if i, ok := errors.AsType[interrupted](context.Cause(ctx)); ok {
		status = signalsFrom + int(i.signal)
	} else if ctx.Err() != nil && status == 0 {
		status = codeDownload % 256
	}
	cost := time.Since(l.start)
	l.screen.line(fmt.Sprintf("downloaded %d of %d files, %s, cost:%.3fs", l.done-l.failed, of, bytesText(float64(l.bytes)), cost.Seconds()))
	l.screen.event(summary{"list", status == 0, status, of, l.failed, of - l.done, l.bytes, cost.Seconds()})
	(&get{std: l.std, screen: l.screen, preset: l.preset}).hint(l.held)
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}
