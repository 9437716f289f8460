// SPDX-License-Identifier: Apache-2.0

package record

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const firstRun = `{"run":{"format":1,"build":"b","config":{}}}` + "\n"

// TestOpen: a supernode that starts again goes on behind what is there, or in a new
// file if that is much.
func TestOpen(t *testing.T) {
	const limit = 1000
	full := firstRun + strings.Repeat("\n", limit/2)
	for _, c := range []struct{ name, before, after, old string }{
		{"new", "", "", ""},
		{"cut off in its first line", firstRun[:5], "", ""},
		{"ended well", firstRun, firstRun, ""},
		{"cut off", firstRun + `{"e":`, firstRun + `{"e":` + "\n", ""},
		{"no room", full, "", full},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "record")
			if c.before != "" {
				if err := os.WriteFile(path, []byte(c.before), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(path+".old", []byte("older"), 0o600); err != nil {
				t.Fatal(err)
			}
			file, left, err := Open(path, limit)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if _, err := file.WriteString("X"); err != nil {
				t.Fatal(err)
			}
			text, _ := os.ReadFile(path)
			if string(text) != c.after+"X" || left != int64(limit-len(c.after)) {
				t.Errorf("%d left of %q", left, text)
			}
			if info, err := file.Stat(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v %v", info.Mode(), err)
			}
			old, _ := os.ReadFile(path + ".old")
			if want := map[bool]string{true: c.old, false: "older"}[c.old != ""]; string(old) != want {
				t.Errorf("the old one is %q", old)
			}
			if _, _, err := Open(path, limit); err == nil || !strings.Contains(err.Error(), "a file of its own") {
				t.Errorf("opened twice: %v", err)
			}
		})
	}
}

// TestOpenRefuses: what is no record stays as it is.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	other, fifo := filepath.Join(dir, "other"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(other, []byte("root:x:0:0"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		other: "something else than a record", fifo: "no regular file", dir: "directory", filepath.Join(dir, "none", "x"): "no such file",
	} {
		if _, _, err := Open(path, 1<<30); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	text, err := os.ReadFile(other)
	info, _ := os.Stat(other)
	if string(text) != "root:x:0:0" || err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%q %v, %v", text, info.Mode(), err)
	}
}
