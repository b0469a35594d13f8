package duplicate

import (
	"context"
	"math/rand/v2"
	"slices"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// A lane that wrote only what differed has read all the rest from the card, but
// before it wrote. A card that lies about its size, or spoils one place when it is
// given another, may have lost some of that since. So a sample of it is read again.
const (
	// leastSpots are looked at on every card, and otherwise one spot in sampleOne:
	// by their pages, a quarter of a percent of the card.
	leastSpots = 64
	sampleOne  = 25
)

// proveChanged reads back what was written because it differed, and a sample of the
// rest. If anything is not as it should be the lane is to prove everything.
func (l *lane) proveChanged(ctx context.Context) error {
	what := l.changed
	if len(l.doubt) > 0 {
		what = &verify.Record{}
		for i := range l.changed.Len() {
			what.Add(l.changed.At(i))
		}
		slices.Sort(l.doubt)
		for _, i := range slices.Compact(l.doubt) {
			what.Add(l.claims.At(i))
		}
	}
	bad, err := l.readBack(ctx, what)
	if err != nil {
		return err
	}
	if err := l.check(); err != nil {
		return err
	}
	if len(bad) > 0 {
		l.wonder(bad[0].Extent, "What was written at byte %d read back wrong, so everything was read back.")
		return nil
	}
	if err := l.sample(ctx); err != nil || l.whole {
		return err
	}
	if bad, err = l.proveBlank(); err != nil {
		return err
	}
	if len(bad) > 0 {
		l.whole = true // the reading back of everything will say what that means
	}
	return nil
}

// wonder has everything read back, because of a place that is not as it was.
func (l *lane) wonder(e block.Extent, why string) {
	l.whole, l.odd = true, &e
	l.warn(why, e.Off)
}

// stillOdd makes sure, when everything has been read back and found to be bad in
// some places, that the place because of which it was read is among them. If not,
// it was not what it should be just before, and nothing was written meanwhile.
func (l *lane) stillOdd(bad []verify.Bad) error {
	odd := l.odd
	l.odd = nil
	if odd == nil || slices.ContainsFunc(bad, func(b verify.Bad) bool { return b.Intersect(*odd).Len > 0 }) {
		return nil
	}
	return fault(&verify.UnstableError{Extent: *odd}, verify.UnstableRead, odd.Off)
}

// sample reads a sample of what was found equal once more.
func (l *lane) sample(ctx context.Context) error {
	if l.r.o.noSample {
		return nil
	}
	spots := l.chooseSpots()
	if len(spots) == 0 {
		return nil
	}
	buf, err := l.r.pool.Get(ctx)
	if err != nil {
		return err
	}
	defer l.r.pool.Put(buf)
	depth := min(l.r.o.Depth, len(buf)/verify.Page)
	page := func(i int) []byte { return buf[i%depth*verify.Page:][:verify.Page] }
	for begun, done := 0, 0; done < len(spots); done++ {
		for ; begun < len(spots) && begun-done < depth; begun++ {
			if err = l.t.StartRead(page(begun), l.r.spots.At(spots[begun])); err != nil {
				break
			}
		}
		if begun > done {
			err = l.t.Wait()
		}
		off := l.r.spots.At(spots[done])
		if err == nil {
			err = l.lookAtSpot(spots[done], off, page(done))
		} else {
			err = fault(placed("read again", off, err), verify.ReadEIO, off)
		}
		if l.over() && err == nil {
			err = ErrInterrupted
		}
		if err != nil || l.whole {
			for done++; done < begun; done++ {
				_ = l.t.Wait() // the sample has come to its end already
			}
			return err
		}
		l.touch()
	}
	return nil
}

// lookAtSpot compares a spot that has been read again.
func (l *lane) lookAtSpot(i int, off int64, page []byte) error {
	if l.r.spots.Holds(i, page) {
		return nil
	}
	e := verify.Entry{Extent: block.Extent{Off: off, Len: verify.Page}}
	// Into memory of its own: other spots are being read into the buffer.
	if _, err := verify.Reexamine(l.t, -1, e, verify.Sum(page), make([]byte, verify.Page)); err != nil {
		return fault(placed("read again", off, err), verify.ReadEIO, off)
	}
	l.wonder(e.Extent, "Something that had not been written read back otherwise than before, at byte %d, so everything was read back.")
	return nil
}

// chooseSpots chooses the sample, in ascending order: next to what was written;
// where a card with half as many addresses, or a quarter, and so on, would have
// put it; and, for at least half of the sample, anywhere.
func (l *lane) chooseSpots() []int {
	all := l.r.spots.Len()
	most := max(leastSpots, all/sampleOne)
	written := l.writtenExtents()
	chosen := make(map[int]struct{})
	add := func(off int64) {
		page := block.Extent{Off: off, Len: verify.Page}
		if i, ok := l.r.spots.Find(off); ok && !overlaps(written, page) && !overlaps(l.pieces, page) {
			chosen[i] = struct{}{}
		}
	}
	// Each place that was written has two neighbours, and two aliases for each
	// power of two.
	for _, e := range some(written, most/8) {
		add((e.Off - 1) / verify.Grain * verify.Grain)
		add((e.End() + verify.Grain - 1) / verify.Grain * verify.Grain)
	}
	for _, e := range some(written, max(1, most/4/(2*aliases))) {
		at := e.Off / verify.Grain * verify.Grain
		for k := range aliases {
			add(at - block.HeadSize<<k)
			add(at + block.HeadSize<<k)
		}
	}
	for try := 0; len(chosen) < most && try < 2*most; try++ {
		add(l.r.spots.At(rand.IntN(max(1, all))))
	}
	spots := make([]int, 0, len(chosen))
	for i := range chosen {
		spots = append(spots, i)
	}
	slices.Sort(spots)
	return spots
}

// aliases is how many powers of two are looked at, from 1 MiB on: to 2 TiB.
const aliases = 21

// writtenExtents returns what was written because it differed, joined where it
// touches, in ascending order.
func (l *lane) writtenExtents() []block.Extent {
	var written []block.Extent
	for i := range l.changed.Len() {
		e := l.changed.At(i).Extent
		if n := len(written); n > 0 && written[n-1].End() == e.Off {
			written[n-1].Len += e.Len
		} else {
			written = append(written, e)
		}
	}
	sortExtents(written)
	return written
}

// some returns at most n of the extents, spread evenly, the first and the last
// among them.
func some(extents []block.Extent, n int) []block.Extent {
	if len(extents) <= n {
		return extents
	}
	picked := make([]block.Extent, 0, n)
	for i := range n {
		at := len(extents) - 1
		if n > 1 {
			at = i * (len(extents) - 1) / (n - 1)
		}
		picked = append(picked, extents[at])
	}
	return picked
}

// overlaps tells whether e touches any of some extents, which are in ascending order
// and do not overlap.
func overlaps(extents []block.Extent, e block.Extent) bool {
	i, _ := slices.BinarySearchFunc(extents, e.Off, func(x block.Extent, off int64) int {
		if x.End() > off {
			return 1
		}
		return -1
	})
	return i < len(extents) && extents[i].Intersect(e).Len > 0
}
