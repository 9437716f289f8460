// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dragonfly"
	"dragonfly/supernode"
)

const (
	// whyTime is how long the supernode may take to answer.
	whyTime = 10 * time.Second
	// whyMost is how much of an answer is read, in bytes.
	whyMost = 64 << 20
)

func whyCommand() *cobra.Command {
	at := "http://127.0.0.1:8002"
	c := &cobra.Command{
		Use:   "why TASK [PEER]",
		Short: "Say why a peer gets what it gets, or waits",
		Long: `why asks a running supernode what it decided about a peer of a task, and why:
which pieces come from whom, what was taken back, what the peer waits for. The
latest 32 decisions about each peer are kept.

TASK is a URL, a task's id or the beginning of one. PEER is its number, host name,
address or job; without it all peers of the task are listed.`,
		Example: "  supernode why http://files.example.com/model.bin\n  supernode why 4f2a host17",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return fmt.Errorf("why: want a task, and a peer if you like, not %d names; see supernode why --help", len(args))
			}
			return nil
		},
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), whyTime)
			defer cancel()
			s := state(strings.TrimRight(at, "/"))
			task, err := s.task(ctx, args[0])
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return writePeers(c.OutOrStdout(), task)
			}
			peer, err := peerOf(task, args[1])
			if err != nil {
				return err
			}
			var part supernode.Part
			if err := s.get(ctx, fmt.Sprintf("/tasks/%s/peers/%d", task.ID, peer.Peer), &part); err != nil {
				return err
			}
			return writePart(c.OutOrStdout(), task, part)
		},
	}
	c.Flags().StringVar(&at, "at", at, "URL of the supernode's control port")
	return c
}

// state is the URL of a supernode that is asked about its state.
type state string

// get reads what the supernode says at a path below its state.
func (s state) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(s)+"/p2p/v1/state"+path, nil)
	if err != nil || req.URL.Host == "" {
		return fmt.Errorf("%q is no URL of a supernode: give --at, as http://127.0.0.1:8002", string(s))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no supernode answers at %s: start one, or say with --at where it is", s)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, whyMost))
	if err != nil {
		return fmt.Errorf("the supernode at %s broke off its answer: %w", s, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the supernode at %s says %s: %q", s, resp.Status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("what answers at %s is no supernode of this version: %w", s, err)
	}
	return nil
}

// task is the one task that name means.
func (s state) task(ctx context.Context, name string) (d supernode.TaskDetail, err error) {
	var all struct{ Tasks []supernode.TaskState }
	if err := s.get(ctx, "/tasks", &all); err != nil {
		return d, err
	}
	byURL := dragonfly.Request{URL: name}.TaskID()
	found := slices.DeleteFunc(all.Tasks, func(t supernode.TaskState) bool {
		return t.URL != name && t.ID != byURL && (name == "" || !strings.HasPrefix(t.ID.String(), strings.ToLower(name)))
	})
	if len(found) != 1 {
		var list strings.Builder
		for _, t := range found {
			fmt.Fprintf(&list, "\n  %s  %s", t.ID, t.URL)
		}
		if len(found) == 0 {
			return d, fmt.Errorf("no task is %q: GET %s/p2p/v1/state/tasks lists those that there are", name, s)
		}
		return d, fmt.Errorf("%q may be one of %d tasks: give more of its id%s", name, len(found), list.String())
	}
	return d, s.get(ctx, "/tasks/"+found[0].ID.String(), &d)
}

// peerOf is the one peer of a task that name means.
func peerOf(d supernode.TaskDetail, name string) (supernode.TaskPeer, error) {
	var found []supernode.TaskPeer
	for _, p := range d.Everyone {
		if strconv.FormatUint(uint64(p.Peer), 10) == name || p.Host == name || p.IP.IsValid() && p.IP.String() == name || p.Job != "" && string(p.Job) == name || p.Seed && name == "seed" {
			found = append(found, p)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var list strings.Builder
	if len(found) > 0 {
		d.Everyone = found
	}
	_ = writePeers(&list, d)
	if len(found) == 0 {
		return supernode.TaskPeer{}, fmt.Errorf("no peer of the task is %q; there are:\n%s", name, list.String())
	}
	return supernode.TaskPeer{}, fmt.Errorf("%q may be one of %d peers, give its number:\n%s", name, len(found), list.String())
}

// writePeers lists the peers of a task.
func writePeers(w io.Writer, d supernode.TaskDetail) error {
	fmt.Fprintf(w, "%s\n%s, %d of %d pieces at the seed, source %s\n", d.URL, d.ID, d.SeedHeld, d.Pieces, d.Source)
	for _, p := range d.Everyone {
		if _, err := fmt.Fprintf(w, "%6d  %s\n", p.Peer, peerLine(p, d.Pieces)); err != nil {
			return err
		}
	}
	return nil
}

// peerLine says in one line who a peer is and how far.
func peerLine(p supernode.TaskPeer, pieces int) string {
	who := p.Host
	if p.IP.IsValid() {
		who += " (" + p.IP.String() + ")"
	}
	if p.Seed {
		who += ", the seed"
	}
	line := fmt.Sprintf("%s: %d of %d pieces, %d in work", who, p.Held, pieces, p.InWork)
	if p.Waits != "" {
		line += ", waits: " + p.Waits.Words()
	}
	return line
}

// writePart writes what a peer gets, and the decisions about it.
func writePart(w io.Writer, d supernode.TaskDetail, p supernode.Part) error {
	fmt.Fprintf(w, "%s\n%s\n\npeer %d, %s\n", d.URL, d.ID, p.Peer, peerLine(p.TaskPeer, d.Pieces))
	for _, a := range p.Work {
		unheard := ""
		if !a.Heard {
			unheard = ", of which it has not heard yet"
		}
		fmt.Fprintf(w, "  gets bytes %d to %d of piece %d from %s%s\n", a.Span.From, a.Span.To, a.Piece, a.From, unheard)
	}
	if len(p.Decisions) == 0 {
		_, err := fmt.Fprintln(w, "\nnothing was decided about it since the supernode began")
		return err
	}
	fmt.Fprintln(w, "\nthe latest decisions, the oldest first:")
	for _, c := range p.Decisions {
		if _, err := fmt.Fprintf(w, "  %s  %s\n", c.At.Local().Format("15:04:05.000"), c.Text); err != nil {
			return err
		}
	}
	return nil
}
