// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// chunk is how much the origin writes at a time.
const chunk = 64 << 10

// origin is an HTTP server whose content and manners a test sets before it
// asks for anything.
type origin struct {
	*httptest.Server
	content []byte

	etag     string // validator, "" for none
	chunked  bool   // no Content-Length
	noRanges bool   // ignores Range
	fresh    bool   // each answer has other bytes
	status   int    // answers with this status only
	truncate int64  // closes the connection after so many bytes of a body
	forward  string // where /forward redirects to

	mu       sync.Mutex // guards all below
	sent     int64      // bytes of bodies written
	requests []*http.Request
	gates    []*gate
}

// gate holds answers back at one offset of the content.
type gate struct {
	at      int64
	reached chan struct{} // closed when an answer has sent what lies before at
	open    chan struct{} // closed by the test
	once    sync.Once     // of open
	hit     sync.Once     // of reached
}

// release lets held answers go on; it may be called twice.
func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

// pattern makes n bytes that do not compress, the same for the same seed.
func pattern(seed uint64, n int) []byte {
	key := sha256.Sum256(strconv.AppendUint(nil, seed, 10))
	out := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(out) // never fails
	return out
}

// newOrigin serves n bytes under every path.
func newOrigin(t *testing.T, n int) *origin { return begin(t, n, httptest.NewServer) }

// newSecureOrigin does so over HTTPS, with a certificate that nobody knows.
func newSecureOrigin(t *testing.T, n int) *origin { return begin(t, n, httptest.NewTLSServer) }

func begin(t *testing.T, n int, server func(http.Handler) *httptest.Server) *origin {
	o := &origin{content: pattern(1, n), etag: `"v1"`}
	o.Server = server(http.HandlerFunc(o.serve))
	t.Cleanup(func() {
		o.mu.Lock()
		for _, g := range o.gates {
			g.release()
		}
		o.mu.Unlock()
		o.CloseClientConnections()
		o.Close()
	})
	return o
}

// url is the address of the file.
func (o *origin) url() string { return o.URL + "/dir/file.bin" }

// holdAt makes every answer wait before it sends the byte at the offset.
func (o *origin) holdAt(at int64) *gate {
	g := &gate{at: at, reached: make(chan struct{}), open: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gates = append(o.gates, g)
	return g
}

// change gives the origin another content under another validator, and breaks
// off every answer that is under way.
func (o *origin) change(etag string, content []byte) {
	o.mu.Lock()
	o.etag, o.content = etag, content
	o.mu.Unlock()
	o.CloseClientConnections()
}

func (o *origin) bytesSent() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent
}

// ratio is how often the origin sent its content.
func (o *origin) ratio() float64 { return float64(o.bytesSent()) / float64(len(o.content)) }

// asked is the number of requests so far.
func (o *origin) asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.requests)
}

func (o *origin) serve(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.requests = append(o.requests, r)
	number := len(o.requests)
	content, etag := o.content, o.etag
	o.mu.Unlock()

	switch {
	case strings.HasPrefix(r.URL.Path, "/redirect/"):
		n, _ := strconv.Atoi(r.URL.Path[len("/redirect/"):])
		if n <= 0 {
			http.Redirect(w, r, "/dir/file.bin", http.StatusFound)
		} else {
			http.Redirect(w, r, fmt.Sprintf("/redirect/%d", n-1), http.StatusFound)
		}
		return
	case r.URL.Path == "/forward":
		http.Redirect(w, r, o.forward, http.StatusFound)
		return
	case r.URL.Path == "/loop":
		http.Redirect(w, r, "/loop", http.StatusFound)
		return
	case o.status != 0:
		http.Error(w, "the origin was told to fail", o.status)
		return
	}
	if o.fresh {
		content = pattern(uint64(number)+1000, len(content))
	}
	from, to, status := int64(0), int64(len(content)), http.StatusOK
	if etag != "" {
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if text, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !o.noRanges && (r.Header.Get("If-Range") == "" || r.Header.Get("If-Range") == etag) {
		a, b, _ := strings.Cut(text, "-")
		from, _ = strconv.ParseInt(a, 10, 64)
		if b != "" {
			last, _ := strconv.ParseInt(b, 10, 64)
			to = min(to, last+1)
		}
		if from >= to {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", len(content)))
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(content)))
	}
	if !o.noRanges {
		w.Header().Set("Accept-Ranges", "bytes")
	}
	if !o.chunked {
		w.Header().Set("Content-Length", strconv.FormatInt(to-from, 10))
	}
	w.WriteHeader(status)
	o.send(w, r, content, from, to)
}

// send writes content[from:to] piecemeal, and stops at gates.
func (o *origin) send(w http.ResponseWriter, r *http.Request, content []byte, from, to int64) {
	out := http.NewResponseController(w)
	end := to
	if o.truncate > 0 {
		end = min(end, from+o.truncate)
	}
	for at := from; at < end; {
		next := min(at+chunk, end)
		o.mu.Lock()
		gates := o.gates
		o.mu.Unlock()
		for _, g := range gates {
			switch {
			case at == g.at || at > g.at && at == from:
				_ = out.Flush() // a client that is gone shows at the next write
				g.hit.Do(func() { close(g.reached) })
				select {
				case <-g.open:
				case <-r.Context().Done():
					return
				}
			case at < g.at:
				next = min(next, g.at)
			}
		}
		n, err := w.Write(content[at:next])
		o.mu.Lock()
		o.sent += int64(n)
		o.mu.Unlock()
		if err != nil {
			return
		}
		at = next
	}
	if end < to {
		_ = out.Flush()             // what was counted as sent is sent
		panic(http.ErrAbortHandler) // the connection breaks off
	}
}

// TestOrigin: the origin does what the tests below take for granted.
func TestOrigin(t *testing.T) {
	get := func(o *origin, header ...string) (*http.Response, []byte, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, o.url(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var body bytes.Buffer
		_, err = body.ReadFrom(resp.Body)
		return resp, body.Bytes(), err
	}
	o := newOrigin(t, 200_000)
	if resp, body, err := get(o, "Range", "bytes=100-199999"); err != nil || resp.StatusCode != http.StatusPartialContent || !bytes.Equal(body, o.content[100:]) {
		t.Errorf("range: %s, %d bytes, %v", resp.Status, len(body), err)
	}
	if resp, _, _ := get(o, "If-None-Match", `"v1"`); resp.StatusCode != http.StatusNotModified {
		t.Errorf("revalidation: %s", resp.Status)
	}
	if got := o.bytesSent(); got != 199_900 {
		t.Errorf("sent %d bytes", got)
	}
	o.truncate = 70_000
	if _, body, err := get(o); err == nil || len(body) != 70_000 {
		t.Errorf("truncated: %d bytes, %v", len(body), err)
	}
	o.truncate, o.chunked, o.fresh = 0, true, true
	resp, one, err := get(o)
	if err != nil || resp.ContentLength != -1 {
		t.Errorf("chunked: length %d, %v", resp.ContentLength, err)
	}
	if _, two, _ := get(o); bytes.Equal(one, two) {
		t.Error("fresh answers are equal")
	}
	o.status = http.StatusTeapot
	if resp, _, _ := get(o); resp.StatusCode != http.StatusTeapot {
		t.Errorf("status: %s", resp.Status)
	}
	o.status = 0
	g := o.holdAt(100_000)
	before := o.bytesSent()
	done := make(chan error, 1)
	go func() { // ends with the gate
		_, _, err := get(o)
		done <- err
	}()
	<-g.reached
	if got := o.bytesSent() - before; got != 100_000 {
		t.Errorf("held after %d bytes", got)
	}
	g.release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
