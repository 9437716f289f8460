// SPDX-License-Identifier: Apache-2.0

// Command dfget downloads a file through the swarm, as wget does from its
// source. It is a thin client of the account's agent, which it starts in the
// background when there is none: "dfget server".
//
// Invariants: the output appears at its path whole and verified, or not at
// all; nothing else is left behind beside it. What is printed on a stdout that
// is no terminal are v1's lines and nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // a container may have nothing but TZ

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dragonfly/agent"
	"dragonfly/internal/settings"
)

func main() {
	ctx, stop := signals()
	code := run(ctx, os.Args, surroundings{os.Stdin, os.Stdout, os.Stderr, os.LookupEnv, settingsPath, iniPath, "/tmp"})
	stop()
	os.Exit(code)
}

// surroundings are what a process finds when it starts.
type surroundings struct {
	in, out, err *os.File
	lookup       func(name string) (value string, ok bool) // of the environment
	// settings and ini are the files that are read when the user names none.
	settings, ini string
	// temp is where the processes of all accounts look for sockets and locks,
	// whatever their TMPDIR.
	temp string
}

// place is where the agent of a home is found.
func (s surroundings) place(home string) (agent.Place, error) {
	runtimeDir, _ := s.lookup("XDG_RUNTIME_DIR")
	return agent.PlaceOf(home, runtimeDir, s.temp)
}

// interrupted is the signal that ended a context.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return "interrupted (" + unix.SignalName(i.signal) + ")" }

// signals is a context that ends with an interrupted when the user or the
// system says so.
func signals() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	came := make(chan os.Signal, 1)
	listen := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		listen = append(listen, syscall.SIGHUP)
	}
	signal.Notify(came, listen...)
	go func() {
		if s, ok := (<-came).(syscall.Signal); ok {
			cancel(interrupted{s})
			signal.Stop(came) // a second one ends the process at once
		}
	}()
	return ctx, func() { cancel(nil) }
}

// complaint begins each line about what the user or the system did wrong.
const complaint = "dfget: "

// run carries out a command line and returns the exit status.
func run(ctx context.Context, args []string, std surroundings) int {
	root := newRoot(args, std)
	root.SetArgs(args[1:])
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	err := root.ExecuteContext(ctx)
	if status, ok := errors.AsType[exitStatus](err); ok {
		return int(status)
	}
	if err != nil {
		fmt.Fprintln(std.err, complaint+strings.ReplaceAll(err.Error(), "\n", "\n"+complaint))
		return exitUsage
	}
	return exitOK
}

func newRoot(args []string, std surroundings) *cobra.Command {
	root := newGet(args, std)
	root.AddCommand(newServer(std), newVersion(std.out), settings.GenDoc())
	root.SilenceErrors = true // run prints them
	root.SilenceUsage = true
	root.SetFlagErrorFunc(settings.FlagError)
	settings.Help(root, func() int {
		if !isTerminal(std.out) {
			return defaultWide
		}
		return min(columns(std.out), widestHelp)
	})
	root.Version = build().Version
	root.SetVersionTemplate(versionText())
	return root
}

// exitStatus ends the process with a status after everything was said.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Exit statuses. Those of v1's internal codes are the code modulo 256
// (v1-protocol 9).
const (
	exitOK       = 0
	exitUsage    = 1
	codeLaunch   = 1100 // 76
	codePrepare  = 1101 // 77
	codeUser     = 1102 // 78
	codeRefused  = 1103 // 79
	codeDownload = 1104 // 80
	signalsFrom  = 128  // and the number of the signal: 130 for Ctrl-C
)

// widestHelp is how wide text is still pleasant to read, in columns.
const widestHelp = 110

// filesDoc and exitStatusDoc end the help.
const (
	filesDoc = `Files:
  /etc/dragonfly/dfget.yml                 settings; environment and flags win
  /etc/dragonfly.conf                      instead: [node] address=IP,IP
  $HOME/.small-dragonfly/logs/dfclient.log what happened to each download
  $HOME/.small-dragonfly/logs/dfserver.log what happened to the dfget server

Environment:
  DRAGONFLY_ZONE, DRAGONFLY_RACK           as --zone and --rack, for Kubernetes
  DFGET_ and a key of the settings file    as in DFGET_NODES=supernode01,supernode02
  HTTP_PROXY, HTTPS_PROXY, NO_PROXY        proxies on the way to the source`
	exitStatusDoc = `Exit status:
  0    the output is complete (from the swarm or from the source)
  1    a flag, the configuration or the output is wrong
  2    a fault of dfget
  76   the dfget server cannot be started
  77   the home directory cannot be prepared
  78   the user's home is not known
  79   the supernode refuses the task
  80   the download failed
  130  interrupted (Ctrl-C); 143 terminated`
)

func newVersion(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(out, versionText())
			return err
		},
	}
}
