package bzip2

import "encoding/binary"

// A sorter sorts a block's rotations, the Burrows-Wheeler transform.
//
// A rotation is of type A if it is greater than the rotation that begins one
// byte later, else of type B; one of type B before one of type A is a star. Only
// the stars, at most half and mostly a third of all, are sorted by comparing
// (stars.go, ranks.go). The order of all others follows from theirs in two
// passes: Itoh and Tanaka, "An efficient method for in memory construction of
// suffix arrays", 1999, in the form that Yuta Mori's divsufsort made of it, here
// on a circle: it needs no end of the text, since the last byte's successor is
// the first. Only a block that is one byte over and over has no stars; there
// all rotations are equal.
//
// Bytes of the text are counted from 1. A row is a rotation: its first byte's
// place, and in the upper 8 bits the byte before that, which is the row's byte
// in the last column. So passes look at the text only to make new rows.
type sorter struct {
	text  []byte   // text[1:n+1] is the block; around it the circle goes on for a while
	n     int      // the block's length
	rows  []uint32 // the sorted rotations
	stars []uint32 // where the stars are, ascending
	room  []uint32 // for stars

	pairs  [1 << 16]uint32 // rotations that begin with a pair of bytes
	begins [1 << 16]uint32 // of the stars that begin with a pair, in the order of stars
	typeB  [256]uint32     // rotations of type B that begin with a byte
	starts [257]uint32     // first row of a byte
	keys   []key
	groups []group // by their first row
}

const (
	rowPlace = 1<<24 - 1 // what of a row is the place

	// around is how far the circle goes on behind the text, in bytes.
	around = 64
)

// lay makes text the circle of the block that lies in buf[1:n+1]. buf has room
// for around bytes behind it.
func (s *sorter) lay(buf []byte, n int) {
	buf = buf[:1+n+around]
	buf[0] = buf[n]
	for at := n + 1; at < len(buf); {
		at += copy(buf[at:], buf[1:min(at, around+1)])
	}
	s.text, s.n = buf, n
	if cap(s.rows) < n {
		s.rows = make([]uint32, roomFor(n))
		s.room = make([]uint32, roomFor(n)/2+2)
	}
	s.rows = s.rows[:n]
}

// sort sorts the rotations of the block in buf[1:n+1]. There are bytes of it.
func (s *sorter) sort(buf []byte, n int) {
	s.lay(buf, n)
	if !s.classify() {
		c := uint32(s.text[1]) << 24
		for i := range s.rows {
			s.rows[i] = c | uint32(i+1)
		}
		return
	}
	s.sortStars()
	s.place()
	s.induceB()
	s.induceA()
}

// classify finds the types, counts rotations and lists the stars. It reports
// false if all bytes are the same.
func (s *sorter) classify() bool {
	text := s.text
	last := s.n
	for ; text[last] == text[last+1]; last-- {
		if last == 1 {
			return false
		}
	}
	clear(s.pairs[:])
	var types [512]uint32 // by type and byte

	// From last on to the end of the block all bytes are like the first.
	c1 := text[last+1]
	t := uint(1) // the type of what follows; no matter, for the bytes at last differ
	free := len(s.room) - 2
	room := s.room
	lastB := text[last] < c1
	for i := last; i > 0; i-- {
		c0 := text[i]
		b := uint(int(c0)-int(c1)-int(t)) >> 63 // less, or equal and followed by type B
		s.pairs[uint(c0)<<8|uint(c1)]++
		types[(b<<8|uint(c0))&511]++
		room[free] = uint32(i)
		free -= int(b &^ t)
		t, c1 = b, c0
	}
	// The first was taken for one before type B; the bytes behind it are of t's.
	end := len(room) - 1
	if lastB && t == 0 {
		room[end] = uint32(last)
		end++
	}
	s.stars = room[free+1 : end]
	rest := uint32(s.n - last)
	s.pairs[uint(c1)<<8|uint(c1)] += rest
	types[(t<<8|uint(c1))&511] += rest

	at := uint32(0)
	for c := range 256 {
		s.starts[c] = at
		s.typeB[c] = types[256+c]
		at += types[c] + types[256+c]
	}
	s.starts[256] = at
	return true
}

// place puts the sorted stars, which are listed at the begin of rows, where they
// belong: at the begin of the rotations of type B with the same two bytes.
func (s *sorter) place() {
	rows, text := s.rows, s.text
	from := len(s.stars)
	for c0 := 255; c0 >= 0; c0-- {
		to := s.starts[c0+1]
		for c1 := 255; c1 > c0; c1-- {
			pair := c0<<8 | c1
			s.begins[c1<<8|c0] = to // the mirror image of a pair is never a star
			to -= s.pairs[pair]
			begin := int(s.begins[pair])
			for ; from > begin; from-- {
				p := s.stars[rows[from-1]]
				rows[int(to)+from-1-begin] = p | uint32(text[p-1])<<24
			}
		}
		s.begins[c0<<8|c0] = to
	}
}

// induceB makes the other rows of type B. A rotation of type B is greater than
// its predecessor if that is of type B, too: so from the last row to the first,
// each comes before it is needed.
func (s *sorter) induceB() {
	rows, text := s.rows, s.text
	var next [256]uint32
	for c1 := 255; c1 >= 0; c1-- {
		copy(next[:c1+1], s.begins[c1<<8:])
		end := s.starts[c1+1]
		for i := int(end) - 1; i >= int(end-s.typeB[c1]); i-- {
			row := rows[i]
			c0 := row >> 24
			if c0 > uint32(c1) {
				continue
			}
			p := s.before(row)
			next[c0]--
			rows[next[c0]] = p | uint32(text[p-1])<<24
		}
	}
}

// before returns the place before that of a row.
func (s *sorter) before(row uint32) uint32 {
	p := row&rowPlace - 1
	if p == 0 {
		return uint32(s.n)
	}
	return p
}

// induceA makes the rows of type A, from the first row to the last: a rotation of
// type A is greater than its successor.
func (s *sorter) induceA() {
	rows, text := s.rows, s.text
	var next [256]uint32
	copy(next[:], s.starts[:])
	for c1 := range uint32(256) {
		end := s.starts[c1+1]
		typeB := end - s.typeB[c1]
		for i := s.starts[c1]; i < end; i++ {
			row := rows[i]
			c0 := row >> 24
			if c0 < c1 || c0 == c1 && i >= typeB {
				continue
			}
			p := s.before(row)
			rows[next[c0]] = p | uint32(text[p-1])<<24
			next[c0]++
		}
	}
}

// textAt returns eight bytes of the circle from a place on, which may be up to
// around-8 behind the end of the text.
func (s *sorter) textAt(p uint32) uint64 { return binary.BigEndian.Uint64(s.text[p:]) }
