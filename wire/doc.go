// SPDX-License-Identifier: Apache-2.0

// Package wire carries the contract between peer and supernode over HTTP/1.1
// and JSON: Client is a dragonfly.Tracker that lives elsewhere, Server offers
// a dragonfly.Tracker to others. Either end may be replaced by the contract's
// implementation in process.
//
// # Routes
//
//	POST   /p2p/v1/sessions           Hello         200 Welcome, X-Dragonfly-Session: KEY
//	POST   /p2p/v1/session/register   Registration  200 TaskInfo
//	POST   /p2p/v1/session/sync       Report        200 Work
//	DELETE /p2p/v1/session?reason=R                 204
//
// Bodies are the structs of package dragonfly as encoding/json (v1) writes
// them: digests, versions and task ids as lower-case hex, piece sets as base64
// of a bitmap with the least significant bit first, durations in nanoseconds,
// byte strings as base64. Names are matched without regard to case, unknown
// members are ignored, a body holds exactly one value. The content type is
// application/json.
//
// All routes but the first want the KEY of the session in the header
// X-Dragonfly-Session. The key is the session's credential: 32 random bytes in
// hex, drawn by the Server. It is not Welcome.Session, which is told to other
// peers, and it stands in a header so that it appears in no access log.
//
// # Errors
//
// A failure is a dragonfly.Error as JSON. Its kind decides what it means, the
// HTTP status only follows from it (see statuses); an answer without a kind
// comes from something that is no supernode of ours. A 404 of that sort is
// reported as ErrNotNative: the other side may speak v1 only.
//
// # Flow
//
// A peer process opens one session, registers each job, and keeps one sync
// open, which the supernode answers as soon as it has work or news, or else
// after Welcome.Poll. A sync with a newer Seq makes the supernode answer the
// older one at once, so at most two are open; a third one that comes to the
// Server ends the oldest. Every request may be sent again after a failure:
// register is idempotent per (task, job), a report is applied once per Seq,
// closing twice is closing once, opening again with the same agent replaces
// the session.
//
// # Invariants
//
// No body, count or time is without a limit, on either side. Neither side
// starts a goroutine of its own. Keys, tickets and source headers are never
// logged or put into an error.
//
// # History
//
//	1  first version
package wire
