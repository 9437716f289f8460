// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Host is a network namespace with an address. Its methods may be called by
// many goroutines.
type Host struct {
	Name string
	IP   netip.Addr
}

// names is where ip keeps namespaces by name.
const names = "/run/netns"

// Do calls f on a thread that is in the host's network: what f itself connects,
// listens on or starts is there, what goroutines of f do is not.
func (h *Host) Do(f func() error) error {
	there, err := os.Open(filepath.Join(names, h.Name))
	if err != nil {
		return err
	}
	defer there.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		here, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer here.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter the network of %s: %w; run as root", h.Name, err)
			return
		}
		err = f()
		// A thread that does not find back ends with this goroutine.
		if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Listen listens at a port of the host's address.
func (h *Host) Listen(port uint16) (l net.Listener, err error) {
	err = h.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(h.IP, port).String())
		return err
	})
	return l, err
}

// Dial connects from the host to the numbers of an address.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}
