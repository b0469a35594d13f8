package resize

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"multidd/internal/block"
	"multidd/internal/volume"
)

var le = binary.LittleEndian

// Refit returns the pieces, in ascending order, that make of the partition table
// on r, which d describes, the one of a disk of size bytes whose last partition
// ends at byte end: its entry, for a logical partition the extended one around it,
// for a GPT the checksums, the last usable sector and the backup at the end of
// the disk. Everything else stays as it is, byte for byte. A disk without a table
// has no pieces.
//
// The formats: UEFI specification 2.10, section 5; for what is older, the way
// sfdisk (util-linux 2.38) writes it.
func Refit(r io.ReaderAt, d *volume.Disk, size, end int64) ([]block.Block, error) {
	if d.Table == "" {
		return nil, nil
	}
	if len(d.Parts) == 0 {
		return nil, errors.New("the partition table has no partition")
	}
	last := d.Parts[len(d.Parts)-1]
	sector := int64(d.Sector)
	switch {
	case end <= last.Off || end > size:
		return nil, fmt.Errorf("partition %d cannot end at byte %d of a disk of %d bytes", last.Number, end, size)
	case size%sector != 0 || end%sector != 0:
		return nil, fmt.Errorf("the table counts in sectors of %d bytes, and %d and %d are no multiples", sector, size, end)
	}
	t := &table{r: r, sector: sector, size: size, old: d.Size, last: last.Extent, end: end}
	var err error
	switch {
	case d.Table == "gpt":
		err = t.gpt()
	case last.Logical:
		err = t.logical()
	default:
		err = t.primary()
	}
	if err != nil {
		return nil, err
	}
	return t.pieces, nil
}

// A table is being changed.
type table struct {
	r         io.ReaderAt
	sector    int64        // bytes
	size, old int64        // of the disk, in bytes: as it will be, as it was
	last      block.Extent // the last partition as it was
	end       int64        // of it, as it will be
	pieces    []block.Block
}

// read returns so many bytes of the disk.
func (t *table) read(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	if err := readFull(t.r, b, off); err != nil {
		return nil, fmt.Errorf("read the partition table: %w", err)
	}
	return b, nil
}

// add makes a piece of bytes that were changed.
func (t *table) add(off int64, b []byte) {
	t.pieces = append(t.pieces, block.New(off, b, nil))
}

// Where an MBR, and each link of the chain of an extended partition, has what:
// four entries of 16 bytes, of which these fields are used, and a signature.
const (
	mbrEntries   = 446
	mbrEntrySize = 16
	mbrSignature = 510

	entryType  = 4
	entryEnd   = 5  // as cylinder, head and sector, three bytes
	entryFirst = 8  // sector, four bytes
	entryCount = 12 // of sectors, four bytes
)

// An mbr is a sector with four entries.
type mbr []byte

func (m mbr) entry(i int) []byte { return m[mbrEntries+i*mbrEntrySize:][:mbrEntrySize] }

func (m mbr) valid() bool { return m[mbrSignature] == 0x55 && m[mbrSignature+1] == 0xaa }

// first returns the first entry that is a link to others, or that is a partition; nil:
// there is none.
func (m mbr) first(link bool) []byte {
	for i := range 4 {
		if e := m.entry(i); e[entryType] != 0 && le.Uint32(e[entryCount:]) != 0 && isExtended(e[entryType]) == link {
			return e
		}
	}
	return nil
}

func isExtended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

// setEnd changes an entry so that it ends where the last partition does. Its own
// numbers count from sector base.
func (t *table) setEnd(e []byte, base int64) error {
	first := base + int64(le.Uint32(e[entryFirst:]))
	before := first + int64(le.Uint32(e[entryCount:])) - 1
	after := t.end/t.sector - 1
	count := after - first + 1
	if count < 1 || count > 1<<32-1 {
		return fmt.Errorf("an MBR holds no partition of %d sectors; it ends at 2 TiB: make the disk's table a GPT", count)
	}
	// The address in the old way, which nobody has to look at: it goes along if
	// it was right before.
	if was := [3]byte(e[entryEnd:]); was == chs(before) || was == [3]byte{0xfe, 0xff, 0xff} {
		now := chs(after)
		copy(e[entryEnd:], now[:])
	}
	le.PutUint32(e[entryCount:], uint32(count))
	return nil
}

