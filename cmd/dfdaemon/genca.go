// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"dragonfly/internal/machine"
	"dragonfly/proxy"
)

// authorityOrder is what gen-ca is told.
type authorityOrder struct {
	name      string
	lifetime  time.Duration
	key, cert string // files
	overwrite bool
}

func genCA() *cobra.Command {
	o := authorityOrder{name: machine.Name(), lifetime: 87600 * time.Hour, key: "ca.key", cert: "ca.crt"}
	c := &cobra.Command{
		Use:   "gen-ca",
		Short: "Make an authority for intercepted hosts",
		Long: `Make the certificate and the key of an authority. dfdaemon signs with it a
certificate for each host that hijack_https names, and clients must trust it.
Whoever has the key can be any host to them.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return o.make(c.OutOrStdout()) },
	}
	c.Flags().StringVar(&o.name, "common-name", o.name, "name of the authority")
	c.Flags().DurationVar(&o.lifetime, "expire-duration", o.lifetime, "how long it is good")
	c.Flags().StringVar(&o.key, "key-output", o.key, "file for the key")
	c.Flags().StringVar(&o.cert, "cert-output", o.cert, "file for the certificate")
	c.Flags().BoolVar(&o.overwrite, "overwrite", false, "replace files that are there")
	return c
}

func (o authorityOrder) make(stdout io.Writer) error {
	if o.lifetime < time.Hour || o.lifetime > 100*365*24*time.Hour {
		return fmt.Errorf("--expire-duration %s: want from 1h to 876000h", o.lifetime)
	}
	for flag, name := range map[string]string{"--key-output": o.key, "--cert-output": o.cert} {
		if _, err := os.Lstat(name); name == "" {
			return fmt.Errorf("%s: want the name of a file", flag)
		} else if err == nil && !o.overwrite {
			return fmt.Errorf("%s is there already: give another name with %s, or --overwrite", name, flag)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	if filepath.Clean(o.key) == filepath.Clean(o.cert) {
		return errors.New("--key-output and --cert-output name the same file: the certificate is for everybody, the key is not")
	}
	cert, key, err := proxy.NewAuthority(o.name, o.lifetime)
	if err != nil {
		return fmt.Errorf("--common-name: %w", err)
	}
	if err := replaceFile(o.key, key, 0o600); err != nil {
		return err
	}
	if err := replaceFile(o.cert, cert, 0o644); err != nil {
		return err
	}
	at, err := filepath.Abs(o.cert)
	if err != nil {
		return err
	}
	keyAt, err := filepath.Abs(o.key)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, `certificate  %[1]s
key          %[2]s (keep it to yourself)

In dfdaemon.yml:

hijack_https:
  cert: %[1]s
  key: %[2]s
  hosts:
    - regx: registry.example:443

Hosts that shall trust it:

Debian, Ubuntu    cp %[1]s /usr/local/share/ca-certificates/dragonfly.crt && update-ca-certificates
RHEL, Fedora      cp %[1]s /etc/pki/ca-trust/source/anchors/dragonfly.crt && update-ca-trust
docker, one host  mkdir -p /etc/docker/certs.d/registry.example && cp %[1]s /etc/docker/certs.d/registry.example/ca.crt

Engines read the certificates of their host at their start: restart them.
`, at, keyAt)
	return err
}

// replaceFile writes a file in one step: there is the old one or the whole new
// one.
func replaceFile(name string, text []byte, mode fs.FileMode) (err error) {
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(text)
	if err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}
