// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"dragonfly/e2e/registry"
)

// shaped compares pulls over a link that is slow.
func (b *bench) shaped(ctx context.Context) (string, error) {
	through, straight, used, err := b.alternate(ctx, b.mbits)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%.3f (%.1f s ÷ %.1f s, with %.1f s of CPU)", float64(through)/float64(straight), through.Seconds(), straight.Seconds(), used.Seconds()), nil
}

// cpu takes our share of pulls without a limit.
func (b *bench) cpu(ctx context.Context) (string, error) {
	through, straight, used, err := b.alternate(ctx, 0)
	if err != nil {
		return "", err
	}
	gib := float64(b.image.Platforms[0].Bytes) / (1 << 30)
	return fmt.Sprintf("%.2f (the pull took %.1f s, straight %.1f s)", used.Seconds()/gib, through.Seconds(), straight.Seconds()), nil
}

// alternate pulls straight and through a swarm that is new, several times,
// and gives the medians of time and of the CPU time of our processes.
func (b *bench) alternate(ctx context.Context, mbits int) (through, straight, used time.Duration, err error) {
	var all struct{ through, straight, used []time.Duration }
	for range b.runs {
		s, err := b.registry(ctx, mbits, b.image)
		if err != nil {
			return 0, 0, 0, err
		}
		took, err := b.pull(ctx, s.URL.String())
		if err != nil {
			return 0, 0, 0, err
		}
		all.straight = append(all.straight, took)

		tracker, daemons, err := b.hosts(ctx, 1, s.URL.String())
		if err != nil {
			return 0, 0, 0, err
		}
		pids := []int{tracker.Cmd.Process.Pid, daemons[0].Cmd.Process.Pid}
		before, err := processTime(pids...)
		if err != nil {
			return 0, 0, 0, err
		}
		if took, err = b.pull(ctx, daemons[0].Addr); err != nil {
			return 0, 0, 0, err
		}
		after, err := processTime(pids...)
		if err != nil {
			return 0, 0, 0, err
		}
		all.through, all.used = append(all.through, took), append(all.used, after-before)
		b.say("straight %.2f s, through %.2f s with %.2f s of CPU", all.straight[len(all.straight)-1].Seconds(), took.Seconds(), (after - before).Seconds())
		if err := b.cleanUp(); err != nil {
			return 0, 0, 0, err
		}
	}
	return median(all.through), median(all.straight), median(all.used), nil
}

// once counts what the registry sends when many hosts want all of an image.
func (b *bench) once(ctx context.Context) (string, error) {
	s, err := b.registry(ctx, 0, b.image)
	if err != nil {
		return "", err
	}
	front, err := s.Front()
	if err != nil {
		return "", err
	}
	b.later(front.Close)
	_, daemons, err := b.hosts(ctx, b.nodes, front.URL)
	if err != nil {
		return "", err
	}
	began := time.Now()
	all, ctx := errgroup.WithContext(ctx)
	for _, d := range daemons {
		all.Go(func() error { return b.fetch(ctx, d.Addr, b.image) })
	}
	if err := all.Wait(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%.3f (%d hosts in %.1f s)", float64(front.BlobBytes())/float64(b.image.Platforms[0].Bytes), b.nodes, time.Since(began).Seconds()), nil
}

// starts is how many blobs are looked at for the time until their first byte.
const starts = 20

// start compares the time to the first byte of blobs that nobody has yet.
func (b *bench) start(ctx context.Context) (string, error) {
	image, err := registry.NewImage(registry.ImageOptions{Seed: uint64(time.Now().UnixNano()), Layers: starts + 1, LayerLen: 8 << 20})
	if err != nil {
		return "", err
	}
	s, err := b.registry(ctx, 0, image)
	if err != nil {
		return "", err
	}
	_, daemons, err := b.hosts(ctx, 1, s.URL.String())
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	first := func(addr, digest string) (time.Duration, error) {
		began := time.Now()
		resp, err := get(ctx, client, addr+"/v2/"+repository+"/blobs/"+digest)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
			return 0, err
		}
		took := time.Since(began)
		_, err = io.Copy(io.Discard, resp.Body)
		return took, err
	}
	var more []time.Duration
	var most time.Duration
	for i, digest := range image.Platforms[0].Layers {
		straight, err := first(s.URL.String(), digest)
		if err != nil {
			return "", err
		}
		through, err := first(daemons[0].Addr, digest)
		if err != nil {
			return "", err
		}
		if i == 0 {
			continue // connections and the session at the supernode are made
		}
		more, most = append(more, through-straight), max(most, through-straight)
	}
	return fmt.Sprintf("%.1f ms, at most %.1f ms of %d", median(more).Seconds()*1000, most.Seconds()*1000, starts), nil
}

// memory takes the peak of a dfdaemon that serves many clients.
func (b *bench) memory(ctx context.Context) (string, error) {
	s, err := b.registry(ctx, 0, b.image)
	if err != nil {
		return "", err
	}
	_, daemons, err := b.hosts(ctx, 1, s.URL.String())
	if err != nil {
		return "", err
	}
	all, ctx := errgroup.WithContext(ctx)
	for range b.clients {
		all.Go(func() error { return b.fetch(ctx, daemons[0].Addr, b.image) })
	}
	if err := all.Wait(); err != nil {
		return "", err
	}
	peak, err := peakMemory(daemons[0].Cmd.Process.Pid)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%.0f MiB (%d clients)", float64(peak)/(1<<20), b.clients), nil
}
