package bzip2

import (
	"bytes"
	"math/rand/v2"
	"sort"
)

// The tests build their own bzip2 streams, symbol by symbol, and know what is
// in them without any decoder of this package: see naiveText and naiveLong.

// A stream is bzip2 data that is being built, bit by bit.
type stream struct {
	b    []byte
	n    uint // bits used of the last byte, 1 to 8
	crc  uint32
	text []byte // what was packed so far
}

func newStream(level int) *stream {
	s := new(stream)
	s.header(level)
	return s
}

func (s *stream) put(v uint64, bits uint) {
	for i := bits; i > 0; i-- {
		if s.n%8 == 0 {
			s.b, s.n = append(s.b, 0), 0
		}
		s.b[len(s.b)-1] |= byte(v>>(i-1)&1) << (7 - s.n)
		s.n++
	}
}

// at returns how many bits there are.
func (s *stream) at() int { return len(s.b)*8 - int(8-s.n)%8 }

func (s *stream) header(level int) {
	s.n, s.crc = 0, 0
	s.put(uint64('B')<<24|'Z'<<16|'h'<<8|uint64('0'+level), 32)
}

// end ends the stream; header may begin another.
func (s *stream) end() *stream {
	s.put(endMagic, 48)
	s.put(uint64(s.crc), 32)
	s.n = 0
	return s
}

// A spec says what a block is made of.
type spec struct {
	column []byte // the last column
	orig   int
	random bool       // the text has flipped bits
	codes  *rand.Rand // makes random codes
	code   []int      // the lengths of the code, if given
	spare  int        // selectors too many
}

// sorted returns the spec of the block that holds text, its runs short already.
func sorted(text []byte) spec {
	n := len(text)
	twice := append(append([]byte(nil), text...), text...)
	rows := make([]int, n)
	for i := range rows {
		rows[i] = i
	}
	sort.Slice(rows, func(i, j int) bool {
		return bytes.Compare(twice[rows[i]:rows[i]+n], twice[rows[j]:rows[j]+n]) < 0
	})
	p := spec{column: make([]byte, n)}
	for i, r := range rows {
		p.column[i] = twice[r+n-1]
		if r == 0 {
			p.orig = i
		}
	}
	return p
}

// block adds a block.
func (s *stream) block(p spec) {
	symbols, used := encodeColumn(p.column)
	s.raw(symbols, used, p)
}

