// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"dragonfly"
	"dragonfly/e2e/engine"
	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
	"dragonfly/wire"
)

// basic is the usual user's Authorization.
func basic(password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(registry.User+":"+password))
}

// stranger knows everything about a swarm but a password.
type stranger struct {
	w     *world
	node  string   // control port of the supernode, host:port
	ports []string // data ports, host:port
	local []string // dfdaemons' addresses, http://host:port
}

// leaks asks everybody for a blob in every way there is, and says which way
// gave something of it.
func (s stranger) leaks(url string, blob []byte) (found []string) {
	s.w.Helper()
	id := dragonfly.Request{URL: url}.TaskID()
	leak := func(way string, got []byte) {
		if at := min(len(blob), 1000); len(got) > 0 && (bytes.Contains(blob, got) || bytes.Contains(got, blob[at/2:at])) {
			found = append(found, way)
		}
	}
	for _, port := range s.ports {
		for _, path := range []string{
			"/p2p/v1/tasks/" + id.String() + "/content", "/p2p/v1/tasks/" + id.String() + "/blocks?piece=0",
			"/peer/file/" + id.String(), "/" + id.String()[:3] + "/" + id.String(), "/qtdown/" + id.String()[:3] + "/" + id.String(),
		} {
			for _, ticket := range []string{"", "Dragonfly ", "Dragonfly " + strings.Repeat("0", 32), "Dragonfly " + id.String()[:32]} {
				header := []string{"Range", "bytes=0-999", "If-Match", `"` + strings.Repeat("0", 32) + `"`}
				if ticket != "" {
					header = append(header, "Authorization", ticket)
				}
				a := s.w.ask("GET", "http://"+port+path, header...)
				if a.StatusCode < 400 && a.err == nil {
					found = append(found, fmt.Sprint(port, path, " with ", ticket, ": ", a.Status))
				}
				leak(port+path, a.body)
			}
		}
	}
	registry, rest, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/v2/")
	for _, addr := range s.local {
		for way, at := range map[string]string{
			"the mirror": "/v2/" + rest, "the mirror by ns": "/v2/" + rest + "?ns=" + registry,
			"the mirror by path": "/v2/" + strings.Replace(registry, ":", "_", 1) + "/" + rest,
		} {
			for _, header := range [][]string{nil, {"Authorization", basic("wrong")}, {"Authorization", "Bearer wrong"}, {"Range", "bytes=0-9"}} {
				a := s.w.ask("GET", addr+at, header...)
				if a.StatusCode != http.StatusUnauthorized {
					found = append(found, fmt.Sprint(way, " with ", header, ": ", a.Status))
				}
				leak(way, a.body)
			}
		}
	}
	return append(found, s.registrations(url, blob)...)
}

// registrations asks the supernode for the task.
func (s stranger) registrations(url string, blob []byte) (found []string) {
	s.w.Helper()
	ctx, cancel := context.WithTimeout(s.w.ctx, 20*time.Second)
	defer cancel()
	// A source of the stranger's own says that it has the same blob.
	own := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		w.Header().Set("ETag", `"`+path.Base(r.URL.Path)+`"`)
	}))
	defer own.Close()
	elsewhere := own.URL + "/v2" + strings.SplitN(url, "/v2", 2)[1]
	client := wire.NewClient(s.node, wire.ClientOptions{})
	defer client.Close()
	agent := make([]byte, 16)
	_, _ = rand.Read(agent) // never fails
	session, err := client.Open(ctx, dragonfly.Hello{Protocol: dragonfly.ProtocolNumber, Agent: fmt.Sprintf("%x", agent), Build: "stranger",
		Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}})
	s.w.must(err)
	defer func() { _ = session.Close(context.Background(), "done") }()
	id := dragonfly.Request{URL: url}.TaskID()
	for name, r := range map[string]dragonfly.Registration{
		"plain":         {Request: dragonfly.Request{URL: url}},
		"inline":        {Request: dragonfly.Request{URL: url}, Inline: true},
		"wrong":         {Request: dragonfly.Request{URL: url, Header: dragonfly.Header{"Authorization": {basic("wrong")}}}, Inline: true},
		"other case":    {Request: dragonfly.Request{URL: url, Header: dragonfly.Header{"authorization": {basic("wrong")}}}, Inline: true},
		"holding":       {Request: dragonfly.Request{URL: url}, Holding: true},
		"range":         {Request: dragonfly.Request{URL: url}, Want: []dragonfly.Span{{From: 0, To: 10}}, Inline: true},
		"another query": {Request: dragonfly.Request{URL: url + "?x=1", TaskURL: url}, Inline: true},
		"other source":  {Request: dragonfly.Request{URL: elsewhere, TaskURL: url}, Inline: true},
		"own source":    {Request: dragonfly.Request{URL: elsewhere}, Inline: true},
	} {
		r.Job = dragonfly.JobID("stranger-" + name)
		// An own source that breaks off is asked again and again.
		soon, enough := context.WithTimeout(ctx, 2*time.Second)
		info, err := session.Register(soon, r)
		enough()
		if bytes.Contains(blob, info.Inline) && len(info.Inline) > 0 {
			found = append(found, "inline: "+name)
		}
		if err == nil && info.Task == id && info.Ticket != (dragonfly.Ticket{}) {
			found = append(found, "a ticket: "+name)
		}
	}
	soon, enough := context.WithTimeout(ctx, 500*time.Millisecond)
	defer enough()
	work, err := session.Sync(soon, dragonfly.Report{Seq: 1, Free: 8, Events: []dragonfly.Event{{Kind: dragonfly.EventPosition, Task: id}}})
	if err == nil {
		for _, a := range work.Assignments {
			if a.Task == id {
				found = append(found, "an assignment")
			}
		}
		for _, e := range work.Manifest {
			if e.Task == id {
				found = append(found, "digests of pieces")
			}
		}
	}
	return found
}

