// SPDX-License-Identifier: Apache-2.0

//go:build race

package piecehash_test

const raceEnabled = true
