// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"dragonfly"
	"dragonfly/internal/settings"
	"dragonfly/record"
)

// defaultConfigFile is v1's; it need not exist.
const defaultConfigFile = "/etc/dragonfly/supernode.yml"

// config is everything a supernode can be told: v1's keys and flags with v1's
// spelling and defaults (v1-protocol 12.2), and some of our own.
type config struct {
	Base     base             `key:"base" env:"-"`
	Plugins  settings.Ignored `key:"plugins" unused:"scheduler and storage are built in"`
	Storages settings.Ignored `key:"storages" unused:"the storage is built in"`
}

type base struct {
	ListenPort   int    `key:"listenPort" flag:"port" usage:"port for control: clients, REST, metrics"`
	DownloadPort int    `key:"downloadPort" flag:"download-port" usage:"port for data; served by the supernode itself"`
	HomeDir      string `key:"homeDir" flag:"home-dir" usage:"directory for contents and logs"`
	AdvertiseIP  string `key:"advertiseIP" flag:"advertise-ip" usage:"address under which peers reach this supernode; empty: the first IPv4 address that is not loopback"`

	AdvertiseDataPort int `key:"advertiseDataPort" flag:"advertise-data-port" usage:"port under which peers reach the data port where something in between maps it; 0: download-port"`

	PeerUpLimit        int                `key:"peerUpLimit" flag:"up-limit" usage:"children that a peer serves at once"`
	PeerDownLimit      int                `key:"peerDownLimit" flag:"down-limit" usage:"pieces of one task that a peer gets at once"`
	EliminationLimit   int                `key:"eliminationLimit" usage:"transport failures, seen by different hosts, after which a peer serves nobody for a while"`
	FailureCountLimit  int                `key:"failureCountLimit" usage:"consecutive failures with others after which a peer gets its pieces from the supernode only"`
	SystemBandwidth    rate               `key:"systemReservedBandwidth" flag:"system-bandwidth" usage:"part of max-bandwidth that is left to other programs, per second"`
	MaxBandwidth       rate               `key:"maxBandwidth" flag:"max-bandwidth" usage:"bytes per second that the supernode receives at most and, separately, sends at most; 0: no limit"`
	Compress           settings.Compress  `key:"compress" flag:"compress" usage:"auto: data goes compressed to other hosts, and from them, where that is faster; off: never"`
	FailAccessInterval time.Duration      `key:"failAccessInterval" flag:"fail-access-interval" usage:"how long a 404 or 410 of a source is remembered"`
	GCInitialDelay     time.Duration      `key:"gcInitialDelay" flag:"gc-initial-delay" usage:"time from the start to the first cleaning of the disk"`
	GCMetaInterval     time.Duration      `key:"gcMetaInterval" flag:"gc-meta-interval" usage:"time between searches for tasks and peers that are gone" unused:"they are noticed when they go"`
	TaskExpireTime     time.Duration      `key:"taskExpireTime" flag:"task-expire-time" usage:"how long a task that nobody asks for stays in memory; its content stays on disk"`
	PeerGCDelay        time.Duration      `key:"peerGCDelay" flag:"peer-gc-delay" usage:"how long the state of a silent peer is kept for its return"`
	GCDiskInterval     time.Duration      `key:"gcDiskInterval" usage:"time between cleanings of the disk"`
	YoungGCThreshold   size               `key:"youngGCThreshold" usage:"free bytes of the disk above which nothing is removed"`
	FullGCThreshold    size               `key:"fullGCThreshold" usage:"free bytes of the disk below which every content that is not in use may go"`
	IntervalThreshold  time.Duration      `key:"IntervalThreshold" usage:"a content that was used within this time goes only below fullGCThreshold"`
	CleanRatio         int                `key:"cleanratio" usage:"contents that v1 removed in one cleaning" unused:"the least recently used go until enough is free"`
	CDNPattern         string             `key:"cdnPattern" flag:"cdn-pattern" usage:"local: the supernode keeps what it reads from sources; source, which sent peers to the source, is taken for local"`
	CorePoolSize       int                `key:"schedulerCorePoolSize" flag:"pool-size" usage:"size of v1's pool of schedulers" unused:"there is no pool"`
	LinkLimit          rate               `key:"linkLimit" usage:"v1's limit per connection" unused:"connections are not limited singly"`
	EnableProfiler     bool               `key:"enableProfiler" flag:"profiler" usage:"serve Go's profiles at /debug/pprof/ of the control port, to everybody who reaches it"`
	Debug              bool               `key:"debug" flag:"debug" short:"D" usage:"log everything; the same as log-level debug"`
	LogLevel           slog.Level         `key:"logLevel" flag:"log-level" usage:"debug, info, warn or error"`
	LogConfig          settings.LogConfig `key:"logConfig"`
	Location           settings.Location  `key:"location"`

	Record      string `key:"record" flag:"record" usage:"file to append all that the scheduler is given to, for dfbench replay; empty: none"`
	RecordLimit size   `key:"recordLimit" flag:"record-limit" usage:"bytes of that file; a start that finds more than half of it taken renames it to FILE.old and begins a new one"`

	PeerCIDR    []netip.Prefix `key:"peerCIDR" flag:"peer-cidr" usage:"networks in which peers may announce addresses other than the one they connect from; empty: the private ones"`
	SourceAllow []netip.Prefix `key:"sourceAllow" flag:"source-allow" usage:"networks in which sources are read though they are refused otherwise; the longest network decides"`
	SourceDeny  []netip.Prefix `key:"sourceDeny" flag:"source-deny" usage:"networks in which no source is read; link-local ones and cloud metadata never are unless allowed"`
}

