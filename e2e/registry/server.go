// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dragonfly/internal/swarm"
)

// User and Password are what servers with Basic and token servers know.
const (
	User     = "alice"
	Password = "open sesame"
)

// htpasswd is a line for User and Password, at the lowest cost.
const htpasswd = User + ":$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n"

// Options of a server. Program and Dir are required.
type Options struct {
	Program   string     // the registry binary
	Dir       string     // for configuration and content; exists
	Addr      string     // host:port; empty: a free port of 127.0.0.1
	Authority *Authority // with TLS; nil: plain
	Basic     bool       // asks for User and Password
	Tokens    *Tokens    // asks for a token; nil: does not
	// Network, if it is there, makes the server run in a network namespace of
	// its own, listening on every address of that: it connects the namespace of
	// the process so that Addr can be reached.
	Network func(pid int) error
}

// Server is a running registry.
type Server struct {
	o    Options
	Addr string
	URL  *url.URL
	Log  *swarm.Tail
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts a server and returns when it answers.
func Start(ctx context.Context, o Options) (*Server, error) {
	s := &Server{o: o, Addr: o.Addr, Log: &swarm.Tail{}}
	if s.Addr == "" {
		port, err := swarm.FreePort()
		if err != nil {
			return nil, err
		}
		s.Addr = fmt.Sprintf("127.0.0.1:%d", port)
	}
	s.URL = &url.URL{Scheme: o.Authority.scheme(), Host: s.Addr}
	if err := s.configure(); err != nil {
		return nil, err
	}
	return s, s.Restart(ctx)
}

// Restart starts the server, which must not run, with what it held.
func (s *Server) Restart(ctx context.Context) error {
	s.cmd = exec.Command(s.o.Program, "serve", filepath.Join(s.o.Dir, "config.yml"))
	s.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + s.o.Dir, "OTEL_TRACES_EXPORTER=none"}
	s.cmd.Stdout, s.cmd.Stderr = s.Log, s.Log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.o.Network != nil {
		s.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start the registry: %w", err)
	}
	done := make(chan struct{})
	s.done = done
	go func() {
		_ = s.cmd.Wait() // told by ProcessState
		close(done)
	}()
	if s.o.Network != nil {
		if err := s.o.Network(s.cmd.Process.Pid); err != nil {
			s.Kill()
			return err
		}
	}
	client := &http.Client{Transport: s.o.Authority.Transport()}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL.String()+"/v2/", nil); err != nil {
			return err
		} else if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			return nil
		}
		select {
		case <-tick.C:
		case <-done:
			return fmt.Errorf("the registry ended at once: %s\n%s", s.cmd.ProcessState, s.Log)
		case <-ctx.Done():
			s.Kill()
			return fmt.Errorf("the registry does not answer: %w\n%s", ctx.Err(), s.Log)
		}
	}
}

// Kill ends the server at once and waits for its end.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // fails only when it has ended
	<-s.done
}

func (s *Server) configure() error {
	file := func(name, text string) (string, error) {
		path := filepath.Join(s.o.Dir, name)
		return path, os.WriteFile(path, []byte(text), 0o600)
	}
	listen := s.Addr
	if s.o.Network != nil {
		listen = listen[strings.LastIndex(listen, ":"):]
	}
	var c strings.Builder
	fmt.Fprintf(&c, `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}, maintenance: {uploadpurging: {enabled: false}}}
http:
  addr: %q
  secret: none
  relativeurls: true
`, filepath.Join(s.o.Dir, "content"), listen)
	if a := s.o.Authority; a != nil {
		fmt.Fprintf(&c, "  tls: {certificate: %q, key: %q}\n", a.Cert, a.Key)
	}
	switch {
	case s.o.Basic:
		path, err := file("htpasswd", htpasswd)
		if err != nil {
			return err
		}
		fmt.Fprintf(&c, "auth: {htpasswd: {realm: test, path: %q}}\n", path)
	case s.o.Tokens != nil:
		path, err := file("jwks.json", s.o.Tokens.keys())
		if err != nil {
			return err
		}
		fmt.Fprintf(&c, "auth: {token: {realm: %q, service: %q, issuer: %q, jwks: %q}}\n", s.o.Tokens.URL()+"/token", tokenService, tokenIssuer, path)
	}
	_, err := file("config.yml", c.String())
	return err
}

// Build compiles the registry and the conformance suite of the distribution
// specification, which have a module of their own, into dir: programs
// "registry" and "conformance". The working directory must lie inside the
// module.
func Build(ctx context.Context, dir string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+string(filepath.Separator), "tool")
	cmd.Dir = filepath.Join(strings.TrimSpace(string(root)), "tools", "registry")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the registry: %w\n%s", err, out)
	}
	return nil
}
