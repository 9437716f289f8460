// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha1" // what BitTorrent names pieces by
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
)

// torrentPiece is the piece length of torrents: for files up to some hundred
// MiB what tools that make them choose.
const torrentPiece = 256 << 10

// metainfo is the .torrent of a file, as BEP 3 has it.
func metainfo(announce, name string, file io.Reader) ([]byte, error) {
	var pieces []byte
	var length int64
	for buf := make([]byte, torrentPiece); ; {
		n, err := io.ReadFull(file, buf)
		if n > 0 {
			sum := sha1.Sum(buf[:n])
			pieces = append(pieces, sum[:]...)
			length += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	text := func(s string) string { return strconv.Itoa(len(s)) + ":" + s }
	return fmt.Appendf(nil, "d%s%s%sd%si%de%s%s%si%de%s%see",
		text("announce"), text(announce), text("info"),
		text("length"), length, text("name"), text(name), text("piece length"), torrentPiece, text("pieces"), text(string(pieces))), nil
}

// announceEvery is how many seconds a peer of a torrent is told to wait before
// it asks for other peers again.
const announceEvery = 5

// givenPeers is how many peers an answer of the tracker names.
const givenPeers = 50

// torrentTracker tells the peers of one torrent of one another. It keeps all
// that ever announced: in a measurement none leaves.
type torrentTracker struct {
	mu    sync.Mutex // guards below
	peers []netip.AddrPort
}

func (t *torrentTracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
	host, _, herr := net.SplitHostPort(r.RemoteAddr)
	ip, aerr := netip.ParseAddr(host)
	if err != nil || herr != nil || aerr != nil || !ip.Unmap().Is4() {
		_, _ = io.WriteString(w, "d14:failure reason10:want IPv4 e")
		return
	}
	_, _ = io.WriteString(w, t.announce(netip.AddrPortFrom(ip.Unmap(), uint16(port)))) // who is gone need not know
}

// announce takes a peer in and names others to it, in the compact form of
// BEP 23.
func (t *torrentTracker) announce(who netip.AddrPort) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var others []netip.AddrPort
	known := false
	for _, p := range t.peers {
		if p == who {
			known = true
		} else {
			others = append(others, p)
		}
	}
	if !known {
		t.peers = append(t.peers, who)
	}
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	var compact strings.Builder
	for _, p := range others[:min(len(others), givenPeers)] {
		ip := p.Addr().As4()
		compact.Write(ip[:])
		compact.Write([]byte{byte(p.Port() >> 8), byte(p.Port())})
	}
	return fmt.Sprintf("d8:intervali%de5:peers%d:%se", announceEvery, compact.Len(), compact.String())
}
