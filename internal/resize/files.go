package resize

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"slices"

	"multidd/internal/block"
)

// fileData is where the content of the plain files of an ext file system lies.
type fileData struct {
	extents []block.Extent    // ascending, not overlapping; in bytes from its beginning
	sum     [sha256.Size]byte // of which block of which file lies where
}

// errOdd says that a file system is not understood well enough to leave out the
// content of its files.
var errOdd = errors.New("the file system is odd")

// Fields of the superblock, of a group descriptor and of an inode, as the kernel's
// documentation has them (Documentation/filesystems/ext4).
const (
	superOff  = 1024
	superSize = 1024

	sbBlocks     = 0x4
	sbFirstBlock = 0x14
	sbLogBlock   = 0x18
	sbPerGroup   = 0x20
	sbInodes     = 0x28 // per group
	sbMagic      = 0x38
	sbRevision   = 0x4c
	sbFirstInode = 0x54
	sbInodeSize  = 0x58
	sbBackups    = 0x24c // two groups, if sparse_super2
	sbIncompat   = 0x60
	sbROCompat   = 0x64
	sbCompat     = 0x5c
	sbDescSize   = 0xfe
	sbFirstMeta  = 0x104
	sbBlocksHigh = 0x150
	sbQuotaUser  = 0x240
	sbQuotaGroup = 0x244
	sbQuotaProj  = 0x26c
	sbOrphans    = 0x280

	compatSparse2  = 0x200
	incompatMetaBG = 0x10
	incompat64     = 0x80
	roSparse       = 0x1
	roClusters     = 0x200
	roChecksums    = 0x10 | 0x400 // of group descriptors, old and new way: the flags of groups count

	groupNoInodes     = 0x1 // its inodes were never used
	groupInodesZeroed = 0x4

	inodeFlags     = 0x20
	inodeBlocks    = 0x28 // 60 bytes: a tree of extents, or 15 block numbers
	inodeType      = 0xf000
	inodePlain     = 0x8000
	flagExtents    = 0x80000
	flagAttributes = 0x200000 // its content is an attribute of another
	flagInline     = 0x10000000
)

// An ext is an ext2, ext3 or ext4 file system.
type ext struct {
	r          io.ReaderAt
	sb         []byte
	block      int64 // bytes
	blocks     int64
	groups     int64
	inodes     int64 // per group
	inodeSize  int64
	descSize   int64
	firstInode uint32
	checksums  bool
	budget     int64 // how many blocks of trees may still be read
}

// openExt reads the superblock of a file system in size bytes. What it cannot be
// sure of is errOdd.
func openExt(r io.ReaderAt, size int64) (*ext, error) {
	sb := make([]byte, superSize)
	if err := readFull(r, sb, superOff); err != nil {
		return nil, err
	}
	if le.Uint16(sb[sbMagic:]) != 0xef53 || le.Uint32(sb[sbLogBlock:]) > 6 {
		return nil, errOdd
	}
	x := &ext{
		r: r, sb: sb, block: 1024 << le.Uint32(sb[sbLogBlock:]), blocks: int64(le.Uint32(sb[sbBlocks:])),
		inodes: int64(le.Uint32(sb[sbInodes:])), inodeSize: 128, descSize: 32, firstInode: 11,
		checksums: le.Uint32(sb[sbROCompat:])&roChecksums != 0,
	}
	if le.Uint32(sb[sbRevision:]) > 0 {
		x.firstInode, x.inodeSize = le.Uint32(sb[sbFirstInode:]), int64(le.Uint16(sb[sbInodeSize:]))
	}
	if le.Uint32(sb[sbIncompat:])&incompat64 != 0 {
		x.blocks |= int64(le.Uint32(sb[sbBlocksHigh:])) << 32
		x.descSize = max(32, int64(le.Uint16(sb[sbDescSize:])))
	}
	perGroup := int64(le.Uint32(sb[sbPerGroup:]))
	switch {
	case perGroup < 1 || perGroup > 1<<26 || x.blocks > size/x.block || x.blocks <= x.first():
		return nil, errOdd
	case x.inodeSize < 128 || x.inodeSize > x.block || x.inodeSize&(x.inodeSize-1) != 0 || x.descSize > x.block || x.descSize&(x.descSize-1) != 0:
		return nil, errOdd
	case x.inodes < 1 || x.inodes > 8*x.block:
		return nil, errOdd
	}
	x.groups = (x.blocks - x.first() + perGroup - 1) / perGroup
	x.budget = 1000 + x.blocks/32
	return x, nil
}

// clusters tells whether blocks are given out several at a time (bigalloc).
func (x *ext) clusters() bool { return le.Uint32(x.sb[sbROCompat:])&roClusters != 0 }

func (x *ext) first() int64 { return int64(le.Uint32(x.sb[sbFirstBlock:])) }

// read returns n bytes that begin with a block.
func (x *ext) read(blk, n int64) ([]byte, error) {
	if blk <= 0 || n > x.blocks*x.block || blk > x.blocks-(n+x.block-1)/x.block {
		return nil, errOdd
	}
	b := make([]byte, n)
	return b, readFull(x.r, b, blk*x.block)
}

