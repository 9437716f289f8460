// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"dragonfly/internal/version"
)

// shape replaces what differs from run to run.
func shape(t *testing.T, text string) []string {
	t.Helper()
	for _, r := range []struct{ pattern, by string }{
		{`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`, "TIME"},
		{`cost:\d+\.\d{3}s`, "cost:COST"},
		{`sign:\d+-\d+\.\d{3}`, "sign:SIGN"},
		{`127\.0\.0\.1:\d+`, "ADDRESS"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.by)
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// TestLinesOfV1: stdout holds v1's lines and nothing else when it is no
// terminal (v1-protocol 9), and the exit statuses are v1's.
func TestLinesOfV1(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 1000)
	h.serve()
	head := []string{"--TIME--  http://ADDRESS/dir/file", "dfget version:" + version.Number, "workspace:" + h.home, "sign:SIGN"}
	node := supernodeAt(t)
	lost := nobody(t)
	for _, v := range []struct {
		name   string
		status int
		origin int
		args   []string
		want   []string
	}{
		{"from the swarm", 0, 0, []string{"--node", node}, []string{
			"client:127.0.0.1 connected to node:ADDRESS", "start download by dragonfly...",
			"download SUCCESS cost:COST length:1000 reason:0"}},
		{"no supernode", 0, 0, []string{"--node", lost, "-i", "2"}, []string{
			"start download file from the source station",
			"download SUCCESS cost:COST length:1000 reason:1"}},
		{"from the source", 0, 0, []string{"--pattern", "source", "-i", "3"}, []string{
			"start download file from the source station",
			"download SUCCESS cost:COST length:1000 reason:100"}},
		{"not from the source", 80, 0, []string{"--node", lost, "--notbs", "-i", "4"}, []string{
			`download FAIL\(1104\) cost:COST length:-1 reason:1001 error:\{"Code":1104,"Msg":".+"\}`}},
		{"not found", 80, 404, []string{"--pattern", "source", "-i", "5"}, []string{
			"start download file from the source station",
			`download FAIL\(1104\) cost:COST length:-1 reason:100 error:\{"Code":1104,"Msg":".*404.*"\}`}},
		{"wrong md5", 80, 0, []string{"--pattern", "source", "--md5", strings.Repeat("0", 32)}, []string{
			"start download file from the source station",
			`download FAIL\(1104\) cost:COST length:1000 reason:100 error:\{"Code":1104,"Msg":".*md5.*"\}`}},
	} {
		t.Run(v.name, func(t *testing.T) {
			o.status.Store(int64(v.origin))
			out := h.path("file")
			defer os.Remove(out)
			got := h.get(append([]string{"-u", o.URL + "/dir/file", "-o", out}, v.args...)...)
			if got.status != v.status {
				t.Errorf("exit status %d, want %d", got.status, v.status)
			}
			lines, want := shape(t, got.out), append(append([]string{}, head...), v.want...)
			for i := range max(len(lines), len(want)) {
				if i >= len(lines) || i >= len(want) || lines[i] != want[i] && !regexp.MustCompile("^"+want[i]+"$").MatchString(lines[i]) {
					t.Fatal(cmp.Diff(want, lines))
				}
			}
			if got.err != "" {
				t.Errorf("stderr: %s", got.err)
			}
			if v.status == 0 {
				h.isContent(out, o.content)
			} else if _, err := os.Stat(out); err == nil {
				t.Error("there is an output")
			}
		})
	}
}

// TestMistakes: what the user got wrong is told on stderr with the remedy,
// the exit status is 1, nothing was started or left behind.
func TestMistakes(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 10)
	write := func(name, text string) string {
		path := h.path(name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Mkdir(h.path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	plain := write("plain", "")
	url := o.URL + "/f"
	for _, v := range []struct {
		name string
		args []string
		want string
	}{
		{"no url", nil, "no url: give one with -u"},
		{"malformed url", []string{"-u", "http://[::1/f"}, "the url http://[::1/f is malformed: want http://host/path"},
		{"secret in a malformed url", []string{"-u", "http://u:geheim@h/%zz?token=geheim"}, "the url http://***@h/%zz?token=*** is malformed"},
		{"scheme", []string{"-u", "ftp://h/f"}, `scheme "ftp": only http and https`},
		{"no scheme", []string{"-u", "example.com/f"}, `scheme "": only http and https`},
		{"no host", []string{"-u", "http:///f"}, "names no host"},
		{"two urls", []string{"-u", url, url + "x"}, "two urls"},
		{"too many", []string{url, "x"}, "accepts at most 1 arg"},
		{"no file name", []string{"-u", o.URL + "/"}, "names no file: say where to put it with -o"},
		{"target is a directory", []string{"-u", url, "-o", h.path("dir")}, "is a directory: name a file in it, as in -o " + h.path("dir/f")},
		{"target will be a directory", []string{"-u", url, "-o", h.path("new") + "/"}, "is a directory: name a file in it"},
		{"target below a file", []string{"-u", url, "-o", plain + "/x"}, "not a directory"},
		{"target cannot be written", []string{"-u", url, "-o", "/proc/dragonfly/x"}, "/proc/dragonfly"},
		{"rate", []string{"-u", url, "-s", "20XB"}, `"20XB": want a number of bytes`},
		{"negative rate", []string{"-u", url, "--totallimit", "-1"}, `"-1": want a number of bytes`},
		{"minimal rate", []string{"-u", url, "--minrate", "fast"}, `"fast": want a number of bytes`},
		{"timeout", []string{"-u", url, "-e", "soon"}, `"soon": want a duration, as in 10m, or a number of seconds`},
		{"md5", []string{"-u", url, "-m", "abc"}, `--md5 "abc": want 32 hex digits`},
		{"sha256 as md5", []string{"-u", url, "-m", "sha256:" + strings.Repeat("0", 64)}, "want 32 hex digits; other digests go with --digest"},
		{"digest", []string{"-u", url, "--digest", "sha1:" + strings.Repeat("0", 40)}, "--digest"},
		{"digest too short", []string{"-u", url, "--digest", "sha256:00"}, "--digest"},
		{"md5 and digest", []string{"-u", url, "-m", strings.Repeat("0", 32), "--digest", "sha256:" + strings.Repeat("0", 64)}, "--md5 and --digest exclude each other"},
		{"cacerts missing", []string{"-u", url, "--cacerts", h.path("none.pem")}, "--cacerts: open " + h.path("none.pem")},
		{"cacerts empty", []string{"-u", url, "--cacerts", plain}, "--cacerts " + plain + ": there is no PEM block in it"},
		{"link", []string{"-u", url, "--link", "soft"}, `--link "soft": want auto, reflink, hard or copy`},
		{"port", []string{"-u", url, "--port", "80"}, "--port 80: want 0 or a port from 15000 to 65000"},
		{"ip", []string{"-u", url, "--ip", "here"}, `--ip "here": want an address`},
		{"queue", []string{"-u", url, "--clientqueue", "0"}, "--clientqueue 0: want at least 1"},
		{"node", []string{"-u", url, "--node", "http://sn:8002"}, "want host[:port][=weight]"},
		{"weight", []string{"-u", url, "--node", "sn=0"}, "the weight must be a number from 1"},
		{"flag", []string{"-u", url, "--locallimt", "1"}, "unknown flag --locallimt; did you mean --locallimit?"},
		{"short flag", []string{"-u", url, "-Z"}, "see dfget --help"},
		{"bar and console", []string{"-u", url, "--showbar", "--console"}, "[console showbar]"},
		{"config missing", []string{"-u", url, "--config", h.path("none.yml")}, h.path("none.yml")},
		{"config is a directory", []string{"-u", url, "--config", h.path("dir")}, "is a directory"},
		{"config no yaml", []string{"-u", url, "--config", write("bad.yml", "nodes: [\n")}, "bad.yml:1: this is no YAML"},
		{"config key", []string{"-u", url, "--config", write("key.yml", "\nlocallimits: 1\n")}, "key.yml:2: locallimits is not a setting; did you mean localLimit?"},
		{"config value", []string{"-u", url, "--config", write("value.yml", "localLimit: much\n")}, `value.yml:1: localLimit: rate "much"`},
		{"config section", []string{"-u", url, "--config", write("section.yml", "zone: z\n")}, "zone is not a setting here; zone stands below location:"},
	} {
		t.Run(v.name, func(t *testing.T) {
			got := h.get(v.args...)
			if got.status != exitUsage || got.out != "" {
				t.Errorf("exit status %d, want 1; stdout %q", got.status, got.out)
			}
			for line := range strings.Lines(got.err) {
				if !strings.HasPrefix(line, "dfget: ") {
					t.Errorf("a line of stderr is %q", line)
				}
			}
			contains(t, "stderr", got.err, v.want)
			if strings.Contains(got.err, "geheim") {
				t.Errorf("a secret was told: %s", got.err)
			}
		})
	}
	if o.asked.Load() != 0 {
		t.Error("the origin was asked")
	}
	if _, err := os.Stat(h.home); err == nil {
		t.Error("the home was made")
	}
	only(t, h.dir, "bad.yml", "dir", "key.yml", "plain", "section.yml", "value.yml")
}

// TestSeveralMistakes: all are told at once, each in its line.
func TestSeveralMistakes(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(h.settings, []byte("node: a\nminRate: x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := h.get("-u", "http://h/f")
	want := "dfget: " + h.settings + ":1: node is not a setting; did you mean nodes?\ndfget: " + h.settings + `:2: minRate: rate "x": want a number of bytes, or a number with B, KB, MB or GB, as in 20MB` + "\n"
	if got.err != want || got.status != 1 {
		t.Errorf("%d %s", got.status, cmp.Diff(want, got.err))
	}
}

// TestUnreadableSettings: a file that may not be read is not taken for none.
func TestUnreadableSettings(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(h.settings, nil, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // root reads everything
		if err := os.Remove(h.settings); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(h.settings, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got := h.get("-u", "http://h/f")
	contains(t, "stderr", got.err, "dfget: read the settings: ", h.settings)
	if got.status != 1 {
		t.Errorf("exit status %d", got.status)
	}
}

// TestBadHome: v1's code for what cannot be prepared.
func TestBadHome(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(h.path("file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	homes := []string{h.path("file/home"), "/proc/home"}
	if os.Geteuid() != 0 {
		if err := os.Mkdir(h.path("locked"), 0o500); err != nil {
			t.Fatal(err)
		}
		homes = append(homes, h.path("locked"))
	}
	for _, home := range homes {
		got := h.dfget("--home", home, "-u", "http://h/f", "-o", h.path("out"))
		if got.status != 77 || !strings.HasPrefix(got.out, "download FAIL(1101) cost:") {
			t.Errorf("exit status %d: %s", got.status, got.out)
		}
		contains(t, "stdout", got.out, "the home directory", "name another with --home", home)
	}
	only(t, h.dir, append([]string{"file"}, map[bool][]string{true: {"locked"}}[len(homes) > 2]...)...)
}

// TestJSON: one object a line, the last one is the result; stdout has nothing
// else.
func TestJSON(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 1000)
	h.serve()
	for _, fails := range []bool{false, true} {
		want := outcome{Event: "result", Success: true, URL: o.URL + "/f", Output: h.path("out"), Length: 1000, Reason: 100, FromSource: 1000}
		if fails {
			o.status.Store(404)
			want = outcome{Event: "result", Status: 80, URL: o.URL + "/f", Output: h.path("out"), Length: -1, Reason: 100, Kind: "not-found"}
		}
		got := h.get("--json", "-p", "source", "-i", fmt.Sprint(fails), "-o", want.Output, o.URL+"/f")
		lines := strings.Split(strings.TrimSpace(got.out), "\n")
		var r outcome
		for _, line := range lines {
			r = outcome{}
			if err := json.Unmarshal([]byte(line), &r); err != nil || r.Event == "" {
				t.Fatalf("%q: %v", line, err)
			}
		}
		if r.Sign == "" || r.Task == "" || fails == (r.Error == "") || got.status != want.Status || got.err != "" {
			t.Errorf("%+v, exit status %d, stderr %q", r, got.status, got.err)
		}
		if fails && !strings.Contains(r.Error, "404") {
			t.Errorf("the error is %q", r.Error)
		}
		want.Seconds, want.Sign, want.Task, want.Error = r.Seconds, r.Sign, r.Task, r.Error
		if diff := cmp.Diff(want, r); diff != "" {
			t.Error(diff)
		}
	}
}

// TestStdout: -o - gives the bytes and nothing but them; v1's lines go to
// stderr.
func TestStdout(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 100_000)
	h.serve()
	got := h.get("-p", "source", "-o", "-", "-u", o.URL+"/f")
	if got.status != 0 || got.out != string(o.content) {
		t.Errorf("exit status %d, %d bytes", got.status, len(got.out))
	}
	contains(t, "stderr", got.err, "--  "+o.URL+"/f\n", "download SUCCESS")
	contains(t, "the log", h.log(), "target file path:/dev/stdout")
	// A broken digest is an error though the bytes went out.
	got = h.get("-p", "source", "-o", "-", "-u", o.URL+"/f", "--md5", strings.Repeat("0", 32))
	if got.status != 80 {
		t.Errorf("exit status %d", got.status)
	}
	contains(t, "stderr", got.err, "download FAIL(1104)")
}

// TestDevice: a device or a pipe is written, not replaced.
func TestDevice(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 1000)
	h.serve()
	if got := h.get("-p", "source", "-o", "/dev/null", "-u", o.URL+"/f"); got.status != 0 {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	if info, err := os.Stat("/dev/null"); err != nil || info.Mode()&os.ModeDevice == 0 {
		t.Fatalf("/dev/null: %v, %v", info, err)
	}
	got := h.get("-p", "source", "-o", "/dev/full", "-u", o.URL+"/f")
	if got.status != 80 {
		t.Errorf("/dev/full: exit status %d: %s", got.status, got.out)
	}
	contains(t, "stdout", got.out, "write the output", "no space left on device")
	pipe, unread := h.path("pipe"), h.path("unread")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), syscall.Mkfifo(unread, 0o600)); err != nil {
		t.Fatal(err)
	}
	// Nobody reads from the pipe: the user can still end it.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted{syscall.SIGINT})
	if got := h.dfgetUntil(ctx, "--home", h.home, "-p", "source", "-o", unread, "-u", o.URL+"/f"); got.status != 130 {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	read := make(chan []byte)
	go func() {
		b, err := os.ReadFile(pipe)
		if err != nil {
			t.Error(err)
		}
		read <- b
	}()
	if got := h.get("-p", "source", "-o", pipe, "-u", o.URL+"/f"); got.status != 0 {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	if b := <-read; string(b) != string(o.content) {
		t.Errorf("%d bytes through the pipe", len(b))
	}
}

// TestInterrupted: Ctrl-C ends the job; nothing is left beside the output,
// and what came is not fetched again.
func TestInterrupted(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 9<<20)
	h.serve()
	if err := os.Mkdir(h.path("out"), 0o755); err != nil {
		t.Fatal(err)
	}
	for signal, status := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		held := o.hold()
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-held.reached
			cancel(interrupted{signal})
		}()
		got := h.dfgetUntil(ctx, "--home", h.home, "-s", "0", "-p", "source", "-i", fmt.Sprint(status), "-o", h.path("out/f"), "-u", o.URL+"/f")
		if got.status != status || !strings.Contains(got.out, fmt.Sprintf("download FAIL(%d) ", status)) || !strings.Contains(got.out, "interrupted ("+unix.SignalName(signal)+")") {
			t.Errorf("exit status %d: %s", got.status, got.out)
		}
		only(t, h.path("out"))
		close(held.open)
	}
}

// TestProcess: the command itself, with its agent in a process of its own and
// a signal from outside.
func TestProcess(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 1000)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), self, append([]string{"--home", h.home, "-p", "source"}, args...)...)
		return cmd
	}
	first := h.path("first")
	if text, err := command("-u", o.URL+"/f", "-o", first).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	h.isContent(first, o.content)
	// The agent goes on, with v1's file about its port.
	meta, err := os.ReadFile(filepath.Join(h.home, "meta", "host.meta"))
	if err != nil || !regexp.MustCompile(`^\{"servicePort":\d+\}$`).Match(meta) {
		t.Errorf("host.meta %s, %v", meta, err)
	}
	held := o.hold()
	defer close(held.open)
	cmd := command("-u", o.URL+"/g", "-o", h.path("second"))
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-held.reached
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != 130 {
		t.Errorf("exit status %d: %s", status, &out)
	}
	only(t, h.dir, "first", "home")
}

