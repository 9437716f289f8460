// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Appendix is the annotation of a command with text for the end of its help
// and its pages: sections, each a title with a colon in a line of its own and
// indented lines below it, with an empty line between two.
const Appendix = "appendix"

// groupKey is the annotation of a flag with the group that it is shown in.
const groupKey = "group"

// group are flags that are shown together.
type group struct {
	title string
	flags *pflag.FlagSet
}

// groups are the flags of a command that are to be seen, by their tag group:"…"
// and in the order of the struct; those without one come last.
func groups(c *cobra.Command) []group {
	c.InitDefaultHelpFlag()
	c.InitDefaultVersionFlag()
	all := c.NonInheritedFlags()
	all.SortFlags = c.Flags().SortFlags
	all.AddFlagSet(c.InheritedFlags())
	var out []group
	rest := group{flags: &pflag.FlagSet{SortFlags: all.SortFlags}}
	all.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		title := f.Annotations[groupKey]
		if len(title) == 0 {
			rest.flags.AddFlag(f)
			return
		}
		i := slices.IndexFunc(out, func(g group) bool { return g.title == title[0] })
		if i < 0 {
			i = len(out)
			out = append(out, group{title[0], &pflag.FlagSet{}})
		}
		out[i].flags.AddFlag(f)
	})
	if len(out) > 0 {
		rest.title = "Other flags"
	} else {
		rest.title = "Flags"
	}
	if rest.flags.HasFlags() {
		out = append(out, rest)
	}
	return out
}

// Help makes the help of a command and of those below it show flags in their
// groups and the Appendix at its end, wrapped to the columns that wide says.
func Help(c *cobra.Command, wide func() int) {
	c.SetUsageFunc(func(c *cobra.Command) error {
		_, err := io.WriteString(c.OutOrStderr(), usage(c, wide()))
		return err
	})
}

func usage(c *cobra.Command, wide int) string {
	var b strings.Builder
	b.WriteString("Usage:\n")
	if c.Runnable() {
		fmt.Fprintf(&b, "  %s\n", c.UseLine())
	}
	subs := visible(c)
	if len(subs) > 0 {
		fmt.Fprintf(&b, "  %s COMMAND\n", c.CommandPath())
	}
	if c.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
	}
	for _, g := range groups(c) {
		// pflag shows the values that a flag of its own may have.
		text := strings.ReplaceAll(g.flags.FlagUsagesWrapped(wide), "[=true|false]", strings.Repeat(" ", len("[=true|false]")))
		fmt.Fprintf(&b, "\n%s:\n%s", g.title, text)
	}
	if len(subs) > 0 {
		b.WriteString("\nCommands:\n")
		for _, sub := range subs {
			fmt.Fprintf(&b, "  %-*s  %s\n", sub.NamePadding(), sub.Name(), sub.Short)
		}
	}
	if more := c.Annotations[Appendix]; more != "" {
		fmt.Fprintf(&b, "\n%s\n", more)
	}
	return b.String()
}

// section is a part of an Appendix.
type section struct {
	title string
	lines []string
}

func appendix(c *cobra.Command) (out []section) {
	for part := range strings.SplitSeq(strings.TrimSpace(c.Annotations[Appendix]), "\n\n") {
		title, rest, ok := strings.Cut(part, ":\n")
		if ok {
			out = append(out, section{title, strings.Split(rest, "\n")})
		}
	}
	return out
}
