// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dragonfly/internal/version"
)

// TestHelp: --help is enough to work with: every flag in its group, examples,
// files, environment and every exit status.
func TestHelp(t *testing.T) {
	h := newHost(t)
	got := h.dfget("--help")
	if got.status != 0 || got.err != "" {
		t.Errorf("exit status %d: %s", got.status, got.err)
	}
	newGet(nil, h.surroundings(nil, nil)).Flags().VisitAll(func(f *pflag.Flag) { contains(t, "help", got.out, "--"+f.Name+" ") })
	contains(t, "help", got.out, "Usage:\n  dfget [flags] [URL]\n", "\nExamples:\n  dfget -u ", "\nWhat to download and where to:\n  -u, --url string ", "\nThe swarm:\n", "\nLimits:\n", "\nWhat is shown:\n",
		"\nThis host and its dfget server:\n", "\nCommands:\n", "/etc/dragonfly/dfget.yml", "/etc/dragonfly.conf", "logs/dfclient.log", "DRAGONFLY_ZONE", "HTTPS_PROXY",
		"(default 10MB)", "(default 127.0.0.1:8002)")
	_, statuses, _ := strings.Cut(got.out, "\nExit status:\n")
	for _, status := range []string{"0 ", "1 ", "2 ", "76", "77", "78", "79", "80", "130"} {
		contains(t, "help on the exit status", "\n"+statuses, "\n  "+status+" ")
	}
	for line := range strings.Lines(got.out) {
		if n := len([]rune(line)); n > 100 {
			t.Errorf("a line of %d columns: %q", n, line)
		}
	}
	if strings.Contains(got.out, "[=true|false]") {
		t.Error("help shows how pflag writes booleans")
	}
	server := h.dfget("server", "--help")
	contains(t, "help on the server", server.out, "dfget server", "--data string", "--meta string", "--port int", "--alivetime duration", "--expiretime duration")
}

// TestHelpFitsTheScreen: on a terminal it is as wide as that.
func TestHelpFitsTheScreen(t *testing.T) {
	terminal := openTerminal(t, 100)
	if terminal == nil {
		t.Skip("no terminals here")
	}
	h := newHost(t)
	c := newRoot(nil, h.surroundings(terminal, terminal))
	c.SetOut(nil)
	var out strings.Builder
	c.SetOut(&out)
	if err := c.Usage(); err != nil {
		t.Fatal(err)
	}
	widest := 0
	for line := range strings.Lines(out.String()) {
		widest = max(widest, len([]rune(strings.TrimSpace(line))))
	}
	if widest < 85 || widest > 100 {
		t.Errorf("the widest line has %d columns of 100", widest)
	}
}

// TestVersion: v1's words, and the same from the flag.
func TestVersion(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{{"version"}, {"--version"}, {"-v"}} {
		got := h.dfget(args...)
		if got.status != 0 || !regexp.MustCompile(`^dfget version  `+regexp.QuoteMeta(version.Number)+`\n  Git commit: .*\n  Build date: .*\n  Go version: +go1.*\n  OS/Arch: .*\n$`).MatchString(got.out) {
			t.Errorf("%q: exit status %d: %q", args, got.status, got.out)
		}
	}
}

// TestCompletion: a script for each shell, which that shell understands if it
// is here, and words for the flags that take one of a few.
func TestCompletion(t *testing.T) {
	h := newHost(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		got := h.dfget("completion", shell)
		if got.status != 0 || len(got.out) < 1000 || !strings.Contains(got.out, "dfget") {
			t.Errorf("%s: exit status %d, %d bytes: %s", shell, got.status, len(got.out), got.err)
		}
		if program, err := exec.LookPath(shell); err == nil {
			if text, err := exec.Command(program, "-n", h.write(h.path("script"), got.out)).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", shell, err, text)
			}
		}
	}
	for _, v := range []struct {
		args []string
		want string
	}{
		{[]string{"--link", ""}, "auto\nreflink\nhard\ncopy\n:4\n"},
		{[]string{"--pattern", ""}, "p2p\ncdn\nsource\n:4\n"},
		{[]string{"--locallimit", ""}, ":4\n"}, // no files
		{[]string{"--output", ""}, ":0\n"},     // files
		{[]string{"--notb"}, "--notbs\tnever download from the source: fail when the swarm cannot\n:4\n"},
		{[]string{"ser"}, "server\tKeep and serve what was downloaded, and take jobs from dfget\n:4\n"},
	} {
		got := h.dfget(append([]string{cobra.ShellCompRequestCmd}, v.args...)...)
		if got.out != v.want {
			t.Errorf("%q: %q, want %q", v.args, got.out, v.want)
		}
	}
}

// TestPages: gen-doc writes the pages of all commands, with their exit
// statuses and files.
func TestPages(t *testing.T) {
	h := newHost(t)
	for format, end := range map[string]string{"man": ".1", "markdown": ".md"} {
		dir := h.path(format)
		if got := h.dfget("gen-doc", "--format", format, "--path", dir); got.status != 0 {
			t.Fatalf("exit status %d: %s", got.status, got.err)
		}
		for _, page := range []string{"dfget", "dfget-server", "dfget-version", "dfget-gen-doc"} {
			text := contentOfPath(t, filepath.Join(dir, page+end))
			if page != "dfget" {
				continue
			}
			plain := strings.ToLower(strings.ReplaceAll(text, `\-`, "-"))
			contains(t, page+end, plain, "--locallimit", "exit status\n", "80   the download failed", "/etc/dragonfly/dfget.yml", "the swarm", "environment\n")
			if format == "man" {
				if groff, err := exec.LookPath("groff"); err == nil {
					if said, err := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z", filepath.Join(dir, page+end)).CombinedOutput(); err != nil || len(said) > 0 {
						t.Errorf("%v: %s", err, said)
					}
				}
			}
		}
	}
	got := h.dfget("gen-doc", "--path", h.write(h.path("file"), ""))
	if got.status != 1 || !strings.Contains(got.err, h.path("file")) {
		t.Errorf("exit status %d: %s", got.status, got.err)
	}
	if _, err := os.Stat("dfget.md"); err == nil {
		t.Error("a page was written here")
	}
}
