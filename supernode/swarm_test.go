// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
)

var (
	swarms = flag.Int("swarms", 40, "random swarms to play")
	only   = flag.Uint64("only", 0, "the one random swarm to play: its number")
)

// TestRandomSwarms: whatever peers, their network, the source, the seed and the
// supernode do, nobody waits without a reason meanwhile; once it calms down
// everybody gets everything, and the books say exactly what each peer holds:
// no event was applied twice or lost.
func TestRandomSwarms(t *testing.T) {
	for n := uint64(1); n <= uint64(*swarms); n++ {
		if *only == 0 || *only == n {
			t.Run(fmt.Sprint(n), func(t *testing.T) { // -run 'TestRandomSwarms' -only N
				inTime(t, nil, func(w *world) { (&chaos{world: w, random: rand.New(rand.NewPCG(n, 1))}).play() })
			})
		}
	}
}

type chaos struct {
	*world
	random *rand.Rand
	urls   []string
	alive  []*agent
	dead   []*agent
	seeds  byte
}

func (c *chaos) play() {
	for i := range 1 + c.random.IntN(3) {
		url, o := c.source(fmt.Sprintf("content%d", i), 1+c.random.IntN(20))
		o.known = c.random.IntN(4) > 0
		o.pace = time.Duration(c.random.IntN(200)) * time.Millisecond
		o.latency = time.Duration(c.random.IntN(2000)) * time.Millisecond
		c.urls = append(c.urls, url)
	}
	for range 3 + c.random.IntN(6) {
		c.join()
	}
	for range 60 {
		c.event()
		c.wait(time.Duration(c.random.IntN(1500)) * time.Millisecond)
		for _, url := range c.urls {
			c.everybodyHasAReason(url)
		}
	}
	c.settle()
}

func (c *chaos) join() {
	a := newAgent(c.world, 0, c.random.Uint64())
	c.hosts++
	a.host = c.hosts + 10
	if c.random.IntN(2) == 0 {
		a.loses = c.random.IntN(30)
	}
	if c.random.IntN(3) == 0 {
		a.late = c.random.IntN(50)
	}
	if c.random.IntN(3) == 0 {
		a.fails = c.random.IntN(20)
	}
	a.liar = c.random.IntN(12) == 0
	c.alive = append(c.alive, a)
	a.start()
	for _, url := range c.urls {
		if c.random.IntN(3) > 0 {
			a.want(url)
		}
	}
}

func (c *chaos) url() string { return c.urls[c.random.IntN(len(c.urls))] }

func (c *chaos) origin() *origin {
	c.seed.mu.Lock()
	defer c.seed.mu.Unlock()
	return c.seed.sources[c.url()]
}

func (c *chaos) someone() *agent { return c.alive[c.random.IntN(len(c.alive))] }

// event is one thing that goes wrong, or gets better.
func (c *chaos) event() {
	switch n := c.random.IntN(40); {
	case n < 6:
		if len(c.alive) < 15 {
			c.join()
		}
	case n < 12:
		c.someone().want(c.url())
	case n < 15: // killed
		if i := c.random.IntN(len(c.alive)); len(c.alive) > 2 {
			c.alive[i].die()
			c.dead = append(c.dead, c.alive[i])
			c.alive = slices.Delete(c.alive, i, i+1)
		}
	case n < 18: // started again, with what it held
		if len(c.dead) > 0 {
			old := c.dead[0]
			c.dead = c.dead[1:]
			a := newAgent(c.world, old.host, c.random.Uint64())
			old.mu.Lock()
			for key, s := range old.shares {
				mine := a.share(key.task, key.version)
				mine.info, mine.held = s.info, s.held.Clone()
			}
			a.wanted = slices.Clone(old.wanted)
			old.mu.Unlock()
			c.alive = append(c.alive, a)
			a.start()
		}
	case n < 25: // a piece is lost on a disk
		c.someone().lose(c.random)
	case n < 28:
		fail := []error{said(dragonfly.SourceFailed, 500), &dragonfly.Error{Kind: dragonfly.SourceFailed}, said(dragonfly.Unauthorized, 401), said(dragonfly.Throttled, 429)}
		o := c.origin()
		c.change(o, func(o *origin) { o.broken = fail[c.random.IntN(len(fail))] })
	case n < 32:
		c.change(c.origin(), func(o *origin) { o.broken = nil })
	case n < 33: // the content changes
		o := c.origin()
		c.change(o, func(o *origin) { o.version = versionOf(fmt.Sprint(c.random.Uint64())); o.reads = nil })
	case n < 34:
		c.reseed()
	case n < 35: // the supernode restarts
		c.stop()
		c.wait(time.Duration(c.random.IntN(3000)) * time.Millisecond)
		c.boot()
	case n < 36: // everybody is stopped for a while: timers go off late
		c.wait(time.Duration(c.random.IntN(15)) * time.Second)
	}
}

// reseed replaces the seed by one that kept its content.
func (c *chaos) reseed() {
	old := c.seed.agent
	old.die()
	c.seeds++
	next := newAgent(c.world, 100+c.seeds, c.random.Uint64())
	next.seed = c.seed
	old.mu.Lock()
	for key, s := range old.shares {
		next.share(key.task, key.version).held = s.held.Clone()
	}
	old.mu.Unlock()
	c.seed.mu.Lock()
	c.seed.agent = next
	c.seed.mu.Unlock()
	next.start()
}

