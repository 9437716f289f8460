// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dragonfly"
	"dragonfly/peer"
)

// progressEvery is the shortest time between two reports of progress. A job
// that is over sooner reports none.
const progressEvery = 100 * time.Millisecond

// signs are the names that jobs may have in the log.
var signs = regexp.MustCompile(`^[0-9]{1,10}-[0-9]{1,12}\.[0-9]{3}$`)

// errLeft is why a job ends whose client closed the connection.
var errLeft = &dragonfly.Error{Kind: dragonfly.Canceled, Message: "the download was cancelled by the user"}

// run carries out one job and tells its client.
func (a *Agent) run(ctx context.Context, c *conn, job Job) {
	if !signs.MatchString(job.Sign) {
		a.refuse(c, "the job has no sign")
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := newOutbox(c)
	record := a.record(job, out)
	if job.TotalLimit > 0 && a.o.Limit != nil {
		a.o.Limit(job.TotalLimit)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.u.CloseRead() // whatever happens, nobody waits for the client's word any more
	placed := make(chan *Placed, 1)
	wg.Go(func() { // hears the client's last word, or that it has gone
		var last order
		if err := c.receive(&last); err != nil {
			last.Placed = nil
		}
		if last.Placed == nil {
			cancel(errLeft)
		}
		placed <- last.Placed
	})
	record.Begin()
	result, content := a.download(ctx, job, record, out)
	if content != nil {
		defer content.Close()
	}
	if err := context.Cause(ctx); errors.Is(err, errRetired) {
		out.finish(news{Retired: true}, nil)
		record.moved()
		return
	}
	out.finish(news{Result: &result, Content: content != nil}, content)
	last := <-placed
	if last != nil && last.Linked && a.o.Linked != nil {
		a.o.Linked(result.Task)
	}
	record.End(result, last)
}

// download runs the job on the engine.
func (a *Agent) download(ctx context.Context, job Job, record *Record, out *outbox) (Result, *os.File) {
	d, err := a.o.Engine.Start(ctx, peer.Job{
		ID: record.ID(), Request: job.Request, Pattern: job.Pattern, NoSource: job.NoSource, Nodes: job.Nodes, Guess: job.Preset,
		Limit: job.Limit, Queue: job.Queue, MinRate: job.MinRate, Timeout: job.Timeout, Observe: record,
	})
	if err != nil {
		return Result{Task: job.Request.TaskID(), Length: dragonfly.UnknownLength, Error: plain(err)}, nil
	}
	defer d.Close()
	reporting, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { report(reporting, d, out.progress) })
	if job.Stream {
		err = stream(ctx, d, out)
	}
	if werr := d.Wait(ctx); werr != nil {
		err = werr // says more than that the stream broke
	}
	p := d.Progress()
	result := Result{Task: p.Task, Length: p.Length, Reason: p.Reason, Node: p.Node, Limited: p.Limited,
		FromSource: p.FromSource, FromSeed: p.FromSeed, FromPeers: p.FromPeers}
	var content *os.File
	if err == nil && !job.Stream {
		content, err = d.File()
	}
	result.Error = plain(err)
	return result, content
}

// report tells about progress, when there is some and not too often.
func report(ctx context.Context, d Download, tell func(peer.Progress)) {
	pause := time.NewTimer(progressEvery)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		changed := d.Changed()
		tell(d.Progress())
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
		pause.Reset(progressEvery)
	}
}

// stream gives the client the bytes as they become final.
func stream(ctx context.Context, d Download, out *outbox) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	// A larger pipe means fewer wake-ups; the kernel may refuse it.
	if raw, err := w.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) })
	}
	out.attach(news{Stream: true}, r)
	content, err := d.Reader(ctx, dragonfly.Span{To: dragonfly.UnknownLength})
	if content == nil && err == nil { // it was finished in this moment: now it is there
		content, err = d.Reader(ctx, dragonfly.Span{To: dragonfly.UnknownLength})
	}
	if err != nil {
		return err
	}
	if content == nil {
		return &dragonfly.Error{Kind: dragonfly.Internal, Message: "the finished content cannot be read: try again"}
	}
	defer context.AfterFunc(ctx, func() { w.Close() })()
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{content}, make([]byte, 256<<10))
	return err
}

// outbox sends to one client. What is put in never blocks, however slow the
// client is: lines wait, progress is replaced by newer progress.
type outbox struct {
	c    *conn
	done chan struct{} // closed when the sender has ended

	mu      sync.Mutex // guards below
	waiting []parcel
	latest  *peer.Progress
	closed  bool
	wake    chan struct{} // capacity 1
}

// parcel is a message and the descriptor that goes with it, which the outbox
// closes if owned.
type parcel struct {
	news  news
	file  *os.File
	owned bool
}

// longestQueue bounds what waits for a client that does not read; more log
// lines are left out.
const longestQueue = 10000

func newOutbox(c *conn) *outbox {
	o := &outbox{c: c, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go o.send()
	return o
}

func (o *outbox) put(p parcel, last bool) {
	o.mu.Lock()
	if len(o.waiting) < longestQueue || last {
		o.waiting = append(o.waiting, p)
	}
	o.closed = o.closed || last
	o.mu.Unlock()
	o.poke()
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) line(text string)             { o.put(parcel{news: news{Line: text}}, false) }
func (o *outbox) attach(n news, file *os.File) { o.put(parcel{n, file, true}, false) }
func (o *outbox) progress(p peer.Progress) {
	o.mu.Lock()
	o.latest = &p
	o.mu.Unlock()
	o.poke()
}

// finish sends what waits and n, and returns when it is sent or the client has
// gone.
func (o *outbox) finish(n news, file *os.File) {
	o.put(parcel{news: n, file: file}, true)
	<-o.done
}

// send runs until the last parcel. After an error it only clears up.
func (o *outbox) send() {
	defer close(o.done)
	var broken error
	for {
		o.mu.Lock()
		parcels, latest, closed := o.waiting, o.latest, o.closed
		o.waiting, o.latest = nil, nil
		o.mu.Unlock()
		for _, p := range parcels {
			if broken == nil {
				broken = o.c.send(p.news, p.file)
			}
			if p.owned {
				p.file.Close()
			}
		}
		if closed {
			return
		}
		if latest != nil && broken == nil {
			broken = o.c.send(news{Progress: latest}, nil)
		}
		if len(parcels) == 0 && latest == nil {
			<-o.wake
		}
	}
}
