package volume

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/bits"
)

// F2FS, after the kernel's include/linux/f2fs_fs.h and Documentation/filesystems/f2fs.rst.
// What is in use stands in the segment information table: a bit for each block of the
// main area, in two copies of which the last checkpoint names the true one block by
// block, and a journal of a few entries beside the checkpoint that goes before it.

const (
	f2fsMagic   = 0xf2f52010
	f2fsBlock   = 4096
	f2fsSegment = 512 // blocks

	sitEntry    = 2 + f2fsSegment/8 + 8 // bytes: number of valid blocks, their bitmap, time
	sitPerBlock = f2fsBlock / sitEntry
	sitJournal  = 507 // bytes: number of entries, and each with the number of its segment before it
)

// f2fs is what the superblock says, in blocks.
type f2fs struct {
	checkpoints, sit, main, end int64 // where each begins; nat and ssa lie between the latter
	payload                     int64 // of each checkpoint, for a large bitmap
	segments                    int64 // of the main area
	sitBlocks                   int64 // of each copy of the table
}

// f2fsPack is one of the two checkpoints.
type f2fsPack struct {
	version uint64
	head    []byte // its first block, and the payload
	journal []byte // of the segment information table
}

// openF2FS opens an F2FS. All that it reads lies before the main area, and is read in
// order.
func openF2FS(r io.ReaderAt, size int64) (fileSystem, error) {
	const first = 1024
	if size < 2*f2fsBlock {
		return nil, errNotMine
	}
	b, err := bytesAt(r, 0, 2*f2fsBlock)
	if err != nil {
		return nil, err
	}
	second := b[f2fsBlock+first:]
	b = b[first : first+3072]
	le := binary.LittleEndian
	if le.Uint32(b) != f2fsMagic {
		return nil, errNotMine
	}
	fs := FileSystem{Kind: "f2fs", BlockSize: f2fsBlock, Size: size, UUID: formatUUID(b[108:124])}
	fs.Label = utf16Text(b[124 : 124+1024])
	f, why := parseF2FS(b, size)
	if why != "" {
		fs.doubt(Unknown, why)
		return whole(fs), nil
	}
	fs.Size = int64(le.Uint64(b[36:])) * f2fsBlock
	const versions, errors = 1668, 2794 // what changes when it is mounted, and what went wrong
	if !bytes.Equal(b[:versions], second[:versions]) {
		fs.doubt(Dirty, "its superblocks differ")
	}
	if !bytes.Equal(b[errors:errors+16], make([]byte, 16)) {
		fs.doubt(Dirty, "errors were met on it")
	}
	c := &clusters{fs: fs, first: f.main * f2fsBlock, unit: f2fsBlock, n: f.segments * f2fsSegment}
	if err := f.read(r, c); err != nil {
		return nil, err
	}
	return c.finish(), nil
}

// parseF2FS returns what a superblock says, or why that is not understood.
func parseF2FS(b []byte, size int64) (f f2fs, why string) {
	le := binary.LittleEndian
	num := func(off int) int64 { return int64(le.Uint32(b[off:])) }
	const (
		zoned, readOnly, sum = 0x2, 0x4000, 0x800
		understood           = 0xffff &^ zoned &^ readOnly
		features, devices    = 2180, 2201
		sumAt                = 3068
	)
	switch {
	case num(16) != 12 || num(20) != 9:
		return f, "its blocks or segments have a size that is not known"
	case num(features)&^understood != 0:
		return f, "it uses features that are not known"
	case b[devices] != 0:
		return f, "it spans more than one device"
	case num(features)&sum != 0 && (num(32) != sumAt || f2fsSum(f2fsMagic, b[:sumAt]) != le.Uint32(b[sumAt:])):
		return f, "the checksum of its superblock is wrong"
	case le.Uint64(b[36:]) > uint64(size)/f2fsBlock:
		return f, "it is longer than where it lies"
	}
	f = f2fs{
		checkpoints: num(76), sit: num(80), main: num(92),
		end: int64(le.Uint64(b[36:])), payload: num(1664),
		segments: num(68), sitBlocks: num(56) / 2 * f2fsSegment,
	}
	nat, ssa := num(84), num(88)
	if f.checkpoints < 2 || num(72) != f.checkpoints || num(52) != 2 || f.payload > f2fsSegment-16 ||
		f.sit != f.checkpoints+2*f2fsSegment || nat != f.sit+2*f.sitBlocks || ssa != nat+num(60)*f2fsSegment ||
		f.main != ssa+num(64)*f2fsSegment || f.main+f.segments*f2fsSegment > f.end ||
		f.segments == 0 || f.sitBlocks*sitPerBlock < f.segments {
		return f, "its superblock contradicts itself"
	}
	return f, ""
}

