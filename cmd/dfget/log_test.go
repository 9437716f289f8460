// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// line is v1's form of a log line.
var line = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBU|INFO|WARN|ERRO) sign:(\d+-\d+\.\d{3}) : (.+)$`)

// members are the names of a JSON object in their order, without its values.
func members(d *json.Decoder) (string, error) {
	token, err := d.Token()
	if err != nil {
		return "", err
	}
	switch token := token.(type) {
	case json.Delim:
		var names []string
		for d.More() {
			if token == '{' {
				name, err := d.Token()
				if err != nil {
					return "", err
				}
				names = append(names, name.(string))
			}
			inner, err := members(d)
			if err != nil {
				return "", err
			}
			if token == '{' && strings.HasPrefix(inner, "{") {
				names[len(names)-1] += ":" + inner
			}
		}
		if _, err := d.Token(); err != nil {
			return "", err
		}
		if token == '[' {
			return "[]", nil
		}
		return "{" + strings.Join(names, ",") + "}", nil
	}
	return "value", nil
}

// lineShape is a message without what differs from run to run.
func lineShape(text string) string {
	var out strings.Builder
	for text != "" {
		at := strings.IndexByte(text, '{')
		if at < 0 {
			break
		}
		out.WriteString(text[:at])
		d := json.NewDecoder(strings.NewReader(text[at:]))
		object, err := members(d)
		if err != nil { // v1 wrote some objects unescaped
			out.WriteString("{…")
			text = ""
			break
		}
		out.WriteString(object)
		text = text[at+int(d.InputOffset()):]
	}
	shape := out.String() + text
	for _, r := range [][2]string{
		{`params:\[.*\]$`, "params:[ARGV]"},
		{`(file path|src|dst|workspace):/[^ ]+`, "$1:PATH"},
		{`error:[^<].*$`, "error:ERROR"},
		{`\d+\.\d+\.\d+\.\d+:\d+`, "ADDRESS"},
		{`\d+(\.\d+)?(µs|ms|s)?\b`, "N"},
		{`start download \S+ from`, "start download NAME from"},
	} {
		shape = regexp.MustCompile(r[0]).ReplaceAllString(shape, r[1])
	}
	return shape
}

// logShapes are the shapes of a log's lines with their levels.
func logShapes(t *testing.T, text string) (out []string) {
	t.Helper()
	sign := ""
	for text := range strings.Lines(text) {
		m := line.FindStringSubmatch(strings.TrimSuffix(text, "\n"))
		if m == nil {
			if strings.TrimSpace(text) == "" || text == "\"}\n" || text == "\"})\n" {
				continue // v1's messages could have several lines
			}
			t.Fatalf("not v1's form: %q", text)
		}
		if sign != "" && m[2] != sign {
			t.Errorf("two signs of one download: %s and %s", sign, m[2])
		}
		sign = m[2]
		out = append(out, m[1]+" "+lineShape(m[3]))
	}
	return out
}

// recorded is a log of v1.
func recorded(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "v1", name))
	if err != nil {
		t.Fatal(err)
	}
	return logShapes(t, string(text))
}

// neverHere begins the lines that v1 wrote about steps that are not taken any
// more: the probe of the upload server over HTTP, pulls and their waiting, the
// question for a rate, the client's queue of pieces, the digest of the whole
// file by itself.
var neverHere = regexp.MustCompile(`^(INFO|WARN) (local http result:|pull piece task\(|pull rate result:|request piece result:|remaining piece to be written|wait client writer finish|compute raw md)`)

// TestLogOfV1: the lines of a download are v1's, in their order, with the same
// members in the same order (recordings of v1 in testdata).
func TestLogOfV1(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 10<<20)
	h.serve("--ip", "127.0.0.1")
	node := supernodeAt(t)
	args := []string{"-u", o.URL + "/pattern/10485760", "-o", h.path("a.bin"), "--node", node, "--home", h.home, "--ip", "127.0.0.1", "-s", "20MB"}
	if got := h.dfget(args...); got.status != 0 {
		t.Fatalf("exit status %d: %s", got.status, got.out)
	}
	ours, theirs := logShapes(t, h.log()), recorded(t, "dfclient-success.log")
	theirs = slices.DeleteFunc(theirs, neverHere.MatchString)
	// How many lines there are of pieces depends on the moment.
	if got, want := slices.Compact(ours), slices.Compact(theirs); !slices.Equal(got, want) {
		t.Errorf("ours:\n%s\nv1's:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !slices.ContainsFunc(ours, func(s string) bool {
		return strings.HasPrefix(s, "INFO downloading piece:{taskID,superNode,dstCid,range,")
	}) {
		t.Errorf("no pieces in\n%s", strings.Join(ours, "\n"))
	}
	raw := h.log()
	contains(t, "the log", raw, fmt.Sprintf("get cmd params:[\"dfget\" \"-u\" %q \"-o\"", o.URL+"/pattern/10485760"), `"superNode":"`+node+`"`,
		`"dstCid":"cdnnode:127.0.0.1~`, `"range":"0-4194303"`, `"range":"8388608-12582911"`, `"result":503,"status":701,"pieceSize":4194304,"pieceNum":2}`)
	for text := range strings.Lines(raw) {
		if strings.Contains(text, `"result":503`) && strings.Contains(text, `"dstCid":""`) {
			t.Errorf("a piece from nowhere: %s", text)
		}
	}
}

