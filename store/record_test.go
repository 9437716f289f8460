// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"dragonfly"
)

func encode(records ...record) (b []byte) {
	for i, r := range records {
		b = r.append(b, int64(i))
	}
	return b
}

// TestRecordLayout pins the bytes of a record: files of one build are read by
// the next.
func TestRecordLayout(t *testing.T) {
	got := encode(record{boot: bootOf("boot one"), kind: recordVerified, piece: 0x01020304, value: 5, digest: [32]byte{6}})
	want := []byte{
		0x38, 0x8a, 0xf3, 0x2c, 0x3a, 0xbb, 0xc2, 0xb0, 'V', 0, 0, 0, 4, 3, 2, 1,
		5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0,
	}
	if len(got) != recordLen || !bytes.Equal(got[8:recordSum], want[8:]) {
		t.Errorf("%x", got)
	}
	back, ok := parseRecord(got, 0)
	if !ok || back.piece != 0x01020304 || back.value != 5 || back.kind != recordVerified || back.boot != bootOf("boot one") {
		t.Errorf("%+v, %v", back, ok)
	}
	for i := range got {
		bad := bytes.Clone(got)
		bad[i] ^= 0x10
		if _, ok := parseRecord(bad, 0); ok {
			t.Errorf("a changed byte %d is not noticed", i)
		}
	}
	if _, ok := parseRecord(got, 1); ok {
		t.Error("a record is taken at another place")
	}
	if _, ok := parseRecord(make([]byte, recordLen), 0); ok {
		t.Error("a hole is taken for a record")
	}
}

func TestReplay(t *testing.T) {
	one, two := bootOf("1"), bootOf("2")
	layout := dragonfly.Layout{Length: 10 * pieceLen, PieceLen: pieceLen}
	v := version(1)
	header := headerRecord(one, v)
	verified := func(b boot, n dragonfly.PieceNum) record {
		return record{boot: b, kind: recordVerified, piece: n, digest: [32]byte{byte(n) + 1}}
	}
	prefix := func(b boot, n dragonfly.PieceNum, to int64) record {
		return record{boot: b, kind: recordPrefix, piece: n, value: to}
	}
	drop := func(n dragonfly.PieceNum) record { return record{boot: one, kind: recordDropped, piece: n} }
	settled := func(b boot) record { return record{boot: b, kind: recordSettled} }
	type pieces = []dragonfly.PieceNum
	for name, c := range map[string]struct {
		records        []record
		held, doubtful pieces
		prefixes       map[dragonfly.PieceNum]int64
		settled        bool
	}{
		"nothing":              {records: nil, settled: true},
		"no header":            {records: []record{verified(one, 0)}, settled: true},
		"other version":        {records: []record{headerRecord(one, version(2)), verified(one, 0)}, settled: true},
		"same boot":            {records: []record{header, verified(one, 3)}, held: pieces{3}},
		"other boot":           {records: []record{header, verified(two, 3)}, held: pieces{3}, doubtful: pieces{3}, settled: true},
		"other boot, settled":  {records: []record{header, verified(two, 3), settled(two)}, held: pieces{3}, settled: true},
		"settled before":       {records: []record{header, settled(two), verified(two, 3)}, held: pieces{3}, doubtful: pieces{3}, settled: true},
		"settled by another":   {records: []record{header, verified(two, 3), settled(one)}, held: pieces{3}, doubtful: pieces{3}, settled: true},
		"settled twice":        {records: []record{header, verified(two, 3), settled(two), verified(two, 4), settled(two)}, held: pieces{3, 4}, settled: true},
		"verified again":       {records: []record{header, verified(two, 3), verified(one, 3)}, held: pieces{3}},
		"dropped":              {records: []record{header, verified(one, 3), verified(one, 4), drop(3)}, held: pieces{4}},
		"dropped and back":     {records: []record{header, verified(two, 3), settled(two), drop(3), verified(two, 3)}, held: pieces{3}, doubtful: pieces{3}},
		"beyond the file":      {records: []record{header, verified(one, 8), verified(one, 9)}, held: pieces{8}},
		"beyond the content":   {records: []record{header, verified(one, 10), verified(one, 1)}, held: pieces{1}},
		"prefix":               {records: []record{header, prefix(one, 3, 3*pieceLen+5)}, prefixes: map[dragonfly.PieceNum]int64{3: 3*pieceLen + 5}},
		"prefix, other boot":   {records: []record{header, prefix(two, 3, 3*pieceLen+5)}, settled: true},
		"prefix, then whole":   {records: []record{header, prefix(one, 3, 3*pieceLen+5), verified(one, 3)}, held: pieces{3}},
		"prefix of a held one": {records: []record{header, verified(one, 3), prefix(one, 3, 3*pieceLen+5)}, held: pieces{3}},
		"prefix, dropped":      {records: []record{header, prefix(one, 3, 3*pieceLen+5), drop(3)}},
		"prefix outside":       {records: []record{header, prefix(one, 3, 3*pieceLen), prefix(one, 3, 4*pieceLen+1), prefix(one, 9, 9*pieceLen+5)}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := replay(bytes.NewReader(encode(c.records...)), one, v, layout, 9*pieceLen)
			must(t, err)
			set := func(numbers pieces) (s dragonfly.PieceSet) {
				for _, n := range numbers {
					s.Add(n)
				}
				return s
			}
			if !l.held.Equal(set(c.held)) || !l.doubtful.Equal(set(c.doubtful)) {
				t.Errorf("%d held, %d doubtful", l.held.Count(), l.doubtful.Count())
			}
			if len(c.prefixes)+len(l.prefixes) > 0 && !cmp.Equal(l.prefixes, c.prefixes) {
				t.Errorf("prefixes %v", l.prefixes)
			}
			if l.settled != c.settled {
				t.Errorf("settled: %v", l.settled)
			}
			for n := range l.held.All() {
				if l.digests[n] != (dragonfly.PieceDigest{byte(n) + 1}) {
					t.Errorf("piece %d has another digest", n)
				}
			}
		})
	}
}

