// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"

	"dragonfly/source"
)

// refusal is an error with an answer of its own.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

// notFromAfar says why a client on another host may not reach an address.
func notFromAfar() func(netip.Addr) string {
	own := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	refused := source.Refuse(own...)
	return func(a netip.Addr) string {
		if a = a.Unmap(); a.IsLoopback() {
			return "is the proxy's own host"
		}
		return refused(a)
	}
}

// Near says that the client of r is on this host: it comes from a loopback
// address, or from the very address that it came to.
func Near(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	if from.Addr().Unmap().IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.AddrPort().Addr().Unmap().WithZone("") == from.Addr().Unmap().WithZone("")
}

func afar(r *http.Request) bool { return !Near(r) }

// check refuses an address to a client.
func (p *Proxy) check(to netip.AddrPort, far bool) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if p.o.Self != nil && p.o.Self(to) {
		return &refusal{http.StatusLoopDetected, fmt.Sprintf("%s is this proxy itself: a request would go round; ask it directly, without a proxy", to)}
	}
	if !far {
		return nil
	}
	if why := p.refuse(to.Addr()); why != "" {
		return &refusal{http.StatusForbidden, fmt.Sprintf("the address %s %s: clients on other hosts do not reach it through this proxy", to.Addr(), why)}
	}
	return nil
}

// dialer connects to hosts, each address checked before.
func (p *Proxy) dialer(far bool) *net.Dialer {
	return &net.Dialer{Timeout: dialTime, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("address %q: %w", address, err)
		}
		return p.check(to, far)
	}}
}

// checkName is for hosts that an upstream proxy connects to. Names are its to
// resolve; what looks like an address but is not written as one might be
// resolved to what would be refused.
func (p *Proxy) checkName(host string, far bool) error {
	if !far {
		return nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		return p.check(netip.AddrPortFrom(a, 0), far)
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last == "localhost" || last != "" && last[0] >= '0' && last[0] <= '9' || host == "metadata.google.internal" {
		return &refusal{http.StatusForbidden, fmt.Sprintf("the host %.80q may be an address that clients on other hosts do not reach through this proxy", host)}
	}
	return nil
}

// admit checks the host of a request that the swarm is to answer. What the
// swarm connects to later is out of sight here.
func (p *Proxy) admit(r *http.Request) error {
	if !afar(r) {
		return nil
	}
	upstream, err := p.upstream(r)
	if err != nil {
		return err
	}
	host := r.URL.Hostname()
	if err := p.checkName(host, true); err != nil || upstream != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), dialTime)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := p.check(netip.AddrPortFrom(a, 0), true); err != nil {
			return err
		}
	}
	return nil
}
