// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/json"
	"testing"

	"dragonfly"
)

// roundTrips is the property of every message: what can be read can be
// written, and reads as the same.
func roundTrips[T any](f *testing.F, seeds ...string) {
	for _, s := range append(seeds, "", "{}", "[]", "null", `{"x":[[[{}]]]}`) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		const limit = 64 << 10
		if len(text) > limit {
			return
		}
		var v T
		if err := decode(text, limit, &v); err != nil {
			if what := describe(err); len(what) > 300 {
				t.Fatalf("%q is refused with %q", text, what)
			}
			return
		}
		first, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%q reads as %+v, which cannot be written: %v", text, v, err)
		}
		var again T
		if err := json.Unmarshal(first, &again); err != nil {
			t.Fatalf("%q is written as %q: %v", text, first, err)
		}
		second, err := json.Marshal(again)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%q is written as %q, then as %q, %v", text, first, second, err)
		}
	})
}

func FuzzHello(f *testing.F) {
	roundTrips[dragonfly.Hello](f, `{"protocol":1,"agent":"00","build":"b","host":{"name":"h","uploads":5},"addrs":["127.0.0.1:20301","[::1]:1"]}`)
}

func FuzzWelcome(f *testing.F) {
	roundTrips[dragonfly.Welcome](f, `{"session":"s","node":{"id":"a","addr":"a:1","weight":1},"members":[],"poll":20000000000,"ip":"::ffff:1.2.3.4"}`)
}

func FuzzRegistration(f *testing.F) {
	roundTrips[dragonfly.Registration](f, `{"job":"j","request":{"url":"http://o/f","digest":"sha256:00","headers":{"Range":["bytes=0-1"]},"rootCAs":"UEVN"},"version":"00112233445566778899aabbccddeeff","layout":{"length":-1,"pieceLen":3},"held":"/wE"}`)
}

func FuzzTaskInfo(f *testing.F) {
	roundTrips[dragonfly.TaskInfo](f, `{"task":"0000000000000000000000000000000000000000000000000000000000000000","ticket":"00112233445566778899aabbccddeeff","inline":"aGVsbG8=","failed":{"kind":"not-found","message":"m"}}`)
}

func FuzzReport(f *testing.F) {
	roundTrips[dragonfly.Report](f, `{"seq":18446744073709551615,"ack":1,"free":-1,"events":[{"kind":"verified","piece":2147483647,"offset":-1},null]}`)
}

func FuzzWork(f *testing.F) {
	roundTrips[dragonfly.Work](f, `{"seq":1,"assignments":[{"id":1,"span":{"from":0,"to":1},"parent":{"kind":"peer","addrs":["10.0.0.1:1"],"cid":"c"}}],"cancellations":[1],"manifest":[{"first":1,"digests":["00"]}],"questions":[{"kind":"reverify"}]}`)
}

// FuzzError: what is taken for an error of ours has a kind that we know.
func FuzzError(f *testing.F) {
	for _, s := range []string{`{"kind":"invalid","message":"m"}`, `{"code":404,"message":"no"}`, `{"kind":"later"}`, `{"kind":"not-owner","members":[{}]}`, "null", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := decodeError(text)
		if err != nil {
			return
		}
		if _, known := statuses[e.Kind]; !known || e.Err != nil {
			t.Fatalf("%q is %+v", text, e)
		}
	})
}
