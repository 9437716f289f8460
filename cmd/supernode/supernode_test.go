// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"dragonfly"
	"dragonfly/internal/swarm"
	"dragonfly/wire"
)

// locked is a buffer for several writers.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tool is a program whose supernode is only recorded.
type tool struct {
	program
	stdout, stderr *locked
	env            map[string]string
	built          *base
}

func newTool(t *testing.T) *tool {
	x := &tool{stdout: &locked{}, stderr: &locked{}, env: map[string]string{}}
	// Whatever this machine has in /etc is not read.
	empty := filepath.Join(t.TempDir(), "supernode.yml")
	write(t, empty, "")
	x.env["SUPERNODE_CONFIG"] = empty
	x.program = program{
		build: func(b base, log *slog.Logger) (service, error) {
			x.built = &b
			return service{}, errors.New("enough seen")
		},
		lookup: func(name string) (string, bool) { value, ok := x.env[name]; return value, ok },
		stdout: x.stdout, stderr: x.stderr,
	}
	return x
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// freePort is a port that nobody had a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	port, err := swarm.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(port)
}

// parsed is what a command line and a file come to.
func parsed(t *testing.T, file string, args ...string) (base, string) {
	t.Helper()
	x := newTool(t)
	path := filepath.Join(t.TempDir(), "sn.yml")
	write(t, path, file)
	args = append([]string{"--config", path, "--home-dir", t.TempDir(), "--port", freePort(t), "--download-port", freePort(t)}, args...)
	if code := x.execute(t.Context(), args); code != 1 || x.built == nil {
		t.Fatalf("%q: %s", args, x.stderr)
	}
	return *x.built, x.stderr.String()
}

// TestEveryFlagOfV1: every flag and key that v1 knew is taken; what has no
// effect any more is named once (v1-protocol 12.2).
func TestEveryFlagOfV1(t *testing.T) {
	b, log := parsed(t, `
base:
  cdnPattern: local
  schedulerCorePoolSize: 20
  eliminationLimit: 6
  failureCountLimit: 7
  linkLimit: 30M
  systemReservedBandwidth: 1M
  gcDiskInterval: 16s
  youngGCThreshold: 50GB
  fullGCThreshold: 4GB
  IntervalThreshold: 3h
  cleanratio: 2
  logConfig: {maxSize: 50, maxBackups: 2}
  location: {zone: z1, rack: r1}
plugins:
  scheduler: []
storages:
- local
`,
		"--cdn-pattern", "local", "--pool-size", "11", "--up-limit", "6", "--down-limit", "3",
		"--system-bandwidth", "20M", "--max-bandwidth", "100MB", "--compress", "off", "--profiler", "-D",
		"--advertise-ip", "127.0.0.1", "--fail-access-interval", "1m", "--gc-initial-delay", "1s", "--gc-meta-interval", "1m",
		"--task-expire-time", "4m", "--peer-gc-delay", "5m", "--rack", "r2", "--log-level", "warn",
		"--peer-cidr", "10.0.0.0/8,192.0.2.0/24", "--source-allow", "169.254.1.0/24", "--source-deny", "10.9.0.0/16")
	if b.PeerUpLimit != 6 || b.PeerDownLimit != 3 || b.EliminationLimit != 6 || b.FailureCountLimit != 7 || !b.EnableProfiler || !b.Compress.Off ||
		b.limit() != 80<<20 || b.IntervalThreshold.Hours() != 3 || b.YoungGCThreshold != 50<<30 || b.LogConfig.MaxSize != 50 ||
		b.Location.Zone != "z1" || b.Location.Rack != "r2" || b.level() != slog.LevelDebug || len(b.PeerCIDR) != 2 ||
		b.SourceAllow[0] != netip.MustParsePrefix("169.254.1.0/24") || b.PeerGCDelay.Minutes() != 5 {
		t.Errorf("%+v", b)
	}
	if n := strings.Count(log, "no effect any more"); n != 1 {
		t.Errorf("%d notices:\n%s", n, log)
	}
	for _, name := range []string{"--pool-size", "--gc-meta-interval", "base.linkLimit", "base.cleanratio", "plugins", "storages"} {
		if !strings.Contains(log, name) {
			t.Errorf("%s is not named:\n%s", name, log)
		}
	}
}

