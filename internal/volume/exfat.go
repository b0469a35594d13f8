package volume

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
)

// exFAT, after Microsoft's "exFAT file system specification", revision 1.00. What is
// in use stands in a bitmap, itself a file that the root directory names.

// exfat is what an exFAT's boot sector says, in bytes where nothing else is said.
type exfat struct {
	sector  int64
	cluster int64
	length  int64 // of the volume
	fat     int64 // offset of the table that counts
	heap    int64 // offset of cluster 2
	n       int64 // clusters
	root    int64 // first cluster of the root directory
	fats    int64 // 2: TexFAT, which has two bitmaps
}

// maxRoot is how much of a root directory is read, in bytes. What is looked for is
// in its first entries.
const maxRoot = 1 << 20

// isExFAT tells whether a first sector is that of an exFAT.
func isExFAT(b []byte) bool {
	for _, zero := range b[11:64] { // where a FAT has its parameters
		if zero != 0 {
			return false
		}
	}
	return string(b[3:11]) == "EXFAT   " && b[510] == 0x55 && b[511] == 0xaa
}

// openExFAT opens an exFAT. It reads the boot region, the table's entries of the
// bitmap and the root directory, the bitmap, and the root directory, in that order if
// the bitmap lies where all systems put it.
func openExFAT(r io.ReaderAt, size int64) (fileSystem, error) {
	if size < 512 {
		return nil, errNotMine
	}
	b, err := bytesAt(r, 0, 512)
	if err != nil {
		return nil, err
	}
	if !isExFAT(b) {
		return nil, errNotMine
	}
	le := binary.LittleEndian
	serial := le.Uint32(b[100:])
	fs := FileSystem{Kind: "exfat", Size: size, UUID: fmt.Sprintf("%04X-%04X", serial>>16, serial&0xffff)}
	x, why := parseExFAT(b, size)
	if why == "" {
		if why, err = x.checkBoot(r); err != nil {
			return nil, err
		}
	}
	if why != "" {
		fs.doubt(Unknown, why)
		return whole(fs), nil
	}
	fs.Size, fs.BlockSize = x.length, int(x.cluster)
	const inUse, failing = 0x2, 0x4
	flags := le.Uint16(b[106:])
	if flags&inUse != 0 {
		fs.doubt(Dirty, "it was not cleanly unmounted")
	}
	if flags&failing != 0 {
		fs.doubt(Dirty, "errors were met on it")
	}
	c := &clusters{fs: fs, first: x.heap, unit: x.cluster, n: x.n}
	if err := x.readBitmaps(r, c); err != nil {
		return nil, err
	}
	return c.finish(), nil
}

// parseExFAT returns what a boot sector says, or why that cannot be.
func parseExFAT(b []byte, size int64) (x exfat, why string) {
	le := binary.LittleEndian
	sectorBits, clusterBits := b[108], b[109]
	switch {
	case le.Uint16(b[104:])>>8 != 1:
		return x, fmt.Sprintf("its version %d.%d is not known", b[105], b[104])
	case sectorBits < 9 || sectorBits > 12 || clusterBits > 25-sectorBits:
		return x, "its sectors or clusters have a size that cannot be"
	case le.Uint64(b[72:]) > uint64(size)>>sectorBits:
		return x, "it is longer than where it lies"
	}
	x = exfat{
		sector:  1 << sectorBits,
		cluster: 1 << (sectorBits + clusterBits),
		length:  int64(le.Uint64(b[72:])) << sectorBits,
		heap:    int64(le.Uint32(b[88:])) << sectorBits,
		n:       int64(le.Uint32(b[92:])),
		root:    int64(le.Uint32(b[96:])),
		fats:    int64(b[110]),
	}
	start, table := int64(le.Uint32(b[80:]))<<sectorBits, int64(le.Uint32(b[84:]))<<sectorBits
	active := int64(le.Uint16(b[106:]) & 1)
	x.fat = start + active*table
	if x.fats < 1 || x.fats > 2 || active >= x.fats || start < 24*x.sector || table < 4*(x.n+2) ||
		start+x.fats*table > x.heap || x.n == 0 || x.n > (x.length-x.heap)/x.cluster || !x.has(x.root) {
		return x, "its boot sector contradicts itself"
	}
	return x, ""
}

// has tells whether there is such a cluster.
func (x *exfat) has(cluster int64) bool { return cluster >= 2 && cluster < x.n+2 }

// at returns the offset of a cluster.
func (x *exfat) at(cluster int64) int64 { return x.heap + (cluster-2)*x.cluster }

