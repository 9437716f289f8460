// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"dragonfly"
)

// contentFile is a finished content as the agent hands it over: read only.
func contentFile(t *testing.T, dir string, data []byte) *os.File {
	t.Helper()
	path := filepath.Join(dir, "content")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// TestTargetOf: where the output goes is known, and checked, before anything
// starts.
func TestTargetOf(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if dir, _ = os.Getwd(); dir == "" {
		t.Fatal("no directory")
	}
	for _, err := range []error{os.Mkdir("d", 0o755), os.WriteFile("f", nil, 0o644), os.Symlink("/dev/null", "null"), os.Symlink("nowhere", "dangling"), os.Symlink("d", "link")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []struct {
		output, url string
		want        target
		err         string
	}{
		{"-", "http://o/f", target{"-", true}, ""},
		{"", "http://o/a/f.tar?x=/y", target{dir + "/f.tar", false}, ""},
		{"", "http://o/a/f/", target{dir + "/f", false}, "is a regular file"},
		{"", "http://o", target{}, "names no file"},
		{"", "http://o/?f=x&token=geheim", target{}, "the url http://o/?f=x&token=*** names no file"},
		{"new", "http://o/f", target{dir + "/new", false}, ""},
		{"a/b/new", "http://o/f", target{dir + "/a/b/new", false}, ""},
		{"f", "http://o/f", target{dir + "/f", false}, ""},
		{"dangling", "http://o/f", target{dir + "/dangling", false}, ""},
		{"null", "http://o/f", target{dir + "/null", true}, ""},
		{"d", "http://o/f", target{}, "name a file in it, as in -o " + dir + "/d/f"},
		{"link", "http://o/f", target{}, "is a directory"},
		{"d/", "http://o/f", target{}, "is a directory"},
		{"a/", "http://o/f", target{}, "is a directory"},
		{"f/x", "http://o/f", target{}, "not a directory"},
		{"/sys/x", "http://o/f", target{}, "/sys"},
		{"a\x00b", "http://o/f", target{}, "invalid argument"},
	} {
		got, err := targetOf(v.output, v.url)
		if v.err == "is a regular file" { // the name of the last element, though a slash follows
			if err != nil || got != v.want {
				t.Errorf("%q: %v, %v", v.url, got, err)
			}
			continue
		}
		if (err == nil) != (v.err == "") || err != nil && !strings.Contains(err.Error(), v.err) || err == nil && got != v.want {
			t.Errorf("%q of %s: %v, %v; want %v, %s", v.output, v.url, got, err, v.want, v.err)
		}
	}
	if os.Geteuid() != 0 { // root writes everywhere
		for _, err := range []error{os.WriteFile("d/mine", nil, 0o400), os.WriteFile("d/other", nil, 0o600), os.Chmod("d", 0o500)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		defer os.Chmod("d", 0o700)
		for output, want := range map[string]string{"d/new": "cannot be written", "d/mine": "cannot be written", "d/other": "cannot be replaced"} {
			if _, err := targetOf(output, "http://o/f"); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", output, err)
			}
		}
	}
}

// TestWays: each way gives the content with v1's mode, and no other file.
func TestWays(t *testing.T) {
	data := bytesOf(200_000)
	for _, mask := range []int{0o022, 0o077} {
		old := unix.Umask(mask)
		defer unix.Umask(old)
		for _, link := range []string{linkAuto, linkHard, linkCopy, linkReflink} {
			dir := t.TempDir()
			content := contentFile(t, t.TempDir(), data)
			out := filepath.Join(dir, "sub", "out")
			at := target{out, false}
			temp := at.temporary("1-1.000")
			way, err := at.place(t.Context(), content, int64(len(data)), temp, link)
			if link == linkReflink && err != nil { // most file systems cannot
				if !strings.Contains(err.Error(), "--link reflink does not work here (--link auto finds a way that does)") {
					t.Error(err)
				}
				only(t, dir)
				continue
			}
			if err != nil || link != linkAuto && way != link {
				t.Fatalf("%s: %s, %v", link, way, err)
			}
			if !strings.HasPrefix(filepath.Base(temp), "dfget-1-1.000.tmp-") {
				t.Errorf("the temporary file is %s", temp)
			}
			only(t, filepath.Dir(out), "out")
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v", link, len(got), err)
			}
			if info, err := os.Stat(out); err != nil || int(info.Mode().Perm()) != 0o755&^mask {
				t.Errorf("%s: mode %v, %v", link, info.Mode(), err)
			}
			if linked := inode(t, out) == inode(t, content.Name()); linked != (way == linkHard) {
				t.Errorf("%s went by %s, linked %t", link, way, linked)
			}
		}
	}
}

// TestHardLinkOfAnothersMode: one inode has one mode, so a second output that
// wants another one is a copy.
func TestHardLinkOfAnothersMode(t *testing.T) {
	dir := t.TempDir()
	data := bytesOf(1000)
	content := contentFile(t, dir, data)
	if err := errors.Join(os.Chmod(content.Name(), 0o700), os.Link(content.Name(), filepath.Join(dir, "another"))); err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0o022)
	defer unix.Umask(old)
	out := target{filepath.Join(dir, "out"), false}
	if _, err := out.place(t.Context(), content, 1000, out.temporary("s"), linkHard); !errors.Is(err, errShared) {
		t.Errorf("--link hard: %v", err)
	}
	way, err := out.place(t.Context(), content, 1000, out.temporary("s"), linkAuto)
	if err != nil || way == linkHard {
		t.Errorf("%s, %v", way, err)
	}
	only(t, dir, "another", "content", "out")
}

