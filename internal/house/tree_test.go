// SPDX-License-Identifier: Apache-2.0

package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the name of the module, as go.mod says it.
const module = "dragonfly"

// source is one Go file.
type source struct {
	path    string // from the module root, with slashes
	text    string
	ast     *ast.File
	test    bool
	imports map[string]string // local name → import path
}

// dir is the directory of the package, "" for the module root.
func (s *source) dir() string {
	if d := path.Dir(s.path); d != "." {
		return d
	}
	return ""
}

// document is any other text that belongs to the tree.
type document struct{ path, text string }

// tree is everything the rules look at.
type tree struct {
	fsys  fs.FS
	fset  *token.FileSet
	files []*source
	texts []document // Markdown, shell, YAML, go.mod
	root  string     // where the tree lies on this machine, "" in a test
}

// load reads the tree. What begins with a dot is not looked at, but for .ci;
// nor is testdata, nor a nested module's code.
func load(t *testing.T, fsys fs.FS) *tree {
	t.Helper()
	tr := &tree{fsys: fsys, fset: token.NewFileSet()}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			hidden := strings.HasPrefix(d.Name(), ".") && p != "." && p != ".ci"
			if hidden || slices.Contains([]string{"testdata", "bin", "dist"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if p == "docs/plan.md" {
			return nil // goes when it is carried out
		}
		if !d.Type().IsRegular() {
			return nil
		}
		switch ext := path.Ext(p); {
		case ext == ".go":
			raw, err := fs.ReadFile(fsys, p)
			if err != nil {
				return err
			}
			file, err := parser.ParseFile(tr.fset, p, raw, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			s := &source{path: p, text: string(raw), ast: file, test: strings.HasSuffix(p, "_test.go"), imports: map[string]string{}}
			for _, i := range file.Imports {
				target, err := strconv.Unquote(i.Path.Value)
				if err != nil {
					return err
				}
				s.imports[localName(i, target)] = target
			}
			tr.files = append(tr.files, s)
		case ext == ".md", ext == ".sh", ext == ".yml", ext == ".yaml", strings.HasPrefix(p, ".ci/"), path.Base(p) == "go.mod":
			raw, err := fs.ReadFile(fsys, p)
			if err != nil {
				return err
			}
			tr.texts = append(tr.texts, document{p, string(raw)})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// localName is what an import is called in its file. A blank or dot import
// gets a name that no selector has.
func localName(i *ast.ImportSpec, target string) string {
	if i.Name != nil {
		if i.Name.Name == "_" || i.Name.Name == "." {
			return i.Name.Name + target
		}
		return i.Name.Name
	}
	base := path.Base(target)
	if len(base) > 1 && base[0] == 'v' && strings.Trim(base[1:], "0123456789") == "" {
		base = path.Base(path.Dir(target)) // a major version is not the name
	}
	base, _, _ = strings.Cut(base, ".") // yaml.v3
	return base
}

// at writes the place of a node for a complaint.
func (tr *tree) at(n ast.Node) string { return tr.fset.Position(n.Pos()).String() }

// own turns an import path into a directory of this module.
func own(target string) (dir string, ok bool) {
	if target == module {
		return "", true
	}
	return strings.CutPrefix(target, module+"/")
}

// isStd says whether an import path is the standard library's: its first
// element has no dot, and it is not ours.
func isStd(target string) bool {
	first, _, _ := strings.Cut(target, "/")
	_, ours := own(target)
	return !ours && !strings.Contains(first, ".")
}

// selectors calls f for every use of something that an import exports.
func (s *source) selectors(f func(n ast.Node, target, name string)) {
	ast.Inspect(s.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok {
				if target, ok := s.imports[x.Name]; ok {
					f(sel, target, sel.Sel.Name)
				}
			}
		}
		return true
	})
}