// TestLogsOfFailures: what users look for in a failed download has v1's form:
// each line is one that v1 wrote, and the last one is download FAIL.
func TestLogsOfFailures(t *testing.T) {
	known := append(append(recorded(t, "dfclient-success.log"), recorded(t, "dfclient-fail.log")...), recorded(t, "dfclient-fail-404.log")...)
	node, lost := supernodeAt(t), nobody(t)
	for _, v := range []struct {
		name   string
		status int64
		args   []string
	}{
		{"404", 404, []string{"--node", node}},
		{"no supernode", 404, []string{"--node", lost}},
		{"source", 500, []string{"--node", lost, "-p", "source"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			h, o := newHost(t), newOrigin(t, 1000)
			h.serve("--ip", "127.0.0.1")
			o.status.Store(v.status)
			got := h.get(append(v.args, "-u", o.URL+"/404/x", "-o", h.path("e1"))...)
			if got.status != 80 {
				t.Fatalf("exit status %d: %s", got.status, got.out)
			}
			ours := logShapes(t, h.log())
			for _, s := range ours {
				head, _, _ := strings.Cut(s, "{")
				if !slices.Contains(known, s) && !slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(k, head+"{") }) {
					t.Errorf("v1 had no line as %q", s)
				}
			}
			if last := ours[len(ours)-1]; last != "INFO download FAIL cost:N length:-N reason:N error:ERROR" {
				t.Errorf("the last line is %q", last)
			}
		})
	}
}

// TestServerLogOfV1: v1's lines of the server's start, in their order.
func TestServerLogOfV1(t *testing.T) {
	h := newHost(t)
	_, stop := h.serve("--ip", "127.0.0.1")
	stop()
	ours, theirs := logShapes(t, contentOfPath(t, filepath.Join(h.home, "logs", "dfserver.log"))), recorded(t, "dfserver.log")
	ours = slices.DeleteFunc(ours, func(s string) bool { return !slices.Contains(theirs, s) })
	slices.Sort(ours[min(3, len(ours)):]) // the last two are of two goroutines
	slices.Sort(theirs[3:])
	if !slices.Equal(ours, theirs) {
		t.Errorf("ours:\n%s\nv1's:\n%s", strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
	}
}

// TestStdoutOfV1: the recorded lines of v1's stdout, shape by shape.
func TestStdoutOfV1(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 1000)
	h.serve("--ip", "127.0.0.1")
	got := h.get("--node", supernodeAt(t), "-u", o.URL+"/pattern/10485760", "-o", h.path("a.bin"))
	want := contentOfPath(t, filepath.Join("testdata", "v1", "dfget-stdout-success.txt"))
	plain := func(text string) string {
		for _, r := range [][2]string{{`http://\S+`, "URL"}, {`dfget version:.*`, "dfget version:"}, {`workspace:.*`, "workspace:"}, {`length:\d+`, "length:N"}} {
			text = regexp.MustCompile(r[0]).ReplaceAllString(text, r[1])
		}
		return strings.Join(shape(t, text), "\n")
	}
	if plain(got.out) != plain(want) {
		t.Errorf("ours:\n%s\nv1's:\n%s", plain(got.out), plain(want))
	}
}
