// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// tunnelsMax bounds the tunnels that are open at once.
const tunnelsMax = 4096

// established is the answer to a CONNECT that succeeded.
const established = "HTTP/1.1 200 Connection Established\r\n\r\n"

// connect answers CONNECT.
func (p *Proxy) connect(w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
		http.Error(w, "this proxy connects to HOST:PORT only", http.StatusBadRequest)
		return
	}
	done, err := p.begin()
	if err != nil {
		p.failed(w, r, err)
		return
	}
	defer done()
	defer p.tunnels.Add(-1)
	if p.tunnels.Add(1) > tunnelsMax {
		http.Error(w, fmt.Sprintf("dfdaemon: %d tunnels are open, which is all that there can be: try again later", tunnelsMax), http.StatusServiceUnavailable)
		return
	}
	if i := p.host(r.Host); p.inside != nil && i < len(p.o.Hosts) && p.o.Hosts[i].Intercept {
		p.intercept(w, r)
		return
	}
	far, farHead, err := p.dial(r)
	if err != nil {
		p.failed(w, r, err)
		return
	}
	near, nearHead, err := hijack(w)
	if err != nil {
		far.Close()
		p.failed(w, r, err)
		return
	}
	p.o.Observer.TunnelOpened()
	sent, received := p.tunnel(near, far, nearHead, farHead)
	p.o.Observer.TunnelClosed(sent, received)
}

// hijack takes the connection of a CONNECT and what was read of it already.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("the connection cannot carry a tunnel, connect with HTTP/1.1: %w", err)
	}
	head, err := rest(buffered.Reader)
	if err == nil {
		_, err = io.WriteString(conn, established)
	}
	if err != nil {
		conn.Close() // there is nobody to be told
		return nil, nil, err
	}
	return conn, head, nil
}

// rest is what a reader has read and nobody took.
func rest(r *bufio.Reader) ([]byte, error) {
	head := make([]byte, r.Buffered())
	_, err := io.ReadFull(r, head)
	return head, err
}

// dial connects to the host of a CONNECT; head is what it sent already.
func (p *Proxy) dial(r *http.Request) (conn net.Conn, head []byte, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), dialTime)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	upstream, err := p.upstream(&http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: r.Host}, Header: http.Header{}})
	if err != nil {
		return nil, nil, err
	}
	if upstream == nil {
		conn, err = p.dialer(afar(r)).DialContext(ctx, "tcp", r.Host)
		return conn, nil, err
	}
	host, _, _ := net.SplitHostPort(r.Host) // looked at before
	if err := p.checkName(host, afar(r)); err != nil {
		return nil, nil, err
	}
	conn, head, err = dialThrough(ctx, upstream, r)
	if err != nil {
		err = fmt.Errorf("through the upstream proxy %s: %w", upstream.Host, err)
	}
	return conn, head, err
}

// dialThrough connects by means of another proxy.
func dialThrough(ctx context.Context, upstream *url.URL, r *http.Request) (conn net.Conn, head []byte, err error) {
	switch upstream.Scheme {
	case "http":
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", hostPort(upstream))
	case "https":
		conn, err = new(tls.Dialer).DialContext(ctx, "tcp", hostPort(upstream))
	default:
		return nil, nil, fmt.Errorf("tunnels go through proxies that speak http or https, and this one speaks %.20q", upstream.Scheme)
	}
	if err != nil {
		return nil, nil, err
	}
	if head, err = ask(ctx, conn, upstream.User, r); err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, head, nil
}

// ask passes a CONNECT on to the proxy behind conn.
func ask(ctx context.Context, conn net.Conn, user *url.Userinfo, r *http.Request) (head []byte, err error) {
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // conn is closed soon
	out := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: r.Host}, Host: r.Host, Header: http.Header{"Via": r.Header["Via"]}}
	if user != nil {
		password, _ := user.Password()
		out.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := out.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(io.LimitReader(conn, answerMax), answerMax)
	resp, err := http.ReadResponse(in, out)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %d", resp.StatusCode)
	}
	return rest(in)
}

// answerMax bounds the header of an upstream proxy's answer in bytes.
const answerMax = 64 << 10

// tunnel carries bytes both ways until both ends have ended, one fails, or
// nothing moved for a long while. The heads were read before. It closes both
// connections.
func (p *Proxy) tunnel(near, far net.Conn, nearHead, farHead []byte) (sent, received int64) {
	end := sync.OnceFunc(func() {
		near.Close()
		far.Close()
	})
	defer end()
	defer context.AfterFunc(p.ctx, end)()
	moved := &moment{}
	moved.now()
	var back sync.WaitGroup
	back.Go(func() { received = p.carry(near, far, farHead, moved, end) })
	sent = p.carry(far, near, nearHead, moved, end)
	back.Wait()
	return sent, received
}

// moment is when something moved last.
type moment struct{ at atomic.Int64 } // nanoseconds

func (m *moment) now()                 { m.at.Store(time.Now().UnixNano()) }
func (m *moment) since() time.Duration { return time.Duration(time.Now().UnixNano() - m.at.Load()) }

// stride is how many bytes are carried between two looks at the clock. The
// kernel moves them from socket to socket.
const stride = 256 << 10

// carry copies one way and tells the receiver of the end. It calls end when the
// other way has no more use either.
func (p *Proxy) carry(to, from net.Conn, head []byte, moved *moment, end func()) (n int64) {
	if len(head) > 0 {
		m, err := to.Write(head)
		if n += int64(m); err != nil {
			end()
			return n
		}
	}
	for {
		// Often enough that a way which is slow counts as one that moves.
		if err := from.SetReadDeadline(time.Now().Add(p.o.TunnelIdle / 4)); err != nil {
			end()
			return n
		}
		m, err := io.CopyN(to, from, stride)
		n += m
		if m > 0 {
			moved.now()
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			if half, ok := to.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
				end()
			}
			return n
		case errors.Is(err, os.ErrDeadlineExceeded) && moved.since() < p.o.TunnelIdle:
		default:
			end()
			return n
		}
	}
}
