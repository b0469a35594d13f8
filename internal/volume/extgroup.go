package volume

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"multidd/internal/block"
)

// maxDescriptors bounds the memory for group descriptors, in bytes: 1 TiB of blocks
// of 1 KiB, 16 TiB of 4 KiB.
const maxDescriptors = 8 << 20

// blockUninit says that a group's bitmap was never written: nothing in it is in
// use but metadata.
const blockUninit = 0x2

// A group is what the descriptor of a group says.
type group struct {
	bitmap, inodeBitmap, inodeTable int64 // blocks
	free                            int64 // clusters
	uninit                          bool
	sum                             uint32 // of the bitmap
}

// hasSums tells whether descriptors have checksums; without them, flags are not
// to be taken for true.
func (e *ext) hasSums() bool { return e.ro&(roGroupSum|roMetaSum) != 0 }

// group returns what the descriptor of g says, which has been read.
func (e *ext) group(g int64) group {
	d := e.descs[g*e.descSize:][:e.descSize]
	gr := group{
		bitmap:      int64(le.Uint32(d)),
		inodeBitmap: int64(le.Uint32(d[4:])),
		inodeTable:  int64(le.Uint32(d[8:])),
		free:        int64(le.Uint16(d[0xC:])),
		uninit:      e.hasSums() && le.Uint16(d[0x12:])&blockUninit != 0,
		sum:         uint32(le.Uint16(d[0x18:])),
	}
	if e.descSize >= 64 {
		gr.bitmap |= int64(le.Uint32(d[0x20:])) << 32
		gr.inodeBitmap |= int64(le.Uint32(d[0x24:])) << 32
		gr.inodeTable |= int64(le.Uint32(d[0x28:])) << 32
		gr.free |= int64(le.Uint16(d[0x2C:])) << 16
		gr.sum |= uint32(le.Uint16(d[0x38:])) << 16
	}
	return gr
}

// sound tells whether the checksum of the descriptor d of g is right.
func (e *ext) sound(g int64, d []byte) bool {
	number := le.AppendUint32(nil, uint32(g))
	switch {
	case e.ro&roMetaSum != 0:
		sum := crc32c(crc32c(crc32c(e.seed, number), d[:0x1E]), []byte{0, 0})
		return uint16(crc32c(sum, d[0x20:])) == le.Uint16(d[0x1E:])
	case e.ro&roGroupSum != 0:
		sum := crc16(crc16(crc16(0xFFFF, e.uuid), number), d[:0x1E])
		return crc16(sum, d[0x20:]) == le.Uint16(d[0x1E:])
	}
	return true
}

// hasSuper tells whether g begins with a copy of the superblock.
func (e *ext) hasSuper(g int64) bool {
	switch {
	case g == 0:
		return true
	case e.compat&compatSparse2 != 0:
		return g == e.backups[0] || g == e.backups[1]
	case g == 1 || e.ro&roSparse == 0:
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := g
		for n%base == 0 {
			n /= base
		}
		if n == 1 {
			return true
		}
	}
	return false
}

// start returns the first block of a group.
func (e *ext) start(g int64) int64 { return e.first + g*e.perGroup }

// boot returns 1 if the superblock lies in the second block of the first group,
// behind a boot block.
func (e *ext) boot() int64 {
	if e.block == 1024 {
		return 1 - e.first
	}
	return 0
}

// together returns of how many groups the descriptors lie together behind the
// superblock. Those of the others, with meta_bg, lie a block at a time in the first
// of the groups that they describe.
func (e *ext) together() int64 {
	if e.incompat&incompatMetaBG == 0 {
		return e.groups
	}
	return min(e.groups, e.firstMeta*e.perBlock)
}

// head returns how many blocks at the start of g hold copies of the superblock
// and of descriptors.
func (e *ext) head(g int64) int64 {
	n := int64(0)
	if e.hasSuper(g) {
		n++
	}
	if g == 0 {
		n += e.boot()
	}
	if g < e.together() {
		if e.hasSuper(g) {
			n += (e.together()+e.perBlock-1)/e.perBlock + e.reserved
		}
	} else if at := g % e.perBlock; at == 0 || at == 1 || at == e.perBlock-1 {
		n++
	}
	return n
}

// readDescriptors reads and checks the descriptors from g on that lie together, and
// notes where the metadata of their groups is.
func (e *ext) readDescriptors(g int64) error {
	n, at := e.together(), e.first+e.boot()+1
	if g >= n {
		n, at = min(e.perBlock, e.groups-g), e.start(g)
		if e.hasSuper(g) {
			at++
		}
		if g == 0 {
			at += e.boot()
		}
	}
	if at+(n*e.descSize+e.block-1)/e.block > e.blocks {
		return damage("its descriptors go beyond its end")
	}
	b := make([]byte, n*e.descSize)
	if err := readAt(e.r, b, at*e.block); err != nil {
		return err
	}
	e.descs = append(e.descs, b...)
	for i := range n {
		if !e.sound(g+i, b[i*e.descSize:][:e.descSize]) {
			return damage(fmt.Sprintf("the descriptor of its group %d has a wrong checksum", g+i))
		}
	}
	return e.noteMeta(g, n)
}

