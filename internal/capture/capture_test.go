package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"multidd/internal/block"
	"multidd/internal/device/devicetest"
	"multidd/internal/verify"
)

const mib = 1 << 20

// A fakeCard is a medium as a Card: each request is carried out in the background.
type fakeCard struct {
	*devicetest.Medium
	mu      sync.Mutex
	pending []chan error
	most    int // requests in flight
	check   error
}

func (c *fakeCard) StartRead(p []byte, off int64) error {
	done := make(chan error, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = append(c.pending, done)
	c.most = max(c.most, len(c.pending))
	go func() {
		_, err := c.ReadAt(p, off)
		done <- err
	}()
	return nil
}

func (c *fakeCard) Wait() error {
	c.mu.Lock()
	done := c.pending[0]
	c.mu.Unlock()
	err := <-done
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = c.pending[1:]
	return err
}

func (c *fakeCard) Check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.check
}

// A memory is a Sink that keeps all.
type memory struct {
	t    *testing.T
	data []byte
	used []block.Extent
	fail func(block.Block) error
}

func (m *memory) Write(b block.Block) error {
	defer b.Release()
	if m.fail != nil {
		if err := m.fail(b); err != nil {
			return err
		}
	}
	if last := len(m.used) - 1; last >= 0 && m.used[last].End() > b.Off {
		m.t.Errorf("block at %d after %v", b.Off, m.used[last])
	}
	m.used = appendExtent(m.used, b.Extent())
	copy(m.data[b.Off:], b.Data)
	return nil
}

// A trial is a card, what is on it, and what is asked for.
type trial struct {
	t    *testing.T
	card *fakeCard
	data []byte
	o    Options
	sink *memory
}

func newTrial(t *testing.T, size int64, used []block.Extent, faults ...devicetest.Fault) *trial {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(data)
	m := devicetest.NewMedium(size)
	if _, err := m.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		m.Inject(f)
	}
	dir := t.TempDir()
	tr := &trial{t: t, card: &fakeCard{Medium: m}, data: data, o: Options{
		Map: block.Map{Size: size, Used: used}, Partial: filepath.Join(dir, "x.partial"), MapFile: filepath.Join(dir, "x.map"), Retries: 1,
	}}
	if used == nil {
		tr.o.Map = block.Whole(size)
	}
	return tr
}

// run runs the capture once.
func (tr *trial) run(ctx context.Context) (c *Capture, kept bool, err error) {
	tr.t.Helper()
	c = New(tr.card, tr.o)
	tr.sink = &memory{t: tr.t, data: make([]byte, tr.o.Map.Size)}
	err = c.Run(ctx, tr.sink)
	if err == nil {
		if e := c.ProveImage(ctx, bytes.NewReader(tr.sink.data)); e != nil {
			tr.t.Errorf("prove the image: %v", e)
		}
	}
	kept, e := c.Close(err)
	if e != nil {
		tr.t.Errorf("close: %v", e)
	}
	return c, kept, err
}

// want returns what the image should be, with zeros in places.
func (tr *trial) want(zero ...block.Extent) []byte {
	want := make([]byte, len(tr.data))
	for _, e := range widen(tr.o.Map).Used {
		copy(want[e.Off:], tr.data[e.Off:e.End()])
	}
	for _, e := range zero {
		clear(want[e.Off:e.End()])
	}
	return want
}

func (tr *trial) wantImage(zero ...block.Extent) {
	tr.t.Helper()
	want := tr.want(zero...)
	for i := range want {
		if want[i] != tr.sink.data[i] {
			tr.t.Fatalf("the image differs from byte %d on", i)
		}
	}
}

