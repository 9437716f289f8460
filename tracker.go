// SPDX-License-Identifier: Apache-2.0

package dragonfly

import (
	"context"
	"net/netip"
	"time"
)

// ProtocolNumber is the native dialect spoken by this build.
const ProtocolNumber = 1

// Tracker is a supernode as a peer sees it. The supernode implements it in
// process, wire.Client over HTTP; both behave the same.
type Tracker interface {
	// Open starts a session for a peer process. Opening again with the same
	// Hello.Agent replaces the older session of that process.
	// Errors: Unavailable, ProtocolMismatch, Invalid (an address that is not
	// accepted).
	Open(ctx context.Context, hello Hello) (Session, error)
}

// Session is one peer process at one supernode; all its tasks go through it.
// Its methods may be called from several goroutines. After UnknownSession it
// is dead: open a new one and register again with what is held.
type Session interface {
	// Welcome is what the supernode answered to Open.
	Welcome() Welcome
	// Register says that a job of this peer wants a task. It is idempotent per
	// (task, job). It waits while the supernode asks the source about a new
	// task. Errors: those of the source (Unauthorized, Forbidden, NotFound,
	// SourceFailed, …), NotOwner with Members, UnknownSession, Unavailable.
	Register(ctx context.Context, r Registration) (TaskInfo, error)
	// Sync reports what happened and waits for work or news. One call waits at
	// a time: a newer one makes the older return what it has. Errors:
	// UnknownSession, Unavailable; after Unavailable send the same Seq again,
	// with the same events first.
	Sync(ctx context.Context, r Report) (Work, error)
	// Close ends the session: the peer leaves all its tasks. It may be called
	// twice.
	Close(ctx context.Context, reason string) error
}

// SessionID names a session at its supernode; unguessable.
type SessionID string

// JobID names one download of one peer: v1's cid, "<ip>-<sign>".
type JobID string

// Host is the machine a peer runs on, as far as scheduling wants to know.
type Host struct {
	Name string `json:"name"`
	Zone string `json:"zone,omitempty"` // data centre, availability zone
	Rack string `json:"rack,omitempty"` // within the zone
	// Uploads is how many children the peer serves at once; 0 leaves it to the
	// supernode.
	Uploads int `json:"uploads,omitempty"`
}

// Hello introduces a peer process to a supernode.
type Hello struct {
	Protocol int    `json:"protocol"` // ProtocolNumber
	Agent    string `json:"agent"`    // 32 hex digits drawn at process start
	Build    string `json:"build"`    // version of the software, for logs
	Host     Host   `json:"host"`
	// Addrs are the addresses of the peer's data port; none: it cannot serve.
	// The supernode accepts an address that equals the connection's or lies in
	// its --peer-cidr.
	Addrs []netip.AddrPort `json:"addrs,omitempty"`
	// First is what the session will register at once. Its answer may come
	// along with that to Open: a Register of the same takes it from there and
	// costs no round trip.
	First *Registration `json:"first,omitempty"`
}

// Welcome is the answer to Hello.
type Welcome struct {
	Session SessionID     `json:"session"`
	Node    Member        `json:"node"`    // the supernode that answered
	Members []Member      `json:"members"` // all that it knows, itself included
	Poll    time.Duration `json:"poll"`    // how long a Sync may wait
	IP      netip.Addr    `json:"ip"`      // the peer's address as the supernode saw it
}

