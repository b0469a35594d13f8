package bzip2

import "slices"

const (
	// longestCode is how long the codes are at most that are made, in bits. They
	// may be up to maxLength, but bzip2 makes none longer than this.
	longestCode = 17

	// passes is how often the groups choose among the codes, and these are fitted
	// to the groups that chose them.
	passes = 4

	// costBits is room for what a group takes: 50 times 17 bits.
	costBits = 10
	costMask = 1<<costBits - 1
)

// A coder finds good codes for a block, two to six, and chooses one of them for each
// group of symbols.
type coder struct {
	alphabet  int // how many symbols there are
	tables    int // how many codes
	lengths   [maxTables][maxAlpha]uint8
	selectors []uint8 // the code of each group

	counts [maxTables][512]uint32 // how often a code is used for a symbol
	costs  [512]uint64            // of a symbol, costBits for each code
	order  [maxAlpha]uint64
	tree   [maxAlpha]uint32
}

// choose finds the codes for symbols, which are less than alphabet. Each code has a
// word for every one of them.
func (c *coder) choose(symbols []uint16, alphabet int) {
	c.alphabet = alphabet
	switch n := len(symbols); { // as bzip2 does
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
	c.selectors = slices.Grow(c.selectors[:0], maxSelectors)[:(len(symbols)+groupSize-1)/groupSize]
	for i := range c.selectors {
		c.selectors[i] = maxTables // none yet
	}
	c.counts = [maxTables][512]uint32{}
	for range passes {
		c.selectCodes(symbols)
		for t := range c.tables {
			c.fit(c.lengths[t][:alphabet], c.counts[t][:alphabet])
		}
	}
}

// begin makes codes of which each is good for a part of the alphabet, and each
// part is about as frequent as the others. The inner ones get a little more and a
// little less than that by turns. This is what bzip2 begins with.
func (c *coder) begin(symbols []uint16) {
	const good, bad = 0, 15
	var counts [512]uint32
	for _, s := range symbols {
		counts[s&511]++
	}
	left, from := uint32(len(symbols)), 0
	for t := range c.tables {
		more := c.tables - t
		to, got := from, uint32(0)
		for ; to < c.alphabet && got < left/uint32(more); to++ {
			got += counts[to]
		}
		if to-from > 1 && more < c.tables && more > 1 && more%2 == 1 {
			to--
			got -= counts[to]
		}
		for s := range c.alphabet {
			c.lengths[t][s] = bad
			if from <= s && s < to {
				c.lengths[t][s] = good
			}
		}
		left, from = left-got, to
	}
}

// selectCodes gives each group the code with which it is shortest, and counts what
// the codes are used for.
func (c *coder) selectCodes(symbols []uint16) {
	for s := range c.alphabet {
		c.costs[s] = 0
		for t := range c.tables {
			c.costs[s] |= uint64(c.lengths[t][s]) << (costBits * t)
		}
	}
	for i, old := range c.selectors {
		group := symbols[:min(groupSize, len(symbols))]
		symbols = symbols[len(group):]
		cost := uint64(0) // with every code at once
		for _, s := range group {
			cost += c.costs[s&511]
		}
		best, least := 0, cost&costMask
		for t := 1; t < c.tables; t++ {
			if k := cost >> (costBits * t) & costMask; k < least {
				best, least = t, k
			}
		}
		if int(old) == best {
			continue
		}
		c.selectors[i] = uint8(best)
		if old < maxTables {
			addTo(&c.counts[old], group, ^uint32(0))
		}
		addTo(&c.counts[best], group, 1)
	}
}

// addTo adds n to the count of each symbol of a group.
func addTo(counts *[512]uint32, group []uint16, n uint32) {
	for _, s := range group {
		counts[s&511] += n
	}
}

// fit makes the best code for symbols that are used so often, in which no word is
// longer than longestCode. If one would be, the counts are made more alike.
func (c *coder) fit(lengths []uint8, counts []uint32) {
	const symbolBits, symbolMask = 9, 1<<9 - 1
	order, tree := c.order[:len(counts)], c.tree[:len(counts)]
	for s, n := range counts {
		order[s] = uint64(max(n, 1))<<symbolBits | uint64(s)
	}
	slices.Sort(order)
	for {
		for i, o := range order {
			tree[i] = uint32(o >> symbolBits)
		}
		if codeLengthsOf(tree); tree[0] <= longestCode {
			break
		}
		for i, o := range order { // which leaves the order as it is
			order[i] = (o>>symbolBits/2+1)<<symbolBits | o&symbolMask
		}
	}
	for i, o := range order {
		lengths[o&symbolMask] = uint8(tree[i])
	}
}

// codeLengthsOf turns weights, which ascend and are two at least, into the lengths
// of their Huffman codes, in their place: Moffat and Katajainen, "In-place
// calculation of minimum-redundancy codes", 1995.
func codeLengthsOf(w []uint32) {
	// Inner nodes take the place of leaves, which they never outrun, and when they
	// are joined themselves, the node above takes the place of their weight.
	n := len(w)
	leaf, root := 0, 0
	for node := range n - 1 {
		sum := uint32(0)
		for range 2 {
			if leaf >= n || root < node && w[root] < w[leaf] {
				sum += w[root]
				w[root] = uint32(node)
				root++
			} else {
				sum += w[leaf]
				leaf++
			}
		}
		w[node] = sum
	}
	// How deep the inner nodes are.
	w[n-2] = 0
	for node := n - 3; node >= 0; node-- {
		w[node] = w[w[node]] + 1
	}
	// What is not an inner node at a depth is a leaf.
	node, next, free := n-2, n-1, 1
	for depth := uint32(0); free > 0; depth++ {
		inner := 0
		for ; node >= 0 && w[node] == depth; node-- {
			inner++
		}
		for ; free > inner; free-- {
			w[next] = depth
			next--
		}
		free = 2 * inner
	}
}

// assignCodes makes the canonical code of these lengths: a word has its length in
// the lowest 8 bits, and its bits above.
func assignCodes(lengths []uint8, codes *[512]uint32) {
	next := uint32(0)
	for l := uint8(1); l <= longestCode; l++ {
		for s, have := range lengths {
			if have == l {
				codes[s] = next<<8 | uint32(l)
				next++
			}
		}
		next <<= 1
	}
}