func (tr *trial) wantFiles(names ...string) {
	tr.t.Helper()
	entries, err := os.ReadDir(filepath.Dir(tr.o.Partial))
	if err != nil {
		tr.t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(names)
	if !slices.Equal(got, names) {
		tr.t.Errorf("there are the files %q, want %q", got, names)
	}
}

func TestWhatIsUsedIsCapturedInOrder(t *testing.T) {
	for _, used := range [][]block.Extent{
		nil,
		{{Off: 0, Len: 4096}, {Off: 8192, Len: 1}, {Off: 100_000, Len: 3 * mib}, {Off: 7*mib + 5, Len: 10}, {Off: 8*mib - 512, Len: 512}},
		{{Off: 5 * mib, Len: 4096}},
		{},
	} {
		tr := newTrial(t, 8*mib+12345, used)
		if used != nil {
			tr.o.Map.Used = used
		}
		c, _, err := tr.run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tr.wantImage()
		if want := widen(tr.o.Map).Used; !slices.Equal(tr.sink.used, want) {
			t.Errorf("handed on %v, want %v", tr.sink.used, want)
		}
		tr.wantFiles()
		if s := c.State(); s.Lost != 0 || len(c.Bad()) != 0 {
			t.Errorf("bad places on a good card: %+v", s)
		}
	}
}

func TestSeveralRequestsAreInFlight(t *testing.T) {
	tr := newTrial(t, 16*mib, nil, devicetest.Delay(devicetest.Read, time.Millisecond))
	if _, _, err := tr.run(t.Context()); err != nil || tr.card.most < 2 {
		t.Errorf("%d in flight, %v", tr.card.most, err)
	}
}

// One failure is not worth a file: nothing but the request is repeated.
func TestAPassingErrorIsReadAgain(t *testing.T) {
	tr := newTrial(t, 8*mib, nil, devicetest.FailAt(devicetest.Read, 3*mib+100, 1, 1))
	c, _, err := tr.run(t.Context())
	if err != nil || c.Reread() != 1 {
		t.Errorf("%d places were read again, %v", c.Reread(), err)
	}
	tr.wantImage()
	tr.wantFiles()
}

// A place that can be read in small pieces, but not in large ones, is no bad place.
func TestWhatCanBeReadInSmallPiecesIsRead(t *testing.T) {
	large := devicetest.On(func(op devicetest.Op) error {
		if op.Kind == devicetest.Read && op.Off < 5*mib && op.End() > 3*mib && len(op.Data) > 512 {
			return syscall.EIO
		}
		return nil
	})
	tr := newTrial(t, 16*mib, nil, large)
	c, _, err := tr.run(t.Context())
	if err != nil || c.Reread() == 0 {
		t.Errorf("%d places were read again, %v", c.Reread(), err)
	}
	tr.wantImage()
	tr.wantFiles()
}

var badPlaces = []block.Extent{{Off: 2*mib + 1024, Len: 512}, {Off: 5 * mib, Len: 1024}, {Off: 11*mib + 512*77, Len: 512}}

func failAt(places []block.Extent) (faults []devicetest.Fault) {
	for _, e := range places {
		faults = append(faults, devicetest.FailAt(devicetest.Read, e.Off, e.Len, devicetest.Always))
	}
	return faults
}

func TestBadPlacesAreNamedAndNoImageIsMade(t *testing.T) {
	tr := newTrial(t, 16*mib, nil, failAt(badPlaces)...)
	_, kept, err := tr.run(t.Context())
	var bad *BadError
	if !errors.As(err, &bad) || !slices.Equal(bad.Extents, badPlaces) || Reason(err) != verify.ReadEIO || !kept {
		t.Fatalf("got %v, kept %v", err, kept)
	}
	tr.wantFiles("x.map", "x.partial")
	if len(tr.sink.used) > 0 && tr.sink.used[len(tr.sink.used)-1].End() > badPlaces[0].Off {
		t.Error("something behind the first bad place was handed on")
	}
	// The control: on a card without them the same makes an image.
	tr = newTrial(t, 16*mib, nil)
	if _, _, err := tr.run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBadPlacesAreZerosOnlyIfTheUserSaysSo(t *testing.T) {
	tr := newTrial(t, 16*mib, nil, failAt(badPlaces)...)
	tr.o.AllowBad = true
	c, kept, err := tr.run(t.Context())
	if err != nil || kept || !slices.Equal(c.Bad(), badPlaces) {
		t.Fatalf("got %v, %v", err, c.Bad())
	}
	tr.wantImage(badPlaces...)
	tr.wantFiles("x.map") // where they are is worth knowing
}

func (tr *trial) resume() {
	tr.t.Helper()
	f, err := os.Open(tr.o.MapFile)
	if err != nil {
		tr.t.Fatal(err)
	}
	defer f.Close()
	if tr.o.Resume, err = ParseMapfile(f); err != nil {
		tr.t.Fatal(err)
	}
}

// A second try reads only what is missing: of what went to the packer before the
// first bad place nothing was kept, unless that was asked for.
func TestASecondTryGoesOn(t *testing.T) {
	for _, keep := range []bool{false, true} {
		tr := newTrial(t, 16*mib, nil, failAt(badPlaces)...)
		tr.o.Keep = keep
		if _, kept, err := tr.run(t.Context()); err == nil || !kept {
			t.Fatalf("first try: %v", err)
		}
		tr.card.Heal()
		before := tr.card.Counts().Reads
		var read atomic.Int64
		tr.card.Inject(devicetest.On(func(op devicetest.Op) error {
			read.Add(int64(len(op.Data)))
			return nil
		}))
		tr.resume()
		if _, _, err := tr.run(t.Context()); err != nil {
			t.Fatalf("second try: %v", err)
		}
		tr.wantImage()
		tr.wantFiles()
		if most := int64(4 * mib); keep && read.Load() != block.HeadSize+total(badPlaces) || !keep && read.Load() > most {
			t.Errorf("keep %v: the second try read %d bytes in %d requests", keep, read.Load(), tr.card.Counts().Reads-before)
		}
	}
}

func TestAnotherCardIsNotGoneOnWith(t *testing.T) {
	tr := newTrial(t, 16*mib, nil, failAt(badPlaces)...)
	if _, _, err := tr.run(t.Context()); err == nil {
		t.Fatal("no error")
	}
	tr.resume()
	tr.o.Map = block.Whole(15 * mib)
	if _, _, err := tr.run(t.Context()); err == nil || !strings.Contains(err.Error(), "another card") {
		t.Errorf("got %v", err)
	}
	tr.wantFiles("x.map", "x.partial")

	// The same size, but written to since.
	tr.card.Heal()
	tr.o.Map = block.Whole(16 * mib)
	if _, err := tr.card.WriteAt([]byte("mounted"), 1024); err != nil {
		t.Fatal(err)
	}
	if _, kept, err := tr.run(t.Context()); err != nil { // of the first MiB nothing was kept
		t.Errorf("got %v, %v", kept, err)
	}
	tr = newTrial(t, 16*mib, nil, failAt(badPlaces)...)
	tr.o.Telling = []block.Extent{{Off: 9 * mib, Len: 4096}}
	if _, _, err := tr.run(t.Context()); err == nil {
		t.Fatal("no error")
	}
	tr.resume()
	tr.card.Heal()
	if _, err := tr.card.WriteAt([]byte("mounted"), 9*mib+1024); err != nil {
		t.Fatal(err)
	}
	if _, kept, err := tr.run(t.Context()); err == nil || !strings.Contains(err.Error(), "written to since") || !kept {
		t.Errorf("got %v, kept %v", err, kept)
	}
}

// All that is easy to read has been read before a bad area is gone into, and that is
// not read more often than so many times.
func TestBadAreasComeLast(t *testing.T) {
	area := block.Extent{Off: 3 * mib, Len: 2 * mib}
	tr := newTrial(t, 32*mib, nil, failAt([]block.Extent{area})...)
	var mu sync.Mutex
	failed, late := 0, 0
	tr.card.Inject(devicetest.On(func(op devicetest.Op) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case op.Kind != devicetest.Read:
		case op.Off < area.End() && op.End() > area.Off:
			failed++
		case failed > 12:
			late++
		}
		return nil
	}))
	_, _, err := tr.run(t.Context())
	var bad *BadError
	if !errors.As(err, &bad) || !slices.Equal(bad.Extents, []block.Extent{area}) {
		t.Fatalf("got %v", err)
	}
	if late > 0 {
		t.Errorf("%d good places were read after the bad area was gone into", late)
	}
	// 2 MiB are 32 small pieces of 128 sectors, each tried from both sides.
	if most := 12 + 32 + 2*(32*2*giveUp) + 32*2*giveUp; failed > most {
		t.Errorf("%d requests failed, at most %d should have been made", failed, most)
	}
}