// Registration asks for a task.
type Registration struct {
	Job     JobID   `json:"job"`
	Request Request `json:"request"`
	// Serve says that the peer serves what it gets; v1's pattern cdn does not.
	Serve bool `json:"serve,omitempty"`
	// Slots bounds the pieces of this task in work at once; 0: as the
	// supernode says (4; FAQ: peer scheduling).
	Slots int `json:"slots,omitempty"`
	// Version and Held say what the peer has already. A Held of another
	// version than the swarm's is ignored.
	Version Version  `json:"version,omitzero"`
	Layout  Layout   `json:"layout,omitzero"`
	Held    PieceSet `json:"held,omitzero"`
	// Want are the spans of the content that the peer wants, with To
	// dragonfly.UnknownLength for its end; none: all of it. Of a content of
	// unknown length all is wanted. Jobs of one peer add up. There are at most
	// MaxWant.
	Want []Span `json:"want,omitempty"`
	// Holding registers only to serve what is held: nothing is wanted.
	Holding bool `json:"holding,omitempty"`
	// Inline asks for small content inside the answer.
	Inline bool `json:"inline,omitempty"`
}

// Grant is a supernode's leave to read the source.
type Grant string

const (
	GrantNone   Grant = ""
	GrantDirect Grant = "direct" // the whole task, for this peer alone, not shared
)

// TaskInfo is what a supernode says about a task. A later one in Work.Tasks
// replaces the earlier: a new Version means that all older bytes are void.
type TaskInfo struct {
	Task    TaskID  `json:"task"`
	Version Version `json:"version"`
	Layout  Layout  `json:"layout"`
	Ticket  Ticket  `json:"ticket"` // for the data of this version, from anybody
	Grant   Grant   `json:"grant,omitempty"`
	// Whole is the digest of the whole content, once the seed has found it to
	// be what the request or the URL says. It follows in Work.Tasks.
	Whole Digest `json:"whole,omitzero"`
	// Complete says that Inline is the whole content, which may be empty.
	Complete bool   `json:"complete,omitempty"`
	Inline   []byte `json:"inline,omitempty"`
	// Failed says that the task cannot be finished, and why.
	Failed  *Error   `json:"failed,omitempty"`
	Members []Member `json:"members,omitempty"`
}

// Report is what a peer tells its supernode, and how much more it would take.
type Report struct {
	Seq    uint64  `json:"seq"`  // 1, 2, …; each (Seq, index in Events) is applied once
	Ack    uint64  `json:"ack"`  // newest Work.Seq received
	Free   int     `json:"free"` // assignments that the session would take now, over all tasks
	Events []Event `json:"events,omitempty"`
}

// EventKind says what an Event is about.
type EventKind string

const (
	EventVerified EventKind = "verified" // Piece is held; Assignment and Parent say where the last bytes came from; Digest when the seed tells it
	EventReceived EventKind = "received" // all bytes of the assignment are here, the piece is not verified yet
	EventFailed   EventKind = "failed"   // the assignment failed for Reason at Offset
	EventLost     EventKind = "lost"     // Piece is held no more, or all that was received of it was given up
	EventPosition EventKind = "position" // Job reads at Offset next
	EventStopped  EventKind = "stopped"  // Job wants the task no more; what is held is served on
	EventDropped  EventKind = "dropped"  // nothing of the task is held or wanted any more
	EventLength   EventKind = "length"   // from the seed: the content ended at Offset
	EventVoid     EventKind = "void"     // from the seed: this version cannot be continued, Reason says why
	EventWhole    EventKind = "whole"    // from the seed: the whole content has the digest Whole
	EventEntry    EventKind = "entry"    // answer to a manifest question: Digest of Piece
	EventIntact   EventKind = "intact"   // answer to a reverify question: Piece is still good
)

// Event is one thing that happened at a peer. Which fields count depends on
// Kind; Task and Version always do.
type Event struct {
	Kind       EventKind    `json:"kind"`
	Task       TaskID       `json:"task"`
	Version    Version      `json:"version"`
	Piece      PieceNum     `json:"piece,omitempty"`
	Assignment AssignmentID `json:"assignment,omitempty"`
	Reason     FailReason   `json:"reason,omitempty"`
	Offset     int64        `json:"offset,omitempty"` // in the content
	Digest     PieceDigest  `json:"digest,omitzero"`
	Job        JobID        `json:"job,omitempty"`
	Failure    *Error       `json:"failure,omitempty"` // from the seed: what the source said
	Whole      Digest       `json:"whole,omitzero"`
}

