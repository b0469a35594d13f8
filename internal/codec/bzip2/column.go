package bzip2

import "encoding/binary"

const (
	levelSize = 100_000 // bytes a block may hold for each level, with the runs still short
	maxBlock  = 9 * levelSize

	columnSize = 1 << 20 // more than maxBlock and what one group can add
	cutEvery   = 1 << 14
)

// A column is the last column of a block's sorted rotations, as it grows.
type column struct {
	front front
	moved [groupSize]byte

	bytes []byte // columnSize and 8 to spare
	n     int    // how many of these are made
	last  byte   // what is at the front
	due   int    // 1 if last was moved there and has not been written since
	shift uint   // how many symbols of the run that is being read were read

	count [256]uint32 // of each byte
	cuts  [maxBlock/cutEvery + 3]cut
	cut   int // how many cuts there are
}

// A cut is how much of the column there was at one time. There is one at its
// begin, one at its end, and one about every cutEvery bytes.
type cut struct {
	n     int
	count [256]uint32
}

// reset begins a column of the bytes of used, in ascending order.
func (c *column) reset(used []byte) {
	c.front.list(used)
	c.n, c.last, c.due, c.shift = 0, used[0], 0, 0
	clear(c.count[:])
	c.cut = 0
	c.mark()
}

func (c *column) mark() {
	c.cuts[c.cut].n, c.cuts[c.cut].count = c.n, c.count
	c.cut++
}

// add appends what es say. It reports false if the column becomes longer than
// maxBlock.
//
// An entry with a move ends a run, one without continues it; which it is cannot
// be predicted, so there is no branch on it.
func (c *column) add(es []entry) bool {
	c.front.move(es, &c.moved)
	bytes, n, last, due, shift := c.bytes[:columnSize+8], c.n, c.last, c.due, c.shift
	for i, e := range es {
		n0 := n & (columnSize - 1)
		run := due + e.run()<<(shift&63)
		c.count[last] += uint32(run)
		binary.LittleEndian.PutUint64(bytes[n0:n0+8], ones*uint64(last))
		if n += run; run > 8 {
			if n > maxBlock || run > maxBlock {
				return false
			}
			fill(bytes[n0+8:], run-8, last)
		}
		more := (e.back() - 1) >> 63 // all ones if the run goes on
		due = 1 + more
		shift = (shift + uint(e.symbols())) & uint(more)
		last = c.moved[i]
	}
	c.n, c.last, c.due, c.shift = n, last, due, shift
	if n-c.cuts[c.cut-1].n >= cutEvery && n <= maxBlock {
		c.mark()
	}
	return n <= maxBlock
}

// end appends what is due at the end of the block.
func (c *column) end() bool {
	c.count[c.last] += uint32(c.due)
	c.bytes[c.n] = c.last
	c.n += c.due
	c.mark()
	return c.n <= maxBlock
}

// before returns the last cut that is not after the byte n.
func (c *column) before(n int) *cut {
	i := c.cut - 1
	for c.cuts[i].n > n {
		i--
	}
	return &c.cuts[i]
}
