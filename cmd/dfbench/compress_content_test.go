// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestKinds: a content has its size, is the same each time, and compresses or
// not as its kind says.
func TestKinds(t *testing.T) {
	const size = 1<<20 + 1
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, k := range kinds {
		b := &bench{dir: t.TempDir(), size: size}
		var all [2][]byte
		for i := range all {
			if err := b.makeKind(t.Context(), k); err != nil {
				t.Fatal(k.name, err)
			}
			if all[i], err = os.ReadFile(b.path("file")); err != nil {
				t.Fatal(err)
			}
		}
		if len(all[0]) != size || !bytes.Equal(all[0], all[1]) {
			t.Errorf("%s: %d bytes, or others the second time", k.name, len(all[0]))
		}
		if shorter := len(e.EncodeAll(all[0], nil)) < size/2; shorter != (k.name != "random") {
			t.Errorf("%s compresses: %v", k.name, shorter)
		}
	}
}
