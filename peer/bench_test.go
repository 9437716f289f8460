// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"runtime"
	"strconv"
	"testing"

	"dragonfly"
	"dragonfly/internal/piecehash"
	"dragonfly/source"
	"dragonfly/store"
	"dragonfly/transfer"
)

// memory is a parent and a source that has its bytes in memory.
type memory struct{ content []byte }

func (m memory) Fetch(_ context.Context, f transfer.Fetch) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(m.content[f.Span.From:f.Span.To])), nil
}

func (m memory) Blocks(context.Context, transfer.Fetch, dragonfly.PieceNum) ([]piecehash.Block, error) {
	return nil, io.ErrUnexpectedEOF
}

func (m memory) Open(_ context.Context, _ dragonfly.Request, from int64, _ source.Condition) (*source.Body, error) {
	return &source.Body{Info: source.Info{Length: int64(len(m.content)), From: from, ETag: `"one"`, Ranges: true},
		ReadCloser: io.NopCloser(bytes.NewReader(m.content[from:]))}, nil
}

func (m memory) Allowed(context.Context, dragonfly.Request) error { return nil }

// workbench is a task with an empty holding of four pieces.
func workbench(tb testing.TB, pieceLen int64) (*task, *holding, memory) {
	tb.Helper()
	m := memory{bytes.Repeat([]byte("0123456789abcdef"), int(pieceLen)/4)}
	s, err := store.Open(store.Options{Dir: tb.TempDir(), BootID: "this boot", HostName: "this host"})
	if err != nil {
		tb.Fatal(err)
	}
	e := New(Config{Store: s, Source: m, Parents: m, Log: slog.New(slog.DiscardHandler)})
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	t := e.task(dragonfly.TaskID{1})
	h, err := t.adopt(dragonfly.Version{1}, dragonfly.Layout{Length: 4 * pieceLen, PieceLen: pieceLen}, dragonfly.Ticket{1}, source.Info{ETag: `"one"`})
	if err != nil {
		tb.Fatal(err)
	}
	return t, h, m
}

func assignment(h *holding, n dragonfly.PieceNum, from dragonfly.ParentKind) dragonfly.Assignment {
	a, b := h.Layout().Extent(n)
	return dragonfly.Assignment{ID: 1, Task: h.task, Version: h.version, Piece: n, Span: dragonfly.Span{From: a, To: b}, Parent: dragonfly.Parent{Kind: from}}
}

// once fills one piece from the source, as an assignment of the seed does.
func (t *task) once(tb testing.TB, h *holding, body *bytes.Reader) {
	a := assignment(h, 0, dragonfly.ParentSource)
	end, err := t.fill(tb.Context(), h, h.arrive(0), a, a.Span, body)
	if err != nil || end != a.Span.To {
		tb.Fatalf("filled up to %d: %v", end, err)
	}
	h.discard(0, h.arrive(0))
}

// TestNothingIsAllocatedThatGrowsWithThePiece: a piece of 16 MiB costs as many
// allocations as one of 1 MiB, and little memory.
func TestNothingIsAllocatedThatGrowsWithThePiece(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(task *task, h *holding, m memory)
	}{
		{"source to store", func(task *task, h *holding, m memory) { task.once(t, h, bytes.NewReader(m.content)) }},
		{"peer to store", func(task *task, h *holding, _ memory) {
			task.carry(context.Background(), h, assignment(h, 0, dragonfly.ParentPeer))
			h.discard(0, h.arrive(0))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			measure := func(pieceLen int64) (allocs float64, size uint64) {
				task, h, m := workbench(t, pieceLen)
				const runs = 10
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				allocs = testing.AllocsPerRun(runs, func() { test.run(task, h, m) })
				runtime.ReadMemStats(&after)
				return allocs, (after.TotalAlloc - before.TotalAlloc) / (runs + 1)
			}
			small, _ := measure(1 << 20)
			large, size := measure(16 << 20)
			if large > small+32 || size > 512<<10 {
				t.Errorf("%v allocations for a small piece, %v with %d bytes for a large one", small, large, size)
			}
		})
	}
}

func BenchmarkFill(b *testing.B) {
	for _, size := range []int64{4 << 20, 16 << 20} {
		b.Run(strconv.FormatInt(size>>20, 10)+"MiB", func(b *testing.B) {
			t, h, m := workbench(b, size)
			body := bytes.NewReader(m.content)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				body.Reset(m.content)
				t.once(b, h, body)
			}
		})
	}
}

func BenchmarkCarry(b *testing.B) {
	for _, size := range []int64{4 << 20, 16 << 20} {
		b.Run(strconv.FormatInt(size>>20, 10)+"MiB", func(b *testing.B) {
			t, h, _ := workbench(b, size)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				t.carry(b.Context(), h, assignment(h, 0, dragonfly.ParentPeer))
				h.discard(0, h.arrive(0))
			}
		})
	}
}
