// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"dragonfly/mirror/login"
)

// doctor looks from top to bottom at what a pull through dfdaemon needs.
type doctor struct {
	place
	socket string // of docker
	// installed says whether a program is on this host.
	installed func(program string) bool
	out       io.Writer
	failed    int
	unnamed   bool // docker asks here for the Hub's images, and does not name the Hub
}

// errSick is the outcome of a doctor who has said all.
var errSick = errors.New("not all is well: see the lines that begin with FAIL")

func (p program) doctorCommand() *cobra.Command {
	d := doctor{socket: "/var/run/docker.sock", installed: func(program string) bool { _, err := exec.LookPath(program); return err == nil }}
	c := defaultConfig()
	cmd := &cobra.Command{
		Use:   "doctor [IMAGE]",
		Short: "Look whether pulls come through dfdaemon, and if not why",
		Long: `Look whether dfdaemon, supernodes and registry answer and whether the container
engines of this host come through here. With an image: from where its layers
came when they were pulled through this dfdaemon. Exit code 1 if something is
wrong.`,
		Example: "  dfdaemon doctor\n  dfdaemon doctor ghcr.io/owner/name:tag",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("doctor looks at one image at a time")
			}
			return nil
		},
	}
	load := p.settingsOf(c, cmd, "port", "hostIp", "certpem", "keypem")
	cmd.Flags().StringVar(&d.root, "root", "", "directory that stands for /")
	cmd.Flags().StringVar(&d.socket, "docker-socket", d.socket, "docker's socket")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(); err != nil {
			return err
		}
		d.dfdaemon, d.out = c.asked(), cmd.OutOrStdout()
		var i *image
		if len(args) > 0 {
			parsed, err := parseImage(args[0])
			if err != nil {
				return fmt.Errorf("%q: %w", args[0], err)
			}
			i = &parsed
		}
		return d.examine(cmd.Context(), i)
	}
	return cmd
}

func (d *doctor) well(format string, args ...any) { fmt.Fprintf(d.out, "ok    "+format+"\n", args...) }
func (d *doctor) note(format string, args ...any) { fmt.Fprintf(d.out, "-     "+format+"\n", args...) }
func (d *doctor) fail(format string, args ...any) {
	d.failed++
	fmt.Fprintf(d.out, "FAIL  "+format+"\n", args...)
}

// examine says a line for each thing that it looks at.
func (d *doctor) examine(ctx context.Context, i *image) error {
	said, err := healthText(ctx, d.dfdaemon)
	if err != nil {
		d.fail("%v", err)
	} else {
		d.well("dfdaemon answers at %s and is healthy", d.dfdaemon)
		d.others(said)
	}
	d.engines(ctx)
	switch {
	case i == nil:
	case err != nil:
		d.note("%s/%s is not looked at without dfdaemon", i.registry, i.repository)
	default:
		if err := d.image(ctx, *i); err != nil {
			d.fail("%s/%s: %v", i.registry, i.repository, err)
		}
	}
	if d.failed > 0 {
		return errSick
	}
	return nil
}

// others are the supernodes and the registry, as dfdaemon sees them.
func (d *doctor) others(said string) {
	nodes, answering := 0, 0
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		name, outcome, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		kind, _, _ := strings.Cut(name, " ")
		good := outcome == "answers"
		if kind == "supernode" {
			if nodes++; good {
				answering++
			}
		}
		switch {
		case good:
			d.well("%s answers", name)
		case kind == "supernode":
			d.note("%s %s", name, outcome)
		default:
			d.fail("%s: %s; look at --registry and at HTTPS_PROXY of dfdaemon", name, outcome)
		}
	}
	if nodes > 0 && answering == 0 {
		d.fail("no supernode answers, so each host reads the registry by itself: start one, and name it with --node")
	}
}

// engines looks at those that are on this host. One of them must come through
// here.
func (d *doctor) engines(ctx context.Context) {
	here, through := 0, 0
	for _, e := range engines {
		if !d.has(e) {
			d.note("%s is not on this host", e.name)
			continue
		}
		here++
		yes, err := e.leads(d.place)
		switch {
		case err != nil:
			d.note("%s: its files are not understood: %v", e.name, err)
		case yes:
			if e.name == docker.name {
				if why := d.loaded(ctx); why != "" {
					d.fail("%s", why)
					through++ // once it has read its files
					continue
				}
			}
			through++
			d.unnamed = d.unnamed || e.name == docker.name
			d.well("%s comes through here", e.name)
		case e.name == docker.name && d.behind(ctx):
			through++
			d.well("docker comes through here, as its HTTP proxy")
		default:
			d.note("%s does not come through here: dfdaemon setup %s", e.name, e.name)
		}
	}
	switch {
	case here == 0:
		d.note("no container engine is on this host")
	case through == 0:
		d.fail("no container engine of this host comes through here: dfdaemon setup %s", d.first())
	}
}

func (d *doctor) has(e engine) bool {
	return slices.ContainsFunc(e.programs, d.installed)
}

// first is the first engine of this host.
func (d *doctor) first() string { return engines[slices.IndexFunc(engines, d.has)].name }

// dockerInfo is as much of docker's info as doctor looks at.
type dockerInfo struct {
	HTTPProxy      string `json:"HttpProxy"`
	HTTPSProxy     string `json:"HttpsProxy"`
	RegistryConfig struct{ Mirrors []string }
}

