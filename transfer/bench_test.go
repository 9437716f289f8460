// SPDX-License-Identifier: Apache-2.0

package transfer_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"dragonfly/transfer"
)

// spans are the content lengths of the smallest and the largest piece.
var spans = []int64{4*mib - 5, 15*mib - 5}

// readLen is one read of a child.
const readLen = 256 * kib

// cpu is the time that this process has spent so far, kernel time included.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs one fetch of n bytes per iteration and reports the CPU time of
// both ends together.
func measure(b *testing.B, n int64, fetch func(buf []byte) (int64, error)) {
	buf := make([]byte, readLen)
	b.SetBytes(n)
	b.ReportAllocs()
	began := cpu(b)
	for b.Loop() {
		if got, err := fetch(buf); err != nil || got != n {
			b.Fatal(got, err)
		}
	}
	gib := float64(b.N) * float64(n) / (1 << 30)
	b.ReportMetric((cpu(b)-began).Seconds()/gib, "cpu-s/GiB")
}

// drain reads to the end in large reads.
func drain(r io.Reader, buf []byte) (total int64, err error) {
	for {
		n, err := r.Read(buf)
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// BenchmarkFetch is both ends of this package on loopback.
func BenchmarkFetch(b *testing.B) {
	for _, n := range spans {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			addr := serve(b, newServer(shelf{taskID: full(b, n)}))
			c := newClient(b, transfer.ClientOptions{})
			f := want(addr, 0, n)
			measure(b, n, func(buf []byte) (int64, error) {
				body, err := c.Fetch(context.Background(), f)
				if err != nil {
					return 0, err
				}
				defer body.Close()
				return drain(body, buf)
			})
		})
	}
}

// BenchmarkSmallFetch is what a fetch costs beside its bytes.
func BenchmarkSmallFetch(b *testing.B) {
	addr := serve(b, newServer(shelf{taskID: full(b, kib)}))
	c := newClient(b, transfer.ClientOptions{})
	f := want(addr, 0, kib)
	buf := make([]byte, readLen)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		body, err := c.Fetch(ctx, f)
		if err == nil {
			_, err = drain(body, buf)
			body.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNetHTTP reads from our parent with net/http's client, for
// comparison.
func BenchmarkNetHTTP(b *testing.B) {
	for _, n := range append([]int64{kib}, spans...) {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			addr := serve(b, newServer(shelf{taskID: full(b, n)}))
			c := &http.Client{Transport: &http.Transport{DisableCompression: true}}
			defer c.CloseIdleConnections()
			measure(b, n, func(buf []byte) (int64, error) {
				req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+addr.String()+contentPath(taskID), nil)
				if err != nil {
					return 0, err
				}
				req.Header.Set("Range", fmt.Sprintf("bytes=0-%d", n-1))
				req.Header.Set("If-Match", `"`+version.String()+`"`)
				req.Header.Set("Authorization", "Dragonfly "+ticket.Secret())
				resp, err := c.Do(req)
				if err != nil {
					return 0, err
				}
				defer resp.Body.Close()
				return drain(resp.Body, buf)
			})
		})
	}
}

// BenchmarkServeFile reads with our client's plainest rival from net/http's
// file server, for comparison.
func BenchmarkServeFile(b *testing.B) {
	for _, n := range spans {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path := full(b, n).path
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) }))
			defer h.Close()
			measure(b, n, func(buf []byte) (int64, error) {
				resp, err := h.Client().Get(h.URL)
				if err != nil {
					return 0, err
				}
				defer resp.Body.Close()
				return drain(resp.Body, buf)
			})
		})
	}
}

// BenchmarkBareTCP is the floor: sendfile and recv with eight bytes between
// them.
func BenchmarkBareTCP(b *testing.B) {
	for _, n := range spans {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path := full(b, n).path
			l, err := net.Listen("tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0).String())
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				defer nc.Close()
				for {
					var ask [8]byte
					if _, err := io.ReadFull(nc, ask[:]); err != nil {
						return
					}
					f, err := os.Open(path)
					if err != nil {
						return
					}
					_, err = io.Copy(nc, &io.LimitedReader{R: f, N: int64(binary.BigEndian.Uint64(ask[:]))})
					f.Close()
					if err != nil {
						return
					}
				}
			})
			nc, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer nc.Close()
			measure(b, n, func(buf []byte) (int64, error) {
				if _, err := nc.Write(binary.BigEndian.AppendUint64(nil, uint64(n))); err != nil {
					return 0, err
				}
				return drain(io.LimitReader(nc, n), buf)
			})
		})
	}
}
