// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"net/http"
	"net/url"
	"regexp"
)

// Rule says what becomes of requests for URLs that it matches.
type Rule struct {
	Match    *regexp.Regexp // against the whole URL
	UseHTTPS bool           // the scheme becomes https
	Redirect string         // host or host:port that is asked instead; "": the same
	Direct   bool           // past the swarm
}

// applied is r as the first rule that matches makes it, and whether it goes
// through the swarm. r itself is left as it is but for its headers.
func (p *Proxy) applied(r *http.Request) (out *http.Request, through bool) {
	out = new(*r)
	u := *r.URL
	out.URL = &u
	if u.User != nil { // it would stand in the URL of a task
		if password, _ := u.User.Password(); out.Header.Get("Authorization") == "" {
			out.SetBasicAuth(u.User.Username(), password)
		}
		u.User = nil
	}
	for _, rule := range p.o.Rules {
		if !rule.Match.MatchString(u.String()) {
			continue
		}
		if rule.UseHTTPS {
			u.Scheme = "https"
		}
		if rule.Redirect != "" {
			u.Host, out.Host = rule.Redirect, rule.Redirect
		}
		return out, !rule.Direct && p.o.Swarm != nil && r.Method == http.MethodGet && r.ContentLength == 0 && r.Header.Get("Upgrade") == ""
	}
	return out, false
}

// trust is that of the host of u.
func (p *Proxy) trust(u *url.URL) Trust {
	if i := p.host(hostPort(u)); i < len(p.o.Hosts) {
		return p.o.Hosts[i].Trust
	}
	return Trust{}
}

// host is the first of Options.Hosts that matches host:port; their number when
// none does.
func (p *Proxy) host(hostPort string) int {
	for i, h := range p.o.Hosts {
		if h.Match.MatchString(hostPort) {
			return i
		}
	}
	return len(p.o.Hosts)
}

// hostPort is the host of u with its port, also where that goes without
// saying.
func hostPort(u *url.URL) string { return net.JoinHostPort(u.Hostname(), port(u)) }

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}
