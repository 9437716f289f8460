// SPDX-License-Identifier: Apache-2.0

// Package supernode is the tracker of the swarm: it opens sessions, registers
// tasks, drives the scheduler with what peers report and hands its decisions
// out, and keeps a seed that reads each source once. It implements
// dragonfly.Tracker in process; what carries it over a network is elsewhere.
//
// Invariants: one mutex guards the scheduler and all books, and nothing under
// it does I/O or calls the seed. A task has at most one current version; an
// older one lives on only while its pieces are all among the peers. Nobody is
// let to a version, to its ticket above all, whom the source had not given the
// content in the five minutes before; a TaskID proves nothing, as several
// contents may have it. Nobody is told a piece digest that was not computed by
// the seed or given alike by two hosts. Each report event is applied once, each
// item of an answer is repeated until it is acknowledged. Session ids, tickets
// and headers are in no log, metric or state page.
package supernode

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"dragonfly"
	"dragonfly/peer"
	"dragonfly/record"
	"dragonfly/sched"
	"dragonfly/source"
)

// Config is what a supernode works with. Self and Log are required.
type Config struct {
	Self    dragonfly.Member
	Members []dragonfly.Member // all that are alive, Self included; empty: Self alone
	// Poll is how long a sync waits for work at least: 20 s. A tenth of it is
	// added at random, so that idle peers do not come back together.
	Poll       time.Duration
	Sched      sched.Config
	FailAccess time.Duration // how long a 404 or 410 of the source is remembered: 3 min
	TaskExpire time.Duration // how long a task that nobody waits for is kept: 3 min
	// PeerCIDR are the networks in which peers may announce addresses other
	// than their connection's; none: the private ranges.
	PeerCIDR  []netip.Prefix
	SeedAddrs []netip.AddrPort // of the seed's data port; empty: as the seed's hello says
	// Limits against floods; 0: 100,000 sessions, 50,000 tasks.
	MaxSessions, MaxTasks int
	Record                *Recording // nil: nothing is recorded
	Log                   *slog.Logger
	Metrics               prometheus.Registerer // nil: not exported
}

// Seed is the supernode's own peer as far as it is not an ordinary one: for
// the rest it opens its session at SeedTracker and gets assignments. Its
// methods are called without any lock held. peer.Seed is one.
type Seed interface {
	// Prepare opens the source of a task with the credentials of r, or asks it
	// whether what the seed holds is still true, and says what is there. known
	// is what a peer has of it, so that the source is not read there. It is
	// called once at a time per task. After it the seed waits for assignments.
	// Errors are the source's: *dragonfly.Error with the HTTP status where the
	// source gave one, and without where it could not be reached.
	Prepare(ctx context.Context, r dragonfly.Request, known peer.Known) (peer.Prepared, error)
	// Allowed asks the source whether it gives a content to whoever asks as r
	// does. Errors are as Prepare's.
	Allowed(ctx context.Context, r dragonfly.Request) error
	// Inline gives a complete verified content of at most
	// dragonfly.InlineMax bytes.
	Inline(task dragonfly.TaskID, v dragonfly.Version) ([]byte, bool)
	// Admit makes the seed's data port serve this version for the ticket.
	Admit(info dragonfly.TaskInfo)
	// Forget ends the seed's interest in a task; its store keeps the bytes.
	Forget(task dragonfly.TaskID)
}

const (
	defaultPoll        = 20 * time.Second
	defaultFailAccess  = 3 * time.Minute
	defaultTaskExpire  = 3 * time.Minute
	defaultMaxSessions = 100_000
	defaultMaxTasks    = 50_000
	// housekeeping is how often expired tasks, dead sessions and closed
	// sources are looked after.
	housekeeping = time.Second
)

// Supernode implements dragonfly.Tracker.
type Supernode struct {
	cfg     Config
	seed    Seed
	door    *source.Door
	log     *slog.Logger
	metrics *metrics
	record  *record.Writer // nil: nothing is recorded
	epoch   time.Time      // sched.Instant 0
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup // preparations and forgettings
	kick    chan struct{}  // capacity 1: the machine wants an earlier timer

	mu sync.Mutex // guards the machine and all books: everything below, and every session, task, version and registration
	books
}

// books are what the supernode knows; Supernode.mu guards them.
type books struct {
	machine   *sched.Machine
	actions   []sched.Action           // reused between steps
	acked     []dragonfly.AssignmentID // reused between syncs
	starved   []sched.Task             // Exhausted, for the next chores
	forgotten []*session               // by the scheduler, for the next chores
	armed     sched.Instant            // when Run's timer goes off
	isArmed   bool
	stopped   bool
	members   []dragonfly.Member
	sessions  map[dragonfly.SessionID]*session
	agents    map[string]*session
	peers     map[sched.Peer]*session
	ports     map[netip.AddrPort]*session // the newest with this address of a data port
	seedPeer  *session
	tasks     map[dragonfly.TaskID]*task
	versions  map[sched.Task]*version
	lastPeer  sched.Peer
	lastTask  sched.Task
}

