// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dragonfly/internal/swarm"
)

// TestOriginCounts: the origin's process counts what leaves it, by whatever
// way, and ends with its parent.
func TestOriginCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	alive, parent := io.Pipe()
	out, said := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- serveOrigin(path, alive, said) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{url: strings.TrimSpace(line)}
	for _, r := range []string{"", "bytes=10-109"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, o.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r != "" {
			req.Header.Set("Range", r)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
	}
	if n, err := o.sent(t.Context()); err != nil || n != int64(len(content))+100 {
		t.Errorf("sent %d, %v, want %d", n, err, len(content)+100)
	}
	parent.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestTable: every peer has its line; a failed one shows, and is the verdict.
func TestTable(t *testing.T) {
	peers := []*peer{
		{Host: swarm.Host{IP: "127.0.0.11"}, result: swarm.Result{Length: 2 << 20, FromSeed: 1 << 20, FromPeers: 1 << 20, Seconds: 0.5}},
		{Host: swarm.Host{IP: "127.0.0.12"}, err: fmt.Errorf("no bytes today")},
	}
	var out strings.Builder
	printPeers(&out, peers)
	for _, want := range []string{"127.0.0.11", "0.50 s", "1.0 MiB", "127.0.0.12", "FAILED"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if err := verdict(t.Context(), &out, peers, nil); err == nil || !strings.Contains(err.Error(), "peer 2: no bytes today") {
		t.Errorf("verdict %v", err)
	}
	if err := verdict(t.Context(), &out, peers[:1], nil); err != nil || !strings.Contains(out.String(), "50 % of it came from one another") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestFlags(t *testing.T) {
	if o, err := parse([]string{"-size", "64MB", "-peers", "3"}); err != nil || o.size != 64<<20 || o.peers != 3 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-peers", "0"}, {"-peers", "1000"}, {"-size", "big"}, {"more"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
