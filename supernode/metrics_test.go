// SPDX-License-Identifier: Apache-2.0

package supernode

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/transfer"
)

// TestMetrics: v1's names that stand for something here (v1-protocol 13), and
// our own, after one download by two peers.
func TestMetrics(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 3)
		o.pace = 3 * time.Second
		p, q := w.peer(), w.peer()
		r := p.wants(url)
		r.Request.CallSystem = "ci"
		p.register(r)
		p.finish()
		w.wait(5 * time.Second)
		p.later(p.report())
		q.register(q.wants(url))
		q.finish()
		x := w.peer()
		x.register(x.wants(url))
		x.later(x.report(failure(x.sync().Assignments[0], dragonfly.FailReset)))
		w.sn.SeedSent(transfer.Sent{Bytes: 123, Copied: 120, Saved: 100})
		w.sn.Swept(2)
		if _, err := p.Register(w.Context(), p.wants("http://origin.test/missing")); err == nil {
			w.Error("registered")
		}
		for series, want := range map[string]string{
			`dragonfly_supernode_peers`:                                                  "4",
			`dragonfly_supernode_tasks{cdnstatus="SUCCESS"}`:                             "1",
			`dragonfly_supernode_tasks{cdnstatus="SOURCEERROR"}`:                         "1",
			`dragonfly_supernode_tasks_registered_total`:                                 "1",
			`dragonfly_supernode_dfgettasks{callsystem="ci",status="SUCCESS"}`:           "1",
			`dragonfly_supernode_dfgettasks_registered_total{callsystem="ci"}`:           "1",
			`dragonfly_supernode_dfgettasks_registered_total{callsystem=""}`:             "2",
			`dragonfly_supernode_dfgettasks_failed_total{callsystem=""}`:                 "1",
			`dragonfly_supernode_cdn_trigger_total`:                                      "2",
			`dragonfly_supernode_cdn_trigger_failed_total`:                               "1",
			`dragonfly_supernode_cdn_cache_hit_total`:                                    "0",
			`dragonfly_supernode_cdn_download_total`:                                     "1",
			`dragonfly_supernode_cdn_download_failed_total`:                              "0",
			`dragonfly_supernode_cdn_download_size_bytes_total`:                          "196608",
			`dragonfly_supernode_pieces_downloaded_size_bytes_total`:                     "196608",
			`dragonfly_supernode_gc_tasks_total`:                                         "0",
			`dragonfly_supernode_gc_peers_total`:                                         "0",
			`dragonfly_supernode_gc_disks_total`:                                         "2",
			`dragonfly_supernode_origin_bytes_total`:                                     "196608",
			`dragonfly_supernode_seed_egress_bytes_total`:                                "123",
			`dragonfly_supernode_seed_copied_bytes_total`:                                "120",
			`dragonfly_supernode_bytes_total{from="source"}`:                             "196608",
			`dragonfly_supernode_bytes_total{from="seed"}`:                               "196608",
			`dragonfly_supernode_bytes_total{from="peer"}`:                               "196608",
			`dragonfly_supernode_seed_saved_bytes_total`:                                 "100",
			`dragonfly_supernode_piece_failures_total{reason="reset"}`:                   "1",
			`dragonfly_supernode_charges_total`:                                          "0",
			`dragonfly_dfget_download_total{callsystem="ci"}`:                            "1",
			`dragonfly_dfget_download_size_bytes_total{callsystem="ci"}`:                 "196608",
			`dragonfly_dfget_download_duration_seconds_count{callsystem="ci"}`:           "1",
			`dragonfly_dfget_download_failed_total{callsystem="",reason="not-found"}`:    "1",
			`dragonfly_supernode_schedule_duration_milliseconds_bucket{le="+Inf"}`:       w.metric("dragonfly_supernode_schedule_duration_milliseconds_count"),
			`dragonfly_supernode_sync_duration_seconds_bucket{le="+Inf"}`:                w.metric("dragonfly_supernode_sync_duration_seconds_count"),
			`dragonfly_dfget_download_duration_seconds_bucket{callsystem="ci",le="600"}`: "1",
			`dragonfly_supernode_last_gc_disks_timestamp_seconds`:                        strconv.FormatFloat(float64(time.Now().Unix()), 'g', -1, 64),
		} {
			if got := w.metric(series); got != want {
				w.Errorf("%s is %q, want %q", series, got, want)
			}
		}
	})
}