// lose makes an agent lose one of its pieces and say so.
func (a *agent) lose(random *rand.Rand) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, s := range a.shares {
		if s.held.Count() == 0 {
			continue
		}
		if s.complete() {
			a.done[key.task] = true // it had it all
		}
		pieces := slices.Collect(s.held.All())
		n := pieces[random.IntN(len(pieces))]
		s.held.Remove(n)
		a.queue = append(a.queue, dragonfly.Event{Kind: dragonfly.EventLost, Task: key.task, Version: key.version, Piece: n})
		a.poke()
		return
	}
}

// settle ends all trouble and waits until everybody has what it wants.
func (c *chaos) settle() {
	for _, url := range c.urls {
		c.seed.mu.Lock()
		o := c.seed.sources[url]
		c.seed.mu.Unlock()
		c.change(o, func(o *origin) { o.broken = nil })
	}
	for _, a := range append(slices.Clone(c.alive), c.seed.agent) {
		a.mu.Lock()
		a.loses, a.fails, a.late = 0, 0, 0
		a.mu.Unlock()
	}
	const patience = 10 * 60
	for second := 0; ; second++ {
		c.wait(time.Second)
		waiting := 0
		for _, a := range c.alive {
			a.mu.Lock()
			wanted := slices.Clone(a.wanted)
			a.mu.Unlock()
			for _, url := range wanted {
				if a.has(url) {
					continue
				}
				waiting++
				a.mu.Lock()
				over := a.over[taskOf(url)]
				a.mu.Unlock()
				if over != "" {
					a.want(url) // the user tries again
				}
			}
		}
		if waiting == 0 {
			break
		}
		if second == patience {
			c.explain()
			c.Fatalf("%d downloads wait after %d s", waiting, second)
		}
	}
	c.wait(3 * time.Second)
	for _, url := range c.urls {
		c.booksAreTrue(url)
	}
}

func (c *chaos) explain() {
	for _, url := range c.urls {
		d, _ := c.sn.Task(taskOf(url))
		c.Logf("%+v", d.TaskState)
		for _, x := range d.Everyone {
			c.Logf("  %+v %d", x, slices.Collect(x.Has.All()))
		}
	}
	for _, a := range c.alive {
		if !slices.ContainsFunc(a.wanted, func(url string) bool { return !a.has(url) }) {
			continue
		}
		a.mu.Lock()
		for key, s := range a.shares {
			c.Logf("host%d %s %s holds %d of %+v, waits for digests of %v, over %q", a.host, key.task.String()[:8], key.version, s.held.Count(), s.info.Layout, s.arrived, a.over[key.task])
		}
		a.mu.Unlock()
	}
}

// booksAreTrue compares what the supernode counts with what peers have. A liar
// is isolated at worst, its own pieces are as good as anybody's.
func (c *chaos) booksAreTrue(url string) {
	c.Helper()
	synctest.Wait()
	d, ok := c.sn.Task(taskOf(url))
	if !ok {
		return
	}
	for _, x := range d.Everyone {
		for _, a := range append(slices.Clone(c.alive), c.seed.agent) {
			if x.Host != fmt.Sprintf("host%d", a.host) || x.Older {
				continue
			}
			has := a.holds(taskOf(url), d.Version)
			for n := range x.Has.All() {
				if !has.Has(n) {
					c.Errorf("%s: the books say that %s holds piece %d", url, x.Host, n)
				}
			}
			if x.Serves && x.Waits == "" && x.Held < has.Count() && d.Manifest == d.Pieces {
				c.Errorf("%s: %s holds %d pieces, the books say %d", url, x.Host, has.Count(), x.Held)
			}
		}
	}
}

// TestSourceIsReadOnce: whatever peers do, the source sends each byte once, and
// the seed's uplink not many times more.
func TestSourceIsReadOnce(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 40)
		o.pace, o.latency = 50*time.Millisecond, time.Second
		var all []*agent
		for i := range uint64(60) {
			a := w.agent(i)
			a.mu.Lock()
			a.fails = 3
			a.mu.Unlock()
			a.want(url)
			all = append(all, a)
			w.wait(time.Duration(i%7) * 10 * time.Millisecond)
		}
		for _, a := range all[:10] { // in the middle
			a.die()
		}
		w.wait(30 * time.Second)
		for _, a := range all[10:] {
			if !a.has(url) {
				w.Errorf("host%d holds %d pieces", a.host, a.holds(taskOf(url), o.version).Count())
			}
		}
		if n, most := w.reads(o); n != 40 || most != 1 {
			w.Errorf("%d pieces read, one %d times", n, most)
		}
		size := 40.0 * block
		if got := w.number(`dragonfly_supernode_origin_bytes_total`); got != size {
			w.Errorf("%g bytes from the source of %g", got, size)
		}
		if got := w.number(`dragonfly_supernode_bytes_total{from="seed"}`); got > 3*size {
			w.Errorf("the seed sent %.1f times the content", got/size)
		}
	})
}
