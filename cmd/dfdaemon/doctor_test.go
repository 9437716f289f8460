// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"dragonfly/peer"
)

func TestParseImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for text, want := range map[string]image{
		"alpine":                       {"docker.io", "library/alpine", "latest"},
		"a/b:1":                        {"docker.io", "a/b", "1"},
		"docker.io/alpine":             {"docker.io", "library/alpine", "latest"},
		"index.docker.io/library/x":    {"docker.io", "library/x", "latest"},
		"ghcr.io/a/b/c:v1.2-x":         {"ghcr.io", "a/b/c", "v1.2-x"},
		"localhost/a":                  {"localhost", "a", "latest"},
		"r.example:5000/a@" + digest:   {"r.example:5000", "a", digest},
		"r.example:5000/a:t@" + digest: {"r.example:5000", "a", digest},
		"[::1]:5000/a":                 {"[::1]:5000", "a", "latest"},
	} {
		if got, err := parseImage(text); err != nil || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "A", "a:", "a@sha256:1", "a@", "r.example/", "../a", "a//b", "http://x/y", "u@r.example/a", "a?b", "a:" + strings.Repeat("x", 200), strings.Repeat("x", 600)} {
		if got, err := parseImage(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzParseImage(f *testing.F) {
	f.Add("ghcr.io/a/b:c@sha256:" + strings.Repeat("0a", 32))
	f.Fuzz(func(t *testing.T, text string) {
		i, err := parseImage(text)
		if err != nil {
			return
		}
		u, err := url.Parse("http://127.0.0.1/v2/" + i.registry + "/" + i.repository + "/manifests/" + i.reference)
		if err != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "/v2/"+i.registry+"/"+i.repository+"/manifests/"+i.reference || strings.Contains(u.Path, "/../") {
			t.Errorf("%q: %v %v", text, i, u)
		}
	})
}

// hub is a registry with one image for two architectures, which it gives to
// holders of a token that everybody gets.
type hub struct {
	*registry
	layers []string // paths
	index  string
}

func newHub(t *testing.T) *hub {
	h := &hub{registry: newRegistry(t, httptest.NewServer)}
	texts := map[string][]byte{}
	put := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("sha256:%x", sha256.Sum256(text))
		texts[name] = text
		return name
	}
	for i := range 3 {
		h.layers = append(h.layers, h.add(bytes.Repeat([]byte{byte(i)}, 1000*(i+1))))
	}
	blob := func(i int) map[string]any {
		return map[string]any{"digest": filepath.Base(h.layers[i]), "size": 1000 * (i + 1)}
	}
	type m = map[string]any
	mine := put(m{"config": blob(0), "layers": []any{blob(1), blob(2)}})
	other := put(m{"config": blob(0), "layers": []any{blob(1)}})
	h.index = put(m{"manifests": []any{
		m{"digest": other, "platform": m{"os": "linux", "architecture": "other"}}, m{"digest": mine, "platform": m{"os": "linux", "architecture": runtime.GOARCH}}}})
	blobs := h.Config.Handler
	h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := filepath.Base(r.URL.Path)
		switch {
		case r.URL.Path == "/realm":
			if scope := r.URL.Query().Get("scope"); scope != "repository:library/app:pull" {
				t.Errorf("scope %q", scope)
			}
			fmt.Fprintf(w, `{"token":%q}`, secret)
		case strings.Contains(r.URL.Path, "/manifests/"):
			if name == "latest" {
				name = h.index
			}
			if r.Header.Get("Authorization") != "Bearer "+secret {
				w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/realm",service="hub",scope="repository:library/app:pull"`, h.URL))
				w.WriteHeader(http.StatusUnauthorized)
			} else if text, ok := texts[name]; ok {
				_, _ = w.Write(text)
			} else {
				w.WriteHeader(http.StatusNotFound)
			}
		default:
			blobs.ServeHTTP(w, r)
		}
	})
	return h
}

