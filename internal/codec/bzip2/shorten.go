package bzip2

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

const (
	// longest is the longest run that is written as one. The format has room for
	// 259 bytes, but bzip2 makes none longer than this.
	longest = 255

	// spare is what bzip2 leaves free of a block, in bytes, so that the last runs
	// fit in any case.
	spare = 19
)

// A shortener shortens runs: of four equal bytes and up to 251 more it makes the
// four and the number of the others. What it makes depends only on the bytes,
// not on how they were cut when they came.
type shortener struct {
	dst  []byte // what was made; has room for a block of the level
	most int    // the block is full when dst is as long as this, or a little longer
	b    byte   // what the run that may go on is made of
	run  int    // its length, which is not yet in dst
}

// reset begins a block of a level at the end of dst.
func (s *shortener) reset(dst []byte, level int) {
	s.dst, s.most = dst, len(dst)+level*levelSize-spare
	s.run = 0
}

func (s *shortener) full() bool { return len(s.dst) >= s.most }

// end ends the run.
func (s *shortener) end() {
	if s.run < 4 {
		for range s.run {
			s.dst = append(s.dst, s.b)
		}
	} else {
		s.dst = append(s.dst, s.b, s.b, s.b, s.b, byte(s.run-4))
	}
	s.run = 0
}

// add shortens the bytes of p until the block is full, and returns how many it
// took. Then end must be called: a run does not go on in the next block.
func (s *shortener) add(p []byte) (taken int) {
	for taken < len(p) && !s.full() {
		if s.run == 0 {
			if n := s.quick(p[taken:]); n > 0 {
				taken += n
				continue
			}
		}
		b := p[taken]
		if s.run > 0 && (b != s.b || s.run == longest) {
			s.end()
			continue
		}
		taken++
		s.b = b
		s.run++
	}
	return taken
}

// quick does the same with most of p, which begins with a new run: eight bytes at
// a time.
func (s *shortener) quick(p []byte) int {
	i, n := 0, len(s.dst)
	begin := 0 // of what was copied since the last long run
	dst := s.dst[:cap(s.dst)]
	for i+16 <= len(p) && n+8 < s.most {
		q := p[i : i+16]
		a := binary.LittleEndian.Uint64(q)
		b := binary.LittleEndian.Uint64(q[1:])
		c := binary.LittleEndian.Uint64(q[2:])
		d := binary.LittleEndian.Uint64(q[3:])
		binary.LittleEndian.PutUint64(dst[n:], a)
		// A byte of x is zero where four equal bytes begin, and the lowest bit
		// of zero is in the first of these.
		x := (a ^ b) | (b ^ c) | (c ^ d)
		zero := (x - ones) &^ x & (ones << 7)
		if zero == 0 {
			i, n = i+8, n+8
			continue
		}
		k := bits.TrailingZeros64(zero) / 8
		s.dst = dst[:n+k]
		i += k
		i += s.long(p[i:])
		if s.run > 0 || s.full() {
			return i
		}
		begin, n = i, len(s.dst)
	}
	// What was copied last may be the begin of a run.
	run := 0
	for i-run > begin && p[i-1-run] == p[i-1] {
		run++
	}
	if run > 0 {
		s.b, s.run = p[i-1], run
	}
	s.dst = dst[:n-run]
	return i
}

// long takes the run at the begin of p. If it may go on behind p, some of it waits.
func (s *shortener) long(p []byte) (taken int) {
	s.b = p[0]
	for length := runLength(p); taken < length && !s.full(); s.end() {
		s.run = min(length-taken, longest)
		if taken += s.run; taken == len(p) {
			break
		}
	}
	return taken
}

// runLength returns how many bytes at the begin of p are equal.
func runLength(p []byte) int {
	const step = 1 << 10
	i := 0 // bytes that are like the one behind them
	for i+step < len(p) && bytes.Equal(p[i:i+step], p[i+1:i+step+1]) {
		i += step
	}
	for i+9 <= len(p) {
		x := binary.LittleEndian.Uint64(p[i:]) ^ binary.LittleEndian.Uint64(p[i+1:])
		if x != 0 {
			return i + 1 + bits.TrailingZeros64(x)/8
		}
		i += 8
	}
	for i++; i < len(p) && p[i] == p[0]; i++ {
	}
	return i
}
