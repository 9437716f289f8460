// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"dragonfly/agent"
	"dragonfly/internal/logfile"
	"dragonfly/internal/machine"
	"dragonfly/internal/settings"
	"dragonfly/internal/version"
	"dragonfly/mirror"
	"dragonfly/peer"
	"dragonfly/proxy"
)

const (
	// shutdownTimeout bounds the wait for open answers at the end.
	shutdownTimeout = 10 * time.Second
	headerTimeout   = 10 * time.Second
	// idleTimeout must be longer than clients keep a connection, which is 90 s.
	idleTimeout = 2 * time.Minute
)

// wares are the files that the settings name, read and found right.
type wares struct {
	registry  *url.URL
	trust     proxy.Trust // for the registry
	hosts     []proxy.Host
	shown     *tls.Certificate // to clients of intercepted hosts; nil: none are
	own       *tls.Certificate // of dfdaemon itself; nil: it speaks plain HTTP
	passwords *proxy.Passwords // nil: nobody is asked
	notices   []string
}

// read reads what the settings name. Nothing is opened before that.
func (c *config) read(ctx context.Context) (w wares, err error) {
	if w.registry, err = c.remote(); err != nil {
		return w, err
	}
	if self(c.listens()).behind(ctx, w.registry) {
		return w, wrong(exitConfig, "registry_mirror.remote (--registry): %s is dfdaemon itself, which would ask itself for ever: name the registry that is to be mirrored", w.registry.Host)
	}
	w.trust.Insecure = c.Mirror.Insecure
	if w.trust.RootCAs, err = authorities("registry_mirror.certs", c.Mirror.Certs); err != nil {
		return w, err
	}
	if w.hosts, err = c.hosts(w.registry, w.trust); err != nil {
		return w, err
	}
	if w.shown, err = pair("hijack_https", c.Hijack.Cert, c.Hijack.Key); err != nil {
		return w, err
	}
	if w.own, err = pair("certpem and keypem (--certpem, --keypem)", c.CertPEM, c.KeyPEM); err != nil {
		return w, err
	}
	if w.passwords, err = c.passwords(); err != nil {
		return w, err
	}
	if w.shown == nil && len(c.Hijack.Hosts) > 0 {
		w.notices = append(w.notices, "hijack_https: no host is intercepted without cert and key: make them with gen-ca")
	}
	if w.shown != nil && len(c.Hijack.Hosts) == 0 {
		w.notices = append(w.notices, "hijack_https: cert and key are of no use without hosts: no host is intercepted")
	}
	if !c.listens().Addr().IsLoopback() && w.passwords == nil {
		w.notices = append(w.notices, "whoever reaches "+c.listens().String()+" can pull and use the proxy: listen on 127.0.0.1, or give --proxy-auth-file")
	}
	return w, nil
}

// start opens logs, host and listener and serves until ctx ends.
func (p program) start(ctx context.Context, c *config, args, notices []string) (err error) {
	if err := c.settle(p.lookup); err != nil {
		return err
	}
	w, err := c.read(ctx)
	if err != nil {
		return err
	}
	var options mirror.Options
	if err := c.trusts(&options, p.lookup); err != nil {
		return err
	}
	size := logfile.Options{MaxSize: int64(c.LogConfig.MaxSize) << 20, Backups: c.LogConfig.MaxBackups}
	own, err := logfile.Open(c.logFile(), size)
	if err != nil {
		return fmt.Errorf("%w; give --workHome a directory that may be written to", err)
	}
	defer own.Close()
	jobLog, err := logfile.Open(c.clientLog(), size)
	if err != nil {
		return fmt.Errorf("%w; give --workHome a directory that may be written to", err)
	}
	defer jobLog.Close()
	level := slog.LevelInfo
	if c.Verbose {
		level = slog.LevelDebug
	}
	log := logfile.New(io.MultiWriter(p.stderr, own), level, strconv.Itoa(os.Getpid()))
	ownProxies := self(c.listens()).ownProxies(ctx, p.lookup)
	if len(ownProxies) > 0 {
		w.notices = append(w.notices, "the proxy that the environment names is dfdaemon itself: it goes without it")
	}
	for _, n := range append(notices, w.notices...) {
		log.Warn(n)
	}
	l, err := listen(ctx, c.listens())
	if err != nil {
		return err
	}
	defer l.Close()
	host, err := agent.OpenHost(ctx, agent.HostOptions{
		Data: c.LocalRepo, Meta: c.meta(), IP: c.LocalIP, Port: c.PeerPort, Favourite: favouritePort, PortFlag: "--peerPort",
		Program: "dfdaemon", Build: agent.Build{Version: version.Get().Version, Protocol: agent.Protocol},
		Zone: c.Location.Zone, Rack: c.Location.Rack, Plain: c.Compress.Off, TotalLimit: c.RateLimit.Rate, Expire: c.ExpireTime, Quota: c.Quota,
		BootID: machine.BootID(), HostName: machine.Name(), Proxy: upstream(ownProxies), Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	options.Remote, options.Insecure, options.RootCAs = w.registry, w.trust.Insecure, w.trust.RootCAs
	recent := newPassages()
	options.Engine = recorded{mirror.EngineOf(host.Engine()), newJobs(c, host.Port(), jobLog), recent}
	options.Proxy, options.Log = upstream(ownProxies), log
	c.lends(&options, p.lookup, log)
	d, err := newDaemon(c, w, args, options, recent, host.Saved)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	log.Info("dfdaemon serves", "address", l.Addr().String(), "registry", w.registry.String(), "version", version.Get().Version)

	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return host.Run(ctx) })
	work.Go(func() error { return d.serve(ctx, l) })
	err = work.Wait()
	log.Info("dfdaemon is shut down")
	return err
}

