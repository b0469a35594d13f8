package volume

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// Btrfs on one device, after the kernel's include/uapi/linux/btrfs_tree.h and the
// on-disk format in btrfs.readthedocs.io. Addresses in it are logical: the chunk tree
// says where they lie. Every extent in use, of data and of metadata, has an item in the
// extent tree. What was committed last is whole, since nothing is ever written over;
// only a log of files that were synced later makes it not clean.

const (
	btrfsSuper  = 64 << 10 // where the superblock lies
	btrfsHeader = 101      // bytes before the items of a node
)

// btrfs reads the trees. Its methods return a damage if a tree is not as it must be.
type btrfs struct {
	r      io.ReaderAt
	size   int64 // of the device, in bytes
	node   int64 // size of a node
	sector int64
	sums   uint16 // kind of checksum
	fsid   []byte // that nodes carry
	device uint64 // number of the only one
	chunks []btrfsChunk
	marked int64 // all extents so far lie before this logical address
}

// A btrfsChunk is where a range of logical addresses lies.
type btrfsChunk struct {
	logical, length int64
	copies          []int64 // offsets of one, or of two with the same content
}

type btrfsKey struct {
	object uint64
	kind   byte
	offset uint64
}

func parseKey(b []byte) btrfsKey {
	le := binary.LittleEndian
	return btrfsKey{le.Uint64(b), b[8], le.Uint64(b[9:])}
}

func (k btrfsKey) compare(o btrfsKey) int {
	return cmp.Or(cmp.Compare(k.object, o.object), cmp.Compare(k.kind, o.kind), cmp.Compare(k.offset, o.offset))
}

// A btrfsLink leads to a node.
type btrfsLink struct {
	at         int64
	generation uint64
	level      byte
	first      *btrfsKey // of the node; nil: not known, it is a root
}

// openBtrfs opens a btrfs. It goes through its trees, which lie anywhere: while a disk
// passes by that cannot be done.
func openBtrfs(r io.ReaderAt, size int64) (fileSystem, error) {
	if size < btrfsSuper+4096 {
		return nil, errNotMine
	}
	s, err := bytesAt(r, btrfsSuper, 4096)
	if err != nil {
		return nil, err
	}
	if string(s[0x40:0x48]) != "_BHRfS_M" {
		return nil, errNotMine
	}
	le := binary.LittleEndian
	label, _, _ := bytes.Cut(s[0x12b:0x12b+256], []byte{0})
	fs := FileSystem{Kind: "btrfs", Size: size, UUID: formatUUID(s[0x20:0x30]), Label: string(label)}
	b, why := parseBtrfs(r, s, size)
	if why != "" {
		fs.doubt(Unknown, why)
		return whole(fs), nil
	}
	fs.Size, fs.BlockSize = b.size, int(b.sector)
	c := &clusters{fs: fs, unit: b.sector, n: b.size / b.sector}
	const failed = 4
	if le.Uint64(s[0x38:])&failed != 0 {
		c.fs.doubt(Dirty, "errors were met on it")
	}
	if le.Uint64(s[0x60:]) != 0 {
		c.fs.doubt(Dirty, "its log has to be replayed")
	}
	inUse := newBitset(c.n)
	err = b.read(s, inUse)
	var broken damage
	switch {
	case err == nil:
		c.inUse = inUse
	case errors.As(err, &broken):
		c.fs.doubt(Dirty, string(broken))
	case errors.Is(err, errGone):
		c.fs.doubt(Unknown, "it cannot be understood while it passes by")
	default:
		return nil, err
	}
	return c.finish(), nil
}

// parseBtrfs returns what a superblock says, or why that is not understood.
func parseBtrfs(r io.ReaderAt, s []byte, size int64) (b *btrfs, why string) {
	le := binary.LittleEndian
	const (
		understood = 0xfff | 0x10000 // features: all but zones and the newest trees
		forWriters = 0xf             // those that only a writer has to understand
		flags      = 0x7             // written, relocated, failed
		otherUUID  = 0x400
	)
	b = &btrfs{
		r: r, size: int64(le.Uint64(s[0xd1:])), node: int64(le.Uint32(s[0x94:])), sector: int64(le.Uint32(s[0x90:])),
		sums: le.Uint16(s[0xc4:]), fsid: s[0x20:0x30], device: le.Uint64(s[0xc9:]),
	}
	features := le.Uint64(s[0xbc:])
	if features&otherUUID != 0 {
		b.fsid = s[0x23b:0x24b]
	}
	power := func(n int64) bool { return n >= 4096 && n <= 64<<10 && n&(n-1) == 0 }
	switch {
	case b.sums != 0 && b.sums != 2:
		return nil, "its kind of checksum is not known"
	case !b.sumRight(s):
		return nil, "the checksum of its superblock is wrong"
	case features&^understood != 0 || le.Uint64(s[0xb4:])&^forWriters != 0 || le.Uint64(s[0x38:])&^flags != 0:
		return nil, "it uses features that are not known"
	case le.Uint64(s[0x88:]) != 1:
		return nil, "it spans more than one device"
	case b.size > size || b.size < 0:
		return nil, "it is longer than where it lies"
	case !power(b.node) || !power(b.sector) || b.node < b.sector || b.size < 1<<20 || le.Uint32(s[0xa0:]) > 2048:
		return nil, "its superblock contradicts itself"
	}
	return b, ""
}