// info asks docker itself; not ok: it cannot be asked.
func (d *doctor) info(ctx context.Context) (i dockerInfo, ok bool) {
	client := &http.Client{Timeout: askTime, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.socket)
		}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/info", nil)
	if err != nil {
		return i, false
	}
	resp, err := client.Do(r)
	if err != nil {
		return i, false
	}
	defer resp.Body.Close()
	err = json.NewDecoder(io.LimitReader(resp.Body, configMax)).Decode(&i)
	return i, err == nil && resp.StatusCode == http.StatusOK
}

// loaded says what keeps docker from what stands in its file; "": nothing, or
// docker cannot be asked.
func (d *doctor) loaded(ctx context.Context) string {
	i, ok := d.info(ctx)
	if ok && !slices.ContainsFunc(i.RegistryConfig.Mirrors, func(m string) bool { return strings.TrimSuffix(m, "/") == d.dfdaemon.String() }) {
		return "docker has not read " + daemonJSON + " since it names dfdaemon: systemctl reload docker (or kill -HUP of dockerd)"
	}
	return ""
}

// behind says that docker has dfdaemon for its proxy.
func (d *doctor) behind(ctx context.Context) bool {
	i, _ := d.info(ctx)
	for _, proxy := range []string{i.HTTPSProxy, i.HTTPProxy} {
		if u, err := url.Parse(proxy); err == nil && u.Host != "" && u.Port() == d.dfdaemon.Port() && login.Local(u.Hostname()) {
			return true
		}
	}
	return false
}

// image says for each blob of an image from where it came.
func (d *doctor) image(ctx context.Context, i image) error {
	var env struct {
		Mirror struct {
			Remote string `json:"remote"`
		} `json:"registry_mirror"`
	}
	if err := d.page(ctx, "/env", &env); err != nil {
		return err
	}
	own := ""
	if u, err := url.Parse(env.Mirror.Remote); err == nil {
		own = u.Host
	}
	if own == "" {
		own = env.Mirror.Remote // written without a scheme
	}
	blobs, from, err := d.blobs(ctx, i, own)
	if err != nil {
		return err
	}
	var recent []passage
	if err := d.page(ctx, "/debug/blobs", &recent); err != nil {
		return err
	}
	d.well("%s/%s has %d blobs, manifest read through dfdaemon%s", i.registry, i.repository, len(blobs), from)
	last := ""
	for _, b := range blobs {
		at := slices.IndexFunc(recent, func(p passage) bool { return p.Digest == b.Digest })
		how := "not pulled through here since dfdaemon started"
		if at >= 0 {
			p := recent[at]
			if p.Why != "" && p.Why == last {
				p.Why = "as above"
			} else {
				last = p.Why
			}
			how = p.String()
		}
		d.note("%.19s %9s  %s", b.Digest, amount(b.Size), how)
	}
	return nil
}

// blobs are those of an image; from says at which registry if that is not the
// one that its name tells. own is the registry of dfdaemon's mirror.
func (d *doctor) blobs(ctx context.Context, i image, own string) (all []layer, from string, err error) {
	p := newPulling(d.dfdaemon, i, own)
	if d.unnamed && login.IsHub(i.registry) && !login.IsHub(own) {
		if all, err := p.unnamed(i).blobs(ctx, i.reference); err == nil {
			return all, " from " + own + ", which docker asks for it", nil
		}
	}
	all, err = p.blobs(ctx, i.reference)
	return all, "", err
}

// String says in a line how a blob came through.
func (p passage) String() string {
	text := p.Via
	switch {
	case p.Via == "" && p.Why == "":
		return "on its way"
	case p.Via == "":
		text = "not given"
	case p.Via == "swarm" && p.Why == "" && p.FromSource+p.FromSeed+p.FromPeers == 0:
		text += ": this host held it"
	case p.Via == "swarm" || p.Via == "source":
		text += fmt.Sprintf(": source %s, seed %s, peers %s", amount(p.FromSource), amount(p.FromSeed), amount(p.FromPeers))
	}
	if p.Status >= http.StatusBadRequest {
		text += fmt.Sprintf(" (status %d)", p.Status)
	}
	switch {
	case p.Why == "":
	case p.Via == "swarm":
		text += "; the rest from the registry: " + p.Why
	default:
		text += ", since: " + p.Why
	}
	return text
}

// amount is a number of bytes as people read it.
func amount(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	x, unit := float64(n)/1000, 0
	for x >= 999.95 && unit < 4 {
		x, unit = x/1000, unit+1
	}
	return fmt.Sprintf("%.1f %cB", x, "kMGTP"[unit])
}

// page reads one of dfdaemon's pages.
func (d *doctor) page(ctx context.Context, path string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.dfdaemon.String()+path, nil)
	if err != nil {
		return err
	}
	resp, err := ownClient().Do(r)
	if err != nil {
		return fmt.Errorf("dfdaemon does not answer: %w", bare(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("dfdaemon answers %d to %s: is it as new as this program?", resp.StatusCode, path)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, pageMax)).Decode(into); err != nil {
		return fmt.Errorf("dfdaemon's %s is not understood: %w", path, err)
	}
	return nil
}

// pageMax bounds a page of dfdaemon's in bytes.
const pageMax = 8 << 20
