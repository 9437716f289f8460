// SPDX-License-Identifier: Apache-2.0

// Package dragonfly is the vocabulary of the swarm: what a task, a version, a
// piece and a digest are, and the contract between a peer and the supernode
// that schedules it. Every other package speaks in these words; this one
// imports nothing but the standard library and decides nothing.
//
// Words: a task is one content (URL after filtering + digest or identifier +
// range). A version is one state of that content; bitmaps, reports,
// assignments and data requests carry it, and a swarm never mixes two. A piece
// is a fixed slice of the content, a block is 64 KiB of a piece. A parent is
// whoever something is fetched from: a peer, the seed, or the source.
package dragonfly
