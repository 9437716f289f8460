// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os/exec"
	"strconv"
)

// lookPath finds an installed program.
var lookPath = exec.LookPath

// curls fetch from the origin, all at once.
func curls(_ context.Context, w *world) (func(context.Context, int, string) error, error) {
	return func(ctx context.Context, i int, out string) error {
		args := []string{"-sS", "--fail", "-o", out}
		if w.net == nil {
			args = append(args, "--limit-rate", strconv.FormatInt(int64(w.o.rate), 10))
		}
		return w.run(i, exec.CommandContext(ctx, "curl", append(args, w.origin)...))
	}, nil
}
