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
	"testing"
	"testing/synctest"
	"time"

	"multidd/internal/block"
	"multidd/internal/verify"
)

const blockSize = 64 << 10

// noise returns n bytes that repeat nowhere.
func noise(n int, seed uint64) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	p := make([]byte, n)
	_, _ = r.Read(p)
	return p
}

// imageSource gives an image in blocks, and says how often bytes were read again.
type imageSource struct {
	image  []byte
	pool   *block.Pool
	once   bool  // the bytes cannot be had again
	end    error // instead of io.EOF
	endAt  int   // where end comes; 0: at the end of the image
	onNext func(off int)
	off    int

	mu     sync.Mutex
	reread int
}

func (s *imageSource) Next(ctx context.Context) (block.Block, error) {
	if s.onNext != nil {
		s.onNext(s.off)
	}
	stop := len(s.image)
	if s.end != nil && s.endAt > 0 {
		stop = s.endAt
	}
	if s.off >= stop {
		if s.end != nil {
			return block.Block{}, s.end
		}
		return block.Block{}, io.EOF
	}
	buf, err := s.pool.Get(ctx)
	if err != nil {
		return block.Block{}, err
	}
	n := copy(buf, s.image[s.off:stop])
	b := block.New(int64(s.off), buf[:n], func() { s.pool.Put(buf) })
	s.off += n
	return b, nil
}

func (s *imageSource) CanReread() bool { return !s.once }

func (s *imageSource) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	s.reread += len(p)
	s.mu.Unlock()
	return copy(p, s.image[off:]), nil
}

// memCard is a card in memory that does as it is told.
type memCard struct {
	mu     sync.Mutex
	data   []byte
	ops    []string // "write 0 1048576", "sync", …
	before func(kind string, off int64, n int) error
}

func newMemCard(size int) *memCard { return &memCard{data: noise(size, 99)} }

func (c *memCard) do(kind string, off int64, n int) error {
	if c.before != nil {
		if err := c.before(kind, off, n); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ops = append(c.ops, fmt.Sprint(kind, " ", off, " ", n))
	return nil
}

func (c *memCard) WriteAt(p []byte, off int64) (int, error) {
	if err := c.do("write", off, len(p)); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return copy(c.data[off:], p), nil
}

func (c *memCard) ReadAt(p []byte, off int64) (int, error) {
	if err := c.do("read", off, len(p)); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return copy(p, c.data[off:]), nil
}

func (c *memCard) Sync() error { return c.do("sync", 0, 0) }

// bench is a run of an image to cards in memory.
type bench struct {
	src   *imageSource
	cards []*memCard
	run   *Run
}

func newBench(t *testing.T, image []byte, cards int, o Options) *bench {
	t.Helper()
	o.NoProbe = true
	if o.Window == 0 {
		o.Window = 4
	}
	pool := block.NewPool(Buffers(o.Window, 2, cards)+1, blockSize)
	b := &bench{src: &imageSource{image: image, pool: pool}}
	var lanes []Lane
	for range cards {
		c := newMemCard(len(image) + blockSize)
		b.cards = append(b.cards, c)
		lanes = append(lanes, Lane{Target: c, Size: int64(len(c.data))})
	}
	b.run = New(b.src, pool, lanes, int64(len(image)), o)
	return b
}

func (b *bench) phases() []Phase {
	var p []Phase
	for i := range b.cards {
		p = append(p, b.run.Progress(i).Phase)
	}
	return p
}

func (b *bench) wantGood(t *testing.T, lanes ...int) {
	t.Helper()
	for _, i := range lanes {
		p := b.run.Progress(i)
		if p.Phase != Good {
			t.Errorf("lane %d is %v: %+v", i, p.Phase, p.Verdict)
		}
		if !bytes.Equal(b.cards[i].data[:len(b.src.image)], b.src.image) {
			t.Errorf("lane %d is called good and does not hold the image", i)
		}
	}
}

func TestEveryCardHoldsTheImage(t *testing.T) {
	for _, cards := range []int{1, 14, 64} {
		for _, size := range []int{1, 511, blockSize, block.HeadSize, block.HeadSize + 1, 5<<20 + 12345} {
			t.Run(fmt.Sprint(cards, " cards, ", size, " bytes"), func(t *testing.T) {
				b := newBench(t, noise(size, 1), cards, Options{})
				if err := b.run.Do(t.Context()); err != nil {
					t.Fatal(err)
				}
				for i := range b.cards {
					b.wantGood(t, i)
				}
				if got := b.run.Totals(); got.Read != int64(size) || got.Total != int64(size) {
					t.Errorf("totals %+v, want %d bytes", got, size)
				}
			})
		}
	}
}

// One card takes nothing until all others are good. It costs them nothing, and
// goes on from the source's copy.
func TestNoCardWaitsForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, noise(8<<20, 2), 5, Options{StallShown: time.Hour, StallMin: 100 * time.Hour, StallMax: 100 * time.Hour})
		gate := make(chan struct{})
		b.cards[2].before = func(kind string, off int64, n int) error { <-gate; return nil }
		done := make(chan error)
		go func() { done <- b.run.Do(t.Context()) }()
		synctest.Wait()
		b.wantGood(t, 0, 1, 3, 4)
		if p := b.run.Progress(2); p.Phase.Final() {
			t.Errorf("the slow card is %v", p.Phase)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		b.wantGood(t, 2)
		if b.src.reread == 0 {
			t.Error("the slow card did not go on from the source's copy")
		}
	})
}

