package faulttest

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"multidd/internal/block"
	"multidd/internal/device/devicetest"
	"multidd/internal/duplicate"
	"multidd/internal/station"
	"multidd/internal/verify"
)

// unproved is a run that looks at nothing: the control of all that is found by
// probing and reading back.
var unproved = duplicate.Options{NoProof: true, NoProbe: true}

func TestACardThatDropsAllWritesFails(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 4*mib)
	bad, good := newCard(t, 6*mib, devicetest.Drop()), newCard(t, 6*mib)
	job{image: m.path}.run(t, bad, good).want(station.ExitSomeFailed, "readback-mismatch", "good")
	bad.wantUntouchedAtRest()
	good.wantHolds(m.data)

	job{image: m.path, engine: unproved}.run(t, bad).want(station.ExitUnverified, "unverified")
	bad.wantUntouchedAtRest()
}

// flipPlaces are offsets all over an image: its corners, and a byte in every 61st
// page, at another place of the page each time.
func flipPlaces(size int64) []int64 {
	offs := devicetest.Corners(size)
	for page := int64(0); page < size/verify.Page; page += 61 {
		offs = append(offs, page*verify.Page+page*67%verify.Page)
	}
	slices.Sort(offs)
	return slices.Compact(offs)
}

// A single bit that is not what was written is found wherever it is, and named
// with its offset and the digests of what was expected and what was there.
func TestASingleFlippedBitIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	const size = 2*mib + 300<<10 + 100
	m := newMaster(t, size)
	cards := newCards(t, 14, 3*mib)
	for batch := range slices.Chunk(flipPlaces(size), len(cards)-1) {
		for i, off := range batch {
			cards[i].Heal()
			cards[i].Inject(devicetest.Flip(off))
		}
		used := append(cards[:len(batch):len(batch)], cards[len(cards)-1]) // the last one is sound
		res := job{image: m.path, engine: duplicate.Options{Rewrites: -1}}.run(t, used...)
		want := append(slices.Repeat([]string{"readback-mismatch"}, len(batch)), "good")
		res.want(station.ExitSomeFailed, want...)
		for i, off := range batch {
			wantFlip(t, cards[i], res.Lanes[i], m, off)
		}
	}
	// The control: nobody looks.
	res := job{image: m.path, engine: unproved}.run(t, cards[0])
	res.want(station.ExitUnverified, "unverified")
	if cards[0].holds(m.data) {
		t.Error("the control's card has no flipped bit")
	}
}

// wantFlip checks what is said of a card on which one bit is wrong.
func wantFlip(t *testing.T, c *card, l station.LaneState, m master, off int64) {
	t.Helper()
	if l.Offset != off {
		t.Errorf("offset %d, want %d: %s", l.Offset, off, l.Message)
	}
	if len(l.Bad) != 1 || l.Bad[0].Off != off || l.Bad[0].Len != 1 {
		t.Errorf("bit %d: bad ranges %v", off, l.Bad)
		return
	}
	// The digests are those of the block that the bit is in. The first MiB is found
	// bad when it is still to be blank.
	e := block.Extent{Off: off / mib * mib, Len: mib}.Intersect(block.Extent{Len: int64(len(m.data))})
	bad := slices.Clone(m.data[e.Off:e.End()])
	if off < block.HeadSize {
		clear(bad)
	}
	if want := verify.Sum(bad).String(); l.Bad[0].Want != want {
		t.Errorf("bit %d: expected digest %s, want %s", off, l.Bad[0].Want, want)
	}
	bad[off-e.Off] ^= 1 << (off % 8)
	if got := verify.Sum(bad).String(); l.Bad[0].Got != got {
		t.Errorf("bit %d: got digest %s, want %s", off, l.Bad[0].Got, got)
	}
	c.wantDead()
}

// A bit that was wrong once is put right by rewriting it, and said; it is not if
// rewriting was not asked for.
func TestABitThatWasWrongOnceIsMended(t *testing.T) {
	t.Parallel()
	const off = 3*mib + 4711 // not probed
	m := newMaster(t, 4*mib)
	for _, c := range []struct {
		rewrites int
		exit     int
		verdict  string
	}{{0, station.ExitGood, "good"}, {-1, station.ExitNoneGood, "readback-mismatch"}} {
		bad := newCard(t, 6*mib, devicetest.FlipOnce(off))
		res := job{image: m.path, engine: duplicate.Options{Rewrites: c.rewrites}}.run(t, bad)
		res.want(c.exit, c.verdict)
		if c.verdict == "good" {
			bad.wantHolds(m.data)
			res.wantAmber(0, fmt.Sprint(off))
			res.wantAmber(0, "rewritten")
			if res.Lanes[0].Rewrote != 1 {
				t.Errorf("%d places were rewritten, want 1", res.Lanes[0].Rewrote)
			}
			continue
		}
		bad.wantDead()
		if res.Lanes[0].Offset != off || res.Lanes[0].Rewrote != 0 {
			t.Errorf("bad at %d, %d places were rewritten", res.Lanes[0].Offset, res.Lanes[0].Rewrote)
		}
	}
	sound := newCard(t, 6*mib)
	res := job{image: m.path}.run(t, sound)
	res.want(station.ExitGood, "good")
	res.wantAmber(0, "")
}

