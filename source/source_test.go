// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"dragonfly"
)

// content is what the test servers serve.
var content = func() []byte {
	b := make([]byte, 10_000)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}()

const (
	tag  = `"v1"`
	date = "Mon, 02 Jan 2023 15:04:05 GMT"
)

// origin records what it is asked.
type origin struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
}

func (o *origin) asked() []*http.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.requests
}

func serve(t *testing.T, h http.HandlerFunc) *origin {
	t.Helper()
	o := &origin{}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.requests = append(o.requests, r.Clone(r.Context()))
		o.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(o.Close)
	return o
}

// file serves content as a good server does, ranges and conditions included.
func file(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", tag)
	modified, _ := http.ParseTime(date)
	http.ServeContent(w, r, "", modified, bytes.NewReader(content))
}

// plain serves content without regard to ranges.
func plain(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("ETag", tag)
	w.Header().Set("Last-Modified", date)
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	_, _ = w.Write(content)
}

// bare serves content with nothing but its length.
func bare(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	_, _ = w.Write(content)
}

// chunked serves content with an unknown length and validators.
func chunked(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("ETag", tag)
	for part := range slices.Chunk(content, 3000) {
		_, _ = w.Write(part)
		w.(http.Flusher).Flush()
	}
}

func newClient(t *testing.T, o Options) *Client {
	c := New(o)
	t.Cleanup(c.Close)
	return c
}

func request(url string, header ...string) dragonfly.Request {
	return dragonfly.Request{URL: url, Header: dragonfly.ParseHeader(header)}
}

// read opens and reads to the end.
func read(t *testing.T, c *Client, r dragonfly.Request, from int64, cond Condition) ([]byte, Info, error) {
	t.Helper()
	b, err := c.Open(t.Context(), r, from, cond)
	if err != nil {
		return nil, Info{}, err
	}
	defer b.Close()
	data, err := io.ReadAll(b)
	return data, b.Info, err
}

// wantKind checks the kind of an error and that it holds no secret.
func wantKind(t *testing.T, err error, kind dragonfly.Kind, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", kind)
	}
	if got := dragonfly.KindOf(err); got != kind {
		t.Fatalf("kind %s, want %s: %v", got, kind, err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not mention %q", err, text)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("error tells a secret: %v", err)
	}
}

func TestOneRequestGivesInfoAndBody(t *testing.T) {
	o := serve(t, file)
	data, info, err := read(t, newClient(t, Options{UserAgent: "dfget/2.0"}), request(o.URL+"/f?x=secret", "X-Own: yes"), 0, Condition{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, content) {
		t.Error("other bytes")
	}
	if info.Length != int64(len(content)) || info.From != 0 || info.ETag != tag || info.LastModified != date || !info.Ranges {
		t.Errorf("info %+v", info)
	}
	if info.Validator() != tag || info.URL != o.URL+"/f?x=…" {
		t.Errorf("validator %q, URL %q", info.Validator(), info.URL)
	}
	asked := o.asked()
	if len(asked) != 1 {
		t.Fatalf("%d requests", len(asked))
	}
	r := asked[0]
	if r.Method != "GET" || r.Header.Get("Accept-Encoding") != "identity" || r.Header.Get("User-Agent") != "dfget/2.0" ||
		r.Header.Get("X-Own") != "yes" || r.Header.Get("Range") != "" || r.Header.Get("If-Range") != "" {
		t.Errorf("%s %v", r.Method, r.Header)
	}
}

// TestWindowsAndOffsets reads every kind of window from every kind of server,
// from the start and from the middle, to the end and up to a bound. All give
// the same bytes or say plainly that they cannot.
func TestWindowsAndOffsets(t *testing.T) {
	size := int64(len(content))
	servers := map[string]http.HandlerFunc{"file": file, "plain": plain, "bare": bare, "chunked": chunked}
	windows := []struct {
		header   string
		from, to int64
	}{
		{"", 0, size},
		{"Range: bytes=0-", 0, size},
		{"Range: bytes=0-0", 0, 1},
		{"Range: bytes=100-299", 100, 300},
		{"Range: bytes=100-", 100, size},
		{"Range: bytes=9000-99999", 9000, size},
		{"Range: bytes=-500", size - 500, size},
		{"Range: bytes=-99999", 0, size},
		{"range: bytes=5-6", 0, size}, // not spelled so: no effect
	}
	for name, h := range servers {
		o := serve(t, h)
		c := newClient(t, Options{})
		for _, w := range windows {
			view := content[w.from:w.to]
			length := int64(len(view))
			suffix := strings.HasPrefix(w.header, "Range: bytes=-")
			for _, from := range []int64{0, 1, length / 2, length - 1} {
				for _, to := range []int64{0, 1, from + 7, length, length + 100} {
					for _, known := range []int64{0, length} {
						if from < 0 || from >= length || to > 0 && to <= from {
							continue
						}
						cond := Condition{ETag: tag, Length: known, To: to}
						data, info, err := read(t, c, request(o.URL, w.header), from, cond)
						label := fmt.Sprintf("%s, %q, %d to %d of %d", name, w.header, from, to, known)
						if name == "bare" { // nothing proves that it is the same
							if err == nil {
								t.Errorf("%s: joined without a validator", label)
							} else {
								wantKind(t, err, dragonfly.SourceChanged)
							}
							continue
						}
						if name == "chunked" && suffix {
							wantKind(t, err, dragonfly.Invalid, "bytes=-512")
							continue
						}
						if err != nil {
							t.Fatalf("%s: %v", label, err)
						}
						end := length
						if to > 0 {
							end = min(to, length)
						}
						if !bytes.Equal(data, view[from:end]) {
							t.Errorf("%s: %d bytes, want %d", label, len(data), end-from)
						}
						if want := map[bool]int64{true: -1, false: length}[name == "chunked"]; info.Length != want || info.From != from {
							t.Errorf("%s: length %d, from %d", label, info.Length, info.From)
						}
					}
				}
			}
		}
	}
}
