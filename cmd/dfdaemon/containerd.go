// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// containerd reads a directory of hosts: _default leads every registry that has
// none of its own to dfdaemon, with the registry itself as what comes last. Its
// part for Kubernetes does so only when config_path names the directory.
var containerd = engine{
	name:     "containerd",
	programs: []string{"containerd"},
	files: func(p place) []string {
		dir, err := hostsDir(p)
		if err != nil {
			dir = certsDir
		}
		found, _ := filepath.Glob(filepath.Join(p.path(dir), "*", hostsTOML+markSuffix)) // the pattern is good
		for i, name := range found {
			found[i] = strings.TrimSuffix(name, markSuffix)
		}
		return append(found, p.path(containerdTOML))
	},
	plan: planContainerd,
}

const (
	containerdTOML = "/etc/containerd/config.toml"
	certsDir       = "/etc/containerd/certs.d"
	hostsTOML      = "hosts.toml"
)

// registryKeys are where the versions of config.toml have what is about
// registries.
var registryKeys = map[int64][]string{
	1: {"plugins", "cri", "registry"},
	2: {"plugins", "io.containerd.grpc.v1.cri", "registry"},
	3: {"plugins", "io.containerd.cri.v1.images", "registry"},
}

// registrySection reads config.toml, and gives the keys of its part about
// registries.
func registrySection(p place) (text []byte, config table, keys []string, err error) {
	path := p.path(containerdTOML)
	if text, err = current(path); err != nil {
		return nil, nil, nil, err
	}
	if config, err = parseTOML(text); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	version, ok := config["version"].(int64)
	switch {
	case text == nil:
		version = 2 // which all containerds in use read
	case !ok:
		version = 1
	}
	keys = registryKeys[version]
	if keys == nil {
		return nil, nil, nil, fmt.Errorf("%s: version %d is not known here: set config_path = %q by hand", path, version, certsDir)
	}
	return text, config, keys, nil
}

// hostsDir is the directory of hosts that containerd reads, or shall read.
func hostsDir(p place) (string, error) {
	_, config, keys, err := registrySection(p)
	if err != nil {
		return "", err
	}
	path, _ := config.at(append(slices.Clone(keys), "config_path")...).(string)
	if first := filepath.SplitList(path); len(first) > 0 && filepath.IsAbs(first[0]) {
		return first[0], nil
	}
	return certsDir, nil
}

func planContainerd(p place) (plan, error) {
	out := plan{
		what:  "containerd asks " + p.dfdaemon.String() + " for every registry that has no directory of its own, and the registry itself when that does not answer",
		after: "containerd reads hosts.toml at each pull: nothing is to be done",
	}
	before, config, keys, err := registrySection(p)
	if err != nil {
		return plan{}, err
	}
	path := p.path(containerdTOML)
	if old, ok := config.at(append(slices.Clone(keys), "mirrors")...).(map[string]any); ok && len(old) > 0 {
		return plan{}, fmt.Errorf("%s: %s.mirrors does not go with config_path: write the mirrors as hosts.toml files below %s and take them out", path, strings.Trim(header(keys...), "[]"), certsDir)
	}
	dir, err := hostsDir(p)
	if err != nil {
		return plan{}, err
	}
	text := before
	if before == nil {
		text = []byte("version = 2\n")
	}
	key := append(slices.Clone(keys), "config_path")
	if now, _ := config.at(key...).(string); now == "" {
		if text, err = withString(text, dir, key...); err != nil {
			return plan{}, fmt.Errorf("%s: %w", path, err)
		}
		out.after = "containerd reads config.toml at its start: systemctl restart containerd (containers go on running); after that hosts.toml at each pull"
	}
	out.edits = append(out.edits, edit{path, header(keys...) + "\n  config_path = " + fmt.Sprintf("%q", dir), before, text})
	if _, ok := config["imports"]; ok {
		out.notes = append(out.notes, "config.toml has imports, which may set config_path again: see containerd config dump")
	}
	for _, name := range append([]string{"_default"}, p.registries...) {
		path := filepath.Join(p.path(dir), name, hostsTOML)
		before, err := current(path)
		if err != nil {
			return plan{}, err
		}
		if before == nil && name != "_default" {
			continue // _default is for it
		}
		text, err := withHost(before, p.dfdaemon.String())
		if err != nil {
			return plan{}, fmt.Errorf("%s: %w", path, err)
		}
		out.edits = append(out.edits, edit{path, hostTable(p.dfdaemon.String()), before, text})
	}
	for _, name := range ownHosts(p, dir) {
		if !slices.Contains(p.registries, name) && name != p.dfdaemon.Host {
			out.notes = append(out.notes, fmt.Sprintf("%s has a directory of its own, where dfdaemon is not named: --registries %s is for it too", name, name))
		}
	}
	out.notes = append(out.notes, "ctr reads the directory when it is told to: ctr images pull --hosts-dir "+dir)
	return out, nil
}

// ownHosts are the registries that have a hosts.toml without dfdaemon.
func ownHosts(p place, dir string) (names []string) {
	entries, err := os.ReadDir(p.path(dir))
	if err != nil {
		return nil // none is there
	}
	for _, e := range entries {
		text, err := current(filepath.Join(p.path(dir), e.Name(), hostsTOML))
		if e.Name() == "_default" || err != nil || text == nil {
			continue
		}
		if t, err := parseTOML(text); err == nil && t.at("host", p.dfdaemon.String()) == nil {
			names = append(names, e.Name())
		}
	}
	return names
}

func hostTable(mirror string) string {
	return fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]", mirror)
}

var firstHost = regexp.MustCompile(`(?m)^[ \t]*\[host[.\]]`)

// withHost is a hosts.toml whose first host is the mirror. All else stays as it
// is, which is checked.
func withHost(text []byte, mirror string) ([]byte, error) {
	want, err := parseTOML(text)
	if err != nil {
		return nil, err
	}
	if host, ok := want.at("host", mirror).(map[string]any); ok {
		list, _ := host["capabilities"].([]any)
		if !slices.Contains(list, any("pull")) || !slices.Contains(list, any("resolve")) {
			return nil, fmt.Errorf("%s is there without the capabilities pull and resolve: add them", header("host", mirror))
		}
		return text, nil
	}
	want.set(map[string]any{"capabilities": []any{"pull", "resolve"}}, "host", mirror)
	table := hostTable(mirror) + "\n"
	var out string
	if at := firstHost.FindIndex(text); at != nil {
		out = string(text[:at[0]]) + table + "\n" + string(text[at[0]:])
	} else {
		if out = string(text); out != "" && !strings.HasSuffix(out, "\n") {
			out += "\n"
		}
		if out != "" {
			out += "\n"
		}
		out += table
	}
	got, err := parseTOML([]byte(out))
	if err != nil || !reflect.DeepEqual(got, want) {
		return nil, fmt.Errorf("this is written in a way that is not understood: put before its first host, by hand:\n%s", table)
	}
	return []byte(out), nil
}