// TestTargetIsReplaced: the path holds the old file or all of the new one.
func TestTargetIsReplaced(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 1000)
	h.serve()
	out := h.path("out/deep/f")
	if got := h.get("-p", "source", "-o", out, "-u", o.URL+"/f"); got.status != 0 { // its parents are made
		t.Fatalf("exit status %d: %s", got.status, got.out)
	}
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	o.status.Store(http.StatusInternalServerError)
	if got := h.get("-p", "source", "-i", "x", "-o", out, "-u", o.URL+"/f"); got.status != 80 {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	h.isContent(out, []byte("old"))
	o.status.Store(0)
	if got := h.get("-p", "source", "-i", "x", "-o", out, "-u", o.URL+"/f"); got.status != 0 {
		t.Errorf("exit status %d: %s", got.status, got.out)
	}
	h.isContent(out, o.content)
	only(t, filepath.Dir(out), "f")
}

// TestDefaultOutput: the last element of the URL's path, in the directory
// where dfget runs.
func TestDefaultOutput(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 10)
	h.serve()
	if err := os.Mkdir(h.path("cwd"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(h.path("cwd"))
	if got := h.get("-p", "source", o.URL+"/a/b%20c?x=1"); got.status != 0 {
		t.Fatalf("exit status %d: %s%s", got.status, got.out, got.err)
	}
	h.isContent(h.path("cwd/b c"), o.content)
	only(t, h.path("cwd"), "b c")
}

// TestHeadersStaySecret: they reach the source and no log.
func TestHeadersStaySecret(t *testing.T) {
	h, o := newHost(t), newOrigin(t, 10)
	h.serve("--verbose")
	got := h.get("--verbose", "-p", "source", "-o", h.path("f"), "-u", strings.Replace(o.URL, "http://", "http://user:geheim1@", 1)+"/f?token=geheim2", "--header", "Authorization: Bearer geheim3", "--header", "X-A: b, c", "--header=Cookie:geheim4")
	if got.status != 0 {
		t.Fatalf("exit status %d: %s", got.status, got.out)
	}
	header := *o.header.Load()
	if header.Get("Authorization") != "Bearer geheim3" || header.Get("X-A") != "b, c" || header.Get("Cookie") != "geheim4" {
		t.Errorf("the source got %v", header)
	}
	own, err := os.ReadFile(filepath.Join(h.home, "logs", "dfserver.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{got.out, got.err, h.log(), string(own)} {
		if strings.Contains(text, "geheim") {
			t.Errorf("a secret was told:\n%s", text)
		}
	}
}

// TestLimitHint: when the limit that nobody asked for held the download back,
// the last line says so, beside v1's lines.
func TestLimitHint(t *testing.T) {
	h := newHost(t)
	for _, v := range []struct {
		preset, limited bool
		want            string
	}{
		{true, true, "dfget: held back by the default limit of 10MB per second: --locallimit 0 lifts it\n"},
		{true, false, ""},
		{false, true, ""},
	} {
		out, err := h.file(), h.file()
		o := presets()
		g := get{o: &o, std: h.surroundings(out, err), preset: v.preset, screen: newScreen(out, &o, "")}
		g.hint(v.limited)
		if got := contentOf(t, err); got != v.want || contentOf(t, out) != "" {
			t.Errorf("%+v: %q", v, got)
		}
	}
}
