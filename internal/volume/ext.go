package volume

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"strings"
)

// ext2, ext3 and ext4, after the kernel's Documentation/filesystems/ext4. The
// numbers of the features are those that the kernel and mke2fs give them.
const (
	extMark      = 0xEF53
	extSuperblk  = 1024 // where the superblock is and how long, in bytes
	stateUnmount = 0x1  // cleanly
	stateErrors  = 0x2
	stateOrphans = 0x4

	compatJournal = 0x4
	compatLazyBG  = 0x40
	compatSparse2 = 0x200

	incompatRecover = 0x4
	incompatJournal = 0x8 // the journal of another file system
	incompatMetaBG  = 0x10
	incompat64      = 0x80
	incompatSeed    = 0x2000
	incompatInline  = 0x8000
	// filetype recover journal_dev meta_bg extents 64bit mmp flex_bg ea_inode csum_seed
	// largedir inline_data encrypt casefold
	knownIncompat = 0x3E7DE

	roSparse   = 0x1
	roGroupSum = 0x10
	roBigalloc = 0x200
	roMetaSum  = 0x400
	roOrphans  = 0x10000
	// sparse_super large_file btree_dir huge_file uninit_bg dir_nlink extra_isize quota
	// bigalloc metadata_csum readonly project shared_blocks verity orphan_present. With
	// others it may be read, but a bitmap may mean something else: so it was with bigalloc.
	knownRO = 0x1F77F

	// What an ext3 may have: filetype recover meta_bg, sparse_super large_file btree_dir.
	ext3Incompat, ext3RO = 0x16, 0x7
)

// ext is an ext2, ext3 or ext4. Its blocks lie in groups, each with a bitmap of what
// is in use, a bitmap of inodes and a table of inodes somewhere, as its descriptor
// says. With bigalloc a bit stands for a cluster of blocks.
type ext struct {
	r  io.ReaderAt
	fs FileSystem

	block              int64 // bytes
	blocks, free       int64 // as the superblock says, in blocks
	first              int64 // block that the first group begins with
	perGroup, groups   int64
	ratio              int64 // blocks in a cluster
	inodes, inodeSize  int64 // in a group; bytes
	compat             uint32
	incompat, ro       uint32
	descSize, perBlock int64 // bytes of a descriptor; descriptors in a block
	reserved           int64 // blocks kept free behind each copy of the descriptors
	firstMeta          int64 // blocks of descriptors that lie together, with meta_bg
	backups            [2]int64
	uuid               []byte
	seed               uint32 // of the checksums of metadata_csum

	descs []byte // the descriptors read so far
	meta  []run  // where the metadata of those groups lies, ascending, as far as not walked by
	told  int64  // free blocks, as the descriptors read so far say
	buf   []byte // a bitmap
}

// A run is n blocks from block at on.
type run struct{ at, n int64 }

func (r run) end() int64 { return r.at + r.n }

// openExt reads the superblock and the group descriptors behind it.
func openExt(r io.ReaderAt, size int64) (fileSystem, error) {
	if size < 2*extSuperblk {
		return nil, errNotMine
	}
	sb := make([]byte, extSuperblk)
	if err := readAt(r, sb, extSuperblk); err != nil {
		return nil, err
	}
	if le.Uint16(sb[0x38:]) != extMark {
		return nil, errNotMine
	}
	e := parseExt(r, sb)
	if e == nil {
		return nil, errNotMine
	}
	e.judge(sb, size)
	if e.fs.State != Clean || e.incompat&incompatJournal != 0 {
		return e, nil
	}
	err := e.readDescriptors(0)
	if err == nil && e.together() == e.groups {
		err = e.checkFree()
	}
	if err != nil && !isContent(err) {
		return nil, err
	}
	if err != nil {
		e.fs.State, e.fs.Why = Dirty, err.Error()
	}
	return e, nil
}

// parseExt returns nil if the superblock could not be one: its mark is two bytes,
// which noise has, too.
func parseExt(r io.ReaderAt, sb []byte) *ext {
	u32 := func(at int) int64 { return int64(le.Uint32(sb[at:])) }
	e := &ext{
		r: r, first: u32(0x14), perGroup: u32(0x20), ratio: 1, inodes: u32(0x28), inodeSize: 128,
		blocks: u32(4), free: u32(0xC), descSize: 32, uuid: sb[0x68:0x78],
	}
	if u32(0x4C) > 0 { // the first revision had no features
		e.compat, e.incompat, e.ro = le.Uint32(sb[0x5C:]), le.Uint32(sb[0x60:]), le.Uint32(sb[0x64:])
		e.inodeSize = int64(le.Uint16(sb[0x58:]))
	}
	logBlock, logCluster := u32(0x18), u32(0x1C)
	if logBlock > 6 {
		return nil
	}
	e.block = 1024 << logBlock
	if e.incompat&incompat64 != 0 {
		e.blocks |= u32(0x150) << 32
		e.free |= u32(0x158) << 32
		e.descSize = int64(le.Uint16(sb[0xFE:]))
	}
	if e.ro&roBigalloc != 0 {
		if logCluster < logBlock || logCluster > 19 {
			return nil
		}
		e.ratio = 1 << (logCluster - logBlock)
	}
	e.reserved, e.firstMeta = int64(le.Uint16(sb[0xCE:])), u32(0x104)
	e.backups = [2]int64{u32(0x24C), u32(0x250)}
	if e.incompat&incompatJournal == 0 && !e.possible() {
		return nil
	}
	e.groups = (e.blocks - e.first + max(e.perGroup, 1) - 1) / max(e.perGroup, 1)
	e.perBlock = e.block / max(e.descSize, 1)
	if e.seed = crc32c(^uint32(0), e.uuid); e.incompat&incompatSeed != 0 {
		e.seed = le.Uint32(sb[0x270:])
	}
	e.fs = FileSystem{
		Kind:      e.kind(),
		Label:     text(sb[0x78:0x88]),
		UUID:      dashed(e.uuid),
		BlockSize: int(e.block),
		Size:      e.blocks * e.block,
		Used:      (e.blocks - e.free) * e.block,
	}
	return e
}

