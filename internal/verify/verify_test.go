package verify

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"multidd/internal/block"
)

// liar is a card of claimed bytes that really holds fewer: beyond, writes vanish
// or wrap around.
type liar struct {
	data []byte
	wrap bool
	mad  bool  // gives something else each time
	flip int64 // a bad bit; 0: none
}

func (c *liar) place(off int64) (int64, bool) {
	if n := int64(len(c.data)); off >= n {
		return off % n, c.wrap
	}
	return off, true
}

func (c *liar) WriteAt(p []byte, off int64) (int, error) {
	if at, ok := c.place(off); ok {
		copy(c.data[at:], p)
	}
	if c.flip > 0 && off <= c.flip && c.flip < off+int64(len(p)) {
		c.data[c.flip] ^= 1
	}
	return len(p), nil
}

func (c *liar) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if at, ok := c.place(off); ok {
		copy(p, c.data[at:])
	}
	if c.mad {
		p[rand.IntN(len(p))] ^= byte(1 + rand.IntN(255))
	}
	return len(p), nil
}

func (c *liar) Sync() error { return nil }

func TestProbeFindsACardThatClaimsTooMuch(t *testing.T) {
	const claimed = 256 << 20
	for _, c := range []struct {
		name       string
		real       int
		wrap, fake bool
	}{
		{"honest", claimed, false, false},
		{"limbo at 64 MiB", 64 << 20, false, true},
		{"limbo at 100 MiB", 100 << 20, false, true},
		{"wraps at 64 MiB", 64 << 20, true, true},
		{"wraps at 128 MiB", 128 << 20, true, true},
		{"wraps at 96 MiB", 96 << 20, true, true}, // the lowest place keeps its mark
	} {
		t.Run(c.name, func(t *testing.T) {
			card := &liar{data: make([]byte, c.real), wrap: c.wrap}
			places := ProbePlaces(block.Whole(claimed))
			err := Probe(card, places, nil)
			var capacity *CapacityError
			if errors.As(err, &capacity) != c.fake {
				t.Fatalf("probe: %v", err)
			}
			if !c.fake {
				return
			}
			if capacity.Wrap != c.wrap || c.wrap && capacity.Real != int64(c.real) || capacity.Real > int64(c.real) || capacity.Real < int64(c.real)/4 {
				t.Errorf("%v, want about %d", capacity, c.real)
			}
		})
	}
}

// A bad place is not a missing one: the reading back says where it is.
func TestProbeDoesNotTakeABadBitForALackOfCapacity(t *testing.T) {
	const claimed = 64 << 20
	places := ProbePlaces(block.Whole(claimed))
	for _, at := range places {
		card := &liar{data: make([]byte, claimed), flip: at + 100}
		if err := Probe(card, places, nil); err != nil {
			t.Errorf("a bad bit at %d: %v", card.flip, err)
		}
	}
	card := &liar{data: make([]byte, claimed/2), flip: places[1]} // the control
	if err := Probe(card, places, nil); err == nil {
		t.Error("a card of half the capacity with a bad bit is found sound")
	}
}

func TestProbeWritesOnlyWhereTheImageWill(t *testing.T) {
	m := block.Map{Size: 1 << 30, Used: []block.Extent{{Off: 0, Len: 4 << 20}, {Off: 33<<20 + 512, Len: 8 << 20}, {Off: 700 << 20, Len: 5000}}}
	places := ProbePlaces(m)
	if len(places) < 2 {
		t.Fatalf("only %d places", len(places))
	}
	for _, p := range places {
		page, inside := block.Extent{Off: p, Len: Page}, false
		for _, e := range m.Used {
			inside = inside || page.Intersect(e) == page
		}
		if !inside || p < block.HeadSize || p%Page != 0 {
			t.Errorf("probes %v", page)
		}
	}
	if p := ProbePlaces(block.Whole(block.HeadSize)); p != nil {
		t.Errorf("probes an image of one MiB at %v", p)
	}
}

