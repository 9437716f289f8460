// SPDX-License-Identifier: Apache-2.0

package settings_test

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dragonfly"
	"dragonfly/internal/settings"
)

type proxy struct {
	Regx   string `key:"regx"`
	Direct bool   `key:"direct"`
}

type config struct {
	Base struct {
		ListenPort   int            `key:"listenPort" flag:"port" usage:"port for control"`
		HomeDir      string         `key:"homeDir" flag:"home-dir" usage:"home"`
		PoolSize     int            `key:"schedulerCorePoolSize" flag:"pool-size" usage:"routines" unused:"there is no pool"`
		Bandwidth    dragonfly.Rate `key:"maxBandwidth" flag:"max-bandwidth" usage:"rate"`
		YoungGC      dragonfly.Size `key:"youngGCThreshold" usage:"free bytes"`
		Expire       time.Duration  `key:"taskExpireTime" flag:"task-expire-time" usage:"time"`
		Interval     time.Duration  `key:"IntervalThreshold"`
		CleanRatio   float64        `key:"cleanratio"`
		Debug        bool           `key:"debug" flag:"debug" short:"D" usage:"debug"`
		PeerCIDR     []netip.Prefix `key:"peerCIDR" flag:"peer-cidr" usage:"networks"`
		AdvertiseIP  netip.Addr     `key:"advertiseIP" flag:"advertise-ip" usage:"address"`
		Location     settings.Location
		Log          settings.LogConfig `key:"logConfig"`
		Certificates []string           `key:"certs" flag:"cert"`
		ignoredByTag struct{}
	} `key:"base" env:"-"`
	Plugins settings.Ignored `key:"plugins" unused:"schedulers and stores are built in"`
	Proxies []proxy          `key:"proxies"`
	Header  []string         `flag:"header" split:"no" usage:"header line"`
}

func (c *config) Validate() error {
	if c.Base.ListenPort > 65535 {
		return errors.New("listenPort must be a port")
	}
	return c.Base.Log.Validate()
}

func defaults() *config {
	c := &config{}
	c.Base.ListenPort = 8002
	c.Base.HomeDir = "/home/admin/supernode"
	c.Base.Bandwidth = 200 << 20
	c.Base.YoungGC = 100 << 30
	c.Base.Expire = 3 * time.Minute
	c.Base.CleanRatio = 1
	c.Base.PeerCIDR = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	return c
}

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "c.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads file, environment ("NAME=value") and arguments.
func load(t *testing.T, file string, env, args []string) (*config, []string, error) {
	t.Helper()
	c := defaults()
	s := settings.Of(c)
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	s.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		return c, nil, err
	}
	notices, err := s.Load(settings.Source{
		Path: write(t, file), MustExist: true, Prefix: "SUPERNODE_",
		Lookup: func(name string) (string, bool) {
			for _, e := range env {
				if value, ok := strings.CutPrefix(e, name+"="); ok {
					return value, true
				}
			}
			return "", false
		},
	})
	return c, notices, err
}

