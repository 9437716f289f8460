// SPDX-License-Identifier: Apache-2.0

package dragonfly

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// DefaultControlPort is the supernode's port for control (v1-protocol 1).
const DefaultControlPort = 8002

// Member is one supernode as peers address it.
type Member struct {
	ID     string `json:"id"`     // stable name; the address until the supernode announced another
	Addr   string `json:"addr"`   // host:port of its control port
	Weight int    `json:"weight"` // share of the tasks it owns, at least 1
}

// ParseMember reads v1's host[:port][=weight]; IPv6 addresses with a port
// stand in brackets.
func ParseMember(s string) (Member, error) {
	addr, weightText, hasWeight := strings.Cut(strings.TrimSpace(s), "=")
	m := Member{Weight: 1}
	if hasWeight {
		w, err := strconv.Atoi(weightText)
		if err != nil || w < 1 || w > 1<<16 {
			return Member{}, fmt.Errorf("supernode %q: the weight must be a number from 1 to 65536", s)
		}
		m.Weight = w
	}
	host, port := addr, strconv.Itoa(DefaultControlPort)
	if h, p, err := net.SplitHostPort(addr); err == nil {
		host, port = h, p
	} else if strings.Count(addr, ":") == 1 {
		return Member{}, fmt.Errorf("supernode %q: want host[:port][=weight]", s)
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Member{}, fmt.Errorf("supernode %q: the port must be a number from 1 to 65535", s)
	}
	if host == "" || strings.ContainsFunc(host, notInHost) {
		return Member{}, fmt.Errorf("supernode %q: want host[:port][=weight], without scheme or path", s)
	}
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err != nil {
			return Member{}, fmt.Errorf("supernode %q: %q is no IPv6 address", s, host)
		}
	}
	m.Addr = net.JoinHostPort(host, port)
	m.ID = m.Addr
	return m, nil
}

// notInHost says of a character that neither a host's name nor an address, its
// zone included, has it.
func notInHost(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("-._:%", r)
}

func (m Member) String() string { return fmt.Sprintf("%s=%d", m.Addr, m.Weight) }

// Rank orders members by weighted rendezvous hashing of the task: the first
// one owns it, a failed one is followed by the next. It is pure: everybody who
// knows the same members computes the same order.
func Rank(task TaskID, members []Member) []Member {
	type scored struct {
		Member
		score float64
	}
	ranked := make([]scored, len(members))
	for i, m := range members {
		sum := sha256.Sum256(append(task[:], m.ID...))
		// A uniform draw in (0, 1) from 53 bits; -weight/ln(u) makes the
		// chance to be first proportional to the weight.
		u := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / (1 << 53)
		ranked[i] = scored{m, -float64(max(1, m.Weight)) / math.Log(u)}
	}
	slices.SortStableFunc(ranked, func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.ID, b.ID))
	})
	out := make([]Member, len(ranked))
	for i, s := range ranked {
		out[i] = s.Member
	}
	return out
}
