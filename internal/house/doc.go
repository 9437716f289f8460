// SPDX-License-Identifier: Apache-2.0

// Package house holds the rules that keep the source tree in order, as tests:
// which room may import which, what a scheduler must not touch, which names
// say nothing, which documents must be true. It has no code of its own.
//
// Invariants: the rules read the sources in process and start nothing, so the
// test cache sees every file that they depend on; each rule is also run on a
// tree that breaks it, so that a rule which cannot fail is found.
package house
