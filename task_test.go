// SPDX-License-Identifier: Apache-2.0

package dragonfly_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dragonfly"
)

// vectorURL is the URL of the recorded task ids (v1-protocol 4.1).
const vectorURL = "http://127.0.0.1:20080/pattern/1000"

// TestTaskIDVectors holds every recorded id of v1-protocol 4.1, spelled as a
// v1 supernode gave it.
func TestTaskIDVectors(t *testing.T) {
	const md5 = "0123456789abcdef0123456789abcdef"
	for _, v := range []struct {
		name, url, taskURL, md5, identifier string
		headers                             []string
		want                                string
	}{
		{"plain", vectorURL, vectorURL, "", "", nil,
			"86da1b6600fbc112901e4624eda10219de0099ddc13cc59bcd23658a452dc93c"},
		{"query", vectorURL + "?a=1&b=2", vectorURL + "?a=1&b=2", "", "", nil,
			"31ec5ee1033050eca04e06d5ab028d02d68af126dd26772788138796584e9044"},
		{"filter b", vectorURL + "?a=1&b=2", dragonfly.FilterURL(vectorURL+"?a=1&b=2", []string{"b"}), "", "", nil,
			"b83ce075213d70c8376c1a707aab26ee2a3aed711481cae114929b337c4a9100"},
		{"filter all", vectorURL + "?a=1", dragonfly.FilterURL(vectorURL+"?a=1", []string{"a"}), "", "", nil,
			"86da1b6600fbc112901e4624eda10219de0099ddc13cc59bcd23658a452dc93c"},
		{"md5", vectorURL, vectorURL, md5, "", nil,
			"531aeb2843156fee996d601172d40556c515cf846aebe09225f754b9b81db4e9"},
		{"md5 before identifier", vectorURL, vectorURL, md5, "id-7", nil,
			"531aeb2843156fee996d601172d40556c515cf846aebe09225f754b9b81db4e9"},
		{"identifier", vectorURL, vectorURL, "", "id-7", nil,
			"14b4ffd408c2b0aa59a4bc42c62a5547f9a20b742ed848c887167c3e97ff1337"},
		{"range", vectorURL, vectorURL, "", "", []string{"Range: bytes=10-99"},
			"fb8d478138646f77382db67ac227a85abc4df7a33058ba1aa9864066d01af018"},
		{"range and identifier", vectorURL, vectorURL, "", "id-7", []string{"Range:bytes=10-99"},
			"93f7f958af13e3a5e903e2d3c9aa3f009c81d7ab2ca89cc05ed23217f3bdd82d"},
		{"range in lower case", vectorURL, vectorURL, "", "", []string{"range: bytes=10-99"},
			"86da1b6600fbc112901e4624eda10219de0099ddc13cc59bcd23658a452dc93c"},
		{"other header", vectorURL, vectorURL, "", "", []string{"X-A: 1"},
			"86da1b6600fbc112901e4624eda10219de0099ddc13cc59bcd23658a452dc93c"},
		{"no task url", vectorURL + "?z=9", "", "", "", nil,
			"d70e1b2cf791ec1ffaadc9e70c3b8255ecbeaa10bd118b12ccd013a08626f2ee"},
		{"blank task url", vectorURL + "?z=9", "  ", "", "", nil,
			"d70e1b2cf791ec1ffaadc9e70c3b8255ecbeaa10bd118b12ccd013a08626f2ee"},
		{"chunked", "http://127.0.0.1:20080/chunked/5000000", "", "", "", nil,
			"03c3787df2f52689a17eaefc25fbcbbf38722e4b271190821f71565438e802dd"},
		{"preheat", "http://127.0.0.1:20080/pattern/3000?k=1",
			dragonfly.FilterURL("http://127.0.0.1:20080/pattern/3000?k=1", []string{"k"}), "", "i", nil,
			"25bf1bcdf6e02a5f55033312e4aaa8a7762102aa1bb1e9aa49c2ca9fe3ce11d9"},
	} {
		t.Run(v.name, func(t *testing.T) {
			digest, err := dragonfly.ParseDigest(v.md5)
			if err != nil {
				t.Fatal(err)
			}
			r := dragonfly.Request{
				URL: v.url, TaskURL: v.taskURL, Digest: digest, Identifier: v.identifier,
				Header: dragonfly.ParseHeader(v.headers),
			}
			if got := r.TaskID().String(); got != v.want {
				t.Errorf("task id %s, want %s", got, v.want)
			}
		})
	}
}

