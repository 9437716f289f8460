// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// self is what this process listens on.
type self netip.AddrPort

// leads says that a connection to an address comes back to this process.
func (s self) leads(to netip.AddrPort) bool {
	own := netip.AddrPort(s)
	if to.Port() != own.Port() {
		return false
	}
	here, addr := own.Addr().Unmap(), to.Addr().Unmap().WithZone("")
	switch {
	case addr == here:
		return true
	case addr.IsUnspecified(): // the kernel takes it for loopback
		return here.IsLoopback() || here.IsUnspecified()
	case here.IsUnspecified():
		return addr.IsLoopback() || slices.Contains(hostAddresses(), addr)
	}
	return false
}

// hostAddresses are those of this host's interfaces.
func hostAddresses() (all []netip.Addr) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // then only loopback is known
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p.Addr().Unmap())
		}
	}
	return all
}

// lookupTime bounds the search for the addresses of a name.
const lookupTime = 2 * time.Second

// behind says that a URL leads to this process. A name without an address leads
// nowhere.
func (s self) behind(ctx context.Context, u *url.URL) bool {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || uint16(n) != netip.AddrPort(s).Port() {
		return false // and no name server is asked
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	return err == nil && slices.ContainsFunc(addrs, func(a netip.Addr) bool { return s.leads(netip.AddrPortFrom(a, uint16(n))) })
}

// ownProxies are the hosts of proxies in the environment that are this process:
// dfdaemon often gets the environment that leads everybody else to it.
func (s self) ownProxies(ctx context.Context, lookup func(string) (string, bool)) (hosts []string) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
		text, ok := lookup(name)
		if !ok || text == "" {
			continue
		}
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		if u, err := url.Parse(text); err == nil && s.behind(ctx, u) {
			hosts = append(hosts, u.Host)
		}
	}
	return hosts
}

// upstream is the proxy of the environment, unless that is one of own.
func upstream(own []string) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		u, err := http.ProxyFromEnvironment(r)
		if err != nil || u == nil || slices.Contains(own, u.Host) {
			return nil, err
		}
		return u, nil
	}
}
