// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// GenDoc is v1's command gen-doc for the tree of commands that it is added to:
// it writes a page per command.
func GenDoc() *cobra.Command {
	var dir, format string
	c := &cobra.Command{
		Use:   "gen-doc",
		Short: "Write the documentation of the commands",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			write := map[string]func(*cobra.Command) string{"markdown": Markdown, "man": Manual}[format]
			if write == nil {
				return fmt.Errorf("--format %q: want markdown or man", format)
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			return eachCommand(c.Root(), func(c *cobra.Command) error {
				name := pageName(c) + map[string]string{"markdown": ".md", "man": ".1"}[format]
				return os.WriteFile(filepath.Join(dir, name), []byte(write(c)), 0o644)
			})
		},
	}
	c.Flags().StringVarP(&dir, "path", "p", "/tmp/", "directory to write to")
	c.Flags().StringVar(&format, "format", "markdown", "markdown or man")
	return c
}

func eachCommand(c *cobra.Command, f func(*cobra.Command) error) error {
	if err := f(c); err != nil {
		return err
	}
	for _, sub := range visible(c) {
		if err := eachCommand(sub, f); err != nil {
			return err
		}
	}
	return nil
}

func visible(c *cobra.Command) (subs []*cobra.Command) {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			subs = append(subs, sub)
		}
	}
	return subs
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func describe(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short
}

// eachFlag visits flags.
func eachFlag(flags *pflag.FlagSet, f func(names, value, usage string)) {
	flags.VisitAll(func(flag *pflag.Flag) {
		names := "--" + flag.Name
		if flag.Shorthand != "" {
			names = "-" + flag.Shorthand + ", " + names
		}
		value, usage := pflag.UnquoteUsage(flag)
		if flag.DefValue != "" && flag.DefValue != "false" && flag.DefValue != "0" {
			usage += " (default " + flag.DefValue + ")"
		}
		f(names, value, usage)
	})
}

// Manual is the page of one command for man(1), in roff.
func Manual(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %q 1\n", strings.ToUpper(pageName(c)))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(pageName(c)), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(describe(c)))
	b.WriteString(".SH OPTIONS\n")
	all := groups(c)
	for _, g := range all {
		if len(all) > 1 {
			fmt.Fprintf(&b, ".SS %s\n", roff(g.title))
		}
		eachFlag(g.flags, func(names, value, usage string) {
			b.WriteString(".TP\n\\fB" + roff(names) + "\\fR")
			if value != "" {
				b.WriteString(" \\fI" + roff(value) + "\\fR")
			}
			b.WriteString("\n" + roff(usage) + "\n")
		})
	}
	for _, s := range appendix(c) {
		fmt.Fprintf(&b, ".SH %s\n.nf\n", strings.ToUpper(roff(s.title)))
		for _, line := range s.lines {
			b.WriteString(roff(line) + "\n")
		}
		b.WriteString(".fi\n")
	}
	if c.Example != "" {
		b.WriteString(".SH EXAMPLES\n.nf\n")
		for line := range strings.SplitSeq(c.Example, "\n") {
			b.WriteString(roff(line) + "\n") // without the indentation that help wants
		}
		b.WriteString(".fi\n")
	}
	var also []string
	if c.HasParent() {
		also = append(also, pageName(c.Parent()))
	}
	for _, sub := range visible(c) {
		also = append(also, pageName(sub))
	}
	if len(also) > 0 {
		b.WriteString(".SH SEE ALSO\n")
		for i, name := range also {
			also[i] = "\\fB" + roff(name) + "\\fR(1)"
		}
		b.WriteString(strings.Join(also, ",\n") + "\n")
	}
	return b.String()
}

// roff makes text safe: backslashes, dashes, and lines that begin as requests
// do. Empty lines become paragraphs.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(strings.TrimSpace(text))
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		switch {
		case line == "":
			lines[i] = ".PP"
		case strings.HasPrefix(line, "."), strings.HasPrefix(line, "'"):
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

// Markdown is the page of one command, as v1's gen-doc wrote it.
func Markdown(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n### Synopsis\n\n%s\n\n```\n%s\n```\n\n### Options\n", c.CommandPath(), c.Short, describe(c), c.UseLine())
	all := groups(c)
	for _, g := range all {
		if len(all) > 1 {
			fmt.Fprintf(&b, "\n%s:\n", g.title)
		}
		b.WriteString("\n```\n")
		eachFlag(g.flags, func(names, value, usage string) {
			if !strings.HasPrefix(names, "-") || strings.HasPrefix(names, "--") {
				names = "    " + names // beside those with a letter
			}
			fmt.Fprintf(&b, "%s\n        %s\n", strings.TrimRight("  "+names+" "+value, " "), usage)
		})
		b.WriteString("```\n")
	}
	for _, s := range appendix(c) {
		fmt.Fprintf(&b, "\n### %s\n\n```\n%s\n```\n", s.title, strings.Join(s.lines, "\n"))
	}
	if c.Example != "" {
		fmt.Fprintf(&b, "\n### Examples\n\n```\n%s\n```\n", c.Example)
	}
	var also []*cobra.Command
	if c.HasParent() {
		also = append(also, c.Parent())
	}
	if also = append(also, visible(c)...); len(also) > 0 {
		b.WriteString("\n### See also\n\n")
		for _, other := range also {
			fmt.Fprintf(&b, "* [%s](%s.md): %s\n", other.CommandPath(), pageName(other), other.Short)
		}
	}
	return b.String()
}
