// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// podman and CRI-O read the same files: a mirror for each registry, with the
// registry in its path. They go on to the registry by themselves.
var (
	podman = engine{name: "podman", programs: []string{"podman"}, files: containersFiles, plan: func(p place) (plan, error) {
		return planContainers(p, "podman", "podman, buildah and skopeo read it at each pull: nothing is to be done")
	}}
	crio = engine{name: "crio", programs: []string{"crio"}, files: containersFiles, plan: func(p place) (plan, error) {
		return planContainers(p, "CRI-O", "CRI-O sees it after a reload: systemctl reload crio; no restart is needed")
	}}
)

const (
	registriesConf = "/etc/containers/registries.conf"
	ownConf        = "/etc/containers/registries.conf.d/50-dragonfly.conf"
)

// usual are the registries that are mirrored when none is named.
var usual = []string{"docker.io", "ghcr.io", "quay.io", "registry.k8s.io"}

func containersFiles(p place) []string { return []string{p.path(ownConf)} }

func planContainers(p place, name, after string) (plan, error) {
	registries := p.registries
	if len(registries) == 0 {
		registries = usual
	}
	out := plan{after: after,
		what:  fmt.Sprintf("%s asks %s for %s, and the registry itself when that does not answer", name, p.dfdaemon.Host, strings.Join(registries, ", ")),
		notes: []string{"a user's own ~/.config/containers/registries.conf stands in place of these files"}}
	path := p.path(ownConf)
	before, err := current(path)
	if err != nil {
		return plan{}, err
	}
	elsewhere, err := otherTables(p)
	if err != nil {
		return plan{}, err
	}
	own, err := registryTables(path)
	if err != nil {
		return plan{}, err
	}
	text, lines := string(before), ""
	if before == nil {
		text = "# Written by dfdaemon setup; dfdaemon setup --undo takes it away.\n"
	}
	for _, registry := range registries {
		mirror := mirrorOf(p, registry)
		is := func(t registryTable) bool { return t.prefix == registry }
		if i := slices.IndexFunc(elsewhere, is); i >= 0 && !elsewhere[i].has(mirror) {
			// A second table of one prefix would take the place of the first,
			// with all that stands there.
			return plan{}, fmt.Errorf("%s has a table for %s already: add to it, by hand, or leave %s out of --registries:\n%s",
				elsewhere[i].file, registry, registry, mirrorTable(p, registry))
		} else if i >= 0 {
			continue
		}
		i := slices.IndexFunc(own, is)
		if i >= 0 && !own[i].has(mirror) {
			return plan{}, fmt.Errorf("%s leads %s elsewhere: change it by hand, or take it back first with --undo", path, registry)
		}
		table := fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\n%s", registry, registry, mirrorTable(p, registry))
		if lines += table; i < 0 {
			text += "\n" + table
		}
	}
	if lines == "" { // others lead there already
		return out, nil
	}
	out.edits = []edit{{path, strings.TrimSuffix(lines, "\n"), before, []byte(text)}}
	return out, nil
}

// otherTables are those of all files but the own.
func otherTables(p place) (tables []registryTable, err error) {
	names, err := filepath.Glob(p.path(filepath.Dir(ownConf)) + "/*.conf")
	if err != nil {
		return nil, err
	}
	for _, name := range append([]string{p.path(registriesConf)}, names...) {
		if name == p.path(ownConf) {
			continue
		}
		found, err := registryTables(name)
		if err != nil {
			return nil, err
		}
		tables = append(tables, found...)
	}
	return tables, nil
}

// containersLead says that some registry has dfdaemon for a mirror.
func containersLead(p place) (bool, error) {
	tables, err := otherTables(p)
	if err != nil {
		return false, err
	}
	own, err := registryTables(p.path(ownConf))
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(append(tables, own...), func(t registryTable) bool {
		return slices.ContainsFunc(t.mirrors, func(m string) bool { return strings.HasPrefix(m, p.dfdaemon.Host+"/") })
	}), nil
}

// mirrorOf is how these engines write dfdaemon for a registry. They cannot
// write a second colon.
func mirrorOf(p place, registry string) string {
	return p.dfdaemon.Host + "/" + strings.ReplaceAll(registry, ":", "_")
}

func mirrorTable(p place, registry string) string {
	out := fmt.Sprintf("[[registry.mirror]]\nlocation = %q\n", mirrorOf(p, registry))
	if p.dfdaemon.Scheme == "http" {
		out += "insecure = true # plain HTTP to dfdaemon, on this host\n"
	}
	return out
}

// registryTable is one registry of a registries.conf.
type registryTable struct {
	file, prefix string
	mirrors      []string // locations
}

func (t registryTable) has(location string) bool { return slices.Contains(t.mirrors, location) }

// registryTables reads a registries.conf; a file that is not there has none.
func registryTables(path string) (tables []registryTable, err error) {
	text, err := current(path)
	if err != nil || text == nil {
		return nil, err
	}
	t, err := parseTOML(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, ok := t["registries"]; ok {
		return nil, fmt.Errorf("%s is in the old format, with [registries.search]: write it in the new one, see man containers-registries.conf", path)
	}
	list, _ := t["registry"].([]any)
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			continue
		}
		location, _ := m["location"].(string)
		prefix, _ := m["prefix"].(string)
		if prefix == "" {
			prefix = location
		}
		found := registryTable{file: path, prefix: prefix}
		mirrors, _ := m["mirror"].([]any)
		for _, item := range mirrors {
			if m, ok := item.(map[string]any); ok {
				at, _ := m["location"].(string)
				found.mirrors = append(found.mirrors, at)
			}
		}
		tables = append(tables, found)
	}
	return tables, nil
}
