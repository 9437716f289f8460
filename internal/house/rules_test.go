// SPDX-License-Identifier: Apache-2.0

package house

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
)

// floors says on which floor each room lies. Imports point down: a package
// imports packages of lower floors only. A new room gets its floor here.
var floors = map[string]int{
	"":          0, // the vocabulary
	"internal":  1, // plumbing
	"sched":     1,
	"wire":      1,
	"cluster":   2,
	"record":    2,
	"source":    2,
	"store":     2,
	"transfer":  2,
	"peer":      3,
	"agent":     4,
	"console":   4,
	"mirror":    4,
	"preheat":   4,
	"proxy":     4,
	"supernode": 4,
	"cmd":       5,
	"demo":      5,
	"e2e":       5,
}

// ground, commands are the floors that have rules of their own.
const (
	ground   = 0
	commands = 5
)

// room is the first element of a package's directory.
func room(dir string) string {
	r, _, _ := strings.Cut(dir, "/")
	return r
}

func importsPointDown(tr *tree) (complaints []string) {
	for _, s := range tr.files {
		floor, ok := floors[room(s.dir())]
		if !ok {
			complaints = append(complaints, fmt.Sprintf("%s: room %q has no floor: give it one in floors", s.path, room(s.dir())))
			continue
		}
		if s.test {
			continue // a test may build the house above its package
		}
		for _, target := range s.imports {
			dir, ours := own(target)
			switch {
			case !ours && floor == ground && !isStd(target):
				complaints = append(complaints, fmt.Sprintf("%s: the vocabulary imports %s; it imports the standard library only", s.path, target))
			case !ours:
			case room(dir) == room(s.dir()) && room(dir) != "cmd" && floor != ground:
				// rooms have inner doors
			case s.dir() == "supernode" && room(dir) == "wire":
				complaints = append(complaints, fmt.Sprintf("%s: supernode imports %s; only a command joins the two", s.path, target))
			case floors[room(dir)] >= floor:
				complaints = append(complaints, fmt.Sprintf("%s: %s (floor %d) imports %s (floor %d): imports point down", s.path, s.dir(), floor, target, floors[room(dir)]))
			}
		}
	}
	return complaints
}

// pureStd is what the scheduler may import of the standard library: nothing
// that knows a clock, a lock, a file or the network, but for time's durations
// and a generator of its own.
var pureStd = []string{
	"cmp", "container/heap", "encoding/binary", "errors", "fmt", "hash/fnv", "iter", "maps", "math",
	"math/bits", "math/rand/v2", "slices", "sort", "strconv", "strings", "time",
}

func schedulerIsPure(tr *tree) (complaints []string) {
	complain := func(n ast.Node, format string, args ...any) {
		complaints = append(complaints, tr.at(n)+": "+fmt.Sprintf(format, args...))
	}
	for _, s := range tr.files {
		if room(s.dir()) != "sched" || s.test {
			continue
		}
		for _, i := range s.ast.Imports {
			target := strings.Trim(i.Path.Value, `"`)
			dir, ours := own(target)
			if ours && (dir == "" || room(dir) == "sched") || slices.Contains(pureStd, target) {
				continue
			}
			complain(i, "the scheduler imports %s: it knows the vocabulary and pure parts of the standard library only", target)
		}
		s.selectors(func(n ast.Node, target, name string) {
			switch {
			case target == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}, name):
				complain(n, "time.%s: time comes with each event", name)
			case target == "math/rand/v2" && !slices.Contains([]string{"New", "NewPCG", "PCG", "Rand", "Source"}, name):
				complain(n, "rand.%s: draw from the machine's own generator", name)
			case target == "fmt" && strings.HasPrefix(name, "Print"):
				complain(n, "fmt.%s: actions are the only output", name)
			}
		})
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType:
				complain(n, "goroutines and channels have no place in the scheduler")
			}
			return true
		})
	}
	return complaints
}

// surroundings are the doors to flags and environment that only commands use.
var surroundings = map[string][]string{
	"os":       {"Getenv", "LookupEnv", "Environ", "ExpandEnv", "UserHomeDir", "UserConfigDir", "UserCacheDir", "Args", "Exit"},
	"syscall":  {"Getenv", "Environ"},
	"net/http": {"ProxyFromEnvironment", "DefaultClient", "DefaultTransport", "Get", "Head", "Post"},
	"log":      {"Fatal", "Fatalf", "Fatalln"},
}

var flagParsers = []string{"flag", "github.com/spf13/pflag", "github.com/spf13/cobra"}

func onlyCommandsReadSurroundings(tr *tree) (complaints []string) {
	for _, s := range tr.files {
		if s.test || floors[room(s.dir())] == commands {
			continue
		}
		for _, target := range s.imports {
			// settings turns one struct into flags and file keys; commands
			// hand it what they read.
			if slices.Contains(flagParsers, target) && s.dir() != "internal/settings" {
				complaints = append(complaints, fmt.Sprintf("%s: imports %s: only commands read flags", s.path, target))
			}
		}
		s.selectors(func(n ast.Node, target, name string) {
			if slices.Contains(surroundings[target], name) {
				complaints = append(complaints, fmt.Sprintf("%s: %s.%s: only commands read their surroundings or end the process", tr.at(n), path.Base(target), name))
			}
		})
	}
	return complaints
}

