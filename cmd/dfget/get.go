// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dragonfly"
	"dragonfly/agent"
	"dragonfly/internal/logfile"
	"dragonfly/internal/settings"
	"dragonfly/peer"
)

func newGet(args []string, std surroundings) *cobra.Command {
	o := presets()
	set := settings.Of(&o)
	path := std.settings
	c := &cobra.Command{
		Use:   "dfget [flags] [URL]",
		Short: "Download a file through the swarm of those who want it too",
		Long: `dfget downloads a file from the hosts that have it already, from the supernode,
or from its source, whichever is nearest, and goes on serving it for a while.
Without a supernode it downloads from the source, verified and resumable.`,
		Annotations: map[string]string{settings.Appendix: filesDoc + "\n\n" + exitStatusDoc},
		Example: `  dfget -u https://example.com/data.tar -o /tmp/data.tar --node supernode01,supernode02
  dfget https://example.com/data.tar --digest sha256:HEX -o - | tar x
  dfget --input-file urls.txt -o DIRECTORY
  dfget -u https://example.com/data.tar --header "Authorization: Bearer TOKEN" -s 0`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, rest []string) error {
			named := c.Flags().Changed(filePath)
			notices, err := set.Load(settings.Source{Path: path, MustExist: named, Prefix: "DFGET_", Lookup: std.lookup})
			for _, n := range notices {
				fmt.Fprintln(std.err, "dfget:", n)
			}
			if err != nil {
				return err
			}
			if len(rest) == 1 {
				if o.URL != "" && o.URL != rest[0] {
					return errors.New("two urls: give one, with -u or alone")
				}
				o.URL = rest[0]
			}
			if len(o.Nodes) == 0 && !named && !exists(path) { // one file is read, as in v1
				if o.Nodes, err = readINI(std.ini); err != nil {
					return err
				}
			}
			preset := o.LocalLimit == presetLimit && !c.Flags().Changed("locallimit")
			if o.InputFile != "" {
				l := list{o: &o, args: args, std: std, preset: preset}
				return l.run(c.Context())
			}
			g := get{o: &o, args: args, std: std, preset: preset}
			return g.run(c.Context())
		},
	}
	set.AddFlags(c.Flags())
	c.Flags().StringVar(&path, filePath, path, "settings file")
	c.Flags().SortFlags = false
	c.MarkFlagsMutuallyExclusive("showbar", "console", "json")
	c.ValidArgsFunction = cobra.NoFileCompletions // a URL
	complete := func(flag string, words ...string) {
		if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // our own flag
		}
	}
	complete("link", linkAuto, linkReflink, linkHard, linkCopy)
	complete("compress", "auto", "off")
	complete("pattern", peer.PatternP2P, "cdn", peer.PatternSource)
	for _, name := range []string{"url", "node", "md5", "digest", "identifier", "filter", "header", "locallimit", "totallimit", "minrate", "timeout",
		"clientqueue", "callsystem", "ip", "port", "expiretime", "alivetime", "zone", "rack"} {
		complete(name)
	}
	return c
}

// get is one run of dfget.
type get struct {
	o      *options
	args   []string
	std    surroundings
	preset bool // the limit is the preset one

	start   time.Time
	sign    string
	request dragonfly.Request
	target  target
	temp    string // beside the target until all is there
	screen  *screen
	stream  *streaming // nil unless the bytes are written as they come
	quiet   bool       // nothing is shown before the outcome
	told    outcome
}

// failed is a failure with v1's internal code.
type failed struct {
	code int
	err  error
}

func (f failed) Error() string { return f.err.Error() }
func (f failed) Unwrap() error { return f.err }

// run downloads; an error is the user's to mend, an exitStatus was told.
func (g *get) run(ctx context.Context) (err error) {
	g.start = time.Now()
	g.sign = logfile.Sign(os.Getpid(), g.start)
	shown := g.std.out
	if g.o.Output == "-" {
		shown = g.std.err
	}
	term, _ := g.std.lookup("TERM")
	g.screen = newScreen(shown, g.o, term)
	return g.prepared(ctx)
}

