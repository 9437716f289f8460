// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"dragonfly"
	"dragonfly/sched"
)

// The state as JSON, for people and consoles. Peers go by their number here:
// session ids, tickets, headers and the values of queries are secrets.
type (
	// TaskState is one task.
	TaskState struct {
		ID        dragonfly.TaskID  `json:"id"`
		URL       string            `json:"url"` // query values and user info replaced
		Status    string            `json:"status"`
		Version   dragonfly.Version `json:"version,omitzero"`
		Length    int64             `json:"length"` // bytes; -1 unknown
		PieceLen  int64             `json:"pieceLen"`
		Pieces    int               `json:"pieces"`   // 0 while the length is unknown
		SeedHeld  int               `json:"seedHeld"` // pieces
		Manifest  int               `json:"manifest"` // digests known for sure
		Waiting   int               `json:"waiting"`  // peers that still miss something
		Peers     int               `json:"peers"`    // the seed not counted
		Idle      float64           `json:"idleSeconds"`
		Source    string            `json:"source"` // "open", "closed"
		Trouble   dragonfly.Kind    `json:"trouble,omitempty"`
		Finishing bool              `json:"finishingOlderVersion,omitempty"`
	}

	// TaskDetail is one task with its pieces and peers.
	TaskDetail struct {
		TaskState
		Holders  []int          `json:"holders"` // how many hold each piece, the seed included
		Everyone []TaskPeer     `json:"everyone"`
		Failed   dragonfly.Kind `json:"failed,omitempty"`
	}

	// TaskPeer is one peer's part in a task.
	TaskPeer struct {
		Peer     sched.Peer         `json:"peer"`
		Seed     bool               `json:"seed,omitempty"`
		Host     string             `json:"host"`
		IP       netip.Addr         `json:"ip,omitzero"`
		Job      dragonfly.JobID    `json:"job,omitempty"`
		Status   string             `json:"status"`
		Waits    sched.Reason       `json:"waits,omitempty"`
		Serves   bool               `json:"serves"`
		Held     int                `json:"held"`
		Has      dragonfly.PieceSet `json:"has"` // base64 of the bitmap, least significant bit first
		Older    bool               `json:"olderVersion,omitempty"`
		InWork   int                `json:"inWork"`
		Duration float64            `json:"seconds"`
	}

	// PeerState is one session.
	PeerState struct {
		Peer    sched.Peer       `json:"peer"`
		Seed    bool             `json:"seed,omitempty"`
		Host    string           `json:"host"`
		IP      netip.Addr       `json:"ip,omitzero"`
		Addrs   []netip.AddrPort `json:"addrs,omitempty"`
		Zone    string           `json:"zone,omitempty"`
		Rack    string           `json:"rack,omitempty"`
		Build   string           `json:"build,omitempty"`
		Tasks   int              `json:"tasks"`
		Silent  float64          `json:"silentSeconds"` // since a sync was open
		Verdict string           `json:"verdict,omitempty"`
	}
)

// Admin serves the state: GET /p2p/v1/state/tasks, /p2p/v1/state/tasks/{id},
// /p2p/v1/state/tasks/{id}/peers/{peer} and /p2p/v1/state/peers. It changes
// nothing.
func (s *Supernode) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /p2p/v1/state/tasks", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"tasks": s.Tasks()})
	})
	mux.HandleFunc("GET /p2p/v1/state/tasks/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := dragonfly.ParseTaskID(r.PathValue("id"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		detail, ok := s.Task(id)
		if !ok {
			http.Error(w, "no such task", http.StatusNotFound)
			return
		}
		writeJSON(w, detail)
	})
	mux.HandleFunc("GET /p2p/v1/state/tasks/{id}/peers/{peer}", func(w http.ResponseWriter, r *http.Request) {
		id, err := dragonfly.ParseTaskID(r.PathValue("id"))
		number, wrong := strconv.ParseUint(r.PathValue("peer"), 10, 32)
		if err != nil || wrong != nil {
			http.Error(w, "want a task's id and a peer's number", http.StatusBadRequest)
			return
		}
		part, ok := s.Part(id, sched.Peer(number))
		if !ok {
			http.Error(w, "no such task, or the peer has no part in it", http.StatusNotFound)
			return
		}
		writeJSON(w, part)
	})
	mux.HandleFunc("GET /p2p/v1/state/peers", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"peers": s.Peers()})
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the reader went away
}

