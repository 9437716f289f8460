// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"dragonfly/agent"
	"dragonfly/internal/version"
)

// build is which software this is. Its number is the time of the commit it was
// made from, so that an agent knows which of two is newer.
var build = sync.OnceValue(func() agent.Build {
	b := agent.Build{Version: version.Get().Version, Protocol: agent.Protocol}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		if t, err := time.Parse(time.RFC3339, s.Value); err == nil && s.Key == "vcs.time" {
			b.Number = t.Unix()
		}
	}
	return b
})

func versionText() string {
	var text strings.Builder
	_ = version.Get().Write(&text, "dfget", false) // a Builder takes everything
	return text.String()
}
