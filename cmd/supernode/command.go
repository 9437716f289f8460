// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"dragonfly/internal/logfile"
	"dragonfly/internal/settings"
	"dragonfly/internal/version"
)

// program is what the command line works with.
type program struct {
	// build makes the supernode that the settings describe. What it opens is
	// closed when the last of service.background ends.
	build          func(base, *slog.Logger) (service, error)
	lookup         func(name string) (value string, ok bool) // of the environment
	stdout, stderr io.Writer
}

// execute runs the command line and gives the exit code.
func (p program) execute(ctx context.Context, args []string) int {
	c := defaultConfig()
	set := settings.Of(c)
	args, err := set.JavaArgs("supernode.", args)
	if err == nil {
		root := p.command(c, set)
		root.SetArgs(args)
		root.SetOut(p.stdout)
		root.SetErr(p.stderr)
		err = root.ExecuteContext(ctx)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "supernode: %v\n", err)
		return 1
	}
	return 0
}

// command is the tree of commands; it fills c through set.
func (p program) command(c *config, set *settings.Set) *cobra.Command {
	file, named := p.lookup("SUPERNODE_CONFIG")
	if !named {
		file = defaultConfigFile
	}
	root := &cobra.Command{
		Use:   "supernode",
		Short: "Tracker and seed of a swarm that distributes files and images",
		Long: `supernode tells peers who fetches what from whom, reads every source once, and
serves what it read as any peer does. It needs no database and no file server
beside it.

Every setting stands in the configuration file (see config default), in the
environment as SUPERNODE_ and its key in capitals, or in a flag; flags beat the
environment, which beats the file. Old notes' -Dsupernode.advertiseIp=IP means
--advertise-ip IP.`,
		Example: "  supernode\n  supernode --home-dir /data/supernode --port 8002 --download-port 8001",
		Args:    cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			notices, err := set.Load(settings.Source{
				Path: file, MustExist: named || cmd.Flags().Changed("config"),
				Prefix: "SUPERNODE_", Lookup: p.lookup,
			})
			if err != nil {
				return err
			}
			return p.start(cmd.Context(), c.Base, notices)
		},
	}
	root.Flags().StringVar(&file, "config", file, "configuration file; environment SUPERNODE_CONFIG")
	set.AddFlags(root.Flags())
	root.SetFlagErrorFunc(settings.FlagError)
	settings.Help(root, func() int { return helpColumns })
	root.AddCommand(configCommand(), whyCommand(), versionCommand(), settings.GenDoc())
	return root
}

// helpColumns is how wide help is, whatever shows it.
const helpColumns = 80

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Work with the configuration", Args: cobra.NoArgs}
	c.AddCommand(&cobra.Command{
		Use: "default", Short: "Print the default configuration", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return settings.Of(defaultConfig()).YAML(c.OutOrStdout()) },
	})
	return c
}

func versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Show which build this is", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return version.Get().Write(c.OutOrStdout(), "supernode", asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "write JSON, as GET /version")
	return c
}

// start opens ports and log, builds the supernode and runs it until ctx ends.
func (p program) start(ctx context.Context, b base, notices []string) error {
	control, err := listen(ctx, b.ListenPort, "--port", "stop it or give --port")
	if err != nil {
		return err
	}
	defer control.Close()
	data, err := listen(ctx, b.DownloadPort, "--download-port",
		"a file server is no longer needed beside supernode: stop it or give --download-port")
	if err != nil {
		return err
	}
	defer data.Close()
	file, err := logfile.Open(b.logFile(), logfile.Options{MaxSize: int64(b.LogConfig.MaxSize) << 20, Backups: b.LogConfig.MaxBackups})
	if err != nil {
		return fmt.Errorf("%w; give --home-dir a directory that may be written to", err)
	}
	defer file.Close()
	log := logfile.New(io.MultiWriter(p.stderr, file), b.level(), strconv.Itoa(os.Getpid()))
	for _, n := range notices {
		log.Warn(n)
	}
	if b.CDNPattern == "source" {
		log.Warn("cdnPattern source is taken for local: the supernode keeps what it reads")
	}
	s, err := p.build(b, log)
	if err != nil {
		return err
	}
	return s.run(ctx, control, data)
}
