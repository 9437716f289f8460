// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExitCodes: what v1's scripts look at (v1-protocol 10).
func TestExitCodes(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "dfdaemon.yml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--port", "70000"}, exitPort, "want one from 1 to 65535"},
		{[]string{"--ratelimit", "many"}, exitRate, "20MB"},
		{[]string{"--localrepo", "here"}, exitPath, "absolute"},
		{[]string{"--registry", "ftp://x"}, exitConfig, "registry"},
		{[]string{"--registry", "https://u:geheim@x"}, exitConfig, "take user and password out"},
		{[]string{"--registry-auth", "maybe"}, exitConfig, "want auto, on or off"},
		{[]string{"--certpem", "x"}, exitConfig, "not supported by this build yet"},
		{[]string{}, exitHome, "--workHome"},
		{[]string{"--nod", "x"}, exitOther, "did you mean --node?"},
	} {
		var out, stderr bytes.Buffer
		p := program{lookup: func(string) (string, bool) { return "", false }, stdout: &out, stderr: &stderr}
		code := p.execute(t.Context(), append([]string{"--config", empty}, v.args...))
		if code != v.code || !strings.Contains(stderr.String(), v.says) || strings.Contains(stderr.String(), "geheim") {
			t.Errorf("%q: exit code %d, want %d: %s", v.args, code, v.code, &stderr)
		}
	}
}

// TestPages: dfdaemon's own endpoints, secrets masked, and no HTTP proxy.
func TestPages(t *testing.T) {
	c := defaultConfig()
	pages, err := newPages(c, []string{"--registry", "https://u:geheim@x/y"})
	if err != nil {
		t.Fatal(err)
	}
	h := dispatch(pages, http.NotFoundHandler())
	for path, want := range map[string]string{
		"/args": "--registry https://***@x/y", "/env": `"workhome":""`, "/healthy": "OK", "/debug/version": `"GoVersion"`,
		"/metrics": "dragonfly_dfdaemon_build_info", "/v2/": "404", "http://other/": "no HTTP proxy",
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if !strings.Contains(w.Body.String(), want) && !(strings.HasPrefix(want, "404") && w.Code == 404) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