// TestReplace: a target that exists is replaced by one rename, also when it is
// a link of the same content already.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	data := bytesOf(1000)
	content := contentFile(t, t.TempDir(), data)
	out := target{filepath.Join(dir, "out"), false}
	if err := os.WriteFile(out.path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Open(out.path)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	for range 3 {
		if _, err := out.place(t.Context(), content, 1000, out.temporary("s"), linkAuto); err != nil {
			t.Fatal(err)
		}
		only(t, dir, "out")
		if got, err := os.ReadFile(out.path); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	var old [10]byte
	if n, _ := before.Read(old[:]); string(old[:n]) != "old" {
		t.Errorf("who had the old file open reads %q", old[:n])
	}
}

// TestPlaceFails: nothing is left, neither a temporary file nor a directory
// that was made for the output.
func TestPlaceFails(t *testing.T) {
	content := contentFile(t, t.TempDir(), bytesOf(1000))
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted{syscall.SIGINT})
	for _, link := range []string{linkAuto, linkHard, linkCopy} {
		dir := t.TempDir()
		out := target{filepath.Join(dir, "a", "b", "out"), false}
		if _, err := out.place(cancelled, content, 1000, out.temporary("s"), link); !errors.Is(err, interrupted{syscall.SIGINT}) {
			t.Errorf("%s cancelled: %v", link, err)
		}
		only(t, dir)
		if _, err := out.place(t.Context(), content, 1001, out.temporary("s"), link); err == nil || !strings.Contains(err.Error(), "has 1000 bytes, 1001 were announced") {
			t.Errorf("%s of too short a content: %v", link, err)
		}
		only(t, dir)
		// It became a directory in the meantime.
		if err := os.MkdirAll(filepath.Join(out.path, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := out.place(t.Context(), content, 1000, out.temporary("s"), link); err == nil {
			t.Errorf("%s replaced a directory", link)
		}
		only(t, filepath.Dir(out.path), "out")
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := (target{filepath.Join(dir, "file", "out"), false}).place(t.Context(), content, 1000, out.temporary("s"), link); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("%s below a file: %v", link, err)
		}
	}
}

// TestDiskFull: the error names the place and what is kept.
func TestDiskFull(t *testing.T) {
	err := target{"/mnt/out/f", false}.failure(&fs.PathError{Op: "write", Path: "/mnt/out/x", Err: syscall.ENOSPC})
	if dragonfly.KindOf(err) != dragonfly.NoSpace || !strings.Contains(err.Error(), "no room for the output in /mnt/out: make some or choose another place with -o") {
		t.Error(err)
	}
	err = target{"/mnt/out/f", false}.failure(&fs.PathError{Op: "open", Path: "/mnt/out/x", Err: syscall.EROFS})
	if !strings.Contains(err.Error(), "the output /mnt/out/f cannot be written: choose another place with -o") {
		t.Error(err)
	}
}
