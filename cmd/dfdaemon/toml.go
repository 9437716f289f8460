// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// table is a parsed TOML text.
type table map[string]any

func parseTOML(text []byte) (table, error) {
	out := table{}
	if err := toml.Unmarshal(text, &out); err != nil {
		if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, _ := bad.Position()
			return nil, fmt.Errorf("line %d: this is no TOML: %w: mend it", line, err)
		}
		return nil, fmt.Errorf("this is no TOML: %w: mend it", err)
	}
	return out, nil
}

// at is the value below keys; nil: there is none.
func (t table) at(keys ...string) any {
	var v any = map[string]any(t)
	for _, key := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// set puts a value below keys, for comparisons.
func (t table) set(value any, keys ...string) {
	m := map[string]any(t)
	for _, key := range keys[:len(keys)-1] {
		below, ok := m[key].(map[string]any)
		if !ok {
			below = map[string]any{}
			m[key] = below
		}
		m = below
	}
	m[keys[len(keys)-1]] = value
}

// header writes keys as the header of a table.
func header(keys ...string) string {
	parts := make([]string, len(keys))
	for i, key := range keys {
		parts[i] = key
		if strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" || key == "" {
			parts[i] = fmt.Sprintf("%q", key)
		}
	}
	return "[" + strings.Join(parts, ".") + "]"
}

var headerLine = regexp.MustCompile(`^\s*\[([^\[\]]+|(?:[^\[\]"']|"[^"]*"|'[^']*')+)\]\s*(?:#.*)?$`)

// withString is text with a string below keys; all else stays as it is, which
// is checked. It gives an error where it cannot do that.
func withString(text []byte, value string, keys ...string) ([]byte, error) {
	want, err := parseTOML(text)
	if err != nil {
		return nil, err
	}
	if want.at(keys...) == value {
		return text, nil
	}
	want.set(value, keys...)
	in, key := keys[:len(keys)-1], keys[len(keys)-1]
	line := fmt.Sprintf("%s = %q\n", key, value)
	old := regexp.MustCompile(`^\s*` + regexp.QuoteMeta(key) + `\s*=`)
	var out strings.Builder
	inside, put := false, false
	for part := range strings.Lines(string(text)) {
		if m := headerLine.FindStringSubmatch(strings.TrimRight(part, "\r\n")); m != nil {
			inside = !put && names(m[1], in)
			if out.WriteString(part); inside {
				if !strings.HasSuffix(part, "\n") {
					out.WriteString("\n")
				}
				out.WriteString(indent(part) + "  " + line)
				put = true
			}
			continue
		}
		if inside && old.MatchString(part) {
			continue // stands below the header now
		}
		out.WriteString(part)
	}
	if !put {
		if s := out.String(); s != "" && !strings.HasSuffix(s, "\n") {
			out.WriteString("\n")
		}
		if out.Len() > 0 {
			out.WriteString("\n")
		}
		out.WriteString(header(in...) + "\n  " + line)
	}
	got, err := parseTOML([]byte(out.String()))
	if err != nil || !reflect.DeepEqual(got, want) {
		return nil, fmt.Errorf("this is written in a way that is not understood: set %s below %s by hand, to %q", key, header(in...), value)
	}
	return []byte(out.String()), nil
}

// names says that the text between brackets is keys.
func names(text string, keys []string) bool {
	t, err := parseTOML([]byte("[" + text + "]\n"))
	if err != nil {
		return false
	}
	var v any = map[string]any(t)
	for _, key := range keys {
		m, ok := v.(map[string]any)
		if !ok || len(m) != 1 {
			return false
		}
		v = m[key]
	}
	m, ok := v.(map[string]any)
	return ok && len(m) == 0
}

func indent(line string) string { return line[:len(line)-len(strings.TrimLeft(line, " \t"))] }
