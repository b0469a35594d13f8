package ext

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"multidd/internal/tree"
)

// A Device is what a file system lies in, from byte 0 on.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

// Fill puts a tree into an empty file system, as mke2fs leaves it: everything that the
// tree holds, in the order of Walk, one file behind the other. All times of a file
// become that of its last change, so that the same tree gives the same bytes.
// Directories get no index; e2fsck -D makes one.
//
// If it fails what is in the file system is of no use. ErrFull: it is too small.
func Fill(d Device, t *tree.Tree) error {
	f, err := Open(d)
	if err != nil {
		return err
	}
	if err := f.fillable(); err != nil {
		return err
	}
	w := &filler{FileSystem: f, d: d, numbers: map[*tree.Node]int64{}, links: map[*tree.Node]int{}}
	if w.blockMap, w.inodeMap, err = f.loadBitmaps(); err != nil {
		return err
	}
	w.dirs = make([]int64, len(f.groups))
	w.buf = make([]byte, max(1<<20, f.bs))
	if err := w.plan(t); err != nil {
		return err
	}
	if err := t.Walk(w.put); err != nil {
		return err
	}
	return w.finish()
}

// fillable refuses what is not known to be an empty file system that can be written.
func (f *FileSystem) fillable() error {
	odd := []struct {
		name string
		bits uint32
	}{{"compat", f.compat &^ compatFillable}, {"incompat", f.incompat &^ incompatFillable}, {"ro_compat", f.ro &^ roFillable}}
	for _, o := range odd {
		if o.bits != 0 {
			return fmt.Errorf("it has features that are not filled here (%s %#x)", o.name, o.bits)
		}
	}
	if state := le.Uint16(f.super[0x3a:]); state != 1 {
		return fmt.Errorf("it is not clean (state %#x)", state)
	}
	if f.perGroup%8 != 0 || f.inodesPerGroup%8 != 0 {
		return errors.New("its groups are not made of whole bytes")
	}
	root, err := f.inode(rootIno)
	if err != nil {
		return err
	}
	entries, err := f.entries(root)
	if err != nil {
		return err
	}
	if len(entries) != 1 || entries[0] != (entry{"lost+found", lostFoundIno}) {
		return errors.New("it is not empty")
	}
	return nil
}

type filler struct {
	*FileSystem
	d                  Device
	blockMap, inodeMap *bitmap
	numbers            map[*tree.Node]int64 // inodes
	links              map[*tree.Node]int   // names of a file, or 2 and the directories inside of one
	done               map[*tree.Node]bool
	children           map[*tree.Node][]child
	parents            map[*tree.Node]*tree.Node
	dirs               []int64 // made in each group
	buf                []byte
	compatToo, roToo   uint32 // features that the tree needs
}

type child struct {
	name string
	n    *tree.Node
}

// plan gives every file its inode and counts its names.
func (w *filler) plan(t *tree.Tree) error {
	w.children, w.parents, w.done = map[*tree.Node][]child{}, map[*tree.Node]*tree.Node{}, map[*tree.Node]bool{}
	files := t.Totals()
	return t.Walk(func(p string, n *tree.Node) error {
		if p == "." {
			w.numbers[n], w.links[n], w.parents[n] = rootIno, 3, n // with lost+found
			return nil
		}
		if isLostFound(p, n) {
			return nil
		}
		if path.Dir(p) == "lost+found" {
			return errors.New("there is something in /lost+found of the tree; take it out")
		}
		dir := t.Lookup(path.Dir(p))
		w.children[dir] = append(w.children[dir], child{path.Base(p), n})
		if n.Mode.IsDir() {
			w.links[dir]++
			w.links[n]++
			w.parents[n] = dir
		}
		w.links[n]++
		if w.numbers[n] != 0 {
			return nil
		}
		i, got := w.inodeMap.take(1)
		if got == 0 {
			return fmt.Errorf("%w: the tree has %d names, and there are %d inodes; make it with more of them", ErrFull, files.Names, w.inodes)
		}
		w.numbers[n] = i + 1
		return nil
	})
}

func isLostFound(p string, n *tree.Node) bool { return p == "lost+found" && n.Mode.IsDir() }

// put writes one file: its content and its inode.
func (w *filler) put(p string, n *tree.Node) error {
	if w.done[n] || isLostFound(p, n) {
		return nil
	}
	w.done[n] = true
	if err := w.file(n); err != nil {
		return fmt.Errorf("put /%s into the file system: %w", p, err)
	}
	return nil
}