// A card that has less than it claims is found by a quick look, before the image
// is written; and without that, by reading back.
func TestACardWithLessThanItClaimsIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		image       int
		fault       func(int64) devicetest.Fault
		real        int64
		probed      bool // found by the quick look, too
		exact, keep bool // what reading back says of the capacity is exact; that it is a matter of capacity
	}{
		{"limbo", 11 * mib, devicetest.Limbo, 2 * mib, true, true, true},
		{"limbo, with what was there before", 11 * mib, devicetest.Stale, 2*mib + 300<<10, true, false, true},
		{"wrap at a power of two", 8 * mib, devicetest.Wrap, 4 * mib, true, true, true},
		{"wrap at no power of two", 8 * mib, devicetest.Wrap, 6 * mib, false, true, true},
		{"wrap to the first MiB only", 8 * mib, devicetest.Wrap, 7 * mib, false, true, true},
		{"wrap at an odd place", 8 * mib, devicetest.Wrap, 6*mib + 4096, false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			reason := "fake-capacity"
			if !c.keep {
				reason = "readback-mismatch"
			}
			claimed := int64(c.image) + 2*mib
			m := newMaster(t, c.image)
			fake := newCard(t, claimed, c.fault(c.real))
			if c.probed {
				res := job{image: m.path}.run(t, fake)
				res.want(station.ExitNoneGood, reason)
				l := res.Lanes[0]
				if l.Step != station.Preparing || l.Offset < c.real/2 || l.Offset > c.real {
					t.Errorf("in phase %v the capacity was said to be %d, it is %d: %s", l.Step, l.Offset, c.real, l.Message)
				}
				if n := fake.Counts().BytesWritten; n > mib+64<<10 {
					t.Errorf("%d bytes had been written by then", n)
				}
				fake.wantDead()
			}
			// However often it may rewrite, it does not become good.
			res := job{image: m.path, engine: duplicate.Options{NoProbe: true, Rewrites: 3}}.run(t, fake)
			res.want(station.ExitNoneGood, reason)
			l := res.Lanes[0]
			if l.Step != station.Verifying || c.exact && l.Offset != c.real || c.keep && (l.Offset <= c.real-mib || l.Offset > c.real) {
				t.Errorf("in phase %v the capacity was said to be %d, it is %d: %s", l.Step, l.Offset, c.real, l.Message)
			}
			fake.wantDead()
			// The controls: nobody looks; and the card has what it claims.
			job{image: m.path, engine: unproved}.run(t, fake).want(station.ExitUnverified, "unverified")
			if fake.holds(m.data) {
				t.Error("the control's card holds the image")
			}
			fake.Heal()
			fake.Inject(c.fault(claimed))
			job{image: m.path}.run(t, fake).want(station.ExitGood, "good")
		})
	}
}

// wrongOnce spoils the first read of a byte that was written.
func wrongOnce(off int64) devicetest.Fault {
	var state atomic.Int32 // 0: not written, 1: written, 2: spoilt
	return devicetest.FaultFunc(func(op devicetest.Op, next devicetest.Next) (int, error) {
		n, err := next(op)
		if off < op.Off || off >= op.End() {
			return n, err
		}
		if op.Kind == devicetest.Write {
			state.CompareAndSwap(0, 1)
		} else if state.CompareAndSwap(1, 2) {
			op.Data[off-op.Off] ^= 1
		}
		return n, err
	})
}

// A card that gives different data each time is never good, not even if it comes
// out right the next time: what is there only now and then is not there.
func TestACardThatReadsDifferentlyEachTimeFails(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 5*mib)
	cards := []*card{
		newCard(t, 6*mib, devicetest.Unstable(3*mib+9000, 5000, 1)),
		newCard(t, 6*mib, wrongOnce(4*mib+5000)),
		newCard(t, 6*mib, wrongOnce(4000)), // in the first page
		newCard(t, 6*mib, devicetest.Flip(4*mib+5000)),
		newCard(t, 6*mib),
	}
	res := job{image: m.path}.run(t, cards...)
	// A bit that is always wrong is no such case.
	res.want(station.ExitSomeFailed, "unstable-read", "unstable-read", "unstable-read", "readback-mismatch", "good")
	for i, c := range cards[:4] {
		c.wantDead()
		c.Heal()
		if l := res.Lanes[i]; i < 2 && (l.Step != station.Verifying || l.Offset < 3*mib) {
			t.Errorf("card %d failed at byte %d in phase %v", i, l.Offset, l.Step)
		}
	}
	job{image: m.path}.run(t, cards[:4]...).want(station.ExitGood, "good", "good", "good", "good")
}

func TestACardThatIsNotReadBackIsNotCalledGood(t *testing.T) {
	t.Parallel()
	m := newMaster(t, 3*mib)
	c := newCard(t, 4*mib)
	p := startWrite(t, m.path, []*card{c}, "--verify=none")
	p.end().want(station.ExitUnverified, "unverified")
	c.wantHolds(m.data)
	startWrite(t, m.path, []*card{c}).end().want(station.ExitGood, "good")
}
