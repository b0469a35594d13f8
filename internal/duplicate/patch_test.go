package duplicate

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"

	"multidd/internal/block"
	"multidd/internal/device/devicetest"
	"multidd/internal/verify"
)

// onePatch differs in every kind of place there is: in the first page, in the rest of
// the first MiB, in a gap there, within a block, across blocks, in a gap, and behind
// the end.
func onePatch() (used []block.Extent, patch pieces) {
	used = []block.Extent{{Len: 600_000}, {Off: 700_000, Len: 2 << 20}, {Off: 4 << 20, Len: 1 << 20}}
	for i, e := range []block.Extent{
		{Off: 100, Len: 50}, {Off: 500_000, Len: 150_000}, {Off: 1<<20 + 5000, Len: 777}, {Off: 1<<20 + blockSize - 10, Len: 3 * blockSize},
		{Off: 3 << 20, Len: 100_000}, {Off: 5<<20 + 4096, Len: 8192}, {Off: 6<<20 - 512, Len: 512},
	} {
		patch = append(patch, block.New(e.Off, noise(int(e.Len), uint64(i+900)), nil))
	}
	return used, patch
}

// Whatever is laid over the image is proved like the image itself: a bit that flips
// in it is found and named, and mended if it flips but once.
func TestWhatDiffersOnOneCardIsProved(t *testing.T) {
	const size = 6 << 20
	image := noise(size, 50)
	used, patch := onePatch()
	for _, x := range patch {
		for _, once := range []bool{true, false} {
			for _, delta := range []bool{true, false} {
				off := x.Off + int64(len(x.Data))/2
				name := fmt.Sprintf("byte %d, once %v, delta %v", off, once, delta)
				m := devicetest.NewMedium(size)
				m.Soil(7)
				before := m.Bytes()
				m.Inject(devicetest.Flip(off))
				if once {
					m.Heal()
					m.Inject(devicetest.FlipOnce(off))
				}
				d := deed{image: image, used: used, lane: Lane{Target: m, Size: size, Patch: patch, Delta: delta}, o: Options{NoProbe: true}}
				p := d.do(t)
				want := d.want(before, patch)
				switch {
				case once && (p.Phase != Good || !bytes.Equal(m.Bytes(), want)):
					t.Errorf("%s: %v: %+v", name, p.Phase, p.Verdict)
				case !once && (p.Phase != Failed || p.Verdict.Reason != verify.ReadbackMismatch || p.Verdict.Offset != off):
					t.Errorf("%s: %v: %+v", name, p.Phase, p.Verdict)
				}
			}
		}
	}
	// The control: nobody looks.
	m := devicetest.NewMedium(size, devicetest.Flip(3<<20+50_000))
	m.Soil(7)
	before := m.Bytes()
	d := deed{image: image, used: used, lane: Lane{Target: m, Size: size, Patch: patch}, o: Options{NoProof: true}}
	if p := d.do(t); p.Phase != Unverified || bytes.Equal(m.Bytes(), d.want(before, patch)) {
		t.Errorf("nobody looks: %v", p.Phase)
	}
}

// Lanes beside one with a patch get what the image has.
func TestAPatchIsForOneCardOnly(t *testing.T) {
	b := newBench(t, noise(4<<20, 51), 3, Options{})
	patch := pieces{block.New(1000, noise(2000, 1), nil), block.New(2<<20-100, noise(200_000, 2), nil), block.New(4<<20, noise(100, 3), nil)}
	l := b.run.lanes[1]
	l.patch, l.pieces = patch, patch.Extents()
	if err := b.run.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantGood(t, 0, 2)
	want := bytes.Clone(b.cards[1].data)
	copy(want, b.src.image)
	for _, x := range patch {
		copy(want[x.Off:], x.Data)
	}
	if p := b.run.Progress(1); p.Phase != Good || !bytes.Equal(b.cards[1].data, want) {
		t.Errorf("%v: %+v", p.Phase, p.Verdict)
	}
}

// A patch that goes on behind the end of its card fails that card.
func TestAPatchBehindTheEndOfTheCardIsTooMuch(t *testing.T) {
	card := newMemCard(4 << 20)
	patch := pieces{block.New(4<<20-100, noise(200, 1), nil)}
	d := deed{image: noise(3<<20, 52), lane: Lane{Target: card, Size: 4 << 20, Patch: patch}}
	if p := d.do(t); p.Phase != Failed || p.Verdict.Reason != verify.TooSmall {
		t.Errorf("%v: %+v", p.Phase, p.Verdict)
	}
}

// A tardy patch changes nothing, and is laid over a block when the source has filled
// the window again.
type tardy struct{ pieces }

func (p tardy) Apply(b block.Block) block.Block {
	synctest.Wait()
	return b
}

// A lane whose patch is what the image has anyway needs no more buffers than any other:
// with those that Buffers asks for, and not one more, the run comes to its end.
func TestAPatchThatChangesNothingNeedsNoBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		image := noise(3<<20, 53)
		same := tardy{pieces{block.New(2<<20+100, image[2<<20+100:2<<20+blockSize], nil)}}
		pool := block.NewPool(Buffers(1, 1, 1), blockSize)
		card := newMemCard(len(image))
		run := New(&imageSource{image: image, pool: pool}, pool, []Lane{{Target: card, Patch: same}}, int64(len(image)), Options{Window: 1, Depth: 1, NoProbe: true})
		if err := run.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p := run.Progress(0); p.Phase != Good || !bytes.Equal(card.data, image) {
			t.Errorf("%v: %+v", p.Phase, p.Verdict)
		}
	})
}

// A piece in the first MiB that is longer than a buffer, where the image has nothing, is
// blanked again if it was not blank, and sealed like the rest.
func TestALongPieceInTheFirstMiBIsBlankedAgain(t *testing.T) {
	const size = 3 << 20
	m := devicetest.NewMedium(size, devicetest.FlipOnce(300_000))
	m.Soil(7)
	before := m.Bytes()
	patch := pieces{block.New(100_000, noise(5*blockSize, 1), nil)}
	d := deed{image: noise(size, 54), used: []block.Extent{{Off: 1 << 20, Len: 1 << 20}}, lane: Lane{Target: m, Size: size, Patch: patch}, o: Options{NoProbe: true}}
	if p := d.do(t); p.Phase != Good || p.Rewrote != 1 || !bytes.Equal(m.Bytes(), d.want(before, patch)) {
		t.Errorf("%v, %d rewritten: %+v", p.Phase, p.Rewrote, p.Verdict)
	}
}
