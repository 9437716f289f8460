// SPDX-License-Identifier: Apache-2.0

package house

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

// rule is one thing that every file of the tree keeps to. check returns its
// complaints, each with its place.
type rule struct {
	name  string
	check func(*tree) []string
	// broken holds files that break the rule, each in its own way; the rule
	// must complain about every one of them.
	broken map[string]string
}

const licence = "// SPDX-License-Identifier: Apache-2.0\n\n"

var rules = []rule{
	{"imports point down", importsPointDown, map[string]string{
		"store/a.go":         "package store\nimport _ \"dragonfly/peer\"\n",
		"source/a.go":        "package source\nimport _ \"dragonfly/store\"\n",
		"wire/a.go":          "package wire\nimport _ \"dragonfly/sched\"\n",
		"supernode/a.go":     "package supernode\nimport _ \"dragonfly/wire\"\n",
		"agent/a.go":         "package agent\nimport _ \"dragonfly/supernode\"\n",
		"internal/x/a.go":    "package x\nimport _ \"dragonfly/store\"\n",
		"sched/a.go":         "package sched\nimport _ \"dragonfly/internal/x\"\n",
		"task.go":            "package dragonfly\nimport _ \"dragonfly/internal/x\"\n",
		"piece.go":           "package dragonfly\nimport _ \"golang.org/x/sync/errgroup\"\n",
		"parlour/a.go":       "package parlour\n",
		"store/sub/a.go":     "package sub\nimport _ \"dragonfly/agent\"\n",
		"internal/y/flag.go": "package y\nimport _ \"dragonfly/cmd/dfget\"\n",
	}},
	{"the scheduler is pure", schedulerIsPure, map[string]string{
		"sched/os.go":     "package sched\nimport _ \"os\"\n",
		"sched/rand.go":   "package sched\nimport _ \"math/rand\"\n",
		"sched/sync.go":   "package sched\nimport _ \"sync\"\n",
		"sched/now.go":    "package sched\nimport \"time\"\nvar _ = time.Now()\n",
		"sched/global.go": "package sched\nimport \"math/rand/v2\"\nvar _ = rand.IntN(3)\n",
		"sched/go.go":     "package sched\nfunc f() { go f() }\n",
		"sched/chan.go":   "package sched\nvar _ chan int\n",
		"sched/ext.go":    "package sched\nimport _ \"golang.org/x/time/rate\"\n",
	}},
	{"only commands read flags and environment", onlyCommandsReadSurroundings, map[string]string{
		"store/env.go":    "package store\nimport \"os\"\nvar _ = os.Getenv(\"HOME\")\n",
		"store/lookup.go": "package store\nimport \"os\"\nvar _, _ = os.LookupEnv(\"HOME\")\n",
		"store/home.go":   "package store\nimport system \"os\"\nvar _, _ = system.UserHomeDir()\n",
		"peer/flag.go":    "package peer\nimport _ \"flag\"\n",
		"agent/cobra.go":  "package agent\nimport _ \"github.com/spf13/cobra\"\n",
		"source/proxy.go": "package source\nimport \"net/http\"\nvar _ = http.ProxyFromEnvironment\n",
		"source/get.go":   "package source\nimport \"net/http\"\nvar _ = http.DefaultClient\n",
		"agent/exit.go":   "package agent\nimport \"os\"\nfunc f() { os.Exit(1) }\n",
	}},
	{"every package has its comment", packageComments, map[string]string{
		"store/a.go":     "package store\n",
		"cmd/dfget/a.go": "// Something else.\npackage main\n",
		"peer/a.go":      "// Peer is not how it starts.\npackage peer\n",
	}},
	{"every file names its licence", licenceLines, map[string]string{
		"store/a.go": "package store\n",
		"store/b.go": "// Package store\n// SPDX-License-Identifier: Apache-2.0\npackage store\n",
	}},
	{"names say something", namesSaySomething, map[string]string{
		"store/util.go":          licence + "package store\n",
		"store/disk_helper.go":   licence + "package store\n",
		"store/types_test.go":    licence + "package store\n",
		"internal/common/a.go":   licence + "package x\n",
		"store/a.go":             licence + "package manager\n",
		"peer/base/constants.go": licence + "package base\n",
	}},
	{"tests do not sleep", testsDoNotSleep, map[string]string{
		"store/a_test.go": "package store\nimport \"time\"\nfunc f() { time.Sleep(1) }\n",
		"peer/b_test.go":  "package peer\nimport clock \"time\"\nvar f = clock.Sleep\n",
	}},
	{"nothing is left open", nothingLeftOpen, map[string]string{
		"store/a.go": "package store\n// TO" + "DO: later\n",
		"store/b.go": "package store\n// FIX" + "ME\n",
		"README.md":  "FIX" + "ME: say more\n",
	}},
	{"links lead somewhere", linksLead, map[string]string{
		"README.md":    "[a](nowhere.md)\n",
		"docs/one.md":  "[a](../docs/two.md)\n",
		"docs/self.md": "# Here\n[a](#there)\n",
		"docs/ref.md":  "[a]: gone.md\n",
		"docs/deep.md": "# Here\n[a](self.md#nowhere)\n",
	}},
	{"the tree speaks of itself alone", speaksOfItself, map[string]string{
		"store/a.go":  "package store\n// as in the design, §7\n",
		"store/b.go":  "package store\n// see design" + ".md\n",
		"README.md":   "cd " + builtIn + "main\n",
		"docs/own.md": "see " + brokenRoot + "/docs\n",
	}},
	{"dependencies have a reason", dependenciesHaveReason, map[string]string{
		"store/a.go":           "package store\nimport _ \"example.com/unnamed\"\n",
		"docs/dependencies.md": "| module | why | in |\n|---|---|---|\n| `example.com/unused` | none | tests |\n",
		"go.mod":               "module dragonfly\nrequire example.com/unmarked v1.0.0\n",
	}},
}

