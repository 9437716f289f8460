// SPDX-License-Identifier: Apache-2.0

package peer_test

import (
	"bytes"
	"context"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/peer"
)

// script is a supernode that says what a test wants it to say. One machine has
// one session at it.
type script struct {
	info dragonfly.TaskInfo
	id   dragonfly.SessionID

	mu     sync.Mutex // guards all below
	seq    uint64
	lastID dragonfly.AssignmentID
	news   []dragonfly.Work
	events []dragonfly.Event
	woken  chan struct{} // capacity 1
	newest uint64
}

var ticket = dragonfly.Ticket{1, 2, 3}

// script prepares a supernode for the origin's content.
func (w *world) script(name string) *script {
	length := int64(len(w.origin.content))
	if w.origin.chunked {
		length = dragonfly.UnknownLength
	}
	return &script{id: dragonfly.SessionID(name), woken: make(chan struct{}, 1), info: dragonfly.TaskInfo{
		Task: job().Request.TaskID(), Version: piecehash.Validator(w.origin.etag), Ticket: ticket,
		Layout: dragonfly.Layout{Length: length, PieceLen: dragonfly.PieceLenFor(length)},
	}}
}

func (s *script) Open(context.Context, dragonfly.Hello) (dragonfly.Session, error) { return s, nil }
func (s *script) Close(context.Context, string) error                              { return nil }
func (s *script) Register(context.Context, dragonfly.Registration) (dragonfly.TaskInfo, error) {
	return s.info, nil
}
func (s *script) Welcome() dragonfly.Welcome {
	return dragonfly.Welcome{Session: s.id, Poll: time.Minute}
}

func (s *script) Sync(ctx context.Context, r dragonfly.Report) (dragonfly.Work, error) {
	s.mu.Lock()
	s.events = append(s.events, r.Events...)
	s.newest = max(s.newest, r.Seq)
	s.mu.Unlock()
	s.wake()
	for {
		s.mu.Lock()
		newer := s.newest > r.Seq
		if len(s.news) > 0 && !newer {
			w := s.news[0]
			s.news = s.news[1:]
			s.seq++
			w.Seq = s.seq
			s.mu.Unlock()
			return w, nil
		}
		s.mu.Unlock()
		if newer {
			s.wake()
			return dragonfly.Work{}, nil
		}
		select {
		case <-s.woken:
		case <-ctx.Done():
			return dragonfly.Work{}, ctx.Err()
		}
	}
}

func (s *script) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// say gives the peer something.
func (s *script) say(w dragonfly.Work) {
	s.mu.Lock()
	s.news = append(s.news, w)
	s.mu.Unlock()
	s.wake()
}

// assign gives the peer an assignment and returns its number.
func (s *script) assign(n dragonfly.PieceNum, span dragonfly.Span, from dragonfly.Parent, digest dragonfly.PieceDigest) dragonfly.AssignmentID {
	s.mu.Lock()
	s.lastID++
	id := s.lastID
	s.mu.Unlock()
	s.say(dragonfly.Work{Assignments: []dragonfly.Assignment{{ID: id, Task: s.info.Task, Version: s.info.Version,
		Piece: n, Span: span, Parent: from, Digest: digest}}})
	return id
}

// whole gives a whole piece.
func (s *script) whole(n dragonfly.PieceNum, from dragonfly.Parent, digest dragonfly.PieceDigest) dragonfly.AssignmentID {
	a, b := s.info.Layout.Extent(n)
	return s.assign(n, dragonfly.Span{From: a, To: b}, from, digest)
}

// told are the events of an assignment, of any for 0.
func (s *script) told(id dragonfly.AssignmentID) []dragonfly.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.events), func(ev dragonfly.Event) bool { return id != 0 && ev.Assignment != id })
}

