// SPDX-License-Identifier: Apache-2.0

// Package machine tells facts about the machine that a process runs on, for
// the commands that hand them down.
//
// Invariant: a fact that the system does not tell is empty, never an error:
// whoever uses it takes the careful way then.
package machine

import (
	"cmp"
	"os"
	"strings"
)

// BootID names the running kernel; empty where the system does not tell.
func BootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// Name is the host's name, "localhost" where it has none.
func Name() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return cmp.Or(name, "localhost")
}
