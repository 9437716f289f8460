// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// listen opens a port on all addresses, IPv4 and IPv6. An error says who is in
// the way and what to do: remedy is for a port that another process has.
func listen(ctx context.Context, port int, flag, remedy string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("port %d is in use by %s; %s", port, portUser(os.DirFS("/proc"), port), remedy)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("port %d may not be opened by this user; give %s a port above 1023, or the program the capability CAP_NET_BIND_SERVICE", port, flag)
	case err != nil:
		return nil, fmt.Errorf("open port %d: %w", port, err)
	}
	return l, nil
}

// portUser names the process that listens on a port, as far as proc tells this
// user.
func portUser(proc fs.FS, port int) string {
	const unknown = "another process"
	inodes := listeners(proc, port)
	links, _ := fs.Glob(proc, "[0-9]*/fd/*") // the pattern is good
	for _, link := range links {
		target, err := fs.ReadLink(proc, link)
		if err != nil || !inodes[target] {
			continue
		}
		pid, _, _ := strings.Cut(link, "/")
		name, err := fs.ReadFile(proc, pid+"/comm")
		if err != nil {
			return unknown
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
	}
	return unknown
}

// listeners are the sockets that listen on a port, as /proc/PID/fd shows them.
func listeners(proc fs.FS, port int) map[string]bool {
	const listening = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	found := map[string]bool{}
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		file, err := proc.Open(filepath.ToSlash(table))
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
			if f := strings.Fields(lines.Text()); len(f) > 9 && strings.HasSuffix(f[1], suffix) && f[3] == listening {
				found["socket:["+f[9]+"]"] = true
			}
		}
		file.Close()
	}
	return found
}

// firstIPv4 is the address that peers are told when none is configured.
func firstIPv4() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("look for this host's address: %w; give --advertise-ip", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "127.0.0.1", nil
}
