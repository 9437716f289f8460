// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"slices"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// middle waits until a download has about half of its bytes.
func (w *world) middle(d *peer.Download) peer.Progress {
	w.t.Helper()
	half := int64(len(w.origin.content)) / 2
	w.until("half of the bytes are here", func() bool { return d.Progress().Done >= half })
	return d.Progress()
}

// fetchedOnce checks that a second run fetched only what the first one left,
// and of each piece in work no more than 1 MiB again.
func (w *world) fetchedOnce(before, after peer.Progress, inWork int64) {
	w.t.Helper()
	size := int64(len(w.origin.content))
	if again := received(after) + before.Done - size; again > inWork*mib {
		w.t.Errorf("%d bytes of %d were here; the second run fetched %d, %d of them again", before.Done, size, received(after), again)
	}
	if received(after) == 0 {
		w.t.Error("nothing was left for the second run")
	}
}

func TestResumeAfterClose(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		w.net.limit(nodeA, 4*mib)
		m := w.host("10.0.1.1")
		d := m.start(job(n))
		before := w.middle(d)
		m.close()
		if err := w.wait(d); dragonfly.KindOf(err) != dragonfly.Canceled {
			t.Errorf("the download ended with %v", err)
		}
		d = m.restart(m.dir).start(job(n))
		w.succeed(d, w.origin.content)
		w.fetchedOnce(before, d.Progress(), 3)
	})
}

func TestResumeAfterKill(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		w.net.limit(nodeA, 4*mib)
		m := w.host("10.0.1.1")
		d := m.start(job(n))
		before := w.middle(d)
		d = m.restart(m.kill()).start(job(n))
		w.succeed(d, w.origin.content)
		w.fetchedOnce(before, d.Progress(), 3)
	})
}

func TestResumeFromSourceAfterKill(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.net.limit(originHost, 4*mib)
		m := w.host("10.0.1.1")
		d := m.start(job())
		before := w.middle(d)
		d = m.restart(m.kill()).start(job())
		w.succeed(d, w.origin.content)
		w.fetchedOnce(before, d.Progress(), 1)
	})
}

func TestSeedResumesAfterKill(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		w.net.limit(originHost, 4*mib)
		m := w.host("10.0.1.1")
		d := m.start(job(n))
		w.middle(d)
		n.kill()
		n.start()
		w.succeed(d, w.origin.content)
		size := int64(len(w.origin.content))
		if got := received(d.Progress()); got > size+3*64*kib {
			t.Errorf("the peer received %d bytes of a content of %d", got, size)
		}
		if sent := w.origin.Sent(); sent > size+2*mib {
			t.Errorf("the origin sent %d bytes for a content of %d", sent, size)
		}
	})
}

func TestSupernodeRestartsInMidDownload(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.content = random(1, 5*pieceLen)
		n := w.node(nodeA)
		w.net.limit(nodeA, 8*mib)
		hosts := w.hosts(6)
		watch := make([]watcher, len(hosts))
		var downloads []*peer.Download
		for i, m := range hosts {
			j := job(n)
			j.Observe = &watch[i]
			downloads = append(downloads, m.start(j))
		}
		w.middle(downloads[0])
		n.kill()
		<-time.After(2 * time.Second)
		n.start()
		size := int64(len(w.origin.content))
		for i, d := range downloads {
			w.succeed(d, w.origin.content)
			if got := received(d.Progress()); got > size+4*64*kib {
				t.Errorf("peer %d received %d bytes of a content of %d", i, got, size)
			}
			if len(watch[i].fallbacks) > 0 {
				t.Errorf("peer %d went to the source: %v", i, watch[i].fallbacks)
			}
		}
		if sent := w.origin.Sent(); sent > size+size/20 {
			t.Errorf("the origin sent %d bytes for a content of %d", sent, size)
		}
	})
}

// ranked are two supernodes, the owner of the usual task first.
func (w *world) ranked() (owner, other *node) {
	a, b := w.node(nodeA), w.node(nodeB)
	if dragonfly.Rank(job().Request.TaskID(), []dragonfly.Member{a.member, b.member})[0] == b.member {
		return b, a
	}
	return a, b
}

func TestMigrationKeepsAllPieces(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		owner, other := w.ranked()
		w.net.limit(owner.ip, 4*mib)
		w.net.limit(originHost, 8*mib)
		m := w.host("10.0.1.1")
		var watch watcher
		j := job(owner, other)
		j.Observe = &watch
		d := m.start(j)
		w.middle(d)
		owner.kill()
		w.succeed(d, w.origin.content)
		size := int64(len(w.origin.content))
		if got := received(d.Progress()); got > size+3*64*kib {
			t.Errorf("the peer received %d bytes of a content of %d", got, size)
		}
		if !slices.Equal(watch.migrated, []dragonfly.Member{other.member}) {
			t.Errorf("migrations: %v", watch.migrated)
		}
		if len(watch.fallbacks) > 0 || d.Progress().Node != other.member.Addr {
			t.Errorf("fallbacks %v, node %s", watch.fallbacks, d.Progress().Node)
		}
	})
}

