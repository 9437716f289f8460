// SPDX-License-Identifier: Apache-2.0

package version_test

import (
	"encoding/json"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"dragonfly/internal/version"
)

// TestAnswer: GET /version has v1's names, and leaves empty ones out
// (v1-protocol 3).
func TestAnswer(t *testing.T) {
	w := httptest.NewRecorder()
	i := version.Get()
	i.BuildDate = ""
	i.ServeHTTP(w, nil)
	var got map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got["Arch"] != runtime.GOARCH || got["OS"] != runtime.GOOS || got["GoVersion"] != runtime.Version() || got["Version"] == "" {
		t.Errorf("%q", got)
	}
	if _, ok := got["BuildDate"]; ok || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Errorf("%q as %s", got, w.Header().Get("Content-Type"))
	}
}

func TestWrite(t *testing.T) {
	i := version.Info{Version: "1.2", Revision: "abc", OS: "o", Arch: "a"}
	var text, asJSON strings.Builder
	if err := i.Write(&text, "dfget", false); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text.String(), "dfget version  1.2\n") || !strings.Contains(text.String(), "abc") || !strings.HasSuffix(text.String(), "o/a\n") {
		t.Errorf("%q", &text)
	}
	if err := i.Write(&asJSON, "dfget", true); err != nil || asJSON.String() != `{"Arch":"a","OS":"o","Revision":"abc","Version":"1.2"}`+"\n" {
		t.Errorf("%q, %v", &asJSON, err)
	}
}