// TestDefaults: v1's, and no limit of bandwidth.
func TestDefaults(t *testing.T) {
	d := defaultConfig()
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
	b := d.Base
	if b.ListenPort != 8002 || b.DownloadPort != 8001 || b.HomeDir != "/home/admin/supernode" || b.PeerUpLimit != 5 || b.PeerDownLimit != 4 || b.Compress.Off ||
		b.limit() != 0 || b.logFile() != "/home/admin/supernode/logs/app.log" || b.level() != slog.LevelInfo {
		t.Errorf("%+v", b)
	}
}

// TestJavaForm: users' notes still show it; -D alone is the debug flag.
func TestJavaForm(t *testing.T) {
	if b, _ := parsed(t, "", "-Dsupernode.advertiseIp=127.0.0.7", "-D"); b.AdvertiseIP != "127.0.0.7" || !b.Debug {
		t.Errorf("%+v", b)
	}
}

// TestEnvironment: SUPERNODE_ and the key; zone and rack have the names that
// all commands share. What Kubernetes sets for a service called supernode is
// not taken for a setting.
func TestEnvironment(t *testing.T) {
	x := newTool(t)
	x.env["SUPERNODE_HOMEDIR"] = t.TempDir()
	x.env["SUPERNODE_LISTENPORT"] = freePort(t)
	x.env["SUPERNODE_DOWNLOADPORT"] = freePort(t)
	x.env["SUPERNODE_UPLIMIT"] = "no setting"
	x.env["SUPERNODE_PORT"] = "tcp://10.0.0.1:8002"
	x.env["SUPERNODE_PEERUPLIMIT"] = "9"
	x.env["DRAGONFLY_ZONE"] = "z"
	x.execute(t.Context(), nil)
	if x.built == nil || x.built.PeerUpLimit != 9 || x.built.Location.Zone != "z" || strconv.Itoa(x.built.ListenPort) != x.env["SUPERNODE_LISTENPORT"] {
		t.Errorf("%+v: %s", x.built, x.stderr)
	}
}

// TestMistakes: each is told with its remedy before anything is opened.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sn.yml")
	for _, v := range []struct {
		file string
		args []string
		want string
	}{
		{"", []string{"--advertise-pi", "1"}, "unknown flag --advertise-pi; did you mean --advertise-ip?"},
		{"", []string{"-Dsupernode.advertizeIp=1"}, "did you mean advertiseIP?"},
		{"", []string{"--config", filepath.Join(dir, "none.yml")}, "none.yml"},
		{"", []string{"extra"}, "extra"},
		{"base:\n  listenPrt: 1\n", nil, file + ":2: base.listenPrt is not a setting; did you mean listenPort?"},
		{"listenPort: 1\n", nil, "stands below base:"},
		{"base:\n  cleanRatio: x\n", nil, file + ":2: base.cleanRatio"},
		{"", []string{"--port", "0"}, "is no port"},
		{"", []string{"--port", "9", "--download-port", "9"}, "a port each"},
		{"", []string{"--up-limit", "0"}, "--up-limit"},
		{"", []string{"--cdn-pattern", "cloud"}, "want local or source"},
		{"", []string{"--advertise-ip", "0.0.0.0"}, "--advertise-ip"},
		{"", []string{"--advertise-ip", "host"}, "--advertise-ip"},
		{"", []string{"--max-bandwidth", "10M", "--system-bandwidth", "20M"}, "leaves nothing"},
		{"", []string{"--max-bandwidth", "fast"}, "as in 20MB"},
		{"", []string{"--peer-cidr", "10.0.0.1"}, "--peer-cidr"},
		{"", []string{"--log-level", "loud"}, "--log-level"},
		{"base:\n  fullGCThreshold: 200GB\n", nil, "youngGCThreshold"},
		{"base:\n  gcDiskInterval: 0s\n", nil, "gcDiskInterval"},
		{"base:\n  homeDir: ''\n", nil, "--home-dir"},
	} {
		x := newTool(t)
		write(t, file, v.file)
		code := x.execute(t.Context(), append([]string{"--config", file}, v.args...))
		if code != 1 || x.built != nil || !strings.Contains(x.stderr.String(), v.want) || !strings.HasPrefix(x.stderr.String(), "supernode: ") {
			t.Errorf("%q %q: code %d, %s\nwant %q", v.file, v.args, code, x.stderr, v.want)
		}
	}
}

