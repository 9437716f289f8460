// SPDX-License-Identifier: Apache-2.0

package dragonfly_test

import (
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"dragonfly"
)

// TestParseMember: v1's host[:port][=weight], port 8002 and weight 1 unless
// said (v1-protocol 12.1).
func TestParseMember(t *testing.T) {
	for _, v := range []struct {
		text, addr string
		weight     int
	}{
		{"supernode01", "supernode01:8002", 1},
		{" supernode01 ", "supernode01:8002", 1},
		{"supernode01:9002", "supernode01:9002", 1},
		{"supernode01=2", "supernode01:8002", 2},
		{"supernode01:9002=65536", "supernode01:9002", 65536},
		{"127.0.0.1", "127.0.0.1:8002", 1},
		{"127.0.0.1:1=3", "127.0.0.1:1", 3},
		{"::1", "[::1]:8002", 1},
		{"[::1]", "[::1]:8002", 1},
		{"[::1]:9002", "[::1]:9002", 1},
		{"[fe80::1%eth0]:9002=4", "[fe80::1%eth0]:9002", 4},
		{"2001:db8::5=2", "[2001:db8::5]:8002", 2},
	} {
		got, err := dragonfly.ParseMember(v.text)
		want := dragonfly.Member{ID: v.addr, Addr: v.addr, Weight: v.weight}
		if err != nil || got != want {
			t.Errorf("ParseMember(%q) = %+v, %v, want %+v", v.text, got, err, want)
		}
	}
	for _, bad := range []string{"", "=2", ":8002", "a:", "a:0", "a:65536", "a:http", "a:1:2:x=", "a=0", "a=-1", "a=x", "a=65537", "http://a:8002", "a/b", "a b", "u@a", "[::1]:x", "0]00::0000", "[[::1]]", "a:b:c", "[\r0", "a\x00", "a:+80", "é"} {
		if got, err := dragonfly.ParseMember(bad); err == nil {
			t.Errorf("ParseMember(%q) = %+v, want an error", bad, got)
		}
	}
}

func members(weights ...int) []dragonfly.Member {
	var out []dragonfly.Member
	for i, w := range weights {
		addr := fmt.Sprintf("supernode%02d:8002", i)
		out = append(out, dragonfly.Member{ID: addr, Addr: addr, Weight: w})
	}
	return out
}

func numberedTask(n int) dragonfly.TaskID { return sha256.Sum256(fmt.Appendf(nil, "task %d", n)) }

func ids(ranked []dragonfly.Member) []string {
	var out []string
	for _, m := range ranked {
		out = append(out, m.ID[len("supernode"):len("supernode")+2])
	}
	return out
}

// TestRankGolden pins the order: it is a protocol, every peer and supernode of
// any build must compute the same.
func TestRankGolden(t *testing.T) {
	for task, want := range rankGolden {
		if got := fmt.Sprint(ids(dragonfly.Rank(numberedTask(task), members(1, 1, 2, 4)))); got != want {
			t.Errorf("task %d: %s, want %s", task, got, want)
		}
	}
}

// TestRankProperties: a permutation, the same for every order of the input,
// that does not touch its argument, and that keeps its order when a member
// leaves: only the tasks of that member move.
func TestRankProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 8), 1, 9).Draw(t, "weights")
		task := numberedTask(rapid.Int().Draw(t, "task"))
		all := members(weights...)
		ranked := dragonfly.Rank(task, all)
		if !slices.Equal(all, members(weights...)) {
			t.Fatal("Rank changes its argument")
		}
		if other := dragonfly.Rank(task, rapid.Permutation(all).Draw(t, "order")); !slices.Equal(ranked, other) {
			t.Fatalf("order of the input matters: %v, %v", ranked, other)
		}
		leaver := rapid.IntRange(0, len(all)-1).Draw(t, "leaver")
		rest := dragonfly.Rank(task, slices.Delete(slices.Clone(all), leaver, leaver+1))
		want := slices.DeleteFunc(slices.Clone(ranked), func(m dragonfly.Member) bool { return m == all[leaver] })
		if !slices.Equal(rest, want) {
			t.Fatalf("without %s: %v, want %v", all[leaver].ID, ids(rest), ids(want))
		}
	})
}

// TestRankWeights: the share of tasks that a member owns is its share of the
// weights.
func TestRankWeights(t *testing.T) {
	weights := []int{1, 2, 3, 4}
	const tasks = 20000
	owned := map[string]int{}
	for i := range tasks {
		owned[dragonfly.Rank(numberedTask(i), members(weights...))[0].ID]++
	}
	for i, m := range members(weights...) {
		got, want := float64(owned[m.ID])/tasks, float64(weights[i])/10
		// Five standard deviations of the binomial; the draw is fixed anyhow.
		if limit := 5 * math.Sqrt(want*(1-want)/tasks); math.Abs(got-want) > limit {
			t.Errorf("%s with weight %d owns %.3f, want %.3f ± %.3f", m.ID, weights[i], got, want, limit)
		}
	}
}

// TestRankEdges: nobody, and a weight that was never set.
func TestRankEdges(t *testing.T) {
	if got := dragonfly.Rank(numberedTask(1), nil); len(got) != 0 {
		t.Errorf("ranks %v out of nobody", got)
	}
	if got := dragonfly.Rank(numberedTask(1), members(0, -3)); len(got) != 2 {
		t.Errorf("ranks %v", got)
	}
}

func FuzzParseMember(f *testing.F) {
	f.Add("supernode01:9002=2")
	f.Add("[::1]:8002")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := dragonfly.ParseMember(s)
		if err != nil {
			return
		}
		back, err := dragonfly.ParseMember(m.String())
		if err != nil || back != m {
			t.Fatalf("%q is %+v and comes back as %+v, %v", s, m, back, err)
		}
	})
}

var rankGolden = map[int]string{
	0: "[03 02 00 01]",
	1: "[03 01 00 02]",
	2: "[03 00 02 01]",
	3: "[03 02 00 01]",
	4: "[03 01 02 00]",
	5: "[01 03 00 02]",
}