var _ dragonfly.Tracker = (*Supernode)(nil)

// New makes a supernode that works with the seed. Run keeps its time.
func New(cfg Config, seed Seed) *Supernode {
	cfg.Poll = cmp.Or(cfg.Poll, defaultPoll)
	cfg.FailAccess = cmp.Or(cfg.FailAccess, defaultFailAccess)
	cfg.TaskExpire = cmp.Or(cfg.TaskExpire, defaultTaskExpire)
	cfg.MaxSessions = cmp.Or(cfg.MaxSessions, defaultMaxSessions)
	cfg.MaxTasks = cmp.Or(cfg.MaxTasks, defaultMaxTasks)
	cfg.Sched.Silent = cmp.Or(cfg.Sched.Silent, 3*time.Second)
	cfg.Sched.Gone = cmp.Or(cfg.Sched.Gone, 10*time.Second)
	cfg.Sched.Kept = cmp.Or(cfg.Sched.Kept, 3*time.Minute)
	if len(cfg.PeerCIDR) == 0 {
		cfg.PeerCIDR = privateRanges()
	}
	if len(cfg.Members) == 0 {
		cfg.Members = []dragonfly.Member{cfg.Self}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Supernode{
		cfg: cfg, seed: seed, door: source.NewDoor(seed.Allowed), log: cfg.Log, epoch: time.Now(),
		ctx: ctx, cancel: cancel, kick: make(chan struct{}, 1),
		books: books{
			machine:  sched.New(cfg.Sched),
			members:  slices.Clone(cfg.Members),
			sessions: map[dragonfly.SessionID]*session{},
			agents:   map[string]*session{},
			peers:    map[sched.Peer]*session{},
			ports:    map[netip.AddrPort]*session{},
			tasks:    map[dragonfly.TaskID]*task{},
			versions: map[sched.Task]*version{},
		},
	}
	s.metrics = newMetrics(cfg.Metrics, s)
	s.machine.Observe(s.decide)
	s.startRecord()
	return s
}

// Run keeps the supernode's timers until ctx ends, then closes it: calls at
// work return Unavailable, and preparations are waited for. Run it once.
func (s *Supernode) Run(ctx context.Context) error {
	defer s.close()
	chores := time.NewTicker(housekeeping)
	defer chores.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		s.armed, s.isArmed = s.machine.Next()
		if s.isArmed {
			timer.Reset(time.Duration(s.armed - s.now()))
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-s.kick:
		case <-timer.C:
			s.mu.Lock()
			s.step(sched.Event{Kind: sched.Tick})
			s.mu.Unlock()
		case <-chores.C:
			s.mu.Lock()
			s.tidy(time.Now())
			s.unlock()
		}
	}
}

func (s *Supernode) close() {
	s.cancel()
	s.mu.Lock()
	s.stopped = true
	for _, ss := range s.sessions {
		ss.dead = true
		ss.wake()
	}
	s.mu.Unlock()
	s.door.Close()
	s.wg.Wait()
	if s.record != nil {
		s.record.Close()
	}
}

// errStopped is what calls get from a supernode that was shut down.
var errStopped = &dragonfly.Error{Kind: dragonfly.Unavailable, Message: "the supernode is shutting down"}

// now is the machine's time.
func (s *Supernode) now() sched.Instant { return sched.Instant(time.Since(s.epoch)) }

// unlock releases the mutex and makes Run look at the machine's next timer if
// it became earlier.
func (s *Supernode) unlock() {
	if next, ok := s.machine.Next(); ok && (!s.isArmed || next < s.armed) {
		s.armed, s.isArmed = next, true
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
	s.mu.Unlock()
}

// SetMembers replaces the supernodes that are known to be alive, this one
// included, and tells every peer.
func (s *Supernode) SetMembers(members []dragonfly.Member) {
	if len(members) == 0 {
		members = []dragonfly.Member{s.cfg.Self}
	}
	s.mu.Lock()
	defer s.unlock()
	if slices.Equal(s.members, members) {
		return
	}
	s.members = slices.Clone(members)
	for _, ss := range s.sessions {
		ss.push(item{members: s.members})
	}
}

// owns says whether this supernode is the one for the task among those it
// knows, else who is.
func (s *Supernode) owns(task dragonfly.TaskID) error {
	if len(s.members) < 2 || dragonfly.Rank(task, s.members)[0].ID == s.cfg.Self.ID {
		return nil
	}
	return &dragonfly.Error{Kind: dragonfly.NotOwner, Members: slices.Clone(s.members),
		Message: "another supernode owns this task: register there"}
}

// jitter is up to a tenth of d.
func jitter(d time.Duration) time.Duration { return rand.N(d/10 + 1) }
