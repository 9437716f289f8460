// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseChallenge(t *testing.T) {
	realm, _ := url.Parse("https://auth.example/token?x=1")
	bearer := Challenge{Scheme: SchemeBearer, Realm: realm}
	whole := Challenge{Scheme: SchemeBearer, Realm: realm, Service: "registry, own", Scope: "repository:a/b:pull,push", Problem: "invalid_token"}
	for _, v := range []struct {
		header []string
		want   Challenge
	}{
		{nil, Challenge{}},
		{[]string{""}, Challenge{}},
		{[]string{`Basic realm="x"`}, Challenge{Scheme: SchemeBasic}},
		{[]string{`BASIC`}, Challenge{Scheme: SchemeBasic}},
		{[]string{`Negotiate`}, Challenge{}},
		{[]string{`Bearer realm="https://auth.example/token?x=1"`}, bearer},
		{[]string{`bearer Realm = "https://auth.example/token?x=1"`}, bearer},
		{[]string{`Bearer realm=https://auth.example/token?x=1`}, bearer},
		{[]string{`Bearer realm="https://auth.example/token?x=1",service="registry, own",scope="repository:a/b:pull,push",error="invalid_token"`}, whole},
		{[]string{`Bearer service="registry, own", scope="repository:a/b:pull,push", error=invalid_token , realm="https:\/\/auth.example/token?x=1"`}, whole},
		{[]string{`Basic realm="x", Bearer realm="https://auth.example/token?x=1"`}, bearer},
		{[]string{`Bearer realm="https://auth.example/token?x=1"`, `Basic realm="x"`}, bearer},
		{[]string{`Negotiate YII=, Basic realm="x"`}, Challenge{Scheme: SchemeBasic}},
		{[]string{`Bearer realm="/token"`, `Basic realm="x"`}, Challenge{Scheme: SchemeBasic}},
		{[]string{`Bearer realm="https://u:p@auth.example/token"`}, Challenge{}},
		{[]string{`Bearer realm="ftp://auth.example/token"`}, Challenge{}},
		{[]string{`Bearer realm="https://auth.example/token?x=1`}, Challenge{}},
		{[]string{`Bearer service="x"`}, Challenge{}},
	} {
		got := ParseChallenge(v.header)
		if diff := cmp.Diff(v.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", v.header, diff)
		}
	}
}

// FuzzParseChallenge: whatever a registry says, a Bearer challenge has a realm
// that can be asked, and no other has anything.
func FuzzParseChallenge(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://a/b",service="c"`, `Basic realm="x", Bearer realm=http://[::1]:5/`, `a b=c, d="e\"f"`, `Negotiate YII=`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := ParseChallenge([]string{s})
		if c.Scheme != SchemeBearer && c != (Challenge{Scheme: c.Scheme}) {
			t.Errorf("%q gives %+v", s, c)
		}
		if c.Scheme == SchemeBearer && (c.Realm == nil || c.Realm.Hostname() == "" || c.Realm.User != nil || !strings.HasPrefix(c.Realm.Scheme, "http")) {
			t.Errorf("%q gives the realm %s", s, c.Realm)
		}
		if len(offers(s)) > maxOffers {
			t.Errorf("%q offers more than %d", s, maxOffers)
		}
	})
}
