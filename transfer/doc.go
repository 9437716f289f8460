// SPDX-License-Identifier: Apache-2.0

// Package transfer is both ends of the data plane: how a child gets the bytes
// of a span from a parent, over HTTP/1.1.
//
//	GET /p2p/v1/tasks/{task id}/content
//	    Range: bytes=A-B                  one range, closed or open; none: all
//	    If-Match: "VERSION"               32 hex digits
//	    Authorization: Dragonfly TICKET   32 hex digits
//	    X-Dragonfly-Encoding: zstd        the bytes may come compressed
//	206 Content-Range: bytes A-B/LENGTH   LENGTH is * while it is unknown
//	    X-Dragonfly-Peer: SESSION         on every answer, one for each session
//	    X-Dragonfly-Encoding: zstd        the body is one zstd frame
//
//	GET /p2p/v1/tasks/{task id}/blocks?piece=N
//	200 the 32-byte block digests of a held piece, one after the other
//
//	400 the request cannot be understood, suffix and multiple ranges included
//	404 no such task, or no ticket for it, or what is asked for is not held
//	405 another method than GET
//	412 another version, or none was named
//	416 the range begins behind the end
//	503 too many streams; Retry-After says when to ask again
//
// An answer whose end is known has a Content-Length. While the length of the
// content is unknown the answer is chunked: its B is how far it goes at most,
// and a clean end before that is the end of the content. An open range has no B
// then, so it is answered with the whole content and 200.
//
// A compressed answer is chunked, and its Content-Range is that of the raw bytes.
// The child asks for one wherever it could be worth it; the parent decides: the
// range is held, the link or Server.Limit is known to be slow, a sample of the
// range compresses, and encoders for it all take at most half of the processors.
// The kernel says how fast the link is (TCP_INFO), so the first range on a
// connection goes as it is. Whatever comes is verified as ever, over raw bytes:
// a child takes no more of them than its range has.
//
// Invariants: no byte and no hint of a task goes to somebody without its
// ticket: whatever such a request asks for, a task that exists is answered as
// one that does not. An answer never mixes versions. Bytes are sent on while
// they arrive; a stream whose bytes will not come, or proved bad, is broken
// off and never ended cleanly, so a child never takes a part for the whole. A
// child counts no byte and no failure of a parent that did not answer as the
// session that the child was sent to, unless it could not be reached or fell
// silent before it answered. Neither end polls.
package transfer
