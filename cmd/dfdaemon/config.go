// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dragonfly"
	"dragonfly/agent"
	"dragonfly/internal/settings"
)

const (
	// defaultConfigFile is v1's; it need not exist.
	defaultConfigFile = "/etc/dragonfly/dfdaemon.yml"
	// favouritePort is the data port that is tried first.
	favouritePort = 65000
)

// Exit codes (v1-protocol 10). Those of a dfget that is not found or fails are
// gone with it.
const (
	exitOther  = 1
	exitConfig = 10
	exitHome   = 11
	exitPath   = 12
	exitRate   = 13
	exitPort   = 14
	exitRepo   = 16
)

// coded is an error with the exit code that v1 had for it.
type coded struct {
	code int
	error
}

func (c coded) Unwrap() error { return c.error }

func wrong(code int, format string, args ...any) error {
	return coded{code, fmt.Errorf(format, args...)}
}

// config is everything a dfdaemon can be told: v1's keys and flags with v1's
// spelling and defaults (v1-protocol 10), and some of our own.
type config struct {
	Mirror  registryMirror `key:"registry_mirror" env:"-" group:"Registries"`
	Proxies []proxyRule    `key:"proxies"`
	Hijack  hijack         `key:"hijack_https"`

	CertDirs []string `key:"certs_dirs" usage:"directories with certificates for any registry, in host[:port]/*.crt, *.cert and *.key; empty: those of docker and podman"`
	Plain    []string `key:"insecure_registries" flag:"insecure-registry" group:"Registries" usage:"registries, host[:port], that are asked by plain HTTP when a client names them; those on loopback are anyway"`

	Port       int                `key:"port" flag:"port" group:"Where dfdaemon listens" usage:"port that the container engine asks"`
	HostIP     string             `key:"hostIp" flag:"hostIp" group:"Where dfdaemon listens" usage:"address that is listened on; one that is not loopback opens mirror and proxy to other hosts"`
	CertPEM    string             `key:"certpem" flag:"certpem" group:"Where dfdaemon listens" usage:"file with dfdaemon's own certificate, PEM; with it dfdaemon itself speaks TLS"`
	KeyPEM     string             `key:"keypem" flag:"keypem" group:"Where dfdaemon listens" usage:"file with the key of dfdaemon's own certificate, PEM"`
	AuthFile   string             `key:"proxyAuthFile" flag:"proxy-auth-file" group:"Where dfdaemon listens" usage:"file with lines user:password, which the proxy then asks for; clients on other hosts may use the proxy only"`
	Verbose    bool               `key:"verbose" flag:"verbose" group:"What is kept and logged" usage:"log more"`
	Nodes      []settings.Node    `key:"supernodes" flag:"node" group:"The swarm" usage:"supernodes, host[:port][=weight]; a comma list, or the flag several times (default 127.0.0.1:8002)"`
	RateLimit  limit              `key:"ratelimit" flag:"ratelimit" group:"The swarm" usage:"limit per second of all receiving and, separately, of all sending; 0: none"`
	Compress   settings.Compress  `key:"compress" flag:"compress" group:"The swarm" usage:"auto: data goes compressed to other hosts, and from them, where that is faster; off: never"`
	WorkHome   string             `key:"workHome" flag:"workHome" group:"What is kept and logged" usage:"directory for logs and data (default $HOME/.small-dragonfly)"`
	LocalRepo  string             `key:"localrepo" flag:"localrepo" group:"What is kept and logged" usage:"directory for contents, absolute (default WORKHOME/dfdaemon/data)"`
	Quota      dragonfly.Size     `key:"quota" flag:"quota" group:"What is kept and logged" usage:"bytes that all contents may take; 0: what the disk has"`
	ExpireTime time.Duration      `key:"expireTime" flag:"expiretime" group:"What is kept and logged" usage:"how long a content stays that nobody uses"`
	LocalIP    string             `key:"localIP" usage:"address under which other hosts reach this one; empty: found out"`
	PeerPort   int                `key:"peerPort" flag:"peerPort" group:"The swarm" usage:"data port, 15000 to 65000; 0: 65000 if it is free, else chosen"`
	Profiler   bool               `key:"pprof" flag:"pprof" group:"Where dfdaemon listens" usage:"show profiles below /debug/pprof/ to clients on this host"`
	Location   settings.Location  `key:"location" group:"The swarm"`
	LogConfig  settings.LogConfig `key:"logConfig"`

	DFPath     string   `key:"dfpath" flag:"dfpath" group:"Of 1.x, without effect" unused:"dfdaemon downloads by itself"`
	DFGetFlags []string `key:"dfget_flags" split:"no" unused:"dfdaemon downloads by itself; supernodes and the like are its own settings"`
	MaxProcs   int      `key:"maxprocs" flag:"maxprocs" group:"Of 1.x, without effect" unused:"all processors are used as they are free"`
	StreamMode bool     `key:"streamMode" flag:"streamMode" group:"Of 1.x, without effect" unused:"bytes are always passed on as they come"`
}

type registryMirror struct {
	Remote     string   `key:"remote" flag:"registry" env:"DFDAEMON_REGISTRY" usage:"registry that is mirrored; without a scheme: https"`
	Certs      []string `key:"certs" usage:"files with certificates of authorities for the registry, PEM"`
	Insecure   bool     `key:"insecure" usage:"do not check the registry's certificate"`
	ClientCert string   `key:"client_cert" usage:"file with the certificate that this host shows to the registry, PEM"`
	ClientKey  string   `key:"client_key" usage:"file with its key, PEM"`
	Auth       string   `key:"auth" flag:"registry-auth" usage:"pull private images with the logins that docker login has stored on this host, for engines that send a mirror none: on, off, or auto: on when hostIp is a loopback address"`
	AuthFile   string   `key:"auth_file" usage:"docker config.json with these logins; empty: that of dfdaemon's user"`
	Direct     bool     `key:"direct" usage:"fetch blobs past the swarm"`
}

