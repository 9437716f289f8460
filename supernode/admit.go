// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"fmt"
	"net/netip"
	"slices"

	"dragonfly"
)

// maxAddrs bounds the addresses of one peer.
const maxAddrs = 8

func privateRanges() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("fc00::/7"),
	}
}

// metadata are the well-known addresses of clouds' instance services outside
// the link-local ranges. A peer that announced one would make other hosts send
// requests there.
var metadata = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google
}

var (
	broadcast   = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
)

// acceptAddrs decides which announced addresses of a data port other peers are
// sent to: those that equal the connection's remote address or lie in the
// accepted networks, loopback only for who connects from loopback, and never
// link-local, multicast or metadata. An unspecified address stands for the
// connection's. remote is invalid for a peer in process, which is believed.
// Addresses that are not accepted are left out; none left is an error.
func acceptAddrs(remote netip.Addr, announced []netip.AddrPort, networks []netip.Prefix) ([]netip.AddrPort, error) {
	if len(announced) > maxAddrs {
		return nil, &dragonfly.Error{Kind: dragonfly.Invalid, Message: fmt.Sprintf("a peer has at most %d addresses", maxAddrs)}
	}
	remote = remote.Unmap().WithZone("")
	var out []netip.AddrPort
	for _, ap := range announced {
		addr := ap.Addr().Unmap()
		if addr.IsValid() && addr.IsUnspecified() && remote.IsValid() {
			addr = remote
		}
		if ap.Port() != 0 && acceptable(remote, addr, networks) && !slices.Contains(out, netip.AddrPortFrom(addr, ap.Port())) {
			out = append(out, netip.AddrPortFrom(addr, ap.Port()))
		}
	}
	if len(announced) > 0 && len(out) == 0 {
		return nil, &dragonfly.Error{Kind: dragonfly.Invalid, Message: fmt.Sprintf(
			"the peer's address %s is not accepted from %s: announce the address that the supernode sees, or add its network to --peer-cidr",
			announced[0], remote)}
	}
	return out, nil
}

func acceptable(remote, addr netip.Addr, networks []netip.Prefix) bool {
	switch {
	case !addr.IsValid() || addr.IsUnspecified() || addr.Zone() != "",
		addr.IsLinkLocalUnicast(), addr.IsMulticast(), addr == broadcast, thisNetwork.Contains(addr),
		slices.Contains(metadata, addr):
		return false
	case !remote.IsValid():
		return true
	case addr.IsLoopback() || remote.IsLoopback() && addr == remote:
		return remote.IsLoopback()
	case addr == remote:
		return true
	}
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}