func TestEachSupernodeIsTriedTwiceThenTheSource(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		owner, other := w.ranked()
		owner.kill()
		other.kill()
		m := w.host("10.0.1.1")
		var watch watcher
		j := job(owner, other)
		j.Observe = &watch
		d := m.start(j)
		w.succeed(d, w.origin.content)
		if want := []string{owner.ip, other.ip, owner.ip, other.ip}; !slices.Equal(watch.tried, want) {
			t.Errorf("tried %v, want %v", watch.tried, want)
		}
		if p := d.Progress(); p.Reason != peer.ReasonRegister || !slices.Equal(watch.fallbacks, []int{peer.ReasonRegister}) {
			t.Errorf("reason %d, told %v", p.Reason, watch.fallbacks)
		}
	})
}

func TestSourceAfterAllSupernodesAreLostInMidDownload(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		owner, other := w.ranked()
		w.net.limit(owner.ip, 4*mib)
		m := w.host("10.0.1.1")
		d := m.start(job(owner, other))
		w.middle(d)
		owner.kill()
		other.kill()
		w.succeed(d, w.origin.content)
		size := int64(len(w.origin.content))
		if p := d.Progress(); p.Reason != peer.ReasonDownload || received(p) > size+3*mib {
			t.Errorf("reason %d, received %d of %d bytes", p.Reason, received(p), size)
		}
	})
}

func TestNoSourceFailsWhenNoSupernodeCanBeUsed(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		n.kill()
		m := w.host("10.0.1.1")
		j := job(n)
		j.NoSource = true
		d := m.start(j)
		if err := w.wait(d); dragonfly.KindOf(err) != dragonfly.Unavailable {
			t.Errorf("ended with %v", err)
		}
		if p := d.Progress(); p.Reason != peer.ReasonRegister+peer.ReasonNoSource {
			t.Errorf("reason %d", p.Reason)
		}
		if w.origin.Asked() > 0 {
			t.Error("the source was asked")
		}
	})
}

func TestSilentSupernodesHoldNobodyUp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		nodes int
		most  time.Duration
	}{{"one", 1, time.Second}, {"all", 2, 2 * time.Second}} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				nodes := []*node{w.node(nodeA), w.node(nodeB)}[:test.nodes]
				for _, n := range nodes {
					n.mute(true)
				}
				m := w.host("10.0.1.1")
				began := time.Now()
				d := m.start(job(nodes...))
				w.until("the source is asked", func() bool { return w.origin.Asked() > 0 })
				if took := time.Since(began); took > test.most+100*time.Millisecond {
					t.Errorf("decided after %v", took)
				}
				w.succeed(d, w.origin.content)
			})
		})
	}
}

func TestSupernodeSilentAfterOpenHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		m := w.host("10.0.1.1")
		w.succeed(m.start(job(n)), w.origin.content) // a session stands
		n.mute(true)
		j := job(n)
		j.Request.URL += "?other"
		began, asked := time.Now(), w.origin.Asked()
		d := m.start(j)
		w.until("the source is asked", func() bool { return w.origin.Asked() > asked })
		if took := time.Since(began); took > 2100*time.Millisecond {
			t.Errorf("decided after %v", took)
		}
		w.succeed(d, w.origin.content)
	})
}

func TestSilentSupernodeInMidDownload(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		w.net.limit(nodeA, 4*mib)
		m := w.host("10.0.1.1")
		d := m.start(job(n))
		w.middle(d)
		n.mute(true)
		w.net.freeze(nodeA, true)
		began := time.Now()
		w.succeed(d, w.origin.content)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("went on after %v", took)
		}
	})
}

// TestBytesOfPeersAreNotTakenForTheSources: what an earlier process got from
// a rotten parent is not kept when only the source is left to go on with.
func TestBytesOfPeersAreNotTakenForTheSources(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.content = random(1, pieceLen)
		n := w.node(nodeA)
		w.net.limit(originHost, 4*mib)
		w.net.mangle(nodeA, func(b []byte) {
			if len(b) > 8*kib {
				b[len(b)-1] ^= 1
			}
		})
		m := w.host("10.0.1.1")
		d := m.start(job(n))
		w.until("a good part of the first piece is here", func() bool { return d.Progress().Done > 3*mib })
		w.succeed(m.restart(m.kill()).start(job()), w.origin.content)
	})
}
