// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dragonfly/e2e/engine"
	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// known is a hosts file by which our own processes find names at this machine.
// Engines do not have it: what they pull from there they pull through us.
func (w *world) known(names ...string) string {
	w.Helper()
	path := filepath.Join(w.dir, "hosts")
	w.must(os.WriteFile(path, []byte("127.0.0.1 localhost "+strings.Join(names, " ")+"\n"), 0o644))
	return path
}

// authority makes a private authority for names.
func (w *world) authority(names ...string) *registry.Authority {
	w.Helper()
	a, err := registry.NewAuthority(w.short(), names...)
	w.must(err)
	return a
}

// proxied is what an engine's environment says about a proxy.
func proxied(addr string, more ...string) []string {
	return append([]string{"HTTP_PROXY=" + addr, "HTTPS_PROXY=" + addr, "NO_PROXY="}, more...)
}

// port is the port of a site.
func (s *site) port() string { return s.Addr[strings.LastIndexByte(s.Addr, ':')+1:] }

// TestProxy: docker that knows a registry by name only pulls through the
// proxy: plain HTTP in absolute form, whose blobs come by the swarm as a rule
// says, and HTTPS through a tunnel, of which dfdaemon sees nothing.
func TestProxy(t *testing.T) {
	w := startEngines(t, "dockerd", "docker", "unshare")
	hosts, authority := w.known("one.test"), w.authority("one.test")
	tracker := w.supernode(swarm.SupernodeOptions{Hosts: hosts})
	for name, c := range map[string]struct {
		o      registry.Options
		shared bool
	}{
		"absolute form": {registry.Options{}, true},
		"tunnel":        {registry.Options{Authority: authority}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			s := w.site(c.o)
			image := w.push(s, "app/one", usual)
			ref := "one.test:" + s.port() + "/app/one"
			for i := range 2 {
				s.Reset()
				n := w.nodeWith(swarm.DaemonOptions{Registry: "http://127.0.0.1:1", Hosts: hosts, Args: []string{"--node", tracker.Addr},
					Config: "proxies: [{regx: blobs/sha256}]\n"})
				o := engine.DockerOptions{Env: proxied(n.addr, "SSL_CERT_FILE="+authority.CA)}
				if c.o.Authority == nil {
					o.Insecure = []string{"one.test:" + s.port()}
				}
				d := w.dockerWith(o)
				w.must(d.Pull(w.ctx, ref))
				w.isPulled(d, ref, image)
				if i > 0 && c.shared {
					w.cost(s, 0)
				} else {
					w.cost(s, image.Platforms[0].Bytes)
				}
			}
		})
	}
}

// in is the ground of a subtest: a directory of its own, the same processes.
func (w *world) in(t *testing.T) *world {
	own := *w
	own.T, own.dir = t, t.TempDir()
	return &own
}

// TestInterception: dfdaemon opens what goes to one registry by HTTPS, with
// an authority that gen-ca made, and its blobs come by the swarm.
func TestInterception(t *testing.T) {
	w := startEngines(t, "dockerd", "docker", "unshare")
	hosts, authority := w.known("one.test"), w.authority("one.test")
	s := w.site(registry.Options{Authority: authority})
	image := w.push(s, "app/one", usual)
	ref := "one.test:" + s.port() + "/app/one"
	dir := w.short()
	cert, key := filepath.Join(dir, "own.crt"), filepath.Join(dir, "own.key")
	cmd := exec.CommandContext(w.ctx, filepath.Join(w.Dir, "dfdaemon"), "gen-ca", "--key-output", key, "--cert-output", cert)
	cmd.Env = swarm.Environment(dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gen-ca: %v\n%s", err, out)
	}
	tracker := w.supernode(swarm.SupernodeOptions{Hosts: hosts})
	for _, cost := range []int64{image.Platforms[0].Bytes, 0} {
		s.Reset()
		n := w.nodeWith(swarm.DaemonOptions{Registry: "http://127.0.0.1:1", Hosts: hosts, Args: []string{"--node", tracker.Addr}, Config: fmt.Sprintf(`
proxies:
  - regx: blobs/sha256
hijack_https:
  cert: %s
  key: %s
  hosts:
    - regx: ^one\.test:%s$
      certs: [%s]
`, cert, key, s.port(), authority.CA)})
		d := w.dockerWith(engine.DockerOptions{Env: proxied(n.addr, "SSL_CERT_FILE="+cert)})
		w.must(d.Pull(w.ctx, ref))
		w.isPulled(d, ref, image)
		w.cost(s, cost)
	}
}

// TestPrivateAuthority: a registry with a certificate of a private authority
// comes through the swarm when dfdaemon is told of it, and is refused else.
func TestPrivateAuthority(t *testing.T) {
	w := startEngines(t, "dockerd", "docker")
	authority := w.authority()
	s := w.site(registry.Options{Authority: authority})
	image := w.push(s, "library/one", usual)
	tracker := w.supernode(swarm.SupernodeOptions{})
	for i := range 2 {
		s.Reset()
		n := w.nodeWith(swarm.DaemonOptions{Registry: s.URL, Args: []string{"--node", tracker.Addr}, Config: "registry_mirror: {certs: [" + authority.CA + "]}\n"})
		d := w.docker(n.addr)
		w.must(d.Pull(w.ctx, "one"))
		w.isPulled(d, "one", image)
		w.cost(s, []int64{image.Platforms[0].Bytes, 0}[i])
	}
	untold := w.node(s.URL, "--node", tracker.Addr)
	if a := w.ask("GET", untold.addr+"/v2/library/one/manifests/latest"); a.StatusCode != 502 || !strings.Contains(string(a.body), "certificate") {
		t.Errorf("without the authority: status %d, want 502 that speaks of a certificate: %.300q", a.StatusCode, a.body)
	}
}

// TestProxyPassword: who does not give the proxy its password pulls nothing
// through it.
func TestProxyPassword(t *testing.T) {
	w := startEngines(t, "dockerd", "docker", "unshare")
	hosts := w.known("one.test")
	s := w.site(registry.Options{})
	image := w.push(s, "app/one", usual)
	users := filepath.Join(w.short(), "users")
	w.must(os.WriteFile(users, []byte("carol:proxy password\n"), 0o600))
	n := w.nodeWith(swarm.DaemonOptions{Registry: "http://127.0.0.1:1", Hosts: hosts, Config: "proxies: [{regx: blobs/sha256}]\n",
		Args: []string{"--node", w.supernode(swarm.SupernodeOptions{Hosts: hosts}).Addr, "--proxy-auth-file", users}})
	ref := "one.test:" + s.port() + "/app/one"
	pull := func(user string) (*engine.Docker, error) {
		d := w.dockerWith(engine.DockerOptions{Insecure: []string{"one.test:" + s.port()}, Env: proxied(strings.Replace(n.addr, "//", "//"+user, 1))})
		return d, d.Pull(w.ctx, ref)
	}
	for _, user := range []string{"", "carol:wrong@"} {
		if _, err := pull(user); err == nil || !strings.Contains(err.Error(), "this proxy wants a user and a password") {
			t.Errorf("as %q: %v", user, err)
		}
	}
	d, err := pull("carol:proxy%20password@")
	w.must(err)
	w.isPulled(d, ref, image)
	w.noSecretAnywhere("proxy password", "proxy%20password")
}
