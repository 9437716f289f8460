// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
)

// Trail finds requests that come back to the process that forwarded them.
type Trail struct{ name string }

// NewTrail makes one for this process.
func NewTrail() Trail {
	b := make([]byte, 8)
	rand.Read(b) // never fails
	return Trail{"dragonfly-" + hex.EncodeToString(b)}
}

// Handler lets each request pass once: it leaves its mark in Via, which next
// forwards, and answers 508 to what has the mark.
func (t Trail) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if t.passed(r.Header["Via"]) {
			http.Error(w, "dfdaemon: this request was here before and would go round: look for a registry, a rule or an HTTP_PROXY that leads back to dfdaemon", http.StatusLoopDetected)
			return
		}
		r.Header.Add("Via", "1.1 "+t.name)
		next.ServeHTTP(w, r)
	})
}

// passed looks for the mark in Via: lists of protocol, name and maybe a comment.
func (t Trail) passed(via []string) bool {
	for _, list := range via {
		for hop := range strings.SplitSeq(list, ",") {
			if fields := strings.Fields(hop); len(fields) > 1 && fields[1] == t.name {
				return true
			}
		}
	}
	return false
}
