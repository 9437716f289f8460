// SPDX-License-Identifier: Apache-2.0

package swarm

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
)

// Tail keeps what a process prints and lets others wait for a line of it. The
// zero value is ready; all methods may be called at the same time.
type Tail struct {
	mu      sync.Mutex // guards all below
	text    bytes.Buffer
	changed chan struct{} // closed at each write
}

func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
	return t.text.Write(p)
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// Wait returns when what was printed so far satisfies f.
func (t *Tail) Wait(ctx context.Context, what string, f func(text string) bool) error {
	for {
		t.mu.Lock()
		text := t.text.String()
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		changed := t.changed
		t.mu.Unlock()
		if f(text) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w; printed so far:\n%s", what, ctx.Err(), text)
		}
	}
}

// WaitFor returns when text with the given part was printed n times.
func (t *Tail) WaitFor(ctx context.Context, part string, n int) error {
	return t.Wait(ctx, fmt.Sprintf("%d × %q", n, part), func(text string) bool { return strings.Count(text, part) >= n })
}
