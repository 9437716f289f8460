// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
)

const contentType = "application/json"

// isJSON says whether a Content-Type header names JSON.
func isJSON(header string) bool {
	mediaType, _, err := mime.ParseMediaType(header)
	return err == nil && mediaType == contentType
}

// errTooLong is wrapped by what readBody says about a body over its limit.
var errTooLong = errors.New("too long")

// readBody reads all of r, which may hold limit bytes.
func readBody(r io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("a body of more than %d bytes is %w", limit, errTooLong)
	}
	return body, nil
}

// bytesPerElement is fewer than any element of any message takes in JSON. An
// array cannot have more elements than its text has commas, but an element of
// two bytes becomes a struct of two hundred: so the commas are counted before
// the text is decoded.
const bytesPerElement = 16

// decode reads exactly one JSON value, in a text that may hold limit bytes,
// into v.
func decode(body []byte, limit int64, v any) error {
	if n := int64(bytes.Count(body, []byte{','})); n > limit/bytesPerElement {
		return fmt.Errorf("more than %d elements are %w", limit/bytesPerElement, errTooLong)
	}
	return json.Unmarshal(body, v)
}
