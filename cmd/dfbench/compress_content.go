// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// kind is one sort of content.
type kind struct {
	name  string
	write func(ctx context.Context, w io.Writer, random *rand.Rand) error // some of it; called until there is enough
}

var kinds = []kind{
	{"text", writeSources},
	{"json", writeRecords},
	{"logs", writeLog},
	{"random", writeRandom},
}

// errEnough ends the writing of a content.
var errEnough = errors.New("enough was written")

// upTo is a writer that takes so many bytes.
type upTo struct {
	w    io.Writer
	left int64
}

func (u *upTo) Write(p []byte) (int, error) {
	n, err := u.w.Write(p[:min(int64(len(p)), u.left)])
	u.left -= int64(n)
	if err == nil && u.left == 0 {
		err = errEnough
	}
	return n, err
}

// writeSources writes the sources of Go's library: text that people wrote.
func writeSources(ctx context.Context, w io.Writer, _ *rand.Rand) error {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	return filepath.WalkDir(filepath.Join(strings.TrimSpace(string(root)), "src"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	})
}

func writeRecords(_ context.Context, w io.Writer, r *rand.Rand) error {
	var b bytes.Buffer
	for b.Len() < 64<<10 {
		fmt.Fprintf(&b, `{"id":"%016x","user":%d,"active":%t,"score":%.4f,"tags":["%s","%s"],"address":{"street":"%s %d","zip":"%05d"},"created":%d}`+"\n",
			r.Uint64(), r.IntN(1e6), r.IntN(2) == 0, r.Float64()*100, word(r), word(r), word(r), r.IntN(300), r.IntN(1e5), 1_700_000_000+r.IntN(1e8))
	}
	_, err := b.WriteTo(w)
	return err
}

func writeLog(_ context.Context, w io.Writer, r *rand.Rand) error {
	var b bytes.Buffer
	at := time.Unix(1_700_000_000+r.Int64N(1e8), 0).UTC()
	for b.Len() < 64<<10 {
		at = at.Add(time.Duration(r.IntN(1e8)))
		fmt.Fprintf(&b, "%s INFO http: 10.%d.%d.%d GET /%s/%s/%d status=%d bytes=%d took=%dus request=%08x\n", at.Format(time.RFC3339Nano),
			r.IntN(4), r.IntN(256), r.IntN(256), word(r), word(r), r.IntN(1e5), []int{200, 200, 200, 304, 404}[r.IntN(5)], r.IntN(1e6), r.IntN(1e5), r.Uint32())
	}
	_, err := b.WriteTo(w)
	return err
}

func word(r *rand.Rand) string {
	const names = "piece block task seed peer origin parent child ticket version digest manifest session zone rack link swarm source store layer"
	list := strings.Fields(names)
	return list[r.IntN(len(list))]
}

func writeRandom(_ context.Context, w io.Writer, r *rand.Rand) error {
	b := make([]byte, 0, 64<<10)
	for len(b) < cap(b) {
		v := r.Uint64()
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24), byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56))
	}
	_, err := w.Write(b)
	return err
}

// makeKind writes a content of b.size bytes where the origin has its file.
func (b *bench) makeKind(ctx context.Context, k kind) error {
	file, err := os.Create(b.path("file"))
	if err != nil {
		return err
	}
	defer file.Close()
	out, random := &upTo{file, b.size}, rand.New(rand.NewPCG(1, 2))
	for err == nil {
		err = k.write(ctx, out, random)
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	return err
}
