// SPDX-License-Identifier: Apache-2.0

package dragonfly

import (
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"log/slog"
	"strings"
)

// Digest is the expected or computed digest of a whole content: md5, sha256 or
// sha512. It is comparable; the zero value means "none".
type Digest struct {
	algorithm string
	sum       [sha512.Size]byte
}

// algorithms maps a name to its hash; the name is how a Digest is written.
var algorithms = map[string]func() hash.Hash{
	"md5":    md5.New,
	"sha256": sha256.New,
	"sha512": sha512.New,
}

// NewDigest makes a Digest from the sum of a finished hash.
func NewDigest(algorithm string, sum []byte) (Digest, error) {
	newHash, ok := algorithms[algorithm]
	if !ok {
		return Digest{}, fmt.Errorf("digest algorithm %q is not known: use md5, sha256 or sha512", algorithm)
	}
	if len(sum) != newHash().Size() {
		return Digest{}, fmt.Errorf("a %s digest has %d bytes, not %d", algorithm, newHash().Size(), len(sum))
	}
	d := Digest{algorithm: algorithm}
	copy(d.sum[:], sum)
	return d, nil
}

// ParseDigest reads "sha256:HEX", "sha512:HEX", "md5:HEX", or 32 bare hex
// digits, which mean md5 as in v1. The empty string is the zero Digest.
func ParseDigest(s string) (Digest, error) {
	if s == "" {
		return Digest{}, nil
	}
	algorithm, text, ok := strings.Cut(s, ":")
	if !ok {
		algorithm, text = "md5", s
	}
	sum, err := hex.DecodeString(text)
	if err != nil {
		return Digest{}, fmt.Errorf("digest %q: want md5, sha256:HEX or sha512:HEX: %w", s, err)
	}
	d, err := NewDigest(algorithm, sum)
	if err != nil {
		return Digest{}, fmt.Errorf("digest %q: %w", s, err)
	}
	return d, nil
}

func (d Digest) IsZero() bool      { return d.algorithm == "" }
func (d Digest) Algorithm() string { return d.algorithm }

// Hex is the sum without its algorithm; "" for the zero Digest.
func (d Digest) Hex() string {
	if d.IsZero() {
		return ""
	}
	return hex.EncodeToString(d.sum[:d.NewHash().Size()])
}

// NewHash starts the computation that d is compared with. d must not be zero.
func (d Digest) NewHash() hash.Hash { return algorithms[d.algorithm]() }

// Sign is what stands for d in a TaskID: bare hex for md5 as in v1,
// "sha256:HEX" for the others, "" for none.
func (d Digest) Sign() string {
	if d.algorithm == "md5" {
		return d.Hex()
	}
	return d.String()
}

func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return d.algorithm + ":" + d.Hex()
}

func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}

// PieceDigest is BLAKE3-256 over the BLAKE3-256 digests of a piece's blocks.
// The zero value means "not known yet".
type PieceDigest [32]byte

func (d PieceDigest) IsZero() bool                 { return d == PieceDigest{} }
func (d PieceDigest) String() string               { return hex.EncodeToString(d[:]) }
func (d PieceDigest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }
func (d *PieceDigest) UnmarshalText(b []byte) error {
	return unhex("piece digest", d[:], b)
}

// Version names one state of a task's content: the first 16 bytes of BLAKE3
// over its validator, or 16 random bytes where the source gives none. The zero
// value means "any" in a Registration and is otherwise invalid.
type Version [16]byte

func (v Version) IsZero() bool                 { return v == Version{} }
func (v Version) String() string               { return hex.EncodeToString(v[:]) }
func (v Version) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, v[:]), nil }
func (v *Version) UnmarshalText(b []byte) error {
	return unhex("version", v[:], b)
}

// Ticket admits to the data of one version of one task. It is a secret: it is
// compared in constant time (crypto/subtle) and prints as "ticket".
type Ticket [16]byte

func (t Ticket) String() string               { return "ticket" }
func (t Ticket) GoString() string             { return "ticket" }
func (t Ticket) LogValue() slog.Value         { return slog.StringValue("ticket") } // before MarshalText
func (t Ticket) Secret() string               { return hex.EncodeToString(t[:]) }
func (t Ticket) IsZero() bool                 { return t == Ticket{} }
func (t Ticket) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, t[:]), nil }
func (t *Ticket) UnmarshalText(b []byte) error {
	if err := unhex("ticket", t[:], b); err != nil {
		return fmt.Errorf("ticket: want %d hex digits", 2*len(t)) // without the text
	}
	return nil
}
