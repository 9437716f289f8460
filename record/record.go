// SPDX-License-Identifier: Apache-2.0

// Package record keeps what happened to a scheduler, so that it can be run
// again: its Config, every event with its instant, and a hash of the actions
// that came of it.
//
// A record is lines of JSON, each an object with one key:
//
//	{"run":{"format":1,"build":"…","began":"…","config":{…}}}   a supernode starts: a new machine
//	{"task":{"n":1,"id":"…","version":"…","url":"…"}}           what a number of the events stands for
//	{"peer":{"n":2,"host":"…"}}
//	{"e":{"t":12345,"k":"wanted","h":987,"p":2,"q":1,…}}        an event, at so many nanoseconds, and its hash
//	{"end":{"events":1024,"why":"…"}}                           nothing of this run follows
//
// Invariants: what is recorded is all that the machine was given, in order, up to
// the end; a writer never blocks who records; a line is written whole or is the
// last of its run. Records hold no secret: of URLs the user and the values of the
// query are left out by who records, and events have neither headers nor tickets.
package record

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"

	"dragonfly"
	"dragonfly/sched"
)

// format is the version of what this package writes and reads.
const format = 1

// Run is how a recorded machine began.
type Run struct {
	Format int          `json:"format"`
	Build  string       `json:"build"` // of the supernode: another one may decide otherwise
	Began  time.Time    `json:"began"`
	Config sched.Config `json:"config"` // with its defaults
}

// Task says which content a task of the machine is.
type Task struct {
	Number  sched.Task        `json:"n"`
	ID      dragonfly.TaskID  `json:"id"`
	Version dragonfly.Version `json:"version"`
	URL     string            `json:"url"` // without secrets
}

// Peer says where a peer of the machine runs.
type Peer struct {
	Number sched.Peer `json:"n"`
	Host   string     `json:"host"`
}

// end is the last line of a run, unless its process was killed.
type end struct {
	Events uint64 `json:"events"`
	Why    string `json:"why"`
}

// line is one line; one field is set.
type line struct {
	Run   *Run   `json:"run,omitempty"`
	Task  *Task  `json:"task,omitempty"`
	Peer  *Peer  `json:"peer,omitempty"`
	Event *event `json:"e,omitempty"`
	End   *end   `json:"end,omitempty"`
}

// What a record may ask of the machine that runs it again.
const (
	maxPieces = 1 << 20 // of a task
	maxLength = 1 << 50 // bytes
	maxLimit  = 1 << 20 // of a Config
	maxName   = 1 << 16 // bytes
)

var errUnprintable = errors.New("a name is long or cannot be printed")

// plain says that texts can be shown: whoever reads a record has not written it.
// A supernode takes no other names from peers.
func plain(texts ...string) bool {
	for _, text := range texts {
		if len(text) > maxName || strings.ContainsFunc(text, unicode.IsControl) {
			return false
		}
	}
	return true
}

// check refuses what nobody has recorded. Events are checked where they are read.
func (l *line) check() error {
	switch {
	case l.Run != nil:
		return l.Run.check()
	case l.Task != nil && !plain(l.Task.URL), l.Peer != nil && !plain(l.Peer.Host), l.End != nil && !plain(l.End.Why):
		return errUnprintable
	}
	return nil
}

func (r *Run) check() error {
	c := &r.Config
	if !plain(r.Build) {
		return errUnprintable
	}
	if r.Format != format {
		return fmt.Errorf("format %d, this build reads %d: use the build that wrote it, %.40q", r.Format, format, r.Build)
	}
	for field, v := range reflect.ValueOf(c).Elem().Fields() {
		most := int64(maxLimit)
		if v.Type() == reflect.TypeFor[time.Duration]() {
			most = int64(365 * 24 * time.Hour)
		}
		if v.CanInt() && (v.Int() < 0 || v.Int() > most) {
			return fmt.Errorf("config: %s of %v is out of range", field.Name, v)
		}
	}
	return nil
}
