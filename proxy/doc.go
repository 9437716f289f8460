// SPDX-License-Identifier: Apache-2.0

// Package proxy is an HTTP proxy whose downloads may come through the swarm.
// It is an http.Handler for requests that name a whole URL and for CONNECT
// (v1-protocol 10.2, 10.3):
//
//	GET http://HOST/PATH   the first rule that matches the URL decides: it may
//	                       change scheme and host, and unless it says direct,
//	                       the Swarm answers
//	any other request      goes to its host, with what the rule changes
//	CONNECT HOST:PORT      a tunnel; to a host that is to be intercepted, TLS
//	                       ends here, with a certificate made for that host, and
//	                       the requests inside are taken as https URLs
//
// What is forwarded says X-Dragonfly-Via: proxy, and is the origin's own answer
// otherwise.
//
// Invariants:
//   - Nobody who must give a password gets anything without it but a 407.
//   - A client on another host reaches neither this host's loopback addresses
//     nor link-local ones nor metadata services. The address that is connected
//     to is checked, not the name. Where an upstream proxy resolves names, only
//     what is written as an address can be checked; where the Swarm connects,
//     the name is resolved and checked before.
//   - Connections that were made for clients on this host are not used for
//     others.
//   - No request goes round: what was here before is answered 508, and dfdaemon
//     makes no connection to itself.
//   - Only hosts that are named are intercepted.
//   - Close returns after the end of every tunnel and of every intercepted
//     connection.
//   - Passwords, userinfo and query values are in no log, error or answer.
package proxy