func TestEveryFailureEndsInAnImageOrAnError(t *testing.T) {
	for i := 0; ; i++ {
		tr := newTrial(t, 3*mib, nil, devicetest.Fail(devicetest.Read, i, 1))
		_, _, err := tr.run(t.Context())
		if err != nil {
			t.Fatalf("one failure, of request %d: %v", i, err)
		}
		tr.wantImage()
		tr.wantFiles()
		if tr.card.Counts().Reads <= i {
			return
		}
	}
}

type reasonError string

func (e reasonError) Error() string  { return "it is " + string(e) }
func (e reasonError) Reason() string { return string(e) }

func TestACardThatIsGoneEndsTheCapture(t *testing.T) {
	for _, keep := range []bool{false, true} {
		var tr *trial
		tr = newTrial(t, 16*mib, nil, devicetest.On(func(op devicetest.Op) error {
			if op.Off < 4*mib {
				return nil
			}
			tr.card.mu.Lock()
			defer tr.card.mu.Unlock()
			tr.card.check = reasonError(verify.Removed)
			return syscall.EIO
		}))
		tr.o.Keep = keep
		_, kept, err := tr.run(t.Context())
		if Reason(err) != verify.Removed || kept != keep {
			t.Errorf("got %v, kept %v", err, kept)
		}
		if !keep {
			tr.wantFiles()
			continue
		}
		tr.card.Heal()
		tr.card.check = nil
		tr.resume()
		if _, _, err := tr.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		tr.wantImage()
	}
}

