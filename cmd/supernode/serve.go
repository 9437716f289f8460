// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"dragonfly"
	"dragonfly/internal/version"
	"dragonfly/transfer"
	"dragonfly/wire"
)

const (
	// shutdownTimeout bounds the wait for answers and streams at the end.
	shutdownTimeout = 10 * time.Second
	// headerTimeout is how long a client may take to send its headers.
	headerTimeout = 10 * time.Second
	// idleTimeout must be longer than clients keep a connection, which is
	// 90 s, so that they do not send into one that is being closed.
	idleTimeout = 2 * time.Minute
	headerMax   = 64 << 10
)

// service is a supernode on its two ports.
type service struct {
	tracker dragonfly.Tracker
	data    http.Handler // everything on the data port
	admin   http.Handler // the state below /p2p/v1/state/, and /metrics
	// background runs beside the servers until they have ended; an end before
	// that ends the service.
	background []func(context.Context) error
	// healthy says why the supernode cannot do its work; nil: it can.
	healthy  func() error
	metrics  *requests // of the control port; nil: not counted
	profiler bool
	log      *slog.Logger
}

// run serves both ports until ctx ends or something fails, then lets open
// requests end, for at most shutdownTimeout, and closes the listeners.
func (s service) run(ctx context.Context, control, data net.Listener) error {
	api := wire.NewServer(s.tracker, wire.ServerOptions{Log: s.log})
	controlServer, dataServer := s.server(s.control(ctx, api)), s.server(s.data)
	controlServer.RegisterOnShutdown(api.Close)

	work, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var serving sync.WaitGroup
	for server, l := range map[*http.Server]net.Listener{controlServer: control, dataServer: data} {
		serving.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				stop(fmt.Errorf("serve %s: %w", l.Addr(), err))
			}
		})
	}
	// What runs in the background outlives the servers, which need it for
	// their last answers.
	backgroundCtx, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	var background sync.WaitGroup
	for _, f := range s.background {
		background.Go(func() {
			err := f(backgroundCtx)
			switch {
			case backgroundCtx.Err() == nil && err == nil:
				stop(errors.New("a part of the supernode ended by itself"))
			case backgroundCtx.Err() == nil:
				stop(err)
			case err != nil && !errors.Is(err, context.Canceled):
				s.log.Error("a part of the supernode did not end well", "error", err)
			}
		})
	}
	s.log.Info("supernode serves", "control", control.Addr().String(), "data", data.Addr().String(), "version", version.Get().Version)

	<-work.Done()
	s.log.Info("supernode is shutting down")
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	var ending sync.WaitGroup
	for _, server := range []*http.Server{controlServer, dataServer} {
		ending.Go(func() {
			if server.Shutdown(end) != nil { // not in time
				server.Close()
			}
		})
	}
	ending.Wait()
	serving.Wait()
	stopBackground()
	background.Wait()
	if ctx.Err() != nil {
		return nil // it was told to end
	}
	return context.Cause(work)
}

func (s service) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ConnContext:       transfer.ConnContext,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerMax,
		// Broken connections of others are nothing to worry about.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// control is what the control port answers; ctx ends when shutting down.
func (s service) control(ctx context.Context, api http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/p2p/v1/", api)
	mux.Handle("/p2p/v1/state/", s.admin)
	mux.Handle("GET /metrics", s.admin)
	mux.HandleFunc("GET /_ping", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "OK") })
	mux.HandleFunc("GET /healthy", func(w http.ResponseWriter, _ *http.Request) {
		if ctx.Err() != nil {
			say(w, http.StatusServiceUnavailable, "shutting down\n")
			return
		}
		if s.healthy != nil {
			if err := s.healthy(); err != nil {
				say(w, http.StatusServiceUnavailable, err.Error()+"\n")
				return
			}
		}
		say(w, http.StatusOK, "OK\n")
	})
	mux.Handle("GET /version", version.Get())
	if s.profiler {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	if s.metrics != nil {
		return s.metrics.count(mux)
	}
	return mux
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client went away
}