// Where the bytes cannot be had again, everyone does wait: this shows that the
// test above would notice.
func TestWithoutACopyEveryoneWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, noise(8<<20, 2), 3, Options{StallShown: time.Hour, StallMin: 100 * time.Hour, StallMax: 100 * time.Hour})
		b.src.once = true
		gate := make(chan struct{})
		b.cards[2].before = func(kind string, off int64, n int) error { <-gate; return nil }
		done := make(chan error)
		go func() { done <- b.run.Do(t.Context()) }()
		synctest.Wait()
		if p := b.phases(); p[0] != Writing || p[1] != Writing {
			t.Errorf("the others are %v, want them to wait while writing", p)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		b.wantGood(t, 0, 1, 2)
	})
}

// A lane that has fallen behind and then catches up takes its blocks from the
// window again.
func TestALaneThatCaughtUpRejoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const fast, slow = 0, 1
		b := newBench(t, noise(16<<20, 3), 2, Options{Depth: 1})
		gate := make(chan struct{})
		var hold sync.Once
		b.cards[slow].before = func(kind string, off int64, n int) error {
			if kind == "write" && off >= 2<<20 {
				hold.Do(func() { <-gate })
			}
			return nil
		}
		rest := make(chan struct{})
		b.cards[fast].before = func(kind string, off int64, n int) error {
			if kind == "write" && off >= 8<<20 {
				<-rest
			}
			return nil
		}
		done := make(chan error)
		go func() { done <- b.run.Do(t.Context()) }()
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if p := b.run.Progress(slow); p.Behind {
			t.Error("the slow lane has caught up and is still behind")
		}
		reread := b.src.reread
		// The fast lane is stopped at 8 MiB, so the window begins no later than a
		// block after that, and the slow lane left it no earlier than at 1 MiB.
		if reread == 0 || reread > 7<<20+2*blockSize {
			t.Errorf("%d bytes were read again, want some, but not what was in the window", reread)
		}
		close(rest)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		b.wantGood(t, fast, slow)
	})
}

func TestTheFirstMiBGoesLast(t *testing.T) {
	b := newBench(t, noise(4<<20, 4), 1, Options{})
	c := b.cards[0]
	c.before = func(kind string, off int64, n int) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if kind == "write" && off >= block.HeadSize && !bytes.Equal(c.data[:block.HeadSize], make([]byte, block.HeadSize)) {
			t.Errorf("byte %d is written while the first MiB is not blank", off)
		}
		return nil
	}
	if err := b.run.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantGood(t, 0)
	firstHead := slices.Index(c.ops, fmt.Sprint("write 0 ", blockSize))
	lastRead := slices.Index(c.ops, fmt.Sprint("read ", 4<<20-blockSize, " ", blockSize))
	if lastHead := slices.Index(c.ops, fmt.Sprint("write 4096 ", blockSize-4096)); lastHead < lastRead {
		t.Errorf("the first MiB was written by operation %d, the last block read back by %d:\n%v", lastHead, lastRead, c.ops)
	}
	// The first page goes last of all, when the rest of the first MiB has been
	// flushed and read back.
	if end := strings.Join(c.ops[len(c.ops)-4:], ", "); end != fmt.Sprintf("read %d %d, write 0 4096, sync 0 0, read 0 4096", block.HeadSize-blockSize, blockSize) {
		t.Errorf("the run ends with %s", end)
	}
	if sync := slices.Index(c.ops[firstHead:], "sync 0 0"); sync < 0 || c.ops[firstHead+sync+1] != fmt.Sprint("write ", block.HeadSize, " ", blockSize) {
		t.Error("the blanked first MiB was not flushed before the rest was written")
	}
}

