package bzip2

import "slices"

// few is up to how many stars of a group are sorted one by one.
const few = 32

// sortByRank sorts the stars that sortByText left in groups.
//
// The rank of a star is the first row of its group. Stars of a group are equal
// up to the star that is the group's span ahead, so they are compared by
// the ranks there. Stars that have equal ranks there are equal that group's span
// farther: a span at least doubles each time. Those that are equal all around the
// block may stand in any order.
func (s *sorter) sortByRank() {
	m := uint32(len(s.stars))
	ranks := s.rows[m : 2*m]
	for i := uint32(0); i < m; {
		n := max(s.groups[i].n, 1)
		for _, star := range s.rows[i : i+n] {
			ranks[star] = i
		}
		i += n
	}
	// What repeats something far behind is put in order in one pass from the end,
	// as long as the groups are small: what is ahead is in order already.
	open := false
	var scratch [few]uint64
	for star := int(m) - 1; star >= 0; star-- {
		g := s.groups[ranks[star]]
		if g.n > few {
			open = true
		} else if g.n > 0 {
			s.refine(ranks, ranks[star], scratch[:g.n])
		}
	}
	_ = open
	for open = true; open; {
		open = false
		for i := uint32(0); i < m; {
			n := s.groups[i].n
			if n == 0 {
				i++
				continue
			}
			s.refine(ranks, i, make([]uint64, n))
			open = true
			i += n
		}
	}
}

// refine sorts a group by the ranks ahead, and makes groups of those that are
// still equal.
func (s *sorter) refine(ranks []uint32, at uint32, keys []uint64) {
	m := uint32(len(ranks))
	g := s.groups[at]
	list := s.rows[at : at+g.n]
	for i, star := range list {
		ahead := star + g.span
		if ahead >= m {
			ahead -= m
		}
		keys[i] = uint64(ranks[ahead])<<32 | uint64(star)
	}
	if len(keys) <= few {
		for i := 1; i < len(keys); i++ {
			k := keys[i]
			j := i
			for ; j > 0 && k < keys[j-1]; j-- {
				keys[j] = keys[j-1]
			}
			keys[j] = k
		}
	} else {
		slices.Sort(keys)
	}
	// All spans are looked up before any rank changes... and groups too.
	for i := len(keys); i > 0; {
		rank := keys[i-1] >> 32
		j := i - 1
		for j > 0 && keys[j-1]>>32 == rank {
			j--
		}
		next := group{}
		if i-j > 1 {
			next = group{uint32(i - j), g.span + s.groups[rank].span}
			if next.span >= m {
				next = group{0, m}
			}
		}
		for k := j; k < i; k++ {
			star := uint32(keys[k])
			list[k] = star
			ranks[star] = at + uint32(j)
		}
		if j > 0 || true {
			s.groups[at+uint32(j)] = next
		}
		i = j
	}
}
