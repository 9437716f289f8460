// SPDX-License-Identifier: Apache-2.0

package dragonfly

import (
	"context"
	"net/netip"
)

type remoteAddrKey struct{}

// WithRemoteAddr says from which address a call to a Tracker or Session came.
// Whoever takes the call from the network sets it; a call in process has none.
func WithRemoteAddr(ctx context.Context, addr netip.Addr) context.Context {
	return context.WithValue(ctx, remoteAddrKey{}, addr.Unmap())
}

// RemoteAddr is the address that WithRemoteAddr set, never an IPv4 address in
// IPv6 form; false for a call in process.
func RemoteAddr(ctx context.Context) (netip.Addr, bool) {
	addr, ok := ctx.Value(remoteAddrKey{}).(netip.Addr)
	return addr, ok && addr.IsValid()
}
