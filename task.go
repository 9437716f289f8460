// SPDX-License-Identifier: Apache-2.0

package dragonfly

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// TaskID names one content for every supernode and peer (v1-protocol 4.1).
type TaskID [sha256.Size]byte

// taskKey frames the hashed text of a TaskID (v1-protocol 4.1).
const taskKey = `>I$pg-~AS~sP'rqu_` + "`" + `Oh&lz#9]"=;nE%`

// ParseTaskID reads 64 hex digits.
func ParseTaskID(s string) (TaskID, error) {
	var id TaskID
	return id, id.UnmarshalText([]byte(s))
}

func (id TaskID) String() string               { return hex.EncodeToString(id[:]) }
func (id TaskID) IsZero() bool                 { return id == TaskID{} }
func (id TaskID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }
func (id *TaskID) UnmarshalText(b []byte) error {
	return unhex("task id", id[:], b)
}

// Header is a set of request headers. Its values are secrets: it prints and
// logs as the sorted list of its names only.
type Header map[string][]string

// ParseHeader reads "Name: value" lines as dfget and v1 clients give them.
// Lines without a colon or without a value are dropped (v1-protocol 4.1).
func ParseHeader(lines []string) Header {
	var h Header
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || value == "" {
			continue
		}
		if h == nil {
			h = Header{}
		}
		h[name] = append(h[name], value)
	}
	return h
}

func (h Header) String() string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	return "[" + strings.Join(names, " ") + "]"
}

// GoString keeps %#v from printing values.
func (h Header) GoString() string { return h.String() }

// LogValue keeps slog from printing values.
func (h Header) LogValue() slog.Value { return slog.StringValue(h.String()) }

// Request says which content is wanted and how its source is to be read.
type Request struct {
	URL        string `json:"url"`                  // http or https, as the user gave it
	TaskURL    string `json:"taskUrl,omitempty"`    // after filtering (FilterURL); "" means URL
	Digest     Digest `json:"digest,omitzero"`      // expected digest of the whole content
	Identifier string `json:"identifier,omitempty"` // part of the TaskID when there is no digest
	Header     Header `json:"headers,omitempty"`    // sent to the source; secrets
	Insecure   bool   `json:"insecure,omitempty"`   // the source's certificate is not checked
	RootCAs    []byte `json:"rootCAs,omitempty"`    // PEM, additional roots for the source
	CallSystem string `json:"callSystem,omitempty"` // label for metrics
}

// TaskID derives the identity of the requested content (v1-protocol 4.1).
// Only a header spelled exactly "Range" takes part in it.
func (r Request) TaskID() TaskID {
	return sha256.Sum256([]byte(taskKey + strings.Join(r.parts(), "") + taskKey))
}

// parts are what a TaskID is made of: URL, sign, range.
func (r Request) parts() []string {
	url := r.TaskURL
	if strings.TrimSpace(url) == "" {
		url = r.URL
	}
	sign := r.Digest.Sign()
	if sign == "" && strings.TrimSpace(r.Identifier) != "" {
		sign = r.Identifier
	}
	return []string{url, sign, strings.Join(r.Header["Range"], ",")}
}

// Name tells the content of the request from every other one. A TaskID does not:
// v1 writes its parts one after the other, so that other parts, a shorter URL
// with the rest as identifier, give the same one. Nobody may have a content by
// being let to another of the same TaskID.
func (r Request) Name() (name [sha256.Size]byte) {
	sum := sha256.New()
	for _, part := range r.parts() {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	sum.Sum(name[:0])
	return name
}

// FilterURL drops the query parameters with exactly the given names and keeps
// the others in their order; it normalises nothing else (v1-protocol 4.1).
func FilterURL(url string, names []string) string {
	base, query, ok := strings.Cut(url, "?")
	if !ok || len(names) == 0 {
		return url
	}
	items := strings.Split(query, "&")
	items = slices.DeleteFunc(items, func(item string) bool {
		name, _, _ := strings.Cut(item, "=")
		return slices.Contains(names, name)
	})
	if len(items) == 0 {
		return base
	}
	return base + "?" + strings.Join(items, "&")
}

// unhex fills dst from exactly 2*len(dst) hex digits.
func unhex(what string, dst, text []byte) error {
	if len(text) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("%s %.80q: want %d hex digits, have %d bytes", what, text, hex.EncodedLen(len(dst)), len(text))
	}
	if _, err := hex.Decode(dst, text); err != nil {
		return fmt.Errorf("%s %q: %w", what, text, err)
	}
	return nil
}
