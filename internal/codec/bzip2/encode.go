package bzip2

import (
	"encoding/binary"
	"slices"
)

// A bitWriter appends bits, the most significant first.
type bitWriter struct {
	p   []byte // whole bytes
	buf uint64 // the bits after them, from the top down
	n   uint   // how many, at most 7 between calls
}

// put appends the lowest k bits of v, 0 to 56; the others are 0.
func (w *bitWriter) put(v uint64, k uint) {
	w.buf |= v << ((64 - k - w.n) & 63)
	w.n += k
	if k == 0 {
		return
	}
	for ; w.n >= 8; w.n -= 8 {
		w.p = append(w.p, byte(w.buf>>56))
		w.buf <<= 8
	}
}

// bits returns how many bits there are.
func (w *bitWriter) bits() int { return len(w.p)*8 + int(w.n) }

// join appends the first n bits of p, which has 8 bytes behind them.
func (w *bitWriter) join(p []byte, n int) {
	w.p = slices.Grow(w.p, n/8+16)
	for ; n >= 64; n -= 64 {
		v := binary.BigEndian.Uint64(p)
		w.p = binary.BigEndian.AppendUint64(w.p, w.buf|v>>(w.n&63))
		w.buf = v << 1 << ((63 - w.n) & 63)
		p = p[8:]
	}
	if n >= 32 {
		w.put(uint64(binary.BigEndian.Uint32(p)), 32)
		p, n = p[4:], n-32
	}
	if n > 0 {
		w.put(uint64(binary.BigEndian.Uint32(p)>>(32-n)), uint(n))
	}
}

// An encoder is what one worker needs to encode blocks, one after another.
type encoder struct {
	sorter sorter
	mover  mover
	coder  coder
	bits   bitWriter
	codes  [512]uint32
	long   [8 << 10]byte // some of the block's bytes with the runs long
}

func newEncoder() *encoder {
	return &encoder{mover: *newMover()}
}

// encode appends the block of n bytes, with the runs short, that begins at buf[1],
// to dst, and returns it, how many bits it has, and the checksum.
func (e *encoder) encode(dst, buf []byte, n int) (out []byte, bitLen int, crc uint32) {
	crc = e.checksum(buf[1 : n+1])
	used := usedBytes(buf[1 : n+1])
	e.sorter.sort(buf, n)
	orig := first(e.sorter.rows)
	e.mover.move(e.sorter.rows, used)
	e.coder.choose(e.mover.symbols, len(used)+2)

	e.bits = bitWriter{p: dst}
	e.bits.put(blockMagic, magicBits)
	e.bits.put(uint64(crc), 32)
	e.bits.put(0, 1) // not randomised
	e.bits.put(uint64(orig), 24)
	e.header(used)
	e.symbols()
	bitLen = e.bits.bits()
	e.bits.put(0, 7)
	return append(e.bits.p, 0, 0, 0, 0, 0, 0, 0, 0), bitLen, crc
}

// first returns the row that is the block itself.
func first(rows []uint32) (at int) {
	for i, row := range rows {
		if row&rowPlace == 1 {
			return i
		}
	}
	return 0
}

func usedBytes(p []byte) []byte {
	var has [256]bool
	for _, b := range p {
		has[b] = true
	}
	var used []byte
	for b, h := range has {
		if h {
			used = append(used, byte(b))
		}
	}
	return used
}

// header writes the bytes in use, the selectors and the tables.
func (e *encoder) header(used []byte) {
	var rows uint64
	var cols [16]uint64
	for _, b := range used {
		rows |= 0x8000 >> (b / 16)
		cols[b/16] |= 0x8000 >> (b % 16)
	}
	e.bits.put(rows, 16)
	for _, c := range cols {
		if c != 0 {
			e.bits.put(c, 16)
		}
	}
	e.bits.put(uint64(e.coder.tables), 3)
	e.bits.put(uint64(len(e.coder.selectors)), 15)
	recent := [maxTables]uint8{0, 1, 2, 3, 4, 5}
	for _, t := range e.coder.selectors {
		at := slices.Index(recent[:], t)
		e.bits.put(1<<(at+1)-2, uint(at+1)) // so many ones, and a zero
		copy(recent[1:], recent[:at])
		recent[0] = t
	}
	for t := range e.coder.tables {
		e.table(e.coder.length[t][:e.coder.alphabet])
	}
}

// table writes the lengths of a code: each as steps up or down from the one before.
func (e *encoder) table(lengths []uint8) {
	l := lengths[0]
	e.bits.put(uint64(l), 5)
	for _, want := range lengths {
		for ; l < want; l++ {
			e.bits.put(2, 2)
		}
		for ; l > want; l-- {
			e.bits.put(3, 2)
		}
		e.bits.put(0, 1)
	}
}

// symbols writes the symbols.
func (e *encoder) symbols() {
	var tables [maxTables][512]uint32
	for t := range e.coder.tables {
		codes(e.coder.length[t][:e.coder.alphabet], &tables[t])
	}
	symbols := e.mover.symbols
	p, buf, n := e.bits.p, e.bits.buf, e.bits.n
	for _, t := range e.coder.selectors {
		table := &tables[t]
		group := symbols[:min(groupSize, len(symbols))]
		symbols = symbols[len(group):]
		if cap(p)-len(p) < groupSize*longestCode/8+16 {
			p = slices.Grow(p, 1<<16)
		}
		out := p[:cap(p)]
		at := len(p)
		for _, s := range group {
			code := table[s&511]
			buf |= uint64(code>>8) << ((64 - code&255 - uint32(n)) & 63)
			n += uint(code & 255)
			binary.BigEndian.PutUint64(out[at:], buf)
			at += int(n >> 3)
			buf <<= n & 0x38 & 63
			n &= 7
		}
		p = out[:at]
	}
	e.bits.p, e.bits.buf, e.bits.n = p, buf, n
}

// checksum returns the checksum of a block, whose runs are short.
func (e *encoder) checksum(text []byte) uint32 {
	table, c := crc(), ^uint32(0)
	x := expander{src: text}
	for {
		n := x.expand(e.long[:])
		if n == 0 {
			return ^c
		}
		c = table.update(c, e.long[:n])
	}
}
