// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dragonfly/internal/swarm"
	"dragonfly/proxy"
)

// files are a pair of an authority, another key, and texts that are neither.
type files struct{ cert, key, otherKey, text, open, users, noUsers string }

func newFiles(t *testing.T) files {
	cert, key, err := proxy.NewAuthority("test", 1<<50)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	f := files{cert: write(t, "ca.crt", string(cert)), key: write(t, "ca.key", string(key)),
		otherKey: write(t, "other.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))),
		text:     write(t, "text", "no certificate"), open: write(t, "open", "a:"+secret), users: write(t, "users", "a:"+secret), noUsers: write(t, "none", "ann\n")}
	if err := os.Chmod(f.open, 0o644); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRefusals: what is wrong, where, and what to do, with v1's exit code
// (v1-protocol 10), before anything is opened.
func TestRefusals(t *testing.T) {
	f := newFiles(t)
	home := t.TempDir()
	inTheWay := write(t, "file", "")
	used, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer used.Close()
	_, usedPort, _ := net.SplitHostPort(used.Addr().String())
	for name, v := range map[string]struct {
		yaml string
		args []string
		code int
		says string
	}{
		"port":                {"", []string{"--port", "70000"}, exitPort, "want one from 1 to 65535"},
		"data port":           {"peerPort: 80", nil, exitPort, "from 15000 to 65000"},
		"rate":                {"", []string{"--ratelimit", "many"}, exitRate, "20MB"},
		"rate in the file":    {"verbose: true\nratelimit: much", nil, exitRate, ":2: ratelimit"},
		"relative repo":       {"", []string{"--localrepo", "here"}, exitPath, "absolute"},
		"repo in the way":     {"", []string{"--localrepo", inTheWay + "/x"}, exitRepo, "give another with --localrepo"},
		"registry":            {"", []string{"--registry", "ftp://x"}, exitConfig, "as in https://"},
		"registry's password": {"", []string{"--registry", "https://u:" + secret + "@x"}, exitConfig, "take user and password out"},
		"auth":                {"", []string{"--registry-auth", "maybe"}, exitConfig, "want auto, on or off"},
		"registry is itself":  {"", []string{"--registry", "http://127.0.0.1:" + usedPort, "--port", usedPort}, exitConfig, "is dfdaemon itself"},
		"registry by name":    {"", []string{"--registry", "localhost:" + usedPort, "--port", usedPort, "--hostIp", "0.0.0.0"}, exitConfig, "is dfdaemon itself"},
		"port in use":         {"", []string{"--port", usedPort}, exitOther, "give another one with --port"},
		"no such address":     {"", []string{"--hostIp", "192.0.2.77"}, exitOther, "with --hostIp"},
		"hostIp":              {"hostIp: here", nil, exitConfig, "want an address"},
		"localIP":             {"localIP: here", nil, exitConfig, "want an address"},
		"expire":              {"", []string{"--expiretime", "1s"}, exitConfig, "at least 1m"},
		"quota":               {"quota: lots", nil, exitConfig, "quota"},
		"no file":             {"", []string{"--config", home + "/none.yml"}, exitConfig, "none.yml"},
		"unknown key":         {"registri_mirror: {}", nil, exitConfig, "did you mean registry_mirror?"},
		"unknown flag":        {"", []string{"--nod", "x"}, exitOther, "did you mean --node?"},
		"argument":            {"", []string{"registry.example"}, exitOther, "registry.example"},
		"rule's pattern":      {"proxies:\n- regx: blobs\n- regx: '(x'\n", nil, exitConfig, ":3: proxies.regx: error parsing regexp"},
		"rule without":        {"proxies:\n- direct: true\n", nil, exitConfig, "rule 1 has no regx"},
		"empty pattern":       {"proxies:\n- regx: ''\n", nil, exitConfig, "write .* if that is meant"},
		"redirect":            {"proxies:\n- regx: x\n  redirect: http://y\n", nil, exitConfig, ":3: proxies.redirect: want a host"},
		"host's pattern":      {"hijack_https:\n  hosts:\n  - regx: '[a'\n", nil, exitConfig, ":3: hijack_https.hosts.regx: error parsing"},
		"host without":        {"hijack_https: {hosts: [{insecure: true}]}", nil, exitConfig, "host 1 has no regx"},
		"host's certificates": {"hijack_https: {hosts: [{regx: a, certs: [" + f.text + "]}]}", nil, exitConfig, "host 1, certs: " + f.text + ": there is no certificate"},
		"half a pair":         {"hijack_https: {cert: " + f.cert + "}", nil, exitConfig, "cert and key go together"},
		"pair that is none":   {"hijack_https: {cert: " + f.cert + ", key: " + f.otherKey + "}", nil, exitConfig, "do not make a pair"},
		"no such key":         {"hijack_https: {cert: " + f.cert + ", key: " + home + "/none}", nil, exitConfig, home + "/none: no such file"},
		"own half":            {"", []string{"--certpem", f.cert}, exitConfig, "--certpem, --keypem) go together"},
		"own pair":            {"", []string{"--certpem", f.cert, "--keypem", f.otherKey}, exitConfig, "do not make a pair"},
		"own key is none":     {"", []string{"--certpem", f.cert, "--keypem", f.text}, exitConfig, "do not make a pair"},
		"registry's roots":    {"registry_mirror: {certs: [" + f.key + "]}", nil, exitConfig, "there is no certificate in it"},
		"no such roots":       {"registry_mirror: {certs: [" + home + "/none]}", nil, exitConfig, "registry_mirror.certs: "},
		"users for all":       {"", []string{"--proxy-auth-file", f.open}, exitConfig, "chmod 600"},
		"no users":            {"", []string{"--proxy-auth-file", f.noUsers}, exitConfig, "line 1: want user:password"},
		"no users' file":      {"proxyAuthFile: " + home + "/none", nil, exitConfig, "no such file"},
		"users' directory":    {"proxyAuthFile: " + home, nil, exitConfig, "is no file"},
		"log":                 {"logConfig: {maxSize: -1}", nil, exitConfig, "must not be negative"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--config", write(t, "dfdaemon.yml", v.yaml+"\n"), "--workHome", filepath.Join(home, "work")}, v.args...)
			code, _, stderr := call(t, nil, args...)
			if code != v.code || !strings.Contains(stderr, v.says) || strings.Contains(stderr, secret) {
				t.Errorf("exit code %d, want %d and %q: %s", code, v.code, v.says, stderr)
			}
		})
	}
	if code, _, stderr := call(t, nil, "--config", write(t, "empty", "")); code != exitHome || !strings.Contains(stderr, "--workHome") {
		t.Errorf("without a home: exit code %d: %s", code, stderr)
	}
}

// TestNotices: what has no meaning is accepted and said, what is risky too.
func TestNotices(t *testing.T) {
	f := newFiles(t)
	d := start(t, "dfget_flags: [--node, x]\nhijack_https: {hosts: [{regx: x}]}\n", "--dfpath", "/usr/bin/dfget", "--maxprocs", "8", "--streamMode")
	contains(t, "the log", d.stderr.String(), "no effect any more, and ignored: dfget_flags", "--dfpath", "--maxprocs", "--streamMode", "no host is intercepted without cert and key")
	until(t, "dfdaemon.log says the same", func() bool {
		log, err := os.ReadFile(filepath.Join(d.home, ".small-dragonfly", "logs", "dfdaemon.log"))
		return err == nil && strings.Contains(string(log), "no effect any more") && strings.Contains(string(log), "dfdaemon serves")
	})

	if strings.Contains(d.stderr.String(), "whoever reaches") {
		t.Error("a warning of others on loopback")
	}
	for args, warned := range map[string]bool{"": true, "--proxy-auth-file=" + f.users: false} {
		all := []string{"--hostIp", "0.0.0.0"}
		if args != "" {
			all = append(all, args)
		}
		d := start(t, "hijack_https: {cert: "+f.cert+", key: "+f.key+"}\n", all...)
		if got := strings.Contains(d.stderr.String(), "whoever reaches 0.0.0.0"); got != warned {
			t.Errorf("%q: warned: %v: %s", args, got, d.stderr)
		}
		contains(t, "the log", d.stderr.String(), "of no use without hosts")
	}
}

// TestCommands: what is printed and made beside serving.
func TestCommands(t *testing.T) {
	code, out, stderr := call(t, nil, "config", "default")
	if code != 0 || stderr != "" {
		t.Fatal(code, stderr)
	}
	contains(t, "the default configuration", out, "registry_mirror:\n", "remote: https://index.docker.io", "port: 65001", "hostIp: 127.0.0.1", "proxies: []", "hijack_https:\n", "expireTime: 1h0m0s")
	d := start(t, strings.Replace(out, "localIP: \"\"", "", 1), "--registry", "http://127.0.0.1:1") // it is a configuration
	if resp, _ := d.get("/debug/version"); resp.StatusCode != 200 {
		t.Error(resp.StatusCode)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, _ := call(t, nil, "completion", shell); code != 0 || !strings.Contains(out, "dfdaemon") {
			t.Errorf("completion %s: %d %.200s", shell, code, out)
		}
	}
	dir := t.TempDir()
	if code, _, stderr := call(t, nil, "gen-doc", "--path", dir); code != 0 {
		t.Fatal(stderr)
	}
	page, err := os.ReadFile(filepath.Join(dir, "dfdaemon.md"))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "the page", string(page), "--proxy-auth-file", "--registry", "--certpem")
	if _, err := os.Stat(filepath.Join(dir, "dfdaemon-gen-ca.md")); err != nil {
		t.Error(err)
	}
	if code, out, _ := call(t, nil, "version"); code != 0 || !strings.HasPrefix(out, "dfdaemon version") {
		t.Errorf("%d %s", code, out)
	}
	if code, out, _ := call(t, nil, "--help"); code != 0 || !strings.Contains(out, "--proxy-auth-file") {
		t.Errorf("%d %s", code, out)
	}
}

