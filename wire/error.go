// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"net/http"

	"dragonfly"
)

// ErrNotNative says that the server answers but does not know the native
// routes: it speaks v1 only, or is no supernode. It comes inside a
// dragonfly.Error of kind Unavailable.
var ErrNotNative = errors.New("the server does not speak the native protocol")

// statusClientClosed is what servers log for a client that went away.
const statusClientClosed = 499

// statuses is the table of kinds and the HTTP status that stands for each.
// Statuses are for people and proxies: readers go by the kind.
var statuses = map[dragonfly.Kind]int{
	dragonfly.Invalid:          http.StatusBadRequest,
	dragonfly.NotFound:         http.StatusNotFound,
	dragonfly.Unauthorized:     http.StatusUnauthorized,
	dragonfly.Forbidden:        http.StatusForbidden,
	dragonfly.SourceFailed:     http.StatusBadGateway,
	dragonfly.SourceChanged:    http.StatusPreconditionFailed,
	dragonfly.Throttled:        http.StatusTooManyRequests,
	dragonfly.DigestMismatch:   http.StatusUnprocessableEntity,
	dragonfly.NoSpace:          http.StatusInsufficientStorage,
	dragonfly.Unavailable:      http.StatusServiceUnavailable,
	dragonfly.UnknownSession:   http.StatusConflict,
	dragonfly.NotOwner:         http.StatusMisdirectedRequest,
	dragonfly.ProtocolMismatch: http.StatusNotImplemented,
	dragonfly.Denied:           http.StatusForbidden,
	dragonfly.Canceled:         statusClientClosed,
	dragonfly.Internal:         http.StatusInternalServerError,
}

// Status is the HTTP status that stands for a kind; 500 for one that is not
// known.
func Status(k dragonfly.Kind) int {
	if status, ok := statuses[k]; ok {
		return status
	}
	return http.StatusInternalServerError
}