// hears waits until an event of an assignment was reported.
func (w *world) hears(s *script, id dragonfly.AssignmentID, kind dragonfly.EventKind) dragonfly.Event {
	w.t.Helper()
	var found dragonfly.Event
	w.until(string(kind), func() bool {
		i := slices.IndexFunc(s.told(id), func(ev dragonfly.Event) bool { return ev.Kind == kind })
		if i >= 0 {
			found = s.told(id)[i]
		}
		return i >= 0
	})
	return found
}

// actor is a machine with a script of its own.
type actor struct {
	*machine
	*script
	download *peer.Download
	watch    *watcher
}

// actor starts a machine that wants the origin's content and is told what to do
// by its script.
func (w *world) actor(ip string) *actor {
	w.t.Helper()
	s := w.script("session of " + ip)
	m := w.machine(ip, filepath.Join(w.dir, ip), options{dial: func(dragonfly.Member) dragonfly.Tracker { return s }})
	watch := &watcher{}
	j := job()
	j.ID, j.Observe = "job", watch
	j.Nodes = []dragonfly.Member{{ID: "script", Addr: "script:8002", Weight: 1}}
	return &actor{machine: m, script: s, download: m.start(j), watch: watch}
}

// as is an actor as a parent of others.
func (a *actor) as() dragonfly.Parent { return parentAt(a.ip, a.id) }

func parentAt(ip string, id dragonfly.SessionID) dragonfly.Parent {
	return dragonfly.Parent{Kind: dragonfly.ParentPeer, Session: id, CID: ip,
		Addrs: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(ip), 15000)}}
}

var fromSource = dragonfly.Parent{Kind: dragonfly.ParentSource, CID: "source:origin"}

// digest is the right digest of a piece of the origin's content.
func (w *world) digest(n dragonfly.PieceNum) dragonfly.PieceDigest {
	from, to := (dragonfly.Layout{Length: int64(len(w.origin.content)), PieceLen: pieceLen}).Extent(n)
	blocks := make([]piecehash.Block, piecehash.Blocks(to-from))
	h := piecehash.NewHasher(blocks, 0)
	defer h.Close()
	h.Write(w.origin.content[from:to])
	h.Flush()
	return piecehash.Piece(blocks)
}

// holder is an actor that has the whole content.
func (w *world) holder(ip string) *actor {
	w.t.Helper()
	a := w.actor(ip)
	for n := range dragonfly.PieceNum(a.info.Layout.Pieces()) {
		a.whole(n, fromSource, w.digest(n))
	}
	w.succeed(a.download, w.origin.content)
	return a
}

// lie makes a machine send another byte than the origin has at an offset.
func (w *world) lie(ip string, at int64) {
	pattern := bytes.Clone(w.origin.content[at : at+16])
	w.net.mangle(ip, func(b []byte) {
		if i := bytes.Index(b, pattern); i >= 0 {
			b[i] ^= 1
		}
	})
}

// parent serves bytes to whoever asks, and gives no proof.
func (w *world) parent(ip string, content []byte) dragonfly.Parent {
	w.serve(ip+":15000", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Dragonfly-Peer", "me")
		if !strings.HasSuffix(r.URL.Path, "/content") {
			rw.WriteHeader(http.StatusNotFound)
			return
		}
		rw.Header().Set("ETag", r.Header.Get("If-Match"))
		http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(content))
	}))
	return parentAt(ip, "me")
}

