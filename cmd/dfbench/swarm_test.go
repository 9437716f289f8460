// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"dragonfly/internal/network"
)

func TestLinkRate(t *testing.T) {
	for text, want := range map[string]linkRate{"20mbit": 2_500_000, "1gbit": 125_000_000, "2MB": 2 << 20, "0.5mbit": 62_500} {
		var r linkRate
		if err := r.Set(text); err != nil || r != want {
			t.Errorf("%s: %d, %v, want %d", text, r, err, want)
		}
	}
	for _, text := range []string{"", "mbit", "-1mbit", "20mib", "1e99gbit", "0"} {
		var r linkRate
		if err := r.Set(text); err == nil {
			t.Errorf("%q is taken for %d", text, r)
		}
	}
}

func TestMetainfo(t *testing.T) {
	info, err := metainfo("http://a/announce", "file", strings.NewReader(strings.Repeat("x", torrentPiece+1)))
	if err != nil {
		t.Fatal(err)
	}
	const head = "d8:announce17:http://a/announce4:infod6:lengthi262145e4:name4:file12:piece lengthi262144e6:pieces40:"
	if !strings.HasPrefix(string(info), head) || len(info) != len(head)+40+2 {
		t.Errorf("%q", info)
	}
}

func TestTorrentTracker(t *testing.T) {
	var tracker torrentTracker
	a, b := netip.MustParseAddrPort("10.0.0.1:258"), netip.MustParseAddrPort("10.0.0.2:3")
	for i, c := range []struct {
		who  netip.AddrPort
		want string
	}{
		{a, "d8:intervali5e5:peers0:e"},
		{b, "d8:intervali5e5:peers6:\x0a\x00\x00\x01\x01\x02e"},
		{b, "d8:intervali5e5:peers6:\x0a\x00\x00\x01\x01\x02e"},
	} {
		if got := tracker.announce(c.who); got != c.want {
			t.Errorf("%d: %q, want %q", i, got, c.want)
		}
	}
}

func TestParseProcessor(t *testing.T) {
	then := parseProcessor("cpu  10 0 10 100 20 0 0 0 0 0")
	now := parseProcessor("cpu  40 10 30 150 30 5 5 0 7 0")
	if got := now.since(then); got != 70.0/130 {
		t.Errorf("%v busy, want %v", got, 70.0/130)
	}
	if got := then.since(now); got != 0 {
		t.Errorf("backwards: %v", got)
	}
}

// TestDrawings: what is drawn is XML and shows every system and host.
func TestDrawings(t *testing.T) {
	rep := report{Size: 4 << 20, Rate: 2_500_000, Bound: 1.7,
		Runs:      []outcome{{System: "curl", Peers: 2, Slowest: 3.5}, {System: "ours", Peers: 2, Slowest: 1.8}, {System: "aria2", Peers: 2, Slowest: 9, GivenUp: true}},
		Simulated: []point{{2, 1.75}, {1200, 1.9}}}
	moment := func(s int, n int64) sample {
		return sample{time.Duration(s) * time.Second, []network.Traffic{{Out: n}, {In: n, Out: n}, {In: n}}}
	}
	run := outcome{System: "ours", Peers: 1, traffic: []sample{moment(0, 0), moment(1, 2_500_000)}}
	for name, c := range map[string]struct {
		svg        []byte
		has, hasNo string
	}{
		"chart":    {drawChart(rep), ">ours, simulated<", "aria2"},
		"timeline": {timeline(run, 2_500_000), `fill-opacity="1.00"`, "peer 2"},
	} {
		for d := xml.NewDecoder(bytes.NewReader(c.svg)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if !bytes.Contains(c.svg, []byte(c.has)) || bytes.Contains(c.svg, []byte(c.hasNo)) {
			t.Errorf("%s: want %q and not %q in\n%s", name, c.has, c.hasNo, c.svg)
		}
	}
}
