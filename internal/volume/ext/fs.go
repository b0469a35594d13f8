// Package ext reads the files of an ext2, ext3 or ext4 file system as a tree, and
// fills an empty one, fresh from mke2fs, with a tree. It works on any io.ReaderAt
// and io.WriterAt: nothing is mounted.
//
// The format is described in the kernel's Documentation/filesystems/ext4. What is
// read may be hostile: everything is bounded before memory is taken for it.
package ext

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

var le = binary.LittleEndian

// Features, of which only those are named that matter here.
const (
	compatDirIndex = 0x20

	incompatFiletype  = 0x2
	incompatRecover   = 0x4
	incompatJournal   = 0x8 // an external journal, no file system
	incompatMetaBG    = 0x10
	incompatExtents   = 0x40
	incompat64Bit     = 0x80
	incompatFlexBG    = 0x200
	incompatEAInode   = 0x400
	incompatCsumSeed  = 0x2000
	incompatLargeDir  = 0x4000
	incompatInline    = 0x8000
	incompatReadable  = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64Bit | 0x100 | incompatFlexBG | incompatCsumSeed | incompatLargeDir | incompatInline
	incompatFillable  = incompatReadable &^ (incompatRecover | 0x100)
	roSparseSuper     = 0x1
	roLargeFile       = 0x2
	roHugeFile        = 0x8
	roGDTSum          = 0x10
	roDirNlink        = 0x20
	roExtraIsize      = 0x40
	roBigalloc        = 0x200
	roMetadataSum     = 0x400
	roOrphanPresent   = 0x10000
	roFillable        = roSparseSuper | roLargeFile | 0x4 | roHugeFile | roGDTSum | roDirNlink | roExtraIsize | roMetadataSum
	compatSparse2     = 0x200
	compatHasJournal  = 0x4
	compatResizeInode = 0x10
	compatOrphanFile  = 0x1000
	compatFillable    = 0x1 | compatHasJournal | 0x8 | compatResizeInode | compatDirIndex | compatSparse2 | compatOrphanFile
)

const (
	rootIno      = 2
	lostFoundIno = 11
	superSize    = 1024
	superOff     = 1024
)

// ErrNotExt is the error of something that is no ext2, ext3 or ext4 file system.
var ErrNotExt = errors.New("it is no ext2, ext3 or ext4 file system")

// A FileSystem is one that has been opened.
type FileSystem struct {
	r     io.ReaderAt
	super []byte

	compat, incompat, ro uint32
	bs                   int64 // of a block, in bytes
	blocks               int64
	first                int64 // the block that group 0 begins with
	perGroup             int64 // blocks in a group
	inodesPerGroup       int64
	inodes               int64
	inodeSize            int64
	descSize             int64
	groups               []group
	seed                 uint32 // of checksums of metadata

	lists atomic.Int64 // blocks with lists that were read
}

// A group is a block group, as its descriptor has it.
type group struct {
	desc                                   []byte
	blockBitmap, inodeBitmap, table        int64 // blocks
	freeBlocks, freeInodes, dirs, unusedIn int64
	flags                                  uint16
}

const (
	inodeUninit = 1
	blockUninit = 2
)

// maxGroups is the most groups there may be: those of 16 TiB.
const maxGroups = 1 << 17

// Open reads the superblock and the group descriptors of the file system that begins at
// byte 0 of r.
func Open(r io.ReaderAt) (*FileSystem, error) {
	f := &FileSystem{r: r, super: make([]byte, superSize)}
	if _, err := r.ReadAt(f.super, superOff); err != nil {
		if err == io.EOF {
			return nil, ErrNotExt
		}
		return nil, fmt.Errorf("read the superblock: %w", err)
	}
	if le.Uint16(f.super[0x38:]) != 0xef53 {
		return nil, ErrNotExt
	}
	if err := f.geometry(); err != nil {
		return nil, err
	}
	return f, f.readGroups()
}

func (f *FileSystem) u32(off int) int64 { return int64(le.Uint32(f.super[off:])) }

