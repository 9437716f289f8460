// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxFile bounds a configuration file; docker's hold some lines for each
// registry.
const maxFile = 1 << 20

// credential is what a configuration holds for a registry; the zero credential
// is nothing.
type credential struct {
	user, password string
	refresh        string // token for the realm instead of a password
	registry       string // token for the registry itself
}

// config is as much of docker's config.json as is about logins.
type config struct {
	Auths       map[string]entry  `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"`
	CredsStore  string            `json:"credsStore"`
}

type entry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// hubKey is how docker calls Docker Hub in its configuration.
const hubKey = "https://index.docker.io/v1/"

// hubHosts are the hosts of Docker Hub's registry.
var hubHosts = []string{"index.docker.io", "docker.io", "registry-1.docker.io"}

// IsHub says that host is one of the names of Docker Hub's registry.
func IsHub(host string) bool {
	return slices.Contains(hubHosts, host)
}

// names are the keys under which a configuration may have host, best first.
func names(host string) []string {
	if IsHub(host) {
		return append([]string{hubKey}, hubHosts...)
	}
	return []string{host}
}

// plain is a key of a configuration without what some versions of docker wrote
// around the host.
func plain(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	return strings.TrimSuffix(strings.TrimSuffix(key, "/v1"), "/v2")
}

// lookup finds what a map of a configuration has for host.
func lookup[T any](all map[string]T, host string) (found T, ok bool) {
	for _, name := range names(host) {
		if v, ok := all[name]; ok {
			return v, true
		}
	}
	for _, name := range names(host) {
		for key, v := range all {
			if plain(key) == plain(name) {
				return v, true
			}
		}
	}
	return found, false
}

// parseConfig reads a configuration. Errors repeat nothing of it.
func parseConfig(text []byte) (c config, err error) {
	if len(strings.TrimSpace(string(text))) == 0 {
		return config{}, nil
	}
	if json.Unmarshal(text, &c) != nil {
		return config{}, errors.New("it is not docker's JSON: docker login writes it anew")
	}
	return c, nil
}

// credential is what c itself holds for host.
func (c config) credential(host string) (credential, error) {
	e, ok := lookup(c.Auths, host)
	if !ok {
		return credential{}, nil
	}
	found := credential{user: e.Username, password: e.Password, refresh: e.IdentityToken, registry: e.RegistryToken}
	if e.Auth != "" {
		text, err := decode(e.Auth)
		user, password, ok := strings.Cut(text, ":")
		if err != nil || !ok {
			return credential{}, errors.New("its auth is not user:password in base64: docker login writes it anew")
		}
		found.user, found.password = user, password
	}
	return found, nil
}

// decode reads an auth. Written by hand it often holds the newline that echo
// adds, inside the base64 or around it; docker pads passwords with zeros.
func decode(auth string) (string, error) {
	auth = strings.TrimRight(strings.Join(strings.Fields(auth), ""), "=")
	text, err := base64.RawStdEncoding.DecodeString(auth)
	return strings.TrimRight(string(text), "\r\n\x00"), err
}

// helper is the suffix of the program that knows host, and what that calls it.
func (c config) helper(host string) (suffix, server string, err error) {
	suffix, ok := lookup(c.CredHelpers, host)
	if !ok {
		suffix = c.CredsStore
	}
	if suffix != "" && !helperName.MatchString(suffix) {
		return "", "", errors.New("it names a credential helper that cannot be one: its name has letters, digits and dashes")
	}
	return suffix, names(host)[0], nil
}

var helperName = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$`)

// file is a configuration on disk, read again when it has changed.
type file struct {
	path string

	mu     sync.Mutex // guards all below
	seen   fs.FileInfo
	read   int       // how often
	tried  time.Time // last
	config config
	err    error
}

// load gives the configuration as it is now, and a number that changes with it.
// A file that is not there is an empty configuration.
func (f *file) load() (c config, state int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	switch { // what kept it from being read may be mended without a change
	case f.err != nil && time.Since(f.tried) > failureLife:
	case err == nil && f.seen != nil && os.SameFile(f.seen, info) && f.seen.Size() == info.Size() && f.seen.ModTime().Equal(info.ModTime()):
		return f.config, f.read, f.err
	case err != nil && f.seen == nil && f.read > 0:
		return f.config, f.read, f.err // gone as before
	}
	f.seen, f.tried = info, time.Now()
	f.read++
	f.config, f.err = config{}, nil
	text, err := readBounded(f.path)
	if err == nil {
		f.config, err = parseConfig(text)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.err = fmt.Errorf("read logins from %s: %w", f.path, err)
	}
	return f.config, f.read, f.err
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			err = e.Err // the path is said by the caller
		}
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if len(text) > maxFile {
		return nil, fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return text, err
}

// credentialLife is how long a credential is kept that a helper gave: it may
// have got another one meanwhile.
const credentialLife = 5 * time.Minute

// find is what the configuration has for host, asking its helper if it has one.
func (c config) find(ctx context.Context, host string) (credential, error) {
	suffix, server, err := c.helper(host)
	if err != nil {
		return credential{}, err
	}
	if suffix != "" {
		found, err := askHelper(ctx, suffix, server)
		if err != nil || found != (credential{}) {
			return found, err
		}
	}
	return c.credential(host)
}
