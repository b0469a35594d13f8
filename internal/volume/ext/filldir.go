package ext

import (
	"fmt"
	"io/fs"

	"multidd/internal/tree"
)

// directory writes the blocks of a directory.
func (w *filler) directory(n *tree.Node, seed uint32) (layout, error) {
	d := &dirBlocks{w: w, seed: seed}
	d.add(".", w.numbers[n], fs.ModeDir)
	d.add("..", w.numbers[w.parents[n]], fs.ModeDir)
	if w.numbers[n] == rootIno {
		d.add("lost+found", lostFoundIno, fs.ModeDir)
	}
	for _, c := range w.children[n] {
		d.add(c.name, w.numbers[c.n], c.n.Mode.Type())
	}
	d.end()
	l := layout{size: int64(len(d.b))}
	return l, w.write(&l, d.b, 0)
}

// dirBlocks are the blocks of a directory as they grow.
type dirBlocks struct {
	w    *filler
	seed uint32
	b    []byte // whole blocks
	at   int    // where the next entry goes, in the last block
	last int    // where the last entry begins
}

// room returns where the entries of a block end.
func (d *dirBlocks) room() int {
	if d.w.metadataSums() {
		return int(d.w.bs) - tailLen
	}
	return int(d.w.bs)
}

func (d *dirBlocks) block() []byte { return d.b[len(d.b)-int(d.w.bs):] }

func (d *dirBlocks) add(name string, ino int64, kind fs.FileMode) {
	need := (8 + len(name) + 3) &^ 3
	if len(d.b) == 0 || d.at+need > d.room() {
		d.end()
		d.b = append(d.b, make([]byte, d.w.bs)...)
		d.at = 0
	}
	e := d.block()[d.at:]
	le.PutUint32(e, uint32(ino))
	putLen(e, need)
	e[6] = uint8(len(name))
	if d.w.incompat&incompatFiletype != 0 {
		e[7] = fileType(kind)
	}
	copy(e[8:], name)
	d.last, d.at = d.at, d.at+need
}

// end lets the last entry of a block fill it.
func (d *dirBlocks) end() {
	if len(d.b) == 0 {
		return
	}
	b := d.block()
	putLen(b[d.last:], d.room()-d.last)
	d.w.sumDir(d.seed, b)
}

// putLen sets the length of an entry, of which 64 KiB do not fit.
func putLen(e []byte, n int) {
	le.PutUint16(e[4:], uint16(min(n, 0xffff)))
}

// fileType returns what an entry says of its file's kind.
func fileType(kind fs.FileMode) uint8 {
	switch {
	case kind == 0:
		return 1
	case kind == fs.ModeDir:
		return 2
	case kind&fs.ModeCharDevice != 0:
		return 3
	case kind&fs.ModeDevice != 0:
		return 4
	case kind == fs.ModeNamedPipe:
		return 5
	case kind == fs.ModeSocket:
		return 6
	case kind == fs.ModeSymlink:
		return 7
	}
	return 0
}

// blockList writes down where a file lies: in its inode and, if it does not fit there,
// in further blocks.
func (w *filler) blockList(b []byte, l *layout, seed uint32) error {
	if w.incompat&incompatExtents == 0 {
		return w.indirect(b, l)
	}
	flags := le.Uint32(b[0x20:])
	le.PutUint32(b[0x20:], flags|flagExtents)
	var entries [][]byte // of 12 bytes
	for _, r := range l.runs {
		for r.n > 0 {
			n := min(r.n, 32768)
			e := le.AppendUint32(nil, uint32(r.from))
			e = le.AppendUint16(e, uint16(n))
			e = le.AppendUint16(e, uint16(r.at>>32))
			entries = append(entries, le.AppendUint32(e, uint32(r.at)))
			r = run{r.from + n, r.at + n, r.n - n}
		}
	}
	depth := 0
	per := int(w.bs-12) / 12
	for ; len(entries) > 4; depth++ {
		var up [][]byte
		for len(entries) > 0 {
			n := min(per, len(entries))
			node := make([]byte, w.bs)
			extentNode(node, entries[:n], per, depth)
			w.sumExtents(seed, node)
			at, err := w.one(node)
			if err != nil {
				return err
			}
			l.held++
			e := append([]byte(nil), entries[0][:4]...)
			e = le.AppendUint32(e, uint32(at))
			up = append(up, append(le.AppendUint16(e, uint16(at>>32)), 0, 0))
			entries = entries[n:]
		}
		entries = up
	}
	extentNode(b[0x28:0x64], entries, 4, depth)
	return nil
}

