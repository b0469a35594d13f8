package bzip2

import (
	"encoding/binary"
	"math/bits"
)

// ones times a byte is that byte eight times.
const ones = 0x0101010101010101

// An expander lengthens a block's runs: in the packed block four equal bytes
// are followed by a byte that says how many more, 0 to 255, there are.
type expander struct {
	src  []byte // what is still to be expanded
	left int    // how much of a run is still to be written
	b    byte   // the byte it is made of
	torn bool   // src ended where a count should be
}

// expand fills dst and returns how much of it is filled, all unless the block
// ends first.
func (e *expander) expand(dst []byte) int {
	n := 0
	for {
		if e.left > 0 {
			k := min(e.left, len(dst)-n)
			fill(dst[n:], k, e.b)
			n += k
			e.left -= k
		}
		if n == len(dst) || len(e.src) == 0 {
			return n
		}
		n += e.literals(dst[n:])
	}
}

// fill makes the first n bytes of p b. It may scribble on those after them.
func fill(p []byte, n int, b byte) {
	all := ones * uint64(b)
	if n <= 16 && len(p) >= 16 {
		binary.LittleEndian.PutUint64(p, all)
		binary.LittleEndian.PutUint64(p[8:], all)
		return
	}
	p = p[:n]
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, all)
		p = p[8:]
	}
	for i := range p {
		p[i] = b
	}
}

// literals copies bytes until dst is full, src ends or a run begins, which is
// then left to be written. It may scribble on dst after the bytes it counts.
func (e *expander) literals(dst []byte) int {
	src, i := e.src, 0
	for i+16 <= len(src) && i+8 <= len(dst) {
		p := src[i : i+16]
		a := binary.LittleEndian.Uint64(p)
		b := binary.LittleEndian.Uint64(p[1:])
		c := binary.LittleEndian.Uint64(p[2:])
		d := binary.LittleEndian.Uint64(p[3:])
		binary.LittleEndian.PutUint64(dst[i:], a)
		// A byte of x is zero where four equal bytes begin, and the lowest bit
		// of zero is in the first of these.
		x := (a ^ b) | (b ^ c) | (c ^ d)
		zero := (x - ones) &^ x & (ones << 7)
		if zero != 0 {
			i += bits.TrailingZeros64(zero) / 8
			e.startRun(src[i:])
			return i
		}
		i += 8
	}
	for i < len(src) && i < len(dst) {
		if p := src[i:]; len(p) >= 4 && p[0] == p[1] && p[0] == p[2] && p[0] == p[3] {
			e.startRun(p)
			return i
		}
		dst[i] = src[i]
		i++
	}
	e.src = src[i:]
	return i
}

// startRun takes the four equal bytes and the count at the beginning of p.
func (e *expander) startRun(p []byte) {
	e.b, e.left = p[0], 4
	if len(p) == 4 {
		e.torn = true
		e.src = nil
		return
	}
	e.left += int(p[4])
	e.src = p[5:]
}
