// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"strings"

	"dragonfly"
	"dragonfly/mirror/login"
	"dragonfly/source"
)

// image is what a user calls one: registry, repository, and tag or digest.
type image struct{ registry, repository, reference string }

var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	registryName   = regexp.MustCompile(`^(?:\[[0-9a-fA-F:.]+\]|[0-9a-zA-Z](?:[0-9a-zA-Z.-]*[0-9a-zA-Z])?)(?::[0-9]{1,5})?$`)
	tagName        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

// parseImage reads a name as docker does: without a registry it is Docker
// Hub's, and without a tag the newest.
func parseImage(text string) (image, error) {
	i := image{registry: "docker.io", reference: "latest"}
	rest, digest, hasDigest := strings.Cut(text, "@")
	if first, after, ok := strings.Cut(rest, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		i.registry, rest = first, after
	}
	rest, tag, hasTag := strings.Cut(rest, ":")
	i.repository = rest
	if hasTag {
		i.reference = tag
	}
	if login.IsHub(i.registry) {
		i.registry = "docker.io"
		if !strings.Contains(rest, "/") {
			i.repository = "library/" + rest
		}
	}
	bad := !registryName.MatchString(i.registry) || !repositoryName.MatchString(i.repository) || !tagName.MatchString(i.reference)
	if hasDigest {
		d, err := dragonfly.ParseDigest(digest)
		bad = bad || err != nil || d.IsZero()
		i.reference = digest
	}
	if bad || len(text) > 512 {
		return image{}, errors.New("want an image, as in alpine, ghcr.io/owner/name:tag or registry.example:5000/name@sha256:…")
	}
	return i, nil
}

// layer is one blob of an image.
type layer struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// manifest is as much of an image's manifest, or of an index of them, as
// doctor looks at.
type manifest struct {
	Config    layer   `json:"config"`
	Layers    []layer `json:"layers"`
	Manifests []struct {
		layer
		Platform struct {
			OS           string `json:"os"`
			Architecture string `json:"architecture"`
		} `json:"platform"`
	} `json:"manifests"`
}

// accepted are the kinds of manifests that are read.
var accepted = []string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
}

// pulling asks a dfdaemon for an image as an engine on this host would.
type pulling struct {
	dfdaemon *url.URL
	client   *http.Client
	// base is the path of the repository at the dfdaemon.
	base  string
	token string
}

// newPulling asks for i. own is the registry that the dfdaemon mirrors, which
// goes without its name.
func newPulling(dfdaemon *url.URL, i image, own string) *pulling {
	p := &pulling{dfdaemon: dfdaemon, client: ownClient(), base: "/v2/" + i.registry + "/" + i.repository}
	if i.registry == own || login.IsHub(i.registry) && login.IsHub(own) {
		p.base = "/v2/" + i.repository
	}
	return p
}

// unnamed asks as docker asks a mirror for an image of the Hub.
func (p *pulling) unnamed(i image) *pulling {
	return &pulling{dfdaemon: p.dfdaemon, client: p.client, base: "/v2/" + i.repository}
}

// blobs are those of an image, for this host's architecture if it has several.
func (p *pulling) blobs(ctx context.Context, reference string) (all []layer, err error) {
	m, err := p.manifest(ctx, reference)
	if err != nil {
		return nil, err
	}
	if len(m.Manifests) > 0 {
		chosen := m.Manifests[0].Digest
		for _, of := range m.Manifests {
			if of.Platform.OS == "linux" && of.Platform.Architecture == runtime.GOARCH {
				chosen = of.Digest
				break
			}
		}
		if _, err := dragonfly.ParseDigest(chosen); err != nil {
			return nil, fmt.Errorf("the index of the image names no manifest: %w", err)
		}
		if m, err = p.manifest(ctx, chosen); err != nil {
			return nil, err
		}
	}
	if len(m.Layers) == 0 {
		return nil, errors.New("what the registry has there is no image: it has no layers")
	}
	return append([]layer{m.Config}, m.Layers...), nil
}

// manifestMax bounds a manifest in bytes, as registries do.
const manifestMax = 4 << 20

func (p *pulling) manifest(ctx context.Context, reference string) (m manifest, err error) {
	resp, err := p.get(ctx, p.base+"/manifests/"+reference)
	if err != nil {
		return m, err
	}
	if resp.StatusCode == http.StatusUnauthorized && p.token == "" {
		resp.Body.Close()
		if p.token, err = p.login(ctx, source.ParseChallenge(resp.Header.Values("Www-Authenticate"))); err != nil {
			return m, err
		}
		if resp, err = p.get(ctx, p.base+"/manifests/"+reference); err != nil {
			return m, err
		}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, manifestMax))
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return m, errors.New("the registry does not give it to everybody, and doctor asks without a password")
	case http.StatusNotFound:
		return m, errors.New("the registry has no such image: look at its name and tag")
	default:
		return m, fmt.Errorf("the answer through dfdaemon is %d: %s", resp.StatusCode, problem(text))
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, errors.New("the registry's manifest is no JSON")
	}
	return m, nil
}

func (p *pulling) get(ctx context.Context, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.dfdaemon.String()+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header["Accept"] = accepted
	if p.token != "" {
		r.Header.Set("Authorization", "Bearer "+p.token)
	}
	resp, err := p.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("dfdaemon does not answer: %w", bare(err))
	}
	return resp, nil
}

// login gets a token that everybody is given.
func (p *pulling) login(ctx context.Context, c source.Challenge) (token string, err error) {
	if c.Scheme != source.SchemeBearer {
		return "", errors.New("the registry does not give it to everybody, and doctor asks without a password")
	}
	query := url.Values{"scope": {c.Scope}}
	if c.Service != "" {
		query.Set("service", c.Service)
	}
	resp, err := login.Registry{URL: p.dfdaemon, Through: p.client.Transport, Trusted: true}.Ask(ctx, c, query, false, "")
	if err != nil {
		return "", fmt.Errorf("no token: %w", bare(err))
	}
	defer resp.Body.Close()
	var got struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the registry's realm gives everybody no token: it answers %d", resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, manifestMax)).Decode(&got); err != nil || got.Token+got.Access == "" {
		return "", errors.New("the registry's realm answers without a token")
	}
	if got.Token == "" {
		return got.Access, nil
	}
	return got.Token, nil
}

// problem is the message of a registry's error, in one line.
func problem(text []byte) string {
	var said struct {
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	message := string(text)
	if json.Unmarshal(text, &said) == nil && len(said.Errors) > 0 {
		message = said.Errors[0].Message
	}
	return shortened(strings.Join(strings.Fields(message), " "))
}
