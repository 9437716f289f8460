// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"dragonfly"
	"dragonfly/wire"
)

// working is a Tracker whose sessions have the same work for every report.
type working struct {
	script
	work dragonfly.Work
}

func (w working) Open(context.Context, dragonfly.Hello) (dragonfly.Session, error) { return w, nil }

func (w working) Sync(context.Context, dragonfly.Report) (dragonfly.Work, error) { return w.work, nil }

// BenchmarkSync is what the server's end of a sync costs, with as many pieces
// as a peer has in work: one connection, whose client costs nearly nothing.
func BenchmarkSync(b *testing.B) {
	for _, pieces := range []int{0, 4, 12} {
		b.Run(fmt.Sprintf("pieces=%d", pieces), func(b *testing.B) {
			var report dragonfly.Report
			var work dragonfly.Work
			for i := range pieces {
				n := dragonfly.PieceNum(i)
				report.Events = append(report.Events, dragonfly.Event{Kind: dragonfly.EventVerified, Task: task, Version: version,
					Piece: n, Assignment: dragonfly.AssignmentID(1e9 + i)})
				work.Assignments = append(work.Assignments, dragonfly.Assignment{ID: dragonfly.AssignmentID(1e9 + i), Task: task, Version: version,
					Piece: n, Span: dragonfly.Span{From: 1 << 30, To: 2 << 30}, Digest: dragonfly.PieceDigest{1},
					Parent: dragonfly.Parent{Kind: dragonfly.ParentPeer, Session: "00112233445566778899aabbccddeeff",
						Addrs: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.8:20001")}, CID: "10.0.0.8-17-1764000000.123"}})
			}
			server := httptest.NewServer(wire.NewServer(working{work: work}, wire.ServerOptions{}))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			ask := func(request []byte) *http.Response {
				if _, err := conn.Write(request); err != nil {
					b.Fatal(err)
				}
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					b.Fatal(err)
				}
				return resp
			}
			request := func(path, key string, message any) []byte {
				body, err := json.Marshal(message)
				if err != nil {
					b.Fatal(err)
				}
				return fmt.Appendf(nil, "POST /p2p/v1/%s HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\nX-Dragonfly-Session: %s\r\nContent-Length: %d\r\n\r\n%s",
					path, key, len(body), body)
			}
			opened := ask(request("sessions", "", hello))
			if _, err := io.Copy(io.Discard, opened.Body); err != nil {
				b.Fatal(err)
			}
			sync := request("session/sync", opened.Header.Get("X-Dragonfly-Session"), report)
			resp := ask(sync)
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK || !bytes.HasPrefix(body, []byte(`{"seq":0`)) {
				b.Fatalf("%s, %v: %.100s", resp.Status, err, body)
			}
			// All answers are as long as this one, which is read as it comes.
			var raw bytes.Buffer
			if _, err := conn.Write(sync); err != nil {
				b.Fatal(err)
			}
			if resp, err = http.ReadResponse(bufio.NewReader(io.TeeReader(conn, &raw)), nil); err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
			}
			if err != nil {
				b.Fatal(err)
			}
			answer := make([]byte, raw.Len())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(sync); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, answer); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
