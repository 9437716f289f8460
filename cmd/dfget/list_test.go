// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseList(t *testing.T) {
	for name, v := range map[string]struct {
		text string
		want []entry
		err  string
	}{
		"empty":          {"", nil, ""},
		"comments":       {"# http://h/a\n\n   \n\thttp://h/b  \r\n#", []entry{{"http://h/b", "b"}}, ""},
		"names":          {"http://h/a x\nhttp://h/a\ty/z.tar\nhttp://h/a?b=c#d", []entry{{"http://h/a", "x"}, {"http://h/a", "y/z.tar"}, {"http://h/a?b=c#d", "a"}}, ""},
		"blanks in name": {"http://h/a my file", []entry{{"http://h/a", "my file"}}, ""},
		"collisions":     {"http://h/a\nhttp://g/a\nhttp://h/b a.1\nhttp://h/x/a", []entry{{"http://h/a", "a"}, {"http://g/a", "a.2"}, {"http://h/b", "a.1"}, {"http://h/x/a", "a.3"}}, ""},
		"same name":      {"http://h/a x\nhttp://h/b ./x", nil, `line 2: the output "x" is another line's`},
		"up":             {"http://h/a ../x", nil, `line 1: "../x" names no file below`},
		"up inside":      {"http://h/a y/../../x", nil, "names no file below"},
		"absolute":       {"http://h/a /etc/passwd", nil, "names no file below"},
		"directory":      {"http://h/a x/", nil, "names no file below"},
		"control":        {"http://h/a x\x1b[2J", nil, "names no file below"},
		"url goes up":    {"http://h/..", nil, "line 1: the url http://h/.. names no file"},
		"escaped":        {"http://h/a%2f..%2f..", nil, "names no file"},
		"escaped name":   {"http://h/..%2f..%2fx", []entry{{"http://h/..%2f..%2fx", "x"}}, ""},
		"url of a dir":   {"http://h/a\nhttp://h/", nil, "line 2: the url http://h/ names no file"},
		"no secrets":     {"http://u:geheim@h/?token=geheim", nil, "http://***@h/?token=***"},
		"long":           {"#\nhttp://h/" + strings.Repeat("a", longestEntry), nil, "line 2 is longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseList(strings.NewReader(v.text))
			if v.err != "" {
				contains(t, "error", err.Error(), v.err)
				return
			}
			if d := cmp.Diff(v.want, got, cmp.AllowUnexported(entry{})); err != nil || d != "" {
				t.Error(err, d)
			}
		})
	}
}

// Whatever a list says, its outputs are different files below the directory.
func FuzzParseList(f *testing.F) {
	for _, text := range []string{"http://h/a\nhttp://h/a b\n", "http://h/.. x/../y", "# \nhttp://h/%2e%2e/%2e%2e", "http://h/a a.1\nhttp://h/a\nhttp://h/a"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := parseList(strings.NewReader(text))
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, e := range entries {
			if seen[e.name] || !filepath.IsLocal(e.name) || path.Clean(e.name) != e.name || e.name == "." {
				t.Errorf("%q", e)
			}
			seen[e.name] = true
		}
	})
}

// A list brings all its files, those behind one that fails too.
func TestList(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 1000)
	h.serve()
	node := supernodeAt(t)
	var text strings.Builder
	const files = 100
	for i := range files {
		text.WriteString(o.URL + "/f" + strconv.Itoa(i) + "\n")
	}
	text.WriteString("http://" + nobody(t) + "/gone\n" + o.URL + "/other deep/name\n")
	name := h.path("list")
	if err := os.WriteFile(name, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	got := h.get("--input-file", name, "-o", h.path("out"), "--node", node)
	if got.status != 80 {
		t.Errorf("exit status %d", got.status)
	}
	contains(t, "stdout", got.out, "downloaded 101 of 102 files")
	contains(t, "stderr", got.err, "/gone: ")
	if n := strings.Count(got.err, "\n"); n != 1 {
		t.Errorf("%d complaints: %s", n, got.err)
	}
	h.isContent(h.path("out/f0"), o.content)
	h.isContent(h.path("out/f99"), o.content)
	h.isContent(h.path("out/deep/name"), o.content)
	if made, err := os.ReadDir(h.path("out")); err != nil || len(made) != files+1 {
		t.Errorf("%d outputs, %v", len(made), err)
	}

	got = h.get("--input-file", name, "-o", h.path("json"), "--node", node, "--json")
	results, lists := strings.Count(got.out, `"event":"result"`), strings.Count(got.out, `"event":"list"`)
	if results != files+2 || lists != 1 || !strings.Contains(got.out, `"status":80,"files":102,"failed":1`) {
		t.Errorf("%d results, %d lists: %s", results, lists, got.out)
	}
}

func TestListMistakes(t *testing.T) {
	h := newHost(t)
	name := h.path("list")
	if err := os.WriteFile(name, []byte("http://h/a\nhttp://h/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		args []string
		want string
	}{
		{nil, "line 2: the url http://h/ names no file: write a name behind it"},
		{[]string{"-u", "http://h/x"}, "--input-file and a url exclude each other"},
		{[]string{"-o", "-"}, "name a directory for them with -o"},
		{[]string{"--md5", strings.Repeat("0", 32)}, "a digest is that of one file"},
		{[]string{"--console"}, "--input-file and --console exclude each other"},
	} {
		got := h.get(append([]string{"--input-file", name}, v.args...)...)
		if got.status != exitUsage {
			t.Errorf("%v: exit status %d", v.args, got.status)
		}
		contains(t, "stderr", got.err, v.want)
	}
}
