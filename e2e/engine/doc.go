// SPDX-License-Identifier: Apache-2.0

// Package engine runs container engines, as Debian packages them, for tests
// and measurements: dockerd with the containerd that it starts, containerd
// alone, skopeo and podman. All need root.
//
// Invariants: an engine keeps everything, sockets included, below one directory
// that the caller removes; what it mounts is seen by its own processes only and
// goes with them; a daemon ends with the process that started it; none reaches
// beyond loopback addresses, not even to the registries that it knows by name.
package engine
