// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"dragonfly"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata from what the scheduler does")

// mib is the piece length of stories.
const mib = 1 << 20

// story plays a script of testdata. Lines that start with a letter are events
// of task 1, those that start with blanks are what the machine answered:
//
//	task PIECES | task unknown | length PIECES | closed | opened | ended
//	join PEER [seed] [whole] [noserve] [host=H] [rack=R] [zone=Z] [up=N]
//	leave PEER | open PEER [FREE] | close PEER
//	want PEER [held=N,N-N] [only=N,N-N] [slots=N] [noserve] | hold PEER [held=…] | stop PEER | drop PEER
//	at PEER PIECE                 reads there
//	ack|done|got|lost|intact PEER PIECE
//	fail PEER PIECE REASON [KIB]  what came before that offset in the piece is there
//	wait DURATION                 with a tick whenever the machine asks for one
//	why PEER | state PEER
//
// Assignments are acknowledged at once unless the story says «unacked», and pieces
// are whole unless its Config says into how many units tasks are parted.
type story struct {
	m       *Machine
	now     Instant
	unacked bool
	ids     map[string]dragonfly.AssignmentID
	out     strings.Builder
}

func newStory(cfg Config) *story {
	cfg.Units = max(1, cfg.Units)
	return &story{m: New(cfg), ids: map[string]dragonfly.AssignmentID{}}
}

func key(p Peer, n dragonfly.PieceNum) string { return fmt.Sprintf("%d/%d", p, n) }

func (s *story) step(t *testing.T, ev Event) {
	t.Helper()
	actions := s.m.Step(s.now, ev, nil)
	if err := s.m.Check(); err != nil {
		t.Fatalf("after %+v:\n%s%v", ev, s.out.String(), err)
	}
	for _, a := range actions {
		s.out.WriteString("  " + render(a) + "\n")
		if a.Kind == Assign {
			s.ids[key(a.Peer, a.Piece)] = a.Assignment
		}
	}
	for _, a := range actions {
		if a.Kind == Assign && !s.unacked {
			if more := s.m.Step(s.now, Event{Kind: Acked, Peer: a.Peer, Task: a.Task, Assignment: a.Assignment}, nil); len(more) > 0 {
				t.Fatalf("acknowledging gave %v", more)
			}
		}
	}
}

func render(a Action) string {
	name := func(p Peer) string {
		if p == Source {
			return "source"
		}
		return strconv.Itoa(int(p))
	}
	switch a.Kind {
	case Assign:
		text := fmt.Sprintf("%s gets %d from %s", name(a.Peer), a.Piece, name(a.Parent))
		if from := a.Span.From - int64(a.Piece)*mib; from != 0 || a.Span.Len() != mib {
			text += fmt.Sprintf(" [%dk,%dk)", from/1024, (a.Span.To-int64(a.Piece)*mib)/1024)
		}
		if a.More {
			text += ", more follows"
		}
		return text
	case Cancel:
		return fmt.Sprintf("%s drops %d", name(a.Peer), a.Piece)
	case Reverify:
		return fmt.Sprintf("%s is asked about %d", name(a.Peer), a.Piece)
	case Quarantined:
		return fmt.Sprintf("%s is quarantined: %s", name(a.Peer), a.Why)
	case Isolated:
		return fmt.Sprintf("%s is isolated: %s", name(a.Peer), a.Why)
	case Released:
		return fmt.Sprintf("%s is released", name(a.Peer))
	case Exhausted:
		return fmt.Sprintf("exhausted at %d: %s", a.Piece, a.Why)
	case Forgotten:
		return fmt.Sprintf("%s is forgotten", name(a.Peer))
	}
	return fmt.Sprintf("%+v", a)
}

var simpleEvents = map[string]EventKind{
	"closed": SourceClosed, "opened": SourceOpened, "ended": TaskEnded,
	"leave": PeerLeft, "close": PollClosed, "stop": Stopped, "drop": Dropped,
	"at": Position, "ack": Acked, "done": Verified, "got": Received, "lost": Lost, "intact": Intact, "fail": Failed,
	"want": Wanted, "hold": Holding, "open": PollOpened, "join": PeerJoined, "task": TaskOpened, "length": LengthKnown,
}

