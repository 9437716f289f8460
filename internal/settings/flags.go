// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// AddFlags makes the flags of the settings, or those of the names in only. What
// they are given is kept until Load.
func (s *Set) AddFlags(to *pflag.FlagSet, only ...string) {
	for _, f := range s.fields {
		name := f.tag.Get("flag")
		if name == "" || len(only) > 0 && !slices.Contains(only, name) {
			continue
		}
		usage := f.tag.Get("usage")
		if why := f.tag.Get("unused"); why != "" {
			usage = strings.TrimSpace(usage + " (no effect any more: " + why + ")")
		}
		flag := to.VarPF(&flagValue{f}, name, f.tag.Get("short"), usage)
		if f.value.Kind() == reflect.Bool {
			flag.NoOptDefVal = "true"
		}
		if f.group != "" {
			flag.Annotations = map[string][]string{groupKey: {f.group}}
		}
	}
}

// flagValue keeps what a flag is given. A list takes every use of its flag,
// anything else the last.
type flagValue struct{ *field }

func (v *flagValue) Set(text string) error {
	items := v.split(text)
	if err := setAll(reflect.New(v.value.Type()).Elem(), items); err != nil {
		return err
	}
	v.isGiven = true
	v.given = append(v.given, items...)
	return nil
}

func (v *flagValue) String() string {
	if v.field == nil { // asked by pflag for the zero value
		return ""
	}
	if v.isGiven {
		return strings.Join(v.given, ",")
	}
	return text(v.value)
}

func (v *flagValue) Type() string {
	if t, ok := v.value.Addr().Interface().(interface{ Type() string }); ok {
		return t.Type()
	}
	switch {
	case v.value.Type() == reflect.TypeFor[time.Duration]():
		return "duration"
	case v.value.Kind() == reflect.Slice && v.tag.Get("split") == "no":
		return "text"
	case v.value.Kind() == reflect.Slice:
		return "list"
	case isText(v.value.Type()):
		return strings.ToLower(v.value.Type().Name())
	}
	return v.value.Kind().String()
}

// JavaArgs rewrites arguments of the Java form -D<prefix>KEY=VALUE, which users'
// notes still show, into flags: with the prefix "supernode." the argument
// -Dsupernode.advertiseIp=IP becomes --advertise-ip=IP. Others stay as they
// are, also a -D of another meaning.
func (s *Set) JavaArgs(prefix string, args []string) ([]string, error) {
	out := make([]string, 0, len(args))
	for i, arg := range args {
		if arg == "--" {
			return append(out, args[i:]...), nil
		}
		assignment, ok := strings.CutPrefix(arg, "-D"+prefix)
		if !ok {
			out = append(out, arg)
			continue
		}
		key, value, ok := strings.Cut(assignment, "=")
		if !ok {
			return nil, fmt.Errorf("-D%s%s: want -D%s%s=VALUE", prefix, key, prefix, key)
		}
		var known []string
		flag := ""
		for _, f := range s.fields {
			if len(f.path) == 0 || f.tag.Get("flag") == "" {
				continue
			}
			last := f.path[len(f.path)-1]
			known = append(known, last)
			if strings.EqualFold(last, key) {
				flag = f.tag.Get("flag")
			}
		}
		if flag == "" {
			return nil, fmt.Errorf("-D%s%s is not a setting%s", prefix, key, didYouMean(nearest(key, known)))
		}
		out = append(out, "--"+flag+"="+value)
	}
	return out, nil
}

// FlagError tells the nearest right flag of a misspelled one; give it to
// cobra's SetFlagErrorFunc.
func FlagError(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	}
	if unknown.GetSpecifiedShortnames() != "" {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	name := "--" + unknown.GetSpecifiedName()
	if hint := didYouMean(nearest(name, names)); hint != "" {
		return fmt.Errorf("unknown flag %s%s", name, hint)
	}
	return fmt.Errorf("unknown flag %s; see %s --help", name, cmd.CommandPath())
}
