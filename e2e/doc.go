// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the commands as users run them: real processes on
// loopback addresses against an HTTP origin that misbehaves on demand, and
// container engines that pull from a real registry through dfdaemon. The tests
// run with DRAGONFLY_E2E=1 and need Linux and the Go tool; those with container
// engines need root and the engines too, and are skipped without.
//
// Invariants: a test waits for events (a byte that the origin is asked for, a
// line in a log, the end of a process), never for time to pass; after each
// test no process of it runs and nothing but the target lies beside a target.
package e2e
