// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.yaml.in/yaml/v3"

	"dragonfly/agent"
	"dragonfly/internal/settings"
	"dragonfly/internal/version"
	"dragonfly/proxy"
)

// newPages are dfdaemon's own endpoints (v1-protocol 10) by their paths, those
// that end with / for all below.
func newPages(c *config, args []string, t *traffic, healthy, blobs http.Handler) (map[string]http.Handler, error) {
	env, err := environment(c)
	if err != nil {
		return nil, err
	}
	pages := map[string]http.Handler{
		"/args":          page("text/plain; charset=utf-8", strings.Join(agent.RedactArgs(args), " ")),
		"/env":           page("application/json", env),
		"/healthy":       healthy,
		"/debug/version": version.Get(),
		"/debug/blobs":   local(blobs),
		"/metrics":       promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{}),
		"/debug/pprof/":  http.HandlerFunc(noProfiler),
	}
	if c.Profiler {
		pages["/debug/pprof/"] = local(http.HandlerFunc(profile))
	}
	return pages, nil
}

func page(contentType, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, text) // the client went away
	})
}

// local shows a page to clients on this host only, and to no page in a browser
// that calls dfdaemon by a name of its own.
func local(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !proxy.Near(r) || !byAddress(r) {
			http.Error(w, "this page is for clients on dfdaemon's own host: ask it there, at 127.0.0.1", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func noProfiler(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "profiles are off: start dfdaemon with --pprof", http.StatusNotFound)
}

func profile(w http.ResponseWriter, r *http.Request) {
	switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
	case "cmdline":
		http.Error(w, "see /args", http.StatusNotFound) // which masks secrets
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
}

// environment is all settings as JSON, keys in lower case, without secrets.
func environment(c *config) (string, error) {
	var file bytes.Buffer
	if err := settings.Of(c).YAML(&file); err != nil {
		return "", err
	}
	var all map[string]any
	if err := yaml.Unmarshal(file.Bytes(), &all); err != nil {
		return "", err
	}
	text, err := json.Marshal(shown(all))
	return string(text) + "\n", err
}

func shown(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, item := range v {
			out[strings.ToLower(key)] = shown(item)
		}
		return out
	case []any:
		for i := range v {
			v[i] = shown(v[i])
		}
	case string:
		return agent.RedactURL(v)
	}
	return v
}