// brokenRoot stands for the place of the tree in TestRulesBite.
const brokenRoot = "/somewhere/checkout"

// TestHouse: the tree keeps to every rule.
func TestHouse(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	tr := load(t, os.DirFS(root))
	tr.root = filepath.ToSlash(root)
	if len(tr.files) == 0 {
		t.Fatal("no sources found")
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, complaint := range r.check(tr) {
				t.Error(complaint)
			}
		})
	}
}

// TestRulesBite: every rule complains about every file that breaks it, and
// about nothing in a tree that is in order.
func TestRulesBite(t *testing.T) {
	good := fstest.MapFS{
		"go.mod":               {Data: []byte("module dragonfly\nrequire (\n\texample.com/used v1.0.0\n\texample.com/other v1.0.0 // indirect\n)\n")},
		"doc.go":               {Data: []byte(licence + "// Package dragonfly is the vocabulary.\npackage dragonfly\n\nimport \"time\"\n\nvar Zero time.Time\n")},
		"store/store.go":       {Data: []byte(licence + "// Package store keeps.\npackage store\n\nimport (\n\t_ \"dragonfly\"\n\t_ \"dragonfly/internal/x\"\n\t_ \"example.com/used/deep\"\n)\n")},
		"internal/x/x.go":      {Data: []byte(licence + "// Package x is plumbing.\npackage x\n")},
		"cmd/dfget/main.go":    {Data: []byte(licence + "// Command dfget downloads.\npackage main\n\nimport (\n\t\"os\"\n\t_ \"dragonfly/store\"\n)\n\nvar home = os.Getenv(\"HOME\")\n")},
		"docs/dependencies.md": {Data: []byte("# Dependencies\n\n| module | why | in |\n|---|---|---|\n| `example.com/used` | needed | dfget |\n\nSee [here](#dependencies) and [there](../README.md#a-heading).\n")},
		"README.md":            {Data: []byte("# A heading\n\n```\n[no link](in-code.md)\n```\n`[nor](here.md)`\n")},
	}
	tr := load(t, good)
	tr.root = brokenRoot
	for _, r := range rules {
		for _, complaint := range r.check(tr) {
			t.Errorf("%s: in a good tree: %s", r.name, complaint)
		}
	}
	for _, r := range rules {
		for name, text := range r.broken {
			t.Run(r.name+"/"+name, func(t *testing.T) {
				tr := load(t, fstest.MapFS{name: {Data: []byte(text)}})
				tr.root = brokenRoot
				if len(r.check(tr)) == 0 {
					t.Errorf("%q passes in\n%s", name, text)
				}
			})
		}
	}
}