// FailReason is a closed list; it is also a metrics label.
type FailReason string

const (
	FailRefused  FailReason = "refused"  // no connection
	FailReset    FailReason = "reset"    // the stream broke
	FailStalled  FailReason = "stalled"  // no byte for the stall time, or below --minrate
	FailUnknown  FailReason = "unknown"  // 404: the parent does not have the task, or not for us
	FailVersion  FailReason = "version"  // 412: the parent has another version
	FailIdentity FailReason = "identity" // another process answers at the parent's address
	FailMismatch FailReason = "mismatch" // digest wrong: an accusation of the parent; all of the piece is given up
	FailSource   FailReason = "source"   // the source failed; Failure says how
	FailStore    FailReason = "store"    // this peer could not write: nobody's fault but its own
	FailCanceled FailReason = "canceled" // cancelled by assignment or by the user
)

// Listed says that a reason is one of the list. What peers send may be none.
func (r FailReason) Listed() bool {
	switch r {
	case FailRefused, FailReset, FailStalled, FailUnknown, FailVersion, FailIdentity, FailMismatch, FailSource, FailStore, FailCanceled:
		return true
	}
	return false
}

// AssignmentID is unique within a supernode process.
type AssignmentID uint64

// Assignment is «fetch these bytes of this piece from this parent». Only the
// scheduler makes one.
type Assignment struct {
	ID      AssignmentID `json:"id"`
	Task    TaskID       `json:"task"`
	Version Version      `json:"version"`
	Piece   PieceNum     `json:"piece"`
	Span    Span         `json:"span"` // content offsets, inside the piece; block aligned from the piece's start, To may be the piece's end
	Parent  Parent       `json:"parent"`
	Digest  PieceDigest  `json:"digest,omitzero"` // zero: it will follow in Work.Manifest
	More    bool         `json:"more,omitempty"`  // of the source: the piece after it is wanted from there, too
}

// ParentKind is where bytes come from.
type ParentKind string

const (
	ParentPeer   ParentKind = "peer"
	ParentSeed   ParentKind = "seed"
	ParentSource ParentKind = "source"
)

// Parent is whom an assignment is fetched from.
type Parent struct {
	Kind    ParentKind       `json:"kind"`
	Session SessionID        `json:"session,omitempty"` // checked against X-Dragonfly-Peer
	Addrs   []netip.AddrPort `json:"addrs,omitempty"`
	CID     string           `json:"cid"` // v1's dstCid, for logs
}

// Work is the answer to a Report.
type Work struct {
	Seq           uint64         `json:"seq"`
	Assignments   []Assignment   `json:"assignments,omitempty"`
	Cancellations []AssignmentID `json:"cancellations,omitempty"`
	Manifest      []Entries      `json:"manifest,omitempty"`
	Tasks         []TaskInfo     `json:"tasks,omitempty"`
	Questions     []Question     `json:"questions,omitempty"`
	Members       []Member       `json:"members,omitempty"` // when they changed
}

// Entries are consecutive piece digests of a version's manifest.
type Entries struct {
	Task    TaskID        `json:"task"`
	Version Version       `json:"version"`
	First   PieceNum      `json:"first"`
	Digests []PieceDigest `json:"digests"`
}

// QuestionKind says what a supernode wants to know from a peer.
type QuestionKind string

const (
	AskReverify    QuestionKind = "reverify"    // is Piece still good? answer: intact or lost
	AskManifest    QuestionKind = "manifest"    // what are the digests of the held pieces? answer: entries
	AskCredentials QuestionKind = "credentials" // the source refused the known ones: register again
)

// Question is put to a peer inside Work and answered by events.
type Question struct {
	Kind    QuestionKind `json:"kind"`
	Task    TaskID       `json:"task"`
	Version Version      `json:"version"`
	Piece   PieceNum     `json:"piece,omitempty"`
}
