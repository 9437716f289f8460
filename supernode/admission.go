// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"context"

	"dragonfly"
	"dragonfly/source"
)

// admit returns nil when the source gives the task to whoever asks as r does.
// Nobody else is handed anything of it: neither ticket, nor inline content, nor
// assignment, nor digest. Errors are the source's; with source.ErrUnasked the
// peer shall ask it for the content. Supernode.mu is held before and after, not
// meanwhile.
func (s *Supernode) admit(ctx context.Context, r dragonfly.Request) error {
	s.unlock()
	asked, err := s.door.Admit(ctx, r)
	s.mu.Lock()
	result := "known"
	switch {
	case err == source.ErrUnasked:
		result = "unasked"
	case err != nil:
		result = "refused"
	case asked:
		result = "asked"
	}
	s.metrics.admissions.WithLabelValues(result).Inc()
	return err
}
