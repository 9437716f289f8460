// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// maxPages bounds a book: who names many registries pushes others out, who are
// asked again then.
const maxPages = 512

// book keeps values by key for as long as they hold. Who wants one that is
// being fetched waits for that.
type book[T any] struct {
	mu    sync.Mutex // guards pages
	pages map[string]*page[T]
}

type page[T any] struct {
	turn    chan struct{} // of one value; whoever holds it reads and writes what follows
	value   T
	err     error
	until   time.Time
	fetched atomic.Int64 // how often; rises while turn is held
}

func (b *book[T]) page(key string) *page[T] {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pages[key]
	if p == nil {
		for other := range b.pages {
			if len(b.pages) < maxPages {
				break
			}
			delete(b.pages, other) // whoever waits for it keeps it
		}
		p = &page[T]{turn: make(chan struct{}, 1)}
		if b.pages == nil {
			b.pages = map[string]*page[T]{}
		}
		b.pages[key] = p
	}
	return p
}

// get is the value of key, or what fetch gives: a value and how long it holds.
// An error is for those who waited for it, and kept for nobody.
func (b *book[T]) get(ctx context.Context, key string, fetch func(context.Context) (T, time.Duration, error)) (T, error) {
	p := b.page(key)
	before := p.fetched.Load()
	var none T
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	if time.Now().Before(p.until) {
		return p.value, nil
	}
	if p.fetched.Load() != before && p.err != nil {
		return none, p.err
	}
	v, life, err := fetch(ctx)
	if ctx.Err() != nil && err != nil {
		return none, err // of a caller who went away: the next one fetches
	}
	p.fetched.Add(1)
	if p.err = err; err != nil {
		p.value, p.until = none, time.Time{}
		return none, err
	}
	p.value, p.until = v, time.Now().Add(life)
	return v, nil
}

// put writes a value that came by itself, unless one is being fetched.
func (b *book[T]) put(key string, v T, life time.Duration) {
	p := b.page(key)
	select {
	case p.turn <- struct{}{}:
		p.value, p.err, p.until = v, nil, time.Now().Add(life)
		<-p.turn
	default:
	}
}

// drop forgets the value of key if bad says so, and says whether it did.
func (b *book[T]) drop(ctx context.Context, key string, bad func(T) bool) bool {
	p := b.page(key)
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return false
	}
	if !time.Now().Before(p.until) || !bad(p.value) {
		return false
	}
	p.until = time.Time{}
	return true
}
