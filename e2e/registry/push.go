// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Push puts an image into a server, whatever credentials that wants.
func (s *Server) Push(ctx context.Context, repository, tag string, image *Image) error {
	p := &pusher{s: s, ctx: ctx, client: &http.Client{Transport: s.o.Authority.Transport()}}
	defer p.client.CloseIdleConnections()
	if s.o.Tokens != nil {
		token, err := s.o.Tokens.Sign(User, "repository:"+repository+":pull,push")
		if err != nil {
			return err
		}
		p.authorization = "Bearer " + token
	}
	base := s.URL.String() + "/v2/" + repository
	for _, b := range image.blobs {
		if err := p.blob(base, b); err != nil {
			return err
		}
	}
	for i, m := range image.manifests {
		names := []string{m.digest}
		if i == len(image.manifests)-1 {
			names = append(names, tag)
		}
		for _, name := range names {
			if _, err := p.do(http.MethodPut, base+"/manifests/"+name, m.mediaType, m.data, http.StatusCreated); err != nil {
				return err
			}
		}
	}
	return nil
}

type pusher struct {
	s             *Server
	ctx           context.Context // of one Push
	client        *http.Client
	authorization string
}

func (p *pusher) blob(base string, b content) error {
	where, err := p.do(http.MethodPost, base+"/blobs/uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	u, err := p.s.URL.Parse(where)
	if err != nil {
		return err
	}
	query := u.Query()
	query.Set("digest", b.digest)
	u.RawQuery = query.Encode()
	_, err = p.do(http.MethodPut, u.String(), "application/octet-stream", b.data, http.StatusCreated)
	return err
}

// do gives the answer's Location.
func (p *pusher) do(method, to, mediaType string, body []byte, want int) (string, error) {
	req, err := http.NewRequestWithContext(p.ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	if p.authorization != "" {
		req.Header.Set("Authorization", p.authorization)
	} else if p.s.o.Basic {
		req.SetBasicAuth(User, Password)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != want {
		path, _ := url.Parse(to)
		return "", fmt.Errorf("push to the registry: %s %s: %s: %s", method, path.Path, resp.Status, text)
	}
	return resp.Header.Get("Location"), nil
}