// possible tells whether the numbers in the superblock fit each other. Nothing
// is computed from them before.
func (e *ext) possible() bool {
	perBitmap := e.perGroup / e.ratio
	power := func(n int64) bool { return n&(n-1) == 0 }
	switch {
	case e.blocks <= e.first || e.blocks > endless/e.block || e.free > e.blocks:
	case e.first > 1 || (e.first == 1) != (e.block == 1024 && e.ratio == 1):
	case e.perGroup < 256 || e.perGroup%(8*e.ratio) != 0 || perBitmap > 8*e.block:
	case e.inodes < 1 || e.inodes > 8*e.block:
	case e.inodeSize < 128 || e.inodeSize > e.block || !power(e.inodeSize):
	case e.descSize < 32 || e.descSize > 1024 || e.descSize > e.block || !power(e.descSize):
	case e.incompat&incompat64 != 0 && e.descSize < 64:
	default:
		return true
	}
	return false
}

// kind calls it what blkid calls it.
func (e *ext) kind() string {
	switch {
	case e.incompat&incompatJournal != 0:
		return "jbd"
	case e.incompat&^ext3Incompat != 0 || e.ro&^ext3RO != 0:
		return "ext4"
	case e.compat&compatJournal != 0:
		return "ext3"
	default:
		return "ext2"
	}
}

// judge finds out from the superblock whether the word of the file system can be
// taken.
func (e *ext) judge(sb []byte, size int64) {
	state := le.Uint16(sb[0x3A:])
	doubt := func(s State, why string, args ...any) { e.fs.State, e.fs.Why = s, fmt.Sprintf(why, args...) }
	switch {
	case e.incompat&^knownIncompat != 0:
		doubt(Unknown, "it has the feature FEATURE_I%d, which is not known", bits.TrailingZeros32(e.incompat&^knownIncompat))
	case e.ro&^knownRO != 0:
		doubt(Unknown, "it has the feature FEATURE_R%d, which is not known", bits.TrailingZeros32(e.ro&^knownRO))
	case e.compat&compatLazyBG != 0:
		doubt(Unknown, "it has the feature lazy_bg, which is not known any more")
	case e.fs.Size > size:
		doubt(Unknown, "it is larger than what it lies in")
	case e.incompat&incompatJournal != 0:
	case e.groups*e.descSize > maxDescriptors:
		doubt(Unknown, "it has %d groups, more than are dealt with", e.groups)
	case e.ro&roMetaSum != 0 && sb[0x175] != 1:
		doubt(Unknown, "its checksums are not of a known kind")
	case e.ro&roMetaSum != 0 && crc32c(^uint32(0), sb[:0x3FC]) != le.Uint32(sb[0x3FC:]):
		doubt(Dirty, "its superblock has a wrong checksum")
	case e.incompat&incompatRecover != 0:
		doubt(Dirty, "its journal has to be replayed")
	case state&stateErrors != 0:
		doubt(Dirty, "errors were found in it")
	case state&stateUnmount == 0:
		doubt(Dirty, "it was not cleanly unmounted")
	case state&stateOrphans != 0 || e.ro&roOrphans != 0 || le.Uint32(sb[0xE8:]) != 0:
		doubt(Dirty, "deleted files have still to be removed from it")
	case int64(le.Uint32(sb)) != e.groups*e.inodes:
		doubt(Dirty, "it has %d inodes in %d groups of %d", le.Uint32(sb), e.groups, e.inodes)
	}
}

func (e *ext) info() FileSystem { return e.fs }

// crc32c goes on with a checksum as ext4 does: without inverting it before and
// after.
func crc32c(sum uint32, p []byte) uint32 {
	return ^crc32.Update(^sum, crc32.MakeTable(crc32.Castagnoli), p)
}

// crc16 goes on with the checksum of uninit_bg: CRC-16/ARC.
func crc16(sum uint16, p []byte) uint16 {
	for _, b := range p {
		sum ^= uint16(b)
		for range 8 {
			low := sum & 1
			sum = sum>>1 ^ 0xA001*low
		}
	}
	return sum
}

// text returns a field of a superblock up to its first NUL.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(string(b), "?")
}

// dashed formats a UUID whose bytes are stored in the order in which they are
// written, or returns "" for one that is not set.
func dashed(b []byte) string {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
