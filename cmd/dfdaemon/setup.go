// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dragonfly/internal/settings"
)

// setupOrder is what setup is told.
type setupOrder struct {
	place
	write, undo bool
	out         io.Writer
}

func (p program) setupCommand() *cobra.Command {
	names := make([]string, len(engines))
	for i, e := range engines {
		names[i] = e.name
	}
	var o setupOrder
	var registries []string
	c := defaultConfig()
	cmd := &cobra.Command{
		Use:   "setup " + strings.Join(names, "|"),
		Short: "Lead a container engine of this host to dfdaemon",
		Long: `Show how the files of a container engine have to be for it to ask dfdaemon, with
the registry itself as what comes after it. --write changes them, once dfdaemon
was found healthy: nothing else in them is touched, and the file as it was stays
beside it. --undo puts everything back.`,
		Example: "  dfdaemon setup docker\n  dfdaemon setup containerd --write\n  dfdaemon setup podman --registries docker.io,registry.example:5000 --write",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(names, args[0]) {
				return fmt.Errorf("setup wants the name of an engine: %s", strings.Join(names, ", "))
			}
			return nil
		},
		ValidArgs: names,
	}
	load := p.settingsOf(c, cmd, "port", "hostIp", "certpem", "keypem")
	cmd.Flags().StringSliceVar(&registries, "registries", nil, "registries that are meant, HOST[:PORT] in a comma list; podman and crio: "+strings.Join(usual, ",")+" unless given")
	cmd.Flags().BoolVar(&o.write, "write", false, "change the files")
	cmd.Flags().BoolVar(&o.undo, "undo", false, "put the files back to what they were")
	cmd.Flags().StringVar(&o.root, "root", "", "directory that stands for /")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(); err != nil {
			return err
		}
		for _, r := range registries {
			if u, err := url.Parse("//" + r); err != nil || u.Host != r || u.Hostname() == "" {
				return fmt.Errorf("--registries %q: want hosts, as in docker.io,registry.example:5000", r)
			}
		}
		if o.write && o.undo {
			return errors.New("--write and --undo are opposites: give one of them")
		}
		o.dfdaemon, o.registries, o.out = c.asked(), registries, cmd.OutOrStdout()
		e := engines[slices.IndexFunc(engines, func(e engine) bool { return e.name == args[0] })]
		if o.undo {
			return o.takeBack(e)
		}
		return o.lead(cmd.Context(), e)
	}
	return cmd
}

// settingsOf gives a command some flags of the settings, and --config; what it
// returns reads them, and the file of the dfdaemon that is meant.
func (p program) settingsOf(c *config, cmd *cobra.Command, flags ...string) (load func() error) {
	set := settings.Of(c)
	file := defaultConfigFile
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&file, "config", file, "configuration file of dfdaemon")
	set.AddFlags(cmd.Flags(), flags...)
	return func() error {
		_, err := set.Load(settings.Source{Path: file, MustExist: cmd.Flags().Changed("config"), Prefix: "DFDAEMON_", Lookup: p.lookup})
		if err != nil {
			return config10(err)
		}
		return nil
	}
}

// asked is the URL by which engines on this host ask dfdaemon.
func (c *config) asked() *url.URL {
	u := &url.URL{Scheme: "http", Host: dialable(c.listens()).String()}
	if c.CertPEM != "" {
		u.Scheme = "https"
	}
	return u
}

// lead shows what the files are to be, and makes them so.
func (o setupOrder) lead(ctx context.Context, e engine) error {
	plan, err := e.plan(o.place)
	if err != nil {
		return err
	}
	for _, edit := range plan.edits {
		state := "is to have"
		if !edit.needed() {
			state = "has"
		}
		fmt.Fprintf(o.out, "%s %s:\n\n    %s\n\n", edit.path, state, strings.ReplaceAll(edit.lines, "\n", "\n    "))
	}
	if o.dfdaemon.Scheme == "https" {
		plan.notes = append(plan.notes, "dfdaemon speaks TLS: its certificate must be for "+o.dfdaemon.Hostname()+" and of an authority that this host trusts")
	}
	for _, n := range plan.notes {
		fmt.Fprintln(o.out, "note: "+n)
	}
	switch {
	case plan.done():
		fmt.Fprintln(o.out, "it is so already: "+plan.what)
		return nil
	case !o.write:
		fmt.Fprintln(o.out, "nothing was written: --write does it, and then "+plan.what)
		fmt.Fprintln(o.out, plan.after)
		return nil
	}
	if err := healthy(ctx, o.dfdaemon); err != nil {
		return fmt.Errorf("nothing was written, since dfdaemon is not ready: %w", err)
	}
	for _, edit := range plan.edits {
		if !edit.needed() {
			continue
		}
		if err := edit.apply(); errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w: run it as root", err)
		} else if err != nil {
			return fmt.Errorf("%w; --undo takes back what was written before", err)
		}
		fmt.Fprintln(o.out, "written: "+edit.path)
	}
	fmt.Fprintln(o.out, plan.what)
	fmt.Fprintln(o.out, plan.after)
	return nil
}

// takeBack puts the files of an engine back.
func (o setupOrder) takeBack(e engine) error {
	var errs []error
	some := false
	for _, name := range e.files(o.place) {
		done, err := undo(name)
		errs = append(errs, err)
		if done {
			some = true
			fmt.Fprintln(o.out, "as it was: "+name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !some {
		fmt.Fprintln(o.out, "setup has changed nothing for "+e.name)
		return nil
	}
	fmt.Fprintln(o.out, "let "+e.name+" read its files again, as after --write")
	return nil
}

// askTime bounds a question to a dfdaemon.
const askTime = 10 * time.Second

// ownClient asks the dfdaemon of this host, whatever its certificate says.
func ownClient() *http.Client {
	return &http.Client{Timeout: askTime, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
}

// healthy asks a dfdaemon whether it is.
func healthy(ctx context.Context, dfdaemon *url.URL) error {
	_, err := healthText(ctx, dfdaemon)
	return err
}

// healthText is what a healthy dfdaemon says of itself.
func healthText(ctx context.Context, dfdaemon *url.URL) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, dfdaemon.String()+"/healthy?ask", nil)
	if err != nil {
		return "", err
	}
	resp, err := ownClient().Do(r)
	if err != nil {
		return "", fmt.Errorf("dfdaemon does not answer at %s: start it, or say where it is with --port and --hostIp: %w", dfdaemon, bare(err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, healthMax))
	switch {
	case err != nil:
		return "", fmt.Errorf("dfdaemon at %s: %w", dfdaemon, err)
	case resp.StatusCode == http.StatusServiceUnavailable:
		return "", fmt.Errorf("dfdaemon at %s is not healthy: %s", dfdaemon, strings.TrimSpace(string(text)))
	case resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(text), "OK"):
		return "", fmt.Errorf("what answers at %s is no dfdaemon: say where it is with --port and --hostIp", dfdaemon)
	}
	return string(text), nil
}

// healthMax bounds what a dfdaemon says of itself, in bytes.
const healthMax = 64 << 10

// bare is err without the URL that the HTTP client puts before it.
func bare(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
