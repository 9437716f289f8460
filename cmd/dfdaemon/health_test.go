// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestHealth: 503 with the reason until the own parts work, and when they do no
// more; others are shown, and asked again only when somebody looks.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		var asked atomic.Int64
		broken.Store(true)
		h := newHealth([]check{{"the store", func(context.Context) error {
			if broken.Load() {
				return errors.New("is full")
			}
			return nil
		}}}, []check{{"registry x", func(context.Context) error { asked.Add(1); return errors.New("does not answer") }}, {"supernode y", func(context.Context) error { return nil }}})
		look := func(status int, want ...string) {
			t.Helper()
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, httptest.NewRequest("GET", "/healthy", nil)); w.Code != status {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			contains(t, "the answer", w.Body.String(), want...)
		}
		look(503, "has not ended yet")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { h.run(ctx); close(ended) }()
		synctest.Wait()
		look(503, "the store: is full", "registry x: does not answer\nsupernode y: answers\n")
		broken.Store(false)
		<-time.After(2 * testAgain)
		synctest.Wait()
		look(200, "OK\nregistry x: does not answer")
		broken.Store(true)
		<-time.After(testEvery)
		synctest.Wait()
		look(503, "the store: is full")
		<-time.After(10 * askAgain)
		if n := asked.Load(); n != 1 {
			t.Errorf("the registry was asked %d times while nobody looked", n)
		}
		look(503)
		synctest.Wait()
		if n := asked.Load(); n != 2 {
			t.Errorf("the registry was asked %d times, want 2", n)
		}
		for range 3 { // who wants to know it now gets it now, and not all too often
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/healthy?ask", nil))
		}
		if n := asked.Load(); n != 2 {
			t.Errorf("the registry was asked %d times, want 2", n)
		}
		<-time.After(2 * askSoon)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/healthy?ask", nil))
		if n := asked.Load(); n != 3 {
			t.Errorf("the registry was asked %d times, want 3", n)
		}
		cancel()
		<-ended
	})
}

// TestHealthChecks: what each step finds.
func TestHealthChecks(t *testing.T) {
	dir := t.TempDir()
	if err := holdsData(dir).run(t.Context()); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	if err := holdsData(filepath.Join(dir, "none")).run(t.Context()); err == nil {
		t.Error("a directory that is not there holds data")
	}
	d := start(t, "", "--registry", "http://127.0.0.1:1")
	until(t, "it is healthy, without registry and supernode", func() bool {
		resp, body := d.get("/healthy")
		return resp.StatusCode == 200 && strings.HasPrefix(body, "OK\nregistry http://127.0.0.1:1: the registry behind the mirror cannot be reached: ") && strings.Contains(body, "\nsupernode 127.0.0.1:1: does not answer: ")
	})
}
