// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"

	"dragonfly/mirror"
	"dragonfly/mirror/login"
)

// The values of registry_mirror.auth.
const (
	authAuto = "auto" // on when only this host can reach the mirror
	authOn   = "on"
	authOff  = "off"
)

// lends fills in with which logins the mirror pulls for docker, which sends it
// none.
func (c *config) lends(o *mirror.Options, lookup func(string) (string, bool), log *slog.Logger) {
	addr, err := netip.ParseAddr(c.HostIP)
	inside := err == nil && addr.IsLoopback()
	if c.Mirror.Auth == authOff || c.Mirror.Auth == authAuto && !inside {
		return
	}
	if o.Logins = c.Mirror.AuthFile; o.Logins == "" {
		o.Logins = dockerConfig(lookup, os.Geteuid())
	}
	if inside {
		o.Lend = fromEngine
		log.Info("docker's private images are pulled with what docker login stores", "file", o.Logins)
	} else if o.Logins != "" {
		log.Warn("whoever reaches this address can pull private images of the registry with the logins of this host: listen on 127.0.0.1, or set registry_mirror.auth (--registry-auth) to off",
			"file", o.Logins)
	}
}

// dockerConfig is where docker login stores for the user of this process.
func dockerConfig(lookup func(string) (string, bool), uid int) string {
	if dir, _ := lookup("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	path := ""
	if home, _ := lookup("HOME"); home != "" {
		path = filepath.Join(home, ".docker", "config.json")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if uid == 0 { // services have another home, or none
		return "/root/.docker/config.json"
	}
	return path
}

// fromEngine says that r comes from a container engine and not from a page that
// a browser on this host shows: that can send requests here, and by a name of
// its own that leads to 127.0.0.1 read the answers too.
func fromEngine(r *http.Request) bool {
	return byAddress(r) && r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") == ""
}

// byAddress says that a client calls this host by an address, or localhost.
func byAddress(r *http.Request) bool {
	host := (&url.URL{Host: r.Host}).Hostname()
	_, err := netip.ParseAddr(host)
	return err == nil || login.Local(host)
}
