package bzip2

import "encoding/binary"

// A sorter sorts a block's rotations: the Burrows-Wheeler transform.
//
// A rotation is of type A if it is greater than the one that begins a byte later,
// and of type B if it is less; of equal ones, each is what the other is. One of
// type B before one of type A is a star. Only the stars, at most half and mostly a
// third of all, are sorted by comparing (stars.go, ranks.go). The order of the
// others follows from theirs in two passes: Itoh and Tanaka, "An efficient method
// for in memory construction of suffix arrays", 1999, as Yuta Mori's divsufsort
// refined it, but on a circle. So no end of the text is needed: the last byte is
// followed by the first. A block of one byte over and over has no stars; its
// rotations are all equal.
//
// Places in the text are counted from 1. A row is a rotation: its place, and in
// the upper 8 bits the byte before it, which is the row's byte in the last column.
// So the passes look at the text only to make a row.
type sorter struct {
	text []byte   // text[1:n+1] is the block; around that the circle goes on
	n    int      // the block's length
	rows []uint32 // the sorted rotations

	pairs  [1 << 16]uint32 // how many rotations begin with a pair of bytes
	begins [1 << 16]uint32 // see bucketStars and place
	starts [257]uint32     // the first row of a byte
	typeB  [256]uint32     // how many rotations of type B begin with a byte

	room   []uint32 // of which stars is the end
	stars  []uint32 // the places of the stars, ascending
	groups []group  // by their first row
	open   int      // how many stars are in groups
	keys   []key
	made   int // how many keys were, which is what sorting costs; for the tests
	far    int // how many bytes stars are compared by before their ranks are
}

const (
	rowPlace = 1<<24 - 1 // what of a row is its place

	// around is how far the circle goes on behind the block, in bytes.
	around = 16
)

func newSorter() *sorter { return &sorter{far: farEnough} }

// sort sorts the rotations of the block in buf[1:n+1], which holds some bytes.
// There is room for around bytes behind it, and buf[0] is free.
func (s *sorter) sort(buf []byte, n int) {
	s.lay(buf, n)
	if !s.classify() {
		for i := range s.rows {
			s.rows[i] = uint32(s.text[1])<<24 | uint32(i+1)
		}
		return
	}
	s.sortStars()
	s.place()
	s.induceB()
	s.induceA()
}

// lay lays the block out as a circle, and makes room for its rows.
func (s *sorter) lay(buf []byte, n int) {
	s.text, s.n = buf[:1+n+around], n
	s.text[0] = s.text[n]
	for i := n + 1; i < len(s.text); i++ {
		s.text[i] = s.text[i-n]
	}
	if cap(s.rows) < n {
		size := roomFor(n)
		s.rows = make([]uint32, size)
		s.room = make([]uint32, size/2+2)
		s.groups = make([]group, size/2)
		s.keys = make([]key, size/2)
	}
	s.rows = s.rows[:n]
}

// classify finds the types, counts rotations and lists the stars. It reports
// false if all bytes are the same.
func (s *sorter) classify() bool {
	text, last := s.text, s.n
	for last > 1 && text[last] == text[last+1] {
		last--
	}
	clear(s.pairs[:])
	var types [512]uint32 // by type and byte

	// The bytes behind last are like the first. So is the type of what begins
	// there, which is not known yet, and does not matter to that of last.
	const a, b = 0, 1
	c1, t1 := text[last+1], uint(b)
	free := len(s.room) - 2
	for i := last; i > 0; i-- {
		c0 := text[i]
		t0 := uint(int(c0)-int(c1)-int(t1)) >> 63 // b if less, or equal to what is b
		s.pairs[uint(c0)<<8|uint(c1)]++
		types[(t0<<8|uint(c0))&511]++
		s.room[free] = uint32(i)
		free -= int(t0 &^ t1)
		c1, t1 = c0, t0
	}
	same := uint32(s.n - last)
	s.pairs[uint(c1)<<8|uint(c1)] += same
	types[t1<<8|uint(c1)] += same
	end := len(s.room) - 1
	if text[last] < c1 && t1 == a { // last is a star after all
		s.room[end] = uint32(last)
		end++
	}
	s.stars = s.room[free+1 : end]

	at := uint32(0)
	for c := range 256 {
		s.starts[c], s.typeB[c] = at, types[256+c]
		at += types[c] + types[256+c]
	}
	s.starts[256] = at
	return len(s.stars) > 0
}

// used returns the bytes in the block, ascending.
func (s *sorter) used() []byte {
	var b []byte
	for c := range 256 {
		if s.starts[c] < s.starts[c+1] {
			b = append(b, byte(c))
		}
	}
	return b
}

// place makes rows of the sorted stars, which are listed at the begin of rows, and
// puts them where they belong: before the other rotations of type B that
// begin with the same pair of bytes.
//
// It turns begins around: begins[c1<<8|c0] becomes the end of the rows of type B
// that begin with c0 and c1, where c0 is not greater.
func (s *sorter) place() {
	rows, text := s.rows, s.text
	from := uint32(len(s.stars))
	for c0 := 255; c0 >= 0; c0-- {
		to := s.starts[c0+1]
		for c1 := 255; c1 > c0; c1-- {
			pair := c0<<8 | c1
			s.begins[c1<<8|c0] = to
			to -= s.pairs[pair]
			begin := s.begins[pair]
			for ; from > begin; from-- {
				p := s.stars[rows[from-1]]
				rows[to+from-1-begin] = p | uint32(text[p-1])<<24
			}
		}
		s.begins[c0<<8|c0] = to
	}
}

// induceB makes the other rows of type B. Such a rotation is less than the one
// that begins a byte later. So if these are gone through from the last row to the
// first, each comes before it is needed.
func (s *sorter) induceB() {
	rows, text := s.rows, s.text
	var next [256]uint32
	for c1 := 255; c1 >= 0; c1-- {
		copy(next[:c1+1], s.begins[c1<<8:])
		end := s.starts[c1+1]
		for i := int(end) - 1; i >= int(end-s.typeB[c1]); i-- {
			c0 := rows[i] >> 24
			if c0 > uint32(c1) {
				continue
			}
			p := s.before(rows[i])
			next[c0]--
			rows[next[c0]] = p | uint32(text[p-1])<<24
		}
	}
}

// induceA makes the rows of type A, from the first to the last.
func (s *sorter) induceA() {
	rows, text := s.rows, s.text
	var next [256]uint32
	copy(next[:], s.starts[:])
	for c1 := range uint32(256) {
		end := s.starts[c1+1]
		typeB := end - s.typeB[c1]
		for i := s.starts[c1]; i < end; i++ {
			c0 := rows[i] >> 24
			if c0 < c1 || c0 == c1 && i >= typeB {
				continue
			}
			p := s.before(rows[i])
			rows[next[c0]] = p | uint32(text[p-1])<<24
			next[c0]++
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

// textAt returns eight bytes of the circle, from a place on which is at most
// around-8 behind the block.
func (s *sorter) textAt(p uint32) uint64 { return binary.BigEndian.Uint64(s.text[p:]) }
