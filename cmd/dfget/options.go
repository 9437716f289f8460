// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"dragonfly"
	"dragonfly/agent"
	"dragonfly/internal/settings"
	"dragonfly/peer"
)

const (
	settingsPath = "/etc/dragonfly/dfget.yml"
	iniPath      = "/etc/dragonfly.conf" // v1's other file
	// presetLimit is the limit of a task that nobody asked for (FAQ: bandwidth
	// limit); it alone is worth a hint when it held a download back.
	presetLimit = 10 << 20
	filePath    = "config"
)

// options are the flags and file keys of dfget, v1's with their names and
// meaning (v1-protocol 12.1).
type options struct {
	URL        string   `flag:"url" short:"u" group:"What to download and where to" usage:"what to download, http or https; may stand alone as an argument"`
	Output     string   `flag:"output" short:"o" group:"What to download and where to" usage:"where to put it: a file, or - for stdout (default: the URL's last path element)"`
	InputFile  string   `flag:"input-file" group:"What to download and where to" usage:"list of what to download, a URL a line and a name for its output behind it if wanted; - for stdin; -o names the directory then"`
	Link       string   `flag:"link" group:"What to download and where to" usage:"how the output is made: reflink, hard, copy, or auto: the first of them that works"`
	Digest     string   `flag:"digest" group:"What to download and where to" usage:"expected digest of the file, as in sha256:HEX; also sha512 and md5"`
	MD5        string   `flag:"md5" short:"m" group:"What to download and where to" usage:"expected MD5 of the file"`
	Identifier string   `flag:"identifier" short:"i" group:"What to download and where to" usage:"tells contents of one URL apart, when no digest is given"`
	Filter     string   `flag:"filter" short:"f" group:"What to download and where to" usage:"query parameters that do not matter for what is downloaded, as in 'key&sign'"`
	Header     []string `flag:"header" split:"no" group:"What to download and where to" usage:"header for the source, as in 'Name: value'; may be repeated"`
	CACerts    []string `flag:"cacerts" group:"What to download and where to" usage:"files with certificates of authorities for the source, PEM"`
	Insecure   bool     `flag:"insecure" group:"What to download and where to" usage:"do not check the source's certificate"`

	Nodes    []settings.Node   `key:"nodes" flag:"node" short:"n" group:"The swarm" usage:"supernodes, host[:port][=weight]; a comma list, or the flag several times (default 127.0.0.1:8002)"`
	Pattern  string            `flag:"pattern" short:"p" group:"The swarm" usage:"p2p: fetch from the swarm and serve it; cdn: fetch only; source: straight from the source"`
	NoSource bool              `flag:"notbs" group:"The swarm" usage:"never download from the source: fail when the swarm cannot"`
	Compress settings.Compress `key:"compress" flag:"compress" group:"The swarm" usage:"auto: the dfget server's data goes compressed to other hosts, and from them, where that is faster; off: never"`
	Location settings.Location `key:"location" group:"The swarm"`

	LocalLimit      dragonfly.Rate `key:"localLimit" flag:"locallimit" short:"s" group:"Limits" usage:"receiving limit of this download per second, as in 20MB; 0: none"`
	TotalLimit      dragonfly.Rate `key:"totalLimit" flag:"totallimit" group:"Limits" usage:"limit per second of all receiving and, separately, of all sending of this account's dfget server; 0: leave it as it is"`
	MinRate         dragonfly.Rate `key:"minRate" flag:"minrate" group:"Limits" usage:"slowest rate per second that is put up with: a download of N bytes may take 10 s and N/minrate"`
	Timeout         timeout        `flag:"timeout" short:"e" group:"Limits" usage:"longest time for the download, as in 10m or in seconds (default: from --minrate)"`
	ClientQueueSize int            `key:"clientQueueSize" flag:"clientqueue" group:"Limits" usage:"pieces in the receive queue"`

	ShowBar bool `flag:"showbar" short:"b" group:"What is shown" usage:"show progress even if stdout is no terminal"`
	Console bool `flag:"console" group:"What is shown" usage:"show the log lines instead of progress"`
	JSON    bool `flag:"json" group:"What is shown" usage:"print progress and the result as JSON, one object a line"`
	Verbose bool `flag:"verbose" group:"What is shown" usage:"log more"`

	WorkHome   string             `key:"workHome" flag:"home" group:"This host and its dfget server" usage:"directory for data, logs and meta (default $HOME/.small-dragonfly)"`
	IP         string             `flag:"ip" group:"This host and its dfget server" usage:"address of this host (default: found out)"`
	Port       int                `flag:"port" group:"This host and its dfget server" usage:"data port of the dfget server, 15000 to 65000; 0: chosen"`
	ExpireTime time.Duration      `flag:"expiretime" group:"This host and its dfget server" usage:"how long the dfget server keeps what nobody uses"`
	AliveTime  time.Duration      `flag:"alivetime" group:"This host and its dfget server" usage:"how long the dfget server stays with nothing to do; 0: for ever"`
	LogConfig  settings.LogConfig `key:"logConfig"`
	CallSystem string             `flag:"callsystem" group:"Who calls" usage:"label of the caller in the supernode's metrics"`
	DFDaemon   bool               `flag:"dfdaemon" group:"Who calls" usage:"the caller is dfdaemon"`
}

