// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// answer is what came for a plain HTTP request, as far as it came.
type answer struct {
	*http.Response // empty if there is none
	body           []byte
	err            error // of asking, or of reading the body
}

// ask sends a request with header fields, given as name and value, and follows
// no redirect. Any goroutine may call it.
func (w *world) ask(method, url string, header ...string) answer {
	w.Helper()
	req, err := http.NewRequestWithContext(w.ctx, method, url, nil)
	if err != nil {
		return answer{Response: &http.Response{}, err: err}
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	t := &http.Transport{DisableCompression: true}
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return answer{Response: &http.Response{}, err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, body, err}
}

// isBlob checks that a blob came whole.
func (w *world) isBlob(a answer, want []byte) {
	w.Helper()
	if a.err != nil || a.StatusCode != http.StatusOK || !bytes.Equal(a.body, want) {
		w.Errorf("status %d, %d bytes, want %d; %v: %.200q", a.StatusCode, len(a.body), len(want), a.err, a.body)
	}
}

// openSite is a site with the usual image, a supernode and n nodes.
func openSite(t *testing.T, n int, programs ...string) (w *world, s *site, image *registry.Image, tracker *swarm.Supernode, nodes []*node) {
	t.Helper()
	w = startEngines(t, programs...)
	s = w.site(registry.Options{})
	image = w.push(s, "library/one", usual)
	tracker = w.supernode(swarm.SupernodeOptions{})
	for range n {
		nodes = append(nodes, w.node(s.URL, "--node", tracker.Addr))
	}
	return w, s, image, tracker, nodes
}

// blobs are where the mirror at addr has the layers of an image.
func blobs(addr, repository string, image *registry.Image) (urls []string) {
	for _, digest := range image.Platforms[0].Layers {
		urls = append(urls, addr+"/v2/"+repository+"/blobs/"+digest)
	}
	return urls
}

// TestTwentyClients: twenty clients of one dfdaemon that want a blob at the
// same time cost the registry one.
func TestTwentyClients(t *testing.T) {
	w, s, image, _, nodes := openSite(t, 1)
	url := blobs(nodes[0].addr, "library/one", image)[0]
	want := image.Blob(path.Base(url))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { w.isBlob(w.ask("GET", url), want) })
	}
	wg.Wait()
	w.cost(s, int64(len(want)))
}

// TestRegistryDown: who asks while the registry is away is told what is away
// and where, and an engine says it; afterwards all is as before.
func TestRegistryDown(t *testing.T) {
	w, s, image, _, nodes := openSite(t, 1, "dockerd", "docker")
	d := w.docker(nodes[0].addr)
	s.Down()
	for _, url := range []string{nodes[0].addr + "/v2/library/one/manifests/latest", blobs(nodes[0].addr, "library/one", image)[0]} {
		a := w.ask("GET", url)
		if a.StatusCode != http.StatusBadGateway && a.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(a.body), s.Addr) {
			t.Errorf("%s: status %d, want 502 or 504 with the address %s in %q", url, a.StatusCode, s.Addr, a.body)
		}
	}
	if err := d.Pull(w.ctx, "one"); err == nil {
		t.Error("docker pulled from a registry that is away")
	}
	w.must(s.Up())
	w.must(d.Pull(w.ctx, "one"))
	w.isPulled(d, "one", image)
	w.cost(s, image.Platforms[0].Bytes)
}

// dies makes the registry break every blob off after so many bytes and go
// away.
func (s *site) dies(at int64) {
	var once sync.Once
	s.Progress(func(_ *http.Request, sent int64) {
		if sent >= at {
			once.Do(func() { go s.Down() }) // it waits for this answer's end
			panic(http.ErrAbortHandler)
		}
	})
}

// TestRegistryDies: when the registry breaks off in the middle of a blob and
// stays away, the client sees a transfer that was broken off.
func TestRegistryDies(t *testing.T) {
	w, s, image, _, nodes := openSite(t, 1)
	s.dies(3 * mib)
	url := blobs(nodes[0].addr, "library/one", image)[0]
	a := w.ask("GET", url)
	if a.StatusCode == http.StatusOK && a.err == nil {
		t.Errorf("a clean end after %d bytes of %d", len(a.body), len(image.Blob(path.Base(url))))
	}
	s.Progress(nil)
	s.Down() // at the latest now
	w.must(s.Up())
	w.isBlob(w.ask("GET", url), image.Blob(path.Base(url)))
}

