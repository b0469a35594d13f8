package bzip2

const (
	maxLength = 20  // of a code, in bits
	maxAlpha  = 258 // symbols: two for runs, 255 moves to front, end of block
	groupSize = 50  // symbols read with one table

	// lutBits is how much of the input one look-up sees. Five look-ups go with
	// one refill, and six tables with one first-level cache.
	lutBits = 10
)

// An entry says what the next lutBits bits of input begin with: as many whole
// codes of run symbols as there are, and the code of the move to front after
// them if that is whole too.
//
//	bits 0 to 5    bits of input it takes
//	bits 6 to 9    bits the first symbol alone takes
//	bits 10 to 15  symbols in it; slow if they cannot be read this way
//	bits 16 to 23  how far back the byte is that moves to the front; 0 if there is no move
//	bits 24 to 31  what its run symbols add to the run, if they are the first of it
type entry uint32

const (
	slow    = 63
	maxRuns = 7 // run symbols in an entry: their sum is at most 254
)

func (e entry) bits() uint   { return uint(e & 63) }
func (e entry) first() uint  { return uint(e >> 6 & 15) }
func (e entry) run() int     { return int(e >> 24) }
func (e entry) back() int    { return int(e >> 16 & 255) }
func (e entry) symbols() int { return int(e >> 10 & 63) }

// head returns e with only the first of its symbols.
func (e entry) head() entry {
	if e.symbols() == 1 {
		return e
	}
	return runEntry(2-e.run()&1, e.first()) // only the first symbol of a run adds an odd number
}

// runEntry returns the entry of one run symbol that adds run, 1 or 2.
func runEntry(run int, length uint) entry {
	return entry(run)<<24 | 1<<10 | entry(length<<6|length)
}

// moveEntry returns the entry of one symbol that moves a byte to the front.
func moveEntry(back int, length uint) entry {
	return entry(back)<<16 | 1<<10 | entry(length<<6|length)
}

// A table decodes one canonical Huffman code.
type table struct {
	lut   [1 << lutBits]entry
	limit [maxLength + 1]uint32 // the first code beyond those of this length, left-aligned to maxLength bits
	base  [maxLength + 1]int32  // what turns a code of this length into an index of perm
	perm  [maxAlpha]uint16      // symbols in the order of their codes
	eob   int                   // the symbol that ends the block
}

// build makes t decode the code that gives symbol i lengths[i] bits, 1 to
// maxLength. As in bzip2 itself, a code that is incomplete or has words too
// many is not refused: only input that no word begins is.
func (t *table) build(lengths []uint8) {
	// at[l] is how many symbols have codes shorter than l.
	var at [maxLength + 2]int32
	for _, l := range lengths {
		at[l+1]++
	}
	for l := 1; l < len(at); l++ {
		at[l] += at[l-1]
	}
	next := at
	for s, l := range lengths {
		t.perm[next[l]] = uint16(s)
		next[l]++
	}
	t.eob = len(lengths) - 1
	for i := range t.lut {
		t.lut[i] = slow << 10
	}
	code := uint32(0)
	for l := uint(1); l <= maxLength; l++ {
		t.base[l] = at[l] - int32(code)
		if l <= lutBits {
			t.enter(code, l, t.perm[at[l]:at[l+1]])
		}
		code += uint32(at[l+1] - at[l])
		t.limit[l] = code << (maxLength - l)
		code <<= 1
	}
	t.combine()
}

// enter enters the symbols that have codes of l bits; the first of these is code.
func (t *table) enter(code uint32, l uint, symbols []uint16) {
	width := uint32(1) << (lutBits - l)
	for _, s := range symbols {
		if (code+1)*width > uint32(len(t.lut)) {
			return // one word too many: bzip2 never finds it
		}
		row := t.lut[code*width : (code+1)*width]
		e := entry(slow << 10)
		switch {
		case s < 2:
			e = runEntry(int(s)+1, l)
		case int(s) < t.eob:
			e = moveEntry(int(s)-1, l)
		}
		for i := range row {
			row[i] = e
		}
		code++
	}
}

// combine adds to every entry that is a run symbol what follows it.
func (t *table) combine() {
	single := t.lut
	for i, e := range &single {
		if e.run() == 0 {
			continue
		}
		for runs := uint(1); runs < maxRuns; runs++ {
			more := single[i<<e.bits()&(len(single)-1)]
			if more.symbols() == slow || e.bits()+more.bits() > lutBits {
				break
			}
			e += entry(more.run()<<runs)<<24 | entry(more.back())<<16 | 1<<10 | entry(more.bits())
			if more.back() != 0 {
				break
			}
		}
		t.lut[i] = e
	}
}

// search returns the symbol whose code the 64 bits begin with, and its length,
// or a length of 0 if there is none.
func (t *table) search(bits uint64) (symbol int, length uint) {
	code := uint32(bits >> (64 - maxLength))
	for l := uint(1); l <= maxLength; l++ {
		if code < t.limit[l] {
			return int(t.perm[int32(code>>(maxLength-l))+t.base[l]]), l
		}
	}
	return 0, 0
}

// group reads the symbols of one group with t, fewer if the block ends, into
// dst, and returns how many entries that makes. done says that the block ends,
// ok that the input makes sense.
func (b *bitReader) group(t *table, dst *[groupSize]entry) (n int, done, ok bool) {
	const lookups = 56 / lutBits
	for left := groupSize; left > 0; {
		b.fill()
		i, word, used, e := 0, b.buf, uint(0), entry(0)
		for ; i < lookups; i++ {
			if e = t.lut[word>>(64-lutBits)]; e.symbols() > left {
				break
			}
			left -= e.symbols()
			word <<= e.bits()
			used += e.bits()
			dst[n] = e
			n++
		}
		b.buf = word
		b.n -= used
		switch {
		case i == lookups || left == 0:
			continue
		case e.symbols() < slow:
			e = e.head()
			b.skip(e.bits())
		default:
			b.fill()
			symbol, length := t.search(b.buf)
			b.skip(length)
			switch {
			case length == 0:
				return n, false, false
			case symbol == t.eob:
				return n, true, true
			case symbol < 2:
				e = runEntry(symbol+1, 0)
			default:
				e = moveEntry(symbol-1, 0)
			}
		}
		left--
		dst[n] = e
		n++
	}
	return n, false, true
}
