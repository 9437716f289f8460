// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"encoding/json"
	"time"

	"dragonfly"
	"dragonfly/peer"
)

// Protocol is the number of the protocol on the socket. It grows when an older
// side would misunderstand a newer one.
const Protocol = 1

// Build is which software a process runs.
type Build struct {
	Version  string `json:"version"`
	Protocol int    `json:"protocol"`
	// Number grows from build to build; 0 if it is not known.
	Number int64 `json:"build,omitempty"`
}

// Compare orders builds by protocol, then by number. Builds without a number
// are as new as any other of their protocol.
func (b Build) Compare(c Build) int {
	if order := cmp.Compare(b.Protocol, c.Protocol); order != 0 || b.Number == 0 || c.Number == 0 {
		return order
	}
	return cmp.Compare(b.Number, c.Number)
}

// Job is what a client wants.
type Job struct {
	// Sign names the job in the logs, v1's "<pid>-<unix seconds>".
	Sign    string            `json:"sign"`
	Request dragonfly.Request `json:"request"`
	Pattern string            `json:"pattern"`
	// NoSource forbids to download from the source by this host.
	NoSource bool `json:"noSource,omitempty"`
	// Nodes are the supernodes; Preset says that nobody configured them.
	Nodes  []dragonfly.Member `json:"nodes,omitempty"`
	Preset bool               `json:"preset,omitempty"`
	IP     string             `json:"ip,omitempty"` // of this host, "" to find out
	Limit  dragonfly.Rate     `json:"limit,omitempty"`
	// TotalLimit, if set, becomes the limit of all receiving and, separately,
	// of all sending of the agent.
	TotalLimit dragonfly.Rate `json:"totalLimit,omitempty"`
	MinRate    dragonfly.Rate `json:"minRate,omitempty"`
	Queue      int            `json:"queue,omitempty"`
	Timeout    time.Duration  `json:"timeout,omitempty"`
	// Stream asks for the bytes as they come instead of the finished content.
	Stream bool `json:"stream,omitempty"`
	// Console asks for the job's log lines, Verbose for more of them.
	Console bool `json:"console,omitempty"`
	Verbose bool `json:"verbose,omitempty"`

	// Argv, Config and Target are for the log only. The client has taken
	// secrets out of them.
	Argv   []string        `json:"argv,omitempty"`
	Config json.RawMessage `json:"config,omitempty"`
	Target string          `json:"target,omitempty"`
	// TempTarget is beside it until all is there; none for a stream.
	TempTarget string `json:"tempTarget,omitempty"`
}

// Placed is how the client's part of a job ended, for the log.
type Placed struct {
	Target string        `json:"target,omitempty"`
	Source string        `json:"source,omitempty"` // the temporary output
	Moved  time.Duration `json:"moved,omitempty"`  // what making the output took
	Cost   time.Duration `json:"cost"`             // of the whole job
	// Linked says that the output is a hard link of the content.
	Linked bool   `json:"linked,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Result is the outcome of a job.
type Result struct {
	Task       dragonfly.TaskID `json:"task"`
	Length     int64            `json:"length"`
	Reason     int              `json:"reason"` // v1's back-source reason
	Node       string           `json:"node,omitempty"`
	FromSource int64            `json:"fromSource"`
	FromSeed   int64            `json:"fromSeed"`
	FromPeers  int64            `json:"fromPeers"`
	// Limited says that the limit of the task held the download back.
	Limited bool             `json:"limited,omitempty"`
	Error   *dragonfly.Error `json:"error,omitempty"`
}

// order is what a client sends after its greeting, and placed at the end.
type order struct {
	Job      *Job    `json:"job,omitempty"`
	HandOver bool    `json:"handOver,omitempty"`
	Placed   *Placed `json:"placed,omitempty"`
}

// news is what an agent sends after its greeting; one member is set.
type news struct {
	Line     string         `json:"line,omitempty"` // for the user
	Log      string         `json:"log,omitempty"`  // a log line, asked for by Job.Console
	Progress *peer.Progress `json:"progress,omitempty"`
	Stream   bool           `json:"stream,omitempty"` // the pipe comes with it
	Result   *Result        `json:"result,omitempty"`
	Content  bool           `json:"content,omitempty"` // with Result: the descriptor comes with it
	// Retired says that another agent takes over: ask there.
	Retired bool             `json:"retired,omitempty"`
	Refused *dragonfly.Error `json:"refused,omitempty"`
}
