// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/pem"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"dragonfly"
	"dragonfly/internal/settings"
)

// parse reads a command line as dfget does.
func (h *host) parse(args ...string) (options, error) {
	h.t.Helper()
	o := presets()
	set := settings.Of(&o)
	f := pflag.NewFlagSet("dfget", pflag.ContinueOnError)
	set.AddFlags(f)
	if err := f.Parse(args); err != nil {
		return o, err
	}
	_, err := set.Load(settings.Source{Path: h.settings, Prefix: "DFGET_", Lookup: h.surroundings(nil, nil).lookup})
	return o, err
}

func (h *host) parsed(args ...string) options {
	h.t.Helper()
	o, err := h.parse(args...)
	if err != nil {
		h.t.Fatalf("%q: %v", args, err)
	}
	return o
}

func (h *host) write(path, text string) string {
	h.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// TestFlagsOfV1: every flag of v1 is there under its name and letter, with its
// default (v1-protocol 12.1; the limit is the FAQ's), and its twin means the
// same.
func TestFlagsOfV1(t *testing.T) {
	h := newHost(t)
	c := newGet(nil, h.surroundings(nil, nil))
	for _, v := range []struct{ name, short, def string }{
		{"url", "u", ""}, {"output", "o", ""}, {"md5", "m", ""}, {"identifier", "i", ""}, {"callsystem", "", ""}, {"filter", "f", ""},
		{"header", "", ""}, {"cacerts", "", ""}, {"node", "n", ""}, {"locallimit", "s", "10MB"}, {"minrate", "", "64KB"},
		{"totallimit", "", "0B"}, {"clientqueue", "", "6"}, {"home", "", ""}, {"timeout", "e", ""}, {"pattern", "p", "p2p"},
		{"notbs", "", "false"}, {"dfdaemon", "", "false"}, {"insecure", "", "false"}, {"showbar", "b", "false"}, {"console", "", "false"},
		{"verbose", "", "false"}, {"ip", "", ""}, {"port", "", "0"}, {"expiretime", "", "3m0s"}, {"alivetime", "", "5m0s"},
		{"compress", "", "auto"},
	} {
		f := c.Flags().Lookup(v.name)
		if f == nil || f.Shorthand != v.short || f.DefValue != v.def || f.Usage == "" {
			t.Errorf("--%s: %+v, want %+v", v.name, f, v)
		}
	}
	server, _, err := newRoot(nil, h.surroundings(nil, nil)).Find([]string{"server"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data", "home", "ip", "port", "meta", "expiretime", "alivetime", "compress", "verbose"} {
		if server.Flags().Lookup(name) == nil {
			t.Errorf("dfget server has no --%s", name)
		}
	}
}

// TestFlagMeanings: what a job becomes of each flag.
func TestFlagMeanings(t *testing.T) {
	h := newHost(t)
	text := strings.Fields("-u http://o/f?a=1&b=2&c=3 -o out -m 0123456789ABCDEF0123456789abcdef -i id --callsystem cs -f b&c " +
		"-n a,b=2 -s 1MB --minrate 1k --totallimit 40M --clientqueue 3 --home /h -e 90 -p cdn --notbs --dfdaemon --insecure -b --verbose " +
		"--ip 127.0.0.2 --port 15001 --expiretime 1m --alivetime 2m --link copy --compress off --zone z --rack r")
	o := h.parsed(append(text, "--header", "A: b,c", "--header", "Range: bytes=0-9")...)
	g := get{o: &o, sign: "1-1.000", std: h.surroundings(nil, nil), target: target{"/out", false}}
	var err error
	if g.request, err = o.request(); err != nil {
		t.Fatal(err)
	}
	got := g.job()
	got.Config, got.Argv = nil, nil
	want := got // the rest is compared by its parts
	want.Request = dragonfly.Request{URL: "http://o/f?a=1&b=2&c=3", TaskURL: "http://o/f?a=1", Insecure: true, CallSystem: "cs", Digest: got.Request.Digest,
		Header: dragonfly.ParseHeader([]string{"A: b,c", "Range: bytes=0-9"})}
	want.Pattern, want.NoSource, want.Preset, want.IP = "cdn", true, false, "127.0.0.2"
	want.Nodes = []dragonfly.Member{{ID: "a:8002", Addr: "a:8002", Weight: 1}, {ID: "b:8002", Addr: "b:8002", Weight: 2}}
	want.Limit, want.MinRate, want.TotalLimit, want.Queue, want.Timeout = 1<<20, 1<<10, 40<<20, 3, 90*time.Second
	want.Verbose, want.Console, want.Stream, want.Target = true, false, false, "/out"
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b dragonfly.Digest) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	// v1 sends the identifier only if there is no md5 (v1-protocol 4.1).
	if d := got.Request.Digest.String(); !strings.Contains(d, "0123456789abcdef0123456789abcdef") || got.Request.Identifier != "" {
		t.Errorf("digest %s, identifier %q", d, got.Request.Identifier)
	}
	args := o.serverArgs()
	for _, pair := range [][2]string{{"--home", "/h"}, {"--data", "/h/data"}, {"--meta", "/h/meta"}, {"--expiretime", "1m0s"}, {"--alivetime", "2m0s"},
		{"--ip", "127.0.0.2"}, {"--port", "15001"}, {"--zone", "z"}, {"--rack", "r"}, {"--totallimit", "40MB"}, {"--compress", "off"}} {
		if i := slices.Index(args, pair[0]); i < 0 || args[i+1] != pair[1] {
			t.Errorf("the agent's %s: %q", pair[0], args)
		}
	}
	if !slices.Contains(args, "--verbose") {
		t.Errorf("%q", args)
	}
	if !o.DFDaemon || !o.ShowBar || o.Link != linkCopy {
		t.Errorf("%+v", o)
	}
}

// TestNodeLists: all of --node a --node b, as the FAQ shows, and of a comma
// list.
func TestNodeLists(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{
		{"--node", "supernode01", "--node", "supernode02:9002=2"},
		{"--node", "supernode01,supernode02:9002=2"},
		{"-n", "supernode01", "--node=supernode02:9002=2"},
	} {
		o := h.parsed(args...)
		members, preset := settings.Members(o.Nodes)
		want := []dragonfly.Member{{ID: "supernode01:8002", Addr: "supernode01:8002", Weight: 1}, {ID: "supernode02:9002", Addr: "supernode02:9002", Weight: 2}}
		if diff := cmp.Diff(want, members); diff != "" || preset {
			t.Errorf("%q: preset %t, %s", args, preset, diff)
		}
	}
	o := h.parsed()
	if members, preset := settings.Members(o.Nodes); !preset || len(members) != 1 || members[0].Addr != "127.0.0.1:8002" {
		t.Errorf("without any: %v, %t", members, preset)
	}
}

// TestTimeouts: durations, and seconds as in older scripts.
func TestTimeouts(t *testing.T) {
	h := newHost(t)
	for text, want := range map[string]time.Duration{"0": 0, "300": 5 * time.Minute, "1m30s": 90 * time.Second} {
		if o := h.parsed("-e", text); time.Duration(o.Timeout) != want {
			t.Errorf("-e %s: %s", text, time.Duration(o.Timeout))
		}
	}
	for _, text := range []string{"-1", "-1s", "99999999999", "1.5"} {
		if _, err := h.parse("--timeout=" + text); err == nil {
			t.Errorf("-e %s is taken", text)
		}
	}
}

// TestSettingsFile: v1's keys, in any case, and those of zones; flags win.
func TestSettingsFile(t *testing.T) {
	h := newHost(t)
	h.write(h.settings, `nodes:
    - supernode01
    - supernode02:9002=2
localLimit: 20M
minrate: 1KB
totalLimit: 40MB
clientQueueSize: 7
workHome: /var/lib/dfget
logConfig:
    maxSize: 20
    maxBackups: 3
    path: /var/log/dfclient.log
location: {zone: z1, rack: r1}
`)
	o := h.parsed("--locallimit", "1g", "--rack", "r2")
	if members, _ := settings.Members(o.Nodes); len(members) != 2 || members[1].Addr != "supernode02:9002" {
		t.Errorf("nodes %v", members)
	}
	want := settings.LogConfig{MaxSize: 20, MaxBackups: 3, Path: "/var/log/dfclient.log"}
	if o.LocalLimit != 1<<30 || o.MinRate != 1<<10 || o.TotalLimit != 40<<20 || o.ClientQueueSize != 7 || o.WorkHome != "/var/lib/dfget" || o.LogConfig != want {
		t.Errorf("%+v", o)
	}
	if o.Location.Zone != "z1" || o.Location.Rack != "r2" {
		t.Errorf("%+v", o.Location)
	}
	if o.clientLog() != want.Path {
		t.Errorf("log file %s", o.clientLog())
	}
	args := o.serverArgs()
	for _, pair := range [][2]string{{"--log-path", want.Path}, {"--log-size", "20"}, {"--log-backups", "3"}} {
		if i := slices.Index(args, pair[0]); i < 0 || args[i+1] != pair[1] {
			t.Errorf("the agent's %s: %q", pair[0], args)
		}
	}
}

// TestEnvironment: zone and rack as Kubernetes sets them, the rest by the
// keys' names; it beats the file, flags beat it.
func TestEnvironment(t *testing.T) {
	h := newHost(t)
	h.write(h.settings, "localLimit: 1MB\nlocation: {zone: file, rack: file}\n")
	h.env = map[string]string{"DRAGONFLY_ZONE": "z1", "DRAGONFLY_RACK": "r1", "DFGET_NODES": "a,b:9002", "DFGET_LOCALLIMIT": "2MB", "DFGET_PORT": "tcp://10.0.0.1:80"}
	o := h.parsed("--rack", "r2")
	if members, _ := settings.Members(o.Nodes); len(members) != 2 || o.Location != (settings.Location{Zone: "z1", Rack: "r2"}) || o.LocalLimit != 2<<20 || o.Port != 0 {
		t.Errorf("%v, %+v", members, o)
	}
	h.env["DFGET_LOCALLIMIT"] = "geheim"
	if _, err := h.parse(); err == nil || !strings.Contains(err.Error(), "environment variable DFGET_LOCALLIMIT: want a rate") || strings.Contains(err.Error(), "geheim") {
		t.Error(err)
	}
}

// TestINI: v1's other file is read when there is no first one (v1-protocol
// 12.1).
func TestINI(t *testing.T) {
	h := newHost(t)
	read := func(text string) ([]string, error) {
		h.write(h.ini, text)
		nodes, err := readINI(h.ini)
		var out []string
		for _, n := range nodes {
			out = append(out, n.String())
		}
		return out, err
	}
	for text, want := range map[string][]string{
		"[node]\naddress=127.0.0.1,10.10.10.1\n":                                      {"127.0.0.1:8002=1", "10.10.10.1:8002=1"},
		"# c\n; c\n\naddress=x\n[other]\naddress=y\n[Node]\n Address = a:1=3 , b ,\n": {"a:1=3", "b:8002=1"},
		"": nil,
	} {
		if got, err := read(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"[node]\naddress\n":          ":2: want key=value",
		"[node]\naddress=http://x\n": ":2: supernode",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), h.ini+want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	o := newOrigin(t, 10)
	h.serve()
	h.write(h.ini, "[node]\naddress="+nobody(t)+"\n")
	registers := func(args ...string) string {
		t.Helper()
		before := 0
		if _, err := os.Stat(h.home + "/logs/dfclient.log"); err == nil {
			before = len(h.log())
		}
		got := h.get(append([]string{"-o", h.path("f"), "-u", o.URL + "/f"}, args...)...)
		if got.status != 0 {
			t.Fatalf("exit status %d: %s%s", got.status, got.out, got.err)
		}
		_, rest, _ := strings.Cut(h.log()[before:], "do register to one of ")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	address := strings.TrimSpace(strings.TrimPrefix(contentOfPath(t, h.ini), "[node]\naddress="))
	if got := registers(); got != "config:["+address+"=1]" {
		t.Errorf("registers at %s", got)
	}
	other := nobody(t)
	if got := registers("--node", other); got != "config:["+other+"=1]" {
		t.Errorf("with --node it registers at %s", got)
	}
	h.write(h.settings, "nodes: ["+other+"]\n")
	if got := registers(); got != "config:["+other+"=1]" {
		t.Errorf("with the first file it registers at %s", got)
	}
}

func contentOfPath(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDigests: --md5 and --digest; what is not understood is an error.
func TestDigests(t *testing.T) {
	h := newHost(t)
	md5, sha := strings.Repeat("ab", 16), strings.Repeat("cd", 32)
	for _, v := range []struct {
		args []string
		want string // the sign of the task, none: an error
	}{
		{[]string{"-m", md5}, md5},
		{[]string{"-m", strings.ToUpper(md5)}, md5},
		{[]string{"--digest", "sha256:" + sha}, "sha256:" + sha},
		{[]string{"--digest", "md5:" + md5}, md5},
		{[]string{"--digest", "md5:" + md5, "-m", md5}, md5},
		{[]string{"--digest", "sha256:" + sha, "-m", md5}, ""},
		{[]string{"-m", "sha256:" + sha}, ""},
		{[]string{"--digest", sha[:63]}, ""},
		{[]string{"--digest", "crc32:" + md5[:8]}, ""},
	} {
		o := h.parsed(append(v.args, "-u", "http://o/f")...)
		r, err := o.request()
		switch {
		case (v.want == "") != (err != nil):
			t.Errorf("%q: %v, %v", v.args, r.Digest, err)
		case err == nil:
			if want := (dragonfly.Request{URL: "http://o/f", Identifier: v.want}); r.TaskID() != want.TaskID() {
				t.Errorf("%q is the task of %s", v.args, r.Digest)
			}
		}
	}
}

// TestCertificates: several files make one bundle.
func TestCertificates(t *testing.T) {
	h := newHost(t)
	block := func(s string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(s)}))
	}
	a, b := h.write(h.path("a.pem"), block("a")), h.write(h.path("b.pem"), strings.TrimSuffix(block("b"), "\n"))
	o := h.parsed("-u", "https://o/f", "--cacerts", a+","+b)
	r, err := o.request()
	if err != nil {
		t.Fatal(err)
	}
	rest := r.RootCAs
	for _, want := range []string{"a", "b"} {
		var got *pem.Block
		if got, rest = pem.Decode(rest); got == nil || string(got.Bytes) != want {
			t.Fatalf("block %v, want %s", got, want)
		}
	}
}

// TestFilter: only what the user names is left out of the task's URL, the
// source gets all of it.
func TestFilter(t *testing.T) {
	h := newHost(t)
	for filter, want := range map[string]string{"": "", "k": "http://o/f?a=1&sign=2", "k&sign": "http://o/f?a=1", "a&k&sign": "http://o/f", "x": "http://o/f?k=0&a=1&sign=2"} {
		o := h.parsed("-f", filter, "-u", "http://o/f?k=0&a=1&sign=2")
		r, err := o.request()
		if err != nil || r.TaskURL != want || r.URL != "http://o/f?k=0&a=1&sign=2" {
			t.Errorf("%q: %+v, %v", filter, r, err)
		}
	}
}
