// SPDX-License-Identifier: Apache-2.0

// Package version says which build of the software this is, in the words that
// v1's version commands and GET /version used.
//
// Invariant: what is told is fixed at build time. A release sets Number and
// Date by the linker: -ldflags "-X dragonfly/internal/version.Number=2.0.0".
package version

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
)

// Set by the linker.
var (
	Number = "2.0.0-dev"
	Date   string
)

// Info describes a build; empty fields are left out of JSON, as v1 did.
type Info struct {
	Arch, BuildDate, GoVersion, OS, Revision, Version string `json:",omitempty"`
}

// Get describes this build.
func Get() Info {
	i := Info{Arch: runtime.GOARCH, BuildDate: Date, GoVersion: runtime.Version(), OS: runtime.GOOS, Version: Number}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				i.Revision = s.Value
			}
		}
	}
	return i
}

// Write writes what a version command prints: v1's text, or JSON.
func (i Info) Write(w io.Writer, program string, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(i)
	}
	_, err := fmt.Fprintf(w, "%s version  %s\n  Git commit:     %s\n  Build date:     %s\n  Go version:     %s\n  OS/Arch:        %s/%s\n",
		program, i.Version, i.Revision, i.BuildDate, i.GoVersion, i.OS, i.Arch)
	return err
}

// ServeHTTP answers GET /version: JSON, as text/plain for the sake of v1's
// clients (v1-protocol 3).
func (i Info) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = json.NewEncoder(w).Encode(i) // the client went away
}
