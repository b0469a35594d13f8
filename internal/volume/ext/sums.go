package ext

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc goes on with a CRC-32C that is not inverted at its ends, as the kernel has it.
func crc(c uint32, p []byte) uint32 { return ^crc32.Update(^c, castagnoli, p) }

func crcNumber(c, n uint32) uint32 { return crc(c, le.AppendUint32(nil, n)) }

// crc16 is the CRC-16 of ANSI, reflected, as group descriptors had it before
// metadata_csum.
func crc16(c uint16, p []byte) uint16 {
	for _, b := range p {
		c ^= uint16(b)
		for range 8 {
			low := c & 1
			c >>= 1
			if low != 0 {
				c ^= 0xa001
			}
		}
	}
	return c
}

// inodeSeed is what the checksums of an inode's own blocks begin with.
func (f *FileSystem) inodeSeed(ino int64, generation uint32) uint32 {
	return crcNumber(crcNumber(f.seed, uint32(ino)), generation)
}

// sumInode sets the checksum of an inode.
func (f *FileSystem) sumInode(ino int64, b []byte) {
	if !f.metadataSums() {
		return
	}
	high := len(b) > 128 && le.Uint16(b[0x80:]) >= 4
	le.PutUint16(b[0x7c:], 0)
	if high {
		le.PutUint16(b[0x82:], 0)
	}
	c := crc(f.inodeSeed(ino, le.Uint32(b[0x64:])), b)
	le.PutUint16(b[0x7c:], uint16(c))
	if high {
		le.PutUint16(b[0x82:], uint16(c>>16))
	}
}

// tailLen is what the checksum at the end of a directory's block takes, in bytes.
const tailLen = 12

// sumDir writes the checksum into the end of a directory's block, where it looks like
// an entry without a name.
func (f *FileSystem) sumDir(seed uint32, b []byte) {
	if !f.metadataSums() {
		return
	}
	at := len(b) - tailLen
	clear(b[at:])
	b[at+4], b[at+7] = tailLen, 0xde
	le.PutUint32(b[at+8:], crc(seed, b[:at]))
}

// sumExtents writes the checksum behind the entries of a block of an extent tree.
func (f *FileSystem) sumExtents(seed uint32, b []byte) {
	if !f.metadataSums() {
		return
	}
	at := 12 + 12*int(le.Uint16(b[4:]))
	le.PutUint32(b[at:], crc(seed, b[:at]))
}

// sumXattrs sets the checksum of a block of extended attributes.
func (f *FileSystem) sumXattrs(at int64, b []byte) {
	if !f.metadataSums() {
		return
	}
	le.PutUint32(b[0x10:], 0)
	le.PutUint32(b[0x10:], crc(crc(f.seed, le.AppendUint64(nil, uint64(at))), b))
}

// sumBitmap sets the checksum of a bitmap in the descriptor of its group.
func (f *FileSystem) sumBitmap(desc []byte, low, high int, bits []byte) {
	if !f.metadataSums() {
		return
	}
	c := crc(f.seed, bits)
	le.PutUint16(desc[low:], uint16(c))
	if f.descSize >= 64 {
		le.PutUint16(desc[high:], uint16(c>>16))
	}
}

// sumGroup sets the checksum of a group's descriptor.
func (f *FileSystem) sumGroup(g int, desc []byte) {
	const at = 0x1e
	switch {
	case f.metadataSums():
		le.PutUint16(desc[at:], 0)
		le.PutUint16(desc[at:], uint16(crc(crcNumber(f.seed, uint32(g)), desc)))
	case f.groupSums():
		c := crc16(^uint16(0), f.super[0x68:0x78])
		c = crc16(c, le.AppendUint32(nil, uint32(g)))
		c = crc16(c, desc[:at])
		if f.incompat&incompat64Bit != 0 {
			c = crc16(c, desc[at+2:])
		}
		le.PutUint16(desc[at:], c)
	}
}

// sumSuper sets the checksum of the superblock.
func (f *FileSystem) sumSuper() {
	if f.metadataSums() {
		le.PutUint32(f.super[0x3fc:], crc(^uint32(0), f.super[:0x3fc]))
	}
}
