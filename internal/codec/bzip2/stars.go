package bzip2

import (
	"cmp"
	"math/bits"
	"slices"
)

const (
	keyBytes = 13 // bytes of text in a key
	starBits = 24 // of a key, for the star
	starMask = 1<<starBits - 1

	// farEnough is up to where text tells most stars apart that are not at the
	// begin of a long repeat.
	farEnough = 2 + 2*keyBytes
)

// A key is what a star is sorted by, and below that which star it is: so no two
// keys are the same. In sortByText it is keyBytes of text, in refine a rank.
type key struct{ high, low uint64 }

// A group is stars that are equal as far as they have been compared. They are
// neighbours in the list of stars.
type group struct {
	n uint32 // how many; 0 if they are where they belong
	// span is how many stars ahead they surely are equal: the stars after each
	// of them are at the same distances, and the bytes up to there are the same.
	span uint32
}

// sortStars lists the stars in order at the begin of rows. A star is named by its
// index in stars.
func (s *sorter) sortStars() {
	s.bucketStars()
	end := uint32(len(s.stars))
	clear(s.groups[:end])
	s.open = 0
	for c0 := 255; c0 >= 0; c0-- {
		for c1 := 255; c1 > c0; c1-- {
			begin := s.begins[c0<<8|c1]
			if end-begin > 1 {
				s.sortByText(begin, end, 2)
			}
			end = begin
		}
	}
	if s.open > 0 {
		s.sortByRank()
	}
}

// bucketStars lists the stars by their first two bytes, of which the first is
// less. begins says where in the list those of a pair of bytes begin.
func (s *sorter) bucketStars() {
	clear(s.begins[:])
	pair := func(p uint32) int { return int(s.text[p])<<8 | int(s.text[p+1]) }
	for _, p := range s.stars {
		s.begins[pair(p)]++
	}
	at := uint32(0)
	for c0 := range 256 {
		for c1 := c0 + 1; c1 < 256; c1++ {
			at += s.begins[c0<<8|c1]
			s.begins[c0<<8|c1] = at
		}
	}
	for i := len(s.stars) - 1; i >= 0; i-- {
		begin := &s.begins[pair(s.stars[i])]
		*begin--
		s.rows[*begin] = uint32(i)
	}
}

// sortByText sorts the stars listed from begin to end, which are equal up to
// their byte at, by the text from there on.
func (s *sorter) sortByText(begin, end uint32, at int) {
	list := s.rows[begin:end]
	keys := s.keys[:len(list)]
	s.made += len(keys)
	for i, star := range list {
		p := s.stars[star] + uint32(at)
		for p > uint32(s.n) {
			p -= uint32(s.n)
		}
		keys[i] = key{s.textAt(p), s.textAt(p+8)&^starMask | uint64(star)}
	}
	sortKeys(keys)
	for i := 0; i < len(keys); {
		k := keys[i]
		list[i] = uint32(k.low & starMask)
		j := i + 1
		for ; j < len(keys) && keys[j].high == k.high && (keys[j].low^k.low)>>starBits == 0; j++ {
			list[j] = uint32(keys[j].low & starMask)
		}
		if j > i+1 {
			s.groups[begin+uint32(i)].n = uint32(j - i)
		}
		i = j
	}
	// The keys are used again from here on.
	for i := begin; i < end; {
		n := s.groups[i].n
		if n > 0 {
			s.settle(i, n, at+keyBytes)
		}
		i += max(n, 1)
	}
}

// settle goes on with the n stars of the group at a row, which are equal up to
// their byte at: by text, or it leaves them for sortByRank, or as they are if they
// are equal all around the block.
func (s *sorter) settle(row, n uint32, at int) {
	s.groups[row] = group{}
	if n == 2 {
		for at < s.far {
			a, b := s.rows[row], s.rows[row+1]
			x, y := s.textFrom(a, at), s.textFrom(b, at)
			if x != y {
				if x > y {
					s.rows[row], s.rows[row+1] = b, a
				}
				return
			}
			at += 8
		}
	}
	span := s.spanOf(s.rows[row], at)
	switch {
	case span == len(s.stars):
	case span < 1 || at < s.far:
		s.sortByText(row, row+n, at)
	default:
		s.groups[row] = group{n, uint32(span)}
		s.open += int(n)
	}
}

