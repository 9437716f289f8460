// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dragonfly"
	"dragonfly/internal/piecehash"
)

func TestParseRange(t *testing.T) {
	for s, want := range map[string]dragonfly.Span{
		"bytes=0-0":                   {From: 0, To: 1},
		"bytes=5-9":                   {From: 5, To: 10},
		"bytes=5-":                    {From: 5, To: open},
		"bytes=0-9223372036854775805": {From: 0, To: open - 1},
	} {
		if got, ok := parseRange(s); !ok || got != want {
			t.Errorf("%q is %v, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "bytes", "bytes=", "bytes=-", "bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "bytes=0-1,", "bytes= 0-1",
		"bytes=0-1 ", "bytes=+0-1", "bytes=0-+1", "bytes=0x0-1", "bytes=1_0-20", "octets=0-1", "Bytes=0-1", "bytes=0-9223372036854775807",
		"bytes=9223372036854775807-", "bytes=99999999999999999999-", "bytes=0--1"} {
		if got, ok := parseRange(s); ok {
			t.Errorf("%q is taken as %v", s, got)
		}
	}
}

// FuzzParseRange: what is understood is a span, and means what it says.
func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"bytes=0-0", "bytes=5-", "bytes=-5", "bytes=0-1,3-4", "bytes=0-9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		span, ok := parseRange(s)
		if !ok {
			return
		}
		if span.From < 0 || span.Len() <= 0 {
			t.Fatalf("%q is %v", s, span)
		}
		if span.To == open {
			return
		}
		fetch := Fetch{Span: span}
		text := string(fetch.appendRequest(nil, "host", contentRoute, 0))
		_, text, _ = strings.Cut(text, "\r\nRange: ")
		text, _, _ = strings.Cut(text, "\r\n")
		if back, ok := parseRange(text); !ok || back != span {
			t.Fatalf("%q is %v, is %q, is %v", s, span, text, back)
		}
	})
}

// FuzzParseContentRange: what is understood comes back the same.
func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes 5-9/*", "bytes */10", "bytes 5-/10", "bytes 5-9/5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		span, length, ok := parseContentRange(s)
		if !ok {
			return
		}
		if span.From < 0 || span.Len() <= 0 || length != dragonfly.UnknownLength && length < span.To {
			t.Fatalf("%q is %v of %d", s, span, length)
		}
		if span2, length2, ok := parseContentRange(contentRange(span, length)); !ok || span2 != span || length2 != length {
			t.Fatalf("%q is %v of %d, then %v of %d", s, span, length, span2, length2)
		}
	})
}

// TestRequestRoundTrip: a server reads what a client writes.
func TestRequestRoundTrip(t *testing.T) {
	f := Fetch{Task: dragonfly.TaskID{1, 0xfe}, Version: dragonfly.Version{2, 0xfd}, Ticket: dragonfly.Ticket{3, 0xfc},
		Span: dragonfly.Span{From: 7, To: 1 << 40}}
	for _, what := range []string{contentRoute, blocksRoute} {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(f.appendRequest(nil, "[::1]:15000", what, 77))))
		if err != nil {
			t.Fatal(err)
		}
		q, err := parseRequest(r)
		if err != nil || q.task != f.Task || q.version != f.Version || q.ticket != f.Ticket || q.what != what || r.Host != "[::1]:15000" {
			t.Errorf("%+v, %v", q, err)
		}
		if what == contentRoute && (q.span != f.Span || !q.ranged) || what == blocksRoute && q.piece != 77 {
			t.Errorf("%+v", q)
		}
	}
}

// vault is a shelf with one small content.
type vault struct {
	path   string
	task   dragonfly.TaskID
	ticket dragonfly.Ticket
}

const treasure = "nobody gets a byte of this without a ticket"

func (v *vault) Open(task dragonfly.TaskID, version dragonfly.Version, ticket dragonfly.Ticket) (View, error) {
	if task != v.task || ticket != v.ticket {
		return nil, ErrUnknown
	}
	file, err := os.Open(v.path)
	return &vaultView{v, file}, err
}

type vaultView struct {
	*vault
	file *os.File
}

func (v *vaultView) Layout() dragonfly.Layout {
	return dragonfly.Layout{Length: int64(len(treasure)), PieceLen: 1 << 20}
}
func (v *vaultView) Ready(context.Context, int64) (int64, error) { return int64(len(treasure)), nil }
func (v *vaultView) File() *os.File                              { return v.file }
func (v *vaultView) Holds(dragonfly.Span) bool                   { return true }
func (v *vaultView) Close() error                                { return v.file.Close() }
func (v *vaultView) Blocks(dragonfly.PieceNum) ([]piecehash.Block, error) {
	return []piecehash.Block{piecehash.SumBlock([]byte(treasure))}, nil
}

// FuzzRequest: whatever is sent, the answer is one of the documented ones, and
// nothing of the content is in it unless the right ticket is in the request.
func FuzzRequest(f *testing.F) {
	v := &vault{path: filepath.Join(f.TempDir(), "content"), task: dragonfly.TaskID{1}, ticket: dragonfly.Ticket{2}}
	if err := os.WriteFile(v.path, []byte(treasure), 0o600); err != nil {
		f.Fatal(err)
	}
	server := &Server{Shelf: v, Log: slog.New(slog.DiscardHandler)}
	good := Fetch{Task: v.task, Ticket: v.ticket, Version: dragonfly.Version{3}, Span: dragonfly.Span{From: 1, To: 5}}
	bad := good
	bad.Ticket[0]++
	for _, fetch := range []Fetch{good, bad} {
		f.Add(fetch.appendRequest(nil, "h", contentRoute, 0))
		f.Add(fetch.appendRequest(nil, "h", blocksRoute, 0))
		f.Add(fetch.appendRequest(nil, "h", blocksRoute, 1<<30))
	}
	f.Add(bytes.Replace(good.appendRequest(nil, "h", contentRoute, 0), []byte("bytes=1-4"), []byte("bytes=-4"), 1))
	documented := []int{200, 206, 400, 404, 405, 412, 416}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		if !slices.Contains(documented, w.Code) {
			t.Fatalf("status %d", w.Code)
		}
		body, _ := io.ReadAll(w.Result().Body)
		if w.Code < 300 && !strings.Contains(strings.ToLower(string(text)), v.ticket.Secret()) {
			t.Fatalf("%q is given out without a ticket", body)
		}
	})
}
