package volume

import (
	"fmt"
	"io"
	"iter"

	"multidd/internal/block"
)

// An MBR has four entries of 16 bytes at offset 446: a flag (0x80: active), the
// first sector as cylinder, head and sector, a type, the last sector likewise,
// then what counts: the first sector and the number of sectors. An extended
// partition holds a chain of sectors of the same layout (EBR), each with a logical
// partition, counted from there, and a link to the next, counted from the start
// of the extended partition.
const (
	mbrEntries  = 446
	mbrSector   = 512
	maxLogicals = 256
)

type mbrEntry struct {
	flag, kind byte
	block.Extent
}

func (e mbrEntry) empty() bool    { return e.kind == 0 || e.Len == 0 }
func (e mbrEntry) extended() bool { return e.kind == 0x05 || e.kind == 0x0F || e.kind == 0x85 }

func parseEntries(sector []byte) (entries [4]mbrEntry) {
	for i := range entries {
		b := sector[mbrEntries+16*i:]
		entries[i] = mbrEntry{b[0], b[4], block.Extent{
			Off: int64(le.Uint32(b[8:])) * mbrSector,
			Len: int64(le.Uint32(b[12:])) * mbrSector,
		}}
	}
	return entries
}

// protective tells whether an MBR only says that there is a GPT.
func protective(sector []byte) bool {
	for _, e := range parseEntries(sector) {
		if e.kind == 0xEE {
			return true
		}
	}
	return false
}

// parseMBR returns nil if the sector cannot be an MBR: the boot sector of a file
// system has the same signature at its end, and code or text where the entries
// would be.
func parseMBR(sector []byte) *table {
	t := &table{
		kind:   "mbr",
		id:     fmt.Sprintf("%08x", le.Uint32(sector[440:])),
		sector: mbrSector,
		head:   mbrSector,
	}
	for i, e := range parseEntries(sector) {
		switch {
		case e.flag&^0x80 != 0:
			return nil
		case e.empty():
		case e.Off == 0: // the sector itself as a partition: "this is no table"
			return nil
		case e.extended() && t.extended.Len > 0:
			t.trouble = "there are two extended partitions"
		case e.extended():
			t.extended = e.Extent
		default:
			t.parts = append(t.parts, e.part(t.id, i+1))
		}
	}
	if t.end() == 0 {
		return nil
	}
	t.parts = t.inOrder(false)
	return t
}

func (e mbrEntry) part(id string, number int) Part {
	return Part{
		Number:  number,
		Extent:  e.Extent,
		Type:    fmt.Sprintf("%02x", e.kind),
		UUID:    fmt.Sprintf("%s-%02x", id, number),
		Boot:    e.flag == 0x80,
		Logical: number > 4,
	}
}

// chain yields the logical partitions in the order of their numbers, and reads
// no further than it is asked to go. An error that is about the content is a
// damage; it is the last thing yielded.
func (t *table) chain(r io.ReaderAt) iter.Seq2[Part, error] {
	return func(yield func(Part, error) bool) {
		if t.extended.Len == 0 {
			return
		}
		at, number := t.extended.Off, 5
		sector := make([]byte, mbrSector)
		for seen := map[int64]bool{}; ; {
			err := readAt(r, sector, at)
			switch {
			case seen[at] || len(seen) > maxLogicals:
				err = damage("the chain of logical partitions has no end")
			case err == nil && le.Uint16(sector[510:]) != 0xAA55:
				err = damage(fmt.Sprintf("the table of a logical partition at byte %d is not there", at))
			}
			if err != nil {
				yield(Part{}, err)
				return
			}
			seen[at] = true
			data, next := links(sector)
			if !data.empty() {
				data.Off += at
				if !yield(data.part(t.id, number), nil) {
					return
				}
				number++
			}
			if next.empty() {
				return
			}
			if at = t.extended.Off + next.Off; at >= t.extended.End() {
				yield(Part{}, damage("the chain of logical partitions leaves the extended one"))
				return
			}
		}
	}
}

// links returns the first logical partition and the first link of an EBR.
func links(sector []byte) (data, next mbrEntry) {
	for _, e := range parseEntries(sector) {
		switch {
		case e.empty():
		case e.extended() && next.empty():
			next = e
		case !e.extended() && data.empty():
			data = e
		}
	}
	return data, next
}