// TestChildGetsBytesThatItsParentIsReceiving: the bytes of one piece pass two
// hops in hardly more time than one.
func TestChildGetsBytesThatItsParentIsReceiving(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.content = random(1, pieceLen)
		w.net.limit(originHost, mib)
		first, second, third := w.actor("10.0.1.1"), w.actor("10.0.1.2"), w.actor("10.0.1.3")
		first.whole(0, fromSource, w.digest(0))
		<-time.After(time.Second)
		second.whole(0, first.as(), dragonfly.PieceDigest{})
		third.whole(0, second.as(), dragonfly.PieceDigest{})
		<-time.After(time.Second)
		synctest.Wait()
		for _, a := range []*actor{first, second, third} {
			if done := a.download.Progress().Done; done < 3*mib/2 || done >= 3*mib {
				t.Errorf("after 2 s %s has %d bytes", a.ip, done)
			}
		}
		w.succeed(first.download, w.origin.content)
		for _, a := range []*actor{second, third} {
			w.hears(a.script, 1, dragonfly.EventReceived) // it does not know the digest yet
			if a.download.Progress().FromPeers != pieceLen {
				t.Errorf("%s got %d bytes from peers", a.ip, a.download.Progress().FromPeers)
			}
			a.say(dragonfly.Work{Manifest: []dragonfly.Entries{{Task: a.info.Task, Version: a.info.Version, Digests: []dragonfly.PieceDigest{w.digest(0)}}}})
			w.succeed(a.download, w.origin.content)
			w.hears(a.script, 0, dragonfly.EventVerified)
		}
	})
}

// TestLostParentCostsOnlyTheRest: the child goes on at its offset elsewhere.
func TestLostParentCostsOnlyTheRest(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		lose func(w *world, ip string)
		want dragonfly.FailReason
	}{
		{"dead", func(w *world, ip string) { w.net.cut(ip, true) }, dragonfly.FailReset},
		{"stalled", func(w *world, ip string) { w.net.freeze(ip, true) }, dragonfly.FailStalled},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.origin.content = random(1, pieceLen)
				bad, good, child := w.holder("10.0.1.1"), w.holder("10.0.1.2"), w.actor("10.0.1.3")
				w.net.limit(bad.ip, mib)
				id := child.whole(0, bad.as(), w.digest(0))
				w.middle(child.download)
				test.lose(w, bad.ip)
				ev := w.hears(child.script, id, dragonfly.EventFailed)
				if ev.Reason != test.want || ev.Offset < pieceLen/2 || ev.Offset%dragonfly.BlockLen != 0 {
					t.Errorf("reported %+v", ev)
				}
				child.assign(0, dragonfly.Span{From: ev.Offset, To: pieceLen}, good.as(), w.digest(0))
				w.succeed(child.download, w.origin.content)
				if got := received(child.download.Progress()); got > pieceLen+dragonfly.BlockLen {
					t.Errorf("received %d bytes of a piece of %d", got, pieceLen)
				}
				w.net.freeze(bad.ip, false)
			})
		})
	}
}

// TestBadPieceResetsTheStreamsThatItFeeds: a receiver whose own copy proves bad
// does not let its children wait for the rest of it.
func TestBadPieceResetsTheStreamsThatItFeeds(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.content = random(1, pieceLen)
		liar, middle, child := w.holder("10.0.1.1"), w.actor("10.0.1.2"), w.actor("10.0.1.3")
		w.lie(liar.ip, pieceLen/3+1000)
		w.net.limit(liar.ip, 2*mib)
		w.net.limit(middle.ip, mib)
		accusing := middle.whole(0, liar.as(), w.digest(0))
		<-time.After(100 * time.Millisecond)
		fed := child.whole(0, middle.as(), w.digest(0))
		if ev := w.hears(middle.script, accusing, dragonfly.EventFailed); ev.Reason != dragonfly.FailMismatch {
			t.Errorf("the receiver reported %+v", ev)
		}
		began := time.Now()
		ev := w.hears(child.script, fed, dragonfly.EventFailed)
		if took := time.Since(began); ev.Reason != dragonfly.FailReset || took > time.Second {
			t.Errorf("after %v the child reported %+v", took, ev)
		}
		if middle.download.Progress().Done != 0 {
			t.Errorf("the receiver still counts %d bytes", middle.download.Progress().Done)
		}
	})
}

