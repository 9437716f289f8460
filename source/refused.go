// SPDX-License-Identifier: Apache-2.0

package source

import "net/netip"

// Refuse makes a function that says why an address must not be reached for
// somebody on another host; "" if it may be. It refuses what no source may be
// (link-local, metadata services, …) and what deny holds, also behind an IPv6
// address that stands for such an IPv4 one.
func Refuse(deny ...netip.Prefix) func(netip.Addr) (why string) {
	return newGuard(nil, deny).why
}
