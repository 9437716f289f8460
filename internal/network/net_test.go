// SPDX-License-Identifier: Apache-2.0

package network

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseTraffic(t *testing.T) {
	const dev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       1       1    0    0    0     0          0         0        1       1    0    0    0     0       0          0
 port1: 2000      12    0    0    0     0          0         0      300      4    0    0    0     0       0          0
 port0:10        1    0    0    0     0          0         0       20       1    0    0    0     0       0          0
 port7: 5       1    0    0    0     0          0         0       5       1    0    0    0     0       0          0
   hub:       5       1    0    0    0     0          0         0        5       1    0    0    0     0       0          0
`
	all := make([]Traffic, 2)
	if err := parseTraffic(strings.NewReader(dev), all); err != nil {
		t.Fatal(err)
	}
	if want := []Traffic{{In: 20, Out: 10}, {In: 300, Out: 2000}}; !slices.Equal(all, want) {
		t.Errorf("%+v, want %+v", all, want)
	}
	for _, bad := range []string{"port0: 1 2 3", "port0: x 0 0 0 0 0 0 0 1", "port0: 1 0 0 0 0 0 0 0 x"} {
		if err := parseTraffic(strings.NewReader(bad), all); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestQdisc(t *testing.T) {
	for _, c := range []struct {
		shape Shape
		want  string
	}{
		{Shape{Rate: 2_500_000, Queue: 50 * time.Millisecond}, "rate 20000000bit burst 16384 latency 50000us"},
		{Shape{Rate: 125_000_000, Queue: time.Millisecond}, "rate 1000000000bit burst 125000 latency 1000us"},
		{Shape{Rate: 1000, Queue: time.Second, Burst: 2000}, "rate 8000bit burst 2000 latency 1000000us"},
	} {
		if got := strings.Join(c.shape.Qdisc("d"), " "); got != "qdisc replace dev d root tbf "+c.want {
			t.Errorf("%+v: %s", c.shape, got)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	if _, err := Build(t.Context(), Options{Prefix: "x", Hosts: 1}); err == nil {
		t.Error("a network without address and rate is built")
	}
}
