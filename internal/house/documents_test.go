// SPDX-License-Identifier: Apache-2.0

package house

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

var (
	fence     = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	inCode    = regexp.MustCompile("`[^`\n]*`")
	inline    = regexp.MustCompile(`\]\(<?([^)\s>]+)`)
	reference = regexp.MustCompile(`(?m)^\[[^\]]+\]: *(\S+)`)
	heading   = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

// linksLead: every relative link of a Markdown file names a file of the tree,
// and every fragment a heading of that file.
func linksLead(tr *tree) (complaints []string) {
	for _, d := range tr.texts {
		if path.Ext(d.path) != ".md" {
			continue
		}
		text := fence.ReplaceAllString(d.text, "")
		plain := inCode.ReplaceAllString(text, "")
		for _, m := range append(inline.FindAllStringSubmatch(plain, -1), reference.FindAllStringSubmatch(plain, -1)...) {
			link := m[1]
			if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
				continue
			}
			file, fragment, _ := strings.Cut(link, "#")
			target := d.path
			if file != "" {
				target = path.Join(path.Dir(d.path), file)
			}
			if _, err := fs.Stat(tr.fsys, target); err != nil {
				complaints = append(complaints, fmt.Sprintf("%s: %s leads nowhere", d.path, link))
				continue
			}
			if fragment == "" || path.Ext(target) != ".md" {
				continue
			}
			raw, err := fs.ReadFile(tr.fsys, target)
			if err != nil || !slices.Contains(anchors(string(raw)), fragment) {
				complaints = append(complaints, fmt.Sprintf("%s: %s: no such heading", d.path, link))
			}
		}
	}
	return complaints
}

// anchors are the fragments of a Markdown text's headings, as forges make
// them: lower case, blanks become dashes, punctuation goes.
func anchors(text string) (out []string) {
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		out = append(out, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	return out
}

// dependencyRow is one line of the table in docs/dependencies.md:
// | `module` | why | where |
var dependencyRow = regexp.MustCompile("(?m)^\\| *`([^`]+)` *\\| *([^|]*?) *\\| *([^|]*?) *\\|$")

// dependenciesHaveReason: the modules that the sources import, the direct
// requirements of go.mod and the rows of docs/dependencies.md are the same,
// and each row says rightly which binaries contain the module.
func dependenciesHaveReason(tr *tree) (complaints []string) {
	var direct, required []string
	rows := map[string]string{} // module → where
	for _, d := range tr.texts {
		switch d.path {
		case "go.mod":
			direct, required = requirements(d.text)
		case "docs/dependencies.md":
			for _, m := range dependencyRow.FindAllStringSubmatch(d.text, -1) {
				if m[2] == "" {
					complaints = append(complaints, fmt.Sprintf("%s: %s has no reason", d.path, m[1]))
				}
				rows[m[1]] = m[3]
			}
		}
	}
	used := whereUsed(tr, required)
	for _, m := range slices.Sorted(maps.Keys(used)) {
		where, named := rows[m]
		switch {
		case !named:
			complaints = append(complaints, fmt.Sprintf("docs/dependencies.md: %s (%s) is imported but not named", m, used[m]))
		case where != used[m]:
			complaints = append(complaints, fmt.Sprintf("docs/dependencies.md: %s is in %q, not in %q", m, used[m], where))
		}
		if !slices.Contains(direct, m) {
			complaints = append(complaints, fmt.Sprintf("go.mod: %s is imported but marked indirect", m))
		}
	}
	for _, m := range direct {
		if used[m] == "" {
			complaints = append(complaints, fmt.Sprintf("go.mod: %s is a direct requirement but not imported", m))
		}
	}
	for _, m := range slices.Sorted(maps.Keys(rows)) {
		if used[m] == "" {
			complaints = append(complaints, fmt.Sprintf("docs/dependencies.md: %s is named but not imported", m))
		}
	}
	return complaints
}

// requirements reads go.mod's require lines: the direct ones and all of them.
func requirements(text string) (direct, all []string) {
	for line := range strings.Lines(text) {
		line, comment, _ := strings.Cut(strings.TrimSpace(line), "//")
		fields := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(fields) != 2 || !strings.HasPrefix(fields[1], "v") || !strings.Contains(fields[0], ".") {
			continue
		}
		all = append(all, fields[0])
		if !strings.Contains(comment, "indirect") {
			direct = append(direct, fields[0])
		}
	}
	return direct, all
}

// whereUsed maps each foreign module that is imported to the binaries that
// contain it, "tests" if there is none.
func whereUsed(tr *tree, required []string) map[string]string {
	moduleOf := func(target string) string {
		best := target // a module that go.mod does not know goes by its path
		for _, m := range required {
			if target == m || strings.HasPrefix(target, m+"/") && (best == target || len(m) > len(best)) {
				best = m
			}
		}
		return best
	}
	imports := map[string][]string{} // directory → what its non-test files import
	used := map[string]map[string]bool{}
	for _, s := range tr.files {
		for _, target := range s.imports {
			if _, ours := own(target); !ours && !isStd(target) && used[moduleOf(target)] == nil {
				used[moduleOf(target)] = map[string]bool{}
			}
			if !s.test {
				imports[s.dir()] = append(imports[s.dir()], target)
			}
		}
	}
	for dir := range imports {
		if room(dir) != "cmd" {
			continue
		}
		seen := map[string]bool{}
		var visit func(dir string)
		visit = func(at string) {
			for _, target := range imports[at] {
				if seen[target] {
					continue
				}
				seen[target] = true
				if d, ours := own(target); ours {
					visit(d)
				} else if !isStd(target) {
					used[moduleOf(target)][path.Base(dir)] = true
				}
			}
		}
		visit(dir)
	}
	where := map[string]string{}
	for m, binaries := range used {
		where[m] = strings.Join(slices.Sorted(maps.Keys(binaries)), ", ")
		if len(binaries) == 0 {
			where[m] = "tests"
		}
	}
	return where
}
