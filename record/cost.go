// SPDX-License-Identifier: Apache-2.0

package record

import (
	"fmt"
	"math/bits"
	"time"
)

// Costs are how long steps took, in buckets of an eighth of a power of two.
type Costs struct {
	count   uint64
	total   time.Duration
	slowest time.Duration
	buckets [64 * 8]uint64
}

func (c *Costs) add(d time.Duration) {
	d = max(d, 1)
	c.count++
	c.total += d
	c.slowest = max(c.slowest, d)
	c.buckets[bucket(d)]++
}

// bucket is by the highest set bit and the three below it.
func bucket(d time.Duration) int {
	high := bits.Len64(uint64(d))
	return (high-1)*8 + int(uint64(d)<<(64-high)>>60&7)
}

// edge is what no duration in a bucket exceeds.
func edge(bucket int) time.Duration {
	high, eighths := bucket/8, 8+bucket%8+1
	if high < 3 {
		return time.Duration(eighths << high >> 3)
	}
	return time.Duration(eighths << (high - 3))
}

// Average is 0 when there was no step.
func (c *Costs) Average() time.Duration { return c.total / time.Duration(max(1, c.count)) }

func (c *Costs) Slowest() time.Duration { return c.slowest }

// Share is what so large a share of the steps did not exceed, at most an eighth
// too much.
func (c *Costs) Share(share float64) time.Duration {
	left := uint64(share * float64(c.count))
	for i, n := range c.buckets {
		if n > left {
			return min(edge(i), c.slowest)
		}
		left -= n
	}
	return c.slowest
}

func (c Costs) String() string {
	return fmt.Sprintf("%v on average, 99 %% within %v, at most %v", c.Average(), c.Share(0.99), c.slowest)
}