// What somebody wrote to the card meanwhile is noticed at the end at the latest.
func TestAForeignWriteEndsTheCapture(t *testing.T) {
	tr := newTrial(t, 4*mib, nil)
	tr.card.check = reasonError(verify.ForeignWrite)
	if _, _, err := tr.run(t.Context()); Reason(err) != verify.ForeignWrite {
		t.Errorf("got %v", err)
	}
}

func TestACardThatHangsIsGivenUp(t *testing.T) {
	hang := devicetest.HangAt(devicetest.Read, 5*mib, 1)
	tr := newTrial(t, 16*mib, nil, hang)
	tr.o.StallLimit = 10 * time.Millisecond
	_, _, err := tr.run(t.Context())
	if Reason(err) != verify.Stalled {
		t.Errorf("got %v", err)
	}
	tr.card.LetGo()
	tr.wantFiles()
}

func TestACaptureCanBeInterrupted(t *testing.T) {
	for _, keep := range []bool{false, true} {
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		tr := newTrial(t, 16*mib, nil, devicetest.On(func(op devicetest.Op) error {
			if op.Off >= 8*mib {
				cancel(why)
			}
			return nil
		}))
		tr.o.Keep = keep
		_, kept, err := tr.run(ctx)
		if !errors.Is(err, why) || kept != keep {
			t.Errorf("got %v, kept %v", err, kept)
		}
		if keep {
			tr.wantFiles("x.map", "x.partial")
			tr.resume()
			if _, _, err := tr.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			tr.wantImage()
		}
		tr.wantFiles()
	}
}

func TestASinkThatFailsEndsTheCapture(t *testing.T) {
	tr := newTrial(t, 16*mib, nil)
	c := New(tr.card, tr.o)
	full := errors.New("no space left")
	err := c.Run(t.Context(), &memory{t: t, data: make([]byte, 16*mib), fail: func(b block.Block) error {
		if b.Off > 6*mib {
			return full
		}
		return nil
	}})
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Close(err); err != nil {
		t.Error(err)
	}
	tr.wantFiles()
}

