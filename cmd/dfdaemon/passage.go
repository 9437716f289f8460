// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"dragonfly/peer"
	"dragonfly/source"
)

// passage is how a blob came through here the last time.
type passage struct {
	Digest string    `json:"digest"`
	URL    string    `json:"url"` // without userinfo and query values
	Via    string    `json:"via,omitempty"`
	Status int       `json:"status,omitempty"`
	Given  int64     `json:"given"` // bytes that the client got
	Time   time.Time `json:"time"`

	// Of the job, if the swarm was tried: where its bytes came from; none: this
	// host held them.
	Task       string `json:"task,omitempty"`
	FromSource int64  `json:"fromSource"`
	FromSeed   int64  `json:"fromSeed"`
	FromPeers  int64  `json:"fromPeers"`

	Why string `json:"why,omitempty"` // it did not come from the swarm
}

// passages remembers the newest of them, one for each digest.
type passages struct {
	mu     sync.Mutex // guards what recent holds
	recent *lru.Cache[string, *passage]
}

// passagesMax is how many are remembered: some hundred images.
const passagesMax = 2000

func newPassages() *passages {
	recent, err := lru.New[string, *passage](passagesMax)
	if err != nil {
		panic(err) // of a size below 1
	}
	return &passages{recent: recent}
}

var blobURL = regexp.MustCompile(`/blobs/(sha256:[0-9a-f]{64})$`)

// note changes the passage of the blob at a path, which may be none.
func (p *passages) note(path string, change func(*passage)) {
	found := blobURL.FindStringSubmatch(path)
	if found == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now, ok := p.recent.Get(found[1])
	if !ok {
		now = &passage{Digest: found[1]}
		p.recent.Add(found[1], now)
	}
	change(now)
}

// begin notes that the swarm is tried.
func (p *passages) begin(path, task string) {
	p.note(path, func(b *passage) {
		*b = passage{Digest: b.Digest, URL: b.URL, Task: task, Time: time.Now()}
	})
}

// fell notes why the swarm could not be used for a job that goes on by itself.
func (p *passages) fell(path string, reason int, err error) {
	why := map[int]string{
		peer.ReasonRegister: "no supernode took the task", peer.ReasonDownload: "the swarm was lost in the middle",
		peer.ReasonNoNodes: "there is no supernode to ask",
	}[reason%peer.ReasonNoSource]
	if err != nil {
		if why != "" {
			why += ": "
		}
		why += err.Error()
	}
	p.note(path, func(b *passage) { b.Why = shortened(why) })
}

// end notes the outcome of a job.
func (p *passages) end(path string, got peer.Progress, err error) {
	p.note(path, func(b *passage) {
		b.FromSource, b.FromSeed, b.FromPeers = got.FromSource, got.FromSeed, got.FromPeers
		switch {
		case err == nil && b.FromSource == 0:
			b.Why = "" // nobody was needed
		case err != nil && b.Why == "" && !errors.Is(err, context.Canceled): // who ended it knows why
			b.Why = shortened(err.Error())
		}
	})
}

// answered notes what a client was given.
func (p *passages) answered(r *http.Request, a *answer) {
	if r.Method != http.MethodGet || a.own {
		return
	}
	p.note(r.URL.Path, func(b *passage) {
		if via := a.via(r); via == "direct" || via == "proxy" {
			// A job that is younger than the request was for it.
			if b.Time.Before(a.began) {
				*b = passage{Digest: b.Digest, Why: reasonOf(r, via)}
			} else if b.Why == "" {
				b.Why = "the swarm had given no byte when the registry did"
			}
		}
		b.URL, b.Via, b.Status, b.Given, b.Time = source.Redact(r.URL.String()), a.via(r), a.status, a.n, time.Now()
	})
}

// reasonOf says what kept a request from the swarm, as far as it shows.
func reasonOf(r *http.Request, via string) string {
	switch {
	case via == "proxy":
		return "no rule of the proxy sends it to the swarm"
	case slices.ContainsFunc([]string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"}, func(name string) bool { return r.Header.Get(name) != "" }):
		return "the swarm was not tried: the request has conditions"
	case r.Header.Get("Range") != "":
		return "the swarm was not tried: the registry answers such ranges"
	}
	return "the swarm was not tried: registry_mirror.direct is set, or the registry wants a certificate of this host"
}

// whyMax bounds a reason in bytes.
const whyMax = 500

func shortened(text string) string { return text[:min(len(text), whyMax)] }

// ServeHTTP shows them, the newest first.
func (p *passages) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	all := []passage{}
	for _, b := range p.recent.Values() {
		all = append(all, *b)
	}
	p.mu.Unlock()
	slices.SortStableFunc(all, func(a, b passage) int { return b.Time.Compare(a.Time) })
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(all) // the client went away
}
