// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"dragonfly/agent"
	"dragonfly/internal/logfile"
	"dragonfly/internal/machine"
	"dragonfly/internal/settings"
	"dragonfly/internal/version"
	"dragonfly/mirror"
)

const (
	// shutdownTimeout bounds the wait for open answers at the end.
	shutdownTimeout = 10 * time.Second
	headerTimeout   = 10 * time.Second
	// idleTimeout must be longer than clients keep a connection, which is 90 s.
	idleTimeout = 2 * time.Minute
)

// start opens logs, host and listener and serves until ctx ends.
func (p program) start(ctx context.Context, c *config, args, notices []string) (err error) {
	if err := c.settle(p.lookup); err != nil {
		return err
	}
	remote, err := c.remote()
	if err != nil {
		return err
	}
	roots, err := c.roots()
	if err != nil {
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
		return err
	}
	defer jobLog.Close()
	level := slog.LevelInfo
	if c.Verbose {
		level = slog.LevelDebug
	}
	log := logfile.New(io.MultiWriter(p.stderr, own), level, strconv.Itoa(os.Getpid()))
	for _, n := range notices {
		log.Warn(n)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(c.HostIP, strconv.Itoa(c.Port)))
	if err != nil {
		return fmt.Errorf("the port %d cannot be opened: give another one with --port: %w", c.Port, err)
	}
	defer l.Close()
	if addr, err := netip.ParseAddr(c.HostIP); err == nil && !addr.IsLoopback() {
		log.Warn("whoever reaches this address can pull through it: listen on 127.0.0.1 unless other hosts shall", "address", l.Addr().String())
	}
	host, err := agent.OpenHost(ctx, agent.HostOptions{
		Data: c.LocalRepo, Meta: c.meta(), IP: c.LocalIP, Port: c.PeerPort, Favourite: favouritePort, PortFlag: "--peerPort",
		Program: "dfdaemon", Build: agent.Build{Version: version.Get().Version, Protocol: agent.Protocol},
		Zone: c.Location.Zone, Rack: c.Location.Rack, TotalLimit: c.RateLimit.Rate, Expire: c.ExpireTime, Quota: c.Quota,
		BootID: machine.BootID(), HostName: machine.Name(), Proxy: http.ProxyFromEnvironment, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	options := mirror.Options{Remote: remote, Insecure: c.Mirror.Insecure, RootCAs: roots,
		Engine: recorded{mirror.EngineOf(host.Engine()), newJobs(c, host.Port(), jobLog)}, Proxy: http.ProxyFromEnvironment, Log: log}
	c.lends(&options, p.lookup, log)
	registry, err := mirror.New(options)
	if err != nil {
		return coded{exitConfig, err}
	}
	defer func() { err = errors.Join(err, registry.Close()) }()
	pages, err := newPages(c, args)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: dispatch(pages, registry), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	log.Info("dfdaemon serves", "address", l.Addr().String(), "registry", remote.String(), "version", version.Get().Version)

	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return host.Run(ctx) })
	work.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
		return nil
	})
	work.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(end) != nil { // not in time
			server.Close()
		}
		return nil
	})
	err = work.Wait()
	log.Info("dfdaemon is shut down")
	return err
}

// dispatch gives each request to the part that answers it. There is no
// ServeMux: it would answer names that registries allow with a redirect.
func dispatch(pages map[string]http.Handler, registry http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect || r.URL.IsAbs() {
			http.Error(w, "dfdaemon is no HTTP proxy in this build yet: take it as a registry mirror", http.StatusNotImplemented)
			return
		}
		if page, ok := pages[r.URL.Path]; ok {
			page.ServeHTTP(w, r)
			return
		}
		registry.ServeHTTP(w, r)
	})
}

// newPages are dfdaemon's own endpoints (v1-protocol 10).
func newPages(c *config, args []string) (map[string]http.Handler, error) {
	env, err := environment(c)
	if err != nil {
		return nil, err
	}
	line := strings.Join(agent.RedactArgs(args), " ")
	reg := prometheus.NewRegistry()
	i := version.Get()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "dragonfly_dfdaemon_build_info", Help: "The build, always 1.",
		ConstLabels: prometheus.Labels{"version": i.Version, "revision": i.Revision, "os": i.OS, "arch": i.Arch, "goversion": i.GoVersion}})
	build.Set(1)
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build)
	return map[string]http.Handler{
		"/args":          page("text/plain; charset=utf-8", line),
		"/env":           page("application/json", env),
		"/healthy":       page("text/plain; charset=utf-8", "OK\n"),
		"/debug/version": i,
		"/metrics":       promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
	}, nil
}

func page(contentType, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, text) // the client went away
	})
}

// environment is all settings as JSON, keys in lower case, without secrets.
func environment(c *config) (string, error) {
	var file bytes.Buffer
	if err := settings.Of(c).YAML(&file); err != nil {
		return "", err
	}
	var all map[string]any
	if err := yaml.Unmarshal(file.Bytes(), &all); err != nil {
		return "", err
	}
	text, err := json.Marshal(shown(all))
	return string(text) + "\n", err
}

func shown(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, item := range v {
			out[strings.ToLower(key)] = shown(item)
		}
		return out
	case []any:
		for i := range v {
			v[i] = shown(v[i])
		}
	case string:
		return agent.RedactURL(v)
	}
	return v
}
