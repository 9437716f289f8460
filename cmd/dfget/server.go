// SPDX-License-Identifier: Apache-2.0

package main

import (
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
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"dragonfly"
	"dragonfly/agent"
	"dragonfly/internal/logfile"
	"dragonfly/internal/machine"
	"dragonfly/internal/settings"
	"dragonfly/peer"
	"dragonfly/source"
	"dragonfly/store"
	"dragonfly/transfer"
	"dragonfly/wire"
)

const (
	// sweepEvery and residue are v1's times of cleaning (v1-protocol 7.3; FAQ:
	// clean up).
	sweepEvery = 15 * time.Second
	residue    = time.Hour
	// lockTime bounds the wait for an agent that is just ending.
	lockTime = 15 * time.Second
	// headerTime is how long a child may take to send its headers.
	headerTime = 10 * time.Second
	// childrenMax bounds the children that are served at once; the supernode gives
	// far fewer.
	childrenMax = 1000
)

// serverFlags are the flags of dfget that its server has too.
var serverFlags = []string{"home", "ip", "port", "expiretime", "alivetime", "totallimit", "zone", "rack", "verbose"}

// server is the long-lived process of an account.
type server struct {
	o          *options
	data, meta string
	std        surroundings
}

func newServer(std surroundings) *cobra.Command {
	o := presets()
	s := &server{o: &o, std: std}
	set := settings.Of(&o)
	path := std.settings
	c := &cobra.Command{
		Use:   "server",
		Short: "Keep and serve what was downloaded, and take jobs from dfget",
		Long: `dfget server is the background process of an account: it downloads for every
dfget, keeps what came, and serves it to other hosts. dfget starts it by itself;
start it beforehand to choose its port. It ends when nothing was downloaded or
served for --alivetime.`,
		Example: "  dfget server --port 20001",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			notices, err := set.Load(settings.Source{Path: path, MustExist: c.Flags().Changed(filePath), Prefix: "DFGET_", Lookup: std.lookup})
			for _, n := range notices {
				fmt.Fprintln(std.err, "dfget server:", n)
			}
			if err != nil {
				return err
			}
			return s.run(c.Context())
		},
	}
	set.AddFlags(c.Flags(), serverFlags...)
	f := c.Flags()
	f.StringVar(&path, filePath, path, "settings file, the same as dfget's")
	f.StringVar(&s.data, "data", "", "directory for contents (default HOME/data)")
	f.StringVar(&s.meta, "meta", "", "directory for what may be deleted at any time (default HOME/meta)")
	f.StringVar(&o.LogConfig.Path, "log-path", "", "log file of the downloads (default HOME/logs/dfclient.log)")
	f.IntVar(&o.LogConfig.MaxSize, "log-size", 0, "megabytes at which a log file is put aside (default 40)")
	f.IntVar(&o.LogConfig.MaxBackups, "log-backups", 0, "log files that were put aside and are kept (default 1)")
	return c
}

// serverLog is the log file of the agent itself.
func serverLog(home string) string { return filepath.Join(home, "logs", "dfserver.log") }

// run serves until ctx ends or nothing is to do any more.
func (s *server) run(ctx context.Context) (err error) {
	if s.o.WorkHome, err = homeOf(s.o.WorkHome); err != nil {
		return err
	}
	home := s.o.WorkHome
	if s.data == "" {
		s.data = filepath.Join(home, "data")
	}
	if s.meta == "" {
		s.meta = filepath.Join(home, "meta")
	}
	size := logfile.Options{MaxSize: int64(s.o.LogConfig.MaxSize) << 20, Backups: s.o.LogConfig.MaxBackups}
	jobLog, err := logfile.Open(s.o.clientLog(), size)
	if err != nil {
		return err
	}
	defer jobLog.Close()
	ownLog, err := logfile.Open(serverLog(home), size)
	if err != nil {
		return err
	}
	defer ownLog.Close()
	level := slog.LevelInfo
	if s.o.Verbose {
		level = slog.LevelDebug
	}
	log := logfile.New(ownLog, level, logfile.Sign(os.Getpid(), time.Now()))

	// v1's first lines (v1-protocol 9).
	log.Info("********************")
	log.Info("start peer server...")

	place, err := s.std.place(home)
	if err != nil {
		return err
	}
	if err := alone(ctx, place, home); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	lock, err := place.Own(wait.Done())
	if err != nil {
		return err
	}
	defer lock.Release()
	contents, err := openStore(s.data, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, contents.Close()) }()
	listener, err := s.listen(ctx)
	if err != nil {
		return err
	}
	defer listener.Close()
	return s.serve(ctx, place, contents, listener, log, jobLog)
}