// TestRegistryRestarts: docker has the image when the registry was away for a
// while in the middle of the pull.
func TestRegistryRestarts(t *testing.T) {
	w, s, image, tracker, nodes := openSite(t, 1, "dockerd", "docker")
	s.dies(3 * mib)
	d := w.docker(nodes[0].addr)
	pulled := make(chan error, 1)
	go func() { pulled <- d.Pull(w.ctx, "one") }()
	w.must(tracker.Log.WaitFor(w.ctx, "refuses connections", 2))
	s.Progress(nil)
	s.Down()
	w.must(s.Up())
	w.must(<-pulled)
	w.isPulled(d, "one", image)
}

// halfway makes the registry stand still after so many bytes of any one
// blob, and gives a channel that is closed then and a function to go on.
func (w *world) halfway(s *site, at int64) (reached <-chan struct{}, release func()) {
	hit, open := make(chan struct{}), make(chan struct{})
	var first, last sync.Once
	s.Progress(func(r *http.Request, sent int64) {
		if sent < at {
			return
		}
		first.Do(func() { close(hit) })
		select {
		case <-open:
		case <-r.Context().Done():
		}
	})
	release = func() { last.Do(func() { close(open) }) }
	w.Cleanup(release)
	return hit, release
}

// arrived waits for a channel to be closed.
func (w *world) arrived(what string, c <-chan struct{}) {
	w.Helper()
	select {
	case <-c:
	case <-w.ctx.Done():
		w.Fatalf("never came: %s", what)
	}
}

// TestSupernodeDies: a pull goes on when the supernode is killed in its middle.
func TestSupernodeDies(t *testing.T) {
	w, s, image, tracker, nodes := openSite(t, 1, "dockerd", "docker")
	reached, release := w.halfway(s, 3*mib)
	d := w.docker(nodes[0].addr)
	pulled := make(chan error, 1)
	go func() { pulled <- d.Pull(w.ctx, "one") }()
	w.arrived("the middle of a blob", reached)
	tracker.Kill()
	release()
	w.must(<-pulled)
	w.isPulled(d, "one", image)
	if got, most := s.BlobBytes(), 2*image.Platforms[0].Bytes; got > most {
		t.Errorf("the registry sent %d blob bytes, want at most %d", got, most)
	}
}

// TestDaemonDies: docker has the image although dfdaemon was killed in the
// middle of the pull and started again.
func TestDaemonDies(t *testing.T) {
	w, s, image, _, nodes := openSite(t, 1, "dockerd", "docker")
	reached, release := w.halfway(s, 3*mib)
	d := w.docker(nodes[0].addr)
	pulled := make(chan error, 1)
	go func() { pulled <- d.Pull(w.ctx, "one") }()
	w.arrived("the middle of a blob", reached)
	nodes[0].Kill()
	release()
	w.restart(nodes[0])
	if err := <-pulled; err != nil {
		t.Logf("docker gave up: %v", err)
		w.must(d.Pull(w.ctx, "one"))
	}
	w.isPulled(d, "one", image)
	w.tookPart(nodes[0])
	// What was on its way to the seed when nobody wanted it any more is lost.
	if got, most := s.BlobBytes(), image.Platforms[0].Bytes+2*piece; got > most {
		t.Errorf("the registry sent %d blob bytes, want at most %d", got, most)
	}
}

// TestCorruptPeer: what rotted on the disk of one host reaches no engine on
// another, and the registry is not asked again.
func TestCorruptPeer(t *testing.T) {
	w, s, image, _, nodes := openSite(t, 2, "dockerd", "docker")
	for _, url := range blobs(nodes[0].addr, "library/one", image) {
		w.isBlob(w.ask("GET", url), image.Blob(path.Base(url)))
	}
	files, err := filepath.Glob(filepath.Join(nodes[0].Home, "dfdaemon", "data", "*", "*.server"))
	if err != nil || len(files) != len(image.Platforms[0].Layers) {
		t.Fatalf("content files %q, %v", files, err)
	}
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		w.must(err)
		for n := range int64(2) {
			_, err := f.WriteAt([]byte("rot"), n*piece+1000)
			w.must(err)
		}
		w.must(f.Close())
	}
	s.Reset()
	d := w.docker(nodes[1].addr)
	w.must(d.Pull(w.ctx, "one"))
	w.isPulled(d, "one", image)
	w.cost(s, int64(len(image.Blob(image.Platforms[0].Config))))
}

// signed answers requests for blobs with a redirect to another host, signed
// for one use each, as registries with an object store do.
type signed struct {
	*httptest.Server
	image *registry.Image
	life  time.Duration // of a signature

	mu     sync.Mutex
	number int
	valid  map[string]time.Time // until when, by signature
	bytes  int64
	twice  int // uses of a signature that was not good any more
}

