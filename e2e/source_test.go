// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dragonfly/internal/swarm"
)

// TestRedirectToHTTPS: a source that sends from http to https, whose
// certificate a private authority signed: with --cacerts or --insecure it is
// read, by the seed and without any supernode, otherwise it is a clear error.
func TestRedirectToHTTPS(t *testing.T) {
	w := start(t)
	secure := newSecureOrigin(t, piece+7)
	o := newOrigin(t, 1)
	o.forward = secure.url()
	ca := filepath.Join(w.dir, "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, node := range map[string]string{"with": w.supernode(swarm.SupernodeOptions{}).Addr, "without": "127.0.0.1:1"} {
		h := w.host("--node", node)
		out := w.target("refused-" + name)
		code, printed := w.fails(h, o.URL+"/forward?"+name, out)
		if code != exitDownload || !strings.Contains(printed, "certificate") {
			t.Errorf("%s: exit status %d\n%s", name, code, printed)
		}
		w.noTarget(out)
		for _, trust := range [][]string{{"--cacerts", ca}, {"--insecure"}} {
			out := w.target(name + trust[0])
			w.download(h, o.URL+"/forward?"+name+trust[0], out, trust...)
			w.isContent(out, secure.content)
		}
	}
}

// TestSourceDown: nobody listens at the source.
func TestSourceDown(t *testing.T) {
	w := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for name, node := range map[string]string{"with": w.supernode(swarm.SupernodeOptions{}).Addr, "without": "127.0.0.1:1"} {
		out := w.target(name)
		code, printed := w.fails(w.host("--node", node), "http://"+addr+"/file", out)
		if code != exitDownload || !strings.Contains(printed, addr) || !strings.Contains(printed, "refused") {
			t.Errorf("%s: exit status %d\n%s", name, code, printed)
		}
		w.noTarget(out)
	}
}

// TestSupernodeDiskFull: a seed without room lets the peers read the source by
// themselves.
func TestSupernodeDiskFull(t *testing.T) {
	w := start(t)
	home := w.smallDisk("supernode", "size=3m")
	o := newOrigin(t, 2*piece)
	node := w.supernode(swarm.SupernodeOptions{Home: home})
	for _, name := range []string{"one", "two"} {
		out := w.target(name)
		r := w.download(w.host("--node", node.Addr), o.url(), out)
		w.isContent(out, o.content)
		if r.FromSource == 0 {
			t.Errorf("%s: %+v, want it from the source", name, r)
		}
	}
}