// prepared is run behind the choice of start, sign and screen.
func (g *get) prepared(ctx context.Context) (err error) {
	if g.request, err = g.o.request(); err != nil {
		return err
	}
	if g.target, err = targetOf(g.o.Output, g.o.URL); err != nil {
		return err
	}
	if !g.target.stream {
		g.temp = g.target.temporary(g.sign)
	}
	if g.o.LogConfig.Path != "" {
		if g.o.LogConfig.Path, err = filepath.Abs(g.o.LogConfig.Path); err != nil { // the agent works elsewhere
			return err
		}
	}
	if g.o.WorkHome, err = homeOf(g.o.WorkHome); err != nil {
		return g.fail(nil, agent.Result{Length: dragonfly.UnknownLength}, err)
	}
	g.screen.line("--" + g.start.Format(time.DateTime) + "--  " + agent.RedactURL(g.o.URL))
	g.screen.line("dfget version:" + build().Version)
	g.screen.line("workspace:" + g.o.WorkHome)
	g.screen.line("sign:" + g.sign)
	result, content, client, err := g.download(ctx)
	if client != nil {
		defer client.Close()
	}
	if content != nil {
		defer content.Close()
	}
	switch {
	case err != nil:
		return g.fail(client, result, err)
	case result.Error != nil:
		return g.fail(client, result, failed{codeOf(result.Error), result.Error})
	}
	return g.finish(ctx, client, result, content)
}

// homeOf makes the home directory.
func homeOf(home string) (string, error) {
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return "", failed{codeUser, fmt.Errorf("the home directory is not known (%w): name one with --home", err)}
		}
		home = filepath.Join(user, ".small-dragonfly")
	}
	home, err := filepath.Abs(home)
	if err == nil {
		err = os.MkdirAll(home, 0o755)
	}
	if err != nil {
		return "", failed{codePrepare, fmt.Errorf("the home directory %s cannot be made: name another with --home: %w", home, err)}
	}
	if err := unix.Access(home, unix.W_OK|unix.X_OK); err != nil {
		return "", failed{codePrepare, fmt.Errorf("the home directory %s cannot be written: name another with --home: %w", home, err)}
	}
	return home, nil
}

// attempts bounds how many agents one job is given to, should they die.
const attempts = 5

// download gives the job to an agent until one finishes it. The client is
// open if there is a result.
func (g *get) download(ctx context.Context) (result agent.Result, content *os.File, c *agent.Client, err error) {
	result.Length = dragonfly.UnknownLength
	place, err := g.std.place(g.o.WorkHome)
	if err != nil {
		return result, nil, nil, failed{codePrepare, err}
	}
	l := launcher{place: place, build: build(), start: func(ctx context.Context) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		return spawner{self, serverLog(g.o.WorkHome), startTime}.start(ctx, g.o.serverArgs())
	}}
	listener := agent.Listener{}
	if !g.quiet {
		listener = agent.Listener{Line: g.line, Log: g.screen.raw, Progress: func(p peer.Progress) { g.screen.progress(p, time.Now()) }}
	}
	if g.target.stream {
		if g.stream, err = newStreaming(ctx, g.target, g.std.out); err != nil {
			return result, nil, nil, err
		}
		listener.Stream = g.stream.begin
	}
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { g.screen.keep(watching) })
	defer watch.Wait()
	defer stop()
	for range attempts {
		if c, err = l.connect(ctx); err != nil {
			if !errors.Is(err, agent.ErrGone) {
				break
			}
			continue
		}
		result, content, err = c.Run(ctx, g.job(), listener)
		if g.stream != nil {
			serr := g.stream.end(err != nil)
			if serr != nil && err == nil {
				err = failed{codeDownload, fmt.Errorf("write the output: %w", serr)}
			}
			if errors.Is(err, agent.ErrGone) && g.stream.written > 0 {
				err = failed{codeDownload, errors.New("the dfget server ended in the middle of the output")}
			}
		}
		if err == nil {
			return result, content, c, nil
		}
		c.Close()
		if !errors.Is(err, agent.ErrGone) {
			break
		}
	}
	result.Length = dragonfly.UnknownLength
	var f failed
	if ctx.Err() == nil && !errors.As(err, &f) {
		err = failed{codeLaunch, err}
	}
	return result, nil, nil, err
}

