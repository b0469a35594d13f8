package volume

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"

	"multidd/internal/block"
)

const (
	gptMark       = "EFI PART"
	gptHeaderSize = 92
	maxGPTEntries = 1 << 20 // bytes of all of them; 128 entries take 16 KiB
)

// A gptHeader is the header of a GPT, of which there is one in the second sector
// of a disk and one in the last; each has the entries near it.
type gptHeader struct {
	sector      int
	self, other int64 // offsets of this header and of the other one, in bytes
	guid        string
	entries     int64 // offset of the first entry, in bytes
	count, size int   // of the entries; size in bytes
	crc         uint32
}

// bytes returns how much room the header and the entries take, in bytes.
func (h *gptHeader) bytes() int64 {
	n := int64(h.count*h.size + h.sector - 1)
	return n - n%int64(h.sector) + int64(h.sector)
}

// parseGPT returns nil if b, a sector from offset off, is not a sound header.
func parseGPT(b []byte, off int64) *gptHeader {
	n := le.Uint32(b[12:])
	if string(b[:8]) != gptMark || n < gptHeaderSize || int(n) > len(b) {
		return nil
	}
	whole := slices.Clone(b[:n])
	clear(whole[16:20])
	if crc32.ChecksumIEEE(whole) != le.Uint32(b[16:]) {
		return nil
	}
	sector := int64(len(b))
	self, other, entries := le.Uint64(b[24:]), le.Uint64(b[32:]), le.Uint64(b[72:])
	count, size := le.Uint32(b[80:]), le.Uint32(b[84:])
	limit := uint64(endless / sector)
	switch {
	case self != uint64(off/sector), other >= limit, entries >= limit, entries < 2:
		return nil
	case size < 128 || size > 4096 || size%128 != 0 || count > maxGPTEntries/size:
		return nil
	}
	return &gptHeader{
		sector:  len(b),
		self:    off,
		other:   int64(other) * sector,
		guid:    guid(b[56:72]),
		entries: int64(entries) * sector,
		count:   int(count),
		size:    int(size),
		crc:     le.Uint32(b[88:]),
	}
}

// readGPTAt returns nil if there is no sound GPT at off.
func readGPTAt(r io.ReaderAt, off int64, sector int) (*gptHeader, []Part, error) {
	b := make([]byte, sector)
	if err := readAt(r, b, off); err != nil {
		return nil, nil, unlessContent(err)
	}
	h := parseGPT(b, off)
	if h == nil {
		return nil, nil, nil
	}
	b = make([]byte, h.count*h.size)
	if err := readAt(r, b, h.entries); err != nil {
		return nil, nil, unlessContent(err)
	}
	if crc32.ChecksumIEEE(b) != h.crc {
		return nil, nil, nil
	}
	return h, h.parts(b), nil
}

func unlessContent(err error) error {
	if isContent(err) {
		return nil
	}
	return err
}

func (h *gptHeader) parts(entries []byte) []Part {
	var parts []Part
	for i := range h.count {
		e := entries[i*h.size:][:128]
		if [16]byte(e) == ([16]byte{}) {
			continue
		}
		limit := uint64(endless/h.sector) - 1
		first, last := min(le.Uint64(e[32:]), limit), min(le.Uint64(e[40:]), limit)
		p := Part{
			Number: i + 1,
			Extent: block.Extent{Off: int64(first) * int64(h.sector)},
			Type:   guid(e[:16]),
			UUID:   guid(e[16:32]),
			Name:   utf16Name(e[56:128]),
			Boot:   e[48]&4 != 0,
		}
		p.Len = (int64(last) - int64(first) + 1) * int64(h.sector)
		parts = append(parts, p)
	}
	slices.SortStableFunc(parts, byOffset)
	return parts
}

// readGPT reads the primary GPT or, if that is damaged, the backup, if that can
// be had.
func readGPT(r io.ReaderAt, size int64, d *Disk) (*table, error) {
	t := &table{kind: "gpt", sector: mbrSector}
	for _, sector := range []int{512, 4096} {
		h, parts, err := readGPTAt(r, int64(sector), sector)
		if err != nil {
			return nil, err
		}
		if h != nil {
			t.take(h, parts)
			t.primary = h
			t.head = max(h.entries+int64(h.count*h.size), int64(2*sector))
			t.tail = tailOf(h, h.other)
			return t, nil
		}
	}
	for _, sector := range []int{512, 4096} {
		if size == endless || size < int64(4*sector) {
			continue
		}
		off := size - int64(sector)
		off -= off % int64(sector)
		h, parts, err := readGPTAt(r, off, sector)
		if err != nil {
			return nil, err
		}
		if h != nil {
			d.warn("the GPT at the start of the disk is damaged: its backup is believed")
			t.take(h, parts)
			t.primary = h
			t.head = h.other + h.bytes()
			t.tail = tailOf(h, h.self)
			return t, nil
		}
	}
	t.trouble = "the GPT is damaged, and so is its backup"
	if size == endless {
		t.trouble = "the GPT is damaged, and its backup has not passed yet"
	}
	return t, nil
}

func (t *table) take(h *gptHeader, parts []Part) {
	t.sector, t.id, t.parts = h.sector, h.guid, parts
	for _, p := range parts {
		if p.Len <= 0 {
			t.trouble = fmt.Sprintf("partition %d ends before it begins", p.Number)
		}
	}
}

// tailOf returns the end of a disk whose backup header is at off.
func tailOf(h *gptHeader, off int64) block.Extent {
	end := off + int64(h.sector)
	start := max(0, end-max(tailSize, h.bytes()))
	return block.Extent{Off: start, Len: end - start}
}

// checkBackup warns if the backup is not there or not the same as the primary.
func (t *table) checkBackup(r io.ReaderAt, size int64, d *Disk) error {
	p := t.primary
	if p.self > p.other {
		return nil // the backup is all there is
	}
	h, _, err := readGPTAt(r, p.other, p.sector)
	switch {
	case err != nil:
		return err
	case h == nil && p.other >= size:
		d.warn("the backup of the GPT is missing: the table was made for a disk of %d bytes, and this one has %d", t.tail.End(), size)
	case h == nil:
		d.warn("the backup of the GPT is damaged")
	case h.guid != p.guid || h.crc != p.crc || h.other != p.self:
		d.warn("the backup of the GPT differs from the one at the start of the disk, which is believed")
	case size != endless && t.tail.End() < size:
		d.warn("the backup of the GPT is not at the end of the disk: the table was made for a disk of %d bytes, and this one has %d", t.tail.End(), size)
	}
	return nil
}

// guid formats 16 bytes as a GUID, of which the first three fields are stored in
// little-endian order.
func guid(b []byte) string {
	return fmt.Sprintf("%08X-%04X-%04X-%04X-%012X", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]),
		binary.BigEndian.Uint16(b[8:]), b[10:16])
}

func utf16Name(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b) && le.Uint16(b[i:]) != 0; i += 2 {
		u = append(u, le.Uint16(b[i:]))
	}
	return strings.ToValidUTF8(string(utf16.Decode(u)), "?")
}
