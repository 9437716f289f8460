// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestBook: what is fetched is fetched once for all who wait, holds its time,
// and an error is only for those who waited for it.
func TestBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b book[int]
		n, failure := 0, error(nil)
		fetch := func(context.Context) (int, time.Duration, error) {
			<-time.After(time.Second)
			n++
			return n, time.Minute, failure
		}
		all := func() (values []int, errs int) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			for range 10 {
				wg.Go(func() {
					v, err := b.get(t.Context(), "x", fetch)
					mu.Lock()
					defer mu.Unlock()
					if values = append(values, v); err != nil {
						errs++
					}
				})
			}
			wg.Wait()
			return values, errs
		}
		if values, errs := all(); n != 1 || errs != 0 || values[9] != 1 {
			t.Errorf("%d fetched, values %v, %d errors", n, values, errs)
		}
		<-time.After(time.Minute)
		failure = errors.New("down")
		if _, errs := all(); n != 2 || errs != 10 {
			t.Errorf("%d fetched, %d errors", n, errs)
		}
		failure = nil
		if values, errs := all(); n != 3 || errs != 0 || values[0] != 3 {
			t.Errorf("after an error %d fetched, values %v, %d errors", n, values, errs)
		}
		if b.drop(t.Context(), "x", func(v int) bool { return v == 2 }) {
			t.Error("another value was dropped")
		}
		if _, errs := all(); n != 3 || errs != 0 {
			t.Errorf("another value was dropped: %d fetched", n)
		}
		if !b.drop(t.Context(), "x", func(v int) bool { return v == 3 }) {
			t.Error("the value was not dropped")
		}
		if _, errs := all(); n != 4 || errs != 0 {
			t.Errorf("the value was not dropped: %d fetched", n)
		}
		b.put("x", 99, time.Minute)
		if values, _ := all(); n != 4 || values[0] != 99 {
			t.Errorf("%d fetched, values %v", n, values)
		}
	})
}

// TestBookLeader: when the caller who fetches goes away, the next one fetches.
func TestBookLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b book[int]
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := b.get(ctx, "x", func(ctx context.Context) (int, time.Duration, error) {
				<-ctx.Done()
				return 0, 0, ctx.Err()
			}); !errors.Is(err, context.Canceled) {
				t.Errorf("the first caller gets %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if v, err := b.get(t.Context(), "x", func(context.Context) (int, time.Duration, error) { return 7, time.Minute, nil }); v != 7 || err != nil {
				t.Errorf("the second caller gets %d, %v", v, err)
			}
		})
		late, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := b.get(late, "x", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller without patience gets %v", err)
		}
		cancel()
		wg.Wait()
	})
}

// TestBookIsBounded: many keys push others out.
func TestBookIsBounded(t *testing.T) {
	var b book[int]
	for i := range 2 * maxPages {
		b.put(strconv.Itoa(i), i, time.Minute)
	}
	if n := len(b.pages); n > maxPages {
		t.Errorf("%d pages", n)
	}
}