// TestChargesAreCounted: a parent whose verified copy is good sent bad bytes.
func TestChargesAreCounted(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 1)
		o.held = true
		liar := w.peer()
		r := liar.has(url, o, 1)
		r.Holding = true
		liar.register(r)
		for i := range 2 {
			child := w.peer()
			child.register(child.wants(url))
			work := child.sync()
			if len(work.Assignments) != 1 || work.Assignments[0].Parent.Kind != dragonfly.ParentPeer {
				w.Fatalf("%+v", work)
			}
			child.later(child.report(failure(work.Assignments[0], dragonfly.FailMismatch)))
			if got := liar.questions(dragonfly.AskReverify); got != 1 {
				w.Fatalf("asked %d times", got)
			}
			liar.later(liar.report(dragonfly.Event{Kind: dragonfly.EventIntact, Task: taskOf(url), Version: o.version}))
			if got := w.metric("dragonfly_supernode_charges_total"); got != fmt.Sprint(i+1) {
				w.Errorf("%s charges", got)
			}
			child.later(child.report(dragonfly.Event{Kind: dragonfly.EventDropped, Task: taskOf(url)}))
		}
		if got := w.metric(`dragonfly_supernode_verdicts_total{verdict="quarantined"}`); got != "1" {
			w.Errorf("%q verdicts", got)
		}
		if got := w.sn.Peers()[1].Verdict; got != "quarantined: bad pieces at 2 hosts" {
			w.Errorf("shown as %q", got)
		}
		w.wait(2 * time.Minute)
		if got := w.sn.Peers()[1].Verdict; got != "" {
			w.Errorf("still %q", got)
		}
	})
}

// TestLabelsAreBounded: whatever peers say, the series stay few.
func TestLabelsAreBounded(t *testing.T) {
	inTime(t, nil, func(w *world) {
		url, o := w.source("a", 200)
		o.held = true
		p := w.peer()
		for i := range 100 {
			r := p.wants(url)
			r.Request.CallSystem = fmt.Sprintf("system%d", i)
			p.register(r)
			r.Request.URL = fmt.Sprintf("http://origin.test/missing%d", i)
			p.fails(r)
		}
		for i := range 100 {
			work := p.sync()
			if len(work.Assignments) == 0 {
				w.wait(time.Minute)
				continue
			}
			f := failure(work.Assignments[0], dragonfly.FailReason(fmt.Sprintf("because%d", i)))
			p.later(p.report(f))
		}
		values := map[string][]string{}
		for line := range strings.Lines(w.scrape()) {
			for _, m := range regexp.MustCompile(`[{,]([a-z]+)="([^"]*)"`).FindAllStringSubmatch(line, -1) {
				if !slices.Contains(values[m[1]], m[2]) {
					values[m[1]] = append(values[m[1]], m[2])
				}
			}
		}
		if got := values["callsystem"]; len(got) != maxCallSystems+1 || !slices.Contains(got, "other") {
			w.Errorf("callsystem: %d: %v", len(got), got)
		}
		if got := values["reason"]; !slices.Equal(got, []string{"not-found", "other"}) {
			w.Errorf("reason: %v", got)
		}
		for name := range values {
			if !slices.Contains([]string{"callsystem", "reason", "cdnstatus", "status", "from", "le", "result"}, name) {
				w.Errorf("label %s", name)
			}
		}
	})
}

func TestReasonLabels(t *testing.T) {
	for _, r := range []dragonfly.FailReason{dragonfly.FailRefused, dragonfly.FailReset, dragonfly.FailStalled, dragonfly.FailUnknown, dragonfly.FailVersion,
		dragonfly.FailIdentity, dragonfly.FailMismatch, dragonfly.FailSource, dragonfly.FailStore, dragonfly.FailCanceled} {
		if got := failLabel(r); got != string(r) {
			t.Errorf("%s: %s", r, got)
		}
	}
	if failLabel("") != "other" || failLabel("x") != "other" || kindLabel("x") != "other" || kindLabel(dragonfly.Throttled) != "throttled" {
		t.Error("unknown reasons have a label of their own")
	}
}

// TestGoneSessionsAreCounted: gc of peers.
func TestGoneSessionsAreCounted(t *testing.T) {
	inTime(t, nil, func(w *world) {
		w.peer()
		p := w.peer()
		if err := p.Close(w.Context(), "done"); err != nil {
			w.Fatal(err)
		}
		w.wait(4 * time.Minute)
		if got := w.metric("dragonfly_supernode_gc_peers_total"); got != "2" || w.metric("dragonfly_supernode_peers") != "1" {
			w.Errorf("%s went, %s are there", got, w.metric("dragonfly_supernode_peers"))
		}
	})
}