func presets() options {
	return options{LocalLimit: presetLimit, MinRate: 64 << 10, ClientQueueSize: 6, Pattern: peer.PatternP2P, Link: linkAuto,
		ExpireTime: 3 * time.Minute, AliveTime: 5 * time.Minute}
}

// Validate checks what can be checked without looking at the world.
func (o *options) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch o.Link {
	case linkAuto, linkReflink, linkHard, linkCopy:
	default:
		wrong("--link %q: want auto, reflink, hard or copy", o.Link)
	}
	if o.ClientQueueSize < 1 {
		wrong("--clientqueue %d: want at least 1", o.ClientQueueSize)
	}
	if err := checkPort(o.Port); err != nil {
		errs = append(errs, err)
	}
	if err := checkIP(o.IP); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, o.LogConfig.Validate())...)
}

func checkPort(port int) error {
	if port != 0 && (port < agent.LowestPort || port > agent.HighestPort) {
		return fmt.Errorf("--port %d: want 0 or a port from %d to %d", port, agent.LowestPort, agent.HighestPort)
	}
	return nil
}

func checkIP(ip string) error {
	if _, err := netip.ParseAddr(ip); ip != "" && err != nil {
		return fmt.Errorf("--ip %q: want an address, as in 192.168.0.2", ip)
	}
	return nil
}

// timeout is a duration; a bare number counts seconds, as in older scripts.
type timeout time.Duration

func (t *timeout) UnmarshalText(b []byte) error {
	text := string(b)
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		*t = timeout(time.Duration(seconds) * time.Second)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("%q: want a duration, as in 10m, or a number of seconds", text)
	}
	*t = timeout(d)
	return nil
}

func (t timeout) MarshalText() ([]byte, error) {
	if t == 0 {
		return nil, nil
	}
	return []byte(time.Duration(t).String()), nil
}

func (t timeout) Type() string { return "duration" }

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// readINI reads v1's other settings file: [node] address=ip1,ip2. A file that
// is not there has no nodes.
func readINI(name string) (nodes []settings.Node, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	defer f.Close()
	section := ""
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = strings.ToLower(strings.TrimSpace(line[1 : len(line)-1]))
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%s:%d: want key=value", name, n)
		}
		if section != "node" || !strings.EqualFold(strings.TrimSpace(key), "address") {
			continue
		}
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			var m settings.Node
			if err := m.UnmarshalText([]byte(item)); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, n, err)
			}
			nodes = append(nodes, m)
		}
	}
	return nodes, lines.Err()
}

// request is what the source is asked for. Its errors are the user's to mend.
func (o *options) request() (dragonfly.Request, error) {
	u, err := url.Parse(o.URL)
	switch {
	case o.URL == "":
		return dragonfly.Request{}, errors.New("no url: give one with -u")
	case err != nil:
		// The error of url.Parse repeats the URL, which may hold a password.
		return dragonfly.Request{}, fmt.Errorf("the url %s is malformed: want http://host/path or https://host/path", agent.RedactURL(o.URL))
	case u.Scheme != "http" && u.Scheme != "https":
		return dragonfly.Request{}, fmt.Errorf("the url %s has the scheme %q: only http and https can be downloaded", agent.RedactURL(o.URL), u.Scheme)
	case u.Host == "" || u.Hostname() == "":
		return dragonfly.Request{}, fmt.Errorf("the url %s names no host: want http://host/path", agent.RedactURL(o.URL))
	}
	r := dragonfly.Request{URL: o.URL, Header: dragonfly.ParseHeader(o.Header), Insecure: o.Insecure, CallSystem: o.CallSystem}
	if o.Filter != "" {
		r.TaskURL = dragonfly.FilterURL(o.URL, strings.Split(o.Filter, "&"))
	}
	if r.Digest, err = o.digest(); err != nil {
		return dragonfly.Request{}, err
	}
	if r.Digest.IsZero() {
		r.Identifier = o.Identifier
	}
	r.RootCAs, err = readCerts(o.CACerts)
	return r, err
}