// TestDoctorImage: from where the layers of an image came.
func TestDoctorImage(t *testing.T) {
	h := newHub(t)
	d := start(t, "", "--registry", h.URL)
	host := h.Listener.Addr().String()
	port := d.addr[strings.LastIndexByte(d.addr, ':')+1:]
	empty, root := write(t, "c", ""), t.TempDir()
	until(t, "it is healthy", func() bool { resp, _ := d.get("/healthy"); return resp.StatusCode == 200 })
	look := func(image string) string {
		code, out, stderr := call(t, nil, "doctor", image, "--config", empty, "--port", port, "--root", root, "--docker-socket", root+"/none")
		if code != exitOther || !strings.Contains(stderr, "not all is well") || strings.Contains(out+stderr, secret) { // there is no supernode
			t.Errorf("exit code %d: %s %s", code, out, stderr)
		}
		return out
	}
	out := look(host + "/library/app")
	contains(t, "before a pull", out, "ok    dfdaemon answers at http://"+d.addr, "ok    registry http://"+host+" answers", "FAIL  no supernode answers", "--node",
		"ok    "+host+"/library/app has 3 blobs", "not pulled through here since dfdaemon started")
	if n := strings.Count(out, "not pulled through here"); n != 3 {
		t.Errorf("%d blobs: %s", n, out)
	}
	d.get(h.layers[0])
	d.get(h.layers[1], "Range", "bytes=0-9")
	until(t, "both are noted", func() bool { _, text := d.get("/debug/blobs"); return strings.Count(text, `"status":20`) == 2 })
	out = look(host + "/library/app:latest")
	contains(t, "after a pull", out, "1.0 kB  source: source 1.0 kB, seed 0 B, peers 0 B, since: no supernode", "2.0 kB  ", "3.0 kB  not pulled through here")
	// Docker asks its mirror for images of the Hub without naming it.
	bin := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Dir(root+daemonJSON), 0o755),
		os.WriteFile(root+daemonJSON, []byte(`{"registry-mirrors": ["http://`+d.addr+`"]}`), 0o644),
		os.WriteFile(filepath.Join(bin, "dockerd"), nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	contains(t, "docker's own", look("app"), "docker.io/library/app has 3 blobs, manifest read through dfdaemon from "+host+", which docker asks for it")
	contains(t, "an image that is not there", look(host+"/library/app:none"), "FAIL  "+host+"/library/app: the registry has no such image")
	contains(t, "a registry that is not there", look("127.0.0.1:1/library/app"), "FAIL  127.0.0.1:1/library/app: the answer through dfdaemon is 502: ")
}

