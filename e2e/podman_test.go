// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"dragonfly/e2e/engine"
	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// inPath is how clients that name the registry in the path find it behind the
// mirror at addr.
func inPath(addr string, s *site) string {
	return strings.TrimPrefix(addr, "http://") + "/" + strings.Replace(s.Addr, ":", "_", 1)
}

// files is a skopeo and podman that know sites as one.test, two.test, …, by the
// mirror at addr only: there is nothing at the addresses to fall back to.
func (w *world) files(addr string, sites ...*site) engine.Files {
	w.Helper()
	f := engine.Files{Dir: w.short()}
	var conf strings.Builder
	for i, s := range sites {
		fmt.Fprintf(&conf, "[[registry]]\nprefix = %q\nlocation = \"127.0.0.1:1\"\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n\n", names[i], inPath(addr, s))
	}
	w.must(f.Registries(conf.String()))
	return f
}

var names = []string{"one.test", "two.test"}

// credentials is what docker and podman keep of logins, the usual user's with
// the given password.
func credentials(password string, registries ...string) string {
	auths := map[string]map[string]string{}
	for _, r := range registries {
		auths[r] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(registry.User + ":" + password))}
	}
	raw, _ := json.Marshal(map[string]any{"auths": auths}) // strings only
	return string(raw)
}

// isCopied checks a directory that skopeo copied an image into.
func (w *world) isCopied(dir string, image *registry.Image) {
	w.Helper()
	for _, digest := range append(image.Platforms[0].Layers, image.Platforms[0].Config) {
		got, err := os.ReadFile(filepath.Join(dir, strings.TrimPrefix(digest, "sha256:")))
		if err != nil || !bytes.Equal(got, image.Blob(digest)) {
			w.Errorf("%s: %d bytes, want %d, %v", digest, len(got), len(image.Blob(digest)), err)
		}
	}
}

// TestSkopeoAndPodman: clients that name the registry in the path pull
// through dfdaemon, gzip and zstd, and the second host's pull costs nothing.
func TestSkopeoAndPodman(t *testing.T) {
	w := startEngines(t, "skopeo", "podman")
	s := w.site(registry.Options{})
	compressed := usual
	compressed.Zstd, compressed.Seed, compressed.Layers = true, 2, 2
	images := map[string]*registry.Image{"app/one": w.push(s, "app/one", usual), "app/two": w.push(s, "app/two", compressed)}
	tracker := w.supernode(swarm.SupernodeOptions{})
	nodes := []*node{w.node("http://127.0.0.1:1", "--node", tracker.Addr), w.node("http://127.0.0.1:1", "--node", tracker.Addr)}
	first, second := w.files(nodes[0].addr, s), w.files(nodes[1].addr, s)
	for name, image := range images {
		ref := names[0] + "/" + name + ":latest"
		s.Reset()
		dir, err := first.Copy(w.ctx, ref, filepath.Base(name))
		w.must(err)
		w.isCopied(dir, image)
		w.cost(s, image.Platforms[0].Bytes)

		s.Reset()
		w.must(second.Pull(w.ctx, ref))
		layers, err := second.Inspect(w.ctx, ref, "{{json .RootFS.Layers}}")
		w.must(err)
		for _, id := range image.Platforms[0].DiffIDs {
			if !strings.Contains(layers, id) {
				t.Errorf("podman has no layer %s of %s in %s", id, name, layers)
			}
		}
		w.cost(s, 0)
	}
	w.tookPart(nodes[0])
	w.tookPart(nodes[1])
}

// TestTwoTokenRegistries: one skopeo pulls from two registries, each with
// tokens of its own, at the same time; who has the wrong password gets nothing.
func TestTwoTokenRegistries(t *testing.T) {
	w := startEngines(t, "skopeo")
	one, two := w.site(registry.Options{Tokens: w.tokens()}), w.site(registry.Options{Tokens: w.tokens()})
	small := usual
	small.Layers = 2
	images := map[string]*registry.Image{}
	for i, s := range []*site{one, two} {
		for _, repository := range []string{"public/app", "private/app"} {
			small.Seed++
			images[names[i]+"/"+repository] = w.push(s, repository, small)
		}
	}
	n := w.node("http://127.0.0.1:1", "--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	f := w.files(n.addr, one, two)
	w.must(f.Auth(credentials(registry.Password, inPath(n.addr, one), inPath(n.addr, two))))
	var wg sync.WaitGroup
	for ref, image := range images {
		wg.Go(func() {
			dir, err := f.Copy(w.ctx, ref+":latest", strings.ReplaceAll(ref, "/", "-"))
			if err != nil {
				t.Error(err)
				return
			}
			w.isCopied(dir, image)
		})
	}
	wg.Wait()

	nobody := w.files(n.addr, one, two)
	w.must(nobody.Auth("{}"))
	dir, err := nobody.Copy(w.ctx, "one.test/public/app:latest", "nobody")
	w.must(err)
	w.isCopied(dir, images["one.test/public/app"])
	if _, err := nobody.Copy(w.ctx, "one.test/private/app:latest", "refused"); err == nil || !denied(err) {
		t.Errorf("without a password: %v, want it to be denied", err)
	}
	wrong := w.files(n.addr, one, two)
	w.must(wrong.Auth(credentials("wrong", inPath(n.addr, one))))
	if _, err := wrong.Copy(w.ctx, "one.test/private/app:latest", "wrong"); err == nil || !denied(err) {
		t.Errorf("with a wrong password: %v, want it to be denied", err)
	}
}

// denied says that an engine's error speaks of missing rights.
func denied(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "denied") || strings.Contains(text, "unauthorized") || strings.Contains(text, "authentication required") ||
		strings.Contains(text, "incorrect username or password") || strings.Contains(text, "401")
}

// tokens starts a token server.
func (w *world) tokens() *registry.Tokens {
	w.Helper()
	t, err := registry.NewTokens()
	w.must(err)
	w.Cleanup(t.Close)
	return t
}
