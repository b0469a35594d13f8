package duplicate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"multidd/internal/block"
	"multidd/internal/device/devicetest"
	"multidd/internal/verify"
)

// mapSource gives those parts of an image that are used.
type mapSource struct {
	imageSource
	parts []block.Extent // none longer than a buffer
	at    int
}

func (s *mapSource) Next(ctx context.Context) (block.Block, error) {
	if s.at == len(s.parts) {
		return block.Block{}, io.EOF
	}
	buf, err := s.pool.Get(ctx)
	if err != nil {
		return block.Block{}, err
	}
	e := s.parts[s.at]
	s.at++
	n := copy(buf, s.image[e.Off:e.End()])
	return block.New(e.Off, buf[:n], func() { s.pool.Put(buf) }), nil
}

// partsOf cuts extents as image.Reader does.
func partsOf(used []block.Extent) []block.Extent {
	var parts []block.Extent
	for _, e := range used {
		for e.Len > 0 {
			n := min(e.Len, blockSize-e.Off%blockSize)
			parts = append(parts, block.Extent{Off: e.Off, Len: n})
			e = block.Extent{Off: e.Off + n, Len: e.Len - n}
		}
	}
	return parts
}

// A pieces is a Patch.
type pieces []block.Block

func (p pieces) Extents() []block.Extent { return extentsOf(p) }

func (p pieces) Apply(b block.Block) block.Block {
	var own []byte
	for _, x := range p {
		in := x.Extent().Intersect(b.Extent())
		if in.Len == 0 {
			continue
		}
		if own == nil {
			own = bytes.Clone(b.Data)
		}
		copy(own[in.Off-b.Off:], x.Data[in.Off-x.Off:in.End()-x.Off])
	}
	if own == nil {
		return b
	}
	off := b.Off
	b.Release()
	return block.New(off, own, nil)
}

// A deed is a run of what is used of an image to one card of any kind.
type deed struct {
	image []byte
	used  []block.Extent // nil: all of it
	lane  Lane
	o     Options
	once  bool // the source cannot be read again
	run   *Run
	err   error
}

// do carries it out and returns how the lane ended.
func (d *deed) do(t *testing.T) Progress {
	t.Helper()
	if d.used == nil {
		d.used = []block.Extent{{Len: int64(len(d.image))}}
	}
	if d.o.Window == 0 {
		d.o.Window = 4
	}
	pool := block.NewPool(Buffers(d.o.Window, 2, 1)+1, blockSize)
	src := &mapSource{imageSource: imageSource{image: d.image, pool: pool, once: d.once}, parts: partsOf(d.used)}
	d.o.Map = block.Map{Size: int64(len(d.image)), Used: d.used}
	d.run = New(src, pool, []Lane{d.lane}, d.o.Map.Bytes(), d.o)
	d.err = d.run.Do(t.Context())
	p := d.run.Progress(0)
	if n := free(t, pool); d.err == nil && n != pool.Len() {
		t.Errorf("%d of %d buffers were given back", n, pool.Len())
	}
	return p
}

// want is what a card of that content holds after a run.
func (d *deed) want(before []byte, patch pieces) []byte {
	want := bytes.Clone(before)
	for _, e := range d.used {
		copy(want[e.Off:e.End()], d.image[e.Off:e.End()])
	}
	for _, x := range patch {
		copy(want[x.Off:], x.Data)
	}
	return want
}

// content is what may have been on a card of n bytes that is to get the image.
func content(rng *rand.Rand, image []byte, n int) []byte {
	p := noise(n, rng.Uint64())
	switch rng.IntN(6) {
	case 0: // noise
		return p
	case 1: // nothing
		return make([]byte, n)
	case 2: // the same, a little further on
		copy(p[rng.IntN(200_000):], image)
		return p
	case 3: // the same, and wrapped around
		for at := 0; at < n; at += len(image) / 2 {
			copy(p[at:], image[:len(image)/2])
		}
	default:
		copy(p, image)
	}
	for range rng.IntN(8) { // but here and there
		at, length := rng.IntN(n), 1+rng.IntN(1<<rng.IntN(19))
		copy(p[at:], noise(length, rng.Uint64()))
	}
	return p
}

