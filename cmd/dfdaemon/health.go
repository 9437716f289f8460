// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"dragonfly"
	"dragonfly/internal/version"
	"dragonfly/source"
)

const (
	// testAgain and testEvery are how long after a self-test that failed, and
	// after one that passed, the next one begins.
	testAgain, testEvery = time.Second, 30 * time.Second
	// askAgain is how old an outcome of asking others may be that is shown.
	askAgain = time.Minute
	// askSoon is how old it may be for those who ask for a new one with ?ask.
	askSoon = 5 * time.Second
	// testTime bounds each step.
	testTime = 5 * time.Second
)

// health tests this process. It is healthy when its own parts work: a registry
// or a supernode that is down is shown, and does not take dfdaemon out of
// service, for what it holds and the other way remain.
type health struct {
	own   []check // in order
	other []check // asked at the first test, and again when somebody looks

	mu      sync.Mutex // guards below
	failed  error      // of the first of own that failed; nil: healthy
	said    []string   // a line for each of other
	asked   time.Time
	wake    chan struct{} // asks the others again
	passing chan struct{} // closed when the first test has passed
	once    sync.Once

	asking sync.Mutex // held while somebody waits for a new outcome
}

// check is one step of a self-test.
type check struct {
	name string
	run  func(context.Context) error
}

func newHealth(own, other []check) *health {
	return &health{own: own, other: other, failed: errors.New("the self-test has not ended yet"), wake: make(chan struct{}, 1), passing: make(chan struct{})}
}

// run tests until ctx ends.
func (h *health) run(ctx context.Context) {
	for first := true; ; first = false {
		err := test(ctx, h.own)
		h.mu.Lock()
		h.failed = err
		h.mu.Unlock()
		pause := testEvery
		if err != nil {
			pause = testAgain
		} else {
			h.once.Do(func() { close(h.passing) })
		}
		if first {
			h.ask(ctx)
		}
		next := time.NewTimer(pause)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				next.Stop()
				return
			case <-h.wake:
				h.ask(ctx)
			case <-next.C:
				waiting = false
			}
		}
	}
}

func test(ctx context.Context, checks []check) error {
	for _, c := range checks {
		if err := c.within(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (c check) within(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	return c.run(ctx)
}

// ask looks how the others are, all at once.
func (h *health) ask(ctx context.Context) {
	said := make([]string, len(h.other))
	var all sync.WaitGroup
	for i, c := range h.other {
		all.Go(func() {
			said[i] = c.name + ": answers"
			if err := c.within(ctx); err != nil {
				said[i] = c.name + ": " + err.Error()
			}
		})
	}
	all.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said, h.asked = said, time.Now()
}

func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, ok := r.URL.Query()["ask"]; ok {
		h.asking.Lock() // one after the other: the next finds it new
		h.mu.Lock()
		asked := h.asked
		h.mu.Unlock()
		if time.Since(asked) > askSoon {
			h.ask(context.WithoutCancel(r.Context())) // it is for others too
		}
		h.asking.Unlock()
	}
	h.mu.Lock()
	failed, said, asked := h.failed, h.said, h.asked
	h.mu.Unlock()
	if !asked.IsZero() && time.Since(asked) > askAgain {
		select {
		case h.wake <- struct{}{}:
		default: // somebody did
		}
	}
	status, text := http.StatusOK, "OK\n"
	if failed != nil {
		status, text = http.StatusServiceUnavailable, failed.Error()+"\n"
	}
	for _, line := range said {
		text += line + "\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client went away
}

// answersItself asks the listener for a page of this process.
func answersItself(listens netip.AddrPort, secure bool) check {
	at := dialable(listens)
	scheme := "http"
	if secure {
		scheme = "https"
	}
	return check{"the port " + at.String(), func(ctx context.Context) error {
		// Whoever answers there has the certificate of this process, if any.
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+at.String()+"/debug/version", nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %d", resp.StatusCode)
		}
		return nil
	}}
}

// dialable is a listener's address as a client on this host asks it.
func dialable(a netip.AddrPort) netip.AddrPort {
	switch addr := a.Addr(); {
	case addr == netip.IPv4Unspecified():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	case addr == netip.IPv6Unspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	}
	return a
}

// holdsData makes and removes a file in the directory for contents.
func holdsData(dir string) check {
	return check{"the directory for contents", func(context.Context) error {
		file, err := os.CreateTemp(dir, ".test-*")
		if err != nil {
			return err
		}
		_, err = file.WriteString("test")
		return errors.Join(err, file.Close(), os.Remove(file.Name()))
	}}
}

// registryAnswers asks the registry as the mirror reaches it; a refusal is an
// answer.
func registryAnswers(u *url.URL, mirror http.Handler) check {
	return check{"registry " + source.Redact(u.String()), func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/v2/", nil)
		if err != nil {
			return err
		}
		r.Host, r.RemoteAddr = "127.0.0.1", "127.0.0.1:0" // as an engine on this host
		r.Header.Set("User-Agent", "dfdaemon/"+version.Get().Version)
		var w caught
		mirror.ServeHTTP(&w, r)
		switch {
		case ctx.Err() != nil:
			return errors.New("does not answer in time")
		case w.status < http.StatusInternalServerError:
			return nil
		case w.Header().Get(viaHeader) == "direct" && w.status >= http.StatusBadGateway && len(w.body) > 0:
			return errors.New(problem(w.body)) // of the mirror itself
		}
		return fmt.Errorf("answers %d", w.status)
	}}
}

// caught is a short answer of a handler of this process.
type caught struct {
	header http.Header
	status int
	body   []byte
}

func (c *caught) Header() http.Header {
	if c.header == nil {
		c.header = http.Header{}
	}
	return c.header
}

func (c *caught) WriteHeader(status int) {
	if c.status == 0 && status >= http.StatusOK {
		c.status = status
	}
}

func (c *caught) Write(b []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	c.body = append(c.body, b[:min(len(b), healthMax-len(c.body))]...)
	return len(b), nil
}

// nodeAnswers asks a supernode whether it is there.
func nodeAnswers(m dragonfly.Member, through http.RoundTripper) check {
	return check{"supernode " + m.Addr, func(ctx context.Context) error {
		return answers(ctx, through, "http://"+m.Addr+"/_ping", func(status int) bool { return status == http.StatusOK })
	}}
}

// answers asks once, and says in few words what is wrong with the answer.
func answers(ctx context.Context, through http.RoundTripper, at string, good func(status int) bool) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return errors.New("its address cannot be asked")
	}
	r.Header.Set("User-Agent", "dfdaemon/"+version.Get().Version)
	resp, err := through.RoundTrip(r)
	if err != nil {
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() || errors.Is(err, context.DeadlineExceeded) {
			return errors.New("does not answer in time")
		}
		return fmt.Errorf("does not answer: %w", err)
	}
	defer resp.Body.Close()
	if !good(resp.StatusCode) {
		return fmt.Errorf("answers %d", resp.StatusCode)
	}
	return nil
}

// listens is the address that the settings name.
func (c *config) listens() netip.AddrPort {
	addr, err := netip.ParseAddr(strings.TrimSpace(cmp.Or(c.HostIP, "127.0.0.1")))
	if err != nil {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // Validate refuses it
	}
	return netip.AddrPortFrom(addr, uint16(c.Port))
}
