// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"sync"
	"time"

	"dragonfly"
	"dragonfly/agent"
	"dragonfly/internal/logfile"
	"dragonfly/internal/settings"
	"dragonfly/peer"
)

// jobs makes a job of each request for a blob and records it in dfclient.log.
type jobs struct {
	journal agent.Journal
	nodes   []dragonfly.Member
	preset  bool
	verbose bool

	mu   sync.Mutex // guards last
	last time.Time  // of the newest sign
}

func newJobs(c *config, port int, log io.Writer) *jobs {
	j := &jobs{verbose: c.Verbose, journal: agent.Journal{Log: log, IP: c.LocalIP, Port: port, Data: c.LocalRepo, Meta: c.meta(), Expire: c.ExpireTime}}
	j.nodes, j.preset = settings.Members(c.Nodes)
	return j
}

// sign is a name that no other job of this process has: it counts in
// milliseconds, so that two jobs of one moment get two of them.
func (j *jobs) sign() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now().Truncate(time.Millisecond)
	if !now.After(j.last) {
		now = j.last.Add(time.Millisecond)
	}
	j.last = now
	return logfile.Sign(os.Getpid(), now)
}

// prepare completes a job for a blob and begins its record, which the caller
// ends with the job.
func (j *jobs) prepare(job *peer.Job) *agent.Record {
	r := j.journal.Record(agent.Job{
		Sign: j.sign(), Request: job.Request, Pattern: peer.PatternP2P, Nodes: j.nodes, Preset: j.preset, Stream: true, Verbose: j.verbose, Target: "-",
	}, nil)
	job.ID, job.Pattern, job.Nodes, job.Guess, job.Observe = r.ID(), peer.PatternP2P, j.nodes, j.preset, r
	r.Begin()
	return r
}
