package duplicate

import (
	"context"

	"multidd/internal/block"
	"multidd/internal/verify"
)

// discardFree makes all that the image leaves out read as zeros: the card is asked
// to discard it, and what then does not read as zeros is written.
func (l *lane) discardFree(ctx context.Context) error {
	end := l.r.o.Map.Size
	have := l.claims.extents()
	if n := len(have); n > 0 {
		end = max(end, have[n-1].End())
	}
	if l.size > 0 {
		end = min(end, l.size)
	}
	free := outside(beyond([]block.Extent{{Len: end}}, block.HeadSize), have)
	d, ok := l.t.(Discarder)
	if a, wrapped := l.t.(*atOnce); wrapped {
		d, ok = a.Target.(Discarder)
	}
	l.syncing.Store(true) // the card shows no progress
	for _, e := range free {
		if !ok || l.over() {
			break
		}
		if err := d.Discard(e.Off, e.Len); err != nil {
			return fault(placed("discard", e.Off, err), verify.WriteEIO, e.Off)
		}
		l.touch()
	}
	l.syncing.Store(false)
	if err := l.flush(ctx); err != nil {
		return err
	}
	return l.zero(ctx, l.cut(free))
}

// zero reads places of the card and writes zeros where there are none. What was
// written is to be proved.
func (l *lane) zero(ctx context.Context, places []verify.Entry) error {
	l.enter(Comparing, bytesOf(places))
	zeros, taken := make([]byte, l.r.pool.BufferSize()), 0
	c := &comparison{
		l: l,
		has: func(i int) found {
			if i < len(places) {
				return foundBlock
			}
			return foundEnd
		},
		at: func(i int) block.Extent { return places[i].Extent },
		take: func(context.Context, bool) (piece, bool, error) {
			e := places[taken]
			taken++
			return piece{data: zeros[:e.Len], off: e.Off, release: func() {}}, true, nil
		},
	}
	l.spoilt = true // it has been blanked long ago
	if err := c.run(ctx); err != nil {
		return err
	}
	for i := range l.changed.Len() {
		l.claims.extra = append(l.claims.extra, l.changed.At(i))
	}
	l.more.Add(l.changed.Bytes())
	return nil
}
