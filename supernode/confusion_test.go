// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"context"
	"strings"
	"testing"
	"time"

	"dragonfly"
)

// TestAnotherContentOfTheSameID: v1 writes the parts of a TaskID one after the
// other, so that a URL that is everybody's and an identifier give the TaskID of
// a private one. Who may have the first gets nothing of the second, and does not
// stand in its way.
func TestAnotherContentOfTheSameID(t *testing.T) {
	for _, when := range []string{"in use", "kept before", "asked before"} {
		t.Run(when, func(t *testing.T) {
			inTime(t, nil, func(w *world) {
				private, o := w.blob("team/app", "a")
				public, rest := private[:len("http://origin.test/")], private[len("http://origin.test/"):]
				w.seed.mu.Lock()
				w.seed.allowed = func(_ context.Context, r dragonfly.Request) error {
					if r.URL == public || strings.Join(r.Header["Authorization"], "") == "mine" {
						return nil
					}
					return &dragonfly.Error{Kind: dragonfly.Unauthorized, Status: 401, Message: "wants credentials"}
				}
				w.seed.mu.Unlock()
				stranger, owner := w.peer(), w.peer()
				trick := stranger.wants(public)
				trick.Request.Identifier = rest
				if trick.Request.TaskID() != taskOf(private) {
					w.Fatal("another TaskID")
				}
				switch when {
				case "kept before":
					held := stranger.has(private, o, 2)
					held.Request, held.Holding = trick.Request, true
					stranger.register(held)
				case "asked before": // and the source has nothing there
					stranger.fails(trick)
				}
				if info := owner.register(bearing(owner.wants(private), "mine")); info.Ticket.IsZero() {
					w.Fatalf("the owner gets %+v", info)
				}
				for range 2 {
					stranger.later(stranger.report())
					w.wait(time.Second)
					if stranger.last.over() {
						w.Errorf("told %+v", stranger.last.work)
					}
					if info := stranger.register(trick); info.Grant != dragonfly.GrantDirect || !info.Ticket.IsZero() {
						w.Errorf("got %+v", info)
					}
					inline := trick
					inline.Inline = true
					if info := stranger.register(inline); len(info.Inline) > 0 {
						w.Error("got it inline")
					}
				}
			})
		})
	}
}

// TestSteeredRequests: who leads the source to another content than that of the
// URL is left to read it by himself, before anybody and after.
func TestSteeredRequests(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("file", 2)
		stranger, owner := w.peer(), w.peer()
		trick := stranger.wants(url)
		trick.Request.Header = dragonfly.Header{"Host": {"public.test"}}
		for range 2 {
			if info := stranger.register(trick); info.Grant != dragonfly.GrantDirect || !info.Ticket.IsZero() {
				w.Errorf("got %+v", info)
			}
			owner.register(owner.wants(url))
		}
		if got := w.asked(o); got != 1 {
			w.Errorf("the source was asked %d times", got)
		}
	})
}