// chs returns the cylinder, head and sector of a sector on the disk of 255 heads
// and 63 sectors that everybody pretends to have, as they stand in an entry. Those
// that cannot be said are the highest.
func chs(lba int64) [3]byte {
	const heads, sectors = 255, 63
	c, h, s := lba/(heads*sectors), lba/sectors%heads, lba%sectors+1
	if c > 1023 {
		return [3]byte{0xfe, 0xff, 0xff}
	}
	return [3]byte{byte(h), byte(s) | byte(c>>8)<<6, byte(c)}
}

// primary changes the end of a primary partition of an MBR.
func (t *table) primary() error {
	b, err := t.read(0, t.sector)
	if err != nil {
		return err
	}
	for i := range 4 {
		e := mbr(b).entry(i)
		if e[entryType] != 0 && int64(le.Uint32(e[entryFirst:]))*t.sector == t.last.Off {
			if err := t.setEnd(e, 0); err != nil {
				return err
			}
			t.add(0, b)
			return nil
		}
	}
	return fmt.Errorf("the MBR has no partition at byte %d any more", t.last.Off)
}

// maxChain is how many links of an extended partition are followed, more than
// any system makes names for.
const maxChain = 256

// logical changes the end of a logical partition, of the link that leads to it, and
// of the extended partition that it lies in.
//
// Every link of the chain is a sector like an MBR: one entry is the logical
// partition, counted from this link, another the next link with all that belongs
// to it, counted from the first.
func (t *table) logical() error {
	head, err := t.read(0, t.sector)
	if err != nil {
		return err
	}
	base := int64(-1)
	for i := range 4 {
		e := mbr(head).entry(i)
		first := int64(le.Uint32(e[entryFirst:]))
		if isExtended(e[entryType]) && first*t.sector < t.last.Off && base < first {
			base = first
			if err := t.setEnd(e, 0); err != nil {
				return err
			}
		}
	}
	if base < 0 {
		return errors.New("the MBR has no extended partition any more")
	}
	t.add(0, head)
	return t.chain(base)
}

// chain follows the links from the first, at sector base, to the one of the last
// partition.
func (t *table) chain(base int64) error {
	var before mbr // the link before this one
	var beforeOff int64
	at := base
	for range maxChain {
		b, err := t.read(at*t.sector, t.sector)
		if err != nil {
			return err
		}
		link := mbr(b)
		if !link.valid() {
			break
		}
		e, next := link.first(false), link.first(true)
		if e != nil && (at+int64(le.Uint32(e[entryFirst:])))*t.sector == t.last.Off {
			if before != nil {
				if err := t.setEnd(before.first(true), base); err != nil {
					return err
				}
				t.add(beforeOff, before)
			}
			if err := t.setEnd(e, at); err != nil {
				return err
			}
			t.add(at*t.sector, b)
			return nil
		}
		if next == nil {
			break
		}
		before, beforeOff = link, at*t.sector
		at = base + int64(le.Uint32(next[entryFirst:]))
	}
	return fmt.Errorf("the chain of logical partitions has none at byte %d any more", t.last.Off)
}

// Where the header of a GPT has what.
const (
	gptHeaderSize  = 12 // four bytes; all others are eight unless they say otherwise
	gptHeaderSum   = 16 // four bytes
	gptMine        = 24 // sector of this header
	gptOther       = 32 // sector of the other header
	gptLastUsable  = 48
	gptEntriesAt   = 72 // sector of the entries
	gptEntries     = 80 // their number, four bytes
	gptEntrySize   = 84 // in bytes, four
	gptEntriesSum  = 88 // four bytes
	gptMinHeader   = 92 // bytes
	gptEntryFirst  = 32
	gptEntryLast   = 40
	gptMaxEntries  = 1 << 20 // bytes of all entries
	gptMinEntry    = 128     // bytes
	mbrTypeGPT     = 0xee
	gptSignature   = "EFI PART"
	gptRepairFirst = "; repair it first, with sgdisk or gdisk"
)

