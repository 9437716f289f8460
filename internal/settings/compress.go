// SPDX-License-Identifier: Apache-2.0

package settings

import "fmt"

// Compress says whether this host's data goes compressed to other hosts, and
// theirs to it: auto, where that is faster, or off.
type Compress struct{ Off bool }

func (c *Compress) UnmarshalText(b []byte) error {
	switch string(b) {
	case "auto":
		c.Off = false
	case "off":
		c.Off = true
	default:
		return fmt.Errorf("%q: want auto or off", b)
	}
	return nil
}

func (c Compress) MarshalText() ([]byte, error) {
	if c.Off {
		return []byte("off"), nil
	}
	return []byte("auto"), nil
}

// Type is what help calls the value of such a flag.
func (Compress) Type() string { return "mode" }