// alone makes an older agent of the place go, and says that a newer one is
// there. One that is just ending is waited for later.
func alone(ctx context.Context, place agent.Place, home string) error {
	other, err := agent.Dial(ctx, place, build())
	switch {
	case errors.Is(err, agent.ErrGone):
		return nil
	case err != nil:
		return err
	case other.Older():
		if err := other.HandOver(); !errors.Is(err, agent.ErrGone) {
			return err
		}
		return nil
	}
	other.Close()
	return fmt.Errorf("a dfget server of the home %s runs already, as process %d: end it first, or give another home with --home", home, other.PID)
}

// openStore opens the data directory. One that another machine has, over a
// network file system, is left to it: this machine gets one of its own beside.
func openStore(dir string, log *slog.Logger) (*store.Store, error) {
	o := store.Options{Dir: dir, BootID: machine.BootID(), HostName: machine.Name(), Log: log}
	contents, err := store.Open(o)
	if locked, ok := errors.AsType[*store.LockedError](err); ok && locked.Host != "" && (locked.Host != o.HostName || locked.Boot != o.BootID) {
		o.Dir = dir + "-" + o.HostName
		log.Info("the data directory belongs to another host", "host", locked.Host, "instead", o.Dir)
		return store.Open(o)
	}
	return contents, err
}

// listen opens the data port: the one asked for, else v1's choice, which moves
// on every 5 minutes, else any (v1-protocol 7.3).
func (s *server) listen(ctx context.Context) (net.Listener, error) {
	try := func(port int) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(s.o.IP, strconv.Itoa(port)))
	}
	if s.o.Port > 0 {
		l, err := try(s.o.Port)
		if err != nil {
			return nil, fmt.Errorf("the data port %d cannot be opened: give another one with --port: %w", s.o.Port, err)
		}
		return l, nil
	}
	const choices = highestPort - lowestPort
	first := int(time.Now().Unix()/300) % choices
	for i := range 100 {
		port := lowestPort + (first+i)%choices
		if i >= 10 {
			port = lowestPort + mathrand.N(choices)
		}
		l, err := try(port)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
	}
	return nil, fmt.Errorf("no free data port from %d to %d: give one with --port", lowestPort, highestPort)
}