func (o *options) digest() (dragonfly.Digest, error) {
	md5, err := dragonfly.ParseDigest(o.MD5)
	if err != nil || !md5.IsZero() && md5.Algorithm() != "md5" {
		return dragonfly.Digest{}, fmt.Errorf("--md5 %q: want 32 hex digits; other digests go with --digest", o.MD5)
	}
	digest, err := dragonfly.ParseDigest(o.Digest)
	if err != nil {
		return dragonfly.Digest{}, fmt.Errorf("--digest: %w", err)
	}
	if md5.IsZero() {
		return digest, nil
	}
	if !digest.IsZero() && digest != md5 {
		return dragonfly.Digest{}, errors.New("--md5 and --digest exclude each other: give the stronger one")
	}
	return md5, nil
}

func readCerts(files []string) (bundle []byte, err error) {
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--cacerts: %w", err)
		}
		if block, _ := pem.Decode(text); block == nil {
			return nil, fmt.Errorf("--cacerts %s: there is no PEM block in it", name)
		}
		bundle = append(append(bundle, text...), '\n')
	}
	return bundle, nil
}

// initConfig is what v1 wrote into the log about its settings, in its order
// and without secrets.
func (o *options) initConfig(out string, nodes []dragonfly.Member) json.RawMessage {
	names := make([]string, len(nodes))
	for i, m := range nodes {
		names[i] = m.String()
	}
	headers := make([]string, len(o.Header))
	for i, h := range o.Header {
		headers[i] = agent.RedactHeader(h)
	}
	type logConfig struct {
		MaxSize    int    `json:"maxSize"`
		MaxBackups int    `json:"maxBackups"`
		Path       string `json:"path"`
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(struct {
		URL             string         `json:"url"`
		Output          string         `json:"output"`
		Timeout         string         `json:"timeout,omitempty"`
		MD5             string         `json:"md5,omitempty"`
		Digest          string         `json:"digest,omitempty"`
		Identifier      string         `json:"identifier,omitempty"`
		CallSystem      string         `json:"callSystem,omitempty"`
		Pattern         string         `json:"pattern,omitempty"`
		CACerts         []string       `json:"cacert,omitempty"`
		Filter          string         `json:"filter,omitempty"`
		Header          []string       `json:"header,omitempty"`
		NoSource        bool           `json:"notbs,omitempty"`
		DFDaemon        bool           `json:"dfdaemon,omitempty"`
		Insecure        bool           `json:"insecure,omitempty"`
		ShowBar         bool           `json:"showBar,omitempty"`
		Console         bool           `json:"console,omitempty"`
		Verbose         bool           `json:"verbose,omitempty"`
		Nodes           []string       `json:"nodes"`
		LocalLimit      dragonfly.Rate `json:"localLimit,omitempty"`
		MinRate         dragonfly.Rate `json:"minRate,omitempty"`
		TotalLimit      dragonfly.Rate `json:"totalLimit,omitempty"`
		ClientQueueSize int            `json:"clientQueueSize,omitempty"`
		WorkHome        string         `json:"workHome,omitempty"`
		LogConfig       logConfig      `json:"logConfig"`
	}{
		agent.RedactURL(o.URL), out, durationText(time.Duration(o.Timeout)), o.MD5, o.Digest, o.Identifier, o.CallSystem, o.Pattern, o.CACerts,
		o.Filter, headers, o.NoSource, o.DFDaemon, o.Insecure, o.ShowBar, o.Console, o.Verbose, names, o.LocalLimit, o.MinRate, o.TotalLimit,
		o.ClientQueueSize, o.WorkHome, logConfig{o.LogConfig.MaxSize, o.LogConfig.MaxBackups, o.clientLog()},
	})
	if err != nil {
		panic(err) // nothing in it can fail
	}
	return json.RawMessage(strings.TrimSpace(b.String()))
}

func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// clientLog is the log file of all jobs.
func (o *options) clientLog() string {
	if o.LogConfig.Path != "" {
		return o.LogConfig.Path
	}
	return filepath.Join(o.WorkHome, "logs", "dfclient.log")
}

// serverArgs start an agent with these settings.
func (o *options) serverArgs() []string {
	args := []string{"--home", o.WorkHome, "--data", filepath.Join(o.WorkHome, "data"), "--meta", filepath.Join(o.WorkHome, "meta"),
		"--expiretime", o.ExpireTime.String(), "--alivetime", o.AliveTime.String()}
	add := func(name, value string) {
		if value != "" && value != "0" {
			args = append(args, "--"+name, value)
		}
	}
	add("ip", o.IP)
	add("port", strconv.Itoa(o.Port))
	add("zone", o.Location.Zone)
	add("rack", o.Location.Rack)
	add("log-path", o.LogConfig.Path)
	add("log-size", strconv.Itoa(o.LogConfig.MaxSize))
	add("log-backups", strconv.Itoa(o.LogConfig.MaxBackups))
	if o.TotalLimit > 0 {
		add("totallimit", o.TotalLimit.String())
	}
	if o.Compress.Off {
		add("compress", "off")
	}
	if o.Verbose {
		args = append(args, "--verbose")
	}
	return args
}
