// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"dragonfly"
	"dragonfly/peer"
	"dragonfly/source"
	"dragonfly/store"
	"dragonfly/transfer"
	"dragonfly/wire"
)

// LowestPort and HighestPort bound the data ports of peers (v1-protocol 1).
const LowestPort, HighestPort = 15000, 65000

const (
	// sweepEvery and residue are v1's times of cleaning (v1-protocol 7.3; FAQ:
	// clean up).
	sweepEvery = 15 * time.Second
	residue    = time.Hour
	// headerTime is how long a child may take to send its headers.
	headerTime = 10 * time.Second
	// childrenMax bounds the children that are served at once; the supernode gives
	// far fewer.
	childrenMax = 1000
)

// HostOptions say what a Host is. Data, Meta and Log are required.
type HostOptions struct {
	// Data is the directory of contents, Meta that of what may be deleted at any
	// time.
	Data, Meta string
	// IP is what the data port listens on and is announced as; "": all
	// addresses, announced as what the supernodes see.
	IP string
	// Port is the data port; 0: a free one. Favourite is tried first then.
	// PortFlag is where users choose it, for errors.
	Port, Favourite int
	PortFlag        string
	// Program and Build are the User-Agent of this process.
	Program string
	Build   Build
	// Zone and Rack are where the host stands.
	Zone, Rack string
	// TotalLimit is the limit of all receiving and, separately, of all sending.
	TotalLimit dragonfly.Rate
	// Plain neither sends data compressed nor asks for it so.
	Plain bool
	// Expire is how long a content stays that nobody uses, Quota how much of
	// the disk all may take; 0: all of it.
	Expire time.Duration
	Quota  dragonfly.Size
	// BootID and HostName tell this machine from others that share Data.
	BootID, HostName string
	// Proxy chooses the proxy on the way to a source; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	Log   *slog.Logger
}

// Host is what every long-lived process of a host has in common: store,
// engine, data port and limits. Open one, run it, close it.
type Host struct {
	o             HostOptions
	contents      *store.Store
	listener      net.Listener
	parents       *transfer.Client
	engine        *peer.Engine
	receive, send *rate.Limiter
	data          *http.Server
	port          int
	saved         atomic.Int64
}

// OpenHost opens store and data port and tells the port in Meta. Children may
// connect from now on; they are served by Run. The caller closes the host.
func OpenHost(ctx context.Context, o HostOptions) (_ *Host, err error) {
	h := &Host{o: o, receive: peer.NewLimiter(o.TotalLimit), send: peer.NewLimiter(o.TotalLimit)}
	if h.contents, err = openStore(o); err != nil {
		return nil, err
	}
	if h.listener, err = o.listen(ctx); err != nil {
		return nil, errors.Join(err, h.contents.Close())
	}
	h.port = h.listener.Addr().(*net.TCPAddr).Port
	id := make([]byte, 16)
	rand.Read(id) // never fails
	hello := dragonfly.Hello{Protocol: dragonfly.ProtocolNumber, Agent: hex.EncodeToString(id), Build: o.Build.Version,
		Host:  dragonfly.Host{Name: o.HostName, Zone: o.Zone, Rack: o.Rack},
		Addrs: addresses(o.IP, h.port)}
	name := o.Program + "/" + o.Build.Version
	h.parents = transfer.New(transfer.ClientOptions{Plain: o.Plain})
	h.engine = peer.New(peer.Config{
		Store: h.contents, Parents: h.parents, Receive: h.receive, Log: o.Log,
		Source: source.New(source.Options{UserAgent: name, Proxy: o.Proxy}),
		Dial: func(m dragonfly.Member) dragonfly.Tracker {
			return wire.NewClient(m.Addr, wire.ClientOptions{Build: name})
		},
		Hello: func() dragonfly.Hello { return hello },
	})
	mux := http.NewServeMux()
	mux.Handle(transfer.Pattern, &transfer.Server{Shelf: h.engine.Shelf(), Sessions: h.engine.Sessions, Limit: h.send, Plain: o.Plain, MaxStreams: childrenMax, Log: o.Log,
		Observe: func(sent transfer.Sent) { h.saved.Add(max(0, sent.Saved)) }})
	h.data = &http.Server{Handler: mux, ConnContext: transfer.ConnContext, ReadHeaderTimeout: headerTime, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)}
	if err := writeHostMeta(o.Meta, h.port); err != nil {
		o.Log.Warn("cannot tell the port in the meta directory", "err", err)
	}
	ip := h.listener.Addr().(*net.TCPAddr).IP
	if ip.IsUnspecified() {
		ip = net.IPv4zero // "host:::, port" would be hard to read
	}
	h.o.Log.Info("start peer server success, host:" + ip.String() + ", port:" + strconv.Itoa(h.port))
	return h, nil
}

// Engine downloads and serves as long as the host is open.
func (h *Host) Engine() *peer.Engine { return h.engine }

// Port is the data port.
func (h *Host) Port() int { return h.port }

