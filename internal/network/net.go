// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options describe a network.
type Options struct {
	// Prefix begins the name of every namespace; "" is an error. Two networks
	// of one prefix cannot be at once.
	Prefix string
	Hosts  int // 1 to 1000
	// First is the address of the first host; the others follow. All are in one
	// /16.
	First netip.Addr
	Shape Shape // of each link in each direction
	// Congestion is the congestion control of TCP, as in "cubic"; "": the
	// machine's.
	Congestion string
}

// Net is a network: Hosts joined by a switch.
type Net struct {
	Hosts []*Host

	prefix string
	hub    Host
}

// Build makes a network, after it removed what an earlier one of the prefix
// left.
func Build(ctx context.Context, o Options) (*Net, error) {
	if o.Prefix == "" || o.Hosts < 1 || o.Hosts > 1000 || !o.First.Is4() || o.Shape.Rate <= 0 || o.Shape.Queue <= 0 {
		return nil, fmt.Errorf("a network of %d hosts from %q on, %+v: want a prefix, 1 to 1000 hosts, an IPv4 address, a rate and a queue", o.Hosts, o.First, o.Shape)
	}
	if err := Clean(o.Prefix); err != nil {
		return nil, err
	}
	n := &Net{prefix: o.Prefix, hub: Host{Name: o.Prefix + "hub"}}
	if err := n.build(ctx, o); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// port is the switch's end of a host's link; its number is the host's.
const port = "port"

func (n *Net) build(ctx context.Context, o Options) error {
	var add, links, shape strings.Builder
	fmt.Fprintf(&add, "netns add %s\n", n.hub.Name)
	fmt.Fprintf(&links, "link add hub type bridge\nlink set hub up\n")
	ip := o.First
	for i := range o.Hosts {
		h := &Host{Name: o.Prefix + strconv.Itoa(i), IP: ip}
		n.Hosts = append(n.Hosts, h)
		ip = ip.Next()
		dev := port + strconv.Itoa(i)
		fmt.Fprintf(&add, "netns add %s\n", h.Name)
		fmt.Fprintf(&links, "link add %s type veth peer name eth0 netns %s\nlink set %s master hub\nlink set %s up\n", dev, h.Name, dev, dev)
		fmt.Fprintln(&shape, strings.Join(o.Shape.Qdisc(dev), " "))
	}
	if _, err := Run(ctx, add.String(), "ip", "-batch", "-"); err != nil {
		return err
	}
	if _, err := Run(ctx, links.String(), "ip", "-n", n.hub.Name, "-batch", "-"); err != nil {
		return err
	}
	if _, err := Run(ctx, shape.String(), "tc", "-n", n.hub.Name, "-batch", "-"); err != nil {
		return err
	}
	// A switch has no firewall. Where the module is not there it has none anyway.
	_ = n.hub.Do(func() error { return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0) })
	for _, h := range n.Hosts {
		up := fmt.Sprintf("link set lo up\naddr add %s/16 dev eth0\nlink set eth0 up\n", h.IP)
		if _, err := Run(ctx, up, "ip", "-n", h.Name, "-batch", "-"); err != nil {
			return err
		}
		if _, err := Run(ctx, "", append([]string{"tc", "-n", h.Name}, o.Shape.Qdisc("eth0")...)...); err != nil {
			return err
		}
		// What one connection learned about a link is nothing that the next
		// one of a measurement shall know.
		settings := map[string]string{"tcp_no_metrics_save": "1"}
		if o.Congestion != "" {
			settings["tcp_congestion_control"] = o.Congestion
		}
		err := h.Do(func() error {
			for name, value := range settings {
				if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
					return fmt.Errorf("set %s to %q: %w", name, value, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Traffic is what passed a host's link, in bytes with all headers.
type Traffic struct{ In, Out int64 }

// Traffic is that of all hosts, in their order.
func (n *Net) Traffic() (all []Traffic, err error) {
	all = make([]Traffic, len(n.Hosts))
	err = n.hub.Do(func() error {
		file, err := os.Open("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		defer file.Close()
		return parseTraffic(file, all)
	})
	return all, err
}

// parseTraffic reads the counters of the switch's ports: what a port received
// left the host.
func parseTraffic(r io.Reader, all []Traffic) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		dev, counters, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		if !ok {
			continue
		}
		number, ok := strings.CutPrefix(dev, port)
		i, err := strconv.Atoi(number)
		if !ok || err != nil || i < 0 || i >= len(all) {
			continue
		}
		fields := strings.Fields(counters)
		if len(fields) < 9 {
			return fmt.Errorf("counters of %s: %q has fewer than 9 fields", dev, counters)
		}
		var t Traffic
		if t.Out, err = strconv.ParseInt(fields[0], 10, 64); err != nil {
			return fmt.Errorf("counters of %s: %w", dev, err)
		}
		if t.In, err = strconv.ParseInt(fields[8], 10, 64); err != nil {
			return fmt.Errorf("counters of %s: %w", dev, err)
		}
		all[i] = t
	}
	return lines.Err()
}

// Close ends what still runs in the network and removes it.
func (n *Net) Close() error { return Clean(n.prefix) }

// Clean removes the networks of a prefix, with the processes in them. It takes
// no context: what was made has to go.
func Clean(prefix string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	found, err := filepath.Glob(filepath.Join(names, prefix+"*"))
	if err != nil || len(found) == 0 {
		return err
	}
	var remove strings.Builder
	for _, path := range found {
		name := filepath.Base(path)
		pids, err := Run(ctx, "", "ip", "netns", "pids", name)
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(pids) {
			if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
				_ = syscall.Kill(pid, syscall.SIGKILL) // fails when it has ended
			}
		}
		fmt.Fprintf(&remove, "netns del %s\n", name)
	}
	_, err = Run(ctx, remove.String(), "ip", "-batch", "-")
	return err
}
