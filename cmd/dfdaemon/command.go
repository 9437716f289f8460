// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dragonfly/internal/settings"
	"dragonfly/internal/version"
)

// program is what the command line works with.
type program struct {
	lookup         func(name string) (value string, ok bool) // of the environment
	stdout, stderr io.Writer
}

// execute runs the command line and gives the exit code.
func (p program) execute(ctx context.Context, args []string) int {
	root := p.command(args)
	root.SetArgs(args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(p.stderr, "dfdaemon: "+strings.ReplaceAll(err.Error(), "\n", "\ndfdaemon: "))
	if c, ok := errors.AsType[coded](err); ok {
		return c.code
	}
	return exitOther
}

func (p program) command(args []string) *cobra.Command {
	c := defaultConfig()
	set := settings.Of(c)
	file := defaultConfigFile
	root := &cobra.Command{
		Use:   "dfdaemon",
		Short: "Registry mirror and HTTP proxy that fetches through the swarm",
		Long: `dfdaemon answers the container engines of its host in place of registries: blobs
come through the swarm, everything else straight. On the same port it is an HTTP
proxy. dfdaemon setup leads an engine here, dfdaemon doctor looks whether pulls
come through.

Every setting stands in the configuration file (see config default), in the
environment as DFDAEMON_ and its key in capitals, or in a flag; flags beat the
environment, which beats the file.`,
		Example: "  dfdaemon --node supernode01\n  dfdaemon --registry registry.example:5000 --node supernode01",
		Args:    cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			notices, err := set.Load(settings.Source{Path: file, MustExist: cmd.Flags().Changed("config"), Prefix: "DFDAEMON_", Lookup: p.lookup})
			if err != nil {
				return config10(err)
			}
			return p.start(cmd.Context(), c, args, notices)
		},
	}
	root.Flags().SortFlags = false // they have groups
	root.Flags().StringVar(&file, "config", file, "configuration file")
	set.AddFlags(root.Flags())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok && bad.GetFlag().Name == "ratelimit" {
			return coded{exitRate, err}
		}
		return settings.FlagError(cmd, err)
	})
	settings.Help(root, func() int { return helpColumns })
	root.AddCommand(p.setupCommand(), p.doctorCommand(), configCommand(), versionCommand(), genCA(), settings.GenDoc())
	return root
}

// helpColumns is how wide help is, whatever shows it.
const helpColumns = 80

// config10 gives a mistake in the settings v1's code, unless it has one.
func config10(err error) error {
	if _, ok := errors.AsType[coded](err); ok {
		return err
	}
	return coded{exitConfig, err}
}

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Work with the configuration", Args: cobra.NoArgs}
	c.AddCommand(&cobra.Command{
		Use: "default", Short: "Print the default configuration", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return settings.Of(defaultConfig()).YAML(c.OutOrStdout()) },
	})
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show which build this is", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return version.Get().Write(c.OutOrStdout(), "dfdaemon", false)
		},
	}
}