// checkBoot returns what is wrong with the boot region: its twelfth sector repeats a
// sum over the eleven before it, without the flags and the percentage in use, which change.
func (x *exfat) checkBoot(r io.ReaderAt) (why string, err error) {
	b, err := bytesAt(r, 0, 12*x.sector)
	if err != nil {
		return "", err
	}
	var sum uint32
	for i, v := range b[:11*x.sector] {
		if i != 106 && i != 107 && i != 112 {
			sum = bits.RotateLeft32(sum, -1) + uint32(v)
		}
	}
	for b = b[11*x.sector:]; len(b) > 0; b = b[4:] {
		if binary.LittleEndian.Uint32(b) != sum {
			return "the checksum of its boot sectors is wrong", nil
		}
	}
	return "", nil
}

// A bitmapEntry is what a directory entry says about the bitmap, in clusters and bytes.
type bitmapEntry struct{ first, length int64 }

// readBitmaps fills c with what is in use.
func (x *exfat) readBitmaps(r io.ReaderAt, c *clusters) error {
	usual := bitmapEntry{2, (x.n + 7) / 8}
	sound, err := x.inOnePiece(r, usual)
	if err != nil {
		return err
	}
	chain, err := x.rootChain(r)
	if err != nil {
		return err
	}
	var bitmap []byte
	if sound {
		if bitmap, err = bytesAt(r, x.at(usual.first), usual.length); err != nil {
			return err
		}
	}
	entries, err := x.readRoot(r, chain, c)
	if err != nil {
		return err
	}
	if int64(len(entries)) != x.fats {
		c.fs.doubt(Unknown, fmt.Sprintf("it has %d bitmaps of what is in use, not %d", len(entries), x.fats))
		return nil
	}
	inUse := newBitset(x.n)
	for _, e := range entries {
		if e != usual {
			sound, err = x.inOnePiece(r, e)
			if err == nil && sound {
				bitmap, err = bytesAt(r, x.at(e.first), e.length)
			}
			if err != nil {
				return err
			}
		}
		if !sound {
			c.fs.doubt(Unknown, "the bitmap of what is in use does not lie in one piece")
			return nil
		}
		for i := range inUse { // with two of them, what either says
			inUse[i] |= bitmap[i]
		}
		inUse.setRange(e.first-2, e.first-2+x.pieces(e))
	}
	inUse.set(x.root - 2)
	c.inUse = inUse
	return nil
}

// pieces returns how many clusters a bitmap takes.
func (x *exfat) pieces(e bitmapEntry) int64 { return (e.length + x.cluster - 1) / x.cluster }

// inOnePiece tells whether a bitmap can be where its entry says: its clusters follow
// each other, and the table agrees. Systems do not read others.
func (x *exfat) inOnePiece(r io.ReaderAt, e bitmapEntry) (bool, error) {
	if e.length != (x.n+7)/8 || !x.has(e.first) || !x.has(e.first+x.pieces(e)-1) {
		return false, nil
	}
	links, err := bytesAt(r, x.fat+4*e.first, 4*x.pieces(e))
	if err != nil {
		return false, err
	}
	for i := e.first + 1; len(links) > 4; i, links = i+1, links[4:] {
		if int64(binary.LittleEndian.Uint32(links)) != i {
			return false, nil
		}
	}
	return true, nil
}

// rootChain returns the first clusters of the root directory.
func (x *exfat) rootChain(r io.ReaderAt) (chain []int64, err error) {
	for at := x.root; x.has(at) && int64(len(chain)) < max(1, maxRoot/x.cluster); {
		chain = append(chain, at)
		link, err := bytesAt(r, x.fat+4*at, 4)
		if err != nil {
			return nil, err
		}
		at = int64(binary.LittleEndian.Uint32(link))
	}
	return chain, nil
}

// readRoot reads the root directory until it knows the label and where the bitmaps
// are.
func (x *exfat) readRoot(r io.ReaderAt, chain []int64, c *clusters) (bitmaps []bitmapEntry, err error) {
	const (
		end    = 0x00
		bitmap = 0x81
		label  = 0x83
	)
	le := binary.LittleEndian
	for _, at := range chain {
		if c.fs.Label != "" && int64(len(bitmaps)) >= x.fats {
			break
		}
		b, err := bytesAt(r, x.at(at), min(x.cluster, maxRoot))
		if err != nil {
			return nil, err
		}
		for ; len(b) >= 32; b = b[32:] {
			switch b[0] {
			case end:
				return bitmaps, nil
			case bitmap:
				if len(bitmaps) < 3 { // one more than there may be
					bitmaps = append(bitmaps, bitmapEntry{int64(le.Uint32(b[20:])), int64(le.Uint64(b[24:]))})
				}
			case label:
				c.fs.Label = utf16Text(b[2 : 2+2*min(int(b[1]), 11)])
			}
		}
	}
	return bitmaps, nil
}