var dataPort = regexp.MustCompile(`start peer server success, host:(\S+), port:(\d+)`)

// dataPort is where other peers reach a host, by the log of its agent.
func (w *world) dataPort(home string) string {
	w.Helper()
	var found string
	w.until("the data port of "+home, func() bool {
		logs, err := filepath.Glob(filepath.Join(home, "logs", "*.log"))
		w.must(err)
		for _, name := range logs {
			raw, err := os.ReadFile(name)
			w.must(err)
			if m := dataPort.FindSubmatch(raw); m != nil {
				found = string(m[1]) + ":" + string(m[2])
			}
		}
		return found != ""
	})
	return found
}

// TestStrangers: who was refused by the registry gets nothing of what others
// have from it, whoever he asks and however.
func TestStrangers(t *testing.T) {
	w := startEngines(t)
	control, data := w.ports()
	tracker := w.supernode(swarm.SupernodeOptions{Control: control, Data: data})
	peer := w.host("--node", tracker.Addr)
	tokens := w.tokens()
	token, err := tokens.Sign(registry.User, "repository:private/app:pull")
	w.must(err)
	for name, c := range map[string]struct {
		o             registry.Options
		authorization string
	}{
		"passwords": {registry.Options{Basic: true}, basic(registry.Password)},
		"tokens":    {registry.Options{Tokens: tokens}, "Bearer " + token},
	} {
		s := w.site(c.o)
		image := w.push(s, "private/app", usual)
		at := image.Platforms[0]
		n := w.node(s.URL, "--node", tracker.Addr)
		for _, digest := range []string{at.Layers[0], at.Config} {
			url, blob := s.URL+"/v2/private/app/blobs/"+digest, image.Blob(digest)
			out := w.target(name + digest[7:15])
			w.download(peer, url, out, "--header", "Authorization: "+c.authorization)
			w.isContent(out, blob)
			w.isBlob(w.ask("GET", n.addr+"/v2/private/app/blobs/"+digest, "Authorization", c.authorization), blob)
			who := stranger{w: w, node: tracker.Addr, local: []string{n.addr},
				ports: []string{fmt.Sprintf("127.0.0.1:%d", data), w.dataPort(peer.Home), w.dataPort(n.Home)}}
			for _, way := range who.leaks(url, blob) {
				t.Errorf("%s: a stranger got something of a blob of %d bytes: %s", name, len(blob), way)
			}
		}
		none := w.target("none-" + name)
		if code, printed := w.fails(w.host("--node", tracker.Addr), s.URL+"/v2/private/app/blobs/"+at.Layers[0], none); code != exitDownload || !strings.Contains(printed, "credentials") {
			t.Errorf("%s: dfget without credentials: exit status %d\n%s", name, code, printed)
		}
		w.noTarget(none)
		w.noSecret(strings.Fields(c.authorization)[1], tracker)
	}

	// The same ways lead to what is public: they are the right ones.
	s := w.site(registry.Options{})
	image := w.push(s, "public/app", usual)
	n := w.node(s.URL, "--node", tracker.Addr)
	digest := image.Platforms[0].Config
	w.isBlob(w.ask("GET", n.addr+"/v2/public/app/blobs/"+digest), image.Blob(digest))
	found := stranger{w: w, node: tracker.Addr, local: []string{n.addr}}.leaks(s.URL+"/v2/public/app/blobs/"+digest, image.Blob(digest))
	for _, way := range []string{"a ticket: plain", "inline: inline", "the mirror", "the mirror by ns", "the mirror by path"} {
		if !slices.Contains(found, way) {
			t.Errorf("%q does not lead to what is public: %q", way, found)
		}
	}
}