// f2fsSum returns F2FS's checksum of b, continued from another sum.
func f2fsSum(from uint32, b []byte) uint32 { return ^crc32.Update(^from, crc32.IEEETable, b) }

// read fills c with what is in use.
func (f *f2fs) read(r io.ReaderAt, c *clusters) error {
	var last *f2fsPack
	for i := range int64(2) {
		p, err := f.readPack(r, f.checkpoints+i*f2fsSegment)
		if err != nil {
			return err
		}
		if p != nil && (last == nil || int64(p.version-last.version) > 0) {
			last = p
		}
	}
	if last == nil {
		c.fs.doubt(Dirty, "neither of its checkpoints is whole")
		return nil
	}
	if why := last.doubts(); why != "" {
		c.fs.doubt(Dirty, why)
		return nil
	}
	entries, why, err := f.readTable(r, last)
	if err != nil {
		return err
	}
	if why != "" {
		c.fs.doubt(Dirty, why)
		return nil
	}
	inUse := newBitset(c.n)
	var total uint64
	for i := range f.segments {
		e := entries[i*sitEntry:][:sitEntry]
		valid := 0
		for k, v := range e[2 : 2+f2fsSegment/8] {
			inUse[i*f2fsSegment/8+int64(k)] = bits.Reverse8(v)
			valid += bits.OnesCount8(v)
		}
		if valid != int(binary.LittleEndian.Uint16(e)&0x3ff) {
			c.fs.doubt(Dirty, "its table of segments contradicts itself")
			return nil
		}
		total += uint64(valid)
	}
	if total != binary.LittleEndian.Uint64(last.head[16:]) {
		c.fs.doubt(Dirty, "its table of segments and its checkpoint contradict each other")
		return nil
	}
	// What was written behind a checkpoint is found again by following the logs: so
	// whatever lies on a card behind their ends must not look like it.
	for _, off := range []int{36, 84} { // of nodes, of data
		for i := range 8 {
			if s := int64(binary.LittleEndian.Uint32(last.head[off+4*i:])); s < f.segments {
				inUse.setRange(s*f2fsSegment, (s+1)*f2fsSegment)
			}
		}
	}
	c.inUse = inUse
	return nil
}

// readPack reads a checkpoint. It returns nil if it is not whole: its first and its
// last block are the same but for a few fields, and each has a checksum.
func (f *f2fs) readPack(r io.ReaderAt, at int64) (*f2fsPack, error) {
	le := binary.LittleEndian
	head, err := bytesAt(r, at*f2fsBlock, (1+f.payload)*f2fsBlock)
	if err != nil {
		return nil, err
	}
	p := &f2fsPack{version: le.Uint64(head), head: head}
	total, sums := int64(le.Uint32(head[136:])), int64(le.Uint32(head[140:]))
	const logs = 6 // each has a summary before the last block
	if !f2fsHeadSound(head[:f2fsBlock]) || total > f2fsSegment || total < 1+f.payload+1+1 || sums < 1 || sums >= total {
		return nil, nil
	}
	const compact = 0x4
	journalAt, offset := sums, int64(sitJournal) // behind the journal of another table
	if le.Uint32(head[132:])&compact == 0 {
		const cold = 2 // the log whose summary holds the journal
		journalAt, offset = total-(logs+1)+cold, f2fsSegment*7
	}
	if journalAt < 1 {
		return nil, nil
	}
	b, err := bytesAt(r, (at+journalAt)*f2fsBlock, f2fsBlock)
	if err != nil {
		return nil, err
	}
	p.journal = b[offset:][:sitJournal]
	tail, err := bytesAt(r, (at+total-1)*f2fsBlock, f2fsBlock)
	if err != nil {
		return nil, err
	}
	if !f2fsHeadSound(tail) || le.Uint64(tail) != p.version {
		return nil, nil
	}
	return p, nil
}

