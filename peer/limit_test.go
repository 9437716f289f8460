// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// took is how long a download takes from now on.
func (w *world) took(d *peer.Download) time.Duration {
	w.t.Helper()
	began := time.Now()
	w.succeed(d, w.origin.content)
	return time.Since(began)
}

// near compares a time with what it should be, give or take a tenth.
func near(got, want time.Duration) bool { return got > want*9/10 && got < want*11/10 }

func TestJobLimit(t *testing.T) {
	t.Parallel()
	for _, swarm := range []bool{true, false} {
		t.Run(fmt.Sprint("swarm ", swarm), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				j := job()
				if swarm {
					j = job(w.node(nodeA))
				}
				j.Limit = mib
				d := w.host("10.0.1.1").start(j)
				if took := w.took(d); !near(took, 9*time.Second) {
					t.Errorf("9 MiB at 1 MiB/s took %v", took)
				}
				if !d.Progress().Limited {
					t.Error("the job's limit held it back and Limited is not set")
				}
			})
		})
	}
}

func TestEngineLimit(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		m := w.machine("10.0.1.1", filepath.Join(w.dir, "host"), options{receive: 2 * mib})
		one, other := job(n), job(n)
		other.Request.URL += "?other"
		one.Limit, other.Limit = 100*mib, 0
		began := time.Now()
		a, b := m.start(one), m.start(other)
		w.succeed(a, w.origin.content)
		w.succeed(b, w.origin.content)
		if took := time.Since(began); !near(took, 9*time.Second) {
			t.Errorf("2 x 9 MiB at 2 MiB/s together took %v", took)
		}
		if a.Progress().Limited || b.Progress().Limited {
			t.Error("Limited is set, but it was not the job's limit that held it back")
		}
	})
}

// TestTwoJobsShareOneDownload: and the looser limit.
func TestTwoJobsShareOneDownload(t *testing.T) {
	t.Parallel()
	for _, swarm := range []bool{true, false} {
		t.Run(fmt.Sprint("swarm ", swarm), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				j := job()
				if swarm {
					j = job(w.node(nodeA))
				}
				m := w.host("10.0.1.1")
				slow, fast := j, j
				slow.ID, slow.Limit = "slow", 64*kib
				fast.ID, fast.Limit = "fast", mib
				a := m.start(slow)
				<-time.After(time.Second)
				b := m.start(fast)
				if took := w.took(b); !near(took, 9*time.Second) {
					t.Errorf("with the looser limit it took %v", took)
				}
				w.succeed(a, w.origin.content)
				if got := received(a.Progress()); got != int64(len(w.origin.content)) {
					t.Errorf("%d bytes were received for two jobs", got)
				}
				if sent := w.origin.Sent(); sent != int64(len(w.origin.content)) {
					t.Errorf("the origin sent %d bytes", sent)
				}
			})
		})
	}
}

// TestCancelLeavesTheOtherJob: the first or the second is cancelled.
func TestCancelLeavesTheOtherJob(t *testing.T) {
	t.Parallel()
	for _, swarm := range []bool{true, false} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprint("swarm ", swarm, " first ", first), func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					w.net.limit(originHost, 2*mib)
					j := job()
					if swarm {
						j = job(w.node(nodeA))
					}
					m := w.host("10.0.1.1")
					one, two := j, j
					one.ID, two.ID = "one", "two"
					gone, stays := m.start(one), m.start(two)
					if !first {
						gone, stays = stays, gone
					}
					w.middle(stays)
					began := time.Now()
					gone.Close()
					if took := time.Since(began); took > time.Second {
						t.Errorf("to cancel took %v", took)
					}
					if err := w.wait(gone); dragonfly.KindOf(err) != dragonfly.Canceled {
						t.Errorf("the cancelled job ended with %v", err)
					}
					w.succeed(stays, w.origin.content)
					if got := received(stays.Progress()); got > int64(len(w.origin.content))+mib {
						t.Errorf("%d bytes were received", got)
					}
				})
			})
		}
	}
}

// TestCancelledDownloadIsContinued: what was verified stays, nothing is fetched
// while nobody wants it.
func TestCancelledDownloadIsContinued(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		w.net.limit(nodeA, 4*mib)
		m := w.host("10.0.1.1")
		d := m.start(job(n))
		before := w.middle(d)
		d.Close()
		<-time.After(time.Second)
		synctest.Wait()
		rest := d.Progress().Done
		<-time.After(time.Minute)
		if now := d.Progress().Done; now != rest || now > before.Done+mib {
			t.Errorf("%d bytes were there, %d a second after the end, %d a minute later", before.Done, rest, now)
		}
		d = m.start(job(n))
		w.succeed(d, w.origin.content)
		if got := received(d.Progress()); got > int64(len(w.origin.content))-before.Done+4*64*kib {
			t.Errorf("the second job received %d bytes, %d were there", got, before.Done)
		}
	})
}