// TestTokensAndPasswords: docker pulls what its registry gives for passwords or
// tokens only, and the second host's pull costs the registry no blob. Docker
// gives a mirror no credentials: what is private it gets with those that docker
// login has stored on the host, and not without.
func TestTokensAndPasswords(t *testing.T) {
	w := startEngines(t, "dockerd", "docker")
	tracker := w.supernode(swarm.SupernodeOptions{})
	private := w.tokens()
	private.Closed(true)
	for name, c := range map[string]struct {
		o     registry.Options
		login bool // it takes one
	}{
		"passwords":     {registry.Options{Basic: true}, true},
		"tokens":        {registry.Options{Tokens: private}, true},
		"public tokens": {registry.Options{Tokens: w.tokens()}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			s := w.site(c.o)
			image := w.push(s, "library/one", usual)
			config := ""
			if c.login {
				login := filepath.Join(w.short(), "config.json")
				w.must(os.WriteFile(login, []byte(credentials(registry.Password, s.Addr)), 0o600))
				config = "registry_mirror: {auth_file: " + login + "}\n"
			}
			for _, cost := range []int64{image.Platforms[0].Bytes, 0} {
				s.Reset()
				n := w.nodeWith(swarm.DaemonOptions{Registry: s.URL, Args: []string{"--node", tracker.Addr}, Config: config})
				d := w.docker(n.addr)
				w.must(d.Pull(w.ctx, "one"))
				w.isPulled(d, "one", image)
				w.cost(s, cost)
				w.tookPart(n)
			}
			if c.login {
				if err := w.docker(w.node(s.URL, "--node", tracker.Addr).addr).Pull(w.ctx, "one"); err == nil {
					t.Error("docker pulled a private image without credentials")
				}
			}
			w.noSecretAnywhere(registry.Password, strings.TrimPrefix(basic(registry.Password), "Basic "))
		})
	}
}

// TestPrivateContainerd: containerd sends its credentials through a mirror: two
// hosts pull for the price of one, and who has a wrong password gets nothing.
func TestPrivateContainerd(t *testing.T) {
	w := startEngines(t, "containerd", "ctr")
	s := w.site(registry.Options{Tokens: w.tokens()})
	image := w.push(s, "private/app", usual)
	tracker := w.supernode(swarm.SupernodeOptions{})
	ref := s.Addr + "/private/app:latest"
	for _, cost := range []int64{image.Platforms[0].Bytes, 0} {
		s.Reset()
		n := w.node("http://127.0.0.1:1", "--node", tracker.Addr)
		c := w.containerd()
		w.must(c.Hosts("_default", engine.Mirror(n.addr)))
		for _, user := range []string{"", registry.User + ":wrong"} {
			if err := c.Pull(w.ctx, ref, "--user", user); err == nil {
				t.Errorf("pulled as %q", user)
			}
		}
		w.cost(s, 0)
		w.must(c.Pull(w.ctx, ref, "--user", registry.User+":"+registry.Password))
		for _, digest := range append(image.Platforms[0].Layers, image.Platforms[0].Config) {
			if has, err := c.Has(w.ctx, digest); err != nil || !has {
				t.Errorf("the blob %s is not there, %v", digest, err)
			}
		}
		w.cost(s, cost)
		w.tookPart(n)
	}
	w.noSecretAnywhere(registry.Password)
}

// noSecretAnywhere looks into every log.
func (w *world) noSecretAnywhere(secrets ...string) {
	w.Helper()
	logs, err := filepath.Glob(filepath.Join(w.dir, "*", "logs", "*.log"))
	w.must(err)
	for _, name := range logs {
		f, err := os.Open(name)
		w.must(err)
		raw, err := io.ReadAll(f)
		f.Close()
		w.must(err)
		for _, s := range append(secrets, "Bearer ey") {
			if bytes.Contains(raw, []byte(s)) {
				w.Errorf("%s holds a secret", name)
			}
		}
	}
}