// raw adds a block of these symbols. p.column must be what they stand for.
func (s *stream) raw(symbols []int, used []byte, p spec) {
	text := naiveText(p.column, p.orig)
	if p.random {
		naiveFlip(text)
	}
	long := naiveLong(text)
	crc := naiveCRC(long)
	s.text = append(s.text, long...)
	s.crc = (s.crc<<1 | s.crc>>31) ^ crc
	s.put(blockMagic, 48)
	s.put(uint64(crc), 32)
	s.put(uint64(b2i(p.random)), 1)
	s.put(uint64(p.orig), 24)
	s.used(used)

	const tables = 2
	groups := (len(symbols) + groupSize - 1) / groupSize
	s.put(tables, 3)
	s.put(uint64(groups+p.spare), 15)
	for i := range groups + p.spare {
		if i == 0 {
			s.put(0, 1)
		} else {
			s.put(2, 2) // the other table
		}
	}
	var codes [tables][]uint32
	var lengths [tables][]int
	for t := range tables {
		if lengths[t] = p.code; p.code == nil {
			lengths[t] = codeLengths(len(used)+2, p.codes)
		}
		codes[t] = canonical(lengths[t])
		s.lengths(lengths[t])
	}
	for i, sym := range symbols {
		t := i / groupSize % tables
		s.put(uint64(codes[t][sym]), uint(lengths[t][sym]))
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *stream) used(used []byte) {
	var rows uint64
	var cols [16]uint64
	for _, b := range used {
		rows |= 0x8000 >> (b / 16)
		cols[b/16] |= 0x8000 >> (b % 16)
	}
	s.put(rows, 16)
	for _, c := range cols {
		if c != 0 {
			s.put(c, 16)
		}
	}
}

func (s *stream) lengths(lengths []int) {
	l := lengths[0]
	s.put(uint64(l), 5)
	for _, want := range lengths {
		for ; l < want; l++ {
			s.put(2, 2)
		}
		for ; l > want; l-- {
			s.put(3, 2)
		}
		s.put(0, 1)
	}
}

// codeLengths returns the lengths of a complete code: all about the same, or
// random ones of up to maxLength bits.
func codeLengths(symbols int, r *rand.Rand) []int {
	lengths := []int{0}
	for len(lengths) < symbols {
		i := 0
		if r != nil {
			for i = r.IntN(len(lengths)); lengths[i] == maxLength; i = r.IntN(len(lengths)) {
			}
			if r.IntN(3) > 0 {
				i = len(lengths) - 1 - r.IntN(min(3, len(lengths)))
			}
			if lengths[i] == maxLength {
				continue
			}
		} else {
			for j, l := range lengths {
				if l < lengths[i] {
					i = j
				}
			}
		}
		lengths[i]++
		lengths = append(lengths, lengths[i])
	}
	if r != nil {
		r.Shuffle(len(lengths), func(i, j int) { lengths[i], lengths[j] = lengths[j], lengths[i] })
	}
	return lengths
}

func canonical(lengths []int) []uint32 {
	codes := make([]uint32, len(lengths))
	next := uint32(0)
	for l := 1; l <= maxLength; l++ {
		for s, have := range lengths {
			if have == l {
				codes[s] = next
				next++
			}
		}
		next <<= 1
	}
	return codes
}

// encodeColumn returns the symbols of a column, with the end of block, and the
// bytes it uses.
func encodeColumn(column []byte) (symbols []int, used []byte) {
	var has [256]bool
	for _, b := range column {
		has[b] = true
	}
	for b, h := range has {
		if h {
			used = append(used, byte(b))
		}
	}
	list := append([]byte(nil), used...)
	run := 0
	flush := func() {
		for ; run > 0; run = (run - 1) / 2 {
			symbols = append(symbols, (run-1)%2)
		}
	}
	for _, b := range column {
		at := bytes.IndexByte(list, b)
		if at == 0 {
			run++
			continue
		}
		flush()
		symbols = append(symbols, at+1)
		copy(list[1:], list[:at])
		list[0] = b
	}
	flush()
	return append(symbols, len(used)+1), used
}

// decodeSymbols returns the column that symbols, but for the end of block, stand for.
func decodeSymbols(symbols []int, used []byte) (column []byte) {
	list := append([]byte(nil), used...)
	run, weight := 0, 1
	flush := func() {
		column = append(column, bytes.Repeat(list[:1], run)...)
		run, weight = 0, 1
	}
	for _, s := range symbols {
		if s < 2 {
			run += (s + 1) * weight
			weight *= 2
			continue
		}
		flush()
		b := list[s-1]
		copy(list[1:], list[:s-1])
		list[0] = b
		column = append(column, b)
	}
	flush()
	return column
}

// naiveText undoes the sorting in the simplest way there is.
func naiveText(column []byte, orig int) []byte {
	next := make([]int, len(column))
	for i := range next {
		next[i] = i
	}
	sort.SliceStable(next, func(i, j int) bool { return column[next[i]] < column[next[j]] })
	text := make([]byte, len(column))
	for i, row := 0, orig; i < len(text); i++ {
		row = next[row]
		text[i] = column[row]
	}
	return text
}

// naiveFlip flips the bits a randomised block has flipped, in the words of
// bzip2's own macros.
func naiveFlip(text []byte) {
	toGo, pos := 0, 0
	for i := range text {
		if toGo == 0 {
			toGo = int(randomDistances[pos])
			if pos++; pos == 512 {
				pos = 0
			}
		}
		if toGo--; toGo == 1 {
			text[i] ^= 1
		}
	}
}

// naiveLong lengthens runs byte by byte.
func naiveLong(text []byte) []byte {
	var long []byte
	same := 0
	for i, b := range text {
		if same == 4 {
			long = append(long, bytes.Repeat(text[i-1:i], int(b))...)
			same = 0
			continue
		}
		if same > 0 && b == text[i-1] {
			same++
		} else {
			same = 1
		}
		long = append(long, b)
	}
	return long
}

// short shortens runs as bzip2 does.
func short(long []byte) []byte {
	var text []byte
	for i := 0; i < len(long); {
		n := 1
		for n < 259 && i+n < len(long) && long[i+n] == long[i] {
			n++
		}
		text = append(text, long[i:i+min(n, 4)]...)
		if n >= 4 {
			text = append(text, byte(n-4))
		}
		i += n
	}
	return text
}

func naiveCRC(p []byte) uint32 {
	c := ^uint32(0)
	for _, b := range p {
		c ^= uint32(b) << 24
		for range 8 {
			c = c<<1 ^ crcPoly&-(c>>31)
		}
	}
	return ^c
}

// pack returns one stream of the blocks.
func pack(blocks ...[]byte) []byte {
	s := newStream(9)
	for _, b := range blocks {
		s.block(sorted(short(b)))
	}
	return s.end().b
}

// words returns n bytes that look a little like text.
func words(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	list := make([]string, 200)
	for i := range list {
		w := make([]byte, 1+r.IntN(9))
		for j := range w {
			w[j] = "etaoinshrdlucmfwypvbgkjqxz"[min(r.IntN(26), r.IntN(26))]
		}
		list[i] = string(w) + " "
	}
	var b []byte
	for len(b) < n {
		b = append(b, list[min(r.IntN(200), r.IntN(200))]...)
	}
	return b[:n]
}

// noise returns n random bytes.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
