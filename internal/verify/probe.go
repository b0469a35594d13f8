package verify

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
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
	var m marks
	if _, err := rand.Read(m[:]); err != nil {
		return fmt.Errorf("probe the capacity: %w", err)
	}
	for _, at := range places {
		m.put(buf, at)
		if _, err := c.WriteAt(buf, at); err != nil {
			return fmt.Errorf("probe the capacity: %w", err)
		}
		progress()
	}
	if err := c.Sync(); err != nil {
		return fmt.Errorf("probe the capacity: %w", err)
	}
	progress()
	found := make([]int64, len(places))
	for i, at := range places {
		if _, err := c.ReadAt(buf, at); err != nil {
			return fmt.Errorf("probe the capacity: %w", err)
		}
		progress()
		found[i] = m.owner(buf, places)
	}
	if small := capacityOf(places, found); small != nil {
		return small
	}
	return nil
}

// ProbeKeeping is as Probe, but puts back what was there, unless the card turns
// out to hold less than it claims. A place that cannot be read is left alone.
// What was put back is not flushed; it may be wrong if the card is bad, or if the
// error is not nil.
func ProbeKeeping(c Card, places []int64, progress func()) error {
	if progress == nil {
		progress = func() {}
	}
	kept, err := block.Aligned(max(1, len(places)) * Page)
	if err != nil {
		return err
	}
	defer block.Free(kept)
	var legible []int64
	page := func(i int) []byte { return kept[i*Page : (i+1)*Page] }
	for _, at := range places {
		if _, err := c.ReadAt(page(len(legible)), at); err == nil {
			legible = append(legible, at)
		}
		progress()
	}
	err = Probe(c, legible, progress)
	if _, small := errors.AsType[*CapacityError](err); small {
		return err
	}
	for i, at := range legible {
		if _, back := c.WriteAt(page(i), at); back != nil {
			err = errors.Join(err, fmt.Errorf("put back what was there before the capacity was probed: %w", back))
		}
		progress()
	}
	return err
}

// marks are pages that nobody else writes, a different one for each place. A mark
// repeats its place in every unit of unit bytes.
type marks [16]byte

const unit = 32

func (m marks) put(buf []byte, at int64) {
	for i := 0; i < Page; i += unit {
		copy(buf[i:], m[:])
		binary.LittleEndian.PutUint64(buf[i+16:], uint64(at))
		binary.LittleEndian.PutUint64(buf[i+24:], uint64(i))
	}
}

// owner returns the place whose mark a page holds, or -1. Half of a mark will do: a
// page that keeps it with a few bits wrong is bad, but there.
func (m marks) owner(page []byte, places []int64) int64 {
	votes := map[int64]int{}
	for i := 0; i < Page; i += unit {
		if bytes.Equal(page[i:i+16], m[:]) && binary.LittleEndian.Uint64(page[i+24:]) == uint64(i) {
			votes[int64(binary.LittleEndian.Uint64(page[i+16:]))]++
		}
	}
	for _, at := range places {
		if votes[at] >= Page/unit/2 {
			return at
		}
	}
	return -1
}

// capacityOf says what it means for the capacity that each of the places holds the
// mark of the place that found says, or none (-1): nil if nothing follows.
func capacityOf(places, found []int64) *CapacityError {
	// Places with the same mark are the same place, a multiple of the capacity
	// apart.
	period, foreign := int64(-1), false
	for i := range places {
		foreign = foreign || found[i] >= 0 && found[i] != places[i]
		for j := range i {
			if apart := places[i] - places[j]; found[i] >= 0 && found[i] == found[j] && (period < 0 || apart < period) {
				period = apart
			}
		}
	}
	if foreign {
		return &CapacityError{Real: period, Wrap: true}
	}
	own := 0 // how many places, from the lowest, hold their own mark
	for own < len(places) && found[own] == places[own] {
		own++
	}
	// What vanishes, vanishes from one place on. If not even the lowest place took
	// its mark, or a higher one did, it is not a matter of capacity: the reading
	// back will tell what it is.
	if own == 0 || own == len(places) || slices.Max(found[own:]) >= 0 {
		return nil
	}
	return &CapacityError{Real: places[own-1] + Page}
}
