// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// warmMemory touches n bytes of memory and gives them back, at most half of what
// is available. In a virtual machine, memory that nobody used for a while belongs
// to its host, and the first who writes there pays for fetching it: several times
// the cost of the write itself. A command that is measured then shows who came
// first, not what it does.
func warmMemory(n int64) error {
	available, err := availableMemory()
	if err != nil {
		return err
	}
	n = min(n, available/2)
	const step = 256 << 20
	var held [][]byte
	defer func() {
		for _, m := range held {
			_ = unix.Munmap(m) // it is ours
		}
	}()
	for ; n > 0; n -= step {
		m, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
		if err != nil {
			return fmt.Errorf("touch memory: %w", err)
		}
		held = append(held, m)
	}
	return nil
}

// availableMemory is how many bytes programs can have without swapping.
func availableMemory() (int64, error) {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var kb int64
		if text, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			_, err := fmt.Sscan(text, &kb)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no MemAvailable in /proc/meminfo")
}