// TestPrecedence: flags beat the environment, which beats the file, which
// beats the default.
func TestPrecedence(t *testing.T) {
	c, notices, err := load(t, `
base:
  listenPort: 1
  homeDir: /file
  maxBandwidth: 1MB
  taskExpireTime: 1m
  peerCIDR: [172.16.0.0/12, "fd00::/8"]
  Location: # not a key of this struct
`, nil, nil)
	if err == nil {
		t.Errorf("a field without a key is a key: %+v, %q", c, notices)
	}
	c, notices, err = load(t, `
base:
  listenPort: 1
  homeDir: /file
  maxBandwidth: 1MB
  taskExpireTime: 1m
  peerCIDR: [172.16.0.0/12, "fd00::/8"]
  logConfig: {maxSize: 7}
proxies:
- regx: a
  direct: true
- regx: b
`, []string{"SUPERNODE_HOMEDIR=/env", "SUPERNODE_MAXBANDWIDTH=2MB", "SUPERNODE_BASE.TASKEXPIRETIME=2m", "SUPERNODE_LOGCONFIG_MAXBACKUPS=9", "DRAGONFLY_ZONE=z"},
		[]string{"--max-bandwidth", "3MB", "--header", "A: 1,2", "--header", "B: 3", "-D"})
	if err != nil || len(notices) != 0 {
		t.Fatal(err, notices)
	}
	want := defaults()
	want.Base.ListenPort, want.Base.HomeDir, want.Base.Bandwidth, want.Base.Expire = 1, "/env", 3<<20, 2*time.Minute
	want.Base.PeerCIDR = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("fd00::/8")}
	want.Base.Log = settings.LogConfig{MaxSize: 7, MaxBackups: 9}
	want.Base.Debug = true
	want.Base.Location.Zone = "z"
	want.Proxies = []proxy{{"a", true}, {"b", false}}
	want.Header = []string{"A: 1,2", "B: 3"}
	same(t, want, c)
}

func same(t *testing.T, want, got *config) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{}.Base), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestListFlags: every use of a list's flag counts, commas separate items, and
// the default goes.
func TestListFlags(t *testing.T) {
	c, _, err := load(t, "", nil, []string{"--peer-cidr", "1.0.0.0/8,2.0.0.0/8", "--peer-cidr=3.0.0.0/8", "--cert", " a , b "})
	if err != nil || len(c.Base.PeerCIDR) != 3 || !slices.Equal(c.Base.Certificates, []string{"a", "b"}) {
		t.Errorf("%v, %q, %v", c.Base.PeerCIDR, c.Base.Certificates, err)
	}
}

// TestMistakes: each names its place and the way out.
func TestMistakes(t *testing.T) {
	for _, v := range []struct {
		file string
		want []string
	}{
		{"base:\n  listenport: 1\n  LISTENPORT: 2\n", []string{"c.yml:3: base.LISTENPORT stands in line 2 already"}},
		{"base:\n  listenPrt: 1\n", []string{"c.yml:2: base.listenPrt is not a setting; did you mean listenPort?"}},
		{"base:\n  cleanRatoi: 1\n", []string{"did you mean cleanratio?"}},
		{"base:\n  intervalTreshold: 1s\n", []string{"did you mean IntervalThreshold?"}},
		{"base:\n  nothingOfTheSort: 1\n", []string{"c.yml:2: base.nothingOfTheSort is not a setting\n"}},
		{"listenPort: 1\n", []string{"c.yml:1: listenPort is not a setting here; listenPort stands below base:"}},
		{"base:\n  proxies: []\n", []string{"base.proxies is not a setting here; proxies stands at the top"}},
		{"base:\n  maxSize: 1\n", []string{"maxSize stands below base.logConfig:"}},
		{"bas:\n  listenPort: 1\n", []string{"c.yml:1: bas is not a setting; did you mean base?"}},
		{"base:\n  listenPort: many\n", []string{`c.yml:2: base.listenPort: "many": want a whole number`}},
		{"base:\n  listenPort: [1, 2]\n", []string{"c.yml:2: base.listenPort: want a whole number"}},
		{"base:\n  debug: perhaps\n", []string{"want true or false"}},
		{"base:\n  taskExpireTime: 3\n", []string{"as in 3m0s"}},
		{"base:\n  taskExpireTime: -3s\n", []string{"as in 3m0s"}},
		{"base:\n  maxBandwidth: 20 MB\n", []string{"as in 20MB"}},
		{"base:\n  peerCIDR: 10.0.0.0\n", []string{"c.yml:2: base.peerCIDR"}},
		{"base: 7\n", []string{"c.yml:1: base: want a section with keys"}},
		{"proxies:\n- regx: a\n- rgx: b\n", []string{"c.yml:3: proxies.rgx is not a setting; did you mean regx?"}},
		{"- a\n", []string{"c.yml:1: want a section with keys"}},
		{"base: [\n", []string{"c.yml", "this is no YAML"}},
		{"base:\n\tlistenPort: 1\n", []string{"c.yml:2: this is no YAML"}},
		{"base:\n---\nbase:\n", []string{"c.yml:2: a second document"}},
		{"base:\n  listenPort: 70000\n", []string{"listenPort must be a port"}},
		{"base:\n  logConfig:\n    maxSize: -1\n", []string{"must not be negative"}},
		{"a: 1\nbase:\n  b: 2\n  debug: x\n", []string{"c.yml:1: a", "c.yml:3: base.b", "c.yml:4: base.debug"}}, // all at once
		{strings.Repeat("#", 1<<20+1), []string{"are no settings"}},
	} {
		_, _, err := load(t, v.file, nil, nil)
		if err == nil {
			t.Errorf("%.60q is taken", v.file)
			continue
		}
		for _, want := range v.want {
			if !strings.Contains(err.Error()+"\n", want) {
				t.Errorf("%.60q: %v\nwant %q", v.file, err, want)
			}
		}
	}
	for _, nothing := range []string{"", "# comment\n", "base:\n", "base:\n  homeDir:\n  listenPort: ~\n", "---\n"} {
		c, _, err := load(t, nothing, nil, nil)
		if err != nil {
			t.Errorf("%q: %v", nothing, err)
		}
		same(t, defaults(), c)
	}
}

