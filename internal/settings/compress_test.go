// SPDX-License-Identifier: Apache-2.0

package settings_test

import (
	"strings"
	"testing"

	"dragonfly/internal/settings"
)

// TestCompress: auto unless said otherwise, and a mistake is told what is right.
func TestCompress(t *testing.T) {
	for _, c := range []struct {
		env  string
		off  bool
		want string // part of the error
	}{
		{"", false, ""},
		{"auto", false, ""},
		{"off", true, ""},
		{"OFF", false, "X_COMPRESS: want auto or off"},
		{"true", false, "X_COMPRESS: want auto or off"},
	} {
		var o struct {
			Compress settings.Compress `key:"compress" flag:"compress"`
		}
		_, err := settings.Of(&o).Load(settings.Source{Prefix: "X_", Lookup: func(string) (string, bool) { return c.env, true }})
		if o.Compress.Off != c.off || (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %+v, %v", c.env, o.Compress, err)
		}
		if text, err := o.Compress.MarshalText(); c.want == "" && c.env != "" && (err != nil || string(text) != c.env) {
			t.Errorf("%q is written as %q, %v", c.env, text, err)
		}
	}
}