// f2fsHeadSound tells whether a block of a checkpoint has the checksum it says.
func f2fsHeadSound(b []byte) bool {
	const least, usual = 192, f2fsBlock - 4
	at := binary.LittleEndian.Uint32(b[164:])
	if at < least || at > usual {
		return false
	}
	sum := f2fsSum(f2fsMagic, b[:at])
	if at < usual {
		sum = f2fsSum(sum, b[at+4:])
	}
	return sum == binary.LittleEndian.Uint32(b[at:])
}

// doubts returns why a checkpoint is not the last word about its file system.
func (p *f2fsPack) doubts() string {
	const (
		unmounted                             = 0x1
		failed, check, quota, off, off2, grow = 0x8, 0x10, 0x800, 0x1000, 0x2000, 0x4000
	)
	switch flags := binary.LittleEndian.Uint32(p.head[132:]); {
	case flags&(failed|check|quota) != 0:
		return "errors were met on it"
	case flags&grow != 0:
		return "its size was being changed"
	case flags&(off|off2) != 0 || flags&unmounted == 0:
		return "it was not cleanly unmounted"
	}
	return ""
}

// readTable returns the true entries of the table of segments, one behind the other.
func (f *f2fs) readTable(r io.ReaderAt, p *f2fsPack) (entries []byte, why string, err error) {
	le := binary.LittleEndian
	const largeNAT = 0x400
	const maps = 192 // where the bitmaps of the tables' copies begin
	sitSize, natSize := int64(le.Uint32(p.head[156:])), int64(le.Uint32(p.head[160:]))
	at := int64(maps)
	switch {
	case le.Uint32(p.head[132:])&largeNAT != 0:
		at += 4 + natSize
	case f.payload > 0:
		at = f2fsBlock
	}
	if sitSize != f.sitBlocks/8 || at+sitSize > int64(len(p.head)) {
		return nil, "its checkpoint contradicts itself", nil
	}
	copies := p.head[at:][:sitSize]
	entries = make([]byte, f.segments*sitEntry)
	for second := range int64(2) { // each copy in the order in which it lies
		for i := range (f.segments + sitPerBlock - 1) / sitPerBlock {
			if int64(copies[i>>3]>>(7-i&7)&1) != second {
				continue
			}
			b, err := bytesAt(r, (f.sit+second*f.sitBlocks+i)*f2fsBlock, f2fsBlock)
			if err != nil {
				return nil, "", err
			}
			copy(entries[i*sitPerBlock*sitEntry:], b[:sitPerBlock*sitEntry])
		}
	}
	n, journal := int(le.Uint16(p.journal)), p.journal[2:]
	if n > len(journal)/(4+sitEntry) {
		return nil, "its checkpoint contradicts itself", nil
	}
	for ; n > 0; n, journal = n-1, journal[4+sitEntry:] {
		segment := int64(le.Uint32(journal))
		if segment >= f.segments {
			return nil, "its checkpoint contradicts itself", nil
		}
		copy(entries[segment*sitEntry:], journal[4:][:sitEntry])
	}
	return entries, "", nil
}