// textFrom returns eight bytes of a star's rotation, from byte at on.
func (s *sorter) textFrom(star uint32, at int) uint64 {
	p := s.stars[star] + uint32(at)
	for p > uint32(s.n) {
		p -= uint32(s.n)
	}
	return s.textAt(p)
}

// spanOf returns how many stars ahead, at most all, stars are equal that are
// equal in their first n bytes. Where a star is can be told from the bytes up to
// the next one, so the last that begins in the n bytes does not count. If none
// does, that is -1.
func (s *sorter) spanOf(star uint32, n int) int {
	end, i := int(s.stars[star])+n, int(star)
	for span := -1; ; span++ {
		if i++; i == len(s.stars) {
			i = 0
			end -= s.n
		}
		if int(s.stars[i]) >= end || span == len(s.stars) {
			return span
		}
	}
}

// isLess is 1 if a is less than b, else 0. It has no branch: which it is cannot
// be predicted.
func isLess(a, b key) uint {
	_, less := bits.Sub64(a.low, b.low, 0)
	_, less = bits.Sub64(a.high, b.high, less)
	return uint(less)
}

// sortKeys sorts keys. It takes n log n steps at most, and n if they are sorted.
func sortKeys(keys []key) {
	if len(keys) > fewKeys && slices.IsSortedFunc(keys, compareKeys) {
		return
	}
	partitionKeys(keys, 2*bits.Len(uint(len(keys))))
}

func compareKeys(a, b key) int {
	return cmp.Or(cmp.Compare(a.high, b.high), cmp.Compare(a.low, b.low))
}

// partitionKeys sorts keys by partitioning. After so many partitions of one key's
// part it is left to a method that is slower and never slow.
func partitionKeys(keys []key, most int) {
	for len(keys) > fewKeys {
		if most--; most < 0 {
			slices.SortFunc(keys, compareKeys)
			return
		}
		pivot := medianKey(keys)
		*pivot, keys[0] = keys[0], *pivot
		k, less := keys[0], uint(0)
		for i := 1; i < len(keys); i++ {
			keys[i], keys[less+1] = keys[less+1], keys[i]
			less += isLess(keys[less+1], k)
		}
		keys[0], keys[less] = keys[less], k
		partitionKeys(keys[:less], most)
		keys = keys[less+1:]
	}
	sortFewKeys(keys)
}

// medianKey returns the median of three or of nine keys.
func medianKey(keys []key) *key {
	n := len(keys)
	if n <= 200 {
		return median(&keys[n/4], &keys[n/2], &keys[n/4*3])
	}
	step := n / 9
	return median(
		median(&keys[0], &keys[step], &keys[2*step]),
		median(&keys[3*step], &keys[4*step], &keys[5*step]),
		median(&keys[6*step], &keys[7*step], &keys[8*step]))
}

func median(a, b, c *key) *key {
	if isLess(*b, *a) == 1 {
		a, b = b, a
	}
	switch {
	case isLess(*b, *c) == 1:
		return b
	case isLess(*a, *c) == 1:
		return c
	}
	return a
}

// fewKeys is up to how many keys are sorted by counting.
const fewKeys = 16

// sortFewKeys sorts up to fewKeys keys: each goes where so many are before it as
// are less.
func sortFewKeys(keys []key) {
	if len(keys) == 2 {
		if isLess(keys[1], keys[0]) == 1 {
			keys[0], keys[1] = keys[1], keys[0]
		}
		return
	}
	var from [fewKeys]key
	var to [fewKeys]uint8
	for i, k := range keys {
		from[i&(fewKeys-1)] = k
		n := uint8(0)
		for j, earlier := range from[:i] {
			less := uint8(isLess(k, earlier))
			to[j] += less
			n += 1 - less
		}
		to[i&(fewKeys-1)] = n
	}
	for i, n := range to[:len(keys)] {
		keys[n] = from[i]
	}
}