// Saved is how many bytes were not sent to other hosts since they were compressed.
func (h *Host) Saved() int64 { return h.saved.Load() }

// SetLimit changes the limit of all receiving and, separately, of all sending.
func (h *Host) SetLimit(r dragonfly.Rate) {
	peer.SetRate(h.receive, r)
	peer.SetRate(h.send, r)
}

// Linked tells the store of a hard link that somebody made of a task's content.
func (h *Host) Linked(task dragonfly.TaskID) {
	c, ok := h.contents.Lookup(task)
	if !ok {
		return
	}
	defer c.Release()
	if err := c.Linked(); err != nil {
		h.o.Log.Debug("the output's link is not known", "task", task, "err", err)
	}
}

// Run serves children and looks after the store until ctx ends or the data port
// fails. It is called once.
func (h *Host) Run(ctx context.Context) error {
	h.o.Log.Info("start server gc, expireTime:" + h.o.Expire.String())
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		if err := h.data.Serve(h.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("the data port: %w", err)
		}
		return nil
	})
	work.Go(func() error {
		<-ctx.Done()
		return h.data.Close()
	})
	work.Go(func() error { h.sweep(ctx); return nil })
	work.Go(func() error {
		if err := h.contents.Scrub(ctx); ctx.Err() == nil {
			return err
		}
		return nil // it goes on at the next start
	})
	return work.Wait()
}

// Close leaves all swarms and closes what OpenHost opened. Run has returned
// before, or was never called. What was verified stays.
func (h *Host) Close() error {
	if err := writeHostMeta(h.o.Meta, 0); err != nil {
		h.o.Log.Warn("cannot take the port out of the meta directory", "err", err)
	}
	h.engine.Close()
	h.parents.Close()
	h.listener.Close()
	return h.contents.Close()
}

// openStore opens the data directory. One that another machine has, over a
// network file system, is left to it: this machine gets one of its own beside.
func openStore(h HostOptions) (*store.Store, error) {
	o := store.Options{Dir: h.Data, BootID: h.BootID, HostName: h.HostName, Quota: h.Quota, Log: h.Log}
	contents, err := store.Open(o)
	if locked, ok := errors.AsType[*store.LockedError](err); ok && locked.Host != "" && (locked.Host != o.HostName || locked.Boot != o.BootID) {
		o.Dir += "-" + o.HostName
		h.Log.Info("the data directory belongs to another host", "host", locked.Host, "instead", o.Dir)
		return store.Open(o)
	}
	return contents, err
}

// listen opens the data port: the one asked for, else the favourite, else v1's
// choice, which moves on every 5 minutes, else any (v1-protocol 7.3).
func (o HostOptions) listen(ctx context.Context) (net.Listener, error) {
	try := func(port int) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(o.IP, strconv.Itoa(port)))
	}
	remedy := "give another one with " + cmp.Or(o.PortFlag, "--port")
	if o.Port > 0 {
		l, err := try(o.Port)
		if err != nil {
			return nil, fmt.Errorf("the data port %d cannot be opened: %s: %w", o.Port, remedy, err)
		}
		return l, nil
	}
	if o.Favourite > 0 {
		if l, err := try(o.Favourite); !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
	}
	const choices = HighestPort - LowestPort
	first := int(time.Now().Unix()/300) % choices
	for i := range 100 {
		port := LowestPort + (first+i)%choices
		if i >= 10 {
			port = LowestPort + mathrand.N(choices)
		}
		l, err := try(port)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
	}
	return nil, fmt.Errorf("no free data port from %d to %d: %s", LowestPort, HighestPort, remedy)
}

// addresses are where other hosts reach the data port: the one that was named,
// else the one that the supernode sees, for which the unspecified address
// stands, and the one of the default route. A supernode on this host sees only
// a loopback address, and one behind a router only the router's.
func addresses(ip string, port int) []netip.AddrPort {
	if addr, err := netip.ParseAddr(ip); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(addr, uint16(port))}
	}
	addrs := []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port))}
	// Nothing is sent to this address, which is for documentation.
	if c, err := net.Dial("udp", "192.0.2.1:9"); err == nil {
		defer c.Close()
		if local, ok := c.LocalAddr().(*net.UDPAddr); ok {
			addrs = append(addrs, netip.AddrPortFrom(local.AddrPort().Addr().Unmap(), uint16(port)))
		}
	}
	return addrs
}

// sweep lets go of contents that nobody used for a while, and of what dead
// processes left, until ctx ends.
func (h *Host) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		all := h.contents.Contents()
		h.engine.Expire(func(task dragonfly.TaskID) bool {
			i, ok := slices.BinarySearchFunc(all, task, func(s store.Summary, t dragonfly.TaskID) int { return slices.Compare(s.Task[:], t[:]) })
			return ok && time.Since(all[i].Used) < h.o.Expire
		})
		for _, task := range h.contents.Sweep(store.Policy{Idle: h.o.Expire, Residue: residue}) {
			h.o.Log.Info("gc: removed a content that nobody used", "task", task)
		}
	}
}