// TestGuiltySenderIsNamed: with several senders of one piece the block digests
// of the others tell which one it was.
func TestGuiltySenderIsNamed(t *testing.T) {
	t.Parallel()
	const cut = pieceLen / 3 / dragonfly.BlockLen * dragonfly.BlockLen
	spans := []dragonfly.Span{{From: 0, To: cut}, {From: cut, To: 2 * cut}, {From: 2 * cut, To: pieceLen}}
	for guilty := range spans {
		for last := range spans {
			t.Run(string(rune('a'+guilty))+string(rune('a'+last)), func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					w.origin.content = random(1, pieceLen)
					parents := []*actor{w.holder("10.0.1.1"), w.holder("10.0.1.2"), w.holder("10.0.1.3")}
					child := w.actor("10.0.1.9")
					w.lie(parents[guilty].ip, spans[guilty].From+100*kib+1000)
					w.net.limit(parents[last].ip, mib)
					ids := make([]dragonfly.AssignmentID, len(spans))
					for i, span := range spans {
						ids[i] = child.assign(0, span, parents[i].as(), w.digest(0))
					}
					if ev := w.hears(child.script, ids[guilty], dragonfly.EventFailed); ev.Reason != dragonfly.FailMismatch {
						t.Errorf("the guilty one: %+v", ev)
					}
					<-time.After(time.Second)
					for i, id := range ids {
						for _, ev := range child.script.told(id) {
							if i != guilty && ev.Kind == dragonfly.EventFailed && ev.Reason != dragonfly.FailCanceled {
								t.Errorf("an innocent one: %+v", ev)
							}
						}
					}
					child.whole(0, parents[(guilty+1)%3].as(), w.digest(0))
					w.succeed(child.download, w.origin.content)
				})
			})
		}
	}
}

// TestNobodyIsBlamedWithoutProof: when no sender can prove who it was, nobody is
// accused, and the piece is fetched anew.
func TestNobodyIsBlamedWithoutProof(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.content = random(1, pieceLen)
		const cut = 16 * dragonfly.BlockLen
		good, child := w.holder("10.0.1.1"), w.actor("10.0.1.3")
		bad := bytes.Clone(w.origin.content)
		bad[100] ^= 1
		one, two := w.parent("10.0.1.4", bad), w.parent("10.0.1.5", w.origin.content)
		w.net.limit("10.0.1.4", mib)
		a := child.assign(0, dragonfly.Span{To: cut}, one, w.digest(0))
		b := child.assign(0, dragonfly.Span{From: cut, To: pieceLen}, two, w.digest(0))
		w.hears(child.script, 0, dragonfly.EventLost)
		for _, id := range []dragonfly.AssignmentID{a, b} {
			for _, ev := range child.script.told(id) {
				if ev.Kind == dragonfly.EventFailed && ev.Reason != dragonfly.FailCanceled {
					t.Errorf("reported %+v", ev)
				}
			}
		}
		child.whole(0, good.as(), w.digest(0))
		w.succeed(child.download, w.origin.content)
	})
}

// TestReassignedSpanGoesOnWhereItStands: an assignment that is taken back and
// given to another parent at once does not disturb the new one.
func TestReassignedSpanGoesOnWhereItStands(t *testing.T) {
	t.Parallel()
	for delay := range 8 {
		inWorld(t, func(t *testing.T, w *world) {
			w.origin.content = random(1, pieceLen)
			one, two, child := w.holder("10.0.1.1"), w.holder("10.0.1.2"), w.actor("10.0.1.3")
			w.net.limit(one.ip, 8*mib)
			id := child.whole(0, one.as(), w.digest(0))
			<-time.After(time.Duration(100+17*delay) * time.Millisecond)
			child.say(dragonfly.Work{Cancellations: []dragonfly.AssignmentID{id}, Assignments: []dragonfly.Assignment{{
				ID: 100, Task: child.info.Task, Version: child.info.Version, Span: dragonfly.Span{To: pieceLen},
				Parent: two.as(), Digest: w.digest(0)}}})
			w.succeed(child.download, w.origin.content)
			if got := received(child.download.Progress()); got > pieceLen+2*dragonfly.BlockLen {
				t.Errorf("received %d bytes of a piece of %d", got, pieceLen)
			}
			if ev := w.hears(child.script, 0, dragonfly.EventVerified); ev.Assignment != 100 {
				t.Errorf("reported %+v", ev)
			}
		})
	}
}

