// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc64"
	"io"

	"dragonfly"
)

// A .pieces file is a sequence of records of 64 bytes, little endian:
//
//	 0  8  hash of the boot id of the kernel under which it was written
//	 8  1  kind
//	 9  3  zero
//	12  4  piece number
//	16  8  value
//	24 32  digest, or what the kind says
//	56  8  CRC-64 of the 56 bytes before, started with the record's ordinal
//
// The first one is a header with the version of the content. A record that
// does not match its checksum ends the file: it and all after it were torn.
const (
	recordLen     = 64
	recordSum     = 56
	recordVersion = 1
)

type recordKind byte

const (
	recordHeader   recordKind = 'H' // value: recordVersion; digest: version of the content
	recordVerified recordKind = 'V' // piece is held and has digest
	recordPrefix   recordKind = 'P' // the bytes of piece up to content offset value are here
	recordDropped  recordKind = 'D' // piece is held no more
	recordSettled  recordKind = 'S' // what this boot recorded before is on the disk
	recordSealed   recordKind = 'C' // the content is complete; value: size, digest: mtime, ctime, links
)

// boot stands for one run of the kernel: what it wrote without fsync is still
// readable while it runs.
type boot [8]byte

func bootOf(id string) boot {
	sum := sha256.Sum256([]byte(id))
	return boot(sum[:])
}

type record struct {
	boot   boot
	kind   recordKind
	piece  dragonfly.PieceNum
	value  int64
	digest [32]byte
}

var crcTable = crc64.MakeTable(crc64.ECMA)

func (r record) append(b []byte, ordinal int64) []byte {
	start := len(b)
	b = append(b, r.boot[:]...)
	b = append(b, byte(r.kind), 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.piece))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.value))
	b = append(b, r.digest[:]...)
	return binary.LittleEndian.AppendUint64(b, crc64.Update(uint64(ordinal), crcTable, b[start:]))
}

// parseRecord reads the record with the given ordinal out of recordLen bytes.
func parseRecord(b []byte, ordinal int64) (r record, ok bool) {
	if crc64.Update(uint64(ordinal), crcTable, b[:recordSum]) != binary.LittleEndian.Uint64(b[recordSum:]) {
		return record{}, false
	}
	r.boot = boot(b[:8])
	r.kind = recordKind(b[8])
	r.piece = dragonfly.PieceNum(binary.LittleEndian.Uint32(b[12:]))
	r.value = int64(binary.LittleEndian.Uint64(b[16:]))
	r.digest = [32]byte(b[24:recordSum])
	return r, r.piece >= 0 && bytes.IndexByte([]byte{'H', 'V', 'P', 'D', 'S', 'C'}, b[8]) >= 0
}

func headerRecord(b boot, v dragonfly.Version) record {
	r := record{boot: b, kind: recordHeader, value: recordVersion}
	copy(r.digest[:], v[:])
	return r
}

func sealRecord(b boot, st stamp) record {
	r := record{boot: b, kind: recordSealed, value: st.size}
	binary.LittleEndian.PutUint64(r.digest[0:], uint64(st.mtime))
	binary.LittleEndian.PutUint64(r.digest[8:], uint64(st.ctime))
	binary.LittleEndian.PutUint64(r.digest[16:], uint64(st.links))
	return r
}

func (r record) stamp() stamp {
	return stamp{
		size:  r.value,
		mtime: int64(binary.LittleEndian.Uint64(r.digest[0:])),
		ctime: int64(binary.LittleEndian.Uint64(r.digest[8:])),
		links: int64(binary.LittleEndian.Uint64(r.digest[16:])),
	}
}

// ledger is what a .pieces file says about a content.
type ledger struct {
	records  int64 // good ones, from the start of the file
	held     dragonfly.PieceSet
	doubtful dragonfly.PieceSet // of the held ones
	digests  []dragonfly.PieceDigest
	prefixes map[dragonfly.PieceNum]int64
	seal     *stamp // nil: not complete, or nothing is known about the file
	settled  bool   // nothing was recorded under this boot that a crash could take back
}

// origin is where a fact comes from, which decides whether it is trusted.
type origin struct {
	boot    boot
	ordinal int64
}

// replay reads the records of a content of which size bytes are in its file.
// A fact is trusted when the kernel that wrote it still runs, or when that
// kernel wrote it to the disk afterwards.
func replay(r io.Reader, now boot, v dragonfly.Version, layout dragonfly.Layout, size int64) (ledger, error) {
	l := ledger{prefixes: map[dragonfly.PieceNum]int64{}, settled: true}
	var seal struct {
		stamp  stamp
		origin origin
		ok     bool
	}
	pieces := map[dragonfly.PieceNum]origin{}
	prefixes := map[dragonfly.PieceNum]origin{}
	settled := map[boot]int64{}
	in := bufio.NewReaderSize(r, 64*recordLen)
	var buf [recordLen]byte
	for ; ; l.records++ {
		if _, err := io.ReadFull(in, buf[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return ledger{}, err
		}
		rec, ok := parseRecord(buf[:], l.records)
		if !ok {
			break
		}
		if l.records == 0 {
			if rec.kind != recordHeader || rec.value != recordVersion || dragonfly.Version(rec.digest[:16]) != v {
				break
			}
			continue
		}
		from := origin{rec.boot, l.records}
		n := rec.piece
		start, end := layout.Extent(n)
		inside := int(n) < maxPieces && (!layout.Known() || int(n) < layout.Pieces())
		switch rec.kind {
		case recordVerified:
			if inside && end <= size {
				pieces[n] = from
				l.held.Add(n)
				for int(n) >= len(l.digests) {
					l.digests = append(l.digests, make([]dragonfly.PieceDigest, int(n)+1-len(l.digests))...)
				}
				l.digests[n] = rec.digest
				delete(l.prefixes, n)
			}
		case recordPrefix:
			if inside && rec.value > start && rec.value <= min(end, size) && !l.held.Has(n) {
				prefixes[n] = from
				l.prefixes[n] = rec.value
			}
		case recordDropped:
			l.held.Remove(n)
			delete(l.prefixes, n)
			seal.ok = false
		case recordSettled:
			settled[rec.boot] = l.records
		case recordSealed:
			seal.stamp, seal.origin, seal.ok = rec.stamp(), from, true
		}
		if rec.boot == now {
			l.settled = rec.kind == recordSettled
		}
	}
	trusted := func(o origin) bool { return o.boot == now || settled[o.boot] > o.ordinal }
	for n := range l.held.All() {
		if !trusted(pieces[n]) {
			l.doubtful.Add(n)
		}
	}
	for n := range l.prefixes {
		if !trusted(prefixes[n]) {
			delete(l.prefixes, n) // a wrong one would be blamed on a parent
		}
	}
	if seal.ok && trusted(seal.origin) {
		l.seal = &seal.stamp
	}
	return l, nil
}
