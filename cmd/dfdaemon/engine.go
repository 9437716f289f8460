// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
)

// engine is a container engine whose files can lead it to dfdaemon.
type engine struct {
	name string
	// programs are what it is known by on a host.
	programs []string
	// plan says what of its files must be how. An error means that they are not
	// understood and are better left alone.
	plan func(place) (plan, error)
	// files are those that setup may have changed.
	files func(place) []string
}

// place is where engines have their files, and where they find dfdaemon.
type place struct {
	root       string // before every path; "" in life
	dfdaemon   *url.URL
	registries []string // that are named; none: what is usual
}

func (p place) path(name string) string { return filepath.Join(p.root, name) }

// leads says whether an engine's files lead it to dfdaemon.
func (e engine) leads(p place) (bool, error) {
	if e.name == podman.name || e.name == crio.name { // for any registry
		return containersLead(p)
	}
	plan, err := e.plan(p)
	return err == nil && plan.done(), err
}

// plan is how an engine's files are to be.
type plan struct {
	what  string // the outcome, in a sentence
	edits []edit
	notes []string // what the user should know
	after string   // what makes the engine see it
}

// done says that the files are so already.
func (p plan) done() bool {
	for _, e := range p.edits {
		if e.needed() {
			return false
		}
	}
	return true
}

// edit is how one file is to be.
type edit struct {
	path   string
	lines  string // of it that matter
	before []byte // nil: there is no file
	text   []byte
}

func (e edit) needed() bool { return e.before == nil || !bytes.Equal(e.before, e.text) }

// engines are in the order in which doctor looks at them.
var engines = []engine{docker, containerd, podman, crio}

// configMax bounds an engine's file in bytes.
const configMax = 4 << 20

// current is a file's content; nil: there is none.
func current(path string) ([]byte, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, configMax+1))
	if err != nil {
		return nil, err
	}
	if len(text) > configMax {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, configMax)
	}
	if text == nil {
		text = []byte{}
	}
	return text, nil
}
