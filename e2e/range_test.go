// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os/exec"
	"path"
	"path/filepath"
	"testing"

	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// TestRanges: what a range gives, suffix, open, several, with conditions, is
// through dfdaemon what it is straight at the registry.
func TestRanges(t *testing.T) {
	w, s, image, _, nodes := openSite(t, 1)
	url := blobs("", "library/one", image)[0]
	digest := path.Base(url)
	size := len(image.Blob(digest))
	for _, header := range [][]string{
		{"Range", "bytes=0-0"},
		{"Range", "bytes=0-99"},
		{"Range", "bytes=1000-5000999"},
		{"Range", "bytes=5000000-"},
		{"Range", "bytes=-500"},
		{"Range", fmt.Sprintf("bytes=%d-%d", piece-5, piece+5)},
		{"Range", fmt.Sprintf("bytes=%d-%d", size-1, size+1000)},
		{"Range", "bytes=0-9,100-109"},
		{"Range", "bytes=0-9,-10"},
		{"Range", fmt.Sprintf("bytes=%d-", size)},
		{"Range", fmt.Sprintf("bytes=0-%d", size-1)},
		{"Range", "bytes=9-5"},
		{"Range", "pieces=0-5"},
		{"Range", "bytes=0-99", "If-Range", `"` + digest + `"`},
		{"Range", "bytes=0-99", "If-Range", `"another"`},
		{"Range", "bytes=0-99", "If-None-Match", `"` + digest + `"`},
	} {
		straight, through := w.ask("GET", s.URL+url, header...), w.ask("GET", nodes[0].addr+url, header...)
		if straight.StatusCode != through.StatusCode || through.err != nil {
			t.Errorf("%q: status %d, want %d; %v", header, through.StatusCode, straight.StatusCode, through.err)
			continue
		}
		want, got := parts(t, straight), parts(t, through)
		if len(want) != len(got) {
			t.Errorf("%q: %d parts, want %d", header, len(got), len(want))
			continue
		}
		for i := range want {
			if want[i].where != got[i].where || straight.StatusCode < 400 && !bytes.Equal(want[i].data, got[i].data) {
				t.Errorf("%q: part %d is %q with %d bytes, want %q with %d", header, i, got[i].where, len(got[i].data), want[i].where, len(want[i].data))
			}
		}
	}
}

// part is one range of an answer.
type part struct {
	where string // Content-Range
	data  []byte
}

func parts(t *testing.T, a answer) (out []part) {
	t.Helper()
	kind, params, _ := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if a.StatusCode != http.StatusPartialContent || kind != "multipart/byteranges" {
		return []part{{a.Header.Get("Content-Range"), a.body}}
	}
	r := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for {
		p, err := r.NextPart()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, part{p.Header.Get("Content-Range"), data})
	}
}

// TestCurlResumes: curl gets a part, goes on from there, and has the blob.
func TestCurlResumes(t *testing.T) {
	w, _, image, _, nodes := openSite(t, 1, "curl")
	url := blobs(nodes[0].addr, "library/one", image)[0]
	want := image.Blob(path.Base(url))
	out := w.target("blob")
	for _, args := range [][]string{{"-r", "0-4999999"}, {"-C", "-"}} {
		cmd := exec.CommandContext(w.ctx, "curl", append(args, "-sS", "-f", "-o", out, url)...)
		cmd.Dir, cmd.Env = filepath.Dir(out), swarm.Environment(filepath.Dir(out))
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("curl %q: %v\n%s", args, err, text)
		}
	}
	w.isContent(out, want)
}

// TestRangeCost: a range costs the registry the pieces that it touches, and
// the same one on another host nothing.
func TestRangeCost(t *testing.T) {
	w := startEngines(t)
	s := w.site(registry.Options{})
	image := w.push(s, "library/one", registry.ImageOptions{Seed: 3, Layers: 1, LayerLen: 40 * mib})
	tracker := w.supernode(swarm.SupernodeOptions{})
	digest := image.Platforms[0].Layers[0]
	blob := image.Blob(digest)
	for i := range 2 {
		n := w.node(s.URL, "--node", tracker.Addr)
		for _, from := range []int{len(blob) - 1000, 20 * mib} { // as lazy snapshotters begin with the end
			s.Reset()
			a := w.ask("GET", n.addr+"/v2/library/one/blobs/"+digest, "Range", fmt.Sprintf("bytes=%d-%d", from, from+999))
			if a.err != nil || a.StatusCode != http.StatusPartialContent || !bytes.Equal(a.body, blob[from:from+1000]) {
				t.Errorf("status %d with %d bytes, %v", a.StatusCode, len(a.body), a.err)
			}
			// What the source sends before it is told to stop is counted, too.
			if got, most := s.BlobBytes(), []int64{3 * piece, 0}[i]; got > most {
				t.Errorf("host %d: 1000 bytes from %d on cost the registry %d, want at most %d", i+1, from, got, most)
			}
		}
	}
}