type (
	rate = dragonfly.Rate
	size = dragonfly.Size
)

// defaultConfig has v1's defaults, but for the bandwidth: nothing limits it
// unless told so.
func defaultConfig() *config {
	return &config{Base: base{
		ListenPort:         8002,
		DownloadPort:       8001,
		HomeDir:            "/home/admin/supernode",
		PeerUpLimit:        5,
		PeerDownLimit:      4,
		EliminationLimit:   5,
		FailureCountLimit:  5,
		FailAccessInterval: 3 * time.Minute,
		GCInitialDelay:     6 * time.Second,
		GCMetaInterval:     2 * time.Minute,
		TaskExpireTime:     3 * time.Minute,
		PeerGCDelay:        3 * time.Minute,
		GCDiskInterval:     15 * time.Second,
		YoungGCThreshold:   100 << 30,
		FullGCThreshold:    5 << 30,
		IntervalThreshold:  2 * time.Hour,
		CleanRatio:         1,
		CDNPattern:         "local",
		CorePoolSize:       10,
		LinkLimit:          20 << 20,
		RecordLimit:        1 << 30,
		LogConfig:          settings.LogConfig{MaxSize: 40, MaxBackups: 1},
	}}
}

// Validate says everything that is wrong, and what would be right.
func (c *config) Validate() error {
	b := &c.Base
	var problems []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	for name, port := range map[string]int{"listenPort (--port)": b.ListenPort, "downloadPort (--download-port)": b.DownloadPort} {
		wrong(port < 1 || port > 65535, "%s: %d is no port: want 1 to 65535", name, port)
	}
	wrong(b.AdvertiseDataPort < 0 || b.AdvertiseDataPort > 65535, "advertiseDataPort (--advertise-data-port): %d is no port: want 1 to 65535, or 0", b.AdvertiseDataPort)
	wrong(b.ListenPort == b.DownloadPort, "listenPort (--port) and downloadPort (--download-port) are both %d: control and data need a port each", b.ListenPort)
	for name, limit := range map[string]int{
		"peerUpLimit (--up-limit)": b.PeerUpLimit, "peerDownLimit (--down-limit)": b.PeerDownLimit,
		"eliminationLimit": b.EliminationLimit, "failureCountLimit": b.FailureCountLimit,
	} {
		wrong(limit < 1 || limit > 10_000, "%s: %d is out of range: want 1 to 10000", name, limit)
	}
	wrong(b.CDNPattern != "local" && b.CDNPattern != "source", "cdnPattern (--cdn-pattern): want local or source, not %q", b.CDNPattern)
	wrong(b.Record != "" && b.RecordLimit < record.MinLimit, "recordLimit (--record-limit): %s is less than %s", b.RecordLimit, size(record.MinLimit))
	wrong(b.GCDiskInterval == 0, "gcDiskInterval: want more than 0s")
	wrong(b.FullGCThreshold > b.YoungGCThreshold, "fullGCThreshold: %s is above youngGCThreshold, %s", b.FullGCThreshold, b.YoungGCThreshold)
	wrong(b.MaxBandwidth > 0 && b.SystemBandwidth >= b.MaxBandwidth,
		"systemReservedBandwidth (--system-bandwidth): %s leaves nothing of maxBandwidth (--max-bandwidth), %s", b.SystemBandwidth, b.MaxBandwidth)
	if b.AdvertiseIP != "" {
		addr, err := netip.ParseAddr(b.AdvertiseIP)
		wrong(err != nil || addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "",
			"advertiseIP (--advertise-ip): %q is no address that peers can connect to", b.AdvertiseIP)
	}
	if home, err := filepath.Abs(b.HomeDir); b.HomeDir == "" || err != nil {
		problems = append(problems, errors.New("homeDir (--home-dir): want a directory"))
	} else {
		b.HomeDir = home
	}
	problems = append(problems, b.LogConfig.Validate())
	return errors.Join(problems...)
}

// limit is the rate that input and output keep to; 0: none.
func (b base) limit() dragonfly.Rate {
	if b.MaxBandwidth == 0 {
		return 0
	}
	return b.MaxBandwidth - b.SystemBandwidth
}

// level is how much is logged.
func (b base) level() slog.Level {
	if b.Debug {
		return slog.LevelDebug
	}
	return b.LogLevel
}

// logFile is where the log is kept, v1's place unless said otherwise.
func (b base) logFile() string {
	if b.LogConfig.Path != "" {
		return b.LogConfig.Path
	}
	return filepath.Join(b.HomeDir, "logs", "app.log")
}