// TestEnvironment: flags beat the environment, which beats the file.
func TestEnvironment(t *testing.T) {
	file := write(t, "dfdaemon.yml", "port: 70001\nregistry_mirror: {remote: 'ftp://file'}\n")
	env := map[string]string{"HOME": t.TempDir(), "DFDAEMON_PORT": "70002"}
	if _, _, stderr := call(t, env, "--config", file); !strings.Contains(stderr, "70002") {
		t.Error(stderr)
	}
	if _, _, stderr := call(t, env, "--config", file, "--port", "70003"); !strings.Contains(stderr, "70003") {
		t.Error(stderr)
	}
	env["DFDAEMON_REGISTRY"] = "https://registry.example"
	if _, _, stderr := call(t, env, "--config", file); strings.Contains(stderr, "registry") {
		t.Error(stderr)
	}
}

// TestGenCA: a pair that dfdaemon takes, a key for its owner only, and nothing
// that is there is lost.
func TestGenCA(t *testing.T) {
	dir := t.TempDir()
	key, cert := filepath.Join(dir, "ca.key"), filepath.Join(dir, "ca.crt")
	args := []string{"gen-ca", "--key-output", key, "--cert-output", cert}
	code, out, stderr := call(t, nil, append(args, "--common-name", "our own")...)
	if code != 0 {
		t.Fatal(stderr)
	}
	contains(t, "what to do with it", out, "update-ca-certificates", "update-ca-trust", "/etc/docker/certs.d/", "cert: "+cert, "key: "+key)
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	made, err := pair("hijack_https", cert, key)
	if err != nil || made.Leaf.Subject.CommonName != "our own" || made.Leaf.NotAfter.Sub(made.Leaf.NotBefore).Hours() != 87601 {
		t.Fatalf("%v %v", made.Leaf.Subject, err)
	}
	if p, err := proxy.New(proxy.Options{Certificate: made}); err != nil {
		t.Error(err)
	} else {
		p.Close()
	}
	before, _ := os.ReadFile(key)
	if code, _, stderr := call(t, nil, args...); code != exitOther || !strings.Contains(stderr, "--overwrite") {
		t.Errorf("%d %s", code, stderr)
	}
	os.Remove(cert)
	if code, _, stderr := call(t, nil, args...); code != exitOther || !strings.Contains(stderr, "--key-output") {
		t.Errorf("%d %s", code, stderr)
	}
	if after, _ := os.ReadFile(key); string(after) != string(before) {
		t.Error("the key is another one")
	}
	if code, _, stderr := call(t, nil, append(args, "--overwrite", "--expire-duration", "2h")...); code != 0 {
		t.Error(stderr)
	}
	for says, more := range map[string][]string{
		"want from 1h": {"--expire-duration", "1m"}, "common name": {"--common-name", strings.Repeat("x", 65)}, "same file": {"--cert-output", key},
		"want the name of a file": {"--cert-output", ""}, "no such file": {"--cert-output", dir + "/none/ca.crt"},
	} {
		if code, _, stderr := call(t, nil, append(append(args, "--overwrite"), more...)...); code != exitOther || !strings.Contains(stderr, says) {
			t.Errorf("%q: %d %s", more, code, stderr)
		}
	}
}

