// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"time"

	"dragonfly"
)

// verdict is the comparison of a whole content with a digest, while it arrives.
type verdict struct {
	want dragonfly.Digest
	done chan struct{}
	err  error // set before done is closed; nil: it has the digest
}

// verdict finds or begins the comparison of a holding with a digest; first says
// that it begins now. It goes on when the job that wanted it ends.
func (t *task) verdict(h *holding, want dragonfly.Digest) (v *verdict, first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.verdicts {
		if v.want == want {
			return v, false
		}
	}
	v = &verdict{want: want, done: make(chan struct{})}
	h.verdicts = append(h.verdicts, v)
	t.e.wg.Go(func() {
		defer close(v.done)
		if v.err = check(t.e.ctx, h, want); v.err == nil {
			v.err = h.content.SetDigest(want)
		}
	})
	return v, true
}

// reached waits for a verdict.
func (v *verdict) reached(ctx context.Context) error {
	select {
	case <-v.done:
		return v.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// compares says that a comparison with a digest is at work or over.
func (h *holding) compares(want dragonfly.Digest) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.verdicts {
		if v.want == want {
			return true
		}
	}
	return false
}

// quick says that this machine hashes SHA-256 so fast, by instructions of its
// own for it, that every host can afford to check what its seed has checked.
var quick = sync.OnceValue(func() bool {
	const size, fast = 1 << 20, 2 * time.Millisecond
	buf := make([]byte, size)
	began := time.Now()
	sha256.Sum256(buf)
	return time.Since(began) < fast
})

// hash begins to compare the content of a job with its digest, where the job
// asks for one, no seed does it, or it costs little.
func (d *Download) hash(h *holding) {
	want := expectation(d.job.Request)
	if len(d.job.Want) > 0 || want.IsZero() || h.content.Meta().Digest == want || d.job.Request.Digest.IsZero() && !quick() && !d.fromSource() {
		return
	}
	d.t.verdict(h, want)
}

// hash begins what the jobs of the task want to compare.
func (t *task) hash(h *holding) {
	t.mu.Lock()
	downloads := slices.Collect(maps.Keys(t.downloads))
	t.mu.Unlock()
	for _, d := range downloads {
		d.hash(h)
	}
}

// judge says whether the content is what the job must get.
func (d *Download) judge(ctx context.Context, h *holding) error {
	want := expectation(d.job.Request)
	if want.IsZero() || h.content.Meta().Digest == want {
		return nil
	}
	if !h.compares(want) && d.vouched(ctx, h, want) {
		return h.content.SetDigest(want)
	}
	v, _ := d.t.verdict(h, want)
	err := v.reached(ctx)
	if err == nil || dragonfly.KindOf(err) != dragonfly.DigestMismatch || d.fromSource() {
		return err
	}
	// Either the content at the source is wrong, and the supernode will say so,
	// or it stands for what is wrong: then it is left alone for a while.
	if h.Layout().Length <= dragonfly.InlineMax || d.vouched(ctx, h, want) {
		d.t.e.cfg.Log.Warn("the swarm gives another content than its digest says: it is not asked for it for a while", "task", d.t.id, "for", doubt)
		return &doubted{err}
	}
	return err
}

// doubt is how long a swarm is not asked for a content that it gave wrong.
const doubt = 10 * time.Minute

// doubted is a mismatch that is the swarm's and not the source's.
type doubted struct{ error }

func (d *doubted) Unwrap() error { return d.error }

// fromSource says that the job was sent to the source.
func (d *Download) fromSource() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reason != ReasonNone
}

// doubt throws away what the swarm gave; why is the end of all that read it.
func (t *task) doubt(h *holding, why error) error {
	h.fail(why)
	t.spoiled(h, why)
	t.mu.Lock()
	t.doubted = time.Now().Add(doubt)
	t.mu.Unlock()
	return t.e.cfg.Store.Remove(t.id)
}

func (t *task) doubts() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Now().Before(t.doubted)
}