// hasSuper tells whether a group begins with a copy of the superblock.
func (x *ext) hasSuper(g int64) bool {
	switch {
	case g == 0:
		return true
	case le.Uint32(x.sb[sbCompat:])&compatSparse2 != 0:
		return g == int64(le.Uint32(x.sb[sbBackups:])) || g == int64(le.Uint32(x.sb[sbBackups+4:]))
	case g == 1 || le.Uint32(x.sb[sbROCompat:])&roSparse == 0:
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		p := base
		for p < g {
			p *= base
		}
		if p == g {
			return true
		}
	}
	return false
}

// A group is what its descriptor says.
type group struct {
	inodeBitmap, inodeTable int64 // blocks
	inodes                  int64 // how many at the table's beginning may be in use
	zeroed                  bool  // the rest of the table was written with zeros, or nobody knows
}

// eachGroup calls do for every group.
func (x *ext) eachGroup(do func(g int64, d group) error) error {
	per := x.block / x.descSize
	meta := int64(1) << 62 // the first block of descriptors that lies in a group of its own
	if le.Uint32(x.sb[sbIncompat:])&incompatMetaBG != 0 {
		meta = int64(le.Uint32(x.sb[sbFirstMeta:]))
	}
	var descs []byte
	for g := range x.groups {
		if i := g / per; g%per == 0 {
			blk := x.first() + 1 + i
			if i >= meta {
				blk = x.first() + g*int64(le.Uint32(x.sb[sbPerGroup:]))
				if x.hasSuper(g) {
					blk++
				}
			}
			var err error
			if descs, err = x.read(blk, x.block); err != nil {
				return err
			}
		}
		if err := do(g, x.group(descs[g%per*x.descSize:][:x.descSize])); err != nil {
			return err
		}
	}
	return nil
}

func (x *ext) group(d []byte) group {
	g := group{int64(le.Uint32(d[4:])), int64(le.Uint32(d[8:])), x.inodes, true}
	unused := int64(le.Uint16(d[0x1c:]))
	if x.descSize >= 64 {
		g.inodeBitmap |= int64(le.Uint32(d[0x24:])) << 32
		g.inodeTable |= int64(le.Uint32(d[0x28:])) << 32
		unused |= int64(le.Uint16(d[0x32:])) << 16
	}
	if !x.checksums {
		return g
	}
	flags := le.Uint16(d[0x12:])
	g.inodes = max(0, x.inodes-unused)
	if flags&groupNoInodes != 0 {
		g.inodes = 0
	}
	g.zeroed = flags&groupInodesZeroed != 0
	return g
}

// unwritten returns the extents, in ascending order, of inodes that were never used
// and whose content nobody looks at: the kernel writes them with zeros when it first
// mounts the file system.
func (x *ext) unwritten() ([]block.Extent, error) {
	var all []block.Extent
	err := x.eachGroup(func(_ int64, d group) error {
		used := (d.inodes*x.inodeSize + x.block - 1) / x.block
		if n := (x.inodes*x.inodeSize+x.block-1)/x.block - used; n > 0 && !d.zeroed {
			all = append(all, block.Extent{Off: (d.inodeTable + used) * x.block, Len: n * x.block})
		}
		return nil
	})
	return normal(all), err
}

