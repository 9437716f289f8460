// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync"
	"time"

	"dragonfly"
	"dragonfly/agent"
	"dragonfly/mirror"
	"dragonfly/peer"
)

// recorded is an engine whose jobs are completed and recorded.
type recorded struct {
	engine mirror.Engine
	jobs   *jobs
}

func (e recorded) Start(ctx context.Context, job peer.Job) (mirror.Download, error) {
	record, began := e.jobs.prepare(&job), time.Now()
	d, err := e.engine.Start(ctx, job)
	if err != nil {
		record.End(agent.Result{Task: job.Request.TaskID(), Length: dragonfly.UnknownLength, Error: typed(err)}, &agent.Placed{})
		return nil, err
	}
	return &recording{Download: d, record: record, began: began}, nil
}

// recording ends the record with its download.
type recording struct {
	mirror.Download
	record *agent.Record
	began  time.Time
	once   sync.Once
}

func (r *recording) Close() error {
	err := r.Download.Close()
	r.once.Do(func() {
		p := r.Progress()
		r.record.End(agent.Result{Task: p.Task, Length: p.Length, Reason: p.Reason, Node: p.Node, Limited: p.Limited,
			FromSource: p.FromSource, FromSeed: p.FromSeed, FromPeers: p.FromPeers, Error: typed(r.Wait(context.Background()))},
			&agent.Placed{Cost: time.Since(r.began)}) // it has ended: Wait returns at once
	})
	return err
}

// typed is err as a record takes it.
func typed(err error) *dragonfly.Error {
	if err == nil {
		return nil
	}
	return &dragonfly.Error{Kind: dragonfly.KindOf(err), Message: err.Error()}
}