func newSigned(t *testing.T, s *site, image *registry.Image, life time.Duration) *signed {
	g := &signed{image: image, life: life, valid: map[string]time.Time{}}
	g.Server = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.Close)
	s.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		digest := path.Base(r.URL.Path)
		if r.Method != http.MethodGet || image.Blob(digest) == nil {
			return false
		}
		g.mu.Lock()
		g.number++
		signature := fmt.Sprintf("signature-%d", g.number)
		g.valid[signature] = time.Now().Add(life)
		g.mu.Unlock()
		http.Redirect(w, r, g.URL+"/store/"+digest+"?X-Signature="+signature, http.StatusTemporaryRedirect)
		return true
	})
	return g
}

func (g *signed) serve(w http.ResponseWriter, r *http.Request) {
	signature := r.URL.Query().Get("X-Signature")
	g.mu.Lock()
	good := time.Now().Before(g.valid[signature])
	delete(g.valid, signature)
	if !good {
		g.twice++
	}
	g.mu.Unlock()
	if !good || r.Header.Get("Authorization") != "" {
		http.Error(w, "SignatureDoesNotMatch", http.StatusForbidden)
		return
	}
	digest := path.Base(r.URL.Path)
	w.Header().Set("ETag", `"`+digest+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(tallied{w, g}, r, "", time.Time{}, bytes.NewReader(g.image.Blob(digest)))
}

type tallied struct {
	http.ResponseWriter
	g *signed
}

func (w tallied) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.g.mu.Lock()
	w.g.bytes += int64(n)
	w.g.mu.Unlock()
	return n, err
}

// TestSignedRedirects: a registry that sends blobs from an object store, with
// a signature for one use each: two hosts pull for the price of one, and no
// signature is in a log.
func TestSignedRedirects(t *testing.T) {
	w, s, image, tracker, nodes := openSite(t, 2, "dockerd", "docker")
	g := newSigned(t, s, image, 2*time.Second)
	for _, n := range nodes {
		d := w.docker(n.addr)
		w.must(d.Pull(w.ctx, "one"))
		w.isPulled(d, "one", image)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.bytes != image.Platforms[0].Bytes {
		t.Errorf("the store sent %d bytes, want %d", g.bytes, image.Platforms[0].Bytes)
	}
	if g.twice > 0 {
		t.Errorf("%d times a signature was used again", g.twice)
	}
	w.noSecret("X-Signature=signature", tracker)
}

// TestAsTheOriginSays: what is not there, what is asked for without the body,
// and headers that matter reach a client as the registry gave them.
func TestAsTheOriginSays(t *testing.T) {
	w, s, image, _, nodes := openSite(t, 1)
	layer := image.Platforms[0].Layers[0]
	absent := registry.Digest([]byte("absent"))
	for _, c := range []struct {
		method, path string
		header       []string
	}{
		{"GET", "/v2/", nil},
		{"GET", "/v2/library/one/manifests/none", nil},
		{"GET", "/v2/library/one/blobs/" + absent, nil},
		{"GET", "/v2/library/none/blobs/" + layer, nil},
		{"HEAD", "/v2/library/one/blobs/" + absent, nil},
		{"HEAD", "/v2/library/one/blobs/" + layer, nil},
		{"HEAD", "/v2/library/one/manifests/latest", []string{"Accept", "application/vnd.oci.image.manifest.v1+json"}},
		{"GET", "/v2/library/one/manifests/latest", []string{"Accept", "application/vnd.oci.image.manifest.v1+json"}},
		{"GET", "/v2/library/one/blobs/" + layer, nil},
		{"GET", "/v2/library/one/blobs/" + layer, []string{"If-None-Match", `"` + layer + `"`}},
		{"GET", "/v2/library/one/tags/list", nil},
		{"GET", "/v2/library/one/blobs/sha256:short", nil},
	} {
		straight, through := w.ask(c.method, s.URL+c.path, c.header...), w.ask(c.method, nodes[0].addr+c.path, c.header...)
		if straight.StatusCode != through.StatusCode || !bytes.Equal(straight.body, through.body) || through.err != nil {
			t.Errorf("%s %s: status %d with %d bytes, want %d with %d: %.200q", c.method, c.path,
				through.StatusCode, len(through.body), straight.StatusCode, len(straight.body), through.body)
		}
		for _, name := range []string{"Content-Length", "Content-Type", "Docker-Content-Digest", "Etag", "Accept-Ranges", "Www-Authenticate"} {
			if want, got := straight.Header.Get(name), through.Header.Get(name); want != got {
				t.Errorf("%s %s: %s: %q, want %q", c.method, c.path, name, got, want)
			}
		}
	}
}
