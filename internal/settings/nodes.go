// SPDX-License-Identifier: Apache-2.0

package settings

import "dragonfly"

// presetNode is the supernode of a host that names none.
const presetNode = "127.0.0.1:8002"

// Node is a supernode as the user writes it: host[:port][=weight].
type Node struct{ dragonfly.Member }

func (n *Node) UnmarshalText(b []byte) (err error) {
	n.Member, err = dragonfly.ParseMember(string(b))
	return err
}

func (n Node) MarshalText() ([]byte, error) { return []byte(n.Member.String()), nil }

// Members are the supernodes to ask; preset says that the user named none.
func Members(nodes []Node) (members []dragonfly.Member, preset bool) {
	for _, n := range nodes {
		members = append(members, n.Member)
	}
	if len(members) > 0 {
		return members, false
	}
	m, err := dragonfly.ParseMember(presetNode)
	if err != nil {
		panic(err) // our own text
	}
	return []dragonfly.Member{m}, true
}