// extentsIn returns some extents of a disk of n bytes.
func extentsIn(rng *rand.Rand, n int64) []block.Extent {
	var used []block.Extent
	for at := int64(rng.IntN(3) * 5000); at < n; {
		length := min(n-at, 1+rng.Int64N(1<<(10+rng.IntN(12))))
		used = append(used, block.Extent{Off: at, Len: length})
		at += length + rng.Int64N(300_000)
	}
	return used
}

func patchIn(rng *rand.Rand, n int64) pieces {
	var p pieces
	for at := rng.Int64N(3_000_000); at < n; {
		length := min(n-at, 1+rng.Int64N(200_000))
		p = append(p, block.New(at, noise(int(length), rng.Uint64()), nil))
		at += length + rng.Int64N(2_000_000)
	}
	return p
}

// Whatever is on a card, whatever of the image is used and whatever is laid over it:
// the card is good and holds that, and nothing else was touched; with Delta, not
// more than differs was written.
func TestAnyCardComesOutRight(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		size := 1<<20 + rng.IntN(2<<20)
		image := noise(size, seed+500)
		before := content(rng, image, size+1<<20)
		d := deed{image: image, once: rng.IntN(3) == 0}
		if rng.IntN(2) == 0 {
			d.used = extentsIn(rng, int64(size))
		}
		var patch pieces
		if rng.IntN(2) == 0 {
			patch = patchIn(rng, int64(size+1<<20))
			d.lane.Patch = patch
		}
		d.lane.Delta = rng.IntN(3) > 0
		d.o.FullProof = rng.IntN(4) == 0
		card := &memCard{data: bytes.Clone(before)}
		d.lane.Target, d.lane.Size = card, int64(len(before))
		p := d.do(t)
		if p.Phase != Good {
			t.Errorf("seed %d: %v: %+v", seed, p.Phase, p.Verdict)
		}
		want := d.want(before, patch)
		if !bytes.Equal(card.data, want) {
			t.Errorf("seed %d: the card holds something else (delta %v, patch %d pieces)", seed, d.lane.Delta, len(patch))
		}
		if !d.lane.Delta {
			continue
		}
		if same := bytes.Equal(before, want); same != (card.count("write") == 0) {
			t.Errorf("seed %d: the card was right before: %v; %d writes", seed, same, card.count("write"))
		}
		// A grain may differ in a byte, and take its neighbour along.
		differ := int64(0)
		for at := int64(block.HeadSize); at < int64(len(want)); at += verify.Grain {
			end := min(at+verify.Grain, int64(len(want)))
			if !bytes.Equal(before[at:end], want[at:end]) {
				differ += end - at
			}
		}
		if most := 2*differ + block.HeadSize; p.Differed > most {
			t.Errorf("seed %d: %d bytes were written, %d differ by grains", seed, p.Differed, differ)
		}
	}
}

func (c *memCard) count(kind string) int {
	n := 0
	for _, op := range c.ops {
		if strings.HasPrefix(op, kind) {
			n++
		}
	}
	return n
}

func TestACardThatIsRightIsNotWritten(t *testing.T) {
	image := noise(5<<20+777, 31)
	for _, o := range []Options{{}, {FullProof: true}, {NoProof: true}} {
		card := newMemCard(6 << 20)
		copy(card.data, image)
		d := deed{image: image, lane: Lane{Target: card, Size: 6 << 20, Delta: true}, o: o}
		p := d.do(t)
		if p.Phase != Good || p.Differed != 0 || p.Compared != int64(len(image)) {
			t.Errorf("%+v", p)
		}
		if n := card.count("write") + card.count("sync"); n != 0 {
			t.Errorf("%d times it was written to or flushed: %v", n, card.ops)
		}
		if n := card.count("read"); n > 2*len(image)/blockSize {
			t.Errorf("%d readings", n)
		}
	}
	// The control: one bit is wrong.
	card := newMemCard(6 << 20)
	copy(card.data, image)
	card.data[4<<20+5] ^= 1
	d := deed{image: image, lane: Lane{Target: card, Size: 6 << 20, Delta: true}}
	if p := d.do(t); p.Phase != Good || p.Differed != verify.Grain || !bytes.Equal(card.data[:len(image)], image) {
		t.Errorf("%+v", p)
	}
}

