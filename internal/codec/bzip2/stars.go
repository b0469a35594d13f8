package bzip2

import (
	"math/bits"
	"slices"
)

// A key is what stars are compared by: keyBytes bytes of text, and below them
// which star it is. No two are the same.
type key struct{ high, low uint64 }

const (
	keyBytes = 13
	starBits = 24 // of a key, for the star
	starMask = 1<<starBits - 1

	// farEnough is how many bytes stars are compared by before their ranks are.
	farEnough = 2 + 2*keyBytes
)

// A group is stars that are equal as far as they have been compared, and stand
// next to each other in the order.
type group struct {
	n    uint32 // how many, if they are not in their final order; else 0
	span uint32 // how many stars ahead they surely are equal; 0 if that is not known
}

// sortStars lists the stars, by their numbers and in the order of their
// rotations, at the begin of rows.
func (s *sorter) sortStars() {
	s.bucketStars()
	m := len(s.stars)
	if cap(s.groups) < m {
		s.groups = make([]group, cap(s.room))
		s.keys = make([]key, cap(s.room))
	}
	s.groups = s.groups[:m]
	clear(s.groups)
	open := false
	end := uint32(m)
	for c0 := 255; c0 >= 0; c0-- {
		for c1 := 255; c1 > c0; c1-- {
			begin := s.begins[c0<<8|c1]
			if end-begin > 1 {
				open = s.sortByText(begin, end, 2) || open
			}
			end = begin
		}
	}
	if open {
		s.sortByRank()
	}
}

// bucketStars lists the stars by their first two bytes.
func (s *sorter) bucketStars() {
	clear(s.begins[:])
	for _, p := range s.stars {
		s.begins[s.pair(p)]++
	}
	at := uint32(0)
	for c0 := range 256 {
		for c1 := c0 + 1; c1 < 256; c1++ {
			at += s.begins[c0<<8|c1]
			s.begins[c0<<8|c1] = at
		}
	}
	for i := len(s.stars) - 1; i >= 0; i-- {
		begin := &s.begins[s.pair(s.stars[i])]
		*begin--
		s.rows[*begin] = uint32(i)
	}
}

func (s *sorter) pair(p uint32) int { return int(s.text[p])<<8 | int(s.text[p+1]) }

// sortByText sorts the stars listed from begin to end, which are equal up to
// their byte at, by the bytes from there on. It reports whether groups remain.
func (s *sorter) sortByText(begin, end uint32, at int) (open bool) {
	list := s.rows[begin:end]
	keys := s.keys[:len(list)]
	for i, star := range list {
		p := s.stars[star] + uint32(at)
		for p > uint32(s.n) {
			p -= uint32(s.n)
		}
		keys[i] = key{s.textAt(p), s.textAt(p+8)&^starMask | uint64(star)}
	}
	sortKeys(keys)
	at += keyBytes
	for i := 0; i < len(keys); {
		k := keys[i]
		list[i] = uint32(k.low & starMask)
		j := i + 1
		for ; j < len(keys) && keys[j].high == k.high && (keys[j].low^k.low)>>starBits == 0; j++ {
			list[j] = uint32(keys[j].low & starMask)
		}
		if j > i+1 {
			// sortByText uses keys again, from the front on.
			s.groups[begin+uint32(i)] = group{uint32(j - i), 0}
		}
		i = j
	}
	for i := begin; i < end; {
		n := s.groups[i].n
		if n == 0 {
			i++
			continue
		}
		span := s.spanOf(s.rows[i], at)
		switch {
		case span >= len(s.stars):
			s.groups[i] = group{0, uint32(len(s.stars))}
		case at >= farEnough && span > 0:
			s.groups[i].span = uint32(span)
			open = true
		default:
			s.groups[i] = group{}
			open = s.sortByText(i, i+n, at) || open
		}
		i += n
	}
	return open
}

// spanOf returns how many stars ahead stars are equal that are equal in their
// first n bytes.
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

// sortKeys sorts keys.
func sortKeys(keys []key) { quick(keys, 2*bits.Len(uint(len(keys)))) }

func less(a, b key) bool { return a.high < b.high || a.high == b.high && a.low < b.low }

// isLess is 1 if a is less than b, else 0, without a branch.
func isLess(a, b key) uint {
	_, c := bits.Sub64(a.low, b.low, 0)
	_, c = bits.Sub64(a.high, b.high, c)
	return uint(c)
}

func quick(keys []key, depth int) {
	for len(keys) > 20 {
		if depth--; depth < 0 {
			slices.SortFunc(keys, func(a, b key) int { return int(isLess(b, a)) - int(isLess(a, b)) })
			return
		}
		at := partition(keys)
		quick(keys[:at], depth)
		keys = keys[at+1:]
	}
	insert(keys)
}

func insert(keys []key) {
	for i := 1; i < len(keys); i++ {
		k := keys[i]
		j := i
		for ; j > 0 && less(k, keys[j-1]); j-- {
			keys[j] = keys[j-1]
		}
		keys[j] = k
	}
}

func median(a, b, c *key) *key {
	if less(*b, *a) {
		a, b = b, a
	}
	if less(*c, *b) {
		b = c
		if less(*b, *a) {
			b = a
		}
	}
	return b
}

func partition(keys []key) int {
	n := len(keys)
	m := median(&keys[n/4], &keys[n/2], &keys[n/4*3])
	if n > 200 {
		m = median(median(&keys[0], &keys[n/8], &keys[n/4]), median(&keys[n/8*3], &keys[n/2], &keys[n/8*5]), median(&keys[n/8*6], &keys[n/8*7], &keys[n-1]))
	}
	*m, keys[0] = keys[0], *m
	pivot := keys[0]
	rest := keys[1:]
	j := uint(0)
	for i := range rest {
		k := rest[i]
		rest[i] = rest[j]
		rest[j] = k
		j += isLess(k, pivot)
	}
	keys[0] = keys[j]
	keys[j] = pivot
	return int(j)
}
