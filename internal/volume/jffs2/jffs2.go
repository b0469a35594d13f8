// Package jffs2 reads the files of a JFFS2 file system, the one of raw flash, as a
// tree. It works on any io.ReaderAt of either byte order: nothing is mounted.
//
// A JFFS2 is a log: nodes lie one after another, each says one thing about one file
// (a name, a piece of content, an attribute), and the highest version counts. All of it
// is read once from end to end; content is unpacked when it is asked for.
//
// The format is described in David Woodhouse's "JFFS: The Journalling Flash File
// System" (https://sourceware.org/jffs2/jffs2-html/) and by the kernel's
// include/uapi/linux/jffs2.h; its way of packing with LZO in the kernel's
// Documentation/staging/lzo.rst. What is read may be hostile: everything is bounded
// before memory is taken for it.
package jffs2

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"time"

	"multidd/internal/tree"
)

// ErrNotJFFS2 is the error of something that is no JFFS2.
var ErrNotJFFS2 = errors.New("it is no JFFS2 file system")

// magic begins every node.
const magic = 0x1985

// orderOf returns the byte order of a file system by its first bytes; nil: it is none.
// Erased flash may come before the first node.
func orderOf(head []byte) binary.ByteOrder {
	for len(head) >= 12 {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if order.Uint16(head) == magic && checksum(head[:8]) == order.Uint32(head[8:]) {
				return order
			}
		}
		if !isFiller(head[:4]) {
			return nil
		}
		head = head[4:]
	}
	return nil
}

// Recognise tells whether a file or partition that begins so is a JFFS2.
func Recognise(head []byte) bool { return orderOf(head) != nil }

// Read reads a file system of size bytes as a tree. The files of the tree read from r
// when they are opened.
//
// A node whose end was never written is left out, as in the kernel: that is what a power
// cut leaves. Any other node that is damaged is an error that says where it is, and
// so is a file of which something is missing.
func Read(r io.ReaderAt, size int64) (*tree.Tree, error) {
	s := &scanner{r: r, size: size, inodes: map[uint32]*inode{}, names: map[uint32]map[string]entry{}, xattrs: map[uint32]xattr{}, refs: map[[2]uint32]uint32{}}
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("read JFFS2: %w", err)
	}
	t, err := s.tree()
	if err != nil {
		return nil, fmt.Errorf("read JFFS2: %w", err)
	}
	return t, nil
}

// rootInode is the number of the top directory's inode.
const rootInode = 1

// tree puts together what the nodes say.
func (s *scanner) tree() (*tree.Tree, error) {
	b := &builder{s: s, t: tree.New(), nodes: map[uint32]*tree.Node{}}
	var err error
	if b.attributes, err = s.attributes(); err != nil {
		return nil, err
	}
	if s.inodes[rootInode] != nil { // some makers write none
		if err := b.put(".", rootInode); err != nil {
			return nil, err
		}
	}
	return b.t, b.directory("", rootInode, 0)
}

// A builder makes a tree of nodes. A file with several names is one node of the tree.
type builder struct {
	s          *scanner
	t          *tree.Tree
	nodes      map[uint32]*tree.Node
	attributes map[uint32]map[string]string
}

// maxDepth is how deep directories may lie in one another.
const maxDepth = 256

// directory adds what is in a directory.
func (b *builder) directory(p string, number uint32, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("/%.60s…: directories lie more than %d deep", p, maxDepth)
	}
	names := b.s.names[number]
	for _, name := range slices.Sorted(maps.Keys(names)) {
		e := names[name]
		if e.inode == 0 {
			continue // deleted
		}
		sub := name
		if p != "" {
			sub = p + "/" + name
		}
		seen := b.nodes[e.inode]
		if e.inode == rootInode || seen != nil && seen.Mode.IsDir() {
			return fmt.Errorf("/%s is a directory that has another name, too", sub)
		}
		if err := b.put(sub, e.inode); err != nil {
			return err
		}
		if b.nodes[e.inode].Mode.IsDir() {
			if err := b.directory(sub, e.inode, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// put gives an inode a name in the tree.
func (b *builder) put(p string, number uint32) error {
	n := b.nodes[number]
	if n == nil {
		in := b.s.inodes[number]
		if in == nil {
			return fmt.Errorf("/%s: its inode %d is missing", p, number)
		}
		var err error
		if n, err = b.s.node(in); err != nil {
			return fmt.Errorf("/%s: %w", p, err)
		}
		n.Xattrs = b.attributes[number]
		b.nodes[number] = n
	}
	return b.t.Put(p, n)
}

// node makes a file of the tree of an inode.
func (s *scanner) node(in *inode) (*tree.Node, error) {
	mode := tree.ModeOf(in.mode)
	n := &tree.Node{Mode: mode, UID: int(in.uid), GID: int(in.gid), ModTime: time.Unix(int64(in.mtime), 0)}
	slices.SortFunc(in.pieces, func(a, b piece) int { return cmp.Compare(a.version, b.version) })
	switch t := mode.Type(); {
	case t == 0:
		parts, holes, err := resolve(in.pieces, int64(in.size))
		if err != nil {
			return nil, err
		}
		n.Size, n.Holes = int64(in.size), holes
		n.Content = func() (io.ReadCloser, error) {
			return io.NopCloser(&reader{s: s, parts: parts}), nil
		}
	case t == fs.ModeSymlink:
		target, err := s.only(in, 4095)
		if err != nil {
			return nil, fmt.Errorf("read the link: %w", err)
		}
		n.Target = string(target)
	case t&fs.ModeDevice != 0:
		id, err := s.only(in, 4)
		if err != nil {
			return nil, fmt.Errorf("read the device's number: %w", err)
		}
		switch len(id) {
		case 2:
			dev := uint32(s.order.Uint16(id))
			n.Major, n.Minor = dev>>8, dev&0xff
		case 4:
			dev := s.order.Uint32(id)
			n.Major, n.Minor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
		default:
			return nil, fmt.Errorf("its device number has %d bytes", len(id))
		}
	case t&fs.ModeIrregular != 0:
		return nil, fmt.Errorf("there is no kind of file with mode %o", in.mode)
	}
	return n, nil
}

// only returns the content of a file that is made of one piece, of at most limit bytes.
func (s *scanner) only(in *inode, limit uint32) ([]byte, error) {
	for _, p := range slices.Backward(in.pieces) {
		if p.to == 0 {
			continue // only attributes
		}
		if p.off != 0 || p.to > limit {
			return nil, fmt.Errorf("it is a piece of %d bytes at %d", p.to, p.off)
		}
		return s.unpack(p)
	}
	return nil, errors.New("there is none")
}