// Law 6: before anything is changed, the first MiB is blank, and flushed.
func TestTheFirstMiBIsBlankedBeforeAnythingIsChanged(t *testing.T) {
	image := noise(4<<20, 32)
	for _, head := range []bool{false, true} {
		card := newMemCard(4 << 20)
		copy(card.data, image)
		card.data[3<<20] ^= 1
		if head {
			card.data[5000] ^= 1
		}
		var blanked, flushed, changed bool
		blank := make([]byte, block.HeadSize)
		card.before = func(kind string, off int64, n int) error {
			card.mu.Lock()
			defer card.mu.Unlock()
			isBlank := bytes.Equal(card.data[:block.HeadSize], blank)
			switch {
			case kind == "sync" && isBlank:
				flushed = true
			case kind == "write" && off >= block.HeadSize:
				changed = true
				if !flushed || !isBlank {
					t.Errorf("byte %d is written while the first MiB is not blank, or not flushed", off)
				}
			case kind == "write":
				blanked = true
			}
			return nil
		}
		d := deed{image: image, lane: Lane{Target: card, Size: 4 << 20, Delta: true}}
		if p := d.do(t); p.Phase != Good || !bytes.Equal(card.data, image) {
			t.Errorf("%+v", p)
		}
		if !blanked || !flushed || !changed {
			t.Error("nothing was seen")
		}
	}
}

// Every operation of a lane that compares fails once, or from then on: the card is
// good only if it holds the image, and looks blank unless nothing was written.
func TestEveryOperationOfAComparisonFailsOnce(t *testing.T) {
	image := noise(1<<20+350_000, 33)
	for _, sticky := range []bool{false, true} {
		for n := 0; ; n++ {
			card := newMemCard(2 << 20)
			copy(card.data, image)
			for at := 1<<20 + 100; at < len(image); at += 150_000 {
				card.data[at] ^= 1
			}
			before := bytes.Clone(card.data)
			left, fired := n, false
			card.before = func(kind string, off int64, count int) error {
				if left--; left == -1 || sticky && left < 0 {
					fired = true
					return errors.New("input/output error")
				}
				return nil
			}
			d := deed{image: image, lane: Lane{Target: card, Size: 2 << 20, Delta: true}}
			p := d.do(t)
			if p.Phase == Good {
				if !bytes.Equal(card.data[:len(image)], image) {
					t.Errorf("operation %d failed (sticky %v), and the card is called good", n, sticky)
				}
			} else if v := p.Verdict; !bytes.Equal(card.data, before) && !bytes.Equal(card.data[:4096], make([]byte, 4096)) && !(sticky && v.Step == Sealing) {
				// A card that takes nothing any more once it has its first page cannot be helped.
				t.Errorf("operation %d failed in %v (sticky %v): the card was written to and has its first page: %+v", n, v.Step, sticky, v)
			}
			if !fired {
				break
			}
		}
	}
}

// What the card cannot read is written anew.
func TestAPlaceThatCannotBeReadIsWritten(t *testing.T) {
	image := noise(4<<20, 34)
	card := newMemCard(4 << 20)
	copy(card.data, image)
	at := int64(3<<20 + 5*blockSize)
	healed := false
	card.before = func(kind string, off int64, n int) error {
		if off != at {
			return nil
		}
		healed = healed || kind == "write"
		if kind == "read" && !healed {
			return syscall.EIO
		}
		return nil
	}
	d := deed{image: image, lane: Lane{Target: card, Size: 4 << 20, Delta: true}}
	p := d.do(t)
	if p.Phase != Good || p.Differed != blockSize || !slices.ContainsFunc(p.Amber, func(s string) bool { return strings.Contains(s, fmt.Sprint(at)) }) {
		t.Errorf("%+v", p)
	}
}