// TestDoctorEngines: one of the engines on this host must come through here,
// and docker must have read its file.
func TestDoctorEngines(t *testing.T) {
	const mirror = "http://127.0.0.1:65001"
	dfdaemon, err := url.Parse(mirror)
	if err != nil {
		t.Fatal(err)
	}
	dockerFile := map[string]string{"etc/docker/daemon.json": `{"registry-mirrors":["` + mirror + `/"]}`}
	for name, v := range map[string]struct {
		here   string
		files  map[string]string
		docker string // what it says of itself; "": it does not run
		failed int
		says   []string
	}{
		"none":             {"", nil, "", 0, []string{"no container engine is on this host", "podman is not on this host"}},
		"docker":           {"dockerd", dockerFile, "", 0, []string{"ok    docker comes through here"}},
		"docker runs":      {"dockerd containerd", dockerFile, `{"RegistryConfig":{"Mirrors":["` + mirror + `/"]}}`, 0, []string{"ok    docker comes", "-     containerd does not come through here: dfdaemon setup containerd"}},
		"docker is stale":  {"dockerd", dockerFile, `{"RegistryConfig":{"Mirrors":["https://other/"]}}`, 1, []string{"FAIL  docker has not read", "systemctl reload docker"}},
		"docker is not":    {"dockerd", nil, `{"RegistryConfig":{"Mirrors":[]}}`, 1, []string{"FAIL  no container engine", "dfdaemon setup docker"}},
		"docker's proxy":   {"dockerd", nil, `{"HttpsProxy":"http://localhost:65001"}`, 0, []string{"as its HTTP proxy"}},
		"another proxy":    {"dockerd", nil, `{"HttpProxy":"http://192.0.2.1:65001"}`, 1, nil},
		"not understood":   {"dockerd", map[string]string{"etc/docker/daemon.json": "{"}, "", 1, []string{"-     docker: its files are not understood"}},
		"containerd":       {"containerd", map[string]string{"etc/containerd/config.toml": "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/h\"\n", "h/_default/hosts.toml": "[host.\"" + mirror + "\"]\ncapabilities = [\"resolve\", \"pull\"]\n"}, "", 0, []string{"ok    containerd comes"}},
		"containerd's CRI": {"containerd", map[string]string{"etc/containerd/certs.d/_default/hosts.toml": "[host.\"" + mirror + "\"]\ncapabilities = [\"resolve\", \"pull\"]\n"}, "", 1, nil},
		"podman":           {"podman", map[string]string{"etc/containers/registries.conf": "[[registry]]\nlocation = \"x.example\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:65001/x.example\"\n"}, "", 0, []string{"ok    podman comes"}},
		"crio":             {"crio", map[string]string{"etc/containers/registries.conf.d/a.conf": "[[registry]]\nlocation = \"x.example\"\n[[registry.mirror]]\nlocation = \"other/x.example\"\n"}, "", 1, []string{"dfdaemon setup crio"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newTree(t, v.files)
			var out bytes.Buffer
			d := doctor{place: place{root: dir.root, dfdaemon: dfdaemon}, socket: filepath.Join(t.TempDir(), "d.sock"), out: &out,
				installed: func(program string) bool { return v.here != "" && strings.Contains(" "+v.here+" ", " "+program+" ") }}
			if v.docker != "" {
				l, err := net.Listen("unix", d.socket)
				if err != nil {
					t.Fatal(err)
				}
				s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, v.docker) })}}
				s.Start()
				defer s.Close()
			}
			d.engines(t.Context())
			if contains(t, "what it says", out.String(), v.says...); d.failed != v.failed {
				t.Errorf("%d failures, want %d: %s", d.failed, v.failed, &out)
			}
		})
	}
}

// TestDoctorAlone: without dfdaemon it says so, and with a wrong image nothing.
func TestDoctorAlone(t *testing.T) {
	empty := write(t, "c", "")
	code, out, stderr := call(t, nil, "doctor", "alpine", "--port", "1", "--config", empty)
	if code != exitOther || !strings.Contains(stderr, "not all is well") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	contains(t, "what it says", out, "FAIL  dfdaemon does not answer at http://127.0.0.1:1: start it", "docker.io/library/alpine is not looked at without dfdaemon")
	if code, out, stderr := call(t, nil, "doctor", "A B", "--config", empty); code != exitOther || out != "" || !strings.Contains(stderr, "want an image") {
		t.Errorf("%d %s %s", code, out, stderr)
	}
}

