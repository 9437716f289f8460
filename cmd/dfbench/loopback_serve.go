// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dragonfly"
	"dragonfly/internal/swarm"
	"dragonfly/wire"
)

// rangeLen is how much a request for a part asks for: about a piece.
const rangeLen = 4 << 20

// serving is what sending the file cost: medians in seconds per GiB, the ratio
// that of the rounds.
type serving struct {
	Requests  int     `json:"requests"`
	NginxWall float64 `json:"nginxWall"`
	SeedWall  float64 `json:"seedWall"`
	NginxCPU  float64 `json:"nginxCPU"`
	SeedCPU   float64 `json:"seedCPU"`
	Ratio     float64 `json:"cpuRatio"`
	Sendfile  float64 `json:"sendfile"` // bytes that the kernel sent from the seed's file, as it counts them ÷ size
	Good      bool    `json:"good"`
}

func servingOf(size, length int64, nginx, seed []serve) serving {
	gib := float64(size) / (1 << 30)
	of := func(value func(n, s serve) float64) float64 {
		values := make([]float64, len(seed))
		for i := range seed {
			values[i] = value(nginx[i], seed[i])
		}
		return median(values)
	}
	s := serving{
		Requests:  int((size + length - 1) / length),
		NginxWall: of(func(n, _ serve) float64 { return n.wall.Seconds() / gib }),
		SeedWall:  of(func(_, s serve) float64 { return s.wall.Seconds() / gib }),
		NginxCPU:  of(func(n, _ serve) float64 { return n.cpu.Seconds() / gib }),
		SeedCPU:   of(func(_, s serve) float64 { return s.cpu.Seconds() / gib }),
		Ratio:     of(func(n, s serve) float64 { return s.cpu.Seconds() / n.cpu.Seconds() }),
		Sendfile:  of(func(_, s serve) float64 { return float64(s.sendfile) / float64(size) }),
	}
	s.Good = s.Ratio <= servingMost
	return s
}

// serve is one reading of the file.
type serve struct {
	cost           // of the server
	sendfile int64 // bytes by sendfile, if the server counts them
}

// server is what a lean client reads the file from.
type server interface {
	pid() int
	request(ctx context.Context) (*http.Request, error) // for the whole file
	sendfile(ctx context.Context) (int64, error)        // bytes so far, if it counts them
}

// serving reads the file in requests for length bytes and measures the server.
func (b *bench) serving(ctx context.Context, s server, length int64, to *[]serve) error {
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	sent, err := s.sendfile(ctx)
	if err != nil {
		return err
	}
	used := processCPU(s.pid())
	began := time.Now()
	buf := make([]byte, 256<<10)
	for from := int64(0); from < b.size; from += length {
		if err := read(ctx, client, s, from, min(from+length, b.size), b.size, buf); err != nil {
			return err
		}
	}
	one := serve{cost: cost{wall: time.Since(began)}}
	one.cpu = processCPU(s.pid()) - used
	if one.sendfile, err = s.sendfile(ctx); err != nil {
		return err
	}
	one.sendfile -= sent
	*to = append(*to, one)
	return nil
}

// read reads the bytes from from to to of a file of size bytes, and drops them.
func read(ctx context.Context, client *http.Client, s server, from, to, size int64, buf []byte) error {
	req, err := s.request(ctx)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if from > 0 || to < size {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
		want = http.StatusPartialContent
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		return fmt.Errorf("GET %s: %s", req.URL, resp.Status)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, buf)
	if err == nil && n != to-from {
		err = fmt.Errorf("GET %s: %d bytes, want %d", req.URL, n, to-from)
	}
	return err
}

// seed is the supernode's data port.
type seed struct {
	supernode *swarm.Supernode
	url       string
	header    http.Header
}

// seed gets what admits to the content at the seed, as a peer does.
func (b *bench) seed(ctx context.Context, sn *swarm.Supernode, data int) (*seed, error) {
	m, err := dragonfly.ParseMember(sn.Addr)
	if err != nil {
		return nil, err
	}
	s, err := wire.NewClient(m.Addr, wire.ClientOptions{}).Open(ctx, dragonfly.Hello{Protocol: dragonfly.ProtocolNumber, Agent: strings.Repeat("0", 32), Build: "dfbench"})
	if err != nil {
		return nil, err
	}
	defer s.Close(ctx, "measured")
	info, err := s.Register(ctx, dragonfly.Registration{Job: "dfbench", Request: dragonfly.Request{URL: b.origin}})
	if err != nil {
		return nil, err
	}
	return &seed{sn, fmt.Sprintf("http://127.0.0.1:%d/p2p/v1/tasks/%s/content", data, info.Task), http.Header{
		"Authorization": {"Dragonfly " + info.Ticket.Secret()}, "If-Match": {`"` + info.Version.String() + `"`}}}, nil
}

func (s *seed) pid() int { return s.supernode.Cmd.Process.Pid }

func (s *seed) request(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err == nil {
		req.Header = s.header.Clone()
	}
	return req, err
}

func (s *seed) sendfile(ctx context.Context) (int64, error) {
	sent, err := counter(ctx, s.supernode, "dragonfly_supernode_seed_egress_bytes_total")
	if err != nil {
		return 0, err
	}
	copied, err := counter(ctx, s.supernode, "dragonfly_supernode_seed_copied_bytes_total")
	return sent - copied, err
}

// counter reads a counter without labels of a supernode.
func counter(ctx context.Context, sn *swarm.Supernode, name string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+sn.Addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			return int64(value), err
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("the supernode has no counter %s", name)
}

// nginx serves the file.
type nginx struct {
	cmd  *exec.Cmd
	url  string
	done chan struct{}
}

// startNginx starts one in the bench's directory; nil where it is not installed.
func (b *bench) startNginx(ctx context.Context) (*nginx, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/nginx") // not in everybody's path
	}
	if err != nil {
		b.say("nginx is not installed (apt-get install nginx-light): serving is not measured")
		return nil, nil
	}
	port, err := swarm.FreePort()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log stderr;
events {}
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	client_body_temp_path %[1]s;
	proxy_temp_path %[1]s;
	fastcgi_temp_path %[1]s;
	uwsgi_temp_path %[1]s;
	scgi_temp_path %[1]s;
	server {
		listen 127.0.0.1:%[2]d;
		root %[1]s;
	}
}
`, b.dir, port)
	if err := os.WriteFile(b.path("nginx.conf"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	n := &nginx{
		cmd:  exec.Command(path, "-c", b.path("nginx.conf"), "-e", "stderr"),
		url:  fmt.Sprintf("http://127.0.0.1:%d/file", port),
		done: make(chan struct{}),
	}
	said := &swarm.Tail{}
	n.cmd.Stdout, n.cmd.Stderr = said, said
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = n.cmd.Wait() // told by ProcessState
		close(n.done)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for swarm.Answers(ctx, n.url) != nil {
		select {
		case <-tick.C:
		case <-n.done:
			return nil, fmt.Errorf("nginx ended at once: %s\n%s", n.cmd.ProcessState, said)
		case <-ctx.Done():
			n.stop()
			return nil, fmt.Errorf("nginx does not answer: %w\n%s", ctx.Err(), said)
		}
	}
	return n, nil
}

func (n *nginx) pid() int { return n.cmd.Process.Pid }

func (n *nginx) request(ctx context.Context) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodGet, n.url, nil)
}

func (n *nginx) sendfile(context.Context) (int64, error) { return 0, nil }

// stop ends it, if there is one, and waits for it.
func (n *nginx) stop() {
	if n == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	<-n.done
}
