// SPDX-License-Identifier: Apache-2.0

// Package network makes networks inside this machine, for measurements: hosts
// that are network namespaces, each with one link to a common switch, limited
// in both directions. It takes root, and iproute2.
//
// Invariants: all that it makes lies in namespaces whose names begin with a
// prefix of the caller's, so that what a crash left is found by name and
// removed with everything in it, processes included; nothing of the machine's
// own network is touched.
package network