// files finds the content of all plain files. Those that e2fsck or resize2fs look
// into, quotas, attributes and the list of orphans, are none.
func (x *ext) files() (*fileData, error) {
	c := &collector{sum: sha256.New()}
	special := map[uint32]bool{}
	for _, at := range []int{sbQuotaUser, sbQuotaGroup, sbQuotaProj, sbOrphans} {
		special[le.Uint32(x.sb[at:])] = true
	}
	err := x.eachGroup(func(g int64, d group) error {
		if d.inodes == 0 {
			return nil
		}
		bitmap, err := x.read(d.inodeBitmap, (x.inodes+7)/8)
		if err != nil {
			return err
		}
		table, err := x.read(d.inodeTable, d.inodes*x.inodeSize)
		if err != nil {
			return err
		}
		for i := range d.inodes {
			number := uint32(g*x.inodes + i + 1)
			if bitmap[i/8]&(1<<(i%8)) == 0 || number < x.firstInode || special[number] {
				continue
			}
			if err := x.file(c, number, table[i*x.inodeSize:][:x.inodeSize]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.flush()
	return c.data(x.block)
}

// file tells a collector the blocks of an inode, if it is a plain file.
func (x *ext) file(c *collector, number uint32, inode []byte) error {
	flags := le.Uint32(inode[inodeFlags:])
	if le.Uint16(inode)&inodeType != inodePlain || flags&(flagAttributes|flagInline) != 0 {
		return nil
	}
	c.begin(number)
	root := inode[inodeBlocks : inodeBlocks+60]
	if flags&flagExtents != 0 {
		return x.tree(c, root, 6)
	}
	for i := range 12 {
		c.add(int64(i), int64(le.Uint32(root[4*i:])), 1)
	}
	at, per := int64(12), x.block/4
	for depth, span := 1, per; depth <= 3; depth, span = depth+1, span*per {
		if err := x.indirect(c, int64(le.Uint32(root[4*(11+depth):])), at, span/per, depth); err != nil {
			return err
		}
		at += span
	}
	return nil
}

// tree tells the blocks below a node of a tree of extents.
func (x *ext) tree(c *collector, node []byte, deepest uint16) error {
	n, depth := int(le.Uint16(node[2:])), le.Uint16(node[6:])
	if le.Uint16(node) != 0xf30a || 12+12*n > len(node) || depth >= deepest {
		return errOdd
	}
	for e := node[12 : 12+12*n]; len(e) > 0; e = e[12:] {
		if depth > 0 {
			child, err := x.node(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
			if err == nil {
				err = x.tree(c, child, depth)
			}
			if err != nil {
				return err
			}
			continue
		}
		length := int64(le.Uint16(e[4:]))
		if length > 1<<15 { // allocated, never written
			length -= 1 << 15
		}
		c.add(int64(le.Uint32(e)), int64(le.Uint16(e[6:]))<<32|int64(le.Uint32(e[8:])), length)
	}
	return nil
}

// indirect tells the blocks that a block of numbers is for: the first of them is
// block at of the file, and each number stands for span blocks.
func (x *ext) indirect(c *collector, blk, at, span int64, depth int) error {
	if blk == 0 {
		return nil
	}
	b, err := x.node(blk)
	if err != nil {
		return err
	}
	for i := int64(0); i < x.block/4; i++ {
		n := int64(le.Uint32(b[4*i:]))
		if depth == 1 {
			c.add(at+i, n, 1)
		} else if err := x.indirect(c, n, at+i*span, span*4/x.block, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// node reads a block of a tree. A file system whose trees have more blocks than any
// sound one is odd.
func (x *ext) node(blk int64) ([]byte, error) {
	if x.budget--; x.budget < 0 {
		return nil, errOdd
	}
	return x.read(blk, x.block)
}

// A collector gathers where the blocks of files lie. What it makes of them does not
// depend on how the file system's own notes about them are cut.
type collector struct {
	sum                hash.Hash
	all                []block.Extent // in blocks
	number             uint32
	logical, disk, len int64
}

func (c *collector) begin(number uint32) {
	c.flush()
	c.number = number
}

// add tells that n blocks of the file, from logical on, lie at disk; 0: nowhere.
func (c *collector) add(logical, disk, n int64) {
	if disk == 0 || n == 0 {
		return
	}
	if logical != c.logical+c.len || disk != c.disk+c.len {
		c.flush()
		c.logical, c.disk = logical, disk
	}
	c.len += n
}

func (c *collector) flush() {
	if c.len == 0 {
		return
	}
	_ = binary.Write(c.sum, le, []int64{int64(c.number), c.logical, c.disk, c.len})
	c.all = append(c.all, block.Extent{Off: c.disk, Len: c.len})
	c.len = 0
}

// data returns all that was gathered. Blocks that two files share are odd.
func (c *collector) data(size int64) (*fileData, error) {
	var n int64
	for i := range c.all {
		n += c.all[i].Len
		c.all[i].Off *= size
		c.all[i].Len *= size
	}
	d := &fileData{extents: normal(c.all), sum: [sha256.Size]byte(c.sum.Sum(nil))}
	for _, e := range d.extents {
		n -= e.Len / size
	}
	if n != 0 {
		return nil, errOdd
	}
	return d, nil
}

// normal returns the same extents in ascending order, joined where they touch or
// overlap.
func normal(all []block.Extent) []block.Extent {
	slices.SortFunc(all, func(a, b block.Extent) int { return cmp.Compare(a.Off, b.Off) })
	var out []block.Extent
	for _, e := range all {
		if n := len(out); n > 0 && out[n-1].End() >= e.Off {
			out[n-1].Len = max(out[n-1].End(), e.End()) - out[n-1].Off
			continue
		}
		out = append(out, e)
	}
	return out
}

// without returns what of a is not in b. Both are in ascending order.
func without(a, b []block.Extent) []block.Extent {
	var out []block.Extent
	for _, e := range a {
		for len(b) > 0 && b[0].End() <= e.Off {
			b = b[1:]
		}
		for _, hole := range b {
			if hole.Off >= e.End() {
				break
			}
			if hole.Off > e.Off {
				out = append(out, block.Extent{Off: e.Off, Len: hole.Off - e.Off})
			}
			e = block.Extent{Off: hole.End(), Len: max(0, e.End()-hole.End())}
		}
		if e.Len > 0 {
			out = append(out, e)
		}
	}
	return out
}

// common returns what both have.
func common(a, b []block.Extent) []block.Extent { return without(a, without(a, b)) }

// within returns what of a lies in e.
func within(a []block.Extent, e block.Extent) []block.Extent {
	var out []block.Extent
	for _, x := range a {
		if in := x.Intersect(e); in.Len > 0 {
			out = append(out, in)
		}
	}
	return out
}
