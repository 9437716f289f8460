// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"dragonfly/internal/swarm"
)

func small(ctx context.Context, b *bench) error {
	sn, err := b.supernode(ctx, "supernode")
	if err != nil {
		return err
	}
	defer sn.Stop()
	h := b.host(1, sn.Addr)
	if _, _, err := b.dfget(ctx, h); err != nil {
		return err
	}
	var more, walls, plain []time.Duration
	for range 10 * b.runs {
		c, err := b.curl(ctx, b.origin)
		if err != nil {
			return err
		}
		d, _, err := b.dfget(ctx, h)
		if err != nil {
			return err
		}
		more, walls, plain = append(more, d.wall-c.wall), append(walls, d.wall), append(plain, c.wall)
	}
	us := 100 * time.Microsecond
	b.say("dfget %v, curl %v, dfget − curl %v (medians of %d)", median(walls).Round(us), median(plain).Round(us), median(more).Round(us), len(more))
	return nil
}

func memory(ctx context.Context, b *bench) error {
	sn, err := b.supernode(ctx, "supernode")
	if err != nil {
		return err
	}
	defer sn.Stop()
	h := b.host(1, sn.Addr)
	began := time.Now()
	if _, _, err := b.dfget(ctx, h); err != nil {
		return err
	}
	took := time.Since(began)
	seed, err := peakMemory(sn.Cmd.Process.Pid)
	if err != nil {
		return err
	}
	for _, pid := range b.agents(h) {
		agent, err := peakMemory(pid)
		if err != nil {
			return err
		}
		b.say("agent %d MiB, supernode %d MiB, in %v", agent>>20, seed>>20, took.Round(time.Second))
	}
	return nil
}

func crowd(ctx context.Context, b *bench) error {
	sn, err := b.supernode(ctx, "supernode")
	if err != nil {
		return err
	}
	defer sn.Stop()
	return b.together(ctx, sn.Addr)
}

func restart(ctx context.Context, b *bench) error {
	control, err := swarm.FreePort()
	if err != nil {
		return err
	}
	data, err := swarm.FreePort()
	if err != nil {
		return err
	}
	o := swarm.SupernodeOptions{Home: b.path("supernode"), Control: control, Data: data}
	sn, err := b.programs.StartSupernode(ctx, o)
	if err != nil {
		return err
	}
	half := make(chan struct{})
	var once sync.Once
	b.onSent = func(total int64) {
		if total >= b.size/2 {
			once.Do(func() { close(half) })
		}
	}
	restarted := make(chan error, 1)
	go func() {
		<-half
		sn.Kill()
		var err error
		sn, err = b.programs.StartSupernode(ctx, o)
		restarted <- err
	}()
	if err := b.together(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(control))); err != nil {
		return err
	}
	if err := <-restarted; err != nil {
		return err
	}
	sn.Stop()
	return nil
}

// together downloads with all peers at once and prints what the source sent
// and what each peer fetched, as shares of the file.
func (b *bench) together(ctx context.Context, node string) error {
	b.sent.Store(0)
	var all sync.WaitGroup
	results := make([]swarm.Result, b.peers)
	errs := make([]error, b.peers)
	began := time.Now()
	for i := range b.peers {
		h := b.host(i+1, node)
		all.Go(func() {
			results[i], errs[i] = h.Download(ctx, b.origin, b.path("out"+strconv.Itoa(i)))
		})
	}
	all.Wait()
	failed := 0
	var most int64
	for i, r := range results {
		if errs[i] != nil {
			failed++
			b.say("peer %d: %v", i+1, errs[i])
		}
		most = max(most, r.Fetched())
	}
	b.say("%d peers in %v: %d failed; source ÷ size %.3f; most fetched by one peer ÷ size %.3f",
		b.peers, time.Since(began).Round(time.Millisecond), failed, float64(b.sent.Load())/float64(b.size), float64(most)/float64(b.size))
	if failed > 0 {
		return fmt.Errorf("%d of %d downloads failed", failed, b.peers)
	}
	return nil
}

func resume(ctx context.Context, b *bench) error {
	sn, err := b.supernode(ctx, "supernode")
	if err != nil {
		return err
	}
	defer sn.Stop()
	h := b.host(1, sn.Addr)
	// Slow enough to be killed in the middle.
	cmd := h.Dfget(ctx, b.origin, b.path("dfget.out"), "--locallimit", strconv.FormatInt(max(b.size/4, 1), 10))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = progress(out, b.size/2)
	_ = cmd.Process.Kill()
	for _, pid := range b.agents(h) {
		if p, perr := os.FindProcess(pid); perr == nil {
			_ = p.Kill()
		}
		if gerr := swarm.Gone(ctx, pid); gerr != nil {
			return gerr
		}
	}
	_ = cmd.Wait() // it was killed
	if err != nil {
		return err
	}
	_, result, err := b.dfget(ctx, h)
	if err != nil {
		return err
	}
	b.say("fetched the second time ÷ size: %.3f", float64(result.Fetched())/float64(b.size))
	return nil
}
