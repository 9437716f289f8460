// SPDX-License-Identifier: Apache-2.0

package dragonfly_test

import (
	"net/netip"
	"testing"

	"dragonfly"
)

func TestRemoteAddr(t *testing.T) {
	if addr, ok := dragonfly.RemoteAddr(t.Context()); ok {
		t.Errorf("a call in process comes from %s", addr)
	}
	if _, ok := dragonfly.RemoteAddr(dragonfly.WithRemoteAddr(t.Context(), netip.Addr{})); ok {
		t.Error("no address is an address")
	}
	for given, want := range map[string]string{"127.0.0.9": "127.0.0.9", "::ffff:10.0.0.1": "10.0.0.1", "2001:db8::1": "2001:db8::1"} {
		addr, ok := dragonfly.RemoteAddr(dragonfly.WithRemoteAddr(t.Context(), netip.MustParseAddr(given)))
		if !ok || addr != netip.MustParseAddr(want) {
			t.Errorf("%s arrives as %s, %t", given, addr, ok)
		}
	}
}