// A card that fails when nothing but its first page is left to be proved does not
// look whole.
func TestACardThatFailsAtTheSealIsBlankedAgain(t *testing.T) {
	const size = 3 << 20
	for _, c := range []struct {
		name   string
		kind   string // of the operation on the first page that fails after it was written
		blank  bool
		reason verify.Reason
	}{
		{"sound", "", false, ""},
		{"it cannot be read", "read", true, verify.ReadEIO},
		{"it cannot be flushed", "sync", true, verify.FlushFailed},
	} {
		b := newBench(t, noise(size, 21), 1, Options{})
		card, written, failed := b.cards[0], false, false
		card.before = func(kind string, off int64, n int) error {
			if written && kind == c.kind && !failed {
				failed = true
				return errors.New("input/output error")
			}
			written = written || kind == "write" && off == 0 && n == verify.Page
			return nil
		}
		if err := b.run.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v := b.run.Progress(0).Verdict; v.Reason != c.reason {
			t.Errorf("%s: %+v", c.name, v)
		}
		if blank := bytes.Equal(card.data[:verify.Page], make([]byte, verify.Page)); blank != c.blank {
			t.Errorf("%s: the first page is blank: %v", c.name, blank)
		}
	}
}

func TestTheFirstMiBIsRewrittenToo(t *testing.T) {
	for _, off := range []int64{100, 500_000} {
		for _, rewrites := range []int{0, -1} {
			b := newBench(t, noise(3<<20, 22), 1, Options{Rewrites: rewrites})
			card, flipped := b.cards[0], false
			card.before = func(kind string, at int64, n int) error {
				if kind == "read" && at <= off && off < at+int64(n) && !flipped {
					card.data[off] ^= 1
					flipped = true
				}
				return nil
			}
			if err := b.run.Do(t.Context()); err != nil {
				t.Fatal(err)
			}
			p := b.run.Progress(0)
			if rewrites == 0 {
				b.wantGood(t, 0)
				if p.Rewrote != 1 || len(p.Amber) != 1 {
					t.Errorf("rewrote %d, amber %q", p.Rewrote, p.Amber)
				}
			} else if v := p.Verdict; v.Reason != verify.ReadbackMismatch || v.Offset != off || card.data[off] == b.src.image[off] {
				t.Errorf("not to be rewritten: %+v", v)
			}
		}
	}
}

// A shortCard takes every address modulo what it really has.
type shortCard struct {
	*memCard
	real int64
}

func (c shortCard) WriteAt(p []byte, off int64) (int, error) { return c.memCard.WriteAt(p, off%c.real) }
func (c shortCard) ReadAt(p []byte, off int64) (int, error)  { return c.memCard.ReadAt(p, off%c.real) }

// A block that comes to lie in the first MiB, and nowhere else, is whole until that
// is sealed.
func TestABlockThatWrapsAroundToTheFirstMiBIsNoticed(t *testing.T) {
	const real = 2<<20 + 8*blockSize
	for _, rewrites := range []int{-1, 0, 3} {
		b := newBench(t, noise(3<<20, 23), 1, Options{Rewrites: rewrites})
		b.run.lanes[0].t = &atOnce{Target: shortCard{b.cards[0], real}, moved: func() {}}
		if err := b.run.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v := b.run.Progress(0).Verdict; v.Reason != verify.FakeCapacity || v.Offset != real {
			t.Errorf("%+v", v)
		}
	}
	b := newBench(t, noise(real, 23), 1, Options{}) // the control: an image that fits
	b.run.lanes[0].t = &atOnce{Target: shortCard{b.cards[0], real}, moved: func() {}}
	if err := b.run.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantGood(t, 0)
}

