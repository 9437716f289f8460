// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"dragonfly"
)

// TestDoorForgets: nothing is kept of who came long ago.
func TestDoorForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDoor(func(_ context.Context, r dragonfly.Request) error {
			if r.Header["Authorization"] != nil {
				return nil
			}
			return &dragonfly.Error{Kind: dragonfly.Forbidden}
		})
		defer d.Close()
		r := dragonfly.Request{URL: "http://h/v2/team/app/blobs/x", Header: dragonfly.Header{"Authorization": {"mine"}}}
		if asked, err := d.Admit(t.Context(), r); !asked || err != nil || !d.Knows(r) {
			t.Fatal(asked, err)
		}
		if asked, err := d.Admit(t.Context(), r); asked || err != nil {
			t.Fatal(asked, err)
		}
		<-time.After(2 * admitted)
		d.Proved(dragonfly.Request{URL: "http://h/other"})
		if len(d.places) != 1 || len(d.lines) != 0 || d.Knows(r) {
			t.Errorf("%d places, %d hosts", len(d.places), len(d.lines))
		}
	})
}

// TestDoorIsBounded: a host is asked 64 things at once, and who waits for more
// than two seconds asks it himself.
func TestDoorIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most int
		d := NewDoor(nil)
		defer d.Close()
		d.allowed = func(context.Context, dragonfly.Request) error {
			d.mu.Lock()
			now++
			most = max(most, now)
			d.mu.Unlock()
			<-time.After(3 * time.Second)
			d.mu.Lock()
			now--
			d.mu.Unlock()
			return nil
		}
		unasked := make(chan bool, 100)
		for i := range cap(unasked) {
			go func() {
				_, err := d.Admit(t.Context(), dragonfly.Request{URL: fmt.Sprintf("http://h/%d", i)})
				unasked <- err == ErrUnasked
			}()
		}
		refused := 0
		for range cap(unasked) {
			if <-unasked {
				refused++
			}
		}
		if most != maxChecks || refused != cap(unasked)-maxChecks {
			t.Errorf("%d at once, %d not asked", most, refused)
		}
	})
}

// TestFits: a task URL is the URL without some parameters.
func TestFits(t *testing.T) {
	for _, k := range []struct {
		url, task string
		want      bool
	}{
		{"http://h/f", "http://h/f", true},
		{"http://h/f?a=1&b=2", "http://h/f?b=2", true},
		{"http://h/f?a=1", "http://h/f", true},
		{"http://h/f", "http://h/f?a=1", false},
		{"http://h/f?a=1", "http://h/f?a=2", false},
		{"http://h/g", "http://h/f", false},
		{"http://i/f", "http://h/f", false},
		{"https://h/f", "http://h/f", false},
	} {
		if got := Fits(k.url, k.task); got != k.want {
			t.Errorf("%s of %s: %v", k.task, k.url, got)
		}
	}
}
