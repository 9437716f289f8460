// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"io"

	"dragonfly"
	"dragonfly/peer"
)

// Engine downloads. EngineOf makes one of *peer.Engine.
type Engine interface {
	// Start begins a job and returns at once; an error is about the job
	// itself. Jobs for one task share one download. ctx ends the job.
	Start(ctx context.Context, job peer.Job) (Download, error)
}

// Download is a started job; *peer.Download is one. Its methods may be called
// from several goroutines.
type Download interface {
	// Progress tells the length of the content once bytes can be read.
	Progress() peer.Progress
	// Reader gives the bytes in order and as they come, and io.EOF only when
	// the job has succeeded; peer.ErrTakenBack says that what it gave was wrong.
	// One goroutine reads. A versioned one says of which version it reads.
	Reader(ctx context.Context, span dragonfly.Span) (io.Reader, error)
	// Wait returns the job's outcome, or ctx's if that ends before.
	Wait(ctx context.Context) error
	// Close ends the job and returns after its end. Readers fail then.
	Close() error
}

// versioned is a reader that knows which version of the content it reads.
type versioned interface{ Version() dragonfly.Version }

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
