// SPDX-License-Identifier: Apache-2.0

// Command dfdaemon is a registry mirror for the container engine of its host:
// the engine asks it, it asks the registry. It contains a peer of the swarm.
//
// Invariants: nothing is opened before the settings were found right; what was
// opened is closed before the process ends. What the registry says reaches the
// client as it was said. No secret of a setting is in a log or an answer.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := program{lookup: os.LookupEnv, stdout: os.Stdout, stderr: os.Stderr}.execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
