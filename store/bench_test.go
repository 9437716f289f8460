// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"testing"

	"dragonfly"
)

// BenchmarkWriteCommit writes and commits pieces of 4 MiB in writes of 256 KiB.
func BenchmarkWriteCommit(b *testing.B) {
	const part, length = 256 << 10, 4 << 20
	s := mustOpen(b, options(b.TempDir()))
	data := make([]byte, part)
	b.SetBytes(length)
	b.ReportAllocs()
	var c *Content
	const count = 64
	i := 0
	for b.Loop() {
		n := i % count
		if n == 0 {
			if c != nil {
				b.StopTimer()
				c.Release()
				must(b, s.Remove(c.task))
				b.StartTimer()
			}
			c = mustCreate(b, s, Meta{Task: taskID(i), Version: version(1), Layout: dragonfly.Layout{Length: count * length, PieceLen: length}})
		}
		for at := 0; at < length; at += part {
			if _, err := c.WriteAt(data, int64(n*length+at)); err != nil {
				b.Fatal(err)
			}
		}
		must(b, c.Commit(dragonfly.PieceNum(n), dragonfly.PieceDigest{1}))
		i++
	}
	c.Release()
}

func BenchmarkCommit(b *testing.B) {
	s := mustOpen(b, options(b.TempDir()))
	const count = 10_000
	b.ReportAllocs()
	var c *Content
	i := 0
	for b.Loop() {
		n := i % count
		if n == 0 {
			b.StopTimer()
			if c != nil {
				c.Release()
			}
			c = mustCreate(b, s, Meta{Task: taskID(i), Version: version(1), Layout: dragonfly.Layout{Length: count, PieceLen: 1}})
			_, err := c.WriteAt(make([]byte, count), 0)
			must(b, err)
			b.StartTimer()
		}
		must(b, c.Commit(dragonfly.PieceNum(n), dragonfly.PieceDigest{1}))
		i++
	}
	c.Release()
}

func BenchmarkVerify(b *testing.B) {
	s := mustOpen(b, options(b.TempDir()))
	const length = 15 << 20
	c := mustCreate(b, s, Meta{Task: taskID(1), Version: version(1), Layout: dragonfly.Layout{Length: length, PieceLen: length}})
	defer c.Release()
	data := bytesOf(c.task, c.version, length)
	fill(b, c, data, 0)
	b.SetBytes(length)
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := c.Verify(0); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, count := range []int{100, 5000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			o := options(b.TempDir())
			s := mustOpen(b, o)
			for task := range count {
				mustFill(b, s, task, 1, 10)
			}
			must(b, s.Close())
			for b.Loop() {
				s := mustOpen(b, o)
				if len(s.contents) != count {
					b.Fatal(len(s.contents))
				}
				kill(s)
			}
		})
	}
}