// sumRight tells whether the superblock or a node has the checksum it says.
func (b *btrfs) sumRight(p []byte) bool {
	if b.sums == 2 {
		sum := sha256.Sum256(p[32:])
		return bytes.Equal(sum[:], p[:32])
	}
	return crc32.Checksum(p[32:], crc32.MakeTable(crc32.Castagnoli)) == binary.LittleEndian.Uint32(p)
}

// read sets what is in use.
func (b *btrfs) read(s []byte, inUse bitset) error {
	le := binary.LittleEndian
	if err := b.firstChunks(s[0x32b:][:le.Uint32(s[0xa0:])]); err != nil {
		return err
	}
	var chunks []btrfsChunk
	err := b.walk(btrfsLink{at: int64(le.Uint64(s[0x58:])), generation: le.Uint64(s[0xa4:]), level: s[0xc7]}, func(k btrfsKey, item []byte) error {
		if k.kind != chunkItem {
			return nil
		}
		c, _, err := b.parseChunk(k, item)
		chunks = append(chunks, c)
		return err
	})
	if err != nil {
		return err
	}
	if err := b.setChunks(chunks); err != nil {
		return err
	}
	var extents *btrfsLink
	err = b.walk(btrfsLink{at: int64(le.Uint64(s[0x50:])), generation: le.Uint64(s[0x48:]), level: s[0xc6]}, func(k btrfsKey, item []byte) error {
		const extentTree, rootItem = 2, 132
		if k.object == extentTree && k.kind == rootItem && len(item) >= 239 {
			extents = &btrfsLink{at: int64(le.Uint64(item[176:])), generation: le.Uint64(item[160:]), level: item[238]}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if extents == nil {
		return damage("it has no extent tree")
	}
	inUse.setRange(0, (1<<20)/b.sector)               // boot loaders, and the superblock
	for _, at := range []int64{64 << 20, 256 << 30} { // its copies
		inUse.setRange(min(at, b.size)/b.sector, min(at+64<<10, b.size)/b.sector)
	}
	var total uint64
	if err := b.walk(*extents, func(k btrfsKey, _ []byte) error {
		const extent, treeNode = 168, 169
		switch k.kind {
		case treeNode:
			k.offset = uint64(b.node)
		case extent:
		default:
			return nil
		}
		total += k.offset
		return b.mark(int64(k.object), int64(k.offset), inUse)
	}); err != nil {
		return err
	}
	if total != le.Uint64(s[0x78:]) {
		return damage("its extents and its superblock contradict each other")
	}
	return nil
}

// mark sets an extent of logical addresses, wherever it lies.
func (b *btrfs) mark(logical, length int64, inUse bitset) error {
	c := b.chunk(logical)
	if c == nil || length <= 0 || length > c.logical+c.length-logical || logical%b.sector != 0 || length%b.sector != 0 || logical < b.marked {
		return damage(fmt.Sprintf("its extent of %d bytes at %d is in no chunk, or overlaps another", length, logical))
	}
	b.marked = logical + length
	for _, at := range c.copies {
		from := (at + logical - c.logical) / b.sector
		inUse.setRange(from, from+length/b.sector)
	}
	return nil
}

const (
	chunkItem  = 228
	chunkFixed = 48 // bytes of a chunk's item before its stripes
	stripeSize = 32
)

// firstChunks takes in the chunks that the superblock tells, where the chunk tree is.
func (b *btrfs) firstChunks(array []byte) error {
	var chunks []btrfsChunk
	for len(array) > 0 {
		if len(array) < 17+chunkFixed {
			return damage("its first chunks are not whole")
		}
		c, n, err := b.parseChunk(parseKey(array), array[17:])
		if err != nil {
			return err
		}
		chunks = append(chunks, c)
		array = array[17+n:]
	}
	return b.setChunks(chunks)
}

// setChunks makes addresses be looked up in these chunks. They may not overlap, nor be
// longer together than what they lie on.
func (b *btrfs) setChunks(chunks []btrfsChunk) error {
	slices.SortFunc(chunks, func(x, y btrfsChunk) int { return cmp.Compare(x.logical, y.logical) })
	at, room := int64(0), b.size
	for _, c := range chunks {
		if room -= c.length * int64(len(c.copies)); c.logical < at || room < 0 {
			return damage("its chunks overlap")
		}
		at = c.logical + c.length
	}
	b.chunks = chunks
	return nil
}

// parseChunk returns a chunk and the length of its item.
func (b *btrfs) parseChunk(k btrfsKey, item []byte) (c btrfsChunk, n int, err error) {
	const profiles, twice = 0x7f8, 0x20
	le := binary.LittleEndian
	if len(item) < chunkFixed {
		return c, 0, damage("a chunk is not whole")
	}
	stripes := int(le.Uint16(item[44:]))
	n = chunkFixed + stripes*stripeSize
	c = btrfsChunk{logical: int64(k.offset), length: int64(le.Uint64(item))}
	profile := le.Uint64(item[24:]) & profiles
	if profile != 0 && profile != twice || stripes != 1+int(profile/twice) || len(item) < n ||
		c.logical < 0 || c.length <= 0 || c.length > b.size || c.logical+c.length < 0 || c.logical%b.sector != 0 {
		return c, 0, damage(fmt.Sprintf("its chunk at %d is of a kind that one device does not have", c.logical))
	}
	for s := item[chunkFixed:n]; len(s) > 0; s = s[stripeSize:] {
		at := int64(le.Uint64(s[8:]))
		if le.Uint64(s) != b.device || at < 0 || at > b.size-c.length || at%b.sector != 0 {
			return c, 0, damage(fmt.Sprintf("its chunk at %d lies outside of it", c.logical))
		}
		c.copies = append(c.copies, at)
	}
	return c, n, nil
}

// chunk returns the chunk a logical address is in, nil if there is none.
func (b *btrfs) chunk(logical int64) *btrfsChunk {
	i, found := slices.BinarySearchFunc(b.chunks, logical, func(c btrfsChunk, at int64) int { return cmp.Compare(c.logical, at) })
	if !found {
		i--
	}
	if i < 0 || logical >= b.chunks[i].logical+b.chunks[i].length {
		return nil
	}
	return &b.chunks[i]
}

// readNode reads the node that a link leads to.
func (b *btrfs) readNode(l btrfsLink) ([]byte, error) {
	c := b.chunk(l.at)
	if c == nil || b.node > c.logical+c.length-l.at || l.level > 7 {
		return nil, damage(fmt.Sprintf("a tree leads to %d, where nothing is", l.at))
	}
	p, err := bytesAt(b.r, c.copies[0]+l.at-c.logical, b.node)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	size := int64(25) // of an item
	if l.level > 0 {
		size = 33
	}
	if n := int64(le.Uint32(p[0x60:])); !b.sumRight(p) || !bytes.Equal(p[0x20:0x30], b.fsid) || le.Uint64(p[0x30:]) != uint64(l.at) ||
		le.Uint64(p[0x50:]) != l.generation || p[0x64] != l.level || n > (b.node-btrfsHeader)/size || n == 0 && (l.first != nil || l.level > 0) {
		return nil, damage(fmt.Sprintf("its node at %d is not the one that belongs there", l.at))
	}
	return p, nil
}

// walk visits the items of a tree. Keys ascend and each node begins with the key it is
// found by, so that no node is visited twice.
func (b *btrfs) walk(l btrfsLink, visit func(btrfsKey, []byte) error) error {
	p, err := b.readNode(l)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	var last *btrfsKey
	for i := range int64(le.Uint32(p[0x60:])) {
		item := p[btrfsHeader+i*25:]
		if l.level > 0 {
			item = p[btrfsHeader+i*33:]
		}
		k := parseKey(item)
		if last == nil && l.first != nil && k != *l.first || last != nil && last.compare(k) >= 0 {
			return damage(fmt.Sprintf("the keys of its node at %d are not in order", l.at))
		}
		last = &k
		if l.level > 0 {
			err = b.walk(btrfsLink{int64(le.Uint64(item[17:])), le.Uint64(item[25:]), l.level - 1, &k}, visit)
		} else {
			off, size := int64(le.Uint32(item[17:])), int64(le.Uint32(item[21:]))
			if off+size > b.node-btrfsHeader {
				return damage(fmt.Sprintf("an item of its node at %d lies outside of it", l.at))
			}
			err = visit(k, p[btrfsHeader+off:][:size])
		}
		if err != nil {
			return err
		}
	}
	return nil
}