// A lane that compares slowly costs the others nothing, and goes on from the copy.
func TestASlowComparisonGoesOnFromTheCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, noise(8<<20, 35), 3, Options{StallShown: time.Hour, StallMin: 100 * time.Hour, StallMax: 100 * time.Hour})
		patch := pieces{block.New(3<<20+100, noise(100_000, 1), nil), block.New(8<<20+10, noise(1000, 2), nil)}
		for i, l := range b.run.lanes {
			l.delta = true
			copy(b.cards[i].data, b.src.image)
			b.cards[i].data[6<<20] ^= 1
		}
		b.run.spots, b.run.looking = &verify.Spots{}, block.NewPool(looking, blockSize)
		slow := b.run.lanes[2]
		slow.patch, slow.pieces = patch, patch.Extents()
		gate := make(chan struct{})
		var once sync.Once
		b.cards[2].before = func(kind string, off int64, n int) error {
			if off > 1<<20 {
				once.Do(func() { <-gate })
			}
			return nil
		}
		done := make(chan error)
		go func() { done <- b.run.Do(t.Context()) }()
		synctest.Wait()
		b.wantGood(t, 0, 1)
		close(gate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if b.src.reread == 0 {
			t.Error("the slow lane did not go on from the copy")
		}
		if p := b.run.Progress(2); p.Phase != Good || p.Differed > 5*verify.Grain {
			t.Errorf("%+v", p)
		}
		want := bytes.Clone(b.src.image)
		copy(want[patch[0].Off:], patch[0].Data)
		if !bytes.Equal(b.cards[2].data[:8<<20], want) || !bytes.Equal(b.cards[2].data[8<<20+10:][:1000], patch[1].Data) {
			t.Error("the slow card does not hold what it should")
		}
	})
}

// lie runs a delta to a card with a fault, and returns how it ended and whether the
// card holds the image.
func lie(t *testing.T, image, before []byte, o Options, faults ...devicetest.Fault) (p Progress, holds bool) {
	t.Helper()
	m := devicetest.NewMedium(int64(len(before)))
	for _, f := range slices.Backward(faults) {
		m.Inject(f)
	}
	_, _ = m.WriteAt(before, 0) // as this card would have taken it
	d := deed{image: image, lane: Lane{Target: m, Size: m.Size(), Delta: true}, o: o}
	p = d.do(t)
	got := make([]byte, len(image))
	_, _ = m.ReadAt(got, 0)
	return p, bytes.Equal(got, image)
}

// A card that lies is found out though only a little of it is written.
func TestACardThatLiesIsFoundOutByADelta(t *testing.T) {
	const size = 9 << 20
	image := noise(size, 36)
	old := bytes.Clone(image) // a tenth of it changed
	for at := 3 << 20; at < size; at += 10 * verify.Grain {
		copy(old[at:], noise(verify.Grain, uint64(at)))
	}
	for _, c := range []struct {
		name   string
		fault  func() devicetest.Fault
		reason verify.Reason
	}{
		{"drops all", devicetest.Drop, verify.ReadbackMismatch},
		{"drops some", func() devicetest.Fault { return devicetest.DropAfter(size + 1000<<10) }, verify.ReadbackMismatch},
		{"limbo", func() devicetest.Fault { return devicetest.Limbo(4 << 20) }, verify.FakeCapacity},
		{"limbo with what was there before", func() devicetest.Fault { return devicetest.Stale(4 << 20) }, verify.FakeCapacity},
		{"wraps at a power of two", func() devicetest.Fault { return devicetest.Wrap(8 << 20) }, verify.FakeCapacity},
		{"wraps at no power of two", func() devicetest.Fault { return devicetest.Wrap(6<<20 + 512<<10) }, verify.FakeCapacity},
		{"flips a bit that is written", func() devicetest.Fault { return devicetest.Flip(3<<20 + 700) }, verify.ReadbackMismatch},
		{"forgets beyond its cache", func() devicetest.Fault { return devicetest.Cache(512 << 10) }, verify.ReadbackMismatch},
		{"reads differently each time", func() devicetest.Fault { return devicetest.Unstable(3<<20, 8192, 1) }, verify.UnstableRead},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, noProbe := range []bool{false, true} {
				p, _ := lie(t, image, old, Options{NoProbe: noProbe}, c.fault())
				reason := c.reason
				if noProbe && reason == verify.FakeCapacity && p.Verdict.Reason == verify.ReadbackMismatch {
					reason = verify.ReadbackMismatch // by reading back it cannot always be told
				}
				if p.Phase != Failed || p.Verdict.Reason != reason {
					t.Errorf("without the probe %v: %v: %+v", noProbe, p.Phase, p.Verdict)
				}
			}
			// The controls: nobody looks; and the card is sound.
			p, holds := lie(t, image, old, Options{NoProbe: true, NoProof: true}, c.fault())
			if p.Phase != Unverified || holds {
				t.Errorf("nobody looks: %v, holds the image: %v", p.Phase, holds)
			}
		})
	}
	if p, holds := lie(t, image, old, Options{}); p.Phase != Good || !holds {
		t.Errorf("a sound card: %v, holds the image: %v", p.Verdict, holds)
	}
}