// extentNode writes a node of an extent tree.
func extentNode(b []byte, entries [][]byte, most, depth int) {
	le.PutUint16(b, 0xf30a)
	le.PutUint16(b[2:], uint16(len(entries)))
	le.PutUint16(b[4:], uint16(most))
	le.PutUint16(b[6:], uint16(depth))
	for i, e := range entries {
		copy(b[12+12*i:], e)
	}
}

// indirect writes the lists of blocks of ext2 and ext3.
func (w *filler) indirect(b []byte, l *layout) error {
	next := runCursor{list: l.runs}
	for i := range 12 {
		le.PutUint32(b[0x28+4*i:], uint32(next.block()))
	}
	for level := 1; level <= 3 && len(next.list) > 0; level++ {
		at, err := w.indirectBlock(&next, l, level)
		if err != nil {
			return err
		}
		le.PutUint32(b[0x28+4*(11+level):], uint32(at))
	}
	if len(next.list) > 0 {
		return fmt.Errorf("it is too long for this file system")
	}
	return nil
}

// indirectBlock writes a list of blocks, or a list of such lists; 0: there is nothing
// in it.
func (w *filler) indirectBlock(next *runCursor, l *layout, level int) (int64, error) {
	per := w.bs / 4
	span := int64(1)
	for range level {
		span *= per
	}
	if len(next.list) == 0 || next.list[0].from >= next.pos+span {
		next.pos += span
		return 0, nil
	}
	b := make([]byte, w.bs)
	for i := range per {
		var at int64
		var err error
		if level == 1 {
			at = next.block()
		} else if at, err = w.indirectBlock(next, l, level-1); err != nil {
			return 0, err
		}
		le.PutUint32(b[4*i:], uint32(at))
	}
	l.held++
	return w.one(b)
}

// A runCursor gives the blocks of a file one by one.
type runCursor struct {
	list []run
	pos  int64
}

// block returns where the next block lies; 0: it is a hole.
func (c *runCursor) block() int64 {
	defer func() { c.pos++ }()
	if len(c.list) == 0 || c.pos < c.list[0].from {
		return 0
	}
	r := c.list[0]
	if c.pos == r.from+r.n-1 {
		c.list = c.list[1:]
	}
	return r.at + c.pos - r.from
}

// putXattrs keeps attributes in the inode if they all fit there, else in a block, else in
// both.
func (w *filler) putXattrs(b []byte, n *tree.Node, l *layout) error {
	list, err := packXattrs(n.Xattrs)
	if len(list) == 0 || err != nil {
		return err
	}
	w.compatToo |= 0x8
	inside, outside := []xattr{}, list
	from, room := 0, 0 // of the attributes inside
	if len(b) > 128 {
		from = 128 + int(le.Uint16(b[0x80:]))
		room = len(b) - from - 8 // without the mark and the end
	}
	if fit(list) <= room {
		inside, outside = list, nil
	} else if fit(list) > int(w.bs)-36 {
		inside, outside = nil, nil
		for _, x := range list {
			if x.room() <= room {
				room -= x.room()
				inside = append(inside, x)
			} else {
				outside = append(outside, x)
			}
		}
	}
	if len(inside) > 0 {
		le.PutUint32(b[from:], xattrMagic)
		putXattrs(b, from+4, from+4, inside)
	}
	if len(outside) == 0 {
		return nil
	}
	if fit(outside) > int(w.bs)-36 {
		return fmt.Errorf("its extended attributes take %d bytes, and a block has %d", fit(outside), w.bs)
	}
	block := make([]byte, w.bs)
	le.PutUint32(block, xattrMagic)
	le.PutUint32(block[4:], 1) // used once
	le.PutUint32(block[8:], 1) // block
	le.PutUint32(block[12:], blockHash(outside))
	putXattrs(block, 0, 32, outside)
	at, _, err := w.allocate(1)
	if err != nil {
		return err
	}
	w.sumXattrs(at, block)
	le.PutUint32(b[0x68:], uint32(at))
	le.PutUint16(b[0x76:], uint16(at>>32))
	l.held++
	_, err = w.d.WriteAt(block, at*w.bs)
	return err
}

