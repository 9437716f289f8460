// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
)

// Media types of what images are made of.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeGzip     = "application/vnd.oci.image.layer.v1.tar+gzip"
	typeZstd     = "application/vnd.oci.image.layer.v1.tar+zstd"
)

// ImageOptions say what an image is made of. The same options give the same
// image.
type ImageOptions struct {
	Seed          uint64
	Layers        int // of each architecture
	LayerLen      int // bytes of the random file in each layer
	Zstd          bool
	Architectures []string // none: one manifest for amd64; else an index
}

// Image is an image in memory.
type Image struct {
	Digest    string   // of what a tag names
	Platforms []Layout // in the order of the architectures

	blobs     []content // configs and layers
	manifests []content // the last one is what a tag names
}

// Layout is what one architecture of an image consists of.
type Layout struct {
	Manifest string   // digest
	Config   string   // digest
	Layers   []string // digests of the blobs
	DiffIDs  []string // digests of the layers without compression
	Bytes    int64    // of all blobs
}

type content struct {
	digest, mediaType string
	data              []byte
}

func newContent(mediaType string, data []byte) content {
	return content{Digest(data), mediaType, data}
}

func (c content) descriptor() map[string]any {
	return map[string]any{"mediaType": c.mediaType, "digest": c.digest, "size": len(c.data)}
}

// Digest is the name of a content.
func Digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// NewImage makes an image.
func NewImage(o ImageOptions) (*Image, error) {
	image := &Image{}
	architectures := o.Architectures
	if len(architectures) == 0 {
		architectures = []string{"amd64"}
	}
	var entries []map[string]any
	for i, arch := range architectures {
		m, err := image.platform(o, arch, uint64(i))
		if err != nil {
			return nil, err
		}
		entry := m.descriptor()
		entry["platform"] = map[string]string{"os": "linux", "architecture": arch}
		entries = append(entries, entry)
		image.manifests = append(image.manifests, m)
	}
	if len(o.Architectures) > 0 {
		raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": entries})
		if err != nil {
			return nil, err
		}
		image.manifests = append(image.manifests, newContent(typeIndex, raw))
	}
	image.Digest = image.manifests[len(image.manifests)-1].digest
	return image, nil
}

// platform adds the blobs of one architecture and gives its manifest.
func (i *Image) platform(o ImageOptions, arch string, n uint64) (content, error) {
	var at Layout
	var layers []map[string]any
	for l := range o.Layers {
		raw, err := layerTar(fmt.Sprintf("layer-%s-%d", arch, l), o.LayerLen, rand.New(rand.NewPCG(o.Seed, n<<32|uint64(l))))
		if err != nil {
			return content{}, err
		}
		at.DiffIDs = append(at.DiffIDs, Digest(raw))
		blob := newContent(typeZstd, zstdStored(raw))
		if !o.Zstd {
			packed, err := gzipStored(raw)
			if err != nil {
				return content{}, err
			}
			blob = newContent(typeGzip, packed)
		}
		i.blobs = append(i.blobs, blob)
		at.Layers = append(at.Layers, blob.digest)
		at.Bytes += int64(len(blob.data))
		layers = append(layers, blob.descriptor())
	}
	raw, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": arch, "config": map[string]any{"Cmd": []string{"/none"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": at.DiffIDs},
	})
	if err != nil {
		return content{}, err
	}
	config := newContent(typeConfig, raw)
	i.blobs = append(i.blobs, config)
	at.Config, at.Bytes = config.digest, at.Bytes+int64(len(raw))
	raw, err = json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeManifest, "config": config.descriptor(), "layers": layers})
	if err != nil {
		return content{}, err
	}
	m := newContent(typeManifest, raw)
	at.Manifest = m.digest
	i.Platforms = append(i.Platforms, at)
	return m, nil
}

// Blob is the content of a layer or a configuration, nil if there is none.
func (i *Image) Blob(digest string) []byte {
	for _, b := range i.blobs {
		if b.digest == digest {
			return b.data
		}
	}
	return nil
}

// layerTar is a layer with one file of random bytes.
func layerTar(name string, size int, random *rand.Rand) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(size + 4096)
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
		return nil, err
	}
	data := make([]byte, (size+7)/8*8)
	for i := 0; i < len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], random.Uint64())
	}
	if _, err := w.Write(data[:size]); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}

// gzipStored wraps data without compressing it: random bytes do not shrink.
func gzipStored(data []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(data) + len(data)/1000 + 64)
	w, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// zstdBlock is the longest block that the window of zstdStored allows.
const zstdBlock = 128 << 10

// zstdStored wraps data in a zstd frame of raw blocks (RFC 8878, 3.1.1): a
// header with a window of 128 KiB, then each block behind its length.
func zstdStored(data []byte) []byte {
	out := append(make([]byte, 0, len(data)+len(data)/zstdBlock*3+64), 0x28, 0xb5, 0x2f, 0xfd, 0x00, 7<<3)
	for {
		n := min(len(data), zstdBlock)
		header := uint32(n) << 3 // raw
		if n == len(data) {
			header |= 1 // the last one
		}
		out = append(out, byte(header), byte(header>>8), byte(header>>16))
		out = append(out, data[:n]...)
		if data = data[n:]; len(data) == 0 {
			return out
		}
	}
}