// spoiler spoils a place whenever another is written: the one at apart from it.
func spoiler(apart int64, cells func() *devicetest.Cells) devicetest.Fault {
	return devicetest.On(func(op devicetest.Op) error {
		if at := op.Off + apart; op.Kind == devicetest.Write && op.Off > 2<<20 && at >= 0 {
			_, _ = cells().WriteAt([]byte{1, 2, 3}, at)
		}
		return nil
	})
}

// What has been found equal and is spoilt by the writing of something else, is found
// by the sample, and mended.
func TestTheSampleFindsWhatWritingSpoils(t *testing.T) {
	const size = 24 << 20
	image := noise(size, 37)
	old := bytes.Clone(image)
	for at := 5 << 20; at < size; at += 3 << 20 {
		old[at] ^= 1
	}
	for _, apart := range []int64{verify.Grain, -verify.Grain, -1 << 20, -2 << 20, -4 << 20, -16 << 20} {
		for _, look := range []bool{true, false} {
			m := devicetest.NewMedium(size)
			_, _ = m.Cells().WriteAt(old, 0)
			undo := m.Inject(spoiler(apart, m.Cells))
			m.Inject(devicetest.On(func(op devicetest.Op) error {
				if op.Kind == devicetest.Sync && m.Counts().Syncs > 3 {
					undo() // so that mending is possible
				}
				return nil
			}))
			d := deed{image: image, lane: Lane{Target: m, Size: size, Delta: true}, o: Options{noSample: !look, NoProbe: true, Rewrites: 3}}
			p := d.do(t)
			got := m.Bytes()
			switch good := p.Phase == Good; {
			case look && good && !bytes.Equal(got, image):
				t.Errorf("%d apart: called good and is not", apart)
			case look && (p.Rewrote == 0 || len(p.Amber) == 0):
				t.Errorf("%d apart: nothing was noticed: %+v", apart, p)
			case !look && (!good || bytes.Equal(got, image)):
				t.Errorf("%d apart: without the sample it is %v", apart, p.Verdict)
			}
		}
	}
}

// Everything is read back if that is asked for: a single spoilt byte far from
// everything is found.
func TestAFullProofAfterADeltaReadsEverything(t *testing.T) {
	image := noise(6<<20, 38)
	for _, full := range []bool{true, false} {
		card := newMemCard(6 << 20)
		copy(card.data, image)
		card.data[5<<20] ^= 1
		done := false
		card.before = func(kind string, off int64, n int) error {
			if kind == "write" && off == 5<<20 && !done {
				done = true
				card.data[3<<20+100] ^= 1
				card.data[3<<20+100_000] ^= 1 // in no spot
			}
			return nil
		}
		d := deed{image: image, lane: Lane{Target: card, Size: 6 << 20, Delta: true}, o: Options{FullProof: full, noSample: true}}
		p := d.do(t)
		if holds := bytes.Equal(card.data, image); p.Phase != Good || holds != full {
			t.Errorf("full %v: %v, holds the image: %v", full, p.Verdict, holds)
		}
	}
}

