// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder reads one file; it goes on after a problem to find them all.
type decoder struct {
	path     string
	set      *Set
	problems []error
	unused   []string
}

func (d *decoder) complain(n *yaml.Node, format string, args ...any) {
	d.problems = append(d.problems, fmt.Errorf("%s:%d: %w", d.path, n.Line, fmt.Errorf(format, args...)))
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (d *decoder) document(text []byte) {
	var n, more yaml.Node
	in := yaml.NewDecoder(bytes.NewReader(text))
	err := in.Decode(&n)
	if errors.Is(err, io.EOF) {
		return // nothing in it
	}
	if err == nil {
		if err = in.Decode(&more); err == nil {
			d.complain(&more, "a second document: settings are one")
			return
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		where := d.path
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
			where += ":" + m[1]
		}
		d.problems = append(d.problems, fmt.Errorf("%s: this is no YAML: %s", where, yamlLine.ReplaceAllString(err.Error(), "")))
		return
	}
	d.value(n.Content[0], d.set.root, nil)
}

// value reads n into v, which has the keys path.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path []string) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	name := strings.Join(path, ".")
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return // as if it were not there
	case v.Type() == reflect.TypeFor[Ignored]():
	case isSection(v.Type()):
		if n.Kind != yaml.MappingNode {
			d.complain(n, "%swant a section with keys", prefix(name))
			return
		}
		d.section(n, v, path)
	case v.Kind() == reflect.Slice && !isText(v.Type()) && n.Kind == yaml.SequenceNode:
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			d.value(item, list.Index(i), path)
		}
		v.Set(list)
	case n.Kind != yaml.ScalarNode:
		d.complain(n, "%swant %s", prefix(name), want(v.Type()))
	default:
		f := field{value: v}
		if err := setAll(v, f.split(n.Value)); err != nil {
			d.complain(n, "%s%w", prefix(name), err)
		}
	}
}

func prefix(name string) string {
	if name == "" {
		return ""
	}
	return name + ": "
}

func (d *decoder) section(n *yaml.Node, v reflect.Value, path []string) {
	known := map[string]int{} // lower-case key → index of the field
	var keys []string
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("key"); key != "" {
			known[strings.ToLower(key)] = i
			keys = append(keys, key)
		}
	}
	seen := map[int]int{} // index of the field → line
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		below := append(slices.Clone(path), key.Value)
		at, ok := known[strings.ToLower(key.Value)]
		if !ok {
			d.unknown(key, below, keys)
			continue
		}
		if line, twice := seen[at]; twice {
			d.complain(key, "%s stands in line %d already", strings.Join(below, "."), line)
			continue
		}
		seen[at] = key.Line
		if v.Type().Field(at).Tag.Get("unused") != "" {
			d.unused = append(d.unused, fmt.Sprintf("%s (%s:%d)", strings.Join(below, "."), d.path, key.Line))
		}
		d.value(n.Content[i+1], v.Field(at), below)
	}
}

// unknown complains about a key that is not one of keys.
func (d *decoder) unknown(key *yaml.Node, path, keys []string) {
	name := strings.Join(path, ".")
	for _, f := range d.set.fields {
		if last := len(f.path) - 1; last >= 0 && strings.EqualFold(f.path[last], key.Value) {
			if last == 0 {
				d.complain(key, "%s is not a setting here; %s stands at the top", name, f.path[0])
			} else {
				d.complain(key, "%s is not a setting here; %s stands below %s:", name, f.path[last], strings.Join(f.path[:last], "."))
			}
			return
		}
	}
	d.complain(key, "%s is not a setting%s", name, didYouMean(nearest(key.Value, keys)))
}

// YAML writes the struct as a file that Load reads, with each setting's usage
// above it. What does nothing is left out.
func (s *Set) YAML(w io.Writer) error {
	n, err := encode(s.root)
	if err != nil {
		return err
	}
	out := yaml.NewEncoder(w)
	out.SetIndent(2)
	if err := out.Encode(n); err != nil {
		return err
	}
	return out.Close()
}

func encode(v reflect.Value) (*yaml.Node, error) {
	switch {
	case isSection(v.Type()):
		n := &yaml.Node{Kind: yaml.MappingNode}
		for i := range v.NumField() {
			t := v.Type().Field(i)
			if t.Tag.Get("key") == "" || t.Tag.Get("unused") != "" {
				continue
			}
			item, err := encode(v.Field(i))
			if err != nil {
				return nil, err
			}
			key := &yaml.Node{Kind: yaml.ScalarNode, Value: t.Tag.Get("key"), HeadComment: t.Tag.Get("usage")}
			n.Content = append(n.Content, key, item)
		}
		return n, nil
	case v.Kind() == reflect.Slice && !isText(v.Type()):
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			item, err := encode(v.Index(i))
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		return n, nil
	}
	n := &yaml.Node{}
	switch v.Kind() {
	case reflect.Bool, reflect.Float64:
		return n, n.Encode(v.Interface())
	case reflect.Int, reflect.Int64:
		if _, isNumber := v.Interface().(int); isNumber {
			return n, n.Encode(v.Interface())
		}
	}
	return n, n.Encode(text(v)) // quoted where it must be
}