// line shows a line of the agent.
func (g *get) line(text string) {
	g.screen.line(text)
	g.screen.event(map[string]string{"event": "line", "line": text})
}

func (g *get) job() agent.Job {
	nodes, preset := settings.Members(g.o.Nodes)
	out := g.target.path
	if out == "-" {
		out = "/dev/stdout"
	}
	return agent.Job{
		Sign: g.sign, Request: g.request, Pattern: g.o.Pattern, NoSource: g.o.NoSource, Nodes: nodes, Preset: preset,
		IP: g.o.IP, Limit: g.o.LocalLimit, TotalLimit: g.o.TotalLimit, MinRate: g.o.MinRate, Queue: g.o.ClientQueueSize,
		Timeout: time.Duration(g.o.Timeout), Stream: g.target.stream, Console: g.o.Console, Verbose: g.o.Verbose,
		Argv: agent.RedactArgs(g.args), Config: g.o.initConfig(out, nodes), Target: out, TempTarget: g.temp,
	}
}

// finish makes the output and says how the download went.
func (g *get) finish(ctx context.Context, c *agent.Client, result agent.Result, content *os.File) error {
	placed := agent.Placed{Target: g.target.path}
	if content != nil {
		began := time.Now()
		way, err := g.target.place(ctx, content, result.Length, g.temp, g.o.Link)
		placed.Source, placed.Moved, placed.Linked = g.temp, time.Since(began), err == nil && way == linkHard
		if err != nil {
			if ctx.Err() == nil {
				err = failed{codeDownload, err}
			}
			return g.fail(c, result, err)
		}
	}
	placed.Cost = time.Since(g.start)
	c.Placed(placed)
	g.screen.line(fmt.Sprintf("download SUCCESS cost:%.3fs length:%d reason:%d", placed.Cost.Seconds(), result.Length, result.Reason))
	g.told = g.outcome(result, placed.Cost, exitOK, nil)
	g.screen.event(g.told)
	g.hint(result.Limited)
	return nil
}

// hint tells what to do against a limit that nobody asked for.
func (g *get) hint(limited bool) {
	if !g.preset || !limited {
		return
	}
	text := fmt.Sprintf("held back by the default limit of %s per second: --locallimit 0 lifts it", dragonfly.Rate(presetLimit))
	if g.screen.terminal && !g.screen.json {
		g.screen.line(text)
	} else {
		fmt.Fprintln(g.std.err, complaint+text) // stdout has v1's lines only
	}
}

// outcome is the last line of --json.
type outcome struct {
	Event      string  `json:"event"`
	Success    bool    `json:"success"`
	Status     int     `json:"status"` // exit status
	Error      string  `json:"error,omitempty"`
	Kind       string  `json:"kind,omitempty"` // of the error
	URL        string  `json:"url"`
	Output     string  `json:"output"`
	Sign       string  `json:"sign"`
	Seconds    float64 `json:"seconds"`
	Task       string  `json:"task,omitempty"`
	Length     int64   `json:"length"`
	Reason     int     `json:"reason"`
	Node       string  `json:"node,omitempty"`
	FromSource int64   `json:"fromSource"`
	FromSeed   int64   `json:"fromSeed"`
	FromPeers  int64   `json:"fromPeers"`
	// Limited says that --locallimit held the download back.
	Limited bool `json:"limited,omitempty"`
}

