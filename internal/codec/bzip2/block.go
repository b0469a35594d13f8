package bzip2

import (
	"fmt"
	"io"
)

const (
	maxTables    = 6
	maxSelectors = maxBlock/groupSize + 1 // as many as a block can use

	// maxPacked is the most input, in bytes, one block may take. Its 900,001
	// symbols have at most 20 bits each, 2.25 MB, and no encoder's tables take
	// the rest. It bounds the window on the input.
	maxPacked = 5 << 19
)

// A block is a place in the input where a block may begin, and what was there.
// It is used again and again: every decode fills bytes anew.
type block struct {
	start int64 // of the magic, in bits
	done  chan struct{}

	// These are valid once done was received.
	end   int64  // just past the block, in bits
	bytes []byte // with the runs still short
	crc   uint32 // of the bytes with the runs long
	err   error  // a damage, io.ErrUnexpectedEOF, or what the input says
}

func newBlock() *block {
	return &block{done: make(chan struct{}, 1)}
}

// A damage says what is wrong with a block.
type damage string

func (d damage) Error() string { return string(d) }

// A decoder is what one worker needs to decode blocks, one after another.
type decoder struct {
	bits      bitReader
	column    column
	unsorter  unsorter
	tables    [maxTables]table
	selectors [maxSelectors]uint8
	groups    int // how many of the selectors are given
	entries   [groupSize]entry
	long      [8 << 10]byte // some of the block's bytes with the runs long
}

func newDecoder(in *input) *decoder {
	d := &decoder{bits: bitReader{in: in}}
	d.column.bytes = make([]byte, columnSize+8)
	d.unsorter.strands = make([]strand, maxBlock/spacing+2)
	return d
}

// roomFor returns n rounded up to what a whole block of some level holds, so
// that the next block will most likely fit as well.
func roomFor(n int) int { return (n + levelSize - 1) / levelSize * levelSize }

// decode decodes b.
func (d *decoder) decode(b *block) {
	d.bits.seek(b.start+magicBits, maxPacked)
	defer d.bits.release()
	b.err = d.block(b)
	b.end = d.bits.off()
	switch {
	case b.err == nil && !d.bits.short(0):
	case b.err != nil && !d.bits.short(maxLength): // the longest that is read without being taken
	case d.bits.err == io.EOF:
		b.err = io.ErrUnexpectedEOF
	default:
		b.err = d.bits.err
	}
}

func (d *decoder) block(b *block) error {
	crc := uint32(d.bits.bits(32))
	random := d.bits.bit()
	orig := uint32(d.bits.bits(24))
	if err := d.header(); err != nil {
		return err
	}
	if err := d.symbols(); err != nil {
		return err
	}
	n := d.column.n
	if n == 0 || orig >= uint32(n) {
		return damage("the block's first byte is not in it")
	}
	if cap(b.bytes) < n {
		b.bytes = make([]byte, roomFor(n))
	}
	if cap(d.unsorter.rows) <= n {
		d.unsorter.rows = make([]uint32, roomFor(n)+1)
	}
	b.bytes = b.bytes[:n]
	d.unsorter.link(&d.column)
	d.unsorter.spell(b.bytes, d.column.bytes, orig)
	if random {
		derandomise(b.bytes)
	}
	b.crc = crc
	return d.check(b)
}

// header reads the bytes in use, the selectors and the tables.
func (d *decoder) header() error {
	var used [256]byte
	n := 0
	rows := d.bits.bits(16)
	for i := range 16 {
		if rows<<i&0x8000 == 0 {
			continue
		}
		cols := d.bits.bits(16)
		for j := range 16 {
			if cols<<j&0x8000 != 0 {
				used[n] = byte(16*i + j)
				n++
			}
		}
	}
	tables, selectors := int(d.bits.bits(3)), int(d.bits.bits(15))
	if n == 0 || tables < 2 || tables > maxTables || selectors == 0 {
		return damage("the block's header makes no sense")
	}
	d.column.reset(used[:n])
	if err := d.readSelectors(tables, selectors); err != nil {
		return err
	}
	for i := range tables {
		if err := d.readTable(&d.tables[i], n+2); err != nil {
			return err
		}
	}
	return nil
}

// readSelectors reads which table each group of symbols is coded with. More
// selectors than a block can use may be given: some encoders round up.
func (d *decoder) readSelectors(tables, selectors int) error {
	recent := [maxTables]uint8{0, 1, 2, 3, 4, 5}
	for i := range selectors {
		at := 0
		for d.bits.bit() {
			if at++; at == tables {
				return damage("the block's list of tables makes no sense")
			}
		}
		table := recent[at]
		copy(recent[1:], recent[:at])
		recent[0] = table
		if i < maxSelectors {
			d.selectors[i] = table
		}
	}
	d.groups = min(selectors, maxSelectors)
	return nil
}

// readTable reads the lengths of a Huffman code: each is the one before it and
// as many steps up or down as are given.
func (d *decoder) readTable(t *table, symbols int) error {
	var lengths [maxAlpha]uint8
	l := d.bits.bits(5)
	for i := range symbols {
		for {
			if l < 1 || l > maxLength || d.bits.err != nil && d.bits.short(0) {
				return damage("a code of the block has an impossible length")
			}
			if !d.bits.bit() {
				break
			}
			l += 1 - 2*d.bits.bits(1)
		}
		lengths[i] = uint8(l)
	}
	t.build(lengths[:symbols])
	return nil
}

// symbols reads the last column.
func (d *decoder) symbols() error {
	for _, selector := range d.selectors[:d.groups] {
		n, done, ok := d.bits.group(&d.tables[selector], &d.entries)
		switch {
		case !ok:
			return damage("the block has bits that are no code")
		case !d.column.add(d.entries[:n]) || done && !d.column.end():
			return damage(fmt.Sprintf("the block holds more than %d bytes", maxBlock))
		case done:
			return nil
		case d.bits.short(0):
			return damage("the block has no end")
		}
	}
	return damage("the block goes on after its last group of symbols")
}

// check verifies b's checksum.
func (d *decoder) check(b *block) error {
	table, c := crc(), ^uint32(0)
	e := expander{src: b.bytes}
	for {
		n := e.expand(d.long[:])
		if n == 0 {
			break
		}
		c = table.update(c, d.long[:n])
	}
	if e.torn {
		return damage("the block ends inside a run")
	}
	if ^c != b.crc {
		return damage("the block's checksum does not match its bytes")
	}
	return nil
}