func fit(list []xattr) (n int) {
	for _, x := range list {
		n += x.room()
	}
	return n
}

// finish writes the bitmaps, the descriptors and the superblock.
func (w *filler) finish() error {
	oldBlocks, oldInodes, err := w.loadBitmaps()
	if err != nil {
		return err
	}
	for g := range w.groups {
		if err := w.finishGroup(g, oldBlocks, oldInodes); err != nil {
			return err
		}
	}
	s := w.super
	le.PutUint32(s[0x5c:], w.compat|w.compatToo)
	le.PutUint32(s[0x64:], w.ro|w.roToo)
	var blocks, inodes int64
	for i := range w.groups {
		blocks, inodes = blocks+w.groups[i].freeBlocks, inodes+w.groups[i].freeInodes
	}
	le.PutUint32(s[0xc:], uint32(blocks))
	if w.incompat&incompat64Bit != 0 {
		le.PutUint32(s[0x158:], uint32(blocks>>32))
	}
	le.PutUint32(s[0x10:], uint32(inodes))
	w.sumSuper()
	_, err = w.d.WriteAt(s, superOff)
	return err
}

func (w *filler) finishGroup(g int, oldBlocks, oldInodes *bitmap) error {
	x := &w.groups[g]
	blocks, inodes := w.blockMap.group(int64(g), w.bs), w.inodeMap.group(int64(g), w.bs)
	if d := difference(oldBlocks.group(int64(g), w.bs), blocks); d.any {
		x.freeBlocks -= d.more
		x.flags &^= blockUninit
		if _, err := w.d.WriteAt(blocks, x.blockBitmap*w.bs); err != nil {
			return err
		}
		w.sumBitmap(x.desc, 0x18, 0x38, blocks[:w.perGroup/8])
	}
	if d := difference(oldInodes.group(int64(g), w.bs), inodes); d.any {
		x.freeInodes -= d.more
		x.flags &^= inodeUninit
		if w.groupSums() {
			x.unusedIn = min(x.unusedIn, w.inodesPerGroup-1-d.last)
		}
		if _, err := w.d.WriteAt(inodes, x.inodeBitmap*w.bs); err != nil {
			return err
		}
		w.sumBitmap(x.desc, 0x1a, 0x3a, inodes[:w.inodesPerGroup/8])
	}
	x.dirs += w.dirs[g]
	d := x.desc
	put := func(low, high int, v int64) {
		le.PutUint16(d[low:], uint16(v))
		if w.descSize >= 64 {
			le.PutUint16(d[high:], uint16(v>>16))
		}
	}
	put(0xc, 0x2c, x.freeBlocks)
	put(0xe, 0x2e, x.freeInodes)
	put(0x10, 0x30, x.dirs)
	if w.groupSums() {
		le.PutUint16(d[0x12:], x.flags)
		put(0x1c, 0x32, x.unusedIn)
	}
	w.sumGroup(g, d)
	_, err := w.d.WriteAt(d, w.descAt(int64(g)))
	return err
}

// A delta is how two bitmaps differ.
type delta struct {
	any  bool
	more int64 // bits set in the second beyond those of the first
	last int64 // the last bit that is set in the second, of those that are new
}

func difference(old, now []byte) (d delta) {
	for i := range old {
		if old[i] == now[i] {
			continue
		}
		d.any = true
		for k := range 8 {
			was, is := old[i]>>k&1, now[i]>>k&1
			d.more += int64(is) - int64(was)
			if is > was {
				d.last = int64(8*i + k)
			}
		}
	}
	return d
}