// TestTaskIDKey pins the key that frames the hashed text by its own SHA-256
// (v1-protocol 4.1); a task with nothing in it is the key twice.
func TestTaskIDKey(t *testing.T) {
	key := `>I$pg-~AS~sP'rqu_` + "`" + `Oh&lz#9]"=;nE%`
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(key))); got != "db9d38bba4fca4ab0f507daea920c4f7ad648f69fff64e86b715363e631bdd2b" {
		t.Errorf("SHA-256 of the key is %s", got)
	}
	want := dragonfly.TaskID(sha256.Sum256([]byte(key + key)))
	if got := (dragonfly.Request{}).TaskID(); got != want {
		t.Errorf("id of the empty request is %s, want %s", got, want)
	}
}

// TestTaskIDOfDigests: sha256 stands where md5 stands, as sha256:HEX, and a
// blank identifier counts for nothing.
func TestTaskIDOfDigests(t *testing.T) {
	text := "sha256:" + strings.Repeat("ab", 32)
	digest, err := dragonfly.ParseDigest(text)
	if err != nil {
		t.Fatal(err)
	}
	byDigest := dragonfly.Request{URL: vectorURL, Digest: digest, Identifier: "unused"}.TaskID()
	byIdentifier := dragonfly.Request{URL: vectorURL, Identifier: text}.TaskID()
	if byDigest != byIdentifier {
		t.Errorf("digest %s gives %s, the same text as identifier %s", text, byDigest, byIdentifier)
	}
	plain := dragonfly.Request{URL: vectorURL}.TaskID()
	if got := (dragonfly.Request{URL: vectorURL, Identifier: " \t"}).TaskID(); got != plain {
		t.Errorf("a blank identifier changes the id")
	}
	two := dragonfly.ParseHeader([]string{"Range: bytes=0-1", "Range: bytes=4-5"})
	one := dragonfly.ParseHeader([]string{"Range: bytes=0-1,bytes=4-5"})
	if (dragonfly.Request{URL: vectorURL, Header: two}).TaskID() != (dragonfly.Request{URL: vectorURL, Header: one}).TaskID() {
		t.Errorf("repeated Range headers are not joined by a comma")
	}
}

// TestNames: what gives the same TaskID is told apart, and what is the same
// content is not.
func TestNames(t *testing.T) {
	whole := dragonfly.Request{URL: "http://h/private/file"}
	for _, r := range []dragonfly.Request{
		{URL: "http://h/", Identifier: "private/file"},
		{URL: "http://h/private/", Header: dragonfly.Header{"Range": {"file"}}},
		{URL: "http://h/other", TaskURL: "http://h/priv", Identifier: "ate/file"},
	} {
		if r.TaskID() != whole.TaskID() || r.Name() == whole.Name() {
			t.Errorf("%s: id %s, name %x", r.URL, r.TaskID(), r.Name())
		}
	}
	same := dragonfly.Request{URL: "http://h/private/file?sign=x", TaskURL: whole.URL, Header: dragonfly.Header{"range": {"x"}}}
	if same.Name() != whole.Name() {
		t.Error("another name for the same content")
	}
}

func TestParseTaskID(t *testing.T) {
	id := dragonfly.Request{URL: vectorURL}.TaskID()
	back, err := dragonfly.ParseTaskID(id.String())
	if err != nil || back != id {
		t.Errorf("ParseTaskID(%s) = %s, %v", id, back, err)
	}
	for _, bad := range []string{"", "86da", strings.Repeat("g", 64), id.String() + "00", "../" + id.String()[3:]} {
		if _, err := dragonfly.ParseTaskID(bad); err == nil {
			t.Errorf("ParseTaskID(%q) gives no error", bad)
		}
	}
	if !(dragonfly.TaskID{}).IsZero() || id.IsZero() {
		t.Error("IsZero is wrong")
	}
}