func (s *story) line(t *testing.T, line string) {
	words := strings.Fields(line)
	num := func(i, otherwise int) int {
		if i >= len(words) {
			return otherwise
		}
		n, err := strconv.Atoi(words[i])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	switch words[0] {
	case "unacked":
		s.unacked = true
		return
	case "wait":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			t.Fatal(err)
		}
		s.wait(t, d)
		return
	case "why":
		fmt.Fprintf(&s.out, "  %s\n", s.m.Why(1, Peer(num(1, 0))))
		return
	case "state":
		for p := range s.m.Peers() {
			if p.Peer == Peer(num(1, 0)) {
				fmt.Fprintf(&s.out, "  load %d/%d charges %d failures %d banned %d listed %v\n", p.Load, p.Up, p.Charges, p.Failures, p.Banned, p.Listed)
			}
		}
		return
	}
	kind, ok := simpleEvents[words[0]]
	if !ok {
		t.Fatalf("%q: no such event", line)
	}
	ev := Event{Kind: kind, Task: 1, Serves: true}
	switch kind {
	case TaskOpened, LengthKnown:
		ev.Layout = dragonfly.Layout{Length: dragonfly.UnknownLength, PieceLen: mib}
		if words[1] != "unknown" {
			ev.Layout.Length = int64(num(1, 0)) * mib
		}
	case SourceClosed, SourceOpened, TaskEnded:
	default:
		ev.Peer = Peer(num(1, 0))
	}
	switch kind {
	case PollOpened:
		ev.Free = num(2, 100)
	case Position, Acked, Verified, Received, Lost, Intact, Failed:
		ev.Piece = dragonfly.PieceNum(num(2, 0))
		ev.Assignment = s.ids[key(ev.Peer, ev.Piece)]
	}
	if kind == Failed {
		ev.Reason = dragonfly.FailReason(words[3])
		ev.Offset = int64(ev.Piece)*mib + int64(num(4, 0))*1024
	}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "seed":
			ev.Seed = true
		case "whole":
			ev.Whole = true
		case "noserve":
			ev.Serves = false
		case "host":
			ev.Where.Host = value
		case "rack":
			ev.Where.Rack = value
		case "zone":
			ev.Where.Zone = value
		case "up":
			ev.Up, _ = strconv.Atoi(value)
		case "slots":
			ev.Slots, _ = strconv.Atoi(value)
		case "held", "only":
			set := &ev.Held
			if name == "only" {
				set = &ev.Want
			}
			for part := range strings.SplitSeq(value, ",") {
				lo, hi, ranged := strings.Cut(part, "-")
				from, _ := strconv.Atoi(lo)
				to := from
				if ranged {
					to, _ = strconv.Atoi(hi)
				}
				for n := from; n <= to; n++ {
					set.Add(dragonfly.PieceNum(n))
				}
			}
		}
	}
	if kind == PeerJoined && ev.Where.Host == "" {
		ev.Where.Host = "h" + words[1]
	}
	s.step(t, ev)
}

func (s *story) wait(t *testing.T, d time.Duration) {
	end := s.now.Add(d)
	for {
		at, ok := s.m.Next()
		if !ok || at > end {
			break
		}
		s.now = max(s.now, at)
		before := s.out.Len()
		s.step(t, Event{Kind: Tick})
		if s.out.Len() > before {
			fmt.Fprintf(&s.out, "  … at %v\n", time.Duration(s.now))
		}
	}
	s.now = end
}

// play runs the script and returns it with the answers of the machine.
func play(t *testing.T, script string) string {
	s := newStory(Config{Seed: 1})
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue
		}
		s.out.WriteString(line + "\n")
		if line != "" && !strings.HasPrefix(line, "#") {
			s.line(t, line)
		}
	}
	return s.out.String()
}

func golden(t *testing.T, name string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := play(t, string(raw))
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(strings.Split(string(raw), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites):\n%s", path, diff)
	}
}

// The rules of the FAQ, each with a story that quotes it.
func TestFAQNearestDistance(t *testing.T)   { golden(t, "nearest-distance") }
func TestFAQRarestFirst(t *testing.T)       { golden(t, "rarest-first") }
func TestFAQLocalBlacklist(t *testing.T)    { golden(t, "local-blacklist") }
func TestFAQGlobalBlacklist(t *testing.T)   { golden(t, "global-blacklist") }
func TestFAQSelfIsolation(t *testing.T)     { golden(t, "self-isolation") }
func TestFAQPeerLoadBalancing(t *testing.T) { golden(t, "load-balancing") }
func TestFAQFourPiecesInWork(t *testing.T)  { golden(t, "four-in-work") }

// What else the scheduler promises.
func TestLonePeerReadsInOrder(t *testing.T) { golden(t, "lone-peer-sequential") }
func TestTwoPeersExchange(t *testing.T)     { golden(t, "two-peers-exchange") }
func TestLiarAtTheHead(t *testing.T)        { golden(t, "liar-at-the-head") }
func TestLiarInTheMiddle(t *testing.T)      { golden(t, "liar-in-the-middle") }
func TestLiarAtTheLeaf(t *testing.T)        { golden(t, "liar-at-the-leaf") }
func TestCopyGoneBad(t *testing.T)          { golden(t, "copy-gone-bad") }
func TestFalseAccuser(t *testing.T)         { golden(t, "false-accuser") }
func TestParentKilledBeforeVerdict(t *testing.T) {
	golden(t, "parent-killed-between-stream-and-verdict")
}
func TestNearestParent(t *testing.T)     { golden(t, "nearest-parent") }
func TestThrownAway(t *testing.T)        { golden(t, "thrown-away") }
func TestThrownAwayInWork(t *testing.T)  { golden(t, "thrown-away-in-work") }
func TestSeedRestart(t *testing.T)       { golden(t, "seed-restart") }
func TestSilentAndBack(t *testing.T)     { golden(t, "silent-and-back") }
func TestUnknownLength(t *testing.T)     { golden(t, "unknown-length") }
func TestUnackedAssignment(t *testing.T) { golden(t, "unacked-assignment") }
func TestExhausted(t *testing.T)         { golden(t, "exhausted") }
func TestRefusedTwice(t *testing.T)      { golden(t, "refused-twice") }
func TestReaderJumps(t *testing.T)       { golden(t, "reader-jumps") }
func TestWholePieces(t *testing.T)       { golden(t, "whole-pieces") }
func TestChainGoesOn(t *testing.T)       { golden(t, "chain-goes-on") }
func TestCrowdSpreads(t *testing.T)      { golden(t, "crowd-spreads") }
func TestSlowParent(t *testing.T)        { golden(t, "slow-parent") }
func TestOnlyHolder(t *testing.T)        { golden(t, "only-holder") }
func TestStalledBelow(t *testing.T)      { golden(t, "stalled-below") }
func TestOnlyAPart(t *testing.T)         { golden(t, "only-a-part") }
