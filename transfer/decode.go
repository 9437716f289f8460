// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// maxDecoders bounds the memory of a Client's decoders, about 1 MiB each. A
// child that has so many at work does not ask for compression.
const maxDecoders = 64

// decoder reads the raw bytes of a compressed answer. It decodes as it is read,
// without a goroutine. How many raw bytes there may be the body knows from the
// range; how many bytes may come for them is bounded here, since a frame
// without content can be of any length.
type decoder struct {
	zstd *zstd.Decoder
	in   io.Reader
	left int64 // bytes that may still come
	err  error // of in, which says more than what zstd makes of it
}

var decoders = sync.Pool{New: func() any {
	d := new(decoder)
	var err error
	d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}}

// decode begins an answer of n raw bytes.
func decode(in io.Reader, n int64) (*decoder, error) {
	d := decoders.Get().(*decoder)
	// What does not compress grows by 3 bytes of each 128 KiB and of each chunk.
	d.in, d.left, d.err = in, n+n>>8+1024, nil
	return d, d.zstd.Reset(source{d})
}

// source is what a decoder reads from.
type source struct{ d *decoder }

func (s source) Read(p []byte) (int, error) {
	d := s.d
	if d.left == 0 && len(p) > 0 {
		d.err = io.ErrShortBuffer
		return 0, d.err
	}
	n, err := d.in.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	if err != nil && err != io.EOF {
		d.err = err
	}
	return n, err
}

// Read gives io.EOF only where the frame and the answer end.
func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.zstd.Read(p)
	if err != nil && d.err != nil {
		err = d.err
	}
	return n, err
}

// ended says that nothing follows. It waits for the end of the answer.
func (d *decoder) ended() bool {
	var more [1]byte
	n, err := d.Read(more[:])
	return n == 0 && err == io.EOF
}

// free gives up the decoder, which must not be used any more.
func (d *decoder) free() {
	d.in = nil
	if d.zstd.Reset(nil) == nil {
		decoders.Put(d)
	}
}
