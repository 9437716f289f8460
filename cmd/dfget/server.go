// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"dragonfly/agent"
	"dragonfly/internal/logfile"
	"dragonfly/internal/machine"
	"dragonfly/internal/settings"
)

// lockTime bounds the wait for an agent that is just ending.
const lockTime = 15 * time.Second

// serverFlags are the flags of dfget that its server has too.
var serverFlags = []string{"home", "ip", "port", "expiretime", "alivetime", "totallimit", "compress", "zone", "rack", "verbose"}

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
	host, err := agent.OpenHost(ctx, agent.HostOptions{
		Data: s.data, Meta: s.meta, IP: s.o.IP, Port: s.o.Port, Program: "dfget", Build: build(),
		Zone: s.o.Location.Zone, Rack: s.o.Location.Rack, Plain: s.o.Compress.Off, TotalLimit: s.o.TotalLimit, Expire: s.o.ExpireTime,
		BootID: machine.BootID(), HostName: machine.Name(), Proxy: http.ProxyFromEnvironment, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	return s.serve(ctx, place, host, log, jobLog)
}

// serve takes jobs for the host until ctx ends or the agent retires.
func (s *server) serve(ctx context.Context, place agent.Place, host *agent.Host, log *slog.Logger, jobLog *logfile.File) error {
	a, err := agent.Listen(agent.Options{
		Place: place, Build: build(), Engine: agent.EngineOf(host.Engine()), Alive: s.o.AliveTime, Expire: s.o.ExpireTime,
		IP: s.o.IP, Port: host.Port(), Home: s.o.WorkHome, Data: s.data, Meta: s.meta,
		Limit: host.SetLimit, Linked: host.Linked, Log: log, JobLog: jobLog,
	})
	if err != nil {
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	work.Go(func() error {
		defer stop() // the rest ends with the agent
		return a.Serve(ctx)
	})
	work.Go(func() error { return host.Run(ctx) })
	if _, err := fmt.Fprintf(s.std.out, "%s%d\n", readyLine, host.Port()); err != nil {
		log.Debug("nobody reads the ready line", "err", err)
	}
	err = work.Wait()
	log.Info("peer server is shutdown.")
	return err
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
