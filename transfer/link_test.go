// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLinkRate(t *testing.T) {
	before := unix.TCPInfo{Bytes_acked: 1000, Busy_time: 500, Rwnd_limited: 7}
	for _, c := range []struct {
		name string
		now  unix.TCPInfo
		want float64
	}{
		{"nothing was sent", before, 0},
		{"1 MB in 100 ms", unix.TCPInfo{Bytes_acked: 1_001_000, Busy_time: 100_500, Rwnd_limited: 7}, 10e6},
		{"faster in the end", unix.TCPInfo{Bytes_acked: 1_001_000, Busy_time: 100_500, Rwnd_limited: 7, Delivery_rate: 40e6}, 40e6},
		{"the child waited a little", unix.TCPInfo{Bytes_acked: 1_001_000, Busy_time: 100_500, Rwnd_limited: 50_007}, 10e6},
		{"the child is slow", unix.TCPInfo{Bytes_acked: 1_001_000, Busy_time: 100_500, Rwnd_limited: 50_008}, 0},
	} {
		if got := linkRate(&before, &c.now); got != c.want {
			t.Errorf("%s: %g, want %g", c.name, got, c.want)
		}
	}
}

func TestGain(t *testing.T) {
	for _, c := range []struct {
		name               string
		rate, ratio, speed float64
		want               bool
	}{
		{"text over a slow link", 20e6, 4, 300e6, true},
		{"text over a fast link", 1e9, 4, 300e6, false},
		{"random bytes", 20e6, 1, 1e9, false},
		{"what hardly compresses", 20e6, 1.2, 500e6, false},
		{"a slow processor", 20e6, 4, 25e6, false},
	} {
		if got := gain(c.rate, c.ratio, c.speed) >= minGain; got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestSampled: of a content that does not compress fewer and fewer ranges are
// sampled, and each range of one that does.
func TestSampled(t *testing.T) {
	l := new(link)
	var skips []int
	for _, good := range []bool{true, false, false, false, false, false, false} {
		l.sampled(good)
		skips = append(skips, l.skip)
	}
	if want := []int{0, 1, 2, 4, 8, 16, 16}; !slices.Equal(skips, want) {
		t.Errorf("%v, want %v", skips, want)
	}
	n := 0
	for ; l.skips(); n++ {
	}
	if n != maxSkip {
		t.Errorf("%d ranges went by", n)
	}
	l.sampled(true)
	l.sampled(false)
	if l.skip != 1 {
		t.Errorf("%d ranges are not sampled after one that compressed", l.skip)
	}
}

// TestReserve: encoders take half of the processors at most, and none without end.
func TestReserve(t *testing.T) {
	var c compression
	var all []*encoder
	for e := c.get(); e != nil && len(all) < 2*maxEncoders; e = c.get() {
		all = append(all, e)
	}
	if len(all) != maxEncoders {
		t.Fatalf("%d encoders at once", len(all))
	}
	if !c.reserve(all[0], 600) || !c.reserve(all[1], 400) {
		t.Error("less than a core was refused")
	}
	if c.reserve(all[2], max(1000, int64(runtime.GOMAXPROCS(0))*500)) {
		t.Error("encoders take more than half of the processors")
	}
	for _, e := range all {
		c.put(e)
	}
	if c.count != 0 || c.load != 0 {
		t.Errorf("%d encoders and a load of %d are left", c.count, c.load)
	}
}