// written returns the record of so many blocks that repeat nowhere, and a card
// that holds them.
func written(card *liar, blocks int) *Record {
	var r Record
	rnd := rand.NewChaCha8([32]byte{1})
	p := make([]byte, 64<<10)
	for i := range blocks {
		_, _ = rnd.Read(p)
		e := block.Extent{Off: int64(i * len(p)), Len: int64(len(p))}
		r.Add(Entry{e, Sum(p)})
		_, _ = card.WriteAt(p, e.Off)
	}
	return &r
}

func readBack(t *testing.T, r *Record, card *liar) (bad []Bad) {
	t.Helper()
	p := make([]byte, 64<<10)
	for i := range r.Len() {
		e := r.At(i)
		_, _ = card.ReadAt(p[:e.Len], e.Off)
		if got := Sum(p[:e.Len]); got != e.Sum {
			b, err := Reexamine(card, i, e, got, p)
			if err != nil {
				t.Fatal(err)
			}
			bad = append(bad, b)
		}
	}
	return bad
}

func TestDiagnoseTellsCapacityFromDamage(t *testing.T) {
	const n, size = 256, 64 << 10
	t.Run("sound", func(t *testing.T) {
		card := &liar{data: make([]byte, n*size)}
		if bad := readBack(t, written(card, n), card); len(bad) != 0 {
			t.Errorf("%d bad blocks", len(bad))
		}
	})
	t.Run("limbo", func(t *testing.T) {
		card := &liar{data: make([]byte, 100*size)}
		r := written(card, n)
		var c *CapacityError
		if err := Diagnose(r, readBack(t, r, card)); !errors.As(err, &c) || c.Wrap || c.Real != 100*size {
			t.Errorf("%v", err)
		}
	})
	t.Run("wrap", func(t *testing.T) {
		for _, real := range []int64{128 * size, 60 * size} { // once, and several times
			card := &liar{data: make([]byte, real), wrap: true}
			r := written(card, n)
			var c *CapacityError
			if err := Diagnose(r, readBack(t, r, card)); !errors.As(err, &c) || !c.Wrap || c.Real != real {
				t.Errorf("%v, want %d", err, real)
			}
		}
	})
	t.Run("a few flips", func(t *testing.T) {
		card := &liar{data: make([]byte, n*size)}
		r := written(card, n)
		card.data[5*size+17] ^= 1
		card.data[200*size] ^= 1
		bad := readBack(t, r, card)
		if len(bad) != 2 || Diagnose(r, bad) != nil {
			t.Errorf("%d bad, diagnosis %v", len(bad), Diagnose(r, bad))
		}
	})
	t.Run("everything dropped", func(t *testing.T) {
		card := &liar{data: make([]byte, n*size)}
		r := written(card, n)
		clear(card.data)
		if err := Diagnose(r, readBack(t, r, card)); err != nil {
			t.Errorf("a card that takes nothing is not one that holds less: %v", err)
		}
	})
}

func TestWhatReadsDifferentlyEachTimeIsUnstable(t *testing.T) {
	card := &liar{data: make([]byte, 4<<20)}
	r := written(card, 4)
	e, p := r.At(2), make([]byte, 64<<10)
	card.mad = true
	_, err := Reexamine(card, 2, e, Sum(p), p)
	var u *UnstableError
	if !errors.As(err, &u) || u.Extent != e.Extent {
		t.Errorf("%v", err)
	}
	// It is not good even if it comes out right in the end.
	card.mad = false
	if _, err := Reexamine(card, 2, e, block.Digest{1}, p); !errors.As(err, &u) {
		t.Errorf("right on the second reading: %v", err)
	}
}

func TestNarrowFindsTheBounds(t *testing.T) {
	want := bytes.Repeat([]byte{7}, 1000)
	got := bytes.Clone(want)
	got[100], got[899] = 0, 0
	b := Bad{Entry: Entry{Extent: block.Extent{Off: 5000, Len: 1000}}, First: 5000, Last: 6000}
	b.Narrow(want, got)
	if b.First != 5100 || b.Last != 5900 {
		t.Errorf("%d to %d", b.First, b.Last)
	}
}

func TestEveryReasonHasAHint(t *testing.T) {
	for _, r := range Reasons {
		if r.Hint() == "" {
			t.Errorf("%s has none", r)
		}
	}
}
