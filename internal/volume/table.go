package volume

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"multidd/internal/block"
)

var le = binary.LittleEndian

// A table is a partition table: MBR (the layout every PC since 1983 has) or GPT
// (UEFI specification, chapter 5).
type table struct {
	kind, id string
	sector   int
	parts    []Part       // in order of their offsets
	extended block.Extent // of an MBR, if there is one: the logical partitions lie in it
	head     int64        // bytes that the table itself takes at the start of the disk
	tail     block.Extent // of a GPT: the end of the disk as it says, with the backup in it
	primary  *gptHeader
	trouble  string // why it cannot be believed, or ""
}

func byOffset(a, b Part) int { return cmp.Compare(a.Off, b.Off) }

// readTable returns nil if there is no table.
func readTable(r io.ReaderAt, size int64, d *Disk) (*table, error) {
	sector := make([]byte, 512)
	if err := readAt(r, sector, 0); err != nil {
		if isContent(err) {
			return nil, nil
		}
		return nil, err
	}
	if le.Uint16(sector[510:]) != 0xAA55 {
		return nil, nil
	}
	if protective(sector) {
		return readGPT(r, size, d)
	}
	return parseMBR(sector), nil
}

// end returns where the last partition ends, or 0 if there is none.
func (t *table) end() int64 {
	end := t.extended.End()
	for _, p := range t.parts {
		end = max(end, p.End())
	}
	return end
}

// inOrder returns the partitions in the order of their offsets; if wanted with
// the extended one among them, as number 0.
func (t *table) inOrder(extended bool) []Part {
	all := slices.Clone(t.parts)
	if extended && t.extended.Len > 0 {
		all = append(all, Part{Extent: t.extended})
	}
	slices.SortStableFunc(all, byOffset)
	return all
}

// check looks for partitions that cannot be where they are said to be.
func (t *table) check(size int64) {
	limit := size
	if t.tail.Len > 0 {
		limit = min(size, t.tail.End()-t.primary.bytes())
	}
	at, last := t.head, "the table itself"
	for _, p := range t.inOrder(true) {
		name := fmt.Sprintf("partition %d", p.Number)
		switch {
		case p.Number == 0:
			name = "the extended partition"
		case p.Logical:
			continue
		}
		t.fits(name, p.Extent, last, at, limit)
		at, last = p.End(), name
	}
	at, last = t.extended.Off, "its own table"
	for _, p := range t.inOrder(false) {
		if p.Logical {
			name := fmt.Sprintf("partition %d", p.Number)
			t.fits(name, p.Extent, last, at, t.extended.End())
			at, last = p.End(), name
		}
	}
}

// fits notes trouble unless e lies between at, where last ends, and limit.
func (t *table) fits(name string, e block.Extent, last string, at, limit int64) {
	switch {
	case t.trouble != "":
	case e.Off < at:
		t.trouble = fmt.Sprintf("%s (%v) overlaps %s", name, e, last)
	case e.End() > limit:
		t.trouble = fmt.Sprintf("%s (%v) goes beyond byte %d, where it must end", name, e, limit)
	}
}

// readAhead reads the parts of a table that lie all over the disk: the chain of
// logical partitions and the backup.
func (t *table) readAhead(r io.ReaderAt, size int64, d *Disk) error {
	if t.tail.Len > 0 {
		return t.checkBackup(r, size, d)
	}
	for p, err := range t.chain(r) {
		if err != nil && !isContent(err) {
			return err
		}
		if err != nil {
			t.trouble = err.Error()
			return nil
		}
		t.parts = append(t.parts, p)
	}
	slices.SortStableFunc(t.parts, byOffset)
	t.check(size)
	return nil
}