// TestFilterURL: exact names only, order kept, nothing else normalised
// (v1-protocol 4.1).
func TestFilterURL(t *testing.T) {
	for _, v := range []struct {
		url   string
		names []string
		want  string
	}{
		{"http://o/f", []string{"a"}, "http://o/f"},
		{"http://o/f?a=1&b=2", nil, "http://o/f?a=1&b=2"},
		{"http://o/f?a=1&b=2", []string{"b"}, "http://o/f?a=1"},
		{"http://o/f?a=1&b=2", []string{"a"}, "http://o/f?b=2"},
		{"http://o/f?a=1&b=2", []string{"a", "b"}, "http://o/f"},
		{"http://o/f?a=1&ab=2", []string{"a"}, "http://o/f?ab=2"},
		{"http://o/f?A=1&a=2", []string{"a"}, "http://o/f?A=1"},
		{"http://o/f?a&b=2", []string{"a"}, "http://o/f?b=2"},
		{"http://o/f?a=1=2&b", []string{"a"}, "http://o/f?b"},
		{"http://o/f?b=2&a=1&b=3&a=4", []string{"a"}, "http://o/f?b=2&b=3"},
		{"http://o/f?x=1?a=2&a=3", []string{"a"}, "http://o/f?x=1?a=2"},
		{"http://o/f?", []string{"a"}, "http://o/f?"},
		{"HTTP://O:80/f?b=%41&a=1", []string{"a"}, "HTTP://O:80/f?b=%41"},
	} {
		if got := dragonfly.FilterURL(v.url, v.names); got != v.want {
			t.Errorf("FilterURL(%q, %q) = %q, want %q", v.url, v.names, got, v.want)
		}
	}
}

// TestParseHeader: split at the first colon, both sides trimmed, lines without
// colon or value dropped (v1-protocol 4.1).
func TestParseHeader(t *testing.T) {
	got := dragonfly.ParseHeader([]string{"A: 1", "A:2", " B : x:y ", "no colon", "C:", ": v", "D:  "})
	want := dragonfly.Header{"A": {"1", "2"}, "B": {"x:y"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if dragonfly.ParseHeader(nil) != nil {
		t.Error("no lines give a header")
	}
}

// TestSecretsNeverPrint: whichever way a header, a ticket or something that
// holds them is printed or logged, no value is in it.
func TestSecretsNeverPrint(t *testing.T) {
	const secret = "Basic c2VjcmV0"
	var ticket dragonfly.Ticket
	copy(ticket[:], "sixteen byte key")
	header := dragonfly.Header{"Authorization": {secret}, "Accept": {"also-" + secret}}
	request := dragonfly.Request{URL: vectorURL, Header: header}
	info := dragonfly.TaskInfo{Ticket: ticket}

	var log bytes.Buffer
	json := slog.New(slog.NewJSONHandler(&log, nil))
	text := slog.New(slog.NewTextHandler(&log, nil))
	for _, l := range []*slog.Logger{json, text} {
		l.Info("header", "header", header, "ticket", ticket)
	}
	text.Info("structs", "request", request, "info", info)
	var out strings.Builder
	out.WriteString(log.String())
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, value := range []any{header, ticket, request, &request, info, &info} {
			fmt.Fprintf(&out, verb, value)
		}
	}
	for _, leak := range []string{secret, "c2VjcmV0", ticket.Secret(), "sixteen byte key"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q is printed in:\n%s", leak, out.String())
		}
	}
	if header.String() != "[Accept Authorization]" {
		t.Errorf("header prints as %s, want its sorted names", header)
	}
}

// TestTicketRoundTrip: tickets cross the wire inside JSON, and a bad one is
// refused without being repeated.
func TestTicketRoundTrip(t *testing.T) {
	ticket := dragonfly.Ticket{1, 2, 0xff}
	raw, err := json.Marshal(dragonfly.TaskInfo{Ticket: ticket})
	if err != nil {
		t.Fatal(err)
	}
	var back dragonfly.TaskInfo
	if err := json.Unmarshal(raw, &back); err != nil || back.Ticket != ticket {
		t.Errorf("%v, %v", back.Ticket.Secret(), err)
	}
	var bad dragonfly.Ticket
	if err := bad.UnmarshalText([]byte("not-a-ticket")); err == nil || strings.Contains(err.Error(), "not-a-ticket") {
		t.Errorf("error %v: want one that does not repeat the text", err)
	}
}
