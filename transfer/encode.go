// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"context"
	"io"
	"math"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/time/rate"

	"dragonfly"
)

const (
	// minEncoded is the shortest span that is compressed, and the shortest
	// that a child asks to have compressed.
	minEncoded = 128 << 10
	// sampleShare is the part of a span that is compressed to see whether the
	// rest is worth it, and maxSample the most of it.
	sampleShare = 8
	maxSample   = 64 << 10
	// window is how far back an encoder looks and a decoder has to remember.
	window = 1 << 19
	// minGain is how many times faster a span has to become.
	minGain = 1.3
	// fastest is a speed that no encoder reaches, in bytes per second: over a
	// faster link nothing is even sampled.
	fastest = 1e9
	// maxEncoders bounds the memory of a Server's encoders, about 2 MiB each.
	maxEncoders = 32
)

// encoder compresses one span at a time into out.
type encoder struct {
	zstd *zstd.Encoder
	out  bytes.Buffer
	raw  []byte // what is compressed next, chunkLen
	load int64  // thousandths of a core that were set aside for it
}

var encoders = sync.Pool{New: func() any {
	e := &encoder{raw: make([]byte, chunkLen)}
	var err error
	// The pieces are verified: a checksum of zstd's own would cost time only.
	e.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(window), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
}}

func (e *encoder) begin() {
	e.out.Reset()
	e.zstd.Reset(&e.out)
}

// encode compresses p into out; last ends the frame.
func (e *encoder) encode(p []byte, last bool) error {
	if _, err := e.zstd.Write(p); err != nil {
		return err
	}
	if last {
		return e.zstd.Close()
	}
	return e.zstd.Flush()
}

// sample compresses the middle of span: ratio is how many times fewer bytes it
// became, speed how many raw bytes per second that was.
func (e *encoder) sample(file *os.File, span dragonfly.Span) (ratio, speed float64, err error) {
	n := min(span.Len()/sampleShare, maxSample)
	p := e.raw[:n]
	if _, err := file.ReadAt(p, span.From+(span.Len()-n)/2); err != nil {
		return 0, 0, err
	}
	e.begin()
	began := time.Now()
	if err := e.encode(p, true); err != nil {
		return 0, 0, err
	}
	took := max(time.Since(began), time.Microsecond)
	return float64(n) / math.Max(1, float64(e.out.Len())), float64(n) / took.Seconds(), nil
}

// gain is how many times faster bytes go over a link of rate bytes per second
// when they become ratio times fewer, with an encoder of the given speed.
func gain(rate, ratio, speed float64) float64 { return min(rate*ratio, speed) / rate }

// compression is what a Server's encoders take.
type compression struct {
	mu    sync.Mutex // guards below
	count int        // encoders in use
	load  int64      // thousandths of a core that they need
}

// get gives an encoder, nil when there are too many.
func (c *compression) get() *encoder {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count >= maxEncoders {
		return nil
	}
	c.count++
	return encoders.Get().(*encoder)
}

// put takes an encoder back.
func (c *compression) put(e *encoder) {
	c.mu.Lock()
	c.count--
	c.load -= e.load
	c.mu.Unlock()
	e.load = 0
	encoders.Put(e)
}

// reserve sets an encoder's share of the processors aside: at most half of
// them compress. It says false when they are busy: they limit then, not the
// link.
func (c *compression) reserve(e *encoder, load int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.load+load > max(1000, int64(runtime.GOMAXPROCS(0))*500) {
		return false
	}
	c.load += load
	e.load = load
	return true
}

// encoder gives an encoder for span when that makes it faster, else nil. It
// must be given back to s.compression. Each span is looked at by itself: a
// content may be text here and pictures there.
func (s *Server) encoder(ctx context.Context, view View, file *os.File, span dragonfly.Span) *encoder {
	if s.Plain || span.Len() < minEncoded {
		return nil
	}
	l := linkOf(ctx)
	slow := s.slowest(l)
	if slow == 0 || slow*minGain > fastest || l.skips() || !view.Holds(span) {
		return nil
	}
	e := s.compression.get()
	if e == nil {
		return nil
	}
	ratio, speed, err := e.sample(file, span)
	good := err == nil && gain(slow, ratio, speed) >= minGain
	l.sampled(good)
	if good && s.compression.reserve(e, max(1, int64(1000*min(1, slow*ratio/speed)))) {
		e.begin()
		return e
	}
	s.compression.put(e)
	return nil
}

// slowest is the rate that limits what goes to a child, in bytes per second: its
// link's or the server's own; 0: nothing known does.
func (s *Server) slowest(l *link) (slow float64) {
	if l != nil {
		slow = l.measure()
	}
	if s.Limit != nil && s.Limit.Limit() != rate.Inf {
		if own := float64(s.Limit.Limit()); slow == 0 || own < slow {
			slow = own
		}
	}
	return slow
}

// sendEncoded is send for a compressed answer; end is where its span ends.
func (st *stream) sendEncoded(ctx context.Context, off, ready, end int64) (int64, error) {
	e := st.encoder
	for off < ready {
		p := e.raw[:min(ready-off, chunkLen)]
		if _, err := io.ReadFull(st.file, p); err != nil {
			return off, err
		}
		last := off+int64(len(p)) == end
		if err := e.encode(p, last); err != nil {
			return off, err
		}
		saved := int64(len(p) - e.out.Len())
		if err := st.drain(ctx); err != nil {
			return off, err
		}
		off += int64(len(p))
		if st.server.Observe != nil {
			st.server.Observe(Sent{Bytes: int64(len(p)), Copied: int64(len(p)), Saved: saved})
		}
		if last {
			break // net/http sends the rest and the end together
		}
		if err := st.control.Flush(); err != nil {
			return off, err
		}
	}
	return off, nil
}

// drain writes what the encoder has: these bytes count for the limit.
func (st *stream) drain(ctx context.Context) error {
	for out := &st.encoder.out; out.Len() > 0; {
		p := out.Next(int(min(int64(out.Len()), st.server.chunk())))
		if limit := st.server.Limit; limit != nil {
			if err := limit.WaitN(ctx, len(p)); err != nil {
				return err
			}
		}
		if err := st.extend(); err != nil {
			return err
		}
		if _, err := st.w.Write(p); err != nil {
			return err
		}
	}
	return nil
}