// TestAliases: YAML's references are followed.
func TestAliases(t *testing.T) {
	c, _, err := load(t, "base:\n  homeDir: &h /x\n  logConfig: {path: *h}\n", nil, nil)
	if err != nil || c.Base.Log.Path != "/x" {
		t.Errorf("%q, %v", c.Base.Log.Path, err)
	}
}

// TestUnused: what v1 knew and has no effect any more is named in one line.
func TestUnused(t *testing.T) {
	c, notices, err := load(t, "base:\n  schedulerCorePoolSize: 3\nplugins:\n  storage:\n  - name: local\n    config: |\n      x\n", nil, []string{"--pool-size", "4"})
	if err != nil || c.Base.PoolSize != 4 || len(notices) != 1 {
		t.Fatal(c.Base.PoolSize, notices, err)
	}
	for _, want := range []string{"no effect", "base.schedulerCorePoolSize (", ":2)", "plugins (", "--pool-size"} {
		if !strings.Contains(notices[0], want) {
			t.Errorf("%q does not say %q", notices[0], want)
		}
	}
}

// TestFiles: a missing default file is none, a missing or unreadable named
// file is an error.
func TestFiles(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.yml")
	if _, err := settings.Of(defaults()).Load(settings.Source{Path: missing}); err != nil {
		t.Error(err)
	}
	for _, path := range []string{missing, t.TempDir()} {
		if _, err := settings.Of(defaults()).Load(settings.Source{Path: path, MustExist: true}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestEnvironment: a bad value is not repeated, it may be a secret; what
// Kubernetes sets for a service of our name is no setting.
func TestEnvironment(t *testing.T) {
	_, _, err := load(t, "", []string{"SUPERNODE_LISTENPORT=s3cret"}, nil)
	if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "SUPERNODE_LISTENPORT") {
		t.Errorf("error %v", err)
	}
	c, notices, err := load(t, "", []string{"SUPERNODE_LISTENPORT=tcp://10.0.0.1:8002", "SUPERNODE_OTHER=1", "SUPERNODE_SCHEDULERCOREPOOLSIZE=1"}, nil)
	if err != nil || c.Base.ListenPort != 8002 || len(notices) != 2 {
		t.Errorf("%d, %q, %v", c.Base.ListenPort, notices, err)
	}
}

// TestYAML: what is printed reads as what was printed, with and without
// changes, and leaves out what does nothing.
func TestYAML(t *testing.T) {
	c := defaults()
	c.Base.Location.Zone = "z"
	c.Base.AdvertiseIP = netip.MustParseAddr("127.0.0.1")
	c.Base.HomeDir = "true" // a text that looks like something else
	c.Proxies = []proxy{{"a: b", true}}
	for _, c := range []*config{defaults(), c} {
		var b bytes.Buffer
		if err := settings.Of(c).YAML(&b); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), "maxBandwidth: 200MB") || !strings.Contains(b.String(), "# port for control") || strings.Contains(b.String(), "PoolSize") {
			t.Errorf("printed:\n%s", &b)
		}
		back, notices, err := load(t, b.String(), nil, nil)
		if err != nil || len(notices) != 0 {
			t.Fatal(err, notices, b.String())
		}
		c.Base.Location = settings.Location{} // has no key in this struct
		want := *c
		if len(want.Proxies) == 0 {
			want.Proxies = []proxy{}
		}
		want.Base.Certificates = []string{}
		same(t, &want, back)
	}
}

