package volume

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"io"
	"math/bits"
	"strings"

	"multidd/internal/block"
)

// FAT12, FAT16 and FAT32, after Microsoft's "FAT: General Overview of On-Disk
// Format", version 1.03. Where the paper and the systems that read cards differ, the
// systems count: a small volume is FAT32 if it is laid out as FAT32.

// fat is what a FAT's boot sector says, in bytes where nothing else is said.
type fat struct {
	kind    string // "" if it says more clusters than its kind can have
	sector  int64
	cluster int64
	start   int64 // of the first table
	table   int64 // size of each table
	tables  int64
	root    int64  // where the root directory of FAT12 and 16 begins
	data    int64  // where cluster 2 begins
	n       int64  // clusters
	total   int64  // all of it
	version uint16 // of FAT32
	media   byte   // what the first table entry begins with, too
	dirty   byte   // what the last system to mount it left: bit 0 in use, bit 1 to be tested
	label   string
	serial  string

	rootAt    int64   // FAT32: the next cluster of the root directory that the table has to tell of
	rootChain []int64 // FAT32: those it has told of; a directory that turns back ends there
}

// maxRootChain is how many clusters of a root directory are looked into for a label.
const maxRootChain = 64

// parseFAT returns what a boot sector of 512 bytes says; ok is false if it is not
// one of a FAT.
func parseFAT(b []byte) (f fat, ok bool) {
	le := binary.LittleEndian
	sector, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, media := int64(le.Uint16(b[14:])), b[21]
	rootEntries := int64(le.Uint16(b[17:]))
	f = fat{sector: sector, tables: int64(b[16]), media: media}
	if b[510] != 0x55 || b[511] != 0xaa || b[0] != 0xeb && b[0] != 0xe9 ||
		sector < 512 || sector > 4096 || bits.OnesCount64(uint64(sector)) != 1 ||
		bits.OnesCount64(uint64(perCluster)) != 1 ||
		reserved == 0 || f.tables == 0 || media != 0xf0 && media < 0xf8 {
		return fat{}, false
	}
	total := int64(le.Uint16(b[19:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	table, fat32 := int64(le.Uint16(b[22:])), false
	if table == 0 {
		table, fat32 = int64(le.Uint32(b[36:])), true
	}
	tail := b[36:] // of the boot sector, the same in all kinds but for where it begins
	if fat32 {
		tail = b[64:]
		f.version, f.rootAt = le.Uint16(b[42:]), int64(le.Uint32(b[44:]))
	}
	f.dirty = tail[1]
	if sig := tail[2]; sig == 0x28 || sig == 0x29 {
		f.serial = fmt.Sprintf("%02X%02X-%02X%02X", tail[6], tail[5], tail[4], tail[3])
		if label := fatName(tail[7:18]); sig == 0x29 && label != "NO NAME" {
			f.label = label
		}
	}
	f.cluster = perCluster * sector
	f.start = reserved * sector
	f.table = table * sector
	f.root = f.start + f.tables*f.table
	f.data = f.root + (rootEntries*32+sector-1)/sector*sector
	f.total = total * sector
	f.n = (f.total - f.data) / f.cluster
	if table == 0 || f.n <= 0 || fat32 == (rootEntries > 0) {
		return fat{}, false
	}
	switch {
	case fat32 && f.n < 0x0ffffff5:
		f.kind = "fat32"
	case !fat32 && f.n < 4085:
		f.kind = "fat12"
	case !fat32 && f.n < 65525:
		f.kind = "fat16"
	}
	return f, true
}

// fatName returns the name in a field of 11 bytes. What it is coded in is not said.
func fatName(b []byte) string {
	return strings.TrimRight(strings.ToValidUTF8(string(b), "?"), " \x00")
}

// openFAT opens a FAT12, FAT16 or FAT32. It reads the tables, which lie before all
// data, in order.
func openFAT(r io.ReaderAt, size int64) (fileSystem, error) {
	if size < 512 {
		return nil, errNotMine
	}
	boot, err := bytesAt(r, 0, 512)
	if err != nil {
		return nil, err
	}
	f, ok := parseFAT(boot)
	if !ok {
		return nil, errNotMine
	}
	c := &clusters{first: f.data, unit: f.cluster, n: f.n, fs: FileSystem{
		Kind: f.kind, Label: f.label, UUID: f.serial, BlockSize: int(f.cluster), Size: min(f.total, size),
	}}
	switch {
	case f.kind == "":
		c.fs.Kind = "fat"
		c.fs.doubt(Unknown, "it has more clusters than a file allocation table can count")
	case f.version != 0:
		c.fs.doubt(Unknown, fmt.Sprintf("its version %d.%d is not known", f.version>>8, f.version&0xff))
	case f.total > size:
		c.fs.doubt(Unknown, "it is longer than where it lies")
	}
	if c.fs.State == Unknown {
		return c.finish(), nil
	}
	if f.dirty&1 != 0 {
		c.fs.doubt(Dirty, "it was not cleanly unmounted")
	}
	if f.dirty&2 != 0 {
		c.fs.doubt(Dirty, "errors were met on it")
	}
	if err := f.readTables(r, c); err != nil {
		return nil, err
	}
	if label, err := f.rootLabel(r); err != nil {
		return nil, err
	} else if label != "" {
		c.fs.Label = label
	}
	return c.finish(), nil
}

// tablePiece is how much of a table is read at a time. Entries of 12, 16 and 32 bits
// end at its end.
const tablePiece = 192 << 10

// readTables reads all copies of the table.
func (f *fat) readTables(r io.ReaderAt, c *clusters) error {
	width := map[string]int64{"fat12": 12, "fat16": 16, "fat32": 32}[f.kind]
	entries := min(f.n+2, f.table*8/width)
	c.n = entries - 2 // what the table has no entry for counts as used
	if c.n <= 0 {
		c.n = 0
		c.fs.doubt(Unknown, "its file allocation table is too small")
		return nil
	}
	c.inUse = newBitset(c.n)
	length := (entries*width + 7) / 8
	seed := maphash.MakeSeed()
	var first uint64 // the sum of the first table
	for t := range f.tables {
		var h maphash.Hash
		h.SetSeed(seed)
		for off := int64(0); off < length; off += tablePiece {
			b, err := bytesAt(r, f.start+t*f.table+off, min(tablePiece, length-off))
			if err != nil {
				return err
			}
			_, _ = h.Write(b) // it never fails
			if t == 0 {
				f.note(c, b, off*8/width, width)
			}
		}
		if t == 0 {
			first = h.Sum64()
		} else if h.Sum64() != first {
			c.fs.doubt(Dirty, "the copies of its file allocation table differ")
		}
	}
	return nil
}

// note takes in a piece of the table, beginning with an entry. A cluster is in use if
// its entry is not 0, or if another one leads to it.
func (f *fat) note(c *clusters, b []byte, first, width int64) {
	le := binary.LittleEndian
	for k := range int64(len(b)) * 8 / width {
		i := first + k
		if i >= c.n+2 {
			return
		}
		var v int64
		switch width {
		case 12:
			v = int64(le.Uint16(b[k*3/2:])) >> (k & 1 * 4) & 0xfff
		case 16:
			v = int64(le.Uint16(b[k*2:]))
		case 32:
			v = int64(le.Uint32(b[k*4:])) & 0x0fffffff
		}
		switch {
		case i < 2:
			f.judge(c, i, v, width)
			continue
		case v == 0:
			continue
		case v >= 2 && v < c.n+2:
			c.inUse.set(v - 2)
		case v < fatEnd(width):
			c.fs.doubt(Dirty, "its file allocation table is damaged")
		}
		c.inUse.set(i - 2)
		if i == f.rootAt && len(f.rootChain) < maxRootChain {
			f.rootChain, f.rootAt = append(f.rootChain, i), v
		}
	}
}

// fatEnd returns the least table entry that leads to no other cluster: that of a bad
// one. Those above end a file.
func fatEnd(width int64) int64 {
	return map[int64]int64{12: 0xff7, 16: 0xfff7, 32: 0x0ffffff7}[width]
}

// judge looks at the two entries that belong to no cluster. The first one repeats the
// kind of medium. The second one of FAT16 and FAT32 says in its highest bits, by
// zeros, what went wrong.
func (f *fat) judge(c *clusters, i, v, width int64) {
	clean, healthy := int64(1)<<15, int64(1)<<14
	if width == 32 {
		clean, healthy = 1<<27, 1<<26
	}
	switch {
	case i == 0 && byte(v) != f.media:
		c.fs.doubt(Unknown, "its file allocation table does not begin as one does")
	case i == 0 || width == 12:
	case v&clean == 0:
		c.fs.doubt(Dirty, "it was not cleanly unmounted")
	case v&healthy == 0:
		c.fs.doubt(Dirty, "errors were met on it")
	}
}

// rootLabel returns the label that the root directory keeps, "" if it has none.
func (f *fat) rootLabel(r io.ReaderAt) (string, error) {
	pieces := []block.Extent{{Off: f.root, Len: f.data - f.root}}
	if f.kind == "fat32" {
		pieces = nil
		for _, i := range f.rootChain {
			pieces = append(pieces, block.Extent{Off: f.data + (i-2)*f.cluster, Len: f.cluster})
		}
	}
	for _, p := range pieces {
		b, err := bytesAt(r, p.Off, p.Len)
		if err != nil {
			return "", err
		}
		for ; len(b) >= 32; b = b[32:] {
			const volume, folder, longName = 0x08, 0x10, 0x0f
			switch attr := b[11]; {
			case b[0] == 0: // the end
				return "", nil
			case b[0] != 0xe5 && attr&(volume|folder) == volume && attr&longName != longName:
				return fatName(b[:11]), nil
			}
		}
	}
	return "", nil
}
