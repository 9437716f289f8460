// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"dragonfly/proxy"
)

// TestPasswords: without user and password there is a challenge and nothing
// else, for requests as for tunnels.
func TestPasswords(t *testing.T) {
	s, secure := newSite(t, httptest.NewServer), newSite(t, httptest.NewTLSServer)
	passwords, err := proxy.ParsePasswords(strings.NewReader("# users\n\nann:" + secret + "\r\nbob:a:b c\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, at := serve(t, proxy.Options{Passwords: passwords})
	for _, v := range []struct {
		user *url.Userinfo
		ok   bool
	}{
		{nil, false},
		{url.User("ann"), false},
		{url.UserPassword("ann", "a:b c"), false},
		{url.UserPassword("", ""), false},
		{url.UserPassword("ann", secret), true},
		{url.UserPassword("bob", "a:b c"), true},
	} {
		through := *at
		through.User = v.user
		c := client(t, &through, secure.Certificate())
		resp, body := do(t, c, "GET", s.URL, "")
		if v.ok != (resp.StatusCode == 200) || !v.ok && (resp.StatusCode != 407 || !strings.HasPrefix(resp.Header.Get("Proxy-Authenticate"), "Basic ") || strings.Contains(body, secret)) {
			t.Errorf("%v: %d %v %s", v.user, resp.StatusCode, resp.Header, body)
		}
		tunnelled, err := c.Get(secure.URL)
		if v.ok != (err == nil) {
			t.Errorf("%v: tunnel: %v", v.user, err)
		}
		if err == nil {
			tunnelled.Body.Close()
		}
	}
	if n := len(s.asked()); n != 2 {
		t.Errorf("the host was asked %d times", n)
	}
}

func TestParsePasswords(t *testing.T) {
	for text, want := range map[string]string{
		"a:b":                                   "",
		"# c\na:b\n":                            "",
		"":                                      "there is no line",
		"# a:b\n":                               "there is no line",
		"a:b\n" + secret:                        "line 2: want user:password",
		":" + secret:                            "line 1: want",
		secret + ":":                            "line 1: want",
		"a:b\na:" + strings.Repeat(secret, 100): "line 2: longer than",
		strings.Repeat("a:b\n", 1001):           "line 1001: more than",
	} {
		_, err := proxy.ParsePasswords(strings.NewReader(text))
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

// FuzzParsePasswords: whatever the file holds, only what stands in a line of it
// is let in.
func FuzzParsePasswords(f *testing.F) {
	f.Add("a:b\n#c:d\n", "a", "b")
	f.Add("a:b:c", "a:b", "c")
	f.Fuzz(func(t *testing.T, text, user, password string) {
		p, err := proxy.ParsePasswords(strings.NewReader(text))
		if err != nil {
			return
		}
		r := httptest.NewRequest("GET", "http://x/", nil)
		r.SetBasicAuth(user, password)
		r.Header["Proxy-Authorization"] = r.Header["Authorization"]
		if line := user + ":" + password; p.Admit(r) && !strings.Contains(text, line) {
			t.Errorf("%q admits %q", text, line)
		}
		r.Header.Del("Proxy-Authorization")
		if p.Admit(r) {
			t.Errorf("%q admits everybody", text)
		}
	})
}
