package bzip2

import (
	"math/bits"
	"slices"
)

const (
	// longestCode is how long the codes are at most that are made, in bits. Others
	// may be up to maxLength, but bzip2 makes none.
	longestCode = 17

	passes = 4 // how often the tables are fitted to the groups, and these to them
)

// A coder chooses the codes of a block: which table each group of symbols has, and
// what is in these.
type coder struct {
	tables    int
	selectors []uint8
	alphabet  int // symbols that a code has
	count     [maxTables][maxAlpha]uint32
	length    [maxTables][maxAlpha]uint8
	cost      [512]uint64 // of a symbol, a lane of costBits for each table
	order     [maxAlpha]uint64
	tree      [maxAlpha]uint32
}

const costBits = 10 // a group takes at most 50 times 20 bits

// choose makes the codes for symbols.
func (c *coder) choose(symbols []uint16, alphabet int) {
	c.alphabet = alphabet
	switch n := len(symbols); {
	case n < 200:
		c.tables = 2
	case n < 600:
		c.tables = 3
	case n < 1200:
		c.tables = 4
	case n < 2400:
		c.tables = 5
	default:
		c.tables = 6
	}
	c.begin(symbols)
	for range passes {
		c.fit(symbols)
		for t := range c.tables {
			c.lengths(c.count[t][:alphabet], c.length[t][:alphabet])
		}
	}
}

// begin makes tables of which each is good for its share of the symbols: those
// that are about as frequent together, in the alphabet's order.
func (c *coder) begin(symbols []uint16) {
	var count [512]uint32
	for _, s := range symbols {
		count[s&511]++
	}
	left, from := uint32(len(symbols)), 0
	for t := range c.tables {
		share, got := left/uint32(c.tables-t), uint32(0)
		to := from
		for ; to < c.alphabet && got < share; to++ {
			got += count[to]
		}
		// Every other time the table gets less than its share instead of more.
		if to-from > 1 && t > 0 && t < c.tables-1 && (c.tables-t)%2 == 1 {
			to--
			got -= count[to]
		}
		for s := range c.alphabet {
			c.length[t][s] = 15
			if s >= from && s < to {
				c.length[t][s] = 0
			}
		}
		left -= got
		from = to
	}
}

// fit gives each group the table with which it is shortest, and counts what the
// tables are used for.
func (c *coder) fit(symbols []uint16) {
	for s := range c.alphabet {
		c.cost[s] = 0
		for t := range c.tables {
			c.cost[s] |= uint64(c.length[t][s]) << (costBits * t)
		}
	}
	for t := range c.tables {
		clear(c.count[t][:])
	}
	c.selectors = c.selectors[:0]
	for len(symbols) > 0 {
		group := symbols[:min(groupSize, len(symbols))]
		symbols = symbols[len(group):]
		cost := uint64(0)
		for _, s := range group {
			cost += c.cost[s&511]
		}
		best, least := 0, cost&(1<<costBits-1)
		for t := 1; t < c.tables; t++ {
			if now := cost >> (costBits * t) & (1<<costBits - 1); now < least {
				best, least = t, now
			}
		}
		c.selectors = append(c.selectors, uint8(best))
		count := &c.count[best]
		for _, s := range group {
			count[s]++
		}
	}
}

// lengths makes a code of at most longestCode bits for symbols that are used so
// often: Moffat and Katajainen, "In-place calculation of minimum-redundancy
// codes", 1995. Every symbol gets one. If a code is too long, the counts are made
// more alike.
func (c *coder) lengths(count []uint32, length []uint8) {
	const symbolBits = 9
	order := c.order[:len(count)]
	for s, n := range count {
		order[s] = uint64(max(n, 1))<<symbolBits | uint64(s)
	}
	for {
		slices.Sort(order)
		w := c.tree[:len(order)]
		for i, o := range order {
			w[i] = uint32(o >> symbolBits)
		}
		if minimumRedundancy(w); w[0] <= longestCode {
			break
		}
		for i, o := range order {
			order[i] = (o>>symbolBits/2+1)<<symbolBits | o&(1<<symbolBits-1)
		}
	}
	for i, o := range order {
		length[o&(1<<symbolBits-1)] = uint8(c.tree[i])
	}
}

// minimumRedundancy turns ascending weights, two or more, into the lengths of
// their codes, which descend.
func minimumRedundancy(w []uint32) {
	n := len(w)
	w[0] += w[1]
	root, leaf := 0, 2
	for next := 1; next < n-1; next++ {
		for k := range 2 {
			var pick uint32
			if leaf >= n || root < next && w[root] < w[leaf] {
				pick = w[root]
				w[root] = uint32(next)
				root++
			} else {
				pick = w[leaf]
				leaf++
			}
			if k == 0 {
				w[next] = pick
			} else {
				w[next] += pick
			}
		}
	}
	// From the inner nodes' parents to their depths.
	w[n-2] = 0
	for i := n - 3; i >= 0; i-- {
		w[i] = w[w[i]] + 1
	}
	// From the depths of inner nodes to those of leaves.
	free, depth := 1, uint32(0)
	root = n - 2
	for next := n - 1; free > 0; depth++ {
		used := 0
		for ; root >= 0 && w[root] == depth; root-- {
			used++
		}
		for ; free > used; free-- {
			w[next] = depth
			next--
		}
		free = 2 * used
	}
}

// codes returns the canonical code of these lengths: in the lower 8 bits how long
// a symbol's is, above them the code.
func codes(length []uint8, dst *[512]uint32) {
	next := uint32(0)
	for l := uint8(1); l <= longestCode; l++ {
		for s, have := range length {
			if have == l {
				dst[s] = next<<8 | uint32(l)
				next++
			}
		}
		next <<= 1
	}
}

var _ = bits.Len
