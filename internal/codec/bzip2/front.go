package bzip2

import (
	"encoding/binary"
	"math/bits"
)

const (
	topSize   = 8
	shelfSize = 64
	pitch     = 2 * shelfSize // from one shelf to the next; shelves are moved in whole, with what lies behind

	shelves     = 7 // 0 is a sentinel, the last four are stocked, the ones between begin empty
	firstShelf  = 1
	stockedFrom = 3

	// lanes times a number of at most 8 bits is that number in each of seven
	// lanes of 9 bits; in each the highest bit is a flag.
	lanes = 1 | 1<<9 | 1<<18 | 1<<27 | 1<<36 | 1<<45 | 1<<54
	flags = lanes << 8
)

// A front is a list of 256 bytes, any of which may be moved to its front.
//
// The first eight are one word. In packed data that looks random half the moves
// come from far behind, and a list without gaps would move half its bytes each
// time. So the bytes after the eight are on shelves of up to 64. A byte leaves
// its shelf and only that shelf closes the gap; what the top loses at its end
// is put before the others on the open shelf. A full shelf is followed by an
// empty one, and when none is left the shelves are stocked anew.
//
// ends holds in lane i how many bytes are on the shelves up to i: one
// subtraction compares all of them with a place in the list and so finds the
// shelf, without a branch.
type front struct {
	top  uint64 // the first byte lowest
	ends uint64
	open uint   // the shelf that is being filled, from its end
	live uint64 // the flags of the lanes from open on; the ends before it are 0
	room uint   // where in mem the newest byte of the open shelf is
	// begin is where in mem each shelf begins, by the place of its flag.
	begin [64]uint16
	mem   [1024 + pitch]byte
}

// list makes the list p, followed by anything.
func (f *front) list(p []byte) {
	var all [256]byte
	copy(all[:], p)
	f.top = binary.LittleEndian.Uint64(all[:])
	f.stock(all[topSize:])
}

// flag returns the place in a word of the flag of a shelf's lane.
func flag(shelf uint) uint { return 9*shelf + 8 }

// stock puts the 248 bytes of p on the last shelves.
func (f *front) stock(p []byte) {
	f.ends, f.live = 0, 0
	on := 0
	for i := uint(stockedFrom); i < shelves; i++ {
		on += copy(f.mem[i*pitch:][:shelfSize], p[on:])
		f.ends |= uint64(on) << (9 * i)
		f.live |= 1 << flag(i)
		f.begin[flag(i)] = uint16(i * pitch)
	}
	f.unlock(stockedFrom - 1)
}

// unlock begins to fill an empty shelf.
func (f *front) unlock(shelf uint) {
	f.open = shelf
	f.live |= 1 << flag(shelf)
	f.room = shelf*pitch + shelfSize
}

// next finds an open shelf in place of a full one.
func (f *front) next() {
	if f.open > firstShelf {
		f.unlock(f.open - 1)
		return
	}
	var all [256]byte
	on := uint64(0)
	for i := uint(firstShelf); i < shelves; i++ {
		copy(all[on:], f.mem[i*pitch:][:shelfSize])
		on = f.ends >> (9 * i) & 255
	}
	f.stock(all[:256-topSize])
}

// move makes the moves of es, one after another, and notes in moved what is at
// the front after each.
func (f *front) move(es []entry, moved *[groupSize]byte) {
	top, ends, live, room := f.top, f.ends, f.live, f.room
	newest := &f.begin[flag(f.open)&63]
	for i, e := range es {
		back := uint64(e.back())
		if back < topSize {
			at := back * 8
			mask := ^uint64(0) >> ((56 - at) & 63)
			top = top&^mask | top<<8&mask | top>>at&255
			moved[i] = byte(top)
			continue
		}
		after := (ends | flags) - (back-topSize+1)*lanes // has the flags of the shelves that end after it
		shelf := uint(bits.TrailingZeros64(after & flags))
		before := ends >> ((shelf - 17) & 63) & 255
		at := (uint64(f.begin[shelf&63]) + back - topSize - before) & 1023
		p := (*[shelfSize + 1]byte)(f.mem[at : at+shelfSize+1])
		b := p[0]
		copy(p[0:16], p[1:17])
		copy(p[16:32], p[17:33])
		copy(p[32:48], p[33:49])
		copy(p[48:64], p[49:65])
		ends += (live &^ after) >> 8
		room--
		f.mem[room&1023] = byte(top >> 56)
		*newest = uint16(room)
		top = top<<8 | uint64(b)
		moved[i] = b
		if room%shelfSize == 0 {
			f.ends = ends
			f.next()
			ends, live, room = f.ends, f.live, f.room
			newest = &f.begin[flag(f.open)&63]
		}
	}
	f.top, f.ends, f.room = top, ends, room
}