func TestAnOldTableGoesWithADelta(t *testing.T) {
	image := noise(3<<20, 39)
	for _, c := range []struct {
		name  string
		table block.Extent
		blank bool
	}{
		{"behind the image", block.Extent{Off: 4<<20 - 512, Len: 512}, true},
		{"within the image", block.Extent{Off: 3<<20 - 512, Len: 512}, false},
	} {
		for _, differs := range []bool{true, false} {
			card := newMemCard(4 << 20)
			copy(card.data, image)
			if differs {
				card.data[3<<20-1000] ^= 1
			}
			d := deed{image: image, lane: Lane{Target: card, Size: 4 << 20, Delta: true, Blank: []block.Extent{c.table}}}
			if p := d.do(t); p.Phase != Good {
				t.Errorf("%s: %+v", c.name, p.Verdict)
			}
			got := card.data[c.table.Off:c.table.End()]
			if blank := bytes.Equal(got, make([]byte, c.table.Len)); blank != c.blank || !bytes.Equal(card.data[:len(image)], image) {
				t.Errorf("%s, differs %v: the table is blank: %v", c.name, differs, blank)
			}
		}
	}
}

// discarding is a card that can discard: as it should, or as told.
type discarding struct {
	*memCard
	leaves byte
	asked  []block.Extent
}

func (c *discarding) Discard(off, n int64) error {
	c.asked = append(c.asked, block.Extent{Off: off, Len: n})
	for i := range c.data[off : off+n] {
		c.data[off+int64(i)] = c.leaves
	}
	return nil
}

func TestWhatIsFreeReadsAsZerosAfterADiscard(t *testing.T) {
	image := noise(6<<20, 40)
	used := []block.Extent{{Len: 2 << 20}, {Off: 3<<20 + 5000, Len: 1 << 20}, {Off: 5 << 20, Len: 70_000}}
	for _, c := range []struct {
		name   string
		target func(*memCard) Target
		writes bool // of zeros
	}{
		{"a card that keeps its promise", func(m *memCard) Target { return &discarding{memCard: m} }, false},
		{"a card that gives ones", func(m *memCard) Target { return &discarding{memCard: m, leaves: 0xff} }, true},
		{"a card that cannot discard", func(m *memCard) Target { return m }, true},
	} {
		card := newMemCard(7 << 20)
		before := bytes.Clone(card.data)
		d := deed{image: image, used: used, lane: Lane{Target: c.target(card), Size: 7 << 20}, o: Options{Discard: true, NoProbe: true}}
		p := d.do(t)
		want := make([]byte, 7<<20)
		copy(want[6<<20:], before[6<<20:]) // behind the image
		for _, e := range used {
			copy(want[e.Off:e.End()], image[e.Off:e.End()])
		}
		if p.Phase != Good || !bytes.Equal(card.data, want) {
			t.Errorf("%s: %v: %+v", c.name, p.Phase, p.Verdict)
		}
		if zeros := card.count(fmt.Sprint("write ", 4<<20+blockSize)) > 0; zeros != c.writes {
			t.Errorf("%s: zeros were written: %v", c.name, zeros)
		}
	}
	// The control: without it, it is left as it was.
	card := newMemCard(7 << 20)
	before := bytes.Clone(card.data)
	d := deed{image: image, used: used, lane: Lane{Target: &discarding{memCard: card}, Size: 7 << 20}}
	if p := d.do(t); p.Phase != Good || !bytes.Equal(card.data, d.want(before, nil)) {
		t.Errorf("%v: %+v", p.Phase, p.Verdict)
	}
}

// free returns how many buffers of the pool are free, and takes them all.
func free(t *testing.T, pool *block.Pool) int {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for n := 0; ; n++ {
		got := false
		for range 64 { // a buffer and the end of ctx are ready at once
			if _, err := pool.Get(ctx); err == nil {
				got = true
				break
			}
		}
		if !got {
			return n
		}
	}
}
