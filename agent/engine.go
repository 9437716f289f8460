// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"io"
	"os"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// Engine downloads and serves. EngineOf makes one of *peer.Engine.
type Engine interface {
	// Start begins a job and returns at once; an error is about the job
	// itself. Jobs for one task share one download.
	Start(ctx context.Context, job peer.Job) (Download, error)
	// Idle says since when nothing is downloaded or uploaded; false while
	// something is.
	Idle() (since time.Time, idle bool)
}

// Download is a started job; *peer.Download is one.
type Download interface {
	Progress() peer.Progress
	// Changed is closed when Progress changes next.
	Changed() <-chan struct{}
	// Wait returns the job's outcome, or ctx's if that ends before.
	Wait(ctx context.Context) error
	// File is a fresh read-only descriptor of the finished content.
	File() (*os.File, error)
	// Reader gives the verified bytes in order and as they come.
	Reader(ctx context.Context, span dragonfly.Span) (io.Reader, error)
	// Close ends the job and returns after its end.
	Close() error
}

var _ Download = (*peer.Download)(nil)

// EngineOf makes an Engine of the real one.
func EngineOf(e *peer.Engine) Engine { return engine{e} }

type engine struct{ e *peer.Engine }

func (e engine) Start(ctx context.Context, job peer.Job) (Download, error) {
	d, err := e.e.Start(ctx, job)
	if err != nil {
		return nil, err // not a Download that holds nil
	}
	return d, nil
}

func (e engine) Idle() (time.Time, bool) { return e.e.Idle() }