// TestConfigDefault: what is printed is a file that says the defaults.
func TestConfigDefault(t *testing.T) {
	x := newTool(t)
	if code := x.execute(t.Context(), []string{"config", "default"}); code != 0 {
		t.Fatal(x.stderr)
	}
	for _, want := range []string{"base:\n", "listenPort: 8002", "youngGCThreshold: 100GB", "failAccessInterval: 3m0s", "logLevel: INFO"} {
		if !strings.Contains(x.stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, x.stdout)
		}
	}
	b, log := parsed(t, x.stdout.String())
	want, _ := parsed(t, "")
	b.ListenPort, b.DownloadPort, b.HomeDir = want.ListenPort, want.DownloadPort, want.HomeDir
	if fmt.Sprint(b) != fmt.Sprint(want) || strings.Contains(log, "no effect") {
		t.Errorf("printed defaults read as\n%+v\nwant\n%+v\n%s", b, want, log)
	}
}

// TestSubcommands: what else the command line can do works without a home.
func TestSubcommands(t *testing.T) {
	for _, v := range []struct {
		args []string
		want string
	}{
		{[]string{"version"}, "supernode version  "},
		{[]string{"version", "--json"}, `"GoVersion":`},
		{[]string{"completion", "bash"}, "__start_supernode"},
		{[]string{"--help"}, "-Dsupernode.advertiseIp=IP"},
	} {
		x := newTool(t)
		if code := x.execute(t.Context(), v.args); code != 0 || !strings.Contains(x.stdout.String(), v.want) || x.stderr.String() != "" {
			t.Errorf("%q: code %d, %s%s", v.args, code, x.stdout, x.stderr)
		}
	}
	x, dir := newTool(t), t.TempDir()
	if code := x.execute(t.Context(), []string{"gen-doc", "--path", dir, "--format", "man"}); code != 0 {
		t.Fatal(x.stderr)
	}
	page, err := os.ReadFile(filepath.Join(dir, "supernode.1"))
	if err != nil || !strings.Contains(string(page), `\-\-advertise\-ip`) {
		t.Errorf("%s, %v", page, err)
	}
}

