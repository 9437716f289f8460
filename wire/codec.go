// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"sync"
)

const contentType = "application/json"

// isJSON says whether a Content-Type header names JSON.
func isJSON(header string) bool {
	if header == contentType { // as our own write it
		return true
	}
	mediaType, _, err := mime.ParseMediaType(header)
	return err == nil && mediaType == contentType
}

// errTooLong is wrapped by what readBody says about a body over its limit.
var errTooLong = errors.New("too long")

// buffers are for bodies, which live no longer than a message is read or
// written: most syncs would need nothing else from the heap.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// bufferKept is how large a buffer that is used again may be in bytes: those of
// a rare long message shall not stay.
const bufferKept = 64 << 10

// borrow gives an empty buffer, to be handed back by giveBack when nothing
// refers to its bytes any more.
func borrow() *bytes.Buffer { return buffers.Get().(*bytes.Buffer) }

func giveBack(b *bytes.Buffer) {
	if b.Cap() <= bufferKept {
		b.Reset()
		buffers.Put(b)
	}
}

// readBody reads all of r, which may hold limit bytes, into b.
func readBody(b *bytes.Buffer, r io.Reader, limit int64) error {
	if _, err := b.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return err
	}
	if int64(b.Len()) > limit {
		return fmt.Errorf("a body of more than %d bytes is %w", limit, errTooLong)
	}
	return nil
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
