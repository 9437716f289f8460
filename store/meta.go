// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"fmt"

	"dragonfly"
)

const (
	// metaFormat is the newest format of a .meta file that this build knows.
	metaFormat = 1
	// maxMeta bounds what is read of a .meta file.
	maxMeta = 1 << 20
	// maxPieces bounds the pieces of one content, as PieceSet does on the wire.
	maxPieces = 8 << 20
	// maxPieceLen bounds the length of a piece; v1's are below 16 MiB.
	maxPieceLen = 1 << 30
)

// Meta describes a content. It says nothing about which pieces are there.
type Meta struct {
	Task    dragonfly.TaskID  `json:"task"`
	Version dragonfly.Version `json:"version"`
	Layout  dragonfly.Layout  `json:"layout"`
	// TaskURL is what the task was asked for by, after filtering.
	TaskURL string `json:"taskUrl,omitempty"`
	// Name tells the content from others of the same TaskID, as Request.Name
	// does, in hex; empty: an older build wrote it.
	Name string `json:"name,omitempty"`
	// ETag and LastModified are the source's validators, "" when it gave none.
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
	// Resumable says that the source serves ranges.
	Resumable bool `json:"resumable,omitempty"`
	// Digest is the digest of the whole content once it was computed from its
	// verified pieces (SetDigest); Create ignores it.
	Digest dragonfly.Digest `json:"digest,omitzero"`
}

func (m Meta) validate() error {
	l := m.Layout
	switch {
	case m.Task.IsZero(), m.Version.IsZero():
		return fmt.Errorf("content without a task id or version")
	case l.PieceLen <= 0 || l.PieceLen > maxPieceLen || l.Length < dragonfly.UnknownLength:
		return fmt.Errorf("content of task %s: piece length %d, length %d", m.Task, l.PieceLen, l.Length)
	case l.Length/l.PieceLen >= maxPieces:
		return fmt.Errorf("content of task %s: more than %d pieces", m.Task, maxPieces)
	}
	return nil
}

func (m Meta) encode() ([]byte, error) {
	return json.Marshal(struct {
		Format int `json:"format"`
		Meta
	}{metaFormat, m})
}

func parseMeta(text []byte) (Meta, error) {
	var m struct {
		Format int `json:"format"`
		Meta
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return Meta{}, err
	}
	if m.Format != metaFormat {
		return Meta{}, fmt.Errorf("format %d, this build knows %d", m.Format, metaFormat)
	}
	return m.Meta, m.validate()
}