// listen opens the port. An error says what to do.
func listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", at.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("the port %d is in use: end the dfdaemon that runs already, or give another one with --port: %w", at.Port(), err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("the port %d may not be opened by this user: give one above 1023 with --port: %w", at.Port(), err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("this host has no address %s: give one that it has with --hostIp: %w", at.Addr(), err)
	case err != nil:
		return nil, fmt.Errorf("the port %d cannot be opened: give another one with --port: %w", at.Port(), err)
	}
	return l, nil
}

// daemon is what answers at the port.
type daemon struct {
	server  *http.Server
	mirrors []*mirror.Mirror
	proxy   *proxy.Proxy
	health  *health
	own     *tls.Certificate
}

// newDaemon joins the parts; o is what the mirror is, saved counts for its
// metrics. The caller closes the daemon.
func newDaemon(c *config, w wares, args []string, o mirror.Options, recent *passages, saved func() int64) (_ *daemon, err error) {
	d := &daemon{own: w.own}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	open := func(e mirror.Engine) (*mirror.Mirror, error) {
		o := o
		o.Engine = e
		m, err := mirror.New(o)
		if err != nil {
			return nil, coded{exitConfig, err}
		}
		d.mirrors = append(d.mirrors, m)
		return m, nil
	}
	swarm, err := open(o.Engine)
	if err != nil {
		return nil, err
	}
	registry := swarm
	if c.Mirror.Direct { // the proxy's rules have a word of their own for this
		if registry, err = open(idle{}); err != nil {
			return nil, err
		}
	}
	nodes := &http.Transport{DisableKeepAlives: true}
	others := []check{registryAnswers(w.registry, swarm)}
	members, _ := settings.Members(c.Nodes)
	for _, m := range members {
		others = append(others, nodeAnswers(m, nodes))
	}
	d.health = newHealth([]check{answersItself(c.listens(), w.own != nil), holdsData(c.LocalRepo)}, others)
	t, trail := newTraffic(saved), proxy.NewTrail()
	wrap := func(h http.Handler) http.Handler { return t.count(trail.Handler(h), recent.answered) }
	d.proxy, err = proxy.New(proxy.Options{
		Rules: c.rules(), Swarm: anyURL{swarm}, Hosts: w.hosts, Certificate: w.shown, Wrap: wrap, Passwords: w.passwords,
		Self: self(c.listens()).leads, Upstream: o.Proxy, Observer: t, Log: o.Log,
	})
	if err != nil {
		return nil, coded{exitConfig, err}
	}
	pages, err := newPages(c, args, t, d.health, recent)
	if err != nil {
		return nil, err
	}
	d.server = &http.Server{Handler: wrap(front{pages, registry, d.proxy, w.passwords != nil}), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)}
	// A tunnel needs a connection of its own.
	d.server.Protocols = new(http.Protocols)
	d.server.Protocols.SetHTTP1(true)
	return d, nil
}

// anyURL is the mirror as the proxy takes it for what its rules send there.
type anyURL struct{ *mirror.Mirror }

func (m anyURL) ServeURL(w http.ResponseWriter, r *http.Request, trust proxy.Trust) {
	m.Mirror.ServeURL(w, r, trust.Insecure, trust.RootCAs)
}

// idle is an engine that never begins.
type idle struct{}

func (idle) Start(context.Context, peer.Job) (mirror.Download, error) {
	return nil, errors.New("registry_mirror.direct is set")
}

// serve answers until ctx ends or the listener fails, and tests itself.
func (d *daemon) serve(ctx context.Context, l net.Listener) error {
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		serve := d.server.Serve
		if d.own != nil {
			d.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*d.own}}
			serve = func(l net.Listener) error { return d.server.ServeTLS(l, "", "") }
		}
		if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
		return nil
	})
	work.Go(func() error { d.health.run(ctx); return nil })
	work.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if d.server.Shutdown(end) != nil { // not in time
			d.server.Close()
		}
		return nil
	})
	return work.Wait()
}

// close ends what serve left: tunnels and jobs.
func (d *daemon) close() error {
	var errs []error
	if d.proxy != nil {
		errs = append(errs, d.proxy.Close())
	}
	for _, m := range d.mirrors {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
