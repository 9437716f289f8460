// SPDX-License-Identifier: Apache-2.0

package login

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

const (
	helperPrefix = "docker-credential-"
	// helperTime is the longest that a helper may take: some ask a cloud.
	helperTime = 10 * time.Second
	// helperGrace is how long what a helper started may keep its output open.
	helperGrace = time.Second
	maxHelper   = 64 << 10
	// tokenUser is the user of a secret that is a token for the realm.
	tokenUser = "<token>"
	// notFound is what helpers print when they have nothing for a server.
	notFound = "credentials not found"
)

// askHelper asks docker-credential-SUFFIX for what it has for a server. What it
// prints is in no error.
func askHelper(ctx context.Context, suffix, server string) (credential, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTime)
	defer cancel()
	name := helperPrefix + suffix
	cmd := exec.CommandContext(ctx, name, "get")
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = helperGrace
	out := &bounded{left: maxHelper}
	cmd.Stdout = out
	err := cmd.Run()
	switch {
	case out.full:
		return credential{}, fmt.Errorf("%s prints more than %d bytes", name, maxHelper)
	case ctx.Err() != nil:
		return credential{}, fmt.Errorf("%s gives nothing in time: %w", name, context.Cause(ctx))
	case err != nil && strings.Contains(strings.ToLower(out.b.String()), notFound):
		return credential{}, nil
	case errors.Is(err, exec.ErrNotFound):
		return credential{}, fmt.Errorf("%s is not in the PATH of dfdaemon: install it or take it out of the configuration", name)
	case err != nil:
		return credential{}, fmt.Errorf("%s fails: %w", name, err)
	}
	var got struct{ Username, Secret string }
	if json.Unmarshal(out.b.Bytes(), &got) != nil {
		return credential{}, fmt.Errorf("%s does not print credentials as JSON", name)
	}
	if got.Username == tokenUser {
		return credential{refresh: got.Secret}, nil
	}
	return credential{user: got.Username, password: got.Secret}, nil
}

// bounded takes what a helper prints.
type bounded struct {
	b    bytes.Buffer
	left int
	full bool
}

func (w *bounded) Write(p []byte) (int, error) {
	if len(p) > w.left {
		w.full = true
		return 0, errors.New("too much")
	}
	w.left -= len(p)
	return w.b.Write(p)
}