// noteMeta notes where the metadata of n groups from g on is.
func (e *ext) noteMeta(g, n int64) error {
	table := (e.inodes*e.inodeSize + e.block - 1) / e.block
	for i := g; i < g+n; i++ {
		gr := e.group(i)
		e.told += gr.free * e.ratio
		for _, r := range []run{{e.start(i), e.head(i)}, {gr.bitmap, 1}, {gr.inodeBitmap, 1}, {gr.inodeTable, table}} {
			if r.at < e.first || r.at > e.blocks-r.n {
				return damage(fmt.Sprintf("the metadata of its group %d is outside of it", i))
			}
			// What was walked by already had it in its bitmap, or had none.
			if home := (r.at - e.first) / e.perGroup; home < g && r.n > 0 && e.group(home).uninit {
				return damage(fmt.Sprintf("the metadata of its group %d lies in one without a bitmap", i))
			}
			if r.n > 0 {
				e.meta = append(e.meta, r)
			}
		}
	}
	slices.SortFunc(e.meta, func(a, b run) int { return cmp.Compare(a.at, b.at) })
	merged := e.meta[:1]
	for _, r := range e.meta[1:] {
		last := &merged[len(merged)-1]
		switch {
		case r.at < last.end():
			return damage(fmt.Sprintf("its block %d is metadata twice", r.at))
		case r.at == last.end():
			last.n += r.n
		default:
			merged = append(merged, r)
		}
	}
	e.meta = merged
	return nil
}

// checkFree compares the free blocks of the superblock with those of all groups.
// The kernel brings the superblock up to date when it unmounts.
func (e *ext) checkFree() error {
	if e.told != e.free {
		return damage(fmt.Sprintf("its superblock counts %d free blocks and its groups %d", e.free, e.told))
	}
	return nil
}

// used reads the bitmaps in the order of the groups. With flex_bg that is the
// order in which they lie on the disk, too, at the front of every 16 groups or so.
func (e *ext) used(yield func(block.Extent) bool) error {
	if e.incompat&incompatJournal != 0 {
		yield(block.Extent{Len: e.fs.Size})
		return nil
	}
	if !yield(block.Extent{Len: e.first * e.block}) {
		return nil
	}
	for g := range e.groups {
		if int64(len(e.descs)) == g*e.descSize {
			if err := e.readDescriptors(g); err != nil {
				return err
			}
		}
		bitmap, err := e.bitmap(g)
		if err != nil {
			return err
		}
		if !e.yieldGroup(g, bitmap, yield) {
			return nil
		}
	}
	return e.checkFree()
}

// bitmap returns the bitmap of a group, read and checked or, if it was never
// written, made. A set bit is a cluster in use. It is valid until the next call.
func (e *ext) bitmap(g int64) ([]byte, error) {
	gr := e.group(g)
	n := min(e.perGroup, e.blocks-e.start(g))
	clusters := (n + e.ratio - 1) / e.ratio
	if e.buf == nil {
		e.buf = make([]byte, e.perGroup/e.ratio/8)
	}
	b := e.buf
	if clear(b); !gr.uninit {
		if err := readAt(e.r, b, gr.bitmap*e.block); err != nil {
			return nil, err
		}
		sum := crc32c(e.seed, b)
		if e.descSize < 64 {
			sum &= 0xFFFF
		}
		if e.ro&roMetaSum != 0 && sum != gr.sum {
			return nil, damage(fmt.Sprintf("the bitmap of its group %d has a wrong checksum", g))
		}
	}
	if !e.markMeta(g, n, b, gr.uninit) {
		return nil, damage(fmt.Sprintf("the bitmap of its group %d calls metadata free", g))
	}
	if free := clusters - ones(b, clusters); free != gr.free {
		return nil, damage(fmt.Sprintf("the bitmap of its group %d has %d free, and its descriptor says %d", g, free, gr.free))
	}
	return b, nil
}

// markMeta goes through the metadata in the n blocks of g. It sets their bits or, in a
// bitmap that was read, finds them set.
func (e *ext) markMeta(g, n int64, bitmap []byte, set bool) bool {
	start := e.start(g)
	for len(e.meta) > 0 && e.meta[0].end() <= start {
		e.meta = e.meta[1:]
	}
	for _, r := range e.meta {
		if r.at >= start+n {
			break
		}
		from, to := max(r.at-start, 0)/e.ratio, (min(r.end()-start, n)+e.ratio-1)/e.ratio
		for c := from; c < to; c++ {
			if set {
				bitmap[c/8] |= 1 << (c % 8)
			} else if bitmap[c/8]&(1<<(c%8)) == 0 {
				return false
			}
		}
	}
	return true
}

// ones counts the bits that are set among the first n.
func ones(b []byte, n int64) int64 {
	count := 0
	for _, x := range b[:n/8] {
		count += bits.OnesCount8(x)
	}
	if rest := n % 8; rest > 0 {
		count += bits.OnesCount8(b[n/8] & (1<<rest - 1))
	}
	return int64(count)
}

// yieldGroup yields what a bitmap says is in use in g.
func (e *ext) yieldGroup(g int64, bitmap []byte, yield func(block.Extent) bool) bool {
	start := e.start(g)
	end := min(start+e.perGroup, e.blocks)
	clusters := (end - start + e.ratio - 1) / e.ratio
	for c := int64(0); c < clusters; {
		from := next(bitmap, c, clusters, true)
		c = next(bitmap, from, clusters, false)
		at, to := start+from*e.ratio, min(start+c*e.ratio, end)
		if from < c && !yield(block.Extent{Off: at * e.block, Len: (to - at) * e.block}) {
			return false
		}
	}
	return yield(block.Extent{Off: end * e.block})
}

// next returns the number of the next bit from i on that is set, or is not, or n
// if there is none among the first n.
func next(b []byte, i, n int64, set bool) int64 {
	skip := byte(0xFF)
	if set {
		skip = 0
	}
	for i < n {
		x := b[i/8]
		if i%8 == 0 && x == skip {
			i += 8
			continue
		}
		if (x>>(i%8)&1 != 0) == set {
			return i
		}
		i++
	}
	return n
}
