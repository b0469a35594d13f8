package bzip2

import (
	"encoding/binary"
	"math/bits"
)

// A recent list holds the 256 bytes in the order of their last use, and tells how
// far back a byte is while it moves it to the front. It is a front the other way
// around: there a place is given and a byte looked for, here a byte is given.
//
// The first eight bytes are a word. The others each have a slot, the later used
// the higher; how far back one is, is how many slots above its own are taken. They
// are counted a word of 64 slots at a time: lane i of above, which has 9 bits,
// says how many are taken in the words above word i. When all slots have been
// given out, the bytes are moved down together.
type recent struct {
	top   uint64 // the first byte lowest
	above uint64
	taken [slotWords]uint64
	next  uint // the slot to be given out
	slot  [256]uint16
	owner [slots]byte
}

const (
	slotWords = 7
	slots     = 64 * slotWords
)

// list makes the list p, followed by anything. p ascends.
func (r *recent) list(p []byte) {
	var all [256]byte
	var has [256]bool
	n := copy(all[:], p)
	for _, b := range p {
		has[b] = true
	}
	for b := range all {
		if !has[b] {
			all[n] = byte(b)
			n++
		}
	}
	r.top = binary.LittleEndian.Uint64(all[:])
	var rest [256 - topSize]byte
	for i, b := range all[topSize:] {
		rest[len(rest)-1-i] = b
	}
	r.stock(&rest)
}

// stock gives the bytes of p, the least recent first, the lowest slots.
func (r *recent) stock(p *[256 - topSize]byte) {
	r.taken = [slotWords]uint64{}
	for i, b := range p {
		r.owner[i] = b
		r.slot[b] = uint16(i)
		r.taken[i/64] |= 1 << (i % 64)
	}
	r.next = uint(len(p))
	r.above = 0
	above := uint64(len(p))
	for i := range slotWords {
		above -= uint64(bits.OnesCount64(r.taken[i]))
		r.above |= above << (9 * i)
	}
}

// restock moves all down.
func (r *recent) restock() {
	var all [256 - topSize]byte
	n := 0
	for i, t := range r.taken {
		for ; t != 0; t &= t - 1 {
			all[n] = r.owner[i*64+bits.TrailingZeros64(t)]
			n++
		}
	}
	r.stock(&all)
}

// move moves b to the front and returns how far back it was.
func (r *recent) move(b byte) uint {
	x := r.top ^ ones*uint64(b)
	if zero := (x - ones) &^ x & (ones << 7); zero != 0 {
		mask := zero ^ (zero - 1) // of the bytes up to b
		at := uint(bits.TrailingZeros64(zero)) / 8
		r.top = r.top&^mask | r.top<<8&mask | uint64(b)
		return at
	}
	return r.fetch(b)
}

// fetch does the same for a byte that is not in top.
func (r *recent) fetch(b byte) uint {
	slot := uint(r.slot[b])
	word := slot / 64 & 7
	w := &r.taken[word%slotWords]
	back := topSize + uint(r.above>>(9*word&63))&511 + uint(bits.OnesCount64(*w>>(slot&63)>>1))
	*w &^= 1 << (slot & 63)

	last := byte(r.top >> 56)
	r.top = r.top<<8 | uint64(b)
	next := r.next
	to := next / 64 % slotWords
	r.taken[to] |= 1 << (next & 63)
	r.owner[next%slots] = last
	r.slot[last] = uint16(next)
	// One is gone from word and one is new in to: those between have one more above.
	const all = lanes
	r.above += all&(1<<(9*to&63)-1) - all&(1<<(9*word&63)-1)
	if r.next++; r.next == slots {
		r.restock()
	}
	return back
}