// gpt changes a GPT: the primary header and its entries, the backup of both at
// the new end of the disk, and the entry in the MBR that keeps old programs away.
func (t *table) gpt() error {
	head, err := t.read(0, 2*t.sector)
	if err != nil {
		return err
	}
	if err := t.protect(head[:t.sector]); err != nil {
		return err
	}
	h := head[t.sector:]
	entries, err := t.entries(h)
	if err != nil {
		return err
	}
	at := int64(le.Uint64(h[gptEntriesAt:]))
	total := t.size / t.sector
	span := (int64(len(entries)) + t.sector - 1) / t.sector // of the entries, in sectors
	lastUsable := total - 2 - span
	if t.end/t.sector-1 > lastUsable {
		return fmt.Errorf("the backup of the GPT needs the last %d bytes of the disk, where partition space would be", (span+1)*t.sector)
	}
	if err := t.setLast(entries, int(le.Uint32(h[gptEntrySize:]))); err != nil {
		return err
	}
	le.PutUint64(h[gptOther:], uint64(total-1))
	le.PutUint64(h[gptLastUsable:], uint64(lastUsable))
	le.PutUint32(h[gptEntriesSum:], crc32.ChecksumIEEE(entries[:le.Uint32(h[gptEntries:])*le.Uint32(h[gptEntrySize:])]))
	signHeader(h)

	backup := bytes.Clone(h)
	le.PutUint64(backup[gptMine:], uint64(total-1))
	le.PutUint64(backup[gptOther:], le.Uint64(h[gptMine:]))
	le.PutUint64(backup[gptEntriesAt:], uint64(total-1-span))
	signHeader(backup)

	t.add(0, head)
	t.add(at*t.sector, entries)
	t.add((total-1-span)*t.sector, bytes.Clone(entries))
	t.add((total-1)*t.sector, backup)
	return nil
}

// protect changes the entry in the MBR that stands for the whole disk.
func (t *table) protect(b []byte) error {
	for i := range 4 {
		e := mbr(b).entry(i)
		switch e[entryType] {
		case 0:
		case mbrTypeGPT:
			if first := int64(le.Uint32(e[entryFirst:])); first+int64(le.Uint32(e[entryCount:])) >= t.old/t.sector {
				le.PutUint32(e[entryCount:], uint32(min(t.size/t.sector-first, 1<<32-1)))
			}
		default:
			return errors.New("the disk has a hybrid of MBR and GPT, in which the end of a partition is not changed")
		}
	}
	return nil
}

// entries returns the entries that a header is for, whole sectors of them.
func (t *table) entries(h []byte) ([]byte, error) {
	size, n, each := le.Uint32(h[gptHeaderSize:]), int64(le.Uint32(h[gptEntries:])), int64(le.Uint32(h[gptEntrySize:]))
	at := int64(le.Uint64(h[gptEntriesAt:]))
	switch {
	case string(h[:len(gptSignature)]) != gptSignature || size < gptMinHeader || int64(size) > t.sector || headerSum(h) != le.Uint32(h[gptHeaderSum:]):
		return nil, errors.New("the first header of the GPT is damaged" + gptRepairFirst)
	case le.Uint64(h[gptMine:]) != 1 || at < 2 || at > t.last.Off/t.sector:
		return nil, errors.New("the GPT is not where it says it is" + gptRepairFirst)
	case each < gptMinEntry || n < 1 || n > gptMaxEntries/each:
		return nil, fmt.Errorf("the GPT says it has %d entries of %d bytes%s", n, each, gptRepairFirst)
	}
	entries, err := t.read(at*t.sector, (n*each+t.sector-1)/t.sector*t.sector)
	if err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries[:n*each]) != le.Uint32(h[gptEntriesSum:]) {
		return nil, errors.New("the entries of the GPT are damaged" + gptRepairFirst)
	}
	return entries, nil
}

// setLast changes the end of the last partition's entry.
func (t *table) setLast(entries []byte, each int) error {
	for ; len(entries) >= each; entries = entries[each:] {
		if e := entries[:each]; !bytes.Equal(e[:16], make([]byte, 16)) && int64(le.Uint64(e[gptEntryFirst:]))*t.sector == t.last.Off {
			le.PutUint64(e[gptEntryLast:], uint64(t.end/t.sector-1))
			return nil
		}
	}
	return fmt.Errorf("the GPT has no partition at byte %d any more", t.last.Off)
}

// headerSum returns the checksum of a header, of which its own field counts as 0.
func headerSum(h []byte) uint32 {
	b := bytes.Clone(h[:le.Uint32(h[gptHeaderSize:])])
	clear(b[gptHeaderSum : gptHeaderSum+4])
	return crc32.ChecksumIEEE(b)
}

func signHeader(h []byte) { le.PutUint32(h[gptHeaderSum:], headerSum(h)) }
