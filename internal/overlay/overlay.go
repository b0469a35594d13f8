// Package overlay lays what is different on one card over the blocks that all
// cards share: the pieces of an edited disk, made once, that take the place of
// the image's own bytes while they pass.
package overlay

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"multidd/internal/block"
)

// maxSpare is how many buffers an Overlay keeps for the next block. A lane has
// two blocks on their way to its card and makes a third meanwhile.
const maxSpare = 3

// An Overlay is a set of pieces, each of which replaces the bytes at its place.
// Its methods may be called from any goroutine: cards that differ from the image
// in the same way share one.
type Overlay struct {
	pieces []block.Block // ascending, not overlapping

	mu     sync.Mutex
	spare  [][]byte // guarded by mu: buffers that no block has
	closed bool     // guarded by mu: no buffer is kept any more
}

// New returns the overlay of pieces in ascending order that do not overlap and
// are not empty. The overlay owns them from then on; Close releases them.
func New(pieces []block.Block) (*Overlay, error) {
	at := int64(0)
	for i, p := range pieces {
		switch e := p.Extent(); {
		case e.Off < 0 || e.Len == 0 || e.End() < e.Off:
			return nil, fmt.Errorf("piece %d of an overlay, %d bytes at %d, lies nowhere", i+1, e.Len, e.Off)
		case e.Off < at:
			return nil, fmt.Errorf("piece %d of an overlay (%v) begins before the end of the one before it", i+1, e)
		default:
			at = e.End()
		}
	}
	return &Overlay{pieces: pieces}, nil
}

// Extents returns what is replaced, in ascending order; pieces that touch are one
// extent.
func (o *Overlay) Extents() []block.Extent {
	var all []block.Extent
	for _, p := range o.pieces {
		if n := len(all); n > 0 && all[n-1].End() == p.Off {
			all[n-1].Len += int64(len(p.Data))
			continue
		}
		all = append(all, p.Extent())
	}
	return all
}

// Bytes returns how many bytes are replaced.
func (o *Overlay) Bytes() int64 {
	var n int64
	for _, p := range o.pieces {
		n += int64(len(p.Data))
	}
	return n
}

// in returns the pieces that have bytes in e.
func (o *Overlay) in(e block.Extent) []block.Block {
	first, _ := slices.BinarySearchFunc(o.pieces, e.Off, func(p block.Block, off int64) int {
		if p.Extent().End() <= off {
			return -1
		}
		return 1
	})
	n := first
	for n < len(o.pieces) && o.pieces[n].Off < e.End() {
		n++
	}
	return o.pieces[first:n]
}

// Apply returns the block with the pieces laid over it. If that changes nothing
// it is b itself, still the caller's. Otherwise b has been released, and what is
// returned is a block of the same extent in memory of its own, to be released like
// any other.
//
// The address of a block's first byte and its offset are the same modulo
// block.Align if they were so for b, which is what O_DIRECT asks for.
func (o *Overlay) Apply(b block.Block) block.Block {
	pieces := o.in(b.Extent())
	if !slices.ContainsFunc(pieces, func(p block.Block) bool { return differ(p, b) }) {
		return b
	}
	lead := int(b.Off % block.Align)
	buf := o.get(lead + len(b.Data))
	data := buf[lead : lead+len(b.Data) : lead+len(b.Data)]
	copy(data, b.Data)
	for _, p := range pieces {
		lay(data, b.Off, p)
	}
	off := b.Off
	b.Release()
	return block.New(off, data, func() { o.put(buf) })
}

// Fill copies the pieces into p, which is to lie at byte off of the disk, and
// returns which extents of the disk it has written there, in ascending order.
func (o *Overlay) Fill(p []byte, off int64) []block.Extent {
	whole := block.Extent{Off: off, Len: int64(len(p))}
	var done []block.Extent
	for _, piece := range o.in(whole) {
		lay(p, off, piece)
		e := piece.Extent().Intersect(whole)
		if n := len(done); n > 0 && done[n-1].End() == e.Off {
			done[n-1].Len += e.Len
			continue
		}
		done = append(done, e)
	}
	return done
}

// overlap returns the bytes of a piece and of data, which lies at off, at the
// places that both have.
func overlap(data []byte, off int64, p block.Block) (old, replacement []byte) {
	e := p.Extent().Intersect(block.Extent{Off: off, Len: int64(len(data))})
	return data[e.Off-off:][:e.Len], p.Data[e.Off-p.Off:][:e.Len]
}

func lay(data []byte, off int64, p block.Block) {
	old, replacement := overlap(data, off, p)
	copy(old, replacement)
}

// differ tells whether a piece changes a block.
func differ(p, b block.Block) bool {
	old, replacement := overlap(b.Data, b.Off, p)
	return !bytes.Equal(old, replacement)
}

// get returns a buffer of at least n bytes: never more of them exist than blocks
// that Apply has made and nobody has released, and maxSpare besides.
func (o *Overlay) get(n int) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, b := range o.spare {
		if len(b) >= n {
			o.spare = slices.Delete(o.spare, i, i+1)
			return b
		}
	}
	if k := len(o.spare); k > 0 { // too short for what comes now
		block.Free(o.spare[k-1])
		o.spare = o.spare[:k-1]
	}
	b, err := block.Aligned((n + block.Align - 1) / block.Align * block.Align)
	if err != nil {
		panic(err) // as when make finds no memory
	}
	return b
}

// put takes a buffer back when its block has been released.
func (o *Overlay) put(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || len(o.spare) == maxSpare {
		block.Free(b)
		return
	}
	o.spare = append(o.spare, b)
}

// Close releases the pieces and gives the buffers back. Nothing else may be asked
// of the overlay afterwards; the blocks that Apply has made stay good until they
// are released.
func (o *Overlay) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.closed = true
	for _, b := range o.spare {
		block.Free(b)
	}
	for _, p := range o.pieces {
		p.Release()
	}
	o.spare, o.pieces = nil, nil
}
