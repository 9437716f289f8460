// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"dragonfly"
)

// TestAcceptedAddresses: a peer is believed about the address that it connects
// from and about networks that are named, never about one to which nobody
// should be sent.
func TestAcceptedAddresses(t *testing.T) {
	private := privateRanges()
	named := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/0")}
	for _, c := range []struct {
		why       string
		remote    string // "": in process
		networks  []netip.Prefix
		announced string
		want      string // "": refused
	}{
		{"its connection's", "203.0.113.7", private, "203.0.113.7:15000", "203.0.113.7:15000"},
		{"its connection's, IPv6", "2001:db8::7", private, "[2001:db8::7]:15000", "[2001:db8::7]:15000"},
		{"a private network", "203.0.113.7", private, "10.1.2.3:15000", "10.1.2.3:15000"},
		{"another private network", "10.0.0.1", private, "172.31.255.255:1", "172.31.255.255:1"},
		{"behind the private network", "10.0.0.1", private, "172.32.0.1:15000", ""},
		{"a unique local address", "10.0.0.1", private, "[fd12::1]:15000", "[fd12::1]:15000"},
		{"somebody else's", "203.0.113.7", private, "203.0.113.8:15000", ""},
		{"--peer-cidr", "203.0.113.7", named[:2], "198.51.100.9:15000", "198.51.100.9:15000"},
		{"--peer-cidr, IPv6", "203.0.113.7", named[:2], "[2001:db8::9]:15000", "[2001:db8::9]:15000"},
		{"private when other networks are named", "203.0.113.7", named[:2], "10.1.2.3:15000", ""},
		{"IPv4 in IPv6 form, connection", "203.0.113.7", private, "[::ffff:203.0.113.7]:15000", "203.0.113.7:15000"},
		{"IPv4 in IPv6 form, private", "203.0.113.7", private, "[::ffff:10.1.2.3]:15000", "10.1.2.3:15000"},
		{"IPv4 in IPv6 form, connection's so", "::ffff:203.0.113.7", private, "203.0.113.7:15000", "203.0.113.7:15000"},
		{"IPv4 in IPv6 form, metadata", "203.0.113.7", private, "[::ffff:169.254.169.254]:80", ""},
		{"IPv4 in IPv6 form, loopback", "203.0.113.7", private, "[::ffff:127.0.0.1]:15000", ""},
		{"loopback from loopback", "127.0.0.1", private, "127.0.0.1:15000", "127.0.0.1:15000"},
		{"another loopback from loopback", "127.0.0.1", private, "127.0.0.9:15000", "127.0.0.9:15000"},
		{"IPv6 loopback from loopback", "::1", private, "[::1]:15000", "[::1]:15000"},
		{"loopback from elsewhere", "10.0.0.1", private, "127.0.0.1:15000", ""},
		{"loopback from elsewhere, named", "10.0.0.1", named, "127.0.0.1:15000", ""},
		{"private from loopback", "127.0.0.1", private, "10.1.2.3:15000", "10.1.2.3:15000"},
		{"link-local", "10.0.0.1", named, "169.254.1.1:15000", ""},
		{"link-local, its connection's", "169.254.1.1", private, "169.254.1.1:15000", ""},
		{"link-local, IPv6", "10.0.0.1", private, "[fe80::1]:15000", ""},
		{"link-local, IPv6, its connection's", "fe80::1%eth0", private, "[fe80::1]:15000", ""},
		{"with a zone", "fd12::1", private, "[fd12::1%eth0]:15000", ""},
		{"metadata, AWS", "10.0.0.1", named, "169.254.169.254:80", ""},
		{"metadata, AWS IPv6", "10.0.0.1", private, "[fd00:ec2::254]:80", ""},
		{"metadata, Google IPv6", "10.0.0.1", private, "[fd20:ce::254]:80", ""},
		{"metadata, Alibaba", "10.0.0.1", named, "100.100.100.200:80", ""},
		{"metadata, Azure", "10.0.0.1", named, "168.63.129.16:80", ""},
		{"metadata, Oracle", "10.0.0.1", named, "192.0.0.192:80", ""},
		{"metadata for one in process", "", private, "169.254.169.254:80", ""},
		{"multicast", "10.0.0.1", named, "224.0.0.1:15000", ""},
		{"multicast, IPv6", "10.0.0.1", private, "[ff02::1]:15000", ""},
		{"broadcast", "10.0.0.1", named, "255.255.255.255:15000", ""},
		{"this network", "10.0.0.1", named, "0.0.0.1:15000", ""},
		{"unspecified stands for the connection", "203.0.113.7", private, "0.0.0.0:15000", "203.0.113.7:15000"},
		{"unspecified, IPv6", "203.0.113.7", private, "[::]:15000", "203.0.113.7:15000"},
		{"unspecified from link-local", "fe80::1", private, "[::]:15000", ""},
		{"no port", "203.0.113.7", private, "203.0.113.7:0", ""},
		{"in process", "", private, "203.0.113.7:15000", "203.0.113.7:15000"},
		{"in process, unspecified", "", private, "0.0.0.0:15000", ""},
	} {
		var remote netip.Addr
		if c.remote != "" {
			remote = netip.MustParseAddr(c.remote)
		}
		got, err := acceptAddrs(remote, []netip.AddrPort{netip.MustParseAddrPort(c.announced)}, c.networks)
		if c.want == "" {
			if kindOf(err) != dragonfly.Invalid || !strings.Contains(err.Error(), "--peer-cidr") {
				t.Errorf("%s: %v, %v", c.why, got, err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, []netip.AddrPort{netip.MustParseAddrPort(c.want)}) {
			t.Errorf("%s: %v, %v", c.why, got, err)
		}
	}
}

// TestSeveralAddresses: those that are not accepted are left out; a peer without
// a data port announces none.
func TestSeveralAddresses(t *testing.T) {
	remote := netip.MustParseAddr("203.0.113.7")
	addr := netip.MustParseAddrPort
	got, err := acceptAddrs(remote, []netip.AddrPort{addr("127.0.0.1:1"), addr("203.0.113.7:2"), addr("[::ffff:203.0.113.7]:2"), addr("10.0.0.1:3")}, privateRanges())
	if want := []netip.AddrPort{addr("203.0.113.7:2"), addr("10.0.0.1:3")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := acceptAddrs(remote, nil, nil); err != nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
	many := make([]netip.AddrPort, maxAddrs+1)
	for i := range many {
		many[i] = netip.AddrPortFrom(remote, uint16(i+1))
	}
	if _, err := acceptAddrs(remote, many, nil); kindOf(err) != dragonfly.Invalid {
		t.Errorf("many: %v", err)
	}
}

// TestOpenAdmitsAddresses: the address of the connection reaches the decision.
func TestOpenAdmitsAddresses(t *testing.T) {
	inTime(t, nil, func(w *world) {
		ctx, h := hello(20)
		h.Addrs = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.9:15000")}
		if _, err := w.sn.Open(ctx, h); kindOf(err) != dragonfly.Invalid {
			w.Errorf("%v", err)
		}
		h.Addrs = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:15000")}
		if _, err := w.sn.Open(ctx, h); err != nil {
			w.Fatal(err)
		}
		if got := w.sn.Peers()[1].Addrs; len(got) != 1 || got[0].String() != "10.0.0.20:15000" {
			w.Errorf("%v", got)
		}
	})
}

// TestPeerBesideTheSupernode: it is seen at a loopback address, which is told
// to children on the same host only; the others get what it announced beside.
func TestPeerBesideTheSupernode(t *testing.T) {
	here, there := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.7")
	port := func(addr string) netip.AddrPort { return netip.MustParseAddrPort(addr) }
	announced := []netip.AddrPort{port("[::]:20000"), port("10.0.0.1:20000")}
	addrs, err := acceptAddrs(here, announced, privateRanges())
	if want := []netip.AddrPort{port("127.0.0.1:20000"), port("10.0.0.1:20000")}; err != nil || !slices.Equal(addrs, want) {
		t.Fatalf("accepted %v, %v", addrs, err)
	}
	if got := reachable(addrs, here); !slices.Equal(got, addrs) {
		t.Errorf("a child on the same host is told %v", got)
	}
	if got := reachable(addrs, there); !slices.Equal(got, announced[1:]) {
		t.Errorf("a child on another host is told %v", got)
	}
}
