// Package block is the vocabulary the rest of multidd is said in: an extent (a
// range of bytes of a disk), a map of used extents, a block (an offset and the
// bytes that belong there) and the digest that proves them. It does not know
// where bytes come from or where they go.
package block

import (
	"encoding/hex"
	"fmt"
)

// HeadSize is how much of a card, from byte 0, is withheld until the rest has
// been proved: the first MiB holds the partition table and the boot sector, so
// a card without it neither boots nor looks whole.
const HeadSize = 1 << 20

// An Extent is the range of bytes [Off, Off+Len) of a disk.
type Extent struct {
	Off, Len int64 // in bytes
}

// End returns the offset just past the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// Intersect returns the part of e that lies in f; its Len is 0 if there is none.
func (e Extent) Intersect(f Extent) Extent {
	off, end := max(e.Off, f.Off), min(e.End(), f.End())
	return Extent{off, max(0, end-off)}
}

func (e Extent) String() string { return fmt.Sprintf("bytes %d to %d", e.Off, e.End()-1) }

// A Map says which extents of a disk are used. Everything else is free.
type Map struct {
	Size int64    // of the disk, in bytes
	Used []Extent // in ascending order, not overlapping, none empty
}

// Whole returns the map of a disk of which every byte is used.
func Whole(size int64) Map {
	if size == 0 {
		return Map{}
	}
	return Map{size, []Extent{{0, size}}}
}

// Bytes returns how many bytes are used.
func (m Map) Bytes() int64 {
	var n int64
	for _, e := range m.Used {
		n += e.Len
	}
	return n
}

// End returns the offset just past the last used extent: the least size of a
// disk that can hold what is used.
func (m Map) End() int64 {
	if len(m.Used) == 0 {
		return 0
	}
	return m.Used[len(m.Used)-1].End()
}

// Check returns an error that names the first extent that breaks the promises
// made at Map.
func (m Map) Check() error {
	at := int64(0)
	for i, e := range m.Used {
		switch {
		case e.Off < 0 || e.Len <= 0 || e.Off > m.Size-e.Len:
			return fmt.Errorf("range %d (%v) is empty or outside the disk of %d bytes", i+1, e, m.Size)
		case e.Off < at:
			return fmt.Errorf("range %d (%v) begins before the end of the one before it", i+1, e)
		}
		at = e.End()
	}
	return nil
}

// A Block is some bytes and the place on the disk where they belong. The bytes
// are read-only once the block has been handed on: many lanes share them.
type Block struct {
	Off     int64 // in bytes
	Data    []byte
	release func()
}

// New returns a block. When nobody needs Data any more, release (which may be
// nil) is called, once.
func New(off int64, data []byte, release func()) Block { return Block{off, data, release} }

// Extent returns where the block belongs.
func (b Block) Extent() Extent { return Extent{b.Off, int64(len(b.Data))} }

// Release gives the bytes back to whoever made the block. The one that took the
// block calls it, once, and does not touch Data afterwards.
func (b Block) Release() {
	if b.release != nil {
		b.release()
	}
}

// A Digest is a fingerprint of 128 bits of a block's bytes. It guards against
// accidents, not against forgery.
type Digest [16]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }
