// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"net/netip"
	"testing"

	"dragonfly/source"
)

// TestRefuse: what no source may be, and what is denied, in every spelling.
func TestRefuse(t *testing.T) {
	why := source.Refuse(netip.MustParsePrefix("127.0.0.0/8"))
	for addr, refused := range map[string]bool{
		"169.254.169.254": true, "fe80::1%eth0": true, "0.0.0.0": true, "127.1.2.3": true, "::ffff:127.0.0.1": true, "64:ff9b::7f00:1": true,
		"192.0.2.1": false, "10.0.0.1": false, "2001:db8::1": false, "::1": false,
	} {
		if got := why(netip.MustParseAddr(addr)); (got != "") != refused {
			t.Errorf("%s: %q", addr, got)
		}
	}
}