// A layout is where a file lies.
type layout struct {
	runs []run
	held int64 // blocks, with those that say where the others are
	size int64
}

func (w *filler) file(n *tree.Node) error {
	ino := w.numbers[n]
	b := make([]byte, w.inodeSize)
	generation := uint32(0)
	if ino == rootIno {
		old, err := w.inode(rootIno)
		if err != nil {
			return err
		}
		generation = old.generation()
		if err := w.release(old); err != nil {
			return err
		}
	}
	seed := w.inodeSeed(ino, generation)
	if err := w.attributes(b, n, generation); err != nil {
		return err
	}
	var l layout
	var err error
	switch n.Mode.Type() {
	case 0:
		l, err = w.content(n)
	case fs.ModeDir:
		l, err = w.directory(n, seed)
		w.dirs[(ino-1)/w.inodesPerGroup]++
	case fs.ModeSymlink:
		l, err = w.symlink(b, n)
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		if n.Major < 256 && n.Minor < 256 {
			le.PutUint32(b[0x28:], n.Major<<8|n.Minor)
		} else {
			le.PutUint32(b[0x2c:], n.Minor&0xff|n.Major<<8|n.Minor>>8<<20)
		}
	}
	if err == nil && (n.Mode.IsRegular() || n.Mode.IsDir() || len(l.runs) > 0) {
		err = w.blockList(b, &l, seed)
	}
	if err == nil {
		err = w.putXattrs(b, n, &l)
	}
	if err != nil {
		return err
	}
	w.setSize(b, l)
	w.sumInode(ino, b)
	_, err = w.d.WriteAt(b, w.inodeAt(ino))
	return err
}

// release gives back the blocks of the root directory that mke2fs made.
func (w *filler) release(old inode) error {
	list, err := w.runs(old)
	if err != nil {
		return err
	}
	for _, r := range list {
		for i := r.at - w.first; i < r.at-w.first+r.n; i++ {
			w.blockMap.bits[i/8] &^= 1 << (i % 8)
			w.blockMap.next = min(w.blockMap.next, i)
		}
	}
	w.dirs[0]-- // it is counted again
	return nil
}

// attributes fills in what an inode says of its file, but for size and blocks.
func (w *filler) attributes(b []byte, n *tree.Node, generation uint32) error {
	links := w.links[n]
	switch {
	case n.Mode.IsDir() && w.ro&roDirNlink != 0 && links >= 65000:
		links = 1 // more than can be counted
	case n.Mode.IsDir() && w.ro&roDirNlink == 0 && links > 32000, links > 65000:
		return fmt.Errorf("it has %d links, which is more than this file system counts", links)
	}
	le.PutUint16(b, uint16(n.UnixMode()))
	le.PutUint16(b[2:], uint16(n.UID))
	le.PutUint16(b[0x78:], uint16(n.UID>>16))
	le.PutUint16(b[0x18:], uint16(n.GID))
	le.PutUint16(b[0x7a:], uint16(n.GID>>16))
	le.PutUint16(b[0x1a:], uint16(links))
	le.PutUint32(b[0x64:], generation)
	const extra = 32
	if len(b) > 128 {
		le.PutUint16(b[0x80:], extra)
	}
	if err := checkTime(n.ModTime, len(b) > 128); err != nil {
		return err
	}
	sec, nsec := n.ModTime.Unix(), uint32(n.ModTime.Nanosecond())
	more := nsec<<2 | uint32((sec-int64(int32(sec)))>>32)&3
	for _, at := range []int{8, 0xc, 0x10} { // read, inode changed, content changed
		le.PutUint32(b[at:], uint32(sec))
	}
	if len(b) > 128 {
		for _, at := range []int{0x84, 0x88, 0x8c, 0x94} {
			le.PutUint32(b[at:], more)
		}
		le.PutUint32(b[0x90:], uint32(sec)) // made
	}
	return nil
}

// checkTime refuses a time that cannot be kept.
func checkTime(t time.Time, wide bool) error {
	last := int64(1)<<31 - 1
	if wide {
		last += 3 << 32
	}
	if s := t.Unix(); s < -1<<31 || s > last {
		return fmt.Errorf("its time %s cannot be kept", t.UTC().Format(time.RFC3339))
	}
	return nil
}