func TestWhatHoldsACaptureUpIsNamedWhileItDoes(t *testing.T) {
	tr := newTrial(t, 16*mib, nil)
	c := New(tr.card, tr.o)
	letGo := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(t.Context(), &memory{t: t, data: make([]byte, 16*mib), fail: func(b block.Block) error {
			if b.Off > 2*mib {
				<-letGo // a packer that takes long for one block
			}
			return nil
		}})
	}()
	for c.State().Bottleneck != ByImage {
		select {
		case err := <-ended:
			t.Fatalf("ended with %v before the image was named", err)
		case <-t.Context().Done():
			t.Fatal("the image is never named")
		case <-time.After(10 * time.Millisecond):
		}
	}
	waited := c.Waited()
	close(letGo)
	err := <-ended
	if err != nil || waited <= 0 || c.Waited() < waited {
		t.Errorf("got %v; the card waited %v, in all %v", err, waited, c.Waited())
	}
	if _, err := c.Close(err); err != nil {
		t.Error(err)
	}
}

func TestAnImageThatDiffersIsFound(t *testing.T) {
	used := []block.Extent{{Off: 4096, Len: 2 * mib}, {Off: 5 * mib, Len: 4096}}
	tr := newTrial(t, 8*mib, used)
	c := New(tr.card, tr.o)
	defer c.Close(nil)
	m := &memory{t: t, data: make([]byte, 8*mib)}
	if err := c.Run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		at   int64
	}{{"before", 100}, {"first", 4096}, {"middle", 2*mib - 1}, {"gap", 3 * mib}, {"last", 5*mib + 4095}, {"end", 8*mib - 1}} {
		bad := slices.Clone(m.data)
		bad[x.at] ^= 1
		var e *MismatchError
		if err := c.ProveImage(t.Context(), bytes.NewReader(bad)); !errors.As(err, &e) || e.Off > x.at || x.at-e.Off >= pieceSize {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	for _, n := range []int{0, 1, 4096, 8*mib - 1} {
		if err := c.ProveImage(t.Context(), bytes.NewReader(m.data[:n])); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("at byte %d it ends", n)) {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	if err := c.ProveImage(t.Context(), io.MultiReader(bytes.NewReader(m.data), strings.NewReader("x"))); err == nil {
		t.Error("too long an image is called good")
	}
	if err := c.ProveImage(t.Context(), bytes.NewReader(m.data)); err != nil { // the control
		t.Error(err)
	}
}

// A card that reads differently each time is found by reading it twice, and only so.
func TestAnUnstableCardIsFoundByReadingItTwice(t *testing.T) {
	for _, unstable := range []bool{true, false} {
		tr := newTrial(t, 8*mib, nil)
		if unstable {
			tr.card.Inject(devicetest.Unstable(3*mib, 8192, 1))
		}
		c := New(tr.card, tr.o)
		if err := c.Run(t.Context(), &memory{t: t, data: make([]byte, 8*mib)}); err != nil {
			t.Fatal(err)
		}
		err := c.ProveCard(t.Context())
		if (Reason(err) == verify.UnstableRead) != unstable || (err != nil) != unstable {
			t.Errorf("unstable %v: %v", unstable, err)
		}
		if _, err := c.Close(err); err != nil {
			t.Error(err)
		}
	}
}

// What was read in pieces is compared in pieces.
func TestAWornCardIsReadTwice(t *testing.T) {
	tr := newTrial(t, 8*mib, nil, failAt([]block.Extent{{Off: 3 * mib, Len: 512}})...)
	tr.o.AllowBad = true
	c := New(tr.card, tr.o)
	if err := c.Run(t.Context(), &memory{t: t, data: make([]byte, 8*mib)}); err != nil {
		t.Fatal(err)
	}
	if err := c.ProveCard(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := c.Close(nil); err != nil {
		t.Error(err)
	}
}

func TestAReworkedImageIsPacked(t *testing.T) {
	tr := newTrial(t, 8*mib, nil)
	tr.o.Rework = func(ctx context.Context, path string) (block.Map, error) {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(b, tr.data) {
			t.Errorf("the raw file is not the card: %v", err)
		}
		return block.Map{Size: 5 * mib, Used: []block.Extent{{Off: mib, Len: mib}}}, os.Truncate(path, 5*mib)
	}
	c := New(tr.card, tr.o)
	m := &memory{t: t, data: make([]byte, 5*mib)}
	if err := c.Run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := c.ProveImage(t.Context(), bytes.NewReader(m.data)); err != nil || !bytes.Equal(m.data[mib:2*mib], tr.data[mib:2*mib]) {
		t.Error(err)
	}
	if _, err := c.Close(nil); err != nil {
		t.Error(err)
	}
	tr.wantFiles()
}

func TestWhatIsThereIsNotOverwritten(t *testing.T) {
	tr := newTrial(t, 8*mib, nil)
	tr.o.Keep = true
	if err := os.WriteFile(tr.o.Partial, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tr.run(t.Context()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if b, _ := os.ReadFile(tr.o.Partial); string(b) != "mine" {
		t.Error("it was overwritten")
	}
}

func TestTablesAreReadInAFewPieces(t *testing.T) {
	tr := newTrial(t, 3*mib+1000, nil)
	p := &peeker{r: tr.card, size: 3*mib + 1000}
	defer p.free()
	for off := int64(0); off < mib; off += 4096 {
		var b [4096]byte
		if _, err := p.ReadAt(b[:], off); err != nil || !bytes.Equal(b[:], tr.data[off:off+4096]) {
			t.Fatalf("byte %d: %v", off, err)
		}
	}
	if n := tr.card.Counts().Reads; n > 4+4 { // 16 KiB, and so on to 256 four times
		t.Errorf("%d requests for 1 MiB in order", n)
	}
	for off := int64(2 * mib); off > mib; off -= 128 << 10 { // here and there
		if _, err := p.ReadAt(make([]byte, 100), off); err != nil {
			t.Fatal(err)
		}
	}
	if n := tr.card.Counts().BytesRead; n > mib+256<<10+8*peekLeast {
		t.Errorf("%d bytes were read", n)
	}
	for _, e := range []block.Extent{{Off: 5, Len: 2 * mib}, {Off: 3*mib + 990, Len: 10}, {Off: peekLeast - 1, Len: 2}} {
		b := make([]byte, e.Len)
		if _, err := p.ReadAt(b, e.Off); err != nil || !bytes.Equal(b, tr.data[e.Off:e.End()]) {
			t.Errorf("%v: %v", e, err)
		}
	}
	if n, err := p.ReadAt(make([]byte, 20), 3*mib+990); n != 10 || err != io.EOF {
		t.Errorf("beyond the end: %d, %v", n, err)
	}
	tr.card.Inject(devicetest.FailAt(devicetest.Read, 5*mib/2+8192, 512, devicetest.Always))
	var b [512]byte
	if _, err := p.ReadAt(b[:], 5*mib/2+4096); err != nil {
		t.Errorf("beside a bad place: %v", err)
	}
	if _, err := p.ReadAt(b[:], 5*mib/2+8192); !IsBadPlace(err) {
		t.Errorf("at a bad place: %v", err)
	}
}

func TestLookingAtACardThatHangsEnds(t *testing.T) {
	tr := newTrial(t, 4*mib, nil, devicetest.Hang(devicetest.Read))
	if _, err := Look(t.Context(), tr.card, 4*mib, 10*time.Millisecond); Reason(err) != verify.Stalled {
		t.Errorf("got %v", err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := Look(ctx, tr.card, 4*mib, 0); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	tr.card.LetGo()
}

func TestSmallGapsAreReadAlong(t *testing.T) {
	var used []block.Extent
	for off := int64(0); off < mib; off += 8192 {
		used = append(used, block.Extent{Off: off, Len: 4096})
	}
	if got := pieces(used); len(got) != 1 || total(got[0].used) != mib/2 {
		t.Errorf("%d requests", len(got))
	}
	if got := pieces([]block.Extent{{Off: 0, Len: 4096}, {Off: 4097 + maxGap, Len: 1}}); len(got) != 2 {
		t.Errorf("%d requests", len(got))
	}
}
