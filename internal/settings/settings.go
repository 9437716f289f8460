// SPDX-License-Identifier: Apache-2.0

// Package settings reads one struct of settings from a YAML file, the
// environment and the command line, writes it as YAML, and describes commands
// in manual pages. The struct holds the defaults; tags on its fields say where
// each one is read:
//
//	key:"listenPort"   its key in the file; a struct with a key is a section
//	flag:"port"        its flag; short:"p" is the flag's one letter
//	env:"NAME"         one more environment variable; on a section "-" leaves
//	                   its key out of the names of those below it
//	group:"…"          title under which help shows its flag
//	usage:"…"          what it is, for help, manual and the printed file
//	unused:"why"       it is accepted and does nothing
//	split:"no"         a list whose items are not split at commas
//
// Fields are strings, booleans, numbers, time.Durations, whatever has
// UnmarshalText (dragonfly.Rate, netip.Prefix, …), lists of these or of
// structs, and Ignored.
//
// Invariants: flags beat the environment, which beats the file, which beats
// the default. Nothing is accepted that is not understood: an unknown key is an
// error that names it, its line, and the nearest right one. Keys are known in
// any case, as they were in v1. The package reads no environment itself, its
// user hands it in; no value of a setting that came from there is repeated in
// an error.
package settings

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ignored stands for a part of the file that is accepted and does nothing.
type Ignored struct{}

// Set is the settings of one struct.
type Set struct {
	root   reflect.Value
	fields []*field // those that are no sections, in order
}

// field is one setting.
type field struct {
	path    []string // its keys, sections first; none: it is not in the file
	envPath []string // the same for names of environment variables
	tag     reflect.StructTag
	group   string        // title in help
	value   reflect.Value // where it is kept
	given   []string      // by flags
	isGiven bool
}

// Of looks at config, a pointer to a struct. It panics when a field has a type
// that it cannot read.
func Of(config any) *Set {
	s := &Set{root: reflect.ValueOf(config).Elem()}
	s.walk(s.root, nil, nil, true, "")
	return s
}

// walk collects the fields of v, which has the keys path; what lies in a
// section without a key is not in the file. A section's group is that of its
// fields.
func (s *Set) walk(v reflect.Value, path, envPath []string, inFile bool, group string) {
	for i := range v.NumField() {
		t := v.Type().Field(i)
		f := &field{tag: t.Tag, value: v.Field(i), group: cmp.Or(t.Tag.Get("group"), group)}
		key := t.Tag.Get("key")
		inFile := inFile && key != ""
		if inFile {
			f.path = append(slices.Clone(path), key)
			f.envPath = slices.Clone(envPath)
			if t.Tag.Get("env") != "-" {
				f.envPath = append(f.envPath, key)
			}
		}
		switch {
		case isSection(t.Type):
			s.walk(v.Field(i), f.path, f.envPath, inFile, f.group)
		case readable(t.Type):
			s.fields = append(s.fields, f)
		default:
			panic(fmt.Sprintf("settings: field %s of type %s", t.Name, t.Type))
		}
	}
}

// Source is where Load reads.
type Source struct {
	Path      string // of the file; none: no file is read
	MustExist bool   // the user named the file
	Prefix    string // of the environment's names, with its underscore
	Lookup    func(name string) (value string, ok bool)
}

// Load fills the struct from the file, the environment and the flags that were
// parsed before, in this order, and then asks its Validate() error, if it has
// one. notices are lines for the user about what was accepted and does
// nothing. All errors are found at once and joined.
func (s *Set) Load(from Source) (notices []string, err error) {
	var unused []string
	var problems []error
	if from.Path != "" {
		ignored, err := s.readFile(from.Path, from.MustExist)
		unused = append(unused, ignored...)
		problems = append(problems, err)
	}
	if from.Lookup != nil {
		more, err := s.readEnvironment(from)
		notices = append(notices, more...)
		problems = append(problems, err)
	}
	for _, f := range s.fields {
		if !f.isGiven {
			continue
		}
		if err := setAll(f.value, f.given); err != nil { // tried when the flag was parsed
			problems = append(problems, fmt.Errorf("--%s: %w", f.tag.Get("flag"), err))
		}
		if f.tag.Get("unused") != "" {
			unused = append(unused, "--"+f.tag.Get("flag"))
		}
	}
	if len(unused) > 0 {
		notices = append(notices, "no effect any more, and ignored: "+strings.Join(unused, ", "))
	}
	if err := errors.Join(problems...); err != nil {
		return notices, err
	}
	if v, ok := s.root.Addr().Interface().(interface{ Validate() error }); ok {
		return notices, v.Validate()
	}
	return notices, nil
}

// fileMax bounds a settings file in bytes.
const fileMax = 1 << 20

func (s *Set) readFile(path string, mustExist bool) (unused []string, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !mustExist {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, fileMax+1))
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	if len(text) > fileMax {
		return nil, fmt.Errorf("%s: more than %d bytes are no settings", path, fileMax)
	}
	d := decoder{path: path, set: s}
	d.document(text)
	return d.unused, errors.Join(d.problems...)
}