// TestLastCancelledJobStopsTheDownload: whichever job is cancelled first.
func TestLastCancelledJobStopsTheDownload(t *testing.T) {
	t.Parallel()
	for _, reverse := range []bool{false, true} {
		t.Run(fmt.Sprint("reverse ", reverse), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				n := w.node(nodeA)
				w.net.limit(nodeA, mib)
				m := w.host("10.0.1.1")
				one := m.start(job(n))
				<-time.After(time.Second)
				two := m.start(job(n))
				<-time.After(time.Second)
				if reverse {
					one, two = two, one
				}
				one.Close()
				<-time.After(time.Second)
				two.Close()
				<-time.After(time.Second)
				done := two.Progress().Done
				<-time.After(time.Minute)
				if now := two.Progress().Done; now != done {
					t.Errorf("%d bytes came after the last job was cancelled", now-done)
				}
			})
		})
	}
}

// TestPiecesBehindTheEndAreNoFailures: the seed is given pieces of a content
// without length that turn out not to exist.
func TestPiecesBehindTheEndAreNoFailures(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.set(func(o *origin) { o.chunked, o.content = true, random(1, pieceLen+mib) })
		n := w.node(nodeA)
		w.succeed(w.host("10.0.1.1").start(job(n)), w.origin.content)
		<-time.After(time.Second)
		if failed := n.seed.failures(); len(failed) > 0 {
			t.Errorf("the seed reported %+v", failed)
		}
	})
}

func TestTimeoutGivesSwarmAndSourceTheirTime(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		w.net.freeze(nodeA, true)
		j := job(n)
		j.Timeout = 20 * time.Second
		d := w.host("10.0.1.1").start(j)
		began := time.Now()
		w.succeed(d, w.origin.content)
		if took := time.Since(began); took < 20*time.Second || took > 25*time.Second {
			t.Errorf("the source was read after %v", took)
		}
	})
	inWorld(t, func(t *testing.T, w *world) {
		w.net.freeze(originHost, true)
		j := job()
		j.Timeout = 3 * time.Second
		began := time.Now()
		err := w.wait(w.host("10.0.1.1").start(j))
		if took := time.Since(began); dragonfly.KindOf(err) != dragonfly.Unavailable || took > 7*time.Second {
			t.Errorf("ended after %v with %v", took, err)
		}
	})
}

// TestFullStore: a store without room is a clear error, costs no parent its
// reputation and loses nothing.
func TestFullStore(t *testing.T) {
	t.Parallel()
	for _, swarm := range []bool{true, false} {
		t.Run(fmt.Sprint("swarm ", swarm), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				dir := filepath.Join(w.dir, "host")
				m := w.machine("10.0.1.1", dir, options{quota: 10 * mib})
				j := job()
				if swarm {
					j = job(w.node(nodeA))
				}
				kept := m.start(j)
				w.succeed(kept, w.origin.content)
				content, ok := m.store.Lookup(kept.Progress().Task)
				if !ok {
					t.Fatal("the content is not there")
				}
				defer content.Release()
				j.Request.URL += "?other"
				err := w.wait(m.start(j))
				if dragonfly.KindOf(err) != dragonfly.NoSpace {
					t.Errorf("ended with %v", err)
				}
				for _, ev := range m.told() {
					if ev.Kind == dragonfly.EventFailed && ev.Reason != dragonfly.FailStore && ev.Reason != dragonfly.FailCanceled {
						t.Errorf("reported %+v", ev)
					}
				}
				w.succeed(kept, w.origin.content)
			})
		})
	}
}

func TestSeedWithoutRoomLeavesTheSourceToPeers(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		n.stop()
		n.w.net.cut(nodeA, false)
		n.quota = mib
		n.start()
		d := w.host("10.0.1.1").start(job(n))
		w.succeed(d, w.origin.content)
		if p := d.Progress(); p.FromSource != p.Length {
			t.Errorf("%+v", p)
		}
	})
}

// TestIdleAndExpire: an engine is idle when nothing is downloaded or uploaded;
// what nobody keeps leaves the swarm.
func TestIdleAndExpire(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		m := w.host("10.0.1.1")
		w.net.limit(nodeA, 4*mib)
		d := m.start(job(n))
		w.middle(d)
		if _, ok := m.engine.Idle(); ok {
			t.Error("idle while a download is at work")
		}
		w.succeed(d, w.origin.content)
		ended := time.Now()
		<-time.After(time.Minute)
		if since, ok := m.engine.Idle(); !ok || since.Sub(ended).Abs() > time.Second {
			t.Errorf("idle since %v, %v; the download ended at %v", since, ok, ended)
		}
		m.engine.Expire(func(dragonfly.TaskID) bool { return true })
		w.succeed(w.host("10.0.1.2").start(job(n)), w.origin.content)
		m.engine.Expire(func(dragonfly.TaskID) bool { return false })
		<-time.After(time.Second)
		dropped := 0
		for _, ev := range m.told() {
			if ev.Kind == dragonfly.EventDropped {
				dropped++
			}
		}
		if dropped != 1 {
			t.Errorf("the supernode heard %d times that the task is dropped", dropped)
		}
		// It is still in the store.
		d = m.start(job(n))
		w.succeed(d, w.origin.content)
		if got := received(d.Progress()); got != 0 {
			t.Errorf("%d bytes were received again", got)
		}
	})
}
