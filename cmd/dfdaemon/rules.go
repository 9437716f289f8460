// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"

	"dragonfly/proxy"
)

// proxyRule, hijack and hijackHost are the proxy's part of the configuration
// (v1-protocol 10).
type proxyRule struct {
	Regx     pattern   `key:"regx" usage:"pattern of the URLs that the rule is for"`
	UseHTTPS bool      `key:"use_https" usage:"ask by https"`
	Direct   bool      `key:"direct" usage:"past the swarm"`
	Redirect authority `key:"redirect" usage:"host[:port] that is asked instead"`
}

type hijack struct {
	Cert  string       `key:"cert" usage:"file with the certificate that intercepted hosts show, or with an authority that signs one for each; PEM"`
	Key   string       `key:"key" usage:"file with its key, PEM"`
	Hosts []hijackHost `key:"hosts" usage:"what is intercepted"`
}

type hijackHost struct {
	Regx     pattern  `key:"regx" usage:"pattern of host:port"`
	Insecure bool     `key:"insecure" usage:"do not check the host's certificate"`
	Certs    []string `key:"certs" usage:"files with certificates of authorities for the host, PEM"`
}

// pattern is a regular expression; nil: not given.
type pattern struct{ *regexp.Regexp }

func (p *pattern) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		return errors.New("want a pattern: an empty one is for everything, write .* if that is meant")
	}
	p.Regexp, err = regexp.Compile(string(b))
	return err
}

func (p pattern) MarshalText() ([]byte, error) {
	if p.Regexp == nil {
		return nil, nil
	}
	return p.Regexp.MarshalText()
}

// authority is the host or host:port of a URL.
type authority string

func (a *authority) UnmarshalText(b []byte) error {
	u, err := url.Parse("//" + string(b))
	if len(b) > 0 && (err != nil || u.Host != string(b) || u.Hostname() == "" || u.User != nil) {
		return errors.New("want a host, as in registry.example or registry.example:5000")
	}
	*a = authority(b)
	return nil
}

func (a authority) MarshalText() ([]byte, error) { return []byte(a), nil }

// rules are the proxy's.
func (c *config) rules() (rules []proxy.Rule) {
	for _, r := range c.Proxies {
		rules = append(rules, proxy.Rule{Match: r.Regx.Regexp, UseHTTPS: r.UseHTTPS, Redirect: string(r.Redirect), Direct: r.Direct})
	}
	return rules
}

// hosts are those that the proxy is to know: the intercepted ones, and the
// mirror's registry with the trust that it has there.
func (c *config) hosts(registry *url.URL, trust proxy.Trust) (hosts []proxy.Host, err error) {
	for i, h := range c.Hijack.Hosts {
		bundle, err := authorities(fmt.Sprintf("hijack_https.hosts, host %d, certs", i+1), h.Certs)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, proxy.Host{Match: h.Regx.Regexp, Intercept: true, Trust: proxy.Trust{Insecure: h.Insecure, RootCAs: bundle}})
	}
	if trust.Insecure || len(trust.RootCAs) > 0 {
		at := registry.Host
		if registry.Port() == "" {
			at += ":443"
		}
		hosts = append(hosts, proxy.Host{Match: regexp.MustCompile("^" + regexp.QuoteMeta(at) + "$"), Trust: trust})
	}
	return hosts, nil
}
