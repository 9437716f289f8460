// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"dragonfly"
)

// Shape limits what leaves through an interface.
type Shape struct {
	Rate dragonfly.Rate
	// Queue is how long a packet may wait for its turn; what would wait longer
	// is dropped.
	Queue time.Duration
	// Burst is how many bytes go at once after a pause; 0: what 1 ms of the
	// rate brings, 16 KiB at least.
	Burst dragonfly.Size
}

// Qdisc are the arguments of tc that shape dev.
func (s Shape) Qdisc(dev string) []string {
	burst := int64(s.Burst)
	if burst == 0 {
		burst = max(16<<10, int64(s.Rate)/1000)
	}
	return []string{"qdisc", "replace", "dev", dev, "root", "tbf", "rate", fmt.Sprint(int64(s.Rate)*8, "bit"),
		"burst", fmt.Sprint(burst), "latency", fmt.Sprint(s.Queue.Microseconds(), "us")}
}

// Run runs a program to its end. The error of one that failed holds what it
// printed.
func Run(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
