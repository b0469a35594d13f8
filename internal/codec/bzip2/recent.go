package bzip2

import (
	"encoding/binary"
	"math/bits"
)

const (
	slotWords = 8
	slots     = 64 * slotWords
	resting   = 256 - topSize
)

// A recent list holds the 256 bytes in the order of their last use, and tells how
// far back a byte is while it moves it to the front. It is a front the other way
// around: there a place is given and a byte looked for, here a byte is given.
//
// The first eight bytes are a word. The others each have a slot, the later used
// the higher; how far back one is, is how many slots above its own are taken. They
// are counted 64 slots at a time: byte i of above says how many are taken in the
// words above word i. When all slots have been given out, the bytes are moved
// down together.
type recent struct {
	top   uint64 // the first byte lowest
	above uint64
	next  uint // the slot to be given out
	taken [slotWords]uint64
	slot  [256]uint16
	owner [slots]byte
}

// list makes the list p, which ascends, followed by all others.
func (r *recent) list(p []byte) {
	var all [256]byte
	n := copy(all[:], p)
	for b := range all {
		if len(p) > 0 && int(p[0]) == b {
			p = p[1:]
			continue
		}
		all[n] = byte(b)
		n++
	}
	r.top = binary.LittleEndian.Uint64(all[:])
	for i := range resting {
		r.owner[i] = all[len(all)-1-i]
	}
	r.stock()
}

// stock gives the first owners the lowest slots.
func (r *recent) stock() {
	for i, b := range r.owner[:resting] {
		r.slot[b] = uint16(i)
	}
	clear(r.taken[:])
	r.above = 0
	left := uint64(resting)
	for i := 0; left > 0; i++ {
		n := min(left, 64)
		left -= n
		r.taken[i] = 1<<n - 1
		r.above |= left << (8 * i)
	}
	r.next = resting
}

// restock moves all owners down.
func (r *recent) restock() {
	n := 0
	for i, t := range r.taken {
		for ; t != 0; t &= t - 1 {
			r.owner[n&(slots-1)] = r.owner[i*64+bits.TrailingZeros64(t)]
			n++
		}
	}
	r.stock()
}

// move moves the bytes of runs to the front, one after another, and writes the
// symbols that say so: how far back each was, and its run but for the first of it.
// It returns how many it wrote. Where they go there is room for four more.
func (r *recent) move(runs []uint32, symbols []uint16, short *runTable) (n int) {
	top, above, next := r.top, r.above, r.next
	for _, run := range runs {
		b := uint64(run >> 24)
		x := top ^ ones*b
		if zero := (x - ones) &^ x & (ones << 7); zero != 0 {
			mask := zero ^ (zero - 1) // of the bytes up to b
			top = top&^mask | top<<8&mask | b
			symbols[n] = uint16(bits.TrailingZeros64(zero)/8) + 1
		} else {
			slot := uint(r.slot[b])
			word := slot / 64 % slotWords
			taken := r.taken[word]
			back := above>>(8*word&63)&255 + uint64(bits.OnesCount64(taken>>(slot&63)))
			r.taken[word] = taken &^ (1 << (slot & 63))
			symbols[n] = uint16(back) + topSize // b itself was counted, as the symbol wants it

			// The byte that leaves the top takes the next slot.
			last := byte(top >> 56)
			top = top<<8 | b
			to := next / 64 % slotWords
			r.taken[to] |= 1 << (next & 63)
			r.owner[next%slots] = last
			r.slot[last] = uint16(next)
			// The words from word up to to have one more above.
			above += ones&(1<<(8*to&63)-1) - ones&(1<<(8*word&63)-1)
			if next++; next == slots {
				r.restock()
				above, next = r.above, r.next
			}
		}
		n++
		if more := run&rowPlace - 1; more < uint32(len(short)) {
			s := &short[more]
			*(*[4]uint16)(symbols[n:]) = s.symbols
			n += s.n
		} else {
			n += len(appendRun(symbols[n:n], int(more)))
		}
	}
	r.top, r.above, r.next = top, above, next
	return n
}
