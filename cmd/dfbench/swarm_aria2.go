// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"dragonfly/internal/swarm"
)

// aria2 starts a tracker and a seed on the origin's host. Each peer goes on
// seeding when it has the file, as long as the run lasts.
func aria2(ctx context.Context, w *world) (func(context.Context, int, string) error, error) {
	l, err := w.listen(originHost, 0)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: &torrentTracker{}}
	go func() { _ = srv.Serve(l) }()
	w.later(func() { srv.Close() })
	file, err := os.Open(filepath.Join(w.dir, "file"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := metainfo("http://"+l.Addr().String()+"/announce", "file", file)
	if err != nil {
		return nil, err
	}
	torrent := w.path("file.torrent")
	if err := os.WriteFile(torrent, info, 0o644); err != nil {
		return nil, err
	}
	seed, err := w.seeding(originHost, w.dir, torrent, "--bt-seed-unverified=true")
	if err != nil {
		return nil, err
	}
	soon, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := seed.WaitFor(soon, seeds, 1); err != nil {
		return nil, fmt.Errorf("the seed: %w", err)
	}
	return func(ctx context.Context, i int, out string) error {
		home := w.path("a" + strconv.Itoa(i))
		log, err := w.seeding(i, home, torrent)
		if err != nil {
			return err
		}
		// What /bin/echo is told then: number, files, path.
		if err := log.WaitFor(ctx, " 1 "+filepath.Join(home, "file")+"\n", 1); err != nil {
			return err
		}
		return os.Link(filepath.Join(home, "file"), out)
	}, nil
}

// seeds is what aria2c prints when it can serve.
const seeds = "IPv4 BitTorrent: listening"

// seeding starts an aria2c that runs to the end of the world.
func (w *world) seeding(i int, home, torrent string, more ...string) (*swarm.Tail, error) {
	args := append([]string{"--no-conf", "--dir=" + home, "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
		"--disable-ipv6=true", "--seed-ratio=0.0", "--file-allocation=none", "--summary-interval=0", "--console-log-level=notice", "--on-bt-download-complete=/bin/echo",
		"--show-console-readout=false", "--enable-color=false", "--listen-port=16881"}, more...)
	if w.net == nil {
		limit := strconv.FormatInt(int64(w.o.rate), 10)
		args = append(args, "--interface="+w.ip(i), "--max-overall-download-limit="+limit, "--max-overall-upload-limit="+limit,
			"--listen-port="+strconv.Itoa(16881+i))
	}
	cmd := exec.Command("aria2c", append(args, torrent)...)
	log := &swarm.Tail{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(swarm.Environment(w.home), "LC_ALL=C")
	if err := w.do(i, cmd.Start); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		close(ended)
		_, _ = fmt.Fprintln(log, "aria2c ended: "+strings.TrimSpace(cmd.ProcessState.String()))
	}()
	w.later(func() {
		_ = cmd.Process.Kill() // fails when it has ended
		<-ended
	})
	return log, nil
}
