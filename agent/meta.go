// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// writeHostMeta tells v1's tools in dir/host.meta where the data port is; 0:
// nobody listens (v1-protocol 7.3). Users may empty dir at any time (FAQ: data
// directory).
func writeHostMeta(dir string, port int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, "host.meta")
	fresh := path + ".new"
	if err := os.WriteFile(fresh, fmt.Appendf(nil, `{"servicePort":%d}`, port), 0o755); err != nil {
		return err
	}
	err := os.Rename(fresh, path)
	if errors.Is(err, fs.ErrNotExist) { // emptied in this moment
		return os.WriteFile(path, fmt.Appendf(nil, `{"servicePort":%d}`, port), 0o755)
	}
	return err
}
