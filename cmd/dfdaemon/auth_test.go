// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dragonfly/mirror"
)

// TestLends: by default logins are used when only this host can ask for them.
func TestLends(t *testing.T) {
	for _, v := range []struct {
		auth, hostIP, file string
		logins             string
		anybody, warns     bool
	}{
		{authAuto, "127.0.0.1", "", "/d/config.json", false, false},
		{authAuto, "::1", "/own.json", "/own.json", false, false},
		{authAuto, "0.0.0.0", "", "", true, false},
		{authOn, "127.0.0.1", "", "/d/config.json", false, false},
		{authOn, "0.0.0.0", "", "/d/config.json", true, true},
		{authOff, "127.0.0.1", "", "", true, false},
	} {
		c := defaultConfig()
		c.Mirror.Auth, c.HostIP, c.Mirror.AuthFile = v.auth, v.hostIP, v.file
		var o mirror.Options
		log := new(bytes.Buffer)
		c.lends(&o, func(name string) (string, bool) { return "/d", name == "DOCKER_CONFIG" }, slog.New(slog.NewTextHandler(log, nil)))
		if o.Logins != v.logins || (o.Lend == nil) != v.anybody || strings.Contains(log.String(), "level=WARN") != v.warns {
			t.Errorf("%+v: the file is %q, Lend %t, the log says %s", v, o.Logins, o.Lend != nil, log)
		}
	}
	if c := defaultConfig(); c.Mirror.Auth != authAuto {
		t.Errorf("the default is %q", c.Mirror.Auth)
	}
}

// TestDockerConfig: the file that docker login writes.
func TestDockerConfig(t *testing.T) {
	home := t.TempDir()
	with := t.TempDir()
	if err := os.MkdirAll(filepath.Join(with, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(with, ".docker", "config.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		dir, home string
		uid       int
		want      string
	}{
		{"/d", with, 0, "/d/config.json"},
		{"", with, 0, with + "/.docker/config.json"},
		{"", home, 0, "/root/.docker/config.json"},
		{"", "", 0, "/root/.docker/config.json"},
		{"", home, 1000, home + "/.docker/config.json"},
		{"", "", 1000, ""},
	} {
		got := dockerConfig(func(name string) (string, bool) {
			value := map[string]string{"DOCKER_CONFIG": v.dir, "HOME": v.home}[name]
			return value, value != ""
		}, v.uid)
		if got != v.want {
			t.Errorf("%+v: %q", v, got)
		}
	}
}

// TestFromEngine: no page in a browser gets what is lent.
func TestFromEngine(t *testing.T) {
	for _, v := range []struct {
		host, header string
		want         bool
	}{
		{"127.0.0.1:65001", "", true},
		{"localhost:65001", "", true},
		{"[::1]:65001", "", true},
		{"evil.example:65001", "", false},
		{"127.0.0.1:65001", "Origin", false},
		{"localhost:65001", "Sec-Fetch-Site", false},
	} {
		r := httptest.NewRequest("GET", "/v2/", nil)
		if r.Host = v.host; v.header != "" {
			r.Header.Set(v.header, "x")
		}
		if got := fromEngine(r); got != v.want {
			t.Errorf("%+v gives %t", v, got)
		}
	}
}
