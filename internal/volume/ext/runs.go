package ext

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// A run is n blocks of a file from its block from on, which lie together at block at.
type run struct{ from, at, n int64 }

// Limits against lists of blocks that lead in circles.
const (
	maxRuns  = 1 << 22 // runs of a file
	maxLists = 1 << 22 // blocks with lists read of one file system: those of 4 TiB, three times over
)

var errRuns = errors.New("its list of blocks is damaged")

// runs returns where a file's content lies, in ascending order. What is in none of them
// is a hole, or was allocated and never written.
func (f *FileSystem) runs(n inode) ([]run, error) {
	switch {
	case n.flags()&flagInline != 0:
		return nil, nil
	case n.flags()&flagExtents != 0:
		w := extentWalk{f: f}
		err := w.node(n.b[0x28:0x64], -1)
		return w.list, err
	}
	w := indirectWalk{f: f, last: (n.size() + f.bs - 1) / f.bs}
	for i := range 12 {
		if err := w.add(int64(le.Uint32(n.b[0x28+4*i:])), 0); err != nil {
			return nil, err
		}
	}
	for level := 1; level <= 3; level++ {
		if err := w.add(int64(le.Uint32(n.b[0x28+4*(11+level):])), level); err != nil {
			return nil, err
		}
	}
	return w.list, nil
}

// An extentWalk goes through an extent tree.
type extentWalk struct {
	f    *FileSystem
	list []run
	next int64 // the first block of the file that the next extent may begin with
}

// node reads one node of the tree. depth is what it must be; -1: that of the root.
func (w *extentWalk) node(b []byte, depth int) error {
	count, has := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != 0xf30a || 12+12*count > len(b) || has > 5 || depth >= 0 && has != depth {
		return errRuns
	}
	for i := range count {
		e := b[12+12*i:]
		from := int64(le.Uint32(e))
		if from < w.next || len(w.list) >= maxRuns {
			return errRuns
		}
		if has == 0 {
			n := int64(le.Uint16(e[4:]))
			at := int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32
			unwritten := n > 32768
			if unwritten {
				n -= 32768
			}
			if n == 0 || at < w.f.first || at > w.f.blocks-n {
				return errRuns
			}
			w.next = from + n
			if !unwritten {
				w.list = append(w.list, run{from, at, n})
			}
			continue
		}
		child, err := w.f.listBlock(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return err
		}
		if err := w.node(child, has-1); err != nil {
			return err
		}
	}
	return nil
}

// An indirectWalk goes through the lists of blocks of ext2 and ext3.
type indirectWalk struct {
	f    *FileSystem
	list []run
	next int64 // block of the file
	last int64 // blocks in the file
}

func (w *indirectWalk) add(at int64, level int) error {
	per := w.f.bs / 4
	span := int64(1)
	for range level {
		span *= per
	}
	switch {
	case w.next >= w.last:
		return nil
	case at == 0:
		w.next += span
		return nil
	case at < w.f.first || at >= w.f.blocks:
		return errRuns
	case level == 0:
		if k := len(w.list) - 1; k >= 0 && w.list[k].from+w.list[k].n == w.next && w.list[k].at+w.list[k].n == at {
			w.list[k].n++
		} else if len(w.list) >= maxRuns {
			return errRuns
		} else {
			w.list = append(w.list, run{w.next, at, 1})
		}
		w.next++
		return nil
	}
	b, err := w.f.listBlock(at)
	if err != nil {
		return err
	}
	for i := range per {
		if err := w.add(int64(le.Uint32(b[4*i:])), level-1); err != nil {
			return err
		}
	}
	return nil
}

// listBlock reads a block that says where others are.
func (f *FileSystem) listBlock(at int64) ([]byte, error) {
	if f.lists.Add(1) > min(maxLists, 64*f.blocks) {
		return nil, errRuns
	}
	return f.block(at)
}

// open opens the content of an inode.
func (f *FileSystem) open(n inode) (io.ReadCloser, error) {
	if n.flags()&flagInline != 0 {
		b, err := n.inline()
		if err != nil || n.size() > max(int64(len(b)), f.bs) {
			return nil, errors.Join(err, errRuns)
		}
		if short := n.size() - int64(len(b)); short > 0 { // zeros at its end may be left out
			b = append(b, make([]byte, short)...)
		}
		return io.NopCloser(bytes.NewReader(b[:n.size()])), nil
	}
	list, err := f.runs(n)
	if err != nil {
		return nil, err
	}
	return &content{f: f, list: list, left: n.size()}, nil
}

// A content reads a file from its first byte to its last.
type content struct {
	f         *FileSystem
	list      []run
	pos, left int64 // bytes
}

func (*content) Close() error { return nil }

func (c *content) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), c.left)]
	for len(c.list) > 0 && (c.list[0].from+c.list[0].n)*c.f.bs <= c.pos {
		c.list = c.list[1:]
	}
	var n int
	var err error
	switch {
	case len(c.list) == 0:
		clear(p)
		n = len(p)
	case c.list[0].from*c.f.bs > c.pos:
		n = int(min(int64(len(p)), c.list[0].from*c.f.bs-c.pos))
		clear(p[:n])
	default:
		r := c.list[0]
		in := c.pos - r.from*c.f.bs
		n, err = c.f.r.ReadAt(p[:min(int64(len(p)), r.n*c.f.bs-in)], r.at*c.f.bs+in)
		if n > 0 {
			err = nil
		}
		if err != nil {
			err = fmt.Errorf("read at byte %d: %w", r.at*c.f.bs+in, noEOF(err))
		}
	}
	c.pos += int64(n)
	c.left -= int64(n)
	return n, err
}