func (w *filler) setSize(b []byte, l layout) {
	le.PutUint32(b[4:], uint32(l.size))
	le.PutUint32(b[0x6c:], uint32(l.size>>32))
	sectors := l.held * w.bs / 512
	le.PutUint32(b[0x1c:], uint32(sectors))
	le.PutUint16(b[0x74:], uint16(sectors>>32))
	if l.size >= 1<<31 {
		w.roToo |= roLargeFile
	}
}

// content copies what is in a file.
func (w *filler) content(n *tree.Node) (layout, error) {
	l := layout{size: n.Size}
	if n.Size > w.maxFile() {
		return l, fmt.Errorf("it has %d bytes, and %d is the most this file system keeps in one file", n.Size, w.maxFile())
	}
	r, err := n.Open()
	if err != nil {
		return l, err
	}
	defer r.Close()
	for pos := int64(0); pos < n.Size; {
		k := int(min(int64(len(w.buf)), n.Size-pos))
		if _, err := io.ReadFull(r, w.buf[:k]); err != nil {
			return l, fmt.Errorf("read it at byte %d of %d: %w", pos, n.Size, noEOF(err))
		}
		padded := (int64(k) + w.bs - 1) / w.bs * w.bs
		clear(w.buf[k:padded])
		if err := w.pieces(&l, w.buf[:padded], pos/w.bs, n.Holes); err != nil {
			return l, err
		}
		pos += int64(k)
	}
	return l, nil
}

func (w *filler) maxFile() int64 {
	if w.incompat&incompatExtents != 0 {
		return w.bs * (1<<32 - 1)
	}
	per := w.bs / 4
	return min(w.bs*(12+per+per*per+per*per*per), 1<<32*512)
}

// pieces writes blocks of a file, of which the first is its block from. Where there may
// be holes blocks of zeros become some.
func (w *filler) pieces(l *layout, b []byte, from int64, holes bool) error {
	for len(b) > 0 {
		n := int64(len(b)) / w.bs
		if holes {
			n = w.dense(b)
		}
		if n == 0 {
			b, from = b[w.bs:], from+1
			continue
		}
		if err := w.write(l, b[:n*w.bs], from); err != nil {
			return err
		}
		b, from = b[n*w.bs:], from+n
	}
	return nil
}

// dense returns how many blocks at the beginning of b are not zero.
func (w *filler) dense(b []byte) int64 {
	n := int64(0)
	for ; int64(len(b)) >= w.bs; n++ {
		zero := true
		for _, x := range b[:w.bs] {
			if x != 0 {
				zero = false
				break
			}
		}
		if zero {
			return n
		}
		b = b[w.bs:]
	}
	return n
}

// write writes blocks of a file where there is room.
func (w *filler) write(l *layout, b []byte, from int64) error {
	for len(b) > 0 {
		at, n, err := w.allocate(int64(len(b)) / w.bs)
		if err != nil {
			return err
		}
		if _, err := w.d.WriteAt(b[:n*w.bs], at*w.bs); err != nil {
			return err
		}
		if k := len(l.runs) - 1; k >= 0 && l.runs[k].from+l.runs[k].n == from && l.runs[k].at+l.runs[k].n == at {
			l.runs[k].n += n
		} else {
			l.runs = append(l.runs, run{from, at, n})
		}
		l.held += n
		b, from = b[n*w.bs:], from+n
	}
	return nil
}

// allocate takes up to n blocks that lie together.
func (w *filler) allocate(n int64) (at, got int64, err error) {
	i, got := w.blockMap.take(n)
	if got == 0 {
		return 0, 0, fmt.Errorf("%w: all %d blocks of %d bytes are in use", ErrFull, w.blocks, w.bs)
	}
	return i + w.first, got, nil
}

// one writes a block anywhere.
func (w *filler) one(b []byte) (at int64, err error) {
	if at, _, err = w.allocate(1); err != nil {
		return 0, err
	}
	_, err = w.d.WriteAt(b, at*w.bs)
	return at, err
}

func (w *filler) symlink(b []byte, n *tree.Node) (layout, error) {
	l := layout{size: int64(len(n.Target))}
	switch {
	case l.size == 0 || l.size >= min(w.bs, 4096):
		return l, fmt.Errorf("it leads to a path of %d bytes, which cannot be kept", l.size)
	case l.size < 60:
		copy(b[0x28:], n.Target)
		return l, nil
	}
	block := make([]byte, w.bs)
	copy(block, n.Target)
	return l, w.write(&l, block, 0)
}
