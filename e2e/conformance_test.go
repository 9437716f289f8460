// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dragonfly/e2e/registry"
	"dragonfly/internal/swarm"
)

// conformance runs the conformance suite of the distribution specification
// against a registry's URL and gives "name: status" of each of its tests, in
// order of name.
func (w *world) conformance(url string) []string {
	w.Helper()
	results := w.target("results")
	cmd := exec.CommandContext(w.ctx, filepath.Join(w.Dir, "conformance"))
	cmd.Dir = filepath.Dir(results)
	cmd.Env = append(swarm.Environment(cmd.Dir), "OCI_REGISTRY="+strings.TrimPrefix(url, "http://"), "OCI_TLS=disabled", "OCI_RESULTS_DIR="+results)
	out, err := cmd.CombinedOutput() // it fails when any of its tests does
	raw, unread := os.ReadFile(filepath.Join(results, "junit.xml"))
	if unread != nil {
		w.Fatalf("the suite left no results: %v, %v\n%s", unread, err, out)
	}
	w.must(os.RemoveAll(results))
	var report struct {
		Suites []struct {
			Cases []struct {
				Name   string `xml:"name,attr"`
				Status string `xml:"status,attr"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	w.must(xml.Unmarshal(raw, &report))
	var lines []string
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			lines = append(lines, c.Name+": "+c.Status)
		}
	}
	slices.Sort(lines)
	return lines
}

// TestConformance: each test of the distribution specification's suite, those
// of pulls and ranges above all, ends through dfdaemon as it ends straight at
// the registry.
func TestConformance(t *testing.T) {
	w := startEngines(t)
	straight := w.conformance(w.site(registry.Options{}).URL)
	s := w.site(registry.Options{})
	n := w.node(s.URL, "--node", w.supernode(swarm.SupernodeOptions{}).Addr)
	through := w.conformance(n.addr)
	if diff := cmp.Diff(straight, through); diff != "" {
		t.Errorf("straight -, through dfdaemon +:\n%s", diff)
	}
	count := func(part string) (n int) {
		for _, line := range through {
			if strings.Contains(line, part) {
				n++
			}
		}
		return n
	}
	t.Logf("%d tests, %d passed, %d failed, %d skipped", len(through), count(": passed"), count(": failure"), count(": skipped"))
	if gets, ranges := count("/blob-get: passed"), count("/range "); gets < 10 || ranges < 4 {
		t.Errorf("the suite got %d blobs and asked for %d ranges: it tests too little", gets, ranges)
	}
	w.tookPart(n)
}
