// SPDX-License-Identifier: Apache-2.0

package dragonfly_test

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"

	"dragonfly"
)

// TestRateGrammar: v1-protocol 12.3, a number of bytes or a number with a
// unit, factors of 1024; printed with the largest exact unit.
func TestRateGrammar(t *testing.T) {
	for _, v := range []struct {
		text    string
		want    dragonfly.Rate
		printed string
	}{
		{"0", 0, "0B"},
		{"0B", 0, "0B"},
		{"1", 1, "1B"},
		{"1023", 1023, "1023B"},
		{"1024", 1024, "1KB"},
		{"7B", 7, "7B"},
		{"64KB", 64 << 10, "64KB"},
		{"64K", 64 << 10, "64KB"},
		{"64k", 64 << 10, "64KB"},
		{"20MB", 20 << 20, "20MB"},
		{"20M", 20 << 20, "20MB"},
		{"20m", 20 << 20, "20MB"},
		{"3GB", 3 << 30, "3GB"},
		{"3G", 3 << 30, "3GB"},
		{"3g", 3 << 30, "3GB"},
		{"1536K", 1536 << 10, "1536KB"},
		{"2048K", 2 << 20, "2MB"},
		{"020MB", 20 << 20, "20MB"},
	} {
		got, err := dragonfly.ParseRate(v.text)
		if err != nil || got != v.want || got.String() != v.printed {
			t.Errorf("ParseRate(%q) = %d (%s), %v, want %d (%s)", v.text, got, got, err, v.want, v.printed)
		}
	}
	for _, bad := range []string{"", "B", "MB", "-1", "-1MB", "+1", "1.5MB", "20 MB", " 20", "20mb", "20Mb", "20gb", "20TB", "1_000", "0x10", "9223372036854775808", "9223372036854775807KB", "20MBB", "twenty"} {
		if got, err := dragonfly.ParseRate(bad); err == nil {
			t.Errorf("ParseRate(%q) = %d, want an error", bad, got)
		}
	}
}

// TestRateRoundTrip: what is printed is read back, also as JSON and as a flag.
func TestRateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := dragonfly.Rate(rapid.Int64Min(0).Draw(t, "rate"))
		if back, err := dragonfly.ParseRate(r.String()); err != nil || back != r {
			t.Fatalf("%d prints as %s and comes back as %d, %v", r, r, back, err)
		}
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back dragonfly.Rate
		if err := json.Unmarshal(raw, &back); err != nil || back != r {
			t.Fatalf("%s comes back as %d, %v", raw, back, err)
		}
		var flag dragonfly.Size
		if err := flag.Set(dragonfly.Size(r).String()); err != nil || flag != dragonfly.Size(r) {
			t.Fatalf("size flag %s, %v", flag, err)
		}
	})
}

func FuzzParseRate(f *testing.F) {
	f.Add("20MB")
	f.Add("9223372036854775807")
	f.Add("1g")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := dragonfly.ParseRate(s)
		if err != nil {
			return
		}
		if back, err := dragonfly.ParseRate(r.String()); r < 0 || err != nil || back != r {
			t.Fatalf("%q is %d, prints as %s, comes back as %d, %v", s, r, r, back, err)
		}
	})
}
