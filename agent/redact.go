// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/url"
	"regexp"
	"strings"
)

// masked stands for a secret in logs.
const masked = "***"

// secretNames are query parameters whose values let somebody in.
var secretNames = regexp.MustCompile(`(?i)(sign|token|secret|passw|credential|auth|apikey|api_key|access_?key)|^(sig|key|pwd)$`)

// RedactURL is a URL without its user and password and without the values of query
// parameters that grant access, for logs. What is no URL is returned as it is.
func RedactURL(raw string) string {
	base, query, hasQuery := strings.Cut(raw, "?")
	scheme, rest, ok := strings.Cut(base, "://")
	if !ok {
		return raw
	}
	authority, path, hasPath := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = masked + authority[i:] // the name alone may be a token
	}
	out := scheme + "://" + authority
	if hasPath {
		out += "/" + path
	}
	if !hasQuery {
		return out
	}
	items := strings.Split(query, "&")
	for i, item := range items {
		name, value, ok := strings.Cut(item, "=")
		plain, err := url.QueryUnescape(name)
		if err != nil {
			plain = name
		}
		if ok && value != "" && secretNames.MatchString(plain) {
			items[i] = name + "=" + masked
		}
	}
	return out + "?" + strings.Join(items, "&")
}

// RedactHeader is a "Name: value" line without its value.
func RedactHeader(line string) string {
	name, value, ok := strings.Cut(line, ":")
	if !ok || strings.TrimSpace(value) == "" {
		return line
	}
	return name + ":" + masked
}

// RedactArgs is a command line of dfget without its secrets, for logs: header
// values, passwords and access parameters of URLs.
func RedactArgs(args []string) []string {
	out := make([]string, len(args))
	header := false
	for i, arg := range args {
		switch flag, value, ok := strings.Cut(arg, "="); {
		case header:
			out[i], header = RedactHeader(arg), false
		case arg == "--header":
			out[i], header = arg, true
		case ok && flag == "--header":
			out[i] = flag + "=" + RedactHeader(value)
		case ok && strings.HasPrefix(flag, "-") && strings.Contains(value, "://"):
			out[i] = flag + "=" + RedactURL(value)
		default:
			out[i] = RedactURL(arg)
		}
	}
	return out
}