func (g *get) outcome(r agent.Result, cost time.Duration, status int, err error) outcome {
	out := outcome{Event: "result", Success: err == nil, Status: status, URL: agent.RedactURL(g.o.URL), Output: g.target.path, Sign: g.sign,
		Seconds: cost.Seconds(), Length: r.Length, Reason: r.Reason, Node: r.Node, FromSource: r.FromSource, FromSeed: r.FromSeed, FromPeers: r.FromPeers, Limited: r.Limited}
	if !r.Task.IsZero() {
		out.Task = r.Task.String()
	}
	if err != nil {
		out.Error, out.Kind = err.Error(), string(dragonfly.KindOf(err))
	}
	return out
}

// fail says how the download failed and gives the exit status.
func (g *get) fail(c *agent.Client, result agent.Result, err error) error {
	cost := time.Since(g.start)
	if dragonfly.KindOf(err) == dragonfly.Unauthorized {
		err = fmt.Errorf("%w: give them with --header", err)
	}
	if p, known := g.screen.seen(); known && result.Task.IsZero() { // it ended before the result
		result = agent.Result{Task: p.Task, Length: p.Length, Reason: p.Reason, Node: p.Node,
			FromSource: p.FromSource, FromSeed: p.FromSeed, FromPeers: p.FromPeers, Limited: p.Limited}
	}
	if c != nil {
		c.Placed(agent.Placed{Target: g.target.path, Cost: cost, Error: err.Error()})
	}
	code := codeDownload
	if f, ok := errors.AsType[failed](err); ok {
		code = f.code
	}
	status := code % 256
	if i, ok := errors.AsType[interrupted](err); ok {
		status = signalsFrom + int(i.signal)
		code = status
	}
	// v1 wrote the message unescaped.
	g.screen.line(fmt.Sprintf(`download FAIL(%d) cost:%.3fs length:%d reason:%d error:{"Code":%d,"Msg":"%s"}`,
		code, cost.Seconds(), result.Length, result.Reason, code, err))
	g.told = g.outcome(result, cost, status, err)
	g.screen.event(g.told)
	return exitStatus(status)
}

// codeOf is v1's internal code for a failed download.
func codeOf(err error) int {
	if dragonfly.KindOf(err) == dragonfly.Denied {
		return codeRefused
	}
	return codeDownload
}

// streaming writes the bytes of a download as they come.
type streaming struct {
	out     *os.File
	owned   bool
	pipe    *os.File
	done    chan struct{} // nil: no pipe came yet
	written int64
	err     error // of writing; valid after done
}

func newStreaming(ctx context.Context, t target, stdout *os.File) (*streaming, error) {
	if t.path == "-" {
		return &streaming{out: stdout}, nil
	}
	type opened struct {
		f   *os.File
		err error
	}
	c := make(chan opened, 1)
	go func() { // a pipe's opening waits for its reader
		f, err := os.OpenFile(t.path, os.O_WRONLY, 0)
		c <- opened{f, err}
	}()
	select {
	case o := <-c:
		if o.err != nil {
			return nil, failed{codeDownload, fmt.Errorf("the output cannot be written: choose another place with -o: %w", o.err)}
		}
		return &streaming{out: o.f, owned: true}, nil
	case <-ctx.Done():
		go func() { // or the reader would wait for more
			if o := <-c; o.err == nil {
				o.f.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

func (s *streaming) begin(pipe *os.File) {
	s.pipe, s.done = pipe, make(chan struct{})
	go func() {
		defer close(s.done)
		defer pipe.Close()
		n, err := io.CopyBuffer(struct{ io.Writer }{s.out}, struct{ io.Reader }{pipe}, make([]byte, 256<<10))
		s.written, s.err = s.written+n, err
	}()
}

// end waits until all has been written; broken says that no more will come.
func (s *streaming) end(broken bool) error {
	if s.done != nil {
		if broken {
			s.pipe.SetReadDeadline(time.Unix(1, 0))
		}
		<-s.done
		s.done = nil
	}
	if s.owned && !broken {
		return errors.Join(s.err, s.out.Close())
	}
	return s.err
}
