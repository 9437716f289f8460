// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const secret = "c3VwZXItc2VjcmV0"

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestCredential(t *testing.T) {
	ann := credential{user: "ann", password: secret}
	entry := `{"auth":"` + b64("ann:"+secret) + `"}`
	for name, v := range map[string]struct {
		file, host string
		want       credential
		says       string // of an error
	}{
		"host":             {`{"auths":{"r.example:5000":` + entry + `}}`, "r.example:5000", ann, ""},
		"another port":     {`{"auths":{"r.example:5000":` + entry + `}}`, "r.example", credential{}, ""},
		"with scheme":      {`{"auths":{"https://r.example/":` + entry + `}}`, "r.example", ann, ""},
		"with version":     {`{"auths":{"http://r.example/v1/":` + entry + `}}`, "r.example", ann, ""},
		"hub":              {`{"auths":{"https://index.docker.io/v1/":` + entry + `}}`, "index.docker.io", ann, ""},
		"hub's registry":   {`{"auths":{"https://index.docker.io/v1/":` + entry + `}}`, "registry-1.docker.io", ann, ""},
		"hub by its name":  {`{"auths":{"docker.io":` + entry + `}}`, "index.docker.io", ann, ""},
		"exact before":     {`{"auths":{"https://r.example":{"auth":"` + b64("bob:x") + `"},"r.example":` + entry + `}}`, "r.example", ann, ""},
		"nothing":          {`{"auths":{"other.example":` + entry + `}}`, "r.example", credential{}, ""},
		"empty entry":      {`{"auths":{"r.example":{}}}`, "r.example", credential{}, ""},
		"empty file":       {" \n", "r.example", credential{}, ""},
		"null":             {`{"auths":null}`, "r.example", credential{}, ""},
		"newline inside":   {`{"auths":{"r.example":{"auth":"` + b64("ann:"+secret+"\n") + `"}}}`, "r.example", ann, ""},
		"zeros inside":     {`{"auths":{"r.example":{"auth":"` + b64("ann:"+secret+"\x00\x00") + `"}}}`, "r.example", ann, ""},
		"newline around":   {`{"auths":{"r.example":{"auth":"` + b64("ann:"+secret) + `\n"}}}`, "r.example", ann, ""},
		"broken lines":     {`{"auths":{"r.example":{"auth":"` + b64("ann:" + secret)[:9] + `\n` + b64("ann:" + secret)[9:] + `"}}}`, "r.example", ann, ""},
		"no padding":       {`{"auths":{"r.example":{"auth":"` + strings.TrimRight(b64("ann:"+secret), "=") + `"}}}`, "r.example", ann, ""},
		"colon":            {`{"auths":{"r.example":{"auth":"` + b64("ann:a:b") + `"}}}`, "r.example", credential{user: "ann", password: "a:b"}, ""},
		"in the clear":     {`{"auths":{"r.example":{"username":"ann","password":"` + secret + `"}}}`, "r.example", ann, ""},
		"identity token":   {`{"auths":{"r.example":{"auth":"` + b64("<token>:") + `","identitytoken":"` + secret + `"}}}`, "r.example", credential{user: "<token>", refresh: secret}, ""},
		"registry's token": {`{"auths":{"r.example":{"registrytoken":"` + secret + `"}}}`, "r.example", credential{registry: secret}, ""},
		"no base64":        {`{"auths":{"r.example":{"auth":"` + secret + `!"}}}`, "r.example", credential{}, "docker login"},
		"no colon":         {`{"auths":{"r.example":{"auth":"` + b64(secret) + `"}}}`, "r.example", credential{}, "docker login"},
		"no JSON":          {`auths: ` + secret, "r.example", credential{}, "docker login"},
		"other shape":      {`{"auths":["` + secret + `"]}`, "r.example", credential{}, "docker login"},
		"bad helper":       {`{"credsStore":"../../` + secret + `"}`, "r.example", credential{}, "credential helper"},
	} {
		c, err := parseConfig([]byte(v.file))
		var got credential
		if err == nil {
			got, err = c.find(t.Context(), v.host)
		}
		if got != v.want || (err == nil) != (v.says == "") || err != nil && (!strings.Contains(err.Error(), v.says) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// script makes a credential helper of a shell script and puts it on the PATH.
func script(t *testing.T, suffix, text string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, helperPrefix+suffix), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestHelper: what credential helpers print, and what they do wrong.
func TestHelper(t *testing.T) {
	const answers = `read -r server; test "$1 $server" = "get r.example" && echo '{"ServerURL":"x","Username":"ann","Secret":"` + secret + `"}'`
	ann := credential{user: "ann", password: secret}
	for name, v := range map[string]struct {
		config, script string
		want           credential
		says           string
	}{
		"store":          {`{"credsStore":"own"}`, answers, ann, ""},
		"helper":         {`{"credHelpers":{"r.example":"own"},"credsStore":"none"}`, answers, ann, ""},
		"of another":     {`{"credHelpers":{"x.example":"own"}}`, answers, credential{}, ""},
		"token":          {`{"credsStore":"own"}`, `echo '{"Username":"<token>","Secret":"` + secret + `"}'`, credential{refresh: secret}, ""},
		"nothing":        {`{"credsStore":"own"}`, "echo credentials not found in native keychain; exit 1", credential{}, ""},
		"then the file":  {`{"credsStore":"own","auths":{"r.example":{"auth":"` + b64("ann:"+secret) + `"}}}`, "echo credentials not found in native keychain; exit 1", ann, ""},
		"fails":          {`{"credsStore":"own"}`, "echo " + secret + "; echo " + secret + " >&2; exit 3", credential{}, "docker-credential-own fails: exit status 3"},
		"is not there":   {`{"credsStore":"absent"}`, "", credential{}, "docker-credential-absent is not in the PATH"},
		"prints no JSON": {`{"credsStore":"own"}`, "echo " + secret, credential{}, "as JSON"},
		"prints a lot":   {`{"credsStore":"own"}`, "exec cat /dev/zero", credential{}, "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			script(t, "own", v.script)
			c, err := parseConfig([]byte(v.config))
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.find(t.Context(), "r.example")
			if got != v.want || (err == nil) != (v.says == "") || err != nil && (!strings.Contains(err.Error(), v.says) || strings.Contains(err.Error(), secret)) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// TestHelperHangs: a helper that does not end is ended.
func TestHelperHangs(t *testing.T) {
	script(t, "own", "exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := askHelper(ctx, "own", "r.example"); err == nil || !strings.Contains(err.Error(), "nothing in time") {
		t.Errorf("%v", err)
	}
}

// TestFile: a configuration is read again when it has changed, was made or was
// taken away, and its state tells so.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	f := file{path: path}
	last := -1
	for i, v := range []struct {
		change func() error
		helper string
		fails  bool
	}{
		{func() error { return nil }, "", false}, // not there yet
		{func() error { return os.WriteFile(path, []byte(`{"credsStore":"a"}`), 0o600) }, "a", false},
		{func() error { return os.WriteFile(path, []byte(`{"credsStore":"bb"}`), 0o600) }, "bb", false},
		{func() error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) }, "bb", false},
		{func() error { return os.WriteFile(path, []byte(secret), 0o600) }, "", true},
		{func() error { return os.WriteFile(path, make([]byte, maxFile+1), 0o600) }, "", true},
		{func() error { return os.Remove(path) }, "", false},
		{func() error { return os.Mkdir(path, 0o700) }, "", true},
	} {
		if err := v.change(); err != nil {
			t.Fatal(err)
		}
		for again := range 2 {
			c, state, err := f.load()
			if c.CredsStore != v.helper || (err != nil) != v.fails || err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("step %d: %+v, %v", i, c, err)
			}
			if (state != last) != (again == 0) {
				t.Errorf("step %d, reading %d: state %d after %d", i, again, state, last)
			}
			last = state
		}
	}
}

// FuzzConfig: no configuration, however strange, does more than give an error
// without its text, and a helper is never a path.
func FuzzConfig(f *testing.F) {
	f.Add(`{"auths":{"https://r.example/v1/":{"auth":"YTpi"}},"credHelpers":{"r.example":"x"},"credsStore":"y"}`, "r.example")
	f.Add(`{"auths":{"docker.io":{"identitytoken":"x"}}}`, "index.docker.io")
	f.Fuzz(func(t *testing.T, text, host string) {
		c, err := parseConfig([]byte(text))
		if err != nil {
			return
		}
		if _, err := c.credential(host); err != nil && len(err.Error()) > 100 {
			t.Errorf("%q: %v", text, err)
		}
		if suffix, _, err := c.helper(host); err == nil && strings.ContainsAny(suffix, "/\\ \x00") {
			t.Errorf("%q: the helper is %q", text, suffix)
		}
	})
}
