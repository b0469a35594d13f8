package bzip2

import "encoding/binary"

// unlimited is a limit for bitReader.seek that is never reached.
const unlimited = 1 << 62

// A bitReader reads bits, the most significant first, from an input, beginning
// at any bit of it. Past the end of the input it reads zeros and remembers.
//
// Between calls buf holds the next n bits from the top down. The bits below
// them are zero or already right, so that or-ing the same input in again does
// no harm: that is what makes the short refill correct.
type bitReader struct {
	in   *input
	data []byte // the pinned chunk; nil once err is set
	base int64  // the offset of data[0] in the input, in bytes
	pos  int    // the next byte of data to go into buf
	buf  uint64
	n    uint
	stop int64 // no chunk that begins here or later is read, in bytes
	err  error // why there are no more bytes: io.EOF, errStale, errLong or what the source said
}

// seek goes to the bit off of the input, to read about limit bytes at most: the
// chunk in which they end is read to its end.
func (b *bitReader) seek(off, limit int64) {
	b.release()
	b.buf, b.n, b.err = 0, 0, nil
	b.base = off / 8 / chunkSize * chunkSize
	b.stop = off/8 + limit
	b.pin()
	b.pos = min(int(off/8-b.base), len(b.data))
	b.fill()
	b.skip(uint(off & 7))
}

// release unpins the current chunk; only seek may follow.
func (b *bitReader) release() {
	if b.data != nil {
		b.in.unpin(b.base)
		b.data = nil
	}
}

// pin makes the chunk at base the current one.
func (b *bitReader) pin() {
	b.pos = 0
	if b.base >= b.stop {
		b.err = errLong
		return
	}
	b.data, b.err = b.in.pin(b.base)
}

// off returns the place of the next bit in the input, in bits.
func (b *bitReader) off() int64 { return (b.base+int64(b.pos))*8 - int64(b.n) }

// short reports whether fewer than k bits of the input are left to read. It is
// also true when bits past the end have been read.
func (b *bitReader) short(k uint) bool {
	return b.err != nil && uint(b.pos)*8+k > b.n
}

// fill makes at least 56 bits valid, and at most 63.
func (b *bitReader) fill() {
	if b.pos+8 <= len(b.data) {
		b.buf |= binary.BigEndian.Uint64(b.data[b.pos:]) >> (b.n & 63)
		b.pos += int(63-b.n) >> 3
		b.n |= 56
		return
	}
	for b.n < 56 {
		for b.err == nil && b.pos >= len(b.data) {
			next := b.base + int64(len(b.data))
			b.release()
			b.base = next
			b.pin()
		}
		if b.err == nil {
			b.buf |= uint64(b.data[b.pos]) << (56 - b.n)
		}
		b.pos++
		b.n += 8
	}
}

func (b *bitReader) skip(k uint) {
	b.buf <<= k & 63
	b.n -= k
}

// bits reads k bits, 1 to 56.
func (b *bitReader) bits(k uint) uint64 {
	if b.n < k {
		b.fill()
	}
	v := b.buf >> ((64 - k) & 63)
	b.skip(k)
	return v
}

// bit reads one bit.
func (b *bitReader) bit() bool { return b.bits(1) != 0 }
