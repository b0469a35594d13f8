package volume

import (
	"math/rand/v2"
	"slices"
	"testing"

	"multidd/internal/block"
)

func TestToldMergesAndClips(t *testing.T) {
	var u told
	u.useTo(10)
	u.use(block.Extent{Off: 10, Len: 5})
	u.use(block.Extent{Off: 20, Len: 5})
	u.use(block.Extent{Off: 22, Len: 8}) // what was told is not told again
	u.use(block.Extent{Off: 0, Len: 5})
	u.freeTo(40)
	u.use(block.Extent{Off: 35, Len: 10})
	want := []block.Extent{{Off: 0, Len: 15}, {Off: 20, Len: 10}, {Off: 40, Len: 5}}
	if !slices.Equal(u.used, want) || u.to != 45 {
		t.Errorf("%v to %d", u.used, u.to)
	}
	u.cover(block.Extent{Off: 12, Len: 30})
	if want := []block.Extent{{Off: 0, Len: 45}}; !slices.Equal(u.used, want) || u.to != 45 {
		t.Errorf("%v to %d", u.used, u.to)
	}
}

// However fine free and used space alternate, and however it is taken, what is told stays
// bounded, is used where it should be, and is the same.
func TestToldIsBounded(t *testing.T) {
	const pieces = 4 * fine
	var all, some told
	var taken []block.Extent
	rng := rand.New(rand.NewPCG(1, 2))
	at, had := int64(0), int64(0)
	for range pieces {
		e := block.Extent{Off: at + 1024*rng.Int64N(3), Len: 1024}
		if at = e.End(); rng.IntN(10_000) == 0 {
			at += 1 << 20
		}
		for _, u := range []*told{&all, &some} {
			u.use(e)
			u.freeTo(at)
		}
		if rng.IntN(50) == 0 {
			next := had + rng.Int64N(some.known()-had+1)
			taken = append(taken, some.take(block.Extent{Off: had, Len: next - had})...)
			had = next
		}
	}
	taken = append(taken, some.take(block.Extent{Off: had, Len: at - had})...)
	if all.count > 2*fine {
		t.Errorf("%d extents", all.count)
	}
	whole := told{used: all.used, to: all.to, end: all.end, count: all.count}
	if got := whole.take(block.Extent{Len: at}); !slices.Equal(got, mergedAll(taken)) {
		t.Errorf("%d extents at once, %d piece by piece", len(got), len(mergedAll(taken)))
	}
}

func mergedAll(extents []block.Extent) (merged []block.Extent) {
	for _, e := range extents {
		if n := len(merged) - 1; n >= 0 && merged[n].End() == e.Off {
			merged[n].Len += e.Len
		} else {
			merged = append(merged, e)
		}
	}
	return merged
}
