// SPDX-License-Identifier: Apache-2.0

// Command supernode is tracker, scheduler and caching seed of a swarm. It
// serves control and data ports by itself and keeps no state that it could not
// lose: peers tell a restarted supernode what they hold.
//
// Invariants: nothing is opened before the settings were found right; what was
// opened is closed before the process ends.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := program{build: build, lookup: os.LookupEnv, stdout: os.Stdout, stderr: os.Stderr}.execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
