// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"dragonfly"
)

// refused are the addresses that no server-side read may reach, unless a
// longer prefix is allowed.
var refused = []struct{ prefix, why string }{
	{"0.0.0.0/8", "is unspecified"},
	{"::/128", "is unspecified"},
	{"169.254.0.0/16", "is link-local"},
	{"fe80::/10", "is link-local"},
	{"224.0.0.0/4", "is multicast"},
	{"ff00::/8", "is multicast"},
	{"255.255.255.255/32", "is broadcast"},
	{"169.254.169.254/32", "is a cloud's metadata service"},
	{"169.254.170.2/32", "is a cloud's metadata service"},
	{"100.100.100.200/32", "is a cloud's metadata service"},
	{"168.63.129.16/32", "is a cloud's metadata service"},
	{"192.0.0.192/32", "is a cloud's metadata service"},
	{"fd00:ec2::254/128", "is a cloud's metadata service"},
	{"fd20:ce::254/128", "is a cloud's metadata service"},
}

// guard decides which addresses may be connected to. The longest prefix that
// holds an address decides; between equals, refusal does.
type guard struct{ rules []rule }

type rule struct {
	prefix netip.Prefix
	why    string // "" allows
}

func newGuard(allow, deny []netip.Prefix) *guard {
	g := &guard{}
	for _, r := range refused {
		g.rules = append(g.rules, rule{netip.MustParsePrefix(r.prefix), r.why})
	}
	for _, p := range deny {
		g.rules = append(g.rules, rule{unmapPrefix(p), "is on the list of denied addresses"})
	}
	for _, p := range allow {
		g.rules = append(g.rules, rule{unmapPrefix(p), ""})
	}
	return g
}

// unmapPrefix writes ::ffff:a.b.c.d/n, n of 96 or more, as an IPv4 prefix.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// why says why a is refused; "" if it is not. An IPv6 address that stands for
// an IPv4 one is refused with it.
func (g *guard) why(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if inner, ok := embedded(a); ok {
		if why := g.why(inner); why != "" {
			return why
		}
	}
	best := rule{}
	for _, r := range g.rules {
		if !r.prefix.Contains(a) {
			continue
		}
		longer := !best.prefix.IsValid() || r.prefix.Bits() > best.prefix.Bits()
		if longer || r.prefix.Bits() == best.prefix.Bits() && best.why == "" {
			best = r
		}
	}
	return best.why
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4 = netip.MustParsePrefix("2002::/16")
	compat = netip.MustParsePrefix("::/96")
)

// embedded is the IPv4 address that a gateway or the kernel would make of a.
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	b := a.As16()
	switch {
	case a == netip.IPv6Loopback(), a == netip.IPv6Unspecified():
		return netip.Addr{}, false
	case nat64.Contains(a), compat.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case sixTo4.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

// check refuses an address or lets it pass.
func (g *guard) check(a netip.Addr) error {
	if why := g.why(a); why != "" {
		return fault(dragonfly.Forbidden, fmt.Sprintf("the source's address %s %s: it is not read from here", a, why))
	}
	return nil
}

// control runs before each connect, with the very address that is about to be
// connected to.
func (g *guard) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	return g.check(ap.Addr())
}

// checkHost is for targets that a proxy connects to. Names are the proxy's to
// resolve; what looks like an address but is not written as one ("0xa9fea9fe",
// "169.254.43518") would be resolved behind the guard's back.
func (g *guard) checkHost(host string) error {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		return g.check(a)
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last != "" && last[0] >= '0' && last[0] <= '9' || host == "metadata.google.internal" {
		return fault(dragonfly.Forbidden, fmt.Sprintf("the source's host %.80q may be the address of a machine that is not read from here: write addresses as a.b.c.d", host))
	}
	return nil
}

// dial makes the transports' dial function.
func (c *Client) dial() func(ctx context.Context, network, address string) (net.Conn, error) {
	limit := c.options.Timeouts.Dial
	if inner := c.options.Dial; inner != nil {
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			if ap, err := netip.ParseAddrPort(address); err == nil && c.guard != nil {
				if err := c.guard.check(ap.Addr()); err != nil {
					return nil, err
				}
			}
			conn, err := inner(ctx, network, address)
			if err != nil {
				return nil, &net.OpError{Op: "dial", Net: network, Err: err}
			}
			return conn, nil
		}
	}
	d := &net.Dialer{Timeout: limit}
	if c.guard != nil {
		d.ControlContext = c.guard.control
	}
	return d.DialContext
}

// proxy makes the transports' proxy function.
func (c *Client) proxy() func(*http.Request) (*url.URL, error) {
	choose := c.options.Proxy
	if choose == nil {
		return nil
	}
	return func(r *http.Request) (*url.URL, error) {
		p, err := choose(r)
		if err != nil { // its text may hold the proxy's password
			return nil, fault(dragonfly.SourceFailed, "the proxy for source "+r.URL.Host+" is not a valid URL: check the proxy settings")
		}
		if p == nil || c.guard == nil {
			return p, nil
		}
		return p, c.guard.checkHost(r.URL.Hostname())
	}
}
