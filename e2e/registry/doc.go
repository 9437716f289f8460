// SPDX-License-Identifier: Apache-2.0

// Package registry runs the CNCF distribution server on loopback addresses for
// tests and measurements: plain or with TLS, open, with passwords or with
// tokens. It makes images on the spot and puts a front before the server that
// counts blob bytes and misbehaves on demand.
//
// Invariants: a server keeps everything below its own directory and ends with
// the process that started it; every certificate, key and image is made anew
// out of a seed or at random and none is kept.
package registry