func TestWhatCouldBringAnEarlierContentBackIsBlanked(t *testing.T) {
	const size = 3 << 20
	b := newBench(t, noise(size, 4), 2, Options{})
	at := int64(len(b.cards[0].data) - 512)
	b.run.lanes[0].blank = []block.Extent{{Off: at, Len: 512}}
	if err := b.run.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantGood(t, 0, 1)
	for i, want := range []bool{true, false} {
		if blank := bytes.Equal(b.cards[i].data[at:], make([]byte, 512)); blank != want {
			t.Errorf("card %d: the last sector is blank: %v, want %v", i, blank, want)
		}
	}
}

func TestNothingIsTouchedBeforeTheFirstGoodBytes(t *testing.T) {
	bad := errors.New("not an image")
	b := newBench(t, nil, 3, Options{})
	b.src.end = bad
	if err := b.run.Do(t.Context()); !errors.Is(err, bad) {
		t.Fatalf("error %v, want %v", err, bad)
	}
	for i, c := range b.cards {
		if len(c.ops) != 0 {
			t.Errorf("card %d was touched: %v", i, c.ops)
		}
	}
	// Negative control: with one good block they are.
	b = newBench(t, noise(3<<20, 5), 3, Options{})
	b.src.end, b.src.endAt = bad, 2<<20
	if err := b.run.Do(t.Context()); !errors.Is(err, bad) {
		t.Fatalf("error %v, want %v", err, bad)
	}
	touched := 0
	for _, c := range b.cards {
		touched += len(c.ops)
	}
	if touched == 0 {
		t.Error("no card was touched though there were good bytes")
	}
}

func TestABadImageLeavesNoCardWhole(t *testing.T) {
	b := newBench(t, noise(6<<20, 6), 4, Options{})
	b.src.end, b.src.endAt = errors.New("damaged at byte 17"), 5<<20
	if err := b.run.Do(t.Context()); err == nil {
		t.Fatal("no error")
	}
	for i, c := range b.cards {
		p := b.run.Progress(i)
		if p.Phase != Failed || p.Verdict.Reason != verify.ImageDecode {
			t.Errorf("lane %d: %+v", i, p.Verdict)
		}
		if len(c.ops) > 0 && !bytes.Equal(c.data[:blockSize], make([]byte, blockSize)) {
			t.Errorf("card %d looks whole", i)
		}
	}
}

// An image file that is overwritten while it is written: a lane that reads it
// again must notice that it is not what the others got.
func TestAChangedImageFailsEveryCard(t *testing.T) {
	for _, change := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, noise(8<<20, 7), 3, Options{StallShown: time.Hour})
			gate := make(chan struct{})
			for _, c := range b.cards[1:] {
				c.before = func(kind string, off int64, n int) error { <-gate; return nil }
			}
			done := make(chan error)
			go func() { done <- b.run.Do(t.Context()) }()
			synctest.Wait()
			if change {
				b.src.image = noise(8<<20, 8)
			}
			close(gate)
			err := <-done
			if change != (reasonOf(err, "") == verify.ImageDigest) {
				t.Errorf("changed %v: error %v", change, err)
			}
			for i := 1; i < 3; i++ {
				if good := b.run.Progress(i).Phase == Good; good == change {
					t.Errorf("changed %v: lane %d is %v", change, i, b.run.Progress(i).Phase)
				}
			}
		})
	}
}

func TestAnInterruptedRunEndsEveryLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, noise(8<<20, 9), 3, Options{})
		gate := make(chan struct{})
		for _, c := range b.cards {
			c.before = func(kind string, off int64, n int) error {
				if off > 3<<20 {
					<-gate
				}
				return nil
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { done <- b.run.Do(ctx) }()
		synctest.Wait()
		cancel(ErrInterrupted)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for i, p := range b.phases() {
			if p != Interrupted {
				t.Errorf("lane %d is %v", i, p)
			}
			if !bytes.Equal(b.cards[i].data[:block.HeadSize], make([]byte, block.HeadSize)) {
				t.Errorf("card %d looks whole", i)
			}
		}
		close(gate)
		synctest.Wait()
		for i, c := range b.cards {
			if n := slices.IndexFunc(c.ops, func(s string) bool { return s == fmt.Sprint("write ", 7<<20, " ", blockSize) }); n >= 0 {
				t.Errorf("card %d was written to after its verdict", i)
			}
		}
	})
}

