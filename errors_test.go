// SPDX-License-Identifier: Apache-2.0

package dragonfly_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"dragonfly"
)

func TestErrorText(t *testing.T) {
	for want, e := range map[string]*dragonfly.Error{
		"source gave 404":        {Kind: dragonfly.NotFound, Message: "source gave 404"},
		"read body: EOF":         {Kind: dragonfly.SourceFailed, Message: "read body", Err: io.EOF},
		"EOF":                    {Kind: dragonfly.SourceFailed, Err: io.EOF},
		string(dragonfly.Denied): {Kind: dragonfly.Denied},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%+v prints as %q, want %q", e, got, want)
		}
	}
}

// TestKindOf: the first Error of the chain decides; anything else is a fault
// of ours. The cause stays in this process.
func TestKindOf(t *testing.T) {
	inner := &dragonfly.Error{Kind: dragonfly.NoSpace, Message: "store full", Err: io.ErrShortWrite}
	wrapped := fmt.Errorf("piece 3: %w", inner)
	if got := dragonfly.KindOf(wrapped); got != dragonfly.NoSpace {
		t.Errorf("kind %s", got)
	}
	if !errors.Is(wrapped, io.ErrShortWrite) {
		t.Error("the cause is lost")
	}
	if got := dragonfly.KindOf(io.EOF); got != dragonfly.Internal {
		t.Errorf("kind of a foreign error is %s", got)
	}
	raw, err := json.Marshal(inner)
	if err != nil || strings.Contains(string(raw), "short write") {
		t.Errorf("%s, %v: the cause crosses the wire", raw, err)
	}
}
