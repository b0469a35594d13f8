package verify

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"sort"

	"multidd/internal/block"
)

// A Card is what a probe needs of a target.
type Card interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// ProbePlaces chooses where to probe a card that is to hold the extents of m:
// only pages that will be written anyhow, none in the withheld first MiB. They
// are a low page, the pages a power of two above it, since a card that wraps
// around mostly does so at a power of two, and the last one. It returns nil if
// there is too little to choose from.
func ProbePlaces(m block.Map) []int64 {
	low := pageFrom(m, block.HeadSize)
	last := (m.End() - Page) / Page * Page
	if low < 0 || last <= low {
		return nil
	}
	places := []int64{low}
	for step := int64(block.HeadSize); low+step < last; step *= 2 {
		if at := low + step; pageFrom(m, at) == at {
			places = append(places, at)
		}
	}
	if pageFrom(m, last) == last {
		places = append(places, last)
	}
	if len(places) < 2 {
		return nil
	}
	return places
}

// pageFrom returns the offset of the first whole used page at or after at, or -1.
func pageFrom(m block.Map, at int64) int64 {
	i := sort.Search(len(m.Used), func(i int) bool { return m.Used[i].End() > at })
	for ; i < len(m.Used); i++ {
		e := m.Used[i]
		if p := (max(at, e.Off) + Page - 1) / Page * Page; p+Page <= e.End() {
			return p
		}
	}
	return -1
}

// Probe looks for a card that holds less than it claims. It writes a page with a
// mark of its own to each place, flushes, and reads all of them back. What was
// there is lost. A card that keeps every mark may still lie: only the reading
// back of everything proves it. The error is a *CapacityError if a mark is
// missing, and the card's own if it cannot be written or read. progress, which
// may be nil, is called after each request.
func Probe(c Card, places []int64, progress func()) error {
	if progress == nil {
		progress = func() {}
	}
	buf, err := block.Aligned(Page)
	if err != nil {
		return err
	}
	defer block.Free(buf)
	var seed [16]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return fmt.Errorf("probe the capacity: %w", err)
	}
	mark := func(at int64) block.Digest {
		for i := 0; i < Page; i += 32 {
			copy(buf[i:], seed[:])
			binary.LittleEndian.PutUint64(buf[i+16:], uint64(at))
			binary.LittleEndian.PutUint64(buf[i+24:], uint64(i))
		}
		return Sum(buf)
	}
	marks := map[block.Digest]int64{}
	for _, at := range places {
		marks[mark(at)] = at
		if _, err := c.WriteAt(buf, at); err != nil {
			return fmt.Errorf("probe the capacity: %w", err)
		}
		progress()
	}
	if err := c.Sync(); err != nil {
		return fmt.Errorf("probe the capacity: %w", err)
	}
	progress()
	return readMarks(c, buf, places, marks, progress)
}

// readMarks reads the marks back and says what they mean.
func readMarks(c Card, buf []byte, places []int64, marks map[block.Digest]int64, progress func()) error {
	found := make([]int64, len(places)) // whose mark each place holds; -1: nobody's
	for i, at := range places {
		if _, err := c.ReadAt(buf, at); err != nil {
			return fmt.Errorf("probe the capacity: %w", err)
		}
		progress()
		found[i] = -1
		if owner, ok := marks[Sum(buf)]; ok {
			found[i] = owner
		}
	}
	own := 0 // how many places, from the lowest, hold their own mark
	for own < len(places) && found[own] == places[own] {
		own++
	}
	switch {
	case own == len(places):
		return nil
	case own > 0:
		return &CapacityError{Real: places[own-1] + Page}
	case found[0] < 0:
		// Not even the lowest place took its mark: not a matter of capacity.
		// The reading back will tell what it is.
		return nil
	}
	// The lowest place holds the mark of a higher one. The first place above it
	// that does so too is the lowest one with the same address.
	for i, owner := range found[1:] {
		if owner == found[0] {
			return &CapacityError{Real: places[i+1] - places[0], Wrap: true}
		}
	}
	return &CapacityError{Real: -1, Wrap: true}
}
