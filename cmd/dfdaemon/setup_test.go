// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree is a root directory for engines' files.
type tree struct {
	t    *testing.T
	root string
}

func newTree(t *testing.T, files map[string]string) tree {
	d := tree{t, t.TempDir()}
	for name, text := range files {
		path := filepath.Join(d.root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// all are the files and their texts, and the directories.
func (d tree) all() map[string]string {
	d.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(d.root, path)
		if e.IsDir() {
			out[name+"/"] = ""
			return nil
		}
		text, err := os.ReadFile(path)
		info, _ := e.Info()
		out[name] = info.Mode().String() + "\n" + string(text)
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// ready answers as a healthy dfdaemon, at 127.0.0.1 and a port.
func ready(t *testing.T, status int, text string) (port string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestSetup: the lines are shown, written without loss of anything, once, and
// taken back to the byte.
func TestSetup(t *testing.T) {
	port := ready(t, 200, "OK\n")
	noConfig := write(t, "dfdaemon.yml", "")
	for name, v := range map[string]struct {
		engine string
		args   []string
		before map[string]string
		after  map[string]string // texts that are to be there, PORT for the port
		says   []string
	}{
		"docker, nothing there": {"docker", nil, nil,
			map[string]string{"etc/docker/daemon.json": "{\n  \"registry-mirrors\": [\"http://127.0.0.1:PORT\"]\n}\n"},
			[]string{`"registry-mirrors": ["http://127.0.0.1:PORT"]`, "systemctl reload docker", "no restart"}},
		"docker, other keys": {"docker", nil,
			map[string]string{"etc/docker/daemon.json": "{\n\t\"log-driver\": \"journald\",\n\t\"dns\": [\"192.0.2.1\"]\n}"},
			map[string]string{"etc/docker/daemon.json": "{\n\t\"registry-mirrors\": [\"http://127.0.0.1:PORT\"],\n\t\"log-driver\": \"journald\",\n\t\"dns\": [\"192.0.2.1\"]\n}"}, nil},
		"docker, other mirrors": {"docker", nil,
			map[string]string{"etc/docker/daemon.json": `{"a": {"registry-mirrors": []}, "registry-mirrors" : [ "https://m.example/" ], "b": 1}`},
			map[string]string{"etc/docker/daemon.json": `{"a": {"registry-mirrors": []}, "registry-mirrors" : ["http://127.0.0.1:PORT",  "https://m.example/" ], "b": 1}`},
			[]string{`"registry-mirrors": ["http://127.0.0.1:PORT", "https://m.example/"]`}},
		"docker, no mirrors": {"docker", nil, map[string]string{"etc/docker/daemon.json": `{"registry-mirrors":null,"b":1}`},
			map[string]string{"etc/docker/daemon.json": `{"registry-mirrors":["http://127.0.0.1:PORT"],"b":1}`}, nil},
		"docker, one line": {"docker", nil, map[string]string{"etc/docker/daemon.json": `{"b":1}`},
			map[string]string{"etc/docker/daemon.json": "{\n  \"registry-mirrors\": [\"http://127.0.0.1:PORT\"],\n  \"b\":1}"}, nil},
		"docker, an empty file": {"docker", nil, map[string]string{"etc/docker/daemon.json": ""},
			map[string]string{"etc/docker/daemon.json": "{\n  \"registry-mirrors\": [\"http://127.0.0.1:PORT\"]\n}\n"}, nil},
		"containerd, nothing there": {"containerd", nil, nil, map[string]string{
			"etc/containerd/config.toml":                 "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
			"etc/containerd/certs.d/_default/hosts.toml": "[host.\"http://127.0.0.1:PORT\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
		}, []string{"systemctl restart containerd", "--hosts-dir"}},
		"containerd, as Debian has it": {"containerd", nil, map[string]string{
			"etc/containerd/config.toml": "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\" # here\n",
		}, map[string]string{
			"etc/containerd/config.toml": "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\" # here\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
		}, nil},
		"containerd, version 3, empty path": {"containerd", nil, map[string]string{
			"etc/containerd/config.toml": "version = 3\n[plugins]\n  [plugins.'io.containerd.cri.v1.images'.registry] # here\n    config_path = ''\n    x = 1\n[debug]\n  config_path = 'not this'\n",
		}, map[string]string{
			"etc/containerd/config.toml": "version = 3\n[plugins]\n  [plugins.'io.containerd.cri.v1.images'.registry] # here\n    config_path = \"/etc/containerd/certs.d\"\n    x = 1\n[debug]\n  config_path = 'not this'\n",
		}, nil},
		"containerd, a path of its own": {"containerd", nil, map[string]string{
			"etc/containerd/config.toml":    "version = 3\nplugins.'io.containerd.cri.v1.images'.registry.config_path = '/hosts:/more'\n",
			"hosts/_default/hosts.toml":     "server = \"https://other.example\" # last\n\n[host.\"https://m.example\"]\n  capabilities = [\"pull\"]\n",
			"hosts/one.example/hosts.toml":  "server = \"https://one.example\"\n",
			"hosts/two.example/hosts.toml":  "server = \"https://two.example\"\n[host]\n[host.\"https://x\"]\n",
			"hosts/three.example/ca.crt":    "x",
			"hosts/_default/ca.crt":         "y",
			"etc/containerd/certs.d/x/note": "",
		}, map[string]string{
			"etc/containerd/config.toml":   "version = 3\nplugins.'io.containerd.cri.v1.images'.registry.config_path = '/hosts:/more'\n",
			"hosts/_default/hosts.toml":    "server = \"https://other.example\" # last\n\n[host.\"http://127.0.0.1:PORT\"]\n  capabilities = [\"pull\", \"resolve\"]\n\n[host.\"https://m.example\"]\n  capabilities = [\"pull\"]\n",
			"hosts/one.example/hosts.toml": "server = \"https://one.example\"\n",
		}, []string{"one.example has a directory of its own", "two.example has", "nothing is to be done"}},
		"containerd, a registry of its own": {"containerd", []string{"--registries", "one.example,none.example"}, map[string]string{
			"etc/containerd/certs.d/one.example/hosts.toml": "server = \"https://one.example\"",
		}, map[string]string{
			"etc/containerd/certs.d/one.example/hosts.toml": "server = \"https://one.example\"\n\n[host.\"http://127.0.0.1:PORT\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
		}, nil},
		"podman": {"podman", []string{"--registries", "docker.io,r.example:5000"}, map[string]string{
			"etc/containers/registries.conf":                   "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nprefix = \"x.example\"\nblocked = true\n",
			"etc/containers/registries.conf.d/shortnames.conf": "[aliases]\n  \"a\" = \"b.example/a\"\n",
		}, map[string]string{
			"etc/containers/registries.conf.d/50-dragonfly.conf": "# Written by dfdaemon setup; dfdaemon setup --undo takes it away.\n" +
				"\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:PORT/docker.io\"\ninsecure = true # plain HTTP to dfdaemon, on this host\n" +
				"\n[[registry]]\nprefix = \"r.example:5000\"\nlocation = \"r.example:5000\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:PORT/r.example_5000\"\ninsecure = true # plain HTTP to dfdaemon, on this host\n",
		}, []string{"nothing is to be done"}},
		"crio, more registries": {"crio", []string{"--registries", "docker.io,ghcr.io"}, map[string]string{
			"etc/containers/registries.conf.d/50-dragonfly.conf": "# mine\n[[registry]]\nlocation = \"ghcr.io\"\nblocked = false\n[[registry.mirror]]\nlocation = \"127.0.0.1:PORT/ghcr.io\"\ninsecure = true\n",
		}, map[string]string{
			"etc/containers/registries.conf.d/50-dragonfly.conf": "# mine\n[[registry]]\nlocation = \"ghcr.io\"\nblocked = false\n[[registry.mirror]]\nlocation = \"127.0.0.1:PORT/ghcr.io\"\ninsecure = true\n" +
				"\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:PORT/docker.io\"\ninsecure = true # plain HTTP to dfdaemon, on this host\n",
		}, []string{"systemctl reload crio"}},
	} {
		t.Run(name, func(t *testing.T) {
			for name, text := range v.before {
				v.before[name] = strings.ReplaceAll(text, "PORT", port)
			}
			d := newTree(t, v.before)
			original := d.all()
			args := append([]string{"setup", v.engine, "--root", d.root, "--port", port, "--config", noConfig}, v.args...)
			code, out, stderr := call(t, nil, args...)
			if code != 0 || !strings.Contains(out, "nothing was written") || !maps.Equal(d.all(), original) {
				t.Fatalf("%d %s %s: %v", code, out, stderr, d.all())
			}
			for _, text := range v.says {
				contains(t, "what it says", out, strings.ReplaceAll(text, "PORT", port))
			}
			if code, _, stderr := call(t, nil, append(args, "--write")...); code != 0 {
				t.Fatal(stderr)
			}
			written := d.all()
			for name, text := range v.after {
				mode := "-rw-r--r--\n"
				if _, there := v.before[name]; there {
					mode = "-rw-r-----\n"
				}
				if want := mode + strings.ReplaceAll(text, "PORT", port); written[name] != want {
					t.Errorf("%s:\n%s\nwant\n%s", name, written[name], want)
				}
			}
			if code, out, stderr := call(t, nil, append(args, "--write")...); code != 0 || !strings.Contains(out, "it is so already") || !maps.Equal(d.all(), written) {
				t.Errorf("a second time: %d %s %s", code, out, stderr)
			}
			for range 2 {
				if code, _, stderr := call(t, nil, append(args, "--undo")...); code != 0 || !maps.Equal(d.all(), original) {
					t.Errorf("taken back: %d %s: %v, want %v", code, stderr, d.all(), original)
				}
			}
		})
	}
}

// TestSetupRefuses: what is not understood is left alone, and nothing is
// written when dfdaemon is not ready.
func TestSetupRefuses(t *testing.T) {
	good := ready(t, 200, "OK\n")
	for name, v := range map[string]struct {
		args   []string
		port   string
		before map[string]string
		says   string
	}{
		"no dfdaemon":         {[]string{"docker"}, "1", nil, "start it, or say where"},
		"ill":                 {[]string{"docker"}, ready(t, 503, "the store is full"), nil, "is not healthy: the store is full"},
		"another":             {[]string{"podman"}, ready(t, 200, "<html>"), nil, "is no dfdaemon"},
		"unknown":             {[]string{"rkt"}, good, nil, "docker, containerd"},
		"none":                {nil, good, nil, "docker, containerd"},
		"opposites":           {[]string{"docker", "--undo"}, good, nil, "opposites"},
		"registries":          {[]string{"podman", "--registries", "https://x"}, good, nil, "want hosts"},
		"no JSON":             {[]string{"docker"}, good, map[string]string{"etc/docker/daemon.json": "{\n\"a\": \n}"}, "daemon.json: line 2: this is no JSON object"},
		"a list":              {[]string{"docker"}, good, map[string]string{"etc/docker/daemon.json": "[]"}, "no JSON object"},
		"more":                {[]string{"docker"}, good, map[string]string{"etc/docker/daemon.json": "{} {}"}, "more after its end"},
		"twice":               {[]string{"docker"}, good, map[string]string{"etc/docker/daemon.json": `{"a":1,"a":2}`}, "twice"},
		"mirrors are a text":  {[]string{"docker"}, good, map[string]string{"etc/docker/daemon.json": `{"registry-mirrors":"x"}`}, "no list of texts"},
		"no TOML":             {[]string{"containerd"}, good, map[string]string{"etc/containerd/config.toml": "version = 2\nx = \n"}, "config.toml: line 2: this is no TOML"},
		"version":             {[]string{"containerd"}, good, map[string]string{"etc/containerd/config.toml": "version = 9\n"}, "version 9 is not known"},
		"old mirrors":         {[]string{"containerd"}, good, map[string]string{"etc/containerd/config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = [\"x\"]\n"}, "does not go with config_path"},
		"inline":              {[]string{"containerd"}, good, map[string]string{"etc/containerd/config.toml": "version = 2\nplugins = {\"io.containerd.grpc.v1.cri\" = {registry = {}}}\n"}, "by hand"},
		"other capabilities":  {[]string{"containerd"}, good, map[string]string{"etc/containerd/certs.d/_default/hosts.toml": "[host.\"http://127.0.0.1:" + good + "\"]\ncapabilities = [\"push\"]\n"}, "without the capabilities"},
		"inline hosts":        {[]string{"containerd"}, good, map[string]string{"etc/containerd/certs.d/_default/hosts.toml": "host = {}\n"}, "by hand"},
		"elsewhere":           {[]string{"podman"}, good, map[string]string{"etc/containers/registries.conf": "[[registry]]\nlocation = \"docker.io\"\nblocked = true\n"}, "registries.conf has a table for docker.io already"},
		"old format":          {[]string{"crio"}, good, map[string]string{"etc/containers/registries.conf": "[registries.search]\nregistries = ['docker.io']\n"}, "old format"},
		"another dfdaemon":    {[]string{"crio"}, good, map[string]string{"etc/containers/registries.conf.d/50-dragonfly.conf": "[[registry]]\nlocation = \"docker.io\"\n"}, "--undo"},
		"a directory":         {[]string{"docker"}, good, map[string]string{"etc/docker/daemon.json/x": ""}, "is a directory"},
		"what cannot be made": {[]string{"docker"}, good, map[string]string{"etc": ""}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTree(t, v.before)
			original := d.all()
			code, out, stderr := call(t, nil, append([]string{"setup", "--write", "--root", d.root, "--port", v.port, "--config", write(t, "c", "")}, v.args...)...)
			if code == 0 || !strings.Contains(stderr, v.says) || !maps.Equal(d.all(), original) {
				t.Errorf("exit code %d: %s %s", code, out, stderr)
			}
		})
	}
}

// TestSetupKeepsChanges: what a user changed after setup is not lost, links stay
// links, and another port takes the place of the first.
func TestSetupKeepsChanges(t *testing.T) {
	port, second := ready(t, 200, "OK\n"), ready(t, 200, "OK\n")
	d := newTree(t, map[string]string{"real.json": `{"a":1}`, "etc/docker/x": ""})
	path := filepath.Join(d.root, "etc/docker/daemon.json")
	if err := os.Symlink("../../real.json", path); err != nil {
		t.Fatal(err)
	}
	run := func(port, how string) (int, string) {
		code, _, stderr := call(t, nil, "setup", "docker", how, "--root", d.root, "--port", port, "--config", write(t, "c", ""))
		return code, stderr
	}
	for _, port := range []string{port, second} {
		if code, stderr := run(port, "--write"); code != 0 {
			t.Fatal(stderr)
		}
	}
	text := d.all()["real.json"]
	contains(t, "the file", text, "127.0.0.1:"+port, "127.0.0.1:"+second)
	if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Error("the link is gone")
	}
	if err := os.WriteFile(filepath.Join(d.root, "real.json"), []byte(`{"a":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, stderr := run(port, "--undo"); code == 0 || !strings.Contains(stderr, "was changed after setup wrote it") {
		t.Errorf("%d %s", code, stderr)
	}
	if err := os.WriteFile(filepath.Join(d.root, "real.json"), []byte(text[len("-rw-r-----\n"):]), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, stderr := run(port, "--undo"); code != 0 || !strings.HasSuffix(d.all()["real.json"], "\n{\"a\":1}") {
		t.Errorf("%d %s %v", code, stderr, d.all())
	}
}

// FuzzDockerConfig: whatever daemon.json holds, all of it is there afterwards.
func FuzzDockerConfig(f *testing.F) {
	for _, text := range []string{"", "{}", "{\n \"a\": [1, {}]\n}", `{"registry-mirrors":["x"],"b":null}`, `{"registry-mirrors":null}`} {
		f.Add(text)
	}
	const mirror = "http://127.0.0.1:65001"
	f.Fuzz(func(t *testing.T, text string) {
		out, err := withMirror([]byte(text), mirror)
		if err != nil {
			return
		}
		before, err := jsonObject([]byte(text))
		if err != nil && strings.TrimSpace(text) != "" {
			t.Fatalf("%q is taken: %v", text, err)
		}
		after, err := jsonObject(out)
		if err != nil {
			t.Fatalf("%q becomes %q: %v", text, out, err)
		}
		values := map[string]string{}
		for _, m := range after {
			values[m.key] = string(out[m.from:m.to])
		}
		for _, m := range before {
			if m.key != mirrorsKey && values[m.key] != text[m.from:m.to] {
				t.Errorf("%q becomes %q: %s is another one", text, out, m.key)
			}
		}
		if again, err := withMirror(out, mirror); err != nil || string(again) != string(out) {
			t.Errorf("%q becomes %q: %v", out, again, err)
		}
	})
}

// FuzzHosts: whatever hosts.toml and config.toml hold, all of it is there
// afterwards, which the code checks by itself, and a second time changes
// nothing.
func FuzzHosts(f *testing.F) {
	for _, text := range []string{"", "server = 'x'", "[host]\n[host.'http://x']\n", "[plugins.a]\nx = 1\n", "[a.b]\nc = ''\n[[a.b.d]]\n", "a.b.c = 'z'"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if out, err := withHost([]byte(text), "http://127.0.0.1:65001"); err == nil {
			if again, err := withHost(out, "http://127.0.0.1:65001"); err != nil || string(again) != string(out) {
				t.Errorf("%q becomes %q: %v", out, again, err)
			}
		}
		if out, err := withString([]byte(text), "/dir", "a", "b", "c"); err == nil {
			if again, err := withString(out, "/dir", "a", "b", "c"); err != nil || string(again) != string(out) {
				t.Errorf("%q becomes %q: %v", out, again, err)
			}
		}
	})
}
