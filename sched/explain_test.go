// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReasons: each decision comes with the reason that the books give for it.
func TestReasons(t *testing.T) {
	const start = "task 4\njoin 1 seed\nopen 1\nhold 1\n"
	for _, c := range []struct {
		name, script string
		peer         Peer
		want         []Choice // of the decisions about peer behind the script's «now» line
	}{
		{"nobody has it", start + "now\njoin 2\nopen 2\nwant 2 slots=1", 1,
			[]Choice{ChoiceSource, ChoiceSource, ChoiceSource, ChoiceSource}},
		{"the seed alone has it", start + "hold 1 held=0-3\nnow\njoin 2\nopen 2\nwant 2 slots=1", 2,
			[]Choice{ChoiceSeedFirst}},
		{"the peers that have it are busy", start + "hold 1 held=0-3\njoin 2 up=1\nopen 2\nhold 2 held=0-3\njoin 3\nopen 3\nwant 3 slots=1\nnow\njoin 4\nopen 4\nwant 4 slots=1 only=3", 4,
			[]Choice{ChoiceSeedBusy}},
		{"one peer has it", start + "join 2\nopen 2\nhold 2 held=2\nnow\njoin 4\nopen 4\nwant 4 slots=1 only=2", 4,
			[]Choice{ChoiceOnly}},
		{"same rack", start + "join 2\nopen 2\nhold 2 held=2\njoin 3 rack=r\nopen 3\nhold 3 held=2\nnow\njoin 4 rack=r\nopen 4\nwant 4 slots=1 only=2", 4,
			[]Choice{ChoiceRack}},
		{"equally near", start + "join 2\nopen 2\nhold 2 held=2\njoin 3\nopen 3\nhold 3 held=2\nnow\njoin 4\nopen 4\nwant 4 slots=1 only=2", 4,
			[]Choice{ChoiceLoad}},
		{"the same goes on", start + "join 2\nopen 2\nhold 2 held=2-3\njoin 3\nopen 3\nhold 3 held=2-3\njoin 4\nopen 4\nwant 4 slots=1 only=2-3\nnow\ndone 4 2\ndone 4 3", 4,
			[]Choice{ChoiceSame}},
		{"the parent leaves", start + "hold 1 held=0-3\njoin 2\nopen 2\nhold 2 held=0\njoin 3\nopen 3\nwant 3 slots=1 only=0\nnow\nleave 2", 3,
			[]Choice{ChoiceParentGone, ChoiceSeedFirst}},
		{"the parent loses it", start + "hold 1 held=0-3\njoin 2\nopen 2\nhold 2 held=0\njoin 3\nopen 3\nwant 3 slots=1 only=0\nnow\nlost 2 0", 3,
			[]Choice{ChoiceParentLost, ChoiceSeedFirst}},
		{"it has it already", start + "hold 1 held=0-3\njoin 3\nopen 3\nwant 3 slots=1 only=0\nnow\nwant 3 held=0 only=0", 3,
			[]Choice{ChoiceHeld}},
		{"it stops", start + "hold 1 held=0-3\njoin 3\nopen 3\nwant 3 slots=1 only=0\nnow\nstop 3", 3,
			[]Choice{ChoiceUnwanted}},
		{"it drops the task", start + "hold 1 held=0-3\njoin 3\nopen 3\nwant 3 slots=1 only=0\nnow\ndrop 3", 3,
			[]Choice{ChoiceStartAgain}},
		{"it does not hear", "unacked\n" + start + "hold 1 held=0-3\njoin 3\nopen 3\nwant 3 slots=1 only=0\nnow\nwait 2s", 3,
			[]Choice{ChoiceUnheard, ChoiceSeedFirst}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(Config{Seed: 1})
			var got []Choice
			for line := range strings.Lines(c.script) {
				if strings.TrimSpace(line) == "now" {
					s.m.Observe(func(d Decision) {
						if d.Action.Peer == c.peer {
							got = append(got, d.Choice)
						}
						if text := d.String(); !strings.Contains(text, string(d.Choice)) {
							t.Errorf("%q does not say %s", text, d.Choice)
						}
					})
					continue
				}
				s.line(t, line)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s", cmp.Diff(c.want, got))
			}
		})
	}
}

// TestVerdictsAreTold: decisions that say why by themselves reach the observer,
// with the step's time.
func TestVerdictsAreTold(t *testing.T) {
	s := newStory(Config{Seed: 1})
	var told []string
	s.m.Observe(func(d Decision) {
		if d.Action.Kind == Forgotten || d.Action.Kind == Exhausted {
			told = append(told, d.String())
			if d.At != s.now {
				t.Errorf("%v at %d, now is %d", d, d.At, s.now)
			}
		}
	})
	for line := range strings.Lines("task 1\nclosed\njoin 2\nopen 2\nwant 2\nclose 2\nwait 4m") {
		s.line(t, line)
	}
	want := []string{"piece 0 cannot be had: no copy and the source is closed", "forgotten: it did not listen for long"}
	if !slices.Equal(told, want) {
		t.Errorf("%q", told)
	}
}

// TestWords: each of the closed lists is said in words.
func TestWords(t *testing.T) {
	for _, c := range []Choice{ChoiceSource, ChoiceSeedFirst, ChoiceSeedBusy, ChoiceSeedForced, ChoiceOnly, ChoiceSame, ChoiceHost, ChoiceRack, ChoiceZone,
		ChoiceLoad, ChoiceChildGone, ChoiceParentGone, ChoiceParentLost, ChoiceHeld, ChoiceUnwanted, ChoiceUnheard, ChoiceFoundBetter, ChoiceStartAgain} {
		if c.Words() == string(c) {
			t.Errorf("%s has no words", c)
		}
	}
	for _, r := range []Reason{WaitSlots, WaitSource, WaitParents, WaitBlacklist, WaitIsolated, WaitSilent, WaitClosed, WaitFree, WaitUnverified, WaitPause} {
		if r.Words() == string(r) {
			t.Errorf("%s has no words", r)
		}
	}
	if ChoiceNone.Words() != "" || WaitNothing.Words() != "" {
		t.Error("nothing has words")
	}
}
