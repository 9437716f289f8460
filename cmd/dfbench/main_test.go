// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"
)

// TestMistakes: a number that makes no sense is named before anything is built.
func TestMistakes(t *testing.T) {
	for _, line := range []string{
		"small --runs 0", "crowd --peers 0", "direct --runs -1", "direct --sizes 1X", "list --runs 0", "list --files 0", "loopback --runs 0", "loopback --size 0",
		"swarm --peers 0", "swarm --peers 501", "swarm --systems none", "swarm --queue 0s", "swarm --rate 0mbit",
	} {
		cmd := command()
		cmd.SetArgs(strings.Fields(line))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		err := cmd.ExecuteContext(t.Context())
		// The value that was given is in the message.
		if value := line[strings.LastIndexByte(line, ' ')+1:]; err == nil || !strings.Contains(err.Error(), value) {
			t.Errorf("%s: %v", line, err)
		}
	}
}
