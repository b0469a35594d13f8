package bzip2

import (
	"encoding/binary"
	"math/bits"
)

const (
	topSize   = 8
	shelfSize = 64
	pitch     = 2 * shelfSize // from one shelf to the next: a gap is closed with 64 bytes, wherever it is

	shelves      = 7 // shelf 0 is never used
	firstShelf   = 1
	firstStocked = 3

	// lanes times a byte is that byte in each of seven lanes of 9 bits. The
	// highest bit of a lane is its flag.
	lanes = 1 | 1<<9 | 1<<18 | 1<<27 | 1<<36 | 1<<45 | 1<<54
	flags = lanes << 8
	bias  = topSize - 1
)

// A front is a list of 256 bytes, any of which may be moved to its front.
//
// In data that was packed before, and a card image is full of it, most moves
// come from far behind, and a plain list would shift half its bytes each time.
// Here the first eight are a word and the others are on shelves of up to 64. A
// byte that leaves a shelf leaves a gap only there. The byte that the top loses
// is put before the others on the open shelf; when that is full the empty shelf
// before it is opened, and when there is none all are stocked anew.
//
// Lane i of ends holds how many bytes are on the shelves up to i, plus bias,
// with the flag set. To subtract a place in the list from all lanes clears the
// flags of the shelves that end before it: so the shelf is found without a
// branch.
type front struct {
	top   uint64 // the first byte lowest
	ends  uint64
	open  uint       // the shelf that is being filled, from its end
	live  uint64     // the flags of the lanes from open on; the ends before it stay 0
	room  uint       // where in mem the first byte of the open shelf is
	begin [65]uint16 // where in mem each shelf begins, by the place of its flag
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
	f.ends, f.live = flags+bias*lanes, 0
	on := 0
	for i := uint(firstStocked); i < shelves; i++ {
		on += copy(f.mem[i*pitch:][:shelfSize], p[on:])
		f.ends += uint64(on) << (9 * i)
		f.live |= 1 << flag(i)
		f.begin[flag(i)] = uint16(i * pitch)
	}
	f.unlock(firstStocked - 1)
}

// unlock begins to fill an empty shelf.
func (f *front) unlock(shelf uint) {
	f.open = shelf
	f.live |= 1 << flag(shelf)
	f.room = shelf*pitch + shelfSize
}

// next opens a shelf in place of the full one.
func (f *front) next() {
	if f.open > firstShelf {
		f.unlock(f.open - 1)
		return
	}
	var all [256]byte
	on := uint64(0)
	for i := uint(firstShelf); i < shelves; i++ {
		copy(all[on:], f.mem[i*pitch:][:shelfSize])
		on = f.ends>>(9*i)&255 - bias
	}
	f.stock(all[:256-topSize])
}

// move makes the moves of es, one after another, and notes in moved what is at
// the front after each.
func (f *front) move(es []entry, moved *[groupSize]byte) {
	out := moved[:len(es)]
	top, ends, room, begin := f.top, f.ends, f.room, &f.begin[flag(f.open)]
	for i, e := range es {
		back := uint64(e.back())
		if back < topSize {
			at := back * 8
			mask := uint64(256)<<(at&63) - 1 // of the bytes up to that one
			top = top ^ (top^top<<8)&mask | top>>(at&63)&255
			out[i] = byte(top)
			continue
		}
		after := ends - back*lanes
		shelf := uint(bits.TrailingZeros64(after&flags | 1<<63)) // its flag; the last shelf has one always
		before := ends >> ((shelf - 17) & 63) & 255              // on the shelves before it, plus bias
		at := (uint64(f.begin[shelf]) + back - (topSize - bias) - before) & 1023
		gap := (*[shelfSize + 1]byte)(f.mem[at : at+shelfSize+1])
		b := gap[0]
		copy(gap[0:16], gap[1:17])
		copy(gap[16:32], gap[17:33])
		copy(gap[32:48], gap[33:49])
		copy(gap[48:64], gap[49:65])
		ends += (f.live &^ after) >> 8 // one byte more before every shelf before it
		room--
		f.mem[room&1023] = byte(top >> 56)
		*begin = uint16(room)
		top = top<<8 | uint64(b)
		out[i] = b
		if room%shelfSize == 0 {
			f.ends = ends
			f.next()
			ends, room, begin = f.ends, f.room, &f.begin[flag(f.open)]
		}
	}
	f.top, f.ends, f.room = top, ends, room
}
