// SPDX-License-Identifier: Apache-2.0

package dragonfly_test

import (
	"encoding/json"
	"strings"
	"testing"

	"dragonfly"
)

func TestParseDigest(t *testing.T) {
	md5 := strings.Repeat("0a", 16)
	sha256 := strings.Repeat("0b", 32)
	sha512 := strings.Repeat("0c", 64)
	for _, v := range []struct{ text, algorithm, hex, sign, printed string }{
		{"", "", "", "", ""},
		{md5, "md5", md5, md5, "md5:" + md5}, // bare hex is md5, as in v1
		{"md5:" + md5, "md5", md5, md5, "md5:" + md5},
		{strings.ToUpper(md5), "md5", md5, md5, "md5:" + md5},
		{"sha256:" + sha256, "sha256", sha256, "sha256:" + sha256, "sha256:" + sha256},
		{"sha512:" + sha512, "sha512", sha512, "sha512:" + sha512, "sha512:" + sha512},
	} {
		d, err := dragonfly.ParseDigest(v.text)
		if err != nil {
			t.Errorf("ParseDigest(%q): %v", v.text, err)
			continue
		}
		if d.Algorithm() != v.algorithm || d.Hex() != v.hex || d.Sign() != v.sign || d.String() != v.printed || d.IsZero() != (v.text == "") {
			t.Errorf("ParseDigest(%q): algorithm %q, hex %q, sign %q, prints %q", v.text, d.Algorithm(), d.Hex(), d.Sign(), d)
		}
	}
	for _, bad := range []string{"x", md5[1:], md5 + "00", "sha256:" + md5, "sha1:" + strings.Repeat("0", 40), ":" + md5, "sha256:", sha256, "md5:" + strings.Repeat("g", 32)} {
		if d, err := dragonfly.ParseDigest(bad); err == nil {
			t.Errorf("ParseDigest(%q) = %v, want an error", bad, d)
		}
	}
}

// TestDigestOfContent: what NewHash computes is what Parse reads.
func TestDigestOfContent(t *testing.T) {
	want, err := dragonfly.ParseDigest("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
	if err != nil {
		t.Fatal(err)
	}
	h := want.NewHash()
	h.Write([]byte("abc"))
	got, err := dragonfly.NewDigest(want.Algorithm(), h.Sum(nil))
	if err != nil || got != want {
		t.Errorf("digest of abc is %v, %v", got, err)
	}
	if _, err := dragonfly.NewDigest("crc32", nil); err == nil {
		t.Error("an unknown algorithm is taken")
	}
}

func TestVersionAndPieceDigestText(t *testing.T) {
	var v dragonfly.Version
	if err := v.UnmarshalText([]byte("00112233445566778899aabbccddeeff")); err != nil || v.String() != "00112233445566778899aabbccddeeff" {
		t.Errorf("%s, %v", v, err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("0", 33), strings.Repeat("x", 32)} {
		if err := new(dragonfly.Version).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("version %q is taken", bad)
		}
		if err := new(dragonfly.PieceDigest).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("piece digest %q is taken", bad)
		}
	}
	// Zero values stay out of JSON, where they mean "any" and "not known".
	raw, err := json.Marshal(dragonfly.Assignment{ID: 1})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), `"digest"`) {
		t.Errorf("an unknown piece digest is written: %s", raw)
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add("")
	f.Add("0123456789abcdef0123456789abcdef")
	f.Add("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
	f.Add("sha512:00")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := dragonfly.ParseDigest(s)
		if err != nil {
			if !d.IsZero() {
				t.Fatalf("%q: an error and the digest %v", s, d)
			}
			return
		}
		back, err := dragonfly.ParseDigest(d.String())
		if err != nil || back != d {
			t.Fatalf("%q comes back as %v, %v", s, back, err)
		}
	})
}

func FuzzVersion(f *testing.F) {
	f.Add([]byte("00112233445566778899aabbccddeeff"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		var v dragonfly.Version
		if v.UnmarshalText(text) != nil {
			return
		}
		if got := v.String(); got != strings.ToLower(string(text)) {
			t.Fatalf("%q prints as %q", text, got)
		}
	})
}