func (s *Set) readEnvironment(from Source) (notices []string, err error) {
	var problems []error
	for _, f := range s.fields {
		for _, name := range f.variables(from.Prefix) {
			text, ok := from.Lookup(name)
			if !ok || text == "" {
				continue
			}
			// Kubernetes sets NAME_PORT=tcp://… for each service; a service
			// that is called as we are is none of our settings.
			if strings.HasPrefix(text, "tcp://") && f.value.Kind() != reflect.String {
				notices = append(notices, name+" is an address that Kubernetes sets for a service; ignored")
				continue
			}
			if f.tag.Get("unused") != "" {
				notices = append(notices, name+" has no effect any more; ignored")
			}
			if setAll(f.value, f.split(text)) != nil {
				problems = append(problems, fmt.Errorf("environment variable %s: want %s", name, want(f.value.Type())))
			}
			break
		}
	}
	return notices, errors.Join(problems...)
}

// variables are the names of a field in the environment, best first.
func (f *field) variables(prefix string) (names []string) {
	if env := f.tag.Get("env"); env != "" && env != "-" {
		names = append(names, env)
	}
	if len(f.path) > 0 && f.value.Type() != reflect.TypeFor[Ignored]() {
		names = append(names,
			prefix+strings.ToUpper(strings.Join(f.envPath, "_")),
			prefix+strings.ToUpper(strings.Join(f.path, "."))) // v1's
	}
	return names
}

// split takes a list's text apart; anything else is one item.
func (f *field) split(text string) []string {
	if f.value.Kind() != reflect.Slice || f.tag.Get("split") == "no" || isText(f.value.Type()) {
		return []string{text}
	}
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !isText(t) && t != reflect.TypeFor[Ignored]()
}

func readable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
		return true
	case reflect.Slice:
		return isText(t) || readable(t.Elem()) || isSection(t.Elem())
	}
	return isText(t) || t == reflect.TypeFor[Ignored]()
}

// set reads one item.
func set(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	var err error
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		var d time.Duration
		if d, err = time.ParseDuration(text); err == nil && d >= 0 {
			v.SetInt(int64(d))
			return nil
		}
	case v.Kind() == reflect.String:
		v.SetString(text)
		return nil
	case v.Kind() == reflect.Bool:
		var b bool
		if b, err = strconv.ParseBool(text); err == nil {
			v.SetBool(b)
			return nil
		}
	case v.CanInt():
		var n int64
		if n, err = strconv.ParseInt(text, 10, 64); err == nil {
			v.SetInt(n)
			return nil
		}
	case v.CanFloat():
		var x float64
		if x, err = strconv.ParseFloat(text, 64); err == nil {
			v.SetFloat(x)
			return nil
		}
	}
	return fmt.Errorf("%q: want %s", text, want(v.Type()))
}

// want says what a value of a type looks like.
func want(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration, as in 3m0s"
	case t.Kind() == reflect.Slice && !isText(t):
		return "a list, each item " + want(t.Elem())
	case t == reflect.TypeFor[Compress]():
		return "auto or off"
	case isText(t):
		return "a " + strings.ToLower(t.Name())
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "a number"
	case t.Kind() == reflect.String:
		return "a text"
	}
	return "a whole number"
}

// setAll replaces a value by items; only a list can take other than one.
func setAll(v reflect.Value, items []string) error {
	if v.Kind() != reflect.Slice || isText(v.Type()) {
		if len(items) == 0 {
			return nil
		}
		return set(v, items[len(items)-1])
	}
	list := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		if err := set(list.Index(i), item); err != nil {
			return err
		}
	}
	v.Set(list)
	return nil
}

// text is a value as set reads it; a list's items stand between commas.
func text(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		b, err := m.MarshalText()
		if err != nil {
			return ""
		}
		return string(b)
	}
	if v.Kind() == reflect.Slice {
		items := make([]string, v.Len())
		for i := range items {
			items[i] = text(v.Index(i))
		}
		return strings.Join(items, ",")
	}
	return fmt.Sprint(v.Interface())
}

// nearest is the name out of names that resembles s, without regard to case;
// "" when none does.
func nearest(s string, names []string) string {
	best, distance := "", max(2, len(s)/3)+1
	for _, name := range names {
		if d := editDistance(strings.ToLower(s), strings.ToLower(name)); d < distance {
			best, distance = name, d
		}
	}
	return best
}

// editDistance is how many letters must be put in, taken out, replaced or
// swapped with their neighbour to make b of a.
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			replaced := last[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(replaced, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// didYouMean is the end of an error about an unknown name.
func didYouMean(name string) string {
	if name == "" {
		return ""
	}
	return "; did you mean " + name + "?"
}

// Location is where a process runs, for those commands that have one.
type Location struct {
	Zone string `key:"zone" flag:"zone" env:"DRAGONFLY_ZONE" usage:"data centre or availability zone of this host; peers of one zone fetch from one another first"`
	Rack string `key:"rack" flag:"rack" env:"DRAGONFLY_RACK" usage:"rack of this host within its zone"`
}

// LogConfig is v1's section on log files.
type LogConfig struct {
	MaxSize    int    `key:"maxSize" usage:"megabytes at which the log file is put aside"`
	MaxBackups int    `key:"maxBackups" usage:"log files that were put aside and are kept"`
	Path       string `key:"path" usage:"log file; empty: below the home directory"`
}

// Validate says what is wrong with the numbers.
func (l LogConfig) Validate() error {
	if l.MaxSize < 0 || l.MaxBackups < 0 {
		return errors.New("logConfig: maxSize and maxBackups must not be negative")
	}
	return nil
}
