// SPDX-License-Identifier: Apache-2.0

// Package agent is the long-lived process of a host's account, and the way to
// talk to it: it keeps the store and the engine, takes jobs over a unix
// socket, and is the only writer of the account's log files. A Host is what
// every such process has, whoever gives it jobs; an Agent takes them over the
// socket.
//
// # Protocol
//
// Lines of JSON in both directions. The first line of each side says its
// version and protocol number (greeting). Then the client sends one order: a
// job, or the request to hand over. For a job the agent sends lines for the
// user, progress (10 a second at most) and one result. The content comes as an
// open read-only descriptor beside the result (SCM_RIGHTS), or for a stream as
// the reading end of a pipe before it. The client places the output with its
// own user and mounts and says how that went (placed); the agent writes the
// last log lines and closes.
//
// # Invariants
//
// No path that one side names is opened by the other. Only the account itself
// and root are served. A closed connection cancels its job; the engine goes on
// while another job wants the same task. A job that fails leaves the agent as
// it was. An agent retires when it had nothing to do for a while, or when a
// newer client asks it to: it takes its socket away first, tells open jobs to
// go to its successor, and lets go of its lock last, by ending. A client that
// loses its agent before the result may give the same job to the next one.
package agent
