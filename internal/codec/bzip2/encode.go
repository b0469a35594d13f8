package bzip2

import (
	"encoding/binary"
	"slices"
)

// packedRoom returns how many bytes are enough for n bytes with the runs short, once
// they are packed: the codes are chosen so that they take less than nine
// bits for each, and a group's selector takes six at most.
func packedRoom(n int) int { return n + n/8 + 32<<10 }

// An encoder is what one worker needs to encode blocks, one after another.
type encoder struct {
	sorter sorter
	mover  mover
	coder  coder
	bits   bitWriter
	codes  [maxTables][512]uint32
	long   [8 << 10]byte // some of the block's bytes with the runs long
}

func newEncoder() *encoder {
	e := &encoder{sorter: *newSorter()}
	e.mover.short.make()
	return e
}

// encode encodes the block in buf[1:n+1], whose runs are short. buf is as
// sorter.sort wants it. It makes out anew, which has then 8 bytes more than bits
// says, and returns the block's checksum.
func (e *encoder) encode(out, buf []byte, n int) (packed []byte, bits int, crc uint32) {
	crc = e.checksum(buf[1 : n+1])
	e.sorter.sort(buf, n)
	used := e.sorter.used()
	first := firstRow(e.sorter.rows)
	e.mover.move(e.sorter.rows, used)
	e.coder.choose(e.mover.symbols, len(used)+2)

	e.bits = bitWriter{p: out[:0]}
	e.bits.put(blockMagic, magicBits)
	e.bits.put(uint64(crc), 32)
	e.bits.put(0, 1) // not randomised
	e.bits.put(uint64(first), 24)
	e.header(used)
	e.symbols()
	bits = len(e.bits.p)*8 + int(e.bits.n)
	e.bits.put(0, 7)
	return append(e.bits.p, 0, 0, 0, 0, 0, 0, 0, 0), bits, crc
}

// checksum returns the checksum of a block whose runs are short.
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

// firstRow returns which of rows is the block itself.
func firstRow(rows []uint32) int {
	return slices.IndexFunc(rows, func(row uint32) bool { return row&rowPlace == 1 })
}

// header writes the bytes in use, the selectors and the codes.
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
		e.code(e.coder.lengths[t][:len(used)+2])
	}
}

// code writes the lengths of a code: each as steps up or down from the one before.
func (e *encoder) code(lengths []uint8) {
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
	for t := range e.coder.tables {
		assignCodes(e.coder.lengths[t][:e.coder.alphabet], &e.codes[t])
	}
	symbols := e.mover.symbols
	for _, t := range e.coder.selectors {
		group := symbols[:min(groupSize, len(symbols))]
		e.bits.group(group, &e.codes[t])
		symbols = symbols[len(group):]
	}
}

// A bitWriter appends bits, the most significant first.
type bitWriter struct {
	p   []byte // the whole bytes
	buf uint64 // the bits after them, from the top down; below them zeros
	n   uint   // how many these are, up to 7
}

// put appends the lowest k bits of v, up to 56, above which v is zero.
func (w *bitWriter) put(v uint64, k uint) {
	w.buf |= v << ((64 - k - w.n) & 63)
	for w.n += k; w.n >= 8; w.n -= 8 {
		w.p = append(w.p, byte(w.buf>>56))
		w.buf <<= 8
	}
}

// group appends the codes of at most groupSize symbols. A code has its length in
// the lowest 8 bits.
func (w *bitWriter) group(symbols []uint16, codes *[512]uint32) {
	at := len(w.p)
	w.p = slices.Grow(w.p, groupSize*longestCode/8+8)
	p, buf, n := w.p[:cap(w.p)], w.buf, w.n
	for len(symbols) > 0 {
		// Two at a time, for each waits for where the one before it ends.
		code := codes[symbols[0]&511]
		v, k := uint64(code>>8), code&255
		if len(symbols) > 1 {
			code = codes[symbols[1]&511]
			v, k = v<<(code&63)|uint64(code>>8), k+code&255
			symbols = symbols[1:]
		}
		symbols = symbols[1:]
		buf |= v << ((64 - uint(k) - n) & 63)
		n += uint(k)
		binary.BigEndian.PutUint64(p[at:], buf)
		at += int(n / 8)
		buf <<= n & 0x38
		n &= 7
	}
	w.p, w.buf, w.n = p[:at], buf, n
}

// join appends the first n bits of p, behind which there are 8 bytes more.
func (w *bitWriter) join(p []byte, n int) {
	for ; n >= 64; n -= 64 {
		v := binary.BigEndian.Uint64(p)
		w.p = binary.BigEndian.AppendUint64(w.p, w.buf|v>>(w.n&63))
		w.buf = v << 1 << ((63 - w.n) & 63)
		p = p[8:]
	}
	for ; n > 0; n -= 8 {
		k := uint(min(n, 8))
		w.put(uint64(p[0]>>(8-k)), k)
		p = p[1:]
	}
}
