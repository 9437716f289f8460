// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"dragonfly"
)

func hostOptions(t *testing.T, log *safeBuffer) HostOptions {
	dir := t.TempDir()
	return HostOptions{Data: filepath.Join(dir, "data"), Meta: filepath.Join(dir, "meta"), IP: "127.0.0.1",
		Program: "test", Build: testBuild, HostName: "here", Log: discard(log)}
}

// TestFavouritePort: it is taken if it is free, else one of v1's range is; a
// port that was asked for is taken or an error with the remedy.
func TestFavouritePort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := hostOptions(t, &safeBuffer{})
	o.Favourite = taken.Addr().(*net.TCPAddr).Port
	h, err := OpenHost(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if h.Port() < LowestPort || h.Port() >= HighestPort || h.Port() == o.Favourite {
		t.Errorf("port %d", h.Port())
	}
	o.Favourite = h.Port()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if h, err = OpenHost(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if h.Port() != o.Favourite {
		t.Errorf("port %d, want the favourite %d", h.Port(), o.Favourite)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	o.Port, o.PortFlag = taken.Addr().(*net.TCPAddr).Port, "--peerPort"
	if _, err := OpenHost(t.Context(), o); err == nil || !strings.Contains(err.Error(), "give another one with --peerPort") {
		t.Errorf("%v", err)
	}
}

// TestStoreOfAnotherHost: a data directory that another machine uses is left to
// it.
func TestStoreOfAnotherHost(t *testing.T) {
	log := &safeBuffer{}
	o := hostOptions(t, log)
	first, err := OpenHost(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.HostName, o.BootID = "there", "another"
	second, err := OpenHost(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "data-there") {
		t.Errorf("log: %s", log)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for _, h := range []*Host{first, second} {
		h.SetLimit(dragonfly.Rate(1 << 20))
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}