// A card that never answers again is shown as stalled, then given up; the run
// ends though its thread does not.
func TestAHungCardIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, noise(8<<20, 10), 3, Options{})
		gate := make(chan struct{})
		b.cards[1].before = func(kind string, off int64, n int) error {
			if kind == "write" && off >= 4<<20 {
				<-gate
			}
			return nil
		}
		done := make(chan error)
		go func() { done <- b.run.Do(t.Context()) }()
		time.Sleep(16 * time.Second)
		synctest.Wait()
		if p := b.run.Progress(1); p.Stalled < 15*time.Second || p.Verdict != nil {
			t.Errorf("after 16 s: stalled for %v, verdict %v", p.Stalled, p.Verdict)
		}
		begin := time.Now()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > 5*time.Minute {
			t.Errorf("given up only after %v", d)
		}
		b.wantGood(t, 0, 2)
		if p := b.run.Progress(1); p.Phase != Failed || p.Verdict.Reason != verify.Stalled || p.Verdict.Step != Writing {
			t.Errorf("%+v", p.Verdict)
		}
		close(gate)
		synctest.Wait()
		if n := len(b.cards[1].ops); slices.Contains(b.cards[1].ops[n-2:], fmt.Sprint("write ", 7<<20, " ", blockSize)) {
			t.Error("the card was written to after it had been given up")
		}
	})
}

// A slow card is not a hung one: as long as something moves it is not given up.
func TestASlowCardIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, noise(3<<20, 11), 2, Options{})
		b.cards[1].before = func(kind string, off int64, n int) error { time.Sleep(20 * time.Second); return nil }
		if err := b.run.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.wantGood(t, 0, 1)
	})
}

func TestAnImageTooBigForACardFailsThatCardOnly(t *testing.T) {
	b := newBench(t, noise(6<<20, 12), 3, Options{})
	b.run.lanes[1].size = 5 << 20
	if err := b.run.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantGood(t, 0, 2)
	p := b.run.Progress(1)
	if p.Phase != Failed || p.Verdict.Reason != verify.TooSmall || p.Verdict.Offset != 5<<20 {
		t.Errorf("%+v", p.Verdict)
	}
}

func TestWithoutProofACardIsUnverified(t *testing.T) {
	b := newBench(t, noise(3<<20, 13), 1, Options{NoProof: true})
	if err := b.run.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := b.run.Progress(0); p.Phase != Unverified {
		t.Errorf("%v: %+v", p.Phase, p.Verdict)
	}
	if slices.ContainsFunc(b.cards[0].ops, func(s string) bool { return s[:4] == "read" }) {
		t.Error("it was read back all the same")
	}
	if !bytes.Equal(b.cards[0].data[:3<<20], b.src.image) {
		t.Error("it does not hold the image")
	}
}

// Every operation fails once: the first, then the second, and so on, until one
// run has more operations than can fail. A card is good only if it holds the
// image, and the other card never notices.
func TestEveryOperationFailsOnce(t *testing.T) {
	for _, sticky := range []bool{false, true} {
		for n := 0; ; n++ {
			b := newBench(t, noise(2<<20, 14), 2, Options{})
			left, fired := n, false
			b.cards[0].before = func(kind string, off int64, count int) error {
				if left--; left == -1 || sticky && left < 0 {
					fired = true
					return errors.New("input/output error")
				}
				return nil
			}
			if err := b.run.Do(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.wantGood(t, 1)
			p := b.run.Progress(0)
			if p.Phase == Good {
				b.wantGood(t, 0)
				if fired && (sticky || p.Retries == 0) {
					t.Errorf("operation %d failed (sticky %v), and the card is good without a retry", n, sticky)
				}
			}
			if !fired {
				break
			}
		}
	}
}
