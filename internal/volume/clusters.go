package volume

import (
	"encoding/binary"
	"io"
	"iter"
	"math/bits"
	"unicode/utf16"

	"multidd/internal/block"
)

// A bitset says which of a file system's units are in use: bit 0 of byte 0 is that
// of unit 0.
type bitset []byte

// newBitset returns a set for n units. It takes an eighth of n in bytes: the caller
// has made sure that the medium is at least 512 times n.
func newBitset(n int64) bitset { return make(bitset, (n+7)/8) }

func (b bitset) set(i int64) { b[i>>3] |= 1 << (i & 7) }

// setRange sets the units of [from, to).
func (b bitset) setRange(from, to int64) {
	for i := from; i < to; i++ {
		b.set(i)
	}
}

// next returns the first unit at or after i that is in use, or is not, or n.
func (b bitset) next(i, n int64, used bool) int64 {
	for i < n {
		word := b[i>>3]
		if !used {
			word = ^word
		}
		if word >>= i & 7; word != 0 {
			return min(n, i+int64(bits.TrailingZeros8(word)))
		}
		i = (i | 7) + 1
	}
	return n
}

// runs gives the runs [from, to) of units in use among the first n, in order.
func (b bitset) runs(n int64) iter.Seq2[int64, int64] {
	return func(yield func(from, to int64) bool) {
		for i := b.next(0, n, true); i < n; {
			end := b.next(i, n, false)
			if !yield(i, end) {
				return
			}
			i = b.next(end, n, true)
		}
	}
}

// clusters is a file system that keeps count of its space in units of one size, and
// has been asked for all of them when it was opened: what lies before its first unit
// and behind its last one is in use.
type clusters struct {
	fs    FileSystem
	first int64  // offset of the first unit, in bytes
	unit  int64  // bytes
	n     int64  // units
	inUse bitset // of n
}

// info is complete as soon as the file system has been opened.
func (c *clusters) info() FileSystem { return c.fs }

// used needs to read nothing.
func (c *clusters) used(yield func(block.Extent) bool) error {
	if c.fs.State != Clean {
		yield(block.Extent{Len: c.fs.Size})
		return nil
	}
	for e := range c.extents() {
		if !yield(e) {
			break
		}
	}
	return nil
}

func (c *clusters) extents() iter.Seq[block.Extent] {
	return func(yield func(block.Extent) bool) {
		pending := block.Extent{Len: c.first}
		for from, to := range c.inUse.runs(c.n) {
			e := block.Extent{Off: c.first + from*c.unit, Len: (to - from) * c.unit}
			if e.Off == pending.End() {
				pending.Len += e.Len
				continue
			}
			if !yield(pending) {
				return
			}
			pending = e
		}
		if end := c.first + c.n*c.unit; end < c.fs.Size {
			if pending.End() < end {
				if !yield(pending) {
					return
				}
				pending.Off = end
			}
			pending.Len = c.fs.Size - pending.Off
		}
		yield(pending)
	}
}

// finish counts what is in use, when all is known that will be.
func (c *clusters) finish() *clusters {
	c.fs.Used = c.fs.Size
	if c.inUse != nil {
		c.fs.Used = 0
		for e := range c.extents() {
			c.fs.Used += e.Len
		}
	}
	return c
}

// doubt says why a file system counts as used whole. The first reason stays, but
// what is not understood goes before what is not clean.
func (fs *FileSystem) doubt(s State, why string) {
	if fs.State == Clean || s == Unknown && fs.State == Dirty {
		fs.State, fs.Why = s, why
	}
}

// whole is a file system that is known by name, of which nothing counts as free.
func whole(fs FileSystem) *clusters { return (&clusters{fs: fs}).finish() }

// bytesAt reads n bytes, which the caller bounds.
func bytesAt(r io.ReaderAt, off, n int64) ([]byte, error) {
	b := make([]byte, n)
	return b, readAt(r, b, off)
}

// utf16Text returns the text in a field of little-endian UTF-16, to its end or to the
// first NUL.
func utf16Text(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
