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
		r := dragonfly.Request{URL: "http://h/v2/team/app/blobs/sha256:1", Header: dragonfly.Header{"Authorization": {"mine"}}}
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
		{"http://h/f?a=1&sign=x&a=2&at=3", "http://h/f?a=1&a=2", true},
		{"http://h/f?id=secret&id=public", "http://h/f?id=secret", false},
		{"http://h/f?id=secret&%49D=public", "http://h/f?id=secret", false},
		{"http://h/f?id=secret&id[]=public", "http://h/f?id=secret", false},
	} {
		if got := Fits(k.url, k.task); got != k.want {
			t.Errorf("%s of %s: %v", k.task, k.url, got)
		}
	}
}

// TestRightsDoNotSpread: a right to read covers a repository of one registry, or
// one content, however alike others look.
func TestRightsDoNotSpread(t *testing.T) {
	const blob = "/blobs/sha256:1"
	for name, k := range map[string]struct{ mine, other dragonfly.Request }{
		"two registries on a host": {
			dragonfly.Request{URL: "http://h/public/v2/app" + blob}, dragonfly.Request{URL: "http://h/private/v2/app" + blob}},
		"escaped": {
			dragonfly.Request{URL: "http://h/v2/a/b" + blob}, dragonfly.Request{URL: "http://h/v2/a%2Fb" + blob}},
		"files of one directory": {
			dragonfly.Request{URL: "http://h/v2/app/blobs/public"}, dragonfly.Request{URL: "http://h/v2/app/blobs/private"}},
		"the same TaskID": {
			dragonfly.Request{URL: "http://h/pub", Identifier: "lic"}, dragonfly.Request{URL: "http://h/public"}},
		"scheme": {
			dragonfly.Request{URL: "https://h/v2/app" + blob}, dragonfly.Request{URL: "http://h/v2/app" + blob}},
	} {
		d := NewDoor(func(context.Context, dragonfly.Request) error { return &dragonfly.Error{Kind: dragonfly.Forbidden} })
		d.Proved(k.mine)
		if d.Knows(k.other) {
			t.Errorf("%s: known", name)
		}
		if _, err := d.Admit(t.Context(), k.other); dragonfly.KindOf(err) != dragonfly.Forbidden {
			t.Errorf("%s: %v", name, err)
		}
		d.Close()
	}
}

// TestWhatWasPublic: while the source cannot be asked, what it gave to everybody
// stays everybody's, but not for questions that nobody can answer, nor when the
// source has said that it is so no more.
func TestWhatWasPublic(t *testing.T) {
	const url = "http://h/v2/app/blobs/sha256:1"
	for name, k := range map[string]struct {
		open, own dragonfly.Kind // what the source says without and with the header
		admitted  bool
	}{
		"away":                         {dragonfly.SourceFailed, "", true},
		"asked too often":              {dragonfly.Throttled, "", true},
		"not understood":               {dragonfly.Invalid, "", false},
		"gone, own one not understood": {dragonfly.NotFound, dragonfly.Invalid, false},
		"gone, then away":              {dragonfly.NotFound, dragonfly.SourceFailed, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := NewDoor(func(_ context.Context, r dragonfly.Request) error {
				if r.Header["X-Own"] != nil {
					return &dragonfly.Error{Kind: k.own}
				}
				return &dragonfly.Error{Kind: k.open}
			})
			defer d.Close()
			d.Proved(dragonfly.Request{URL: url})
			<-time.After(2 * admitted)
			_, err := d.Admit(t.Context(), dragonfly.Request{URL: url, Header: dragonfly.Header{"X-Own": {"x"}}})
			if got := err == nil; got != k.admitted {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// TestSteered: headers by which a server looks elsewhere.
func TestSteered(t *testing.T) {
	for _, k := range []struct {
		name, value string
		want        bool
	}{
		{"Host", "h", false}, {"HOST", "H", false}, {"host", "other", true}, {"X-Forwarded-HOST", "h", true},
		{"X-Original-URL", "/", true}, {"X-HTTP-Method-Override", "HEAD", true}, {"Authorization", "x", false},
	} {
		r := dragonfly.Request{URL: "http://h/f", Header: dragonfly.Header{k.name: {k.value}}}
		if got := Steered(r); got != k.want {
			t.Errorf("%s: %s: %v", k.name, k.value, got)
		}
	}
	r := dragonfly.Request{URL: "http://h/f", Header: dragonfly.Header{"Host": {"h", "other"}}}
	if !Steered(r) {
		t.Error("a second value is not seen")
	}
	d := NewDoor(func(context.Context, dragonfly.Request) error { return nil })
	defer d.Close()
	d.Proved(r)
	if _, err := d.Admit(t.Context(), r); err != ErrUnasked || d.Knows(r) {
		t.Errorf("it is let in: %v", err)
	}
}
