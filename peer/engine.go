// SPDX-License-Identifier: Apache-2.0

// Package peer is the engine of every host in the swarm, the seed's included:
// it registers tasks at supernodes, carries out the assignments that they
// give, verifies each piece by itself, serves what it has, and falls back to
// the source when no swarm can be had.
//
// Invariants: a byte is final only when its piece was verified against the
// manifest, or came to this process straight from the source. Readers get what
// comes straight from source or seed before that, and no clean end, nor anything
// that follows, when it proves wrong. Readers of a guarded job get nothing before
// the supernode or the source has let its credentials in. Bytes of two
// versions never meet: everything that is received belongs to one holding,
// and a new version gets a new one. A piece that was verified is not fetched
// again, whichever supernode, parent or process goes away.
package peer

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/source"
	"dragonfly/store"
	"dragonfly/transfer"
)

// Source is where contents come from; *source.Client is one.
type Source interface {
	Open(ctx context.Context, r dragonfly.Request, from int64, cond source.Condition) (*source.Body, error)
	Allowed(ctx context.Context, r dragonfly.Request) error
}

// Parents is how bytes are fetched from seeds and peers; *transfer.Client is
// one.
type Parents interface {
	Fetch(ctx context.Context, f transfer.Fetch) (io.ReadCloser, error)
	Blocks(ctx context.Context, f transfer.Fetch, n dragonfly.PieceNum) ([]piecehash.Block, error)
}

// Config is what an engine works with. Store, Source, Parents and Log are
// required.
type Config struct {
	Store   *store.Store
	Source  Source
	Parents Parents
	// Dial makes the tracker for a supernode; nil: none can be reached.
	Dial func(dragonfly.Member) dragonfly.Tracker
	// Hello introduces this process; called at each Open.
	Hello func() dragonfly.Hello
	// Receive limits all receiving of the engine; nil: no limit.
	Receive *rate.Limiter
	// Patience is how long tasks wait for the first answer of their
	// supernodes before this peer decides alone: 1 s for one, 2 s for all.
	Patience time.Duration
	// Stall is how long a parent may send nothing: 5 s.
	Stall time.Duration
	Log   *slog.Logger
}

// Engine downloads, serves and shares. Make one with New, run it with Run.
type Engine struct {
	cfg  Config
	door *source.Door

	mu    sync.Mutex // guards tasks, nodes, running and closed
	tasks map[dragonfly.TaskID]*task
	nodes map[string]*node // by address

	ctx    context.Context // of everything the engine starts
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	busy     atomic.Int64 // downloads and streams at work
	began    time.Time
	touched  atomic.Int64  // nanoseconds from began to the last one's end, whatever the clock does
	sessions atomic.Uint64 // opened so far
}

// New makes an engine; it does nothing until a job is started.
func New(cfg Config) *Engine {
	if cfg.Patience == 0 {
		cfg.Patience = time.Second
	}
	if cfg.Stall == 0 {
		cfg.Stall = 5 * time.Second
	}
	e := &Engine{cfg: cfg, door: source.NewDoor(cfg.Source.Allowed), began: time.Now(), tasks: map[dragonfly.TaskID]*task{}, nodes: map[string]*node{}}
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	return e
}

// errClosed is why everything ends when the engine is closed.
var errClosed = &dragonfly.Error{Kind: dragonfly.Canceled, Message: "the engine is shutting down"}

// Close leaves all swarms, stops everything and waits for the end. What was
// verified stays in the store.
func (e *Engine) Close() error {
	e.mu.Lock()
	nodes := slices.Collect(maps.Values(e.nodes))
	e.mu.Unlock()
	var leaving sync.WaitGroup
	for _, n := range nodes {
		leaving.Go(n.leave)
	}
	leaving.Wait()
	e.cancel(errClosed)
	e.door.Close()
	e.wg.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, t := range e.tasks {
		t.release()
		delete(e.tasks, id)
	}
	return nil
}

// Run serves until ctx ends, then closes the engine.
func (e *Engine) Run(ctx context.Context) error {
	<-ctx.Done()
	return e.Close()
}

// Idle says since when nothing is downloaded or uploaded; ok is false while
// something is.
func (e *Engine) Idle() (since time.Time, ok bool) {
	if e.busy.Load() > 0 {
		return time.Time{}, false
	}
	return e.began.Add(time.Duration(e.touched.Load())), true
}

// Sessions are what this process is called at its supernodes; children compare
// them with whom they were sent to.
func (e *Engine) Sessions() []dragonfly.SessionID {
	e.mu.Lock()
	nodes := slices.Collect(maps.Values(e.nodes))
	e.mu.Unlock()
	ids := make([]dragonfly.SessionID, 0, len(nodes))
	for _, n := range nodes {
		if s := n.current(); s != nil {
			ids = append(ids, s.Welcome().Session)
		}
	}
	return ids
}

// work counts one download or upload until the returned function is called.
func (e *Engine) work() (done func()) {
	e.busy.Add(1)
	return sync.OnceFunc(func() {
		e.touched.Store(int64(time.Since(e.began)))
		e.busy.Add(-1)
	})
}

// task is the engine's record of a task, made when there is none.
func (e *Engine) task(id dragonfly.TaskID) *task {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.found(id)
}

// found is task with e.mu held.
func (e *Engine) found(id dragonfly.TaskID) *task {
	t := e.tasks[id]
	if t == nil {
		t = newTask(e, id)
		e.tasks[id] = t
	}
	return t
}

func (e *Engine) lookup(id dragonfly.TaskID) *task {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tasks[id]
}

// Expire lets go of tasks that nobody downloads any more and that the store
// removed or that keep says no to; their supernodes are told.
func (e *Engine) Expire(keep func(dragonfly.TaskID) bool) {
	e.mu.Lock()
	var gone []*task
	for id, t := range e.tasks {
		if !t.wanted() && !keep(id) {
			gone = append(gone, t)
			delete(e.tasks, id)
		}
	}
	e.mu.Unlock()
	for _, t := range gone {
		t.drop()
	}
}

// makeRoom lets go of the task that nobody downloads and whose content was used
// least recently; false: there is none. The store may remove that then.
func (e *Engine) makeRoom() bool {
	all := e.cfg.Store.Contents()
	slices.SortFunc(all, func(a, b store.Summary) int { return a.Used.Compare(b.Used) })
	for _, c := range all {
		e.mu.Lock()
		t := e.tasks[c.Task]
		if t == nil || t.wanted() || t.holding() == nil {
			e.mu.Unlock()
			continue
		}
		delete(e.tasks, c.Task)
		e.mu.Unlock()
		t.drop()
		return true
	}
	return false
}
