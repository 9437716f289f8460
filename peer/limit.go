// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"golang.org/x/time/rate"

	"dragonfly"
)

// NewLimiter limits to r bytes per second; 0: no limit, until SetRate gives
// one.
func NewLimiter(r dragonfly.Rate) *rate.Limiter {
	l := rate.NewLimiter(rate.Inf, readSize)
	SetRate(l, r)
	return l
}

// SetRate changes a limit, 0 lifts it. The burst is one read, or 100 ms where
// that is more. It may be called while the limiter is in use.
func SetRate(l *rate.Limiter, r dragonfly.Rate) {
	if r <= 0 {
		l.SetLimit(rate.Inf)
		return
	}
	l.SetBurst(max(readSize, int(r/10)))
	l.SetLimit(rate.Limit(r))
}
