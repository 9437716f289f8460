// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/url"
	"strings"
	"sync"
	"time"
)

// maxThrottled bounds how many hosts are remembered as throttled.
const maxThrottled = 1024

// throttled remembers which hosts asked to be left alone, by host and port of
// the URL that was asked for, wherever that redirected to.
type throttled struct {
	mu   sync.Mutex // guards ends
	ends map[string]time.Time
}

func hostKey(u *url.URL) string { return strings.ToLower(u.Hostname()) + ":" + port(u) }

func (t *throttled) note(u *url.URL, wait time.Duration) {
	now := time.Now()
	end := now.Add(wait)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ends == nil {
		t.ends = map[string]time.Time{}
	}
	if len(t.ends) >= maxThrottled {
		t.shrink(now)
	}
	if key := hostKey(u); end.After(t.ends[key]) {
		t.ends[key] = end
	}
}

// shrink forgets what is over, or else the host whose time is over first.
func (t *throttled) shrink(now time.Time) {
	var first string
	for key, end := range t.ends {
		if !end.After(now) {
			delete(t.ends, key)
		} else if first == "" || end.Before(t.ends[first]) {
			first = key
		}
	}
	if len(t.ends) >= maxThrottled {
		delete(t.ends, first)
	}
}

func (t *throttled) until(u *url.URL) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	end := t.ends[hostKey(u)]
	if !end.After(time.Now()) {
		return time.Time{}
	}
	return end
}
