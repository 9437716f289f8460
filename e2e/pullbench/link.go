// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"dragonfly"
	"dragonfly/internal/network"
)

// pair is a link between this network namespace and another one. Its addresses
// are for documentation and lead nowhere else (RFC 5737).
type pair struct{ near, far, name string }

var link = pair{near: "198.51.100.1", far: "198.51.100.2", name: "pull" + strconv.Itoa(os.Getpid()%100000)}

// connect joins the namespace of a process, which may send at a limited speed.
// The link goes when the process has ended.
func (p pair) connect(ctx context.Context, pid, mbits int) error {
	inside := []string{"nsenter", "-t", strconv.Itoa(pid), "-n"}
	shape := network.Shape{Rate: dragonfly.Rate(mbits * 1_000_000 / 8), Queue: 50 * time.Millisecond, Burst: 256 << 10}
	for _, args := range [][]string{
		{"ip", "link", "add", p.name, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(pid)},
		{"ip", "addr", "add", p.near + "/30", "dev", p.name},
		{"ip", "link", "set", p.name, "up"},
		append(inside, "ip", "addr", "add", p.far+"/30", "dev", "eth0"),
		append(inside, "ip", "link", "set", "eth0", "up"),
		append(append(inside, "tc"), shape.Qdisc("eth0")...),
	} {
		if _, err := network.Run(ctx, "", args...); err != nil {
			return fmt.Errorf("connect the registry's namespace: %w", err)
		}
	}
	return nil
}