// TestWithoutPrivileges: a user without any runs it, and is told when his home
// cannot be written to.
func TestWithoutPrivileges(t *testing.T) {
	dir, err := os.MkdirTemp("", "dfdaemon-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const nobody = 65534
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Skip("the program cannot be read")
	}
	program, home := filepath.Join(dir, "dfdaemon"), filepath.Join(dir, "home")
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		as.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(home, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	port, err := swarm.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	run := func(home string, port string) (*exec.Cmd, *swarm.Tail) {
		cmd := exec.CommandContext(t.Context(), program, "--port", port, "--node", "127.0.0.1:1", "--registry", "127.0.0.1:1")
		cmd.Env, cmd.SysProcAttr, cmd.Dir = append(swarm.Environment(home), "TEST_IS_DFDAEMON=1"), as, "/"
		tail := &swarm.Tail{}
		cmd.Stdout, cmd.Stderr = tail, tail
		return cmd, tail
	}
	number := strings.TrimPrefix((&net.TCPAddr{Port: port}).String(), ":")
	cmd, tail := run(home, number)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serves := tail.WaitFor(t.Context(), "dfdaemon serves", 1)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || serves != nil {
		t.Errorf("%v %v: %s", serves, err, tail)
	}
	if err := os.Chmod(home, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(home, ".small-dragonfly")); err != nil {
		t.Fatal(err)
	}
	cmd, tail = run(home, number)
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != exitRepo || !strings.Contains(tail.String(), "permission denied") || !strings.Contains(tail.String(), "--workHome") {
		t.Errorf("%v: %s", err, tail)
	}
	if os.Getuid() == 0 {
		if err := os.Chmod(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if low, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil && strings.TrimSpace(string(low)) == "1024" {
			cmd, tail = run(home, "81")
			if err := cmd.Run(); cmd.ProcessState.ExitCode() != exitOther || !strings.Contains(tail.String(), "above 1023") {
				t.Errorf("%v: %s", err, tail)
			}
		}
	}
}
