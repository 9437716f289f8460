// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/url"
	"sync"
	"time"

	"dragonfly"
	"dragonfly/agent"
	"dragonfly/mirror"
	"dragonfly/peer"
)

// recorded is an engine whose jobs are completed and recorded.
type recorded struct {
	engine   mirror.Engine
	jobs     *jobs
	passages *passages
}

func (e recorded) Start(ctx context.Context, job peer.Job) (mirror.Download, error) {
	record, began, path := e.jobs.prepare(&job), time.Now(), pathOf(job.Request.URL)
	job.Observe = observer{record, e.passages, path}
	e.passages.begin(path, job.Request.TaskID().String())
	d, err := e.engine.Start(ctx, job)
	if err != nil {
		e.passages.end(path, peer.Progress{}, err)
		record.End(agent.Result{Task: job.Request.TaskID(), Length: dragonfly.UnknownLength, Error: typed(err)}, &agent.Placed{})
		return nil, err
	}
	return &recording{Download: d, record: record, began: began, passages: e.passages, path: path}, nil
}

// pathOf is the path of a URL; empty if it is none.
func pathOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Path
}

// observer is a record that also notes why a job left the swarm.
type observer struct {
	*agent.Record
	passages *passages
	path     string
}

func (o observer) Fallback(reason int, err error) {
	o.passages.fell(o.path, reason, err)
	o.Record.Fallback(reason, err)
}

// recording ends the record with its download.
type recording struct {
	mirror.Download
	record   *agent.Record
	began    time.Time
	passages *passages
	path     string
	once     sync.Once
}

func (r *recording) Close() error {
	err := r.Download.Close()
	r.once.Do(func() {
		p, outcome := r.Progress(), r.Wait(context.Background()) // it has ended: Wait returns at once
		r.passages.end(r.path, p, outcome)
		r.record.End(agent.Result{Task: p.Task, Length: p.Length, Reason: p.Reason, Node: p.Node, Limited: p.Limited,
			FromSource: p.FromSource, FromSeed: p.FromSeed, FromPeers: p.FromPeers, Error: typed(outcome)},
			&agent.Placed{Cost: time.Since(r.began)})
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