// TestWrongParents: each lie and failure of a parent has its reason.
func TestWrongParents(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		parent  http.HandlerFunc
		session dragonfly.SessionID
		want    dragonfly.FailReason
	}{
		{"does not have it", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) }, "me", dragonfly.FailUnknown},
		{"another version", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusPreconditionFailed) }, "me", dragonfly.FailVersion},
		{"another process", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) }, "another", dragonfly.FailIdentity},
		{"garbage", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-4194298/4194299")
			w.Header().Set("Content-Length", "4194299")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(random(99, pieceLen))
		}, "me", dragonfly.FailMismatch},
		{"another range", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 1-4194298/4194299")
			w.WriteHeader(http.StatusPartialContent)
		}, "me", dragonfly.FailReset},
		{"never answers", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "me", dragonfly.FailStalled},
		{"breaks off", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, "me", dragonfly.FailReset},
		{"refuses", nil, "me", dragonfly.FailRefused},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.origin.content = random(1, pieceLen)
				good, child := w.holder("10.0.1.1"), w.actor("10.0.1.2")
				if test.parent != nil {
					w.serve("10.0.1.66:15000", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						rw.Header().Set("X-Dragonfly-Peer", "me")
						if test.session != "me" {
							rw.Header().Set("X-Dragonfly-Peer", string(test.session))
						}
						test.parent(rw, r)
					}))
				}
				id := child.whole(0, parentAt("10.0.1.66", "me"), w.digest(0))
				if ev := w.hears(child.script, id, dragonfly.EventFailed); ev.Reason != test.want {
					t.Errorf("reported %+v", ev)
				}
				child.whole(0, good.as(), w.digest(0))
				w.succeed(child.download, w.origin.content)
			})
		})
	}
}

// TestCleanEndOfUnknownLengthIsNoFailure: a child may see the end of the content
// before it hears of its length.
func TestCleanEndOfUnknownLengthIsNoFailure(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.content, w.origin.chunked = random(1, mib), true
		length := int64(len(w.origin.content))
		parent, child := w.actor("10.0.1.1"), w.actor("10.0.1.2")
		parent.whole(0, fromSource, dragonfly.PieceDigest{})
		id := child.whole(0, parent.as(), w.digest(0))
		w.succeed(parent.download, w.origin.content)
		w.hears(child.script, id, dragonfly.EventReceived)
		info := child.info
		info.Layout.Length = length
		child.say(dragonfly.Work{Tasks: []dragonfly.TaskInfo{info}})
		w.succeed(child.download, w.origin.content)
		w.hears(child.script, id, dragonfly.EventVerified)
		for _, ev := range child.script.told(0) {
			if ev.Kind == dragonfly.EventFailed {
				t.Errorf("reported %+v", ev)
			}
		}
	})
}

// TestOvertakenRegistration: what a supernode says before its answer to a
// registration arrived is not lost.
func TestOvertakenRegistration(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		n := w.node(nodeA)
		m := w.host("10.0.1.1")
		m.answers = func() { <-time.After(time.Second) }
		began := time.Now()
		w.succeed(m.start(job(n)), w.origin.content)
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if failed := m.failures(); len(failed) > 0 {
			t.Errorf("failures: %+v", failed)
		}
	})
}

// TestSeedEndsItsAssignments: a seed reads a content of more pieces than it
// takes at once.
func TestSeedEndsItsAssignments(t *testing.T) {
	t.Parallel()
	inWorld(t, func(t *testing.T, w *world) {
		w.origin.content = slices.Repeat(random(1, 1<<16), 40*pieceLen>>16)
		n := w.node(nodeA)
		d := w.host("10.0.1.1").start(job(n))
		w.succeed(d, w.origin.content)
		if sent := w.origin.Sent(); sent != int64(len(w.origin.content)) {
			t.Errorf("the origin sent %d bytes for a content of %d", sent, len(w.origin.content))
		}
	})
}