func (f *FileSystem) geometry() error {
	f.compat, f.incompat, f.ro = le.Uint32(f.super[0x5c:]), le.Uint32(f.super[0x60:]), le.Uint32(f.super[0x64:])
	if odd := f.incompat &^ incompatReadable; odd != 0 {
		return fmt.Errorf("it uses features that are not known here (incompat %#x)", odd)
	}
	shift := f.u32(0x18)
	if shift > 6 {
		return errors.New("its superblock is damaged: the block size makes no sense")
	}
	f.bs = 1024 << shift
	f.blocks = f.u32(0x4)
	f.descSize = 32
	if f.incompat&incompat64Bit != 0 {
		f.blocks |= f.u32(0x150) << 32
		f.descSize = int64(le.Uint16(f.super[0xfe:]))
	}
	f.first, f.perGroup, f.inodesPerGroup, f.inodes = f.u32(0x14), f.u32(0x20), f.u32(0x28), f.u32(0)
	f.inodeSize = 128
	if f.u32(0x4c) > 0 {
		f.inodeSize = int64(le.Uint16(f.super[0x58:]))
	}
	switch {
	case f.descSize < 32 || f.descSize > f.bs || f.descSize&(f.descSize-1) != 0,
		f.perGroup == 0 || f.perGroup > 8*f.bs && f.ro&roBigalloc == 0,
		f.inodesPerGroup == 0 || f.inodesPerGroup > 8*f.bs,
		f.inodeSize < 128 || f.inodeSize > f.bs || f.inodeSize&(f.inodeSize-1) != 0,
		f.first > 1, f.blocks <= f.first, f.blocks > 1<<40:
		return errors.New("its superblock is damaged: the sizes in it make no sense")
	}
	n := (f.blocks - f.first + f.perGroup - 1) / f.perGroup
	if n > maxGroups || f.inodes != n*f.inodesPerGroup {
		return errors.New("its superblock is damaged: the number of groups makes no sense")
	}
	f.groups = make([]group, n)
	f.seed = crc(^uint32(0), f.super[0x68:0x78])
	if f.incompat&incompatCsumSeed != 0 {
		f.seed = le.Uint32(f.super[0x270:])
	}
	return nil
}

// Features that decide about checksums.
func (f *FileSystem) metadataSums() bool { return f.ro&roMetadataSum != 0 }
func (f *FileSystem) groupSums() bool    { return f.ro&(roMetadataSum|roGDTSum) != 0 }

// descAt returns where the descriptor of a group is, in bytes.
func (f *FileSystem) descAt(g int64) int64 {
	perBlock := f.bs / f.descSize
	i := g / perBlock
	if f.incompat&incompatMetaBG == 0 || i < f.u32(0x104) {
		return (superOff/f.bs+1+i)*f.bs + g%perBlock*f.descSize
	}
	home := i * perBlock
	b := f.first + home*f.perGroup
	if f.hasSuper(home) {
		b++
	}
	if home == 0 && f.first < superOff/f.bs {
		b++ // bigalloc with blocks of 1 KiB
	}
	return b*f.bs + g%perBlock*f.descSize
}

// hasSuper tells whether a group begins with a copy of the superblock.
func (f *FileSystem) hasSuper(g int64) bool {
	switch {
	case g == 0:
		return true
	case f.compat&compatSparse2 != 0:
		return g == f.u32(0x24c) || g == f.u32(0x250)
	case g == 1 || f.ro&roSparseSuper == 0:
		return true
	}
	for _, p := range []int64{3, 5, 7} {
		x := p
		for x < g {
			x *= p
		}
		if x == g {
			return true
		}
	}
	return false
}

func (f *FileSystem) readGroups() error {
	for g := range f.groups {
		d := make([]byte, f.descSize)
		at := f.descAt(int64(g))
		if _, err := f.r.ReadAt(d, at); err != nil {
			return fmt.Errorf("read the descriptor of group %d at byte %d: %w", g, at, noEOF(err))
		}
		x := &f.groups[g]
		x.desc = d
		x.blockBitmap, x.inodeBitmap, x.table = int64(le.Uint32(d)), int64(le.Uint32(d[4:])), int64(le.Uint32(d[8:]))
		x.freeBlocks, x.freeInodes, x.dirs = int64(le.Uint16(d[0xc:])), int64(le.Uint16(d[0xe:])), int64(le.Uint16(d[0x10:]))
		x.flags, x.unusedIn = le.Uint16(d[0x12:]), int64(le.Uint16(d[0x1c:]))
		if f.descSize >= 64 {
			x.blockBitmap |= int64(le.Uint32(d[0x20:])) << 32
			x.inodeBitmap |= int64(le.Uint32(d[0x24:])) << 32
			x.table |= int64(le.Uint32(d[0x28:])) << 32
			x.freeBlocks |= int64(le.Uint16(d[0x2c:])) << 16
			x.freeInodes |= int64(le.Uint16(d[0x2e:])) << 16
			x.dirs |= int64(le.Uint16(d[0x30:])) << 16
			x.unusedIn |= int64(le.Uint16(d[0x32:])) << 16
		}
		if !f.groupSums() {
			x.flags = 0
		}
		if x.table < f.first || x.table > f.blocks-f.tableBlocks() || x.blockBitmap >= f.blocks || x.inodeBitmap >= f.blocks {
			return fmt.Errorf("the descriptor of group %d is damaged: its tables lie outside of the file system", g)
		}
	}
	return nil
}

// tableBlocks is how many blocks the inodes of a group take.
func (f *FileSystem) tableBlocks() int64 { return (f.inodesPerGroup*f.inodeSize + f.bs - 1) / f.bs }

// inodeAt returns where an inode is, in bytes.
func (f *FileSystem) inodeAt(ino int64) int64 {
	g := (ino - 1) / f.inodesPerGroup
	return f.groups[g].table*f.bs + (ino-1)%f.inodesPerGroup*f.inodeSize
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
