// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"dragonfly/agent"
)

// docker has one list of mirrors, for Docker Hub, and goes on to the Hub by
// itself when none of them answers.
var docker = engine{
	name:     "docker",
	programs: []string{"dockerd"},
	files:    func(p place) []string { return []string{p.path(daemonJSON)} },
	plan: func(p place) (plan, error) {
		path := p.path(daemonJSON)
		before, err := current(path)
		if err != nil {
			return plan{}, err
		}
		text, err := withMirror(before, p.dfdaemon.String())
		if err != nil {
			return plan{}, fmt.Errorf("%s: %w", path, err)
		}
		out := plan{
			what:  "docker asks " + p.dfdaemon.String() + " for images of Docker Hub, and the Hub itself when that does not answer",
			edits: []edit{{path, shownMirrors(text), before, text}},
			notes: []string{"docker has mirrors for Docker Hub only: images of other registries come through dfdaemon when it is docker's HTTP proxy",
				"if dockerd is started with --registry-mirror, take that out: it does not start with both"},
			after: "docker sees it after a reload: systemctl reload docker (or kill -HUP of dockerd); no restart is needed",
		}
		return out, nil
	},
}

const (
	daemonJSON = "/etc/docker/daemon.json"
	mirrorsKey = "registry-mirrors"
)

// withMirror is a daemon.json whose first mirror is one. Everything else stays
// to the byte.
func withMirror(text []byte, mirror string) ([]byte, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		text = []byte("{}\n")
	}
	object, err := jsonObject(text)
	if err != nil {
		return nil, err
	}
	item, err := json.Marshal(mirror)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(object, func(m member) bool { return m.key == mirrorsKey })
	if at < 0 {
		open := bytes.IndexByte(text, '{') + 1
		line := "\n" + indentation(text) + fmt.Sprintf("%q: [%s]", mirrorsKey, item)
		switch rest := text[open:]; {
		case len(object) > 0:
			line += ","
			if rest[0] != '\n' && rest[0] != '\r' {
				line += "\n" + indentation(text)
			}
		case bytes.IndexByte(rest[:bytes.IndexByte(rest, '}')], '\n') < 0:
			line += "\n"
		}
		return slices.Concat(text[:open], []byte(line), text[open:]), nil
	}
	m := object[at]
	var mirrors []string
	if err := json.Unmarshal(text[m.from:m.to], &mirrors); err != nil {
		return nil, fmt.Errorf("%s is no list of texts: mend it", mirrorsKey)
	}
	if slices.ContainsFunc(mirrors, func(s string) bool { return strings.TrimSuffix(s, "/") == mirror }) {
		return text, nil
	}
	if len(mirrors) == 0 {
		return slices.Concat(text[:m.from], []byte("["), item, []byte("]"), text[m.to:]), nil
	}
	open := m.from + bytes.IndexByte(text[m.from:], '[') + 1
	return slices.Concat(text[:open], item, []byte(", "), text[open:]), nil
}

// shownMirrors is the list of mirrors in a daemon.json as the user is shown it.
func shownMirrors(text []byte) string {
	var c struct {
		Mirrors []string `json:"registry-mirrors"`
	}
	_ = json.Unmarshal(text, &c) // withMirror has read it
	for i, m := range c.Mirrors {
		c.Mirrors[i] = fmt.Sprintf("%q", agent.RedactURL(m))
	}
	return fmt.Sprintf("%q: [%s]", mirrorsKey, strings.Join(c.Mirrors, ", "))
}

// member is one of an object's, with where its value stands.
type member struct {
	key      string
	from, to int
}

// jsonObject are the members of the object that text is.
func jsonObject(text []byte) (members []member, err error) {
	in := json.NewDecoder(bytes.NewReader(text))
	wrong := func(err error) error {
		line := 1 + bytes.Count(text[:min(int(in.InputOffset()), len(text))], []byte("\n"))
		return fmt.Errorf("line %d: this is no JSON object: %w: mend it", line, err)
	}
	if t, err := in.Token(); err != nil || t != json.Delim('{') {
		return nil, wrong(errors.Join(err, errNoObject))
	}
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return nil, wrong(err)
		}
		var raw json.RawMessage
		if err := in.Decode(&raw); err != nil {
			return nil, wrong(err)
		}
		name := key.(string) // the decoder gives no other keys
		if slices.ContainsFunc(members, func(m member) bool { return m.key == name }) {
			return nil, wrong(fmt.Errorf("%q stands there twice", name))
		}
		end := int(in.InputOffset())
		members = append(members, member{name, end - len(raw), end})
	}
	if _, err := in.Token(); err != nil {
		return nil, wrong(err)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, wrong(errors.New("more after its end"))
	}
	return members, nil
}

var errNoObject = errors.New("it does not begin with {")

// indentation is that of a text's first line that has one.
func indentation(text []byte) string {
	for line := range strings.Lines(string(text)) {
		if bare := strings.TrimLeft(line, " \t"); len(bare) < len(line) && strings.TrimSpace(bare) != "" {
			return line[:len(line)-len(bare)]
		}
	}
	return "  "
}
