package ext

import (
	"errors"
	"fmt"
)

// A bitmap is one bit for each block or inode of the file system, group by group.
type bitmap struct {
	per  int64 // bits in a group
	bits []byte
	next int64 // nothing is free before this bit
}

func newBitmap(groups, per int64) *bitmap {
	return &bitmap{per: per, bits: make([]byte, groups*per/8)}
}

func (m *bitmap) isSet(i int64) bool { return m.bits[i/8]>>(i%8)&1 != 0 }
func (m *bitmap) set(i int64)        { m.bits[i/8] |= 1 << (i % 8) }
func (m *bitmap) len() int64         { return int64(len(m.bits)) * 8 }

// take takes the next bits that are free and stand together, at most n; 0: none is
// left.
func (m *bitmap) take(n int64) (first, got int64) {
	for m.next < m.len() && m.isSet(m.next) {
		if m.next%8 == 0 && m.bits[m.next/8] == 0xff {
			m.next += 8
		} else {
			m.next++
		}
	}
	first = m.next
	for got < n && m.next < m.len() && !m.isSet(m.next) {
		m.set(m.next)
		m.next++
		got++
	}
	return first, got
}

// group returns the bits of a group, padded with ones to a whole block.
func (m *bitmap) group(g, bs int64) []byte {
	b := append(make([]byte, 0, bs), m.bits[g*m.per/8:(g+1)*m.per/8]...)
	for int64(len(b)) < bs {
		b = append(b, 0xff)
	}
	return b
}

// ErrFull is the error of a file system that has not enough room.
var ErrFull = errors.New("the file system is full")

// loadBitmaps reads which blocks and inodes are in use. A group that was never used
// has no bitmaps yet; then they are worked out.
func (f *FileSystem) loadBitmaps() (blocks, inodes *bitmap, err error) {
	n := int64(len(f.groups))
	blocks, inodes = newBitmap(n, f.perGroup), newBitmap(n, f.inodesPerGroup)
	for g := range f.groups {
		x := &f.groups[g]
		if x.flags&blockUninit == 0 {
			b, err := f.block(x.blockBitmap)
			if err != nil {
				return nil, nil, fmt.Errorf("the bitmap of group %d: %w", g, err)
			}
			copy(blocks.bits[int64(g)*f.perGroup/8:], b[:f.perGroup/8])
		}
		if x.flags&inodeUninit == 0 {
			b, err := f.block(x.inodeBitmap)
			if err != nil {
				return nil, nil, fmt.Errorf("the inode bitmap of group %d: %w", g, err)
			}
			copy(inodes.bits[int64(g)*f.inodesPerGroup/8:], b[:f.inodesPerGroup/8])
		}
	}
	for g := range f.groups {
		f.markTables(blocks, int64(g))
	}
	for i := f.blocks - f.first; i < blocks.len(); i++ {
		blocks.set(i)
	}
	return blocks, inodes, nil
}

// markTables marks what a group's own tables take, wherever they are.
func (f *FileSystem) markTables(m *bitmap, g int64) {
	mark := func(block, n int64) {
		for i := block - f.first; i < block-f.first+n; i++ {
			if i >= 0 && i < m.len() {
				m.set(i)
			}
		}
	}
	x := &f.groups[g]
	mark(x.blockBitmap, 1)
	mark(x.inodeBitmap, 1)
	mark(x.table, f.tableBlocks())
	if !f.hasSuper(g) {
		return
	}
	perBlock := f.bs / f.descSize
	tables := (int64(len(f.groups)) + perBlock - 1) / perBlock
	if f.incompat&incompatMetaBG != 0 {
		tables = min(tables, f.u32(0x104))
	}
	tables += int64(le.Uint16(f.super[0xce:])) // reserved for growing
	mark(f.first+g*f.perGroup, 1+tables)
}