func TestReplaySeal(t *testing.T) {
	one, two := bootOf("1"), bootOf("2")
	layout := dragonfly.Layout{Length: 5, PieceLen: pieceLen}
	want := stamp{size: 5, mtime: -1, ctime: 1 << 60, links: 2}
	header := headerRecord(one, version(1))
	for name, c := range map[string]struct {
		records []record
		sealed  bool
	}{
		"this boot":           {[]record{header, sealRecord(one, want)}, true},
		"other boot":          {[]record{header, sealRecord(two, want)}, false},
		"other boot, settled": {[]record{header, sealRecord(two, want), {boot: two, kind: recordSettled}}, true},
		"newest":              {[]record{header, sealRecord(one, stamp{}), sealRecord(one, want)}, true},
		"dropped":             {[]record{header, sealRecord(one, want), {boot: one, kind: recordDropped}}, false},
	} {
		l, err := replay(bytes.NewReader(encode(c.records...)), one, version(1), layout, 5)
		must(t, err)
		if (l.seal != nil) != c.sealed || c.sealed && *l.seal != want {
			t.Errorf("%s: seal %+v", name, l.seal)
		}
	}
}

func TestReplayReadError(t *testing.T) {
	broken := errors.New("broken")
	if _, err := replay(iotest.ErrReader(broken), boot{}, version(1), dragonfly.Layout{PieceLen: 1}, 0); !errors.Is(err, broken) {
		t.Errorf("error %v: the pieces would be forgotten", err)
	}
}

func FuzzPieces(f *testing.F) {
	one := bootOf("1")
	f.Add([]byte{}, int64(-1))
	f.Add(encode(headerRecord(one, version(1)), record{boot: one, kind: recordVerified, piece: 2}, record{kind: recordSettled},
		sealRecord(one, stamp{size: 1}), record{boot: one, kind: recordPrefix, piece: 1, value: pieceLen + 1}, record{kind: recordDropped, piece: 2}), int64(3*pieceLen))
	f.Fuzz(func(t *testing.T, text []byte, length int64) {
		layout := dragonfly.Layout{Length: max(-1, length%(1<<30)), PieceLen: pieceLen}
		const size = 4*pieceLen + 1
		check := func(text []byte) {
			l, err := replay(bytes.NewReader(text), one, version(1), layout, size)
			if err != nil {
				t.Fatal(err)
			}
			if l.records*recordLen > int64(len(text)) {
				t.Fatalf("%d records in %d bytes", l.records, len(text))
			}
			for n := range l.held.All() {
				if _, to := layout.Extent(n); to > size || int(n) >= len(l.digests) || layout.Known() && int(n) >= layout.Pieces() {
					t.Fatalf("piece %d is held", n)
				}
			}
			for n := range l.doubtful.All() {
				if !l.held.Has(n) {
					t.Fatalf("piece %d is doubtful and not held", n)
				}
			}
			for n, to := range l.prefixes {
				if from, end := layout.Extent(n); to <= from || to > min(end, size) || l.held.Has(n) {
					t.Fatalf("prefix of piece %d to %d", n, to)
				}
			}
			// What is cut is not missed.
			again, err := replay(bytes.NewReader(text[:l.records*recordLen]), one, version(1), layout, size)
			if err != nil || !again.held.Equal(l.held) || again.records != l.records {
				t.Fatal("the good records alone say something else")
			}
		}
		check(text)
		// The same with checksums that hold, so that the rest is reached.
		sealed := encode(headerRecord(one, version(1)))
		for i := 0; i+recordSum <= len(text); i += recordSum {
			r := record{boot: boot(text[i:]), kind: recordKind(text[i+8]), digest: [32]byte(text[i+24:])}
			r.piece = dragonfly.PieceNum(int32(text[i+12])<<24 | int32(text[i+13])<<8 | int32(text[i+14]))
			r.value = int64(text[i+16])<<56 | int64(text[i+17])<<16 | int64(text[i+18])
			sealed = r.append(sealed, int64(len(sealed)/recordLen))
		}
		check(sealed)
	})
}

func FuzzMeta(f *testing.F) {
	full := metaOf(1, 1, 10)
	full.ETag, full.TaskURL, full.Resumable = `"x"`, "http://o/f", true
	text, err := full.encode()
	must(f, err)
	f.Add(text)
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"layout":{"length":9223372036854775807,"pieceLen":1}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseMeta(text)
		if err != nil {
			return
		}
		if m.Layout.Pieces() > maxPieces || m.Layout.PieceLen < 1 || m.Task.IsZero() || m.Version.IsZero() {
			t.Fatalf("%+v is taken", m)
		}
		again, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseMeta(again)
		if err != nil || back != m {
			a, _ := json.Marshal(m)
			t.Fatalf("%s comes back as %s, %v", a, again, err)
		}
	})
}