// TestPortInUse: the error names the port, who has it, and what to do.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, taken, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	self := fmt.Sprintf("(process %d)", os.Getpid())
	for _, v := range []struct {
		args []string
		want []string
	}{
		{[]string{"--port", freePort(t), "--download-port", taken}, []string{"port " + taken + " is in use by ", self, "a file server is no longer needed beside supernode", "--download-port"}},
		{[]string{"--port", taken, "--download-port", freePort(t)}, []string{"port " + taken + " is in use by ", self, "give --port"}},
	} {
		x, home := newTool(t), t.TempDir()
		code := x.execute(t.Context(), append([]string{"--home-dir", filepath.Join(home, "new")}, v.args...))
		for _, want := range v.want {
			if code != 1 || !strings.Contains(x.stderr.String(), want) {
				t.Errorf("%q: code %d, %s\nwant %q", v.args, code, x.stderr, want)
			}
		}
		if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestPortUser: without a look at the other process it is just another one.
func TestPortUser(t *testing.T) {
	const table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n" +
		"   1: 0100007F:1F42 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 78 1\n"
	proc := fstest.MapFS{
		"net/tcp": {Data: []byte(table)},
		"5/comm":  {Data: []byte("nginx\n")},
		"5/fd/3":  {Mode: os.ModeSymlink, Data: []byte("socket:[77]")},
		"6/fd/3":  {Mode: os.ModeSymlink, Data: []byte("socket:[78]")},
	}
	for port, want := range map[int]string{0x1f41: "nginx (process 5)", 0x1f42: "another process", 1: "another process"} {
		if got := portUser(proc, port); got != want {
			t.Errorf("port %d: %s, want %s", port, got, want)
		}
	}
}

// TestUnwritableHome: the remedy is named.
func TestUnwritableHome(t *testing.T) {
	x, dir := newTool(t), t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	code := x.execute(t.Context(), []string{"--port", freePort(t), "--download-port", freePort(t), "--home-dir", filepath.Join(dir, "file")})
	if code != 1 || x.built != nil || !strings.Contains(x.stderr.String(), "give --home-dir") {
		t.Errorf("code %d: %s", code, x.stderr)
	}
}

// patient is a Tracker whose sync waits until it is told to end.
type patient struct{ waiting chan struct{} }

func (s patient) Open(context.Context, dragonfly.Hello) (dragonfly.Session, error) { return s, nil }
func (s patient) Welcome() dragonfly.Welcome {
	return dragonfly.Welcome{Session: "s", Poll: 1 << 40}
}
func (s patient) Register(context.Context, dragonfly.Registration) (dragonfly.TaskInfo, error) {
	return dragonfly.TaskInfo{}, nil
}
func (s patient) Sync(ctx context.Context, _ dragonfly.Report) (dragonfly.Work, error) {
	s.waiting <- struct{}{}
	<-ctx.Done()
	return dragonfly.Work{}, ctx.Err()
}
func (s patient) Close(context.Context, string) error { return nil }

// TestService: both ports answer, a signal ends open polls at once, and what
// runs in the background ends after them.
func TestService(t *testing.T) {
	listener := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	tracker := patient{waiting: make(chan struct{})}
	var log locked
	sick := make(chan error, 1)
	ended := make(chan struct{})
	text := func(s string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) })
	}
	s := service{
		tracker: tracker, data: text("data"), admin: text("admin"), profiler: true,
		background: []func(context.Context) error{func(ctx context.Context) error {
			<-ctx.Done()
			close(ended)
			return errors.New("did not end well")
		}},
		healthy: func() error {
			select {
			case err := <-sick:
				return err
			default:
				return nil
			}
		},
		log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	control, data := listener(), listener()
	ctx, signal := context.WithCancel(t.Context())
	defer signal()
	done := make(chan error, 1)
	go func() { done <- s.run(ctx, control, data) }()

	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	get := func(l net.Listener, path string) (int, string, string) {
		t.Helper()
		resp, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body), resp.Header.Get("Content-Type")
	}
	for _, v := range []struct {
		on         net.Listener
		path, want string
		status     int
	}{
		{control, "/_ping", "OK", 200},
		{control, "/healthy", "OK\n", 200},
		{control, "/version", `"Version":`, 200},
		{control, "/metrics", "admin", 200},
		{control, "/p2p/v1/state/tasks", "admin", 200},
		{control, "/p2p/v1/nothing", `"kind":"protocol-mismatch"`, 404},
		{control, "/debug/pprof/", "goroutine", 200},
		{control, "/nothing", "404", 404},
		{data, "/anything", "data", 200},
	} {
		if status, body, _ := get(v.on, v.path); status != v.status || !strings.Contains(body, v.want) {
			t.Errorf("%s: %d %q", v.path, status, body)
		}
	}
	if _, body, mediaType := get(control, "/_ping"); body != "OK" || !strings.HasPrefix(mediaType, "text/plain") {
		t.Errorf("/_ping: %q as %s", body, mediaType)
	}
	sick <- errors.New("disk is gone")
	if status, body, _ := get(control, "/healthy"); status != http.StatusServiceUnavailable || !strings.Contains(body, "disk is gone") {
		t.Errorf("/healthy: %d %q", status, body)
	}

	peer := wire.NewClient(control.Addr().String(), wire.ClientOptions{})
	defer peer.Close()
	session, err := peer.Open(t.Context(), dragonfly.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	polled := make(chan error, 1)
	go func() { _, err := session.Sync(t.Context(), dragonfly.Report{Seq: 1}); polled <- err }()
	<-tracker.waiting
	signal()
	if err := <-polled; dragonfly.KindOf(err) != dragonfly.Unavailable || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("an open poll ends with %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("run ends with %v", err)
	}
	<-ended
	if !strings.Contains(log.String(), "did not end well") {
		t.Errorf("the background's failure is not logged:\n%s", &log)
	}
	if _, err := net.Dial("tcp", data.Addr().String()); err == nil {
		t.Error("the data port is still open")
	}
}

// TestServiceFails: a part that ends by itself ends the service with its
// error, and so does a listener that breaks.
func TestServiceFails(t *testing.T) {
	for name, spoil := range map[string]func(*service, net.Listener){
		"broken part": func(s *service, _ net.Listener) {
			s.background = append(s.background, func(context.Context) error { return errors.New("broken part") })
		},
		"ended by itself": func(s *service, _ net.Listener) {
			s.background = append(s.background, func(context.Context) error { return nil })
		},
		"serve 127.0.0.1": func(_ *service, l net.Listener) { l.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			var ls [2]net.Listener
			for i := range ls {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				ls[i] = l
			}
			s := service{tracker: patient{}, data: http.NotFoundHandler(), admin: http.NotFoundHandler(), log: slog.New(slog.DiscardHandler)}
			spoil(&s, ls[0])
			if err := s.run(t.Context(), ls[0], ls[1]); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("run ends with %v", err)
			}
		})
	}
}
