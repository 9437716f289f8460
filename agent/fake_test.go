// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// fakeEngine is an engine that runs: it "downloads" what is in contents. Jobs
// for one task share one download, which waits for its gate.
type fakeEngine struct {
	dir      string
	contents map[string][]byte
	failures map[string]error
	script   func(peer.Observer, dragonfly.TaskID) // called by each download
	noReader int                                   // how often Reader finds a download just ended and gives nothing

	mu    sync.Mutex // guards below
	gates map[string]chan struct{}
	tasks map[dragonfly.TaskID]*fakeTask
	runs  int // downloads begun
	since time.Time
}

type fakeTask struct {
	e       *fakeEngine
	url     string
	users   int
	stopped chan struct{} // closed when the last user has gone
	done    chan struct{} // closed when the content is there
	err     error
}

type fakeDownload struct {
	t     *fakeTask
	job   peer.Job
	ctx   context.Context
	close func()
	ended chan struct{}
}

func newFakeEngine(t *testing.T) *fakeEngine {
	return &fakeEngine{dir: t.TempDir(), contents: map[string][]byte{}, failures: map[string]error{}, gates: map[string]chan struct{}{},
		tasks: map[dragonfly.TaskID]*fakeTask{}, since: time.Now()}
}

// gate makes downloads of url wait until the returned channel is closed.
func (e *fakeEngine) gate(url string) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gates[url] = make(chan struct{})
	return e.gates[url]
}

func (e *fakeEngine) Start(ctx context.Context, job peer.Job) (Download, error) {
	if strings.Contains(job.Request.URL, "invalid") {
		return nil, &dragonfly.Error{Kind: dragonfly.Invalid, Message: "this job is invalid"}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	id := job.Request.TaskID()
	t := e.tasks[id]
	if t == nil {
		t = &fakeTask{e: e, url: job.Request.URL, stopped: make(chan struct{}), done: make(chan struct{})}
		e.tasks[id] = t
		e.runs++
		gate := e.gates[t.url]
		go func() {
			if gate != nil {
				select {
				case <-gate:
				case <-t.stopped:
					return
				}
			}
			if e.script != nil && job.Observe != nil {
				e.script(job.Observe, id)
			}
			t.err = e.failures[t.url]
			if t.err == nil {
				t.err = os.WriteFile(e.path(id), e.contents[t.url], 0o600)
			}
			close(t.done)
		}()
	}
	t.users++
	d := &fakeDownload{t: t, job: job, ctx: ctx, ended: make(chan struct{})}
	d.close = sync.OnceFunc(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		close(d.ended)
		if t.users--; t.users == 0 {
			close(t.stopped)
			delete(e.tasks, id)
			e.since = time.Now()
		}
	})
	return d, nil
}

func (e *fakeEngine) path(id dragonfly.TaskID) string { return filepath.Join(e.dir, id.String()) }

func (e *fakeEngine) Idle() (time.Time, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.since, len(e.tasks) == 0
}

// waiting says how many jobs wait for a task.
func (e *fakeEngine) waiting(url string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.tasks[dragonfly.Request{URL: url}.TaskID()]; t != nil {
		return t.users
	}
	return 0
}

func (d *fakeDownload) Progress() peer.Progress {
	length := int64(len(d.t.e.contents[d.t.url]))
	return peer.Progress{Task: d.job.Request.TaskID(), Length: length, Done: length, FromSeed: length, Node: "127.0.0.1:8002"}
}

func (d *fakeDownload) Changed() <-chan struct{} { return d.t.done }

func (d *fakeDownload) Wait(ctx context.Context) error {
	select {
	case <-d.t.done:
		return d.t.err
	case <-d.ctx.Done():
		return context.Cause(d.ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *fakeDownload) File() (*os.File, error) { return os.Open(d.t.e.path(d.job.Request.TaskID())) }

func (d *fakeDownload) Reader(ctx context.Context, span dragonfly.Span) (io.Reader, error) {
	if err := d.Wait(ctx); err != nil {
		return nil, err
	}
	if d.t.e.noReader > 0 {
		d.t.e.noReader--
		return nil, nil
	}
	return bytes.NewReader(d.t.e.contents[d.t.url][span.From:]), nil
}

func (d *fakeDownload) Close() error {
	d.close()
	return nil
}

// running is an agent at work.
type running struct {
	*Agent
	o    Options
	log  *safeBuffer // dfclient.log
	own  *safeBuffer // dfserver.log
	done chan error
	stop func() // ends it and waits
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// testPlace is the place of a home in a directory for all users of its own.
func testPlace(t *testing.T) Place {
	t.Helper()
	temp, err := os.MkdirTemp("", "df") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	p, err := PlaceOf(t.TempDir(), temp, temp)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startAgent runs an agent until the test ends.
func startAgent(t *testing.T, p Place, e Engine, change ...func(*Options)) *running {
	t.Helper()
	r := &running{log: &safeBuffer{}, own: &safeBuffer{}, done: make(chan error, 1)}
	r.o = Options{Place: p, Build: Build{"test", Protocol, 100}, Engine: e, IP: "127.0.0.9", Port: 20001, Home: "/home/h", Data: "/home/h/data", Meta: "/home/h/meta", Alive: 5 * time.Minute, Expire: 3 * time.Minute,
		Log: slog.New(slog.NewTextHandler(r.own, nil)), JobLog: r.log}
	for _, c := range change {
		c(&r.o)
	}
	own, err := p.Own(t.Context().Done())
	if err != nil {
		t.Fatal(err)
	}
	a, err := Listen(r.o)
	if err != nil {
		t.Fatal(err)
	}
	r.Agent = a
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		err := a.Serve(ctx)
		own.Release()
		r.done <- err
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-r.done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func dial(t *testing.T, p Place, b Build) *Client {
	t.Helper()
	c, err := Dial(t.Context(), p, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var testBuild = Build{"test", Protocol, 100}

var errBroken = errors.New("broken")

func discard(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
