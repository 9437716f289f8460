// SPDX-License-Identifier: Apache-2.0

// Package login knows what registries want to see before they give content,
// and where that is had: the challenge of a registry, the realm that gives
// tokens for it, and the docker config.json with the logins of this host, whose
// passwords may be kept by docker's credential helpers.
//
// Invariants:
//   - Credentials go to the realm that their own registry named, over TLS unless
//     the registry itself is asked without, and to nobody else.
//   - A realm is never on this host or on a link-local address unless the
//     registry is: who may name a registry cannot reach by it what only this
//     host reaches.
//   - Whoever waits for something that is being fetched gets it from that one
//     fetch; nothing is fetched in the background.
//   - No credential, no token and no query of a URL is in an error.
package login
