// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// link is the connection to one child as the kernel sees it. The requests of a
// connection come one after the other, so it needs no lock.
type link struct {
	conn syscall.RawConn
	last unix.TCPInfo // when rate was measured
	rate float64      // bytes per second that the network took; 0: not known, or it is not what limits

	poor, skip int // samples in a row that did not compress, ranges that are not sampled for that
}

const (
	// linkSample is how many bytes the child has to confirm between two
	// measurements: fewer say more of the latency than of the rate.
	linkSample = 256 << 10
	// maxSkip bounds how many ranges go by without a sample.
	maxSkip = 16
)

type linkKey struct{}

// ConnContext is the ConnContext of the http.Server that a Server belongs to. It
// lets the Server see how fast the links of its children are; without it
// nothing is compressed but for Server.Limit.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = secure.NetConn()
	}
	tcp, ok := c.(syscall.Conn)
	if !ok {
		return ctx
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, linkKey{}, &link{conn: raw})
}

// linkOf is the connection of a request, nil if it is not known.
func linkOf(ctx context.Context) *link {
	l, _ := ctx.Value(linkKey{}).(*link)
	return l
}

// measure gives rate, brought up to date with what was sent since.
func (l *link) measure() float64 {
	var info *unix.TCPInfo
	err := l.conn.Control(func(fd uintptr) {
		info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err == nil && info != nil && info.Bytes_acked-l.last.Bytes_acked >= linkSample {
		l.rate = linkRate(&l.last, info)
		l.last = *info
	}
	return l.rate
}

// linkRate is how fast the network was between two looks; 0 when it was not
// what limited: the child took its time, or nothing was sent.
func linkRate(before, now *unix.TCPInfo) float64 {
	busy := now.Busy_time - before.Busy_time // in microseconds, while anything was on its way
	waiting := now.Rwnd_limited - before.Rwnd_limited
	if busy == 0 || waiting > busy/2 {
		return 0
	}
	mean := float64(now.Bytes_acked-before.Bytes_acked) / float64(busy) * 1e6
	// The mean has the slow start in it, the delivery rate is about the end.
	return max(mean, float64(now.Delivery_rate))
}

// sampled remembers whether a sample was worth it. One that was not lets
// the next ranges be sent without: 1, 2, 4 … of them.
func (l *link) sampled(good bool) {
	if l == nil {
		return
	}
	if good {
		l.poor = 0
		return
	}
	l.skip = min(1<<l.poor, maxSkip)
	l.poor = min(l.poor+1, 10)
}

// skips says that a range is sent without a sample, and counts it.
func (l *link) skips() bool {
	if l == nil || l.skip == 0 {
		return false
	}
	l.skip--
	return true
}
