// SPDX-License-Identifier: Apache-2.0

package dragonfly

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Rate is bytes per second; 0 means no limit. It is written as in v1: a number
// of bytes, or a number with B, K, KB, M, MB, G or GB (k and m too), factors
// of 1024 (v1-protocol 12.3).
type Rate int64

// Size is a number of bytes, written like a Rate.
type Size int64

var units = []struct {
	suffix string
	factor int64
}{
	{"GB", 1 << 30}, {"G", 1 << 30}, {"g", 1 << 30},
	{"MB", 1 << 20}, {"M", 1 << 20}, {"m", 1 << 20},
	{"KB", 1 << 10}, {"K", 1 << 10}, {"k", 1 << 10},
	{"B", 1}, {"", 1},
}

func parseBytes(what, s string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || n > math.MaxInt64/uint64(u.factor) {
			break
		}
		return int64(n) * u.factor, nil
	}
	return 0, fmt.Errorf("%s %q: want a number of bytes, or a number with B, KB, MB or GB, as in 20MB", what, s)
}

func formatBytes(n int64) string {
	for _, u := range units {
		if len(u.suffix) == 2 && n >= u.factor && n%u.factor == 0 {
			return strconv.FormatInt(n/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

func ParseRate(s string) (Rate, error) {
	n, err := parseBytes("rate", s)
	return Rate(n), err
}

func ParseSize(s string) (Size, error) {
	n, err := parseBytes("size", s)
	return Size(n), err
}

func (r Rate) String() string { return formatBytes(int64(r)) }
func (s Size) String() string { return formatBytes(int64(s)) }

func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (r *Rate) UnmarshalText(b []byte) (err error) { *r, err = ParseRate(string(b)); return err }
func (s *Size) UnmarshalText(b []byte) (err error) { *s, err = ParseSize(string(b)); return err }

// Set and Type make Rate and Size command line flags.
func (r *Rate) Set(s string) error { return r.UnmarshalText([]byte(s)) }
func (s *Size) Set(v string) error { return s.UnmarshalText([]byte(v)) }
func (r *Rate) Type() string       { return "rate" }
func (s *Size) Type() string       { return "size" }