// TestJavaForm: users' notes still show -Dsupernode.advertiseIp=IP.
func TestJavaForm(t *testing.T) {
	s := settings.Of(defaults())
	got, err := s.JavaArgs("supernode.", []string{"-D", "-Dsupernode.advertiseIp=1.2.3.4", "--port", "1", "-Dsupernode.listenport=2", "-Dother=3", "--", "-Dsupernode.x=y"})
	want := []string{"-D", "--advertise-ip=1.2.3.4", "--port", "1", "--port=2", "-Dother=3", "--", "-Dsupernode.x=y"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for arg, hint := range map[string]string{
		"-Dsupernode.advertisIp=1": "did you mean advertiseIP?",
		"-Dsupernode.advertiseIp":  "=VALUE",
		"-Dsupernode.":             "=VALUE",
	} {
		if _, err := s.JavaArgs("supernode.", []string{arg}); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func command() *cobra.Command {
	c := &cobra.Command{Use: "tool", Short: "Do it", Long: "Do it.\n\n.well -\\", Example: "tool --port 1", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return nil }}
	settings.Of(defaults()).AddFlags(c.Flags())
	c.SetFlagErrorFunc(settings.FlagError)
	c.AddCommand(&cobra.Command{Use: "sub", Short: "Below", RunE: c.RunE}, settings.GenDoc())
	return c
}

// TestMisspelledFlags: the nearest right one is named.
func TestMisspelledFlags(t *testing.T) {
	for arg, want := range map[string]string{
		"--prot":           "unknown flag --prot; did you mean --port?",
		"--max-bandwith=3": "did you mean --max-bandwidth?",
		"--zzzzzzzz":       "unknown flag --zzzzzzzz; see tool --help",
		"-Z":               "see tool --help",
		"--port=x":         `want a whole number`,
		"--peer-cidr=x":    "--peer-cidr",
	} {
		c := command()
		c.SetArgs([]string{arg})
		if err := c.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
}

// TestPages: every command has its page in both formats; man's roff has no
// request out of the text.
func TestPages(t *testing.T) {
	for format, file := range map[string]string{"markdown": ".md", "man": ".1"} {
		dir := t.TempDir()
		c := command()
		c.SetArgs([]string{"gen-doc", "--path", filepath.Join(dir, "new"), "--format", format})
		if err := c.Execute(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"tool", "tool-sub", "tool-gen-doc"} {
			text, err := os.ReadFile(filepath.Join(dir, "new", name+file))
			if err != nil {
				t.Fatal(err)
			}
			if name == "tool" && !strings.Contains(strings.ReplaceAll(string(text), `\-`, "-"), "max-bandwidth") {
				t.Errorf("%s: no flags in\n%s", name+file, text)
			}
			if format == "man" {
				for _, line := range strings.Split(string(text), "\n") {
					if strings.HasPrefix(line, ".well") {
						t.Errorf("text became a request: %q", line)
					}
				}
				if groff, err := exec.LookPath("groff"); err == nil {
					cmd := exec.Command(groff, "-man", "-Tutf8", "-ww")
					cmd.Stdin = bytes.NewReader(text)
					cmd.Stdout = io.Discard
					var complaints bytes.Buffer
					cmd.Stderr = &complaints
					if err := cmd.Run(); err != nil || complaints.Len() > 0 {
						t.Errorf("%s: %v %s", name, err, &complaints)
					}
				}
			}
		}
	}
	c := command()
	c.SetArgs([]string{"gen-doc", "--format", "pdf"})
	if err := c.Execute(); err == nil || !strings.Contains(err.Error(), "markdown or man") {
		t.Error(err)
	}
}

// TestHelp: help shows defaults and what does nothing any more.
func TestHelp(t *testing.T) {
	c := command()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetArgs([]string{"--help"})
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--max-bandwidth rate", "(default 200MB)", "-D, --debug", "no effect any more: there is no pool", "(default 10.0.0.0/8)", "--task-expire-time duration"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("help does not say %q:\n%s", want, &out)
		}
	}
}

// TestGroupedHelp: flags stand under the titles of their struct, in its order,
// a section's with those of the section; the rest and the appendix follow.
func TestGroupedHelp(t *testing.T) {
	var o struct {
		Zulu     string            `flag:"zulu" group:"First" usage:"the last letter"`
		Location settings.Location `key:"location" group:"Second"`
		Alpha    bool              `flag:"alpha" group:"First" usage:"the first letter of a text that is so long that it does not fit into one line"`
		Other    int               `flag:"other" usage:"in no group"`
	}
	c := &cobra.Command{Use: "tool", Short: "A tool", Example: "  tool --zulu z", Run: func(*cobra.Command, []string) {},
		Annotations: map[string]string{settings.Appendix: "Files:\n  /etc/tool  settings\n\nExit status:\n  0  good"}}
	settings.Of(&o).AddFlags(c.Flags())
	c.Flags().SortFlags = false
	c.AddCommand(&cobra.Command{Use: "sub", Short: "Another", Run: func(*cobra.Command, []string) {}})
	c.CompletionOptions.DisableDefaultCmd = true
	c.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
	settings.Help(c, func() int { return 60 })
	var out bytes.Buffer
	c.SetOut(&out)
	if err := c.Usage(); err != nil {
		t.Fatal(err)
	}
	want := `Usage:
  tool [flags]
  tool COMMAND

Examples:
  tool --zulu z

First:
      --zulu string   the last letter
      --alpha         the first letter of a text that
                      is so long that it does not fit
                      into one line

Second:
      --zone string   data centre or availability zone
                      of this host; peers of one zone
                      fetch from one another first
      --rack string   rack of this host within its zone

Other flags:
      --other int           in no group
  -h, --help                help for tool

Commands:
  sub          Another

Files:
  /etc/tool  settings

Exit status:
  0  good
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	for _, page := range []string{settings.Manual(c), settings.Markdown(c)} {
		plain := strings.ToLower(strings.ReplaceAll(page, `\-`, "-"))
		for _, part := range []string{"first", "second", "other flags", "--zulu", "files\n", "/etc/tool  settings", "exit status\n", "0  good"} {
			if !strings.Contains(plain, part) {
				t.Errorf("no %q in\n%s", part, page)
			}
		}
	}
}

// FuzzFile: no file makes Load panic, and one that it takes, printed, is taken
// again.
func FuzzFile(f *testing.F) {
	for _, s := range []string{"", "base:\n  listenPort: 1\n", "plugins: {a: [b]}\n", "base: &a\n  homeDir: *a\n", "base: {<<: {}}", "proxies: [{regx: a}]\n"} {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "c.yml")
		read := func(text string) (*config, error) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c := defaults()
			_, err := settings.Of(c).Load(settings.Source{Path: path, MustExist: true})
			return c, err
		}
		c, err := read(text)
		if err != nil {
			return
		}
		var out strings.Builder
		if err := settings.Of(c).YAML(&out); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if _, err := read(out.String()); err != nil {
			t.Fatalf("%q is printed as %q: %v", text, &out, err)
		}
	})
}