// Tasks are all tasks, ordered by id.
func (s *Supernode) Tasks() []TaskState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]TaskState, 0, len(s.tasks))
	for _, t := range s.inOrder() {
		out = append(out, s.taskState(t))
	}
	return out
}

// Task is one task with its pieces and peers.
func (s *Supernode) Task(id dragonfly.TaskID) (TaskDetail, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[id]
	if t == nil {
		return TaskDetail{}, false
	}
	d := TaskDetail{TaskState: s.taskState(t), Holders: []int{}, Everyone: []TaskPeer{}}
	if t.notFound != nil && time.Now().Before(t.notFoundUntil) {
		d.Failed = dragonfly.KindOf(t.notFound)
	}
	if t.current != nil {
		d.Holders = make([]int, t.current.layout.Pieces())
	}
	for _, r := range t.registered() {
		d.Everyone = append(d.Everyone, s.taskPeer(r))
		if r.version == nil || r.version != t.current {
			continue
		}
		for n := range r.held.All() {
			if int(n) >= len(d.Holders) {
				d.Holders = append(d.Holders, make([]int, int(n)+1-len(d.Holders))...)
			}
			d.Holders[n]++
		}
	}
	return d, true
}

func (s *Supernode) taskPeer(r *registration) TaskPeer {
	return TaskPeer{
		Peer: r.session.peer, Seed: r.session.seed, Host: r.session.hello.Host.Name, IP: r.session.welcome.IP,
		Job: r.job(), Status: r.status(), Waits: s.why(r), Serves: r.serves, Held: r.held.Count(), Has: r.held.Clone(),
		Older: r.version != nil && r.version == r.task.retired, InWork: len(r.work), Duration: time.Since(r.since).Seconds(),
	}
}

func (s *Supernode) taskState(t *task) TaskState {
	out := TaskState{ID: t.id, URL: Redact(t.request.URL), Status: s.status(t), Length: dragonfly.UnknownLength,
		Idle: time.Since(t.touched).Seconds(), Source: "closed", Finishing: t.retired != nil}
	if t.last != nil {
		out.Trouble = t.last.Kind
	}
	seed := s.seedReg(t)
	out.Peers = len(t.regs)
	if seed != nil {
		out.Peers--
	}
	v := t.current
	if v == nil {
		return out
	}
	out.Version, out.Length, out.PieceLen, out.Pieces = v.id, v.layout.Length, v.layout.PieceLen, v.layout.Pieces()
	out.Manifest, out.Waiting = v.manifest.count(), len(t.waiting(v))
	if !v.closed {
		out.Source = "open"
	}
	if seed != nil && seed.version == v {
		out.SeedHeld = seed.held.Count()
	}
	return out
}

// Peers are all sessions, ordered by number.
func (s *Supernode) Peers() []PeerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]PeerState, 0, len(s.sessions))
	for _, ss := range s.sessions {
		p := PeerState{Peer: ss.peer, Seed: ss.seed, Host: ss.hello.Host.Name, IP: ss.welcome.IP, Addrs: ss.addrs,
			Zone: ss.hello.Host.Zone, Rack: ss.hello.Host.Rack, Build: ss.hello.Build, Tasks: len(ss.regs), Verdict: ss.verdict}
		if ss.waiter == nil {
			p.Silent = time.Since(ss.lastSync).Seconds()
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b PeerState) int { return cmp.Compare(a.Peer, b.Peer) })
	return out
}

// Redact makes a URL fit to be shown: user info and the values of its query
// may be secrets.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "?"
	}
	if u.User != nil {
		u.User = url.User("…")
	}
	u.Fragment = ""
	items := strings.Split(u.RawQuery, "&")
	for i, it := range items {
		if name, _, ok := strings.Cut(it, "="); ok {
			items[i] = name + "=…"
		} else if it != "" {
			items[i] = "…"
		}
	}
	query := strings.Join(items, "&")
	u.RawQuery = ""
	if query != "" {
		return u.String() + "?" + query
	}
	return u.String()
}
