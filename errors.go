// SPDX-License-Identifier: Apache-2.0

package dragonfly

import (
	"errors"
	"strings"
)

// Kind classifies an Error; it decides what a caller does next and which HTTP
// status stands for it.
type Kind string

const (
	Invalid          Kind = "invalid"           // the request itself is wrong: mend it
	NotFound         Kind = "not-found"         // the source says 404 or 410
	Unauthorized     Kind = "unauthorized"      // the source says 401 or 407
	Forbidden        Kind = "forbidden"         // the source says 403, or we refuse to ask it
	SourceFailed     Kind = "source-failed"     // the source says 5xx or nothing, or breaks off
	SourceChanged    Kind = "source-changed"    // the content changed while it was read
	Throttled        Kind = "throttled"         // the source says 429 or 503 with Retry-After: wait
	DigestMismatch   Kind = "digest-mismatch"   // the content is not what was asked for
	NoSpace          Kind = "no-space"          // disk or quota is full
	Unavailable      Kind = "unavailable"       // the supernode or peer cannot be reached
	UnknownSession   Kind = "unknown-session"   // open a new session, register again
	NotOwner         Kind = "not-owner"         // ask Members instead
	ProtocolMismatch Kind = "protocol-mismatch" // the other side speaks a newer or older protocol
	Denied           Kind = "denied"            // no ticket, no admission
	Canceled         Kind = "canceled"          // by the user
	Internal         Kind = "internal"          // a fault of ours
)

// Error is the one typed error that crosses package and process borders.
// Message is lower-case, names its subject and says what to do; it holds no
// secret. Err is the cause and does not cross processes.
type Error struct {
	Kind    Kind     `json:"kind"`
	Message string   `json:"message"`
	Status  int      `json:"status,omitempty"`  // HTTP status of the source, if it gave one
	Members []Member `json:"members,omitempty"` // with NotOwner
	Err     error    `json:"-"`
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	if e.Err != nil {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	if b.Len() == 0 {
		b.WriteString(string(e.Kind))
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the Kind of the first Error in err's chain, else Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
