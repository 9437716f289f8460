// SPDX-License-Identifier: Apache-2.0

// Package mirror is a registry mirror whose blobs come through the swarm. It
// stands between a container engine and its registries as an http.Handler:
//
//	/v2/…            to the one registry that the mirror is for (docker's
//	                 registry-mirrors, containerd's hosts.toml)
//	/v2/…?ns=HOST    to the registry HOST (containerd's _default); ns is not
//	                 passed on
//	/v2/HOST/…       to the registry HOST (podman, CRI-O, skopeo): a first element
//	                 that has a dot or a port, or is localhost; HOST_PORT means
//	                 HOST:PORT, since these clients cannot write a colon there
//	/token           a token for a registry that is named in the path
//
// Clients of the third kind believe that all registries behind a mirror are one.
// They get one challenge of the mirror's own for all; /token finds in the scope
// which registry is meant and asks its realm with the client's credentials. A
// registry without tokens gets what the client would send it straight: the
// mirror's own token for it, sealed, holds that. All others get the challenges of
// their registry unaltered.
//
// A GET of /v2/NAME/blobs/sha256:H, of all of it or of ranges, is answered by the
// engine: the bytes flow to the client as they come, and of a range only the
// pieces that it touches are fetched. Everything else (manifests, tags, uploads,
// HEAD, conditions) passes straight through, and so does a blob that the engine
// cannot begin: what reaches the client then, challenges and errors included, is
// the registry's own answer. Answers say which way they came in X-Dragonfly-Via:
//
//	swarm    through the engine, from the swarm or from what this host holds
//	source   through the engine, which read the registry by itself since no
//	         supernode could be used
//	direct   straight from the registry
//
// Invariants:
//   - A client never takes a part or a wrong content for the whole. The engine
//     verifies all that it gives, and the last bytes of an answer are held back
//     until it says that all was right; else the transfer is aborted. A stream
//     that the engine loses is continued from the registry at the byte that it
//     had reached: never after bytes that proved wrong, and where no digest names
//     the content only with the version that the client has the start of.
//   - A stream ends in bounded time after nothing comes any more: 12 seconds until
//     the engine is left, a minute for the registry's header, 30 seconds without a
//     byte of the rest. What passes straight through lasts as long as registry and
//     client hold on.
//   - The engine costs a client no more than a second: when it gave no byte and
//     hardly receives any by then, the registry is asked beside it, and who is
//     first serves.
//   - Nobody is given what the registry would not give him: the supernode asks
//     it, or this host does where there is none. Credentials go to the registry
//     and to the supernode, which needs them to read there, and to nobody else.
//   - Credentials of this host are lent for pulls from the mirror's own registry
//     only, to clients that neither name a registry nor bring credentials.
//   - Credentials of a client go to the registry that it named for them, or to
//     that registry's realm. One of the mirror's own tokens is good for the
//     registry that it was given for, for minutes, in one process.
//   - No header value and no query value is in a log, an error or an answer of
//     the mirror's own.
package mirror