// limit is a rate whose mistakes have an exit code of their own.
type limit struct{ dragonfly.Rate }

func (l *limit) UnmarshalText(b []byte) error {
	if err := l.Rate.UnmarshalText(b); err != nil {
		return coded{exitRate, err}
	}
	return nil
}

func defaultConfig() *config {
	return &config{
		Mirror: registryMirror{Remote: "https://index.docker.io", Auth: authAuto}, Port: 65001, HostIP: "127.0.0.1", ExpireTime: time.Hour,
	}
}

// Validate checks what can be checked without looking at the world.
func (c *config) Validate() error {
	var errs []error
	add := func(code int, format string, args ...any) { errs = append(errs, wrong(code, format, args...)) }
	if c.Port < 1 || c.Port > 65535 {
		add(exitPort, "port (--port) %d: want one from 1 to 65535", c.Port)
	}
	if c.PeerPort != 0 && (c.PeerPort < agent.LowestPort || c.PeerPort > agent.HighestPort) {
		add(exitPort, "peerPort (--peerPort) %d: want 0 or a port from %d to %d", c.PeerPort, agent.LowestPort, agent.HighestPort)
	}
	if c.LocalRepo != "" && !filepath.IsAbs(c.LocalRepo) {
		add(exitPath, "localrepo (--localrepo) %s: want an absolute path", c.LocalRepo)
	}
	if _, err := netip.ParseAddr(c.HostIP); err != nil {
		add(exitConfig, "hostIp (--hostIp) %q: want an address, as in 127.0.0.1", c.HostIP)
	}
	if _, err := netip.ParseAddr(c.LocalIP); c.LocalIP != "" && err != nil {
		add(exitConfig, "localIP %q: want an address, as in 192.168.0.2", c.LocalIP)
	}
	for i, rule := range c.Proxies {
		if rule.Regx.Regexp == nil {
			add(exitConfig, "proxies: rule %d has no regx: say which URLs it is for, as in regx: blobs/sha256", i+1)
		}
	}
	for i, host := range c.Hijack.Hosts {
		if host.Regx.Regexp == nil {
			add(exitConfig, "hijack_https.hosts: host %d has no regx: say which host:port it is for, as in regx: registry.example:443", i+1)
		}
	}
	if (c.Hijack.Cert == "") != (c.Hijack.Key == "") {
		add(exitConfig, "hijack_https: cert and key go together: give both, as gen-ca makes them")
	}
	if (c.CertPEM == "") != (c.KeyPEM == "") {
		add(exitConfig, "certpem and keypem (--certpem, --keypem) go together: give both")
	}
	if a := c.Mirror.Auth; a != authAuto && a != authOn && a != authOff {
		add(exitConfig, "registry_mirror.auth (--registry-auth) %q: want auto, on or off", a)
	}
	if f := c.Mirror.AuthFile; f != "" && !filepath.IsAbs(f) {
		add(exitConfig, "registry_mirror.auth_file %s: want an absolute path", f)
	}
	c.checkTrust(add)
	if c.ExpireTime < time.Minute {
		add(exitConfig, "expireTime (--expiretime) %s: want at least 1m", c.ExpireTime)
	}
	_, err := c.remote()
	errs = append(errs, c.LogConfig.Validate(), err)
	return errors.Join(errs...)
}

// remote reads the registry's address. What is wrong with it may be a
// password, so that errors do not repeat it.
func (c *config) remote() (*url.URL, error) {
	text := c.Mirror.Remote
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, wrong(exitConfig, "registry_mirror.remote (--registry): want the address of a registry, as in https://index.docker.io")
	}
	if u.User != nil {
		return nil, wrong(exitConfig, "registry_mirror.remote (--registry): take user and password out, the container engine sends its own")
	}
	return u, nil
}

// settle fills in what depends on the machine and makes the directories.
func (c *config) settle(lookup func(string) (string, bool)) error {
	if c.WorkHome == "" {
		home, _ := lookup("HOME")
		if home == "" {
			return wrong(exitHome, "the user's home is not known: set HOME or give --workHome")
		}
		c.WorkHome = filepath.Join(home, ".small-dragonfly")
	}
	home, err := filepath.Abs(c.WorkHome)
	if err != nil {
		return coded{exitHome, err}
	}
	c.WorkHome = home
	if c.LocalRepo == "" {
		c.LocalRepo = filepath.Join(home, "dfdaemon", "data")
	}
	if err := os.MkdirAll(c.LocalRepo, 0o755); err != nil {
		return wrong(exitRepo, "the directory for contents cannot be made: give another with --localrepo, or another home with --workHome: %w", err)
	}
	return nil
}

func (c *config) meta() string { return filepath.Join(c.WorkHome, "dfdaemon", "meta") }

// logFile is dfdaemon's own log, clientLog that of the downloads.
func (c *config) logFile() string {
	if c.LogConfig.Path != "" {
		return c.LogConfig.Path
	}
	return filepath.Join(c.WorkHome, "logs", "dfdaemon.log")
}

func (c *config) clientLog() string { return filepath.Join(c.WorkHome, "logs", "dfclient.log") }
