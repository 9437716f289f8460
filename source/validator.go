// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"dragonfly"
)

// strongETag is tag if it is a well-formed strong entity tag, else "". An
// empty pair of quotes is what some servers send for "none".
func strongETag(tag string) string {
	if len(tag) < 3 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		return ""
	}
	for _, c := range []byte(tag[1 : len(tag)-1]) {
		if c == '"' || c <= ' ' || c == 0x7f {
			return ""
		}
	}
	return tag
}

// anyETag is tag if it is a well-formed entity tag, strong or weak, else "".
func anyETag(tag string) string {
	if strongETag(strings.TrimPrefix(tag, "W/")) == "" {
		return ""
	}
	return tag
}

func isDate(text string) bool {
	if text == "" {
		return false
	}
	_, err := http.ParseTime(text)
	return err == nil
}

// dateAndLength is the validator of a content without a strong ETag, "" where
// one of the two is not known.
func dateAndLength(date string, length int64) string {
	if length < 0 || !isDate(date) {
		return ""
	}
	return fmt.Sprintf("%s %d", date, length)
}

// named says whether the Condition holds anything to revalidate with.
func (c Condition) named() bool {
	return anyETag(c.ETag) != "" || isDate(c.LastModified)
}

// ifRange is the validator that a ranged request is conditional on.
func (c Condition) ifRange() string {
	if tag := strongETag(c.ETag); tag != "" {
		return tag
	}
	if isDate(c.LastModified) {
		return c.LastModified
	}
	return ""
}

// same says that the content of an answer is surely the one that c names.
func (c Condition) same(i Info) bool {
	if tag := strongETag(c.ETag); tag != "" {
		return tag == i.ETag
	}
	v := i.Validator()
	return c.Length > 0 && v != "" && v == dateAndLength(c.LastModified, c.Length)
}

// ContentAddressed reads the digest out of a URL that names its content by it:
// one whose path ends in /blobs/sha256:H or /blobs/sha512:H, in lower-case hex
// digits. Such a content never changes. The digest is that of the whole
// resource, not of a window of it.
func ContentAddressed(rawURL string) (dragonfly.Digest, bool) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return dragonfly.Digest{}, false
	}
	i := strings.LastIndex(u.Path, "/blobs/sha")
	if i < 0 {
		return dragonfly.Digest{}, false
	}
	text := u.Path[i+len("/blobs/"):]
	d, err := dragonfly.ParseDigest(text)
	return d, err == nil && text == d.String()
}
