package bzip2

const (
	// few is up to how many stars of a group settleFew takes on.
	few = 32

	// unsettled marks the rank of a star that is in a group.
	unsettled = 1 << 31
)

// sortByRank sorts the stars that sortByText left in groups.
//
// The rank of a star is the first row of its group. Stars of a group are equal
// up to the star that is the group's span ahead, so they are compared by
// the ranks there. Stars that have equal ranks there are equal that group's span
// farther: so a span at least doubles each time. Those that are equal all around
// the block may stand in any order.
//
// So there are no more rounds than the number of stars has bits, whatever the text.
//
// This is what Larsson and Sadakane do, "Faster suffix sorting", 1999, but that
// each group has a span of its own.
func (s *sorter) sortByRank() {
	m := uint32(len(s.stars))
	ranks := s.rows[m : 2*m]
	for i := uint32(0); i < m; {
		n := s.groups[i].n
		if n == 0 {
			ranks[s.rows[i]] = i
			i++
			continue
		}
		for _, star := range s.rows[i : i+n] {
			ranks[star] = i | unsettled
		}
		i += n
	}
	s.settleFew(ranks)
	for i := uint32(0); s.open > 0; {
		if i == m {
			i = 0
		}
		n := s.groups[i].n
		if n > 0 {
			s.refine(ranks, i)
		}
		i += max(n, 1) // each once before any twice: only then do spans double
	}
}

// settleFew goes through the stars from the last to the first, and refines small
// groups. What repeats something far behind it is put in order all at once:
// what is ahead is in order already.
func (s *sorter) settleFew(ranks []uint32) {
	for star := len(ranks) - 1; star >= 0 && s.open > 0; star-- {
		if rank := ranks[star]; rank&unsettled != 0 {
			if rank &^= unsettled; s.groups[rank].n <= few {
				s.refine(ranks, rank)
			}
		}
	}
}

// refine sorts the group at a row by the ranks ahead, and makes groups of the stars
// that are still equal.
func (s *sorter) refine(ranks []uint32, at uint32) {
	m := uint32(len(ranks))
	g := s.groups[at]
	list, keys := s.rows[at:at+g.n], s.keys[:g.n]
	s.made += len(keys)
	// A star whose rank ahead is the group's own waits.
	n := 0
	for _, star := range list {
		ahead := star + g.span
		if ahead >= m {
			ahead -= m
		}
		rank := ranks[ahead] &^ unsettled
		keys[n] = key{uint64(rank), uint64(star)}
		if rank != at {
			n++
		}
	}
	sortKeys(keys[:n])
	switch {
	case n == 0: // each is followed by another of them, and so all around
		for i, star := range list {
			keys[i] = key{uint64(at), uint64(star)}
		}
		s.groups[at].span = m
	case n < len(keys):
		s.unroll(ranks, at, n)
		return
	}
	for i := range keys {
		k := &keys[i]
		list[i] = uint32(k.low)
		k.low = uint64(g.span + s.groups[k.high].span)
	}
	s.regroup(ranks, at)
}

// unroll ends what refine began with a group in which some stars are followed by
// stars of the same group, as in a run of zeros. The n that are not are sorted, in
// keys. Those of them that are followed by less come before all that waited, and of
// these, those come first that are followed by the first of them. So it goes on:
// each comes in the order of the one that follows it. Backwards it is
// the same from those that are followed by more.
func (s *sorter) unroll(ranks []uint32, at uint32, n int) {
	m := uint32(len(ranks))
	g := s.groups[at]
	list, keys := s.rows[at:at+g.n], s.keys[:g.n]
	low := 0
	for low < n && keys[low].high < uint64(at) {
		low++
	}
	high := len(keys) - copy(keys[len(keys)-(n-low):], keys[low:n])
	for i := range keys {
		if i < low || i >= high {
			k := &keys[i]
			list[i] = uint32(k.low)
			k.low = uint64(g.span + s.groups[k.high].span)
		}
	}
	// Stars that follow equal ones are equal. Names above all ranks tell them from others.
	follows := func(star uint32) (uint32, bool) {
		if star < g.span {
			star += m
		}
		star -= g.span
		return star, ranks[star]&^unsettled == at
	}
	last, name := ^uint64(0), uint64(m)
	for i := 0; i < low; i++ {
		if star, ok := follows(list[i]); ok {
			if keys[i].high != last {
				last = keys[i].high
				name++
			}
			list[low], keys[low] = star, key{name, uint64(g.span) + keys[i].low}
			low++
		}
	}
	last = ^uint64(0)
	for i := len(list) - 1; i >= high; i-- {
		if star, ok := follows(list[i]); ok {
			if keys[i].high != last {
				last = keys[i].high
				name++
			}
			high--
			list[high], keys[high] = star, key{name, uint64(g.span) + keys[i].low}
		}
	}
	s.regroup(ranks, at)
}

// regroup makes the group at a row groups of the stars whose keys are equal in
// high; low is what their span will be.
func (s *sorter) regroup(ranks []uint32, at uint32) {
	n := s.groups[at].n
	list, keys := s.rows[at:at+n], s.keys[:n]
	s.open -= int(n)
	for i := 0; i < len(keys); {
		j := i + 1
		for j < len(keys) && keys[j].high == keys[i].high {
			j++
		}
		next, rank := group{}, at+uint32(i)
		if j-i > 1 {
			next.span = uint32(min(keys[i].low, uint64(len(ranks))))
			if int(next.span) < len(ranks) {
				next.n = uint32(j - i)
				s.open += j - i
			}
		}
		s.groups[rank] = next
		if next.n > 0 {
			rank |= unsettled
		}
		for _, star := range list[i:j] {
			ranks[star] = rank
		}
		i = j
	}
}