func (s *server) serve(ctx context.Context, place agent.Place, contents *store.Store, l net.Listener, log *slog.Logger, jobLog *logfile.File) error {
	port := l.Addr().(*net.TCPAddr).Port
	receive, send := peer.NewLimiter(s.o.TotalLimit), peer.NewLimiter(s.o.TotalLimit)
	id := make([]byte, 16)
	rand.Read(id) // never fails
	hello := dragonfly.Hello{Protocol: dragonfly.ProtocolNumber, Agent: hex.EncodeToString(id), Build: build().Version,
		Host:  dragonfly.Host{Name: machine.Name(), Zone: s.o.Location.Zone, Rack: s.o.Location.Rack},
		Addrs: addresses(s.o.IP, port)}
	parents := transfer.New(transfer.ClientOptions{})
	defer parents.Close()
	engine := peer.New(peer.Config{
		Store: contents, Parents: parents, Receive: receive, Log: log,
		Source: source.New(source.Options{UserAgent: "dfget/" + build().Version, Proxy: http.ProxyFromEnvironment}),
		Dial: func(m dragonfly.Member) dragonfly.Tracker {
			return wire.NewClient(m.Addr, wire.ClientOptions{Build: "dfget/" + build().Version})
		},
		Hello: func() dragonfly.Hello { return hello },
	})
	defer engine.Close()
	a, err := agent.Listen(agent.Options{
		Place: place, Build: build(), Engine: agent.EngineOf(engine), Alive: s.o.AliveTime, Expire: s.o.ExpireTime,
		IP: s.o.IP, Port: port, Home: s.o.WorkHome, Data: s.data, Meta: s.meta,
		Limit: func(r dragonfly.Rate) {
			peer.SetRate(receive, r)
			peer.SetRate(send, r)
		},
		Linked: func(task dragonfly.TaskID) { linked(contents, task, log) },
		Log:    log, JobLog: jobLog,
	})
	if err != nil {
		return err
	}
	if err := agent.WriteHostMeta(s.meta, port); err != nil {
		log.Warn("cannot tell the port in the meta directory", "err", err)
	}
	defer func() {
		if err := agent.WriteHostMeta(s.meta, 0); err != nil {
			log.Warn("cannot take the port out of the meta directory", "err", err)
		}
	}()
	mux := http.NewServeMux()
	mux.Handle(transfer.Pattern, &transfer.Server{Shelf: engine.Shelf(), Sessions: engine.Sessions, Limit: send, MaxStreams: childrenMax, Log: log})
	data := &http.Server{Handler: mux, ReadHeaderTimeout: headerTime, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}

	ip := l.Addr().(*net.TCPAddr).IP
	if ip.IsUnspecified() {
		ip = net.IPv4zero // "host:::, port" would be hard to read
	}
	log.Info("start peer server success, host:" + ip.String() + ", port:" + strconv.Itoa(port))
	log.Info("start server gc, expireTime:" + s.o.ExpireTime.String())

	work, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	work.Go(func() error {
		defer stop() // the rest ends with the agent
		return a.Serve(ctx)
	})
	work.Go(func() error {
		if err := data.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("the data port: %w", err)
		}
		return nil
	})
	work.Go(func() error {
		<-ctx.Done()
		return data.Close()
	})
	work.Go(func() error { sweep(ctx, engine, contents, s.o.ExpireTime, log); return nil })
	work.Go(func() error {
		if err := contents.Scrub(ctx); ctx.Err() == nil {
			return err
		}
		return nil // it goes on at the next start
	})

	if _, err := fmt.Fprintf(s.std.out, "%s%d\n", readyLine, port); err != nil {
		log.Debug("nobody reads the ready line", "err", err)
	}
	err = work.Wait()
	log.Info("peer server is shutdown.")
	return err
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

// linked tells the store of a hard link that dfget made.
func linked(contents *store.Store, task dragonfly.TaskID, log *slog.Logger) {
	c, ok := contents.Lookup(task)
	if !ok {
		return
	}
	defer c.Release()
	if err := c.Linked(); err != nil {
		log.Debug("the output's link is not known", "task", task, "err", err)
	}
}

// sweep lets go of contents that nobody used for a while, and of what dead
// processes left, until ctx ends.
func sweep(ctx context.Context, e *peer.Engine, contents *store.Store, expire time.Duration, log *slog.Logger) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		all := contents.Contents()
		e.Expire(func(task dragonfly.TaskID) bool {
			i, ok := slices.BinarySearchFunc(all, task, func(s store.Summary, t dragonfly.TaskID) int { return slices.Compare(s.Task[:], t[:]) })
			return ok && time.Since(all[i].Used) < expire
		})
		for _, task := range contents.Sweep(store.Policy{Idle: expire, Residue: residue}) {
			log.Info("gc: removed a content that nobody used", "task", task)
		}
	}
}