func packageComments(tr *tree) (complaints []string) {
	type state struct{ name, doc string }
	packages := map[string]*state{}
	for _, s := range tr.files {
		if s.test {
			continue
		}
		p := packages[s.dir()]
		if p == nil {
			p = &state{name: s.ast.Name.Name}
			packages[s.dir()] = p
		}
		if doc := s.ast.Doc.Text(); doc != "" {
			p.doc = doc
		}
	}
	for dir, p := range packages {
		want := "Package " + p.name + " "
		if p.name == "main" {
			want = "Command " + path.Base(dir) + " "
		}
		if !strings.HasPrefix(p.doc, want) {
			complaints = append(complaints, fmt.Sprintf("%s: the package comment must begin with %q and state the invariants", dir, want))
		}
	}
	// A directory of tests only still says what it is.
	for _, s := range tr.files {
		if packages[s.dir()] == nil {
			packages[s.dir()] = &state{}
			complaints = append(complaints, fmt.Sprintf("%s: has tests only: add a doc.go with a package comment", s.dir()))
		}
	}
	return complaints
}

func licenceLines(tr *tree) (complaints []string) {
	for _, s := range tr.files {
		if !strings.HasPrefix(s.text, strings.TrimSpace(licence)+"\n") {
			complaints = append(complaints, fmt.Sprintf("%s: the first line must be %q", s.path, strings.TrimSpace(licence)))
		}
	}
	return complaints
}

// sayNothing are names under which anything might hide.
var sayNothing = []string{
	"util", "utils", "common", "helper", "helpers", "manager", "managers", "types", "constants", "consts",
	"base", "misc", "shared", "lib", "pkg",
}

func namesSaySomething(tr *tree) (complaints []string) {
	seen := map[string]bool{}
	for _, s := range tr.files {
		names := strings.Split(s.dir(), "/")
		names = append(names, strings.TrimSuffix(s.ast.Name.Name, "_test"))
		names = append(names, strings.Split(strings.TrimSuffix(path.Base(s.path), ".go"), "_")...)
		for _, name := range names {
			if slices.Contains(sayNothing, name) && !seen[s.path] {
				seen[s.path] = true
				complaints = append(complaints, fmt.Sprintf("%s: %q says nothing: name what is in it", s.path, name))
			}
		}
	}
	return complaints
}

func testsDoNotSleep(tr *tree) (complaints []string) {
	for _, s := range tr.files {
		if !s.test && room(s.dir()) != "e2e" {
			continue
		}
		s.selectors(func(n ast.Node, target, name string) {
			if target == "time" && name == "Sleep" {
				complaints = append(complaints, fmt.Sprintf("%s: wait for the event, or use testing/synctest for time", tr.at(n)))
			}
		})
	}
	return complaints
}

var leftOpen = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)

func nothingLeftOpen(tr *tree) (complaints []string) {
	for _, d := range tr.everything() {
		for i, line := range strings.Split(d.text, "\n") {
			if m := leftOpen.FindString(line); m != "" {
				complaints = append(complaints, fmt.Sprintf("%s:%d: %s: do it, or write an issue", d.path, i+1, m))
			}
		}
	}
	return complaints
}

// everything is the text of sources and documents alike.
func (tr *tree) everything() []document {
	all := slices.Clone(tr.texts)
	for _, s := range tr.files {
		all = append(all, document{s.path, s.text})
	}
	return all
}

// builtIn is a directory that build machines use; it is put together here so
// that the rule does not find itself.
const builtIn = "/wo" + "rk/"

// outside finds citations of documents that are not part of the tree. The
// recorded behaviour of v1 is cited as "v1-protocol N", the users' questions
// as "FAQ: …"; CONTRIBUTING says what these are.
var outside = regexp.MustCompile(`(?i)design\.` + `md|\bdesign,? §|§ ?[0-9]|\bissue #?[0-9]|v1-protocol\.` + `md|style\.` + `md|\.\./shared`)

func speaksOfItself(tr *tree) (complaints []string) {
	for _, d := range tr.everything() {
		if room(d.path) == "internal" && strings.HasPrefix(d.path, "internal/house/") {
			continue // names what it forbids
		}
		for i, line := range strings.Split(d.text, "\n") {
			if m := outside.FindString(line); m != "" {
				complaints = append(complaints, fmt.Sprintf("%s:%d: %q: give the reason itself, the document is not part of the tree", d.path, i+1, m))
			}
			if strings.Contains(line, builtIn) || strings.Count(tr.root, "/") > 1 && strings.Contains(line, tr.root) {
				complaints = append(complaints, fmt.Sprintf("%s:%d: a path of one machine", d.path, i+1))
			}
		}
	}
	return complaints
}
