// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"dragonfly"
	"dragonfly/internal/machine"
	"dragonfly/internal/version"
	"dragonfly/peer"
	"dragonfly/record"
	"dragonfly/sched"
	"dragonfly/source"
	"dragonfly/store"
	"dragonfly/supernode"
	"dragonfly/transfer"
)

// residue is how long files that belong to no content may lie in the store.
const residue = time.Hour

// node is a supernode and its seed in one process.
type node struct {
	cfg    base
	self   dragonfly.Member
	store  *store.Store
	engine *peer.Engine
	record *os.File // nil: nothing is recorded
	sn     *supernode.Supernode
	log    *slog.Logger
}

// build makes the supernode that the settings describe, and opens its seed's
// session. What it opens is closed at the end of the service's background.
func build(b base, log *slog.Logger) (service, error) {
	ip := b.AdvertiseIP
	if ip == "" {
		var err error
		if ip, err = firstIPv4(); err != nil {
			return service{}, err
		}
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return service{}, err // was checked
	}
	control := net.JoinHostPort(ip, strconv.Itoa(b.ListenPort))
	n := &node{cfg: b, self: dragonfly.Member{ID: control, Addr: control, Weight: 1}, log: log}
	n.store, err = store.Open(store.Options{Dir: filepath.Join(b.HomeDir, "repo", "download"),
		BootID: machine.BootID(), HostName: machine.Name(), Log: log})
	if err != nil {
		return service{}, err
	}

	var recording *supernode.Recording
	if b.Record != "" {
		file, left, err := record.Open(b.Record, int64(b.RecordLimit))
		if err != nil {
			return service{}, errors.Join(err, n.store.Close())
		}
		n.record = file
		recording = &supernode.Recording{Out: file, Limit: left, Build: version.Get().Version}
	}

	agent := make([]byte, 16)
	rand.Read(agent) // never fails
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	n.engine = peer.New(peer.Config{
		Store: n.store,
		Source: source.New(source.Options{Guard: true, Allow: b.SourceAllow, Deny: b.SourceDeny,
			UserAgent: "dragonfly/" + version.Get().Version, Proxy: http.ProxyFromEnvironment}),
		Parents: transfer.New(transfer.ClientOptions{Plain: b.Compress.Off}),
		Dial:    func(dragonfly.Member) dragonfly.Tracker { return n.sn.SeedTracker() },
		Hello: func() dragonfly.Hello {
			return dragonfly.Hello{Protocol: dragonfly.ProtocolNumber, Agent: hex.EncodeToString(agent), Build: version.Get().Version,
				Host:  dragonfly.Host{Name: machine.Name(), Zone: b.Location.Zone, Rack: b.Location.Rack},
				Addrs: []netip.AddrPort{netip.AddrPortFrom(addr, uint16(cmp.Or(b.AdvertiseDataPort, b.DownloadPort)))}}
		},
		Receive: peer.NewLimiter(b.limit()),
		Log:     log,
	})
	seed := n.engine.Seed(n.self)
	n.sn = supernode.New(supernode.Config{
		Self: n.self,
		Sched: sched.Config{Down: b.PeerDownLimit, Up: b.PeerUpLimit, Elimination: b.EliminationLimit, Failures: b.FailureCountLimit,
			Kept: b.PeerGCDelay},
		FailAccess: b.FailAccessInterval, TaskExpire: b.TaskExpireTime,
		PeerCIDR: b.PeerCIDR, Record: recording, Log: log, Metrics: reg,
	}, seed)
	data := &transfer.Server{Shelf: n.engine.Shelf(), Sessions: n.engine.Sessions, Limit: peer.NewLimiter(b.limit()),
		Plain: b.Compress.Off, Log: log, Observe: n.sn.SeedSent}

	if err := seed.Open(context.Background()); err != nil {
		return service{}, errors.Join(fmt.Errorf("open the seed's session: %w", err), n.engine.Close(), n.store.Close())
	}
	admin := http.NewServeMux()
	admin.Handle("/p2p/v1/state/", n.sn.Admin())
	admin.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	dataMux := http.NewServeMux()
	dataMux.Handle(transfer.Pattern, data)
	return service{
		tracker: n.sn, data: dataMux, admin: admin, background: []func(context.Context) error{n.run},
		metrics: newRequests(reg), profiler: b.EnableProfiler || b.Debug, log: log,
	}, nil
}

// run works until ctx ends and then closes everything, the store last.
func (n *node) run(ctx context.Context) (err error) {
	defer func() {
		if n.record != nil {
			err = errors.Join(err, n.record.Close())
		}
		err = errors.Join(err, n.store.Close())
	}()
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return n.engine.Run(ctx) })
	work.Go(func() error { return n.sn.Run(ctx) })
	work.Go(func() error { return n.store.Scrub(ctx) })
	work.Go(func() error { n.sweep(ctx); return nil })
	return work.Wait()
}

// sweep keeps the disk from filling up.
func (n *node) sweep(ctx context.Context) {
	timer := time.NewTimer(n.cfg.GCInitialDelay)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		removed := n.store.Sweep(store.Policy{Residue: residue, Young: n.cfg.YoungGCThreshold, Full: n.cfg.FullGCThreshold, Regular: n.cfg.IntervalThreshold})
		if len(removed) > 0 {
			n.log.Info("removed contents from the disk", "contents", len(removed))
			n.sn.Swept(len(removed))
		}
		timer.Reset(n.cfg.GCDiskInterval)
	}
}

// buildInfo is v1's metric of the build (v1-protocol 13).
func buildInfo() prometheus.Collector {
	i := version.Get()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "dragonfly_supernode_build_info", Help: "The build, always 1.",
		ConstLabels: prometheus.Labels{"version": i.Version, "revision": i.Revision, "os": i.OS, "arch": i.Arch, "goversion": i.GoVersion}})
	g.Set(1)
	return g
}