// TestPassages: what is remembered of a blob, whoever comes first, and how many.
func TestPassages(t *testing.T) {
	p := newPassages()
	path := func(i int) string { return fmt.Sprintf("/v2/a/blobs/sha256:%064x", i) }
	answered := func(i int, via string, header ...string) {
		r := httptest.NewRequest("GET", path(i)+"?token="+secret, nil)
		for j := 0; j+1 < len(header); j += 2 {
			r.Header.Set(header[j], header[j+1])
		}
		w := httptest.NewRecorder()
		w.Header().Set(viaHeader, via)
		p.answered(r, &answer{ResponseWriter: w, status: 200, n: 10, began: time.Now()})
	}
	of := func(i int) (b passage) { p.note(path(i), func(now *passage) { b = *now }); return b }
	p.begin(path(1), "task")
	if got := of(1).String(); got != "on its way" {
		t.Error(got)
	}
	answered(1, "swarm")
	p.end(path(1), peer.Progress{FromSeed: 4, FromPeers: 2_500_000}, nil)
	if got := of(1); got.String() != "swarm: source 0 B, seed 4 B, peers 2.5 MB" || strings.Contains(got.URL, secret) || got.Given != 10 || got.Task != "task" {
		t.Errorf("%+v", got)
	}
	p.begin(path(2), "task")
	p.fell(path(2), peer.ReasonRegister, errors.New("refused"))
	p.end(path(2), peer.Progress{FromSource: 10}, nil)
	answered(2, "source")
	if got := of(2).String(); got != "source: source 10 B, seed 0 B, peers 0 B, since: no supernode took the task: refused" {
		t.Error(got)
	}
	answered(3, "direct", "If-None-Match", secret)
	answered(4, "direct", "Range", "bytes=0-1")
	answered(5, "proxy")
	answered(6, "direct")
	answered(7, "swarm")
	for i, want := range map[int]string{3: "direct, since: the swarm was not tried: the request has conditions", 4: "direct, since: the swarm was not tried: the registry answers such ranges",
		5: "proxy, since: no rule of the proxy sends it to the swarm", 6: "direct, since: the swarm was not tried: registry_mirror.direct is set, or the registry wants a certificate of this host", 7: "swarm: this host held it"} {
		if got := of(i).String(); got != want {
			t.Errorf("%d: %q, want %q", i, got, want)
		}
	}
	began := time.Now()
	p.begin(path(8), "task")
	r, w := httptest.NewRequest("GET", path(8), nil), httptest.NewRecorder()
	w.Header().Set(viaHeader, "direct")
	p.answered(r, &answer{ResponseWriter: w, status: 404, began: began})
	if got := of(8).String(); got != "direct (status 404), since: the swarm had given no byte when the registry did" {
		t.Error(got)
	}
	p.begin(path(9), "task")
	p.fell(path(9), peer.ReasonRegister, errors.New("refused"))
	answered(9, "swarm")
	p.end(path(9), peer.Progress{}, nil)
	p.begin(path(10), "task")
	answered(10, "swarm")
	p.end(path(10), peer.Progress{FromSeed: 4}, errors.New("no space"))
	p.begin(path(11), "task")
	p.end(path(11), peer.Progress{}, context.Canceled)
	r, w = httptest.NewRequest("GET", path(11), nil), httptest.NewRecorder()
	w.Header().Set(viaHeader, "direct")
	p.answered(r, &answer{ResponseWriter: w, status: 200, began: began})
	for i, want := range map[int]string{9: "swarm: this host held it", 10: "swarm: source 0 B, seed 4 B, peers 0 B; the rest from the registry: no space",
		11: "direct, since: the swarm had given no byte when the registry did"} {
		if got := of(i).String(); got != want {
			t.Errorf("%d: %q, want %q", i, got, want)
		}
	}
	for i := range passagesMax {
		p.begin(path(100+i), "")
	}
	rec := httptest.NewRecorder()
	p.ServeHTTP(rec, nil)
	var all []passage
	if err := json.Unmarshal(rec.Body.Bytes(), &all); err != nil || len(all) != passagesMax || all[0].Time.Before(all[len(all)-1].Time) || strings.Contains(rec.Body.String(), secret) {
		t.Errorf("%d of them, %v", len(all), err)
	}
	p.begin("/v2/a/manifests/latest", "")
	if n := p.recent.Len(); n != passagesMax {
		t.Error(n)
	}
}

func TestAmount(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 12_345_678: "12.3 MB", 999_999: "1.0 MB", 140_000_000_000: "140.0 GB"} {
		if got := amount(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
