// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/mirror"
	"dragonfly/peer"
)

// fakeEngine runs jobs out of memory.
type fakeEngine struct {
	content []byte
	unknown bool          // the length is
	refuse  error         // of Start
	fail    error         // before the first byte
	lostAt  int           // the job fails there with lost; 0: it does not
	lost    error         // why
	gate    chan struct{} // nothing comes before it is closed; nil: open
	gateAt  int           // what lies before it comes all the same
	flow    int64         // bytes that it receives in a second
	version func() dragonfly.Version

	mu     sync.Mutex // guards all below
	jobs   []peer.Job
	open   int // downloads
	opened int
}

func (e *fakeEngine) started() []peer.Job {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]peer.Job(nil), e.jobs...)
}

func (e *fakeEngine) Start(ctx context.Context, job peer.Job) (mirror.Download, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.jobs = append(e.jobs, job)
	if e.refuse != nil {
		return nil, e.refuse
	}
	e.open++
	e.opened++
	d := &fakeDownload{e: e, job: job, began: time.Now()}
	d.ctx, d.cancel = context.WithCancel(ctx)
	return d, nil
}

type fakeDownload struct {
	e      *fakeEngine
	job    peer.Job
	began  time.Time
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
}

func (d *fakeDownload) Progress() peer.Progress {
	if d.e.unknown {
		return peer.Progress{Length: dragonfly.UnknownLength}
	}
	return peer.Progress{Length: int64(len(d.e.content)), FromSeed: d.e.flow * int64(time.Since(d.began)/time.Second)}
}

func (d *fakeDownload) Reader(ctx context.Context, span dragonfly.Span) (io.Reader, error) {
	if d.e.gate != nil && d.e.gateAt == 0 {
		select {
		case <-d.e.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-d.ctx.Done():
			return nil, d.ctx.Err()
		}
	}
	r := &fakeReader{d: d, ctx: ctx, off: int(span.From), to: len(d.e.content)}
	if span.To >= 0 {
		r.to = min(r.to, int(span.To))
	}
	return r, d.e.fail
}

func (d *fakeDownload) Wait(context.Context) error { return d.e.lost }

func (d *fakeDownload) Close() error {
	d.cancel()
	d.once.Do(func() {
		d.e.mu.Lock()
		defer d.e.mu.Unlock()
		d.e.open--
	})
	return nil
}

type fakeReader struct {
	d   *fakeDownload
	ctx context.Context
	off int
	to  int
}

func (r *fakeReader) Version() (v dragonfly.Version) {
	if r.d.e.version != nil {
		v = r.d.e.version()
	}
	return v
}

func (r *fakeReader) Read(p []byte) (int, error) {
	e := r.d.e
	end := r.to
	if e.lostAt > 0 {
		end = min(end, e.lostAt)
	}
	if e.gateAt > r.off {
		end = e.gateAt
	} else if e.gate != nil {
		select {
		case <-e.gate:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	switch {
	case r.d.ctx.Err() != nil:
		return 0, r.d.ctx.Err()
	case r.off > end, r.off == r.to && len(r.d.job.Want) > 0:
		return 0, io.EOF
	case r.off == end && e.lostAt > 0:
		return 0, e.lost
	case r.off == end && !strings.Contains(r.d.job.Request.URL, digest(e.content)) && len(r.d.job.Want) == 0:
		return 0, &dragonfly.Error{Kind: dragonfly.DigestMismatch, Message: "not what the URL says"}
	case r.off == end:
		return 0, io.EOF
	}
	n := copy(p, e.content[r.off:end])
	r.off += n
	return n, nil
}

// stand is a mirror between a client and a registry.
type stand struct {
	t        *testing.T
	registry *registry
	origin   *httptest.Server
	mirror   *mirror.Mirror
	server   *httptest.Server
	log      *lockedBuffer
}

// newStand starts a mirror of a registry of its own; change amends its options.
// No secret may get into its log.
func newStand(t *testing.T, e mirror.Engine, change func(*mirror.Options)) *stand {
	t.Helper()
	s := &stand{t: t, registry: &registry{}, log: &lockedBuffer{}}
	s.origin = serve(t, s.registry)
	remote, err := url.Parse(s.origin.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := mirror.Options{Remote: remote, Engine: e,
		Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&o)
	}
	if s.mirror, err = mirror.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.server.Close()
		if err := s.mirror.Close(); err != nil {
			t.Error(err)
		}
		if text := s.log.String(); strings.Contains(text, secret) {
			t.Errorf("a secret is in the log:\n%s", text)
		}
	})
	s.server = httptest.NewServer(s.mirror)
	return s
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// client follows no redirect and asks for no compression.
var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// do sends a request to base; header is "Name: value" lines.
func do(t *testing.T, base, method, path string, body io.Reader, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// get asks the mirror for a path and reads all of the answer.
func (s *stand) get(path string, header ...string) (*http.Response, []byte, error) {
	s.t.Helper()
	resp := do(s.t, s.server.URL, "GET", path, nil, header...)
	got, err := io.ReadAll(resp.Body)
	return resp, got, err
}
