package devicetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// under matches operations of a kind that have not been answered.
func under(k Kind) func(Record) bool {
	return func(r Record) bool { return r.Kind == k && !r.Done }
}

func await(t *testing.T, m *Medium, match func(Record) bool) Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := m.Await(ctx, match)
	if err != nil {
		t.Fatal("the operation waited for did not come:", err)
	}
	return r
}

func TestTheLogSaysWhatCameInWhichOrder(t *testing.T) {
	m := NewMedium(mib, FailAt(Write, 8192, 1, Always))
	p := make([]byte, 4096)
	_, _ = m.WriteAt(p, 4096)
	_, _ = m.WriteAt(p, 8192)
	_ = m.Sync()
	_, _ = m.ReadAt(p[:100], 5000)
	want := []Record{
		{0, Write, 4096, 4096, true, nil},
		{1, Write, 8192, 4096, true, syscall.EIO},
		{2, Sync, 0, 0, true, nil},
		{3, Read, 5000, 100, true, nil},
	}
	if got := m.Log(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := m.Counts(), (Counts{1, 2, 1, 100, 8192, 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAMediumHasTheSizeItClaims(t *testing.T) {
	m := NewMedium(10000)
	for _, c := range []struct {
		off      int64
		n, want  int
		readErr  error
		writeErr error
	}{
		{0, 10000, 10000, nil, nil},
		{9000, 1000, 1000, nil, nil},
		{9000, 1001, 1000, io.EOF, syscall.ENOSPC},
		{10000, 1, 0, io.EOF, syscall.ENOSPC},
		{10000, 0, 0, nil, nil},
		{20000, 1, 0, io.EOF, syscall.ENOSPC},
		{-1, 1, 0, syscall.EINVAL, syscall.EINVAL},
	} {
		p := make([]byte, c.n)
		if n, err := m.WriteAt(p, c.off); n != c.want || err != c.writeErr {
			t.Errorf("write %d bytes at %d: %d, %v; want %d, %v", c.n, c.off, n, err, c.want, c.writeErr)
		}
		if n, err := m.ReadAt(p, c.off); n != c.want || err != c.readErr {
			t.Errorf("read %d bytes at %d: %d, %v; want %d, %v", c.n, c.off, n, err, c.want, c.readErr)
		}
		if n, err := m.Cells().ReadAt(p, c.off); n != c.want || err != c.readErr {
			t.Errorf("read %d bytes at rest at %d: %d, %v; want %d, %v", c.n, c.off, n, err, c.want, c.readErr)
		}
	}
}

func TestABigMediumTakesMemoryOnlyForWhatIsOnIt(t *testing.T) {
	m := NewMedium(1 << 40)
	if _, err := m.WriteAt(make([]byte, 8*mib), 1<<39); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write(m, []byte{1}, 1<<40-1), expect(m, []byte{0, 1}, 1<<40-2)); err != nil {
		t.Error(err)
	}
	if n := len(m.cells.pages); n != 1 {
		t.Errorf("%d pages are held, want 1", n)
	}
}

func TestAHangLastsUntilItIsTakenOutOrLetGoOrPulled(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(m *Medium, undo func())
		want error
	}{
		{"Undo", func(_ *Medium, undo func()) { undo() }, nil},
		{"Heal", func(m *Medium, _ func()) { m.Heal() }, nil},
		{"LetGo", func(m *Medium, _ func()) { m.LetGo() }, nil},
		{"Pull", func(m *Medium, _ func()) { m.Pull() }, syscall.ENODEV},
		{"PowerCut", func(m *Medium, _ func()) { m.PowerCut() }, syscall.EIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewMedium(mib)
				undo := m.Inject(Hang(Write | Sync))
				p := Pattern(1, 4096)
				errs := make(chan error, 2)
				go func() { errs <- write(m, p, 0) }()
				go func() { errs <- m.Sync() }()
				synctest.Wait()
				if n := len(errs); n != 0 {
					t.Errorf("%d operations did not hang", n)
				}
				if err := expect(m, make([]byte, 4096), 0); err != nil {
					t.Errorf("a read, which does not hang: %v", err)
				}
				c.end(m, undo)
				for range 2 {
					if err := <-errs; !errors.Is(err, c.want) {
						t.Errorf("got %v, want %v", err, c.want)
					}
				}
				if done := bytes.Equal(m.Bytes()[:4096], p); done != (c.want == nil) {
					t.Errorf("the write was done: %v", done)
				}
			})
		})
	}
}

func TestHangAtHangsOnlyThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMedium(mib, HangAt(Write, 8192, 1))
		for _, off := range []int64{0, 4096, 12288} {
			if err := write(m, make([]byte, 4096), off); err != nil {
				t.Error(err)
			}
		}
		done := make(chan error, 1)
		go func() { done <- write(m, make([]byte, 4096), 8192) }()
		synctest.Wait()
		if len(done) != 0 {
			t.Error("the write did not hang")
		}
		m.LetGo()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestSlowCardsTakeTheirTime uses a clock of its own, so that the times are exact.
func TestSlowCardsTakeTheirTime(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func() Fault
		want  time.Duration // for 4 writes of 1 MiB at a time, a flush, and 2 reads
	}{
		{"NoFault", func() Fault { return On(func(Op) error { return nil }) }, 0},
		{"DelayOfWrites", func() Fault { return Delay(Write, time.Second) }, time.Second},
		{"DelayOfAll", func() Fault { return Delay(Any, time.Second) }, 4 * time.Second},
		{"RateOfWrites", func() Fault { return Rate(mib, 0) }, 4 * time.Second},
		{"RateOfBoth", func() Fault { return Rate(2*mib, mib) }, 4 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewMedium(8*mib, c.fault())
				begin := time.Now()
				var wg sync.WaitGroup
				for i := range 4 {
					wg.Go(func() {
						if err := write(m, make([]byte, mib), int64(i*mib)); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if err := m.Sync(); err != nil {
					t.Error(err)
				}
				for range 2 {
					if _, err := m.ReadAt(make([]byte, mib), 0); err != nil {
						t.Error(err)
					}
				}
				if took := time.Since(begin); took != c.want {
					t.Errorf("it took %v, want %v", took, c.want)
				}
			})
		})
	}
}

func TestALetGoCardIsSlowAgainOncePluggedIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMedium(mib, Delay(Sync, time.Hour))
		for _, c := range []struct {
			before func()
			want   time.Duration
		}{
			{func() {}, time.Hour},
			{m.LetGo, 0},
			{m.Plug, time.Hour},
		} {
			c.before()
			begin := time.Now()
			if err := m.Sync(); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took != c.want {
				t.Errorf("it took %v, want %v", took, c.want)
			}
		}
	})
}

func TestWithoutPowerEverythingFails(t *testing.T) {
	for _, c := range []struct {
		name string
		off  func(*Medium)
		want error
	}{
		{"Pull", (*Medium).Pull, syscall.ENODEV},
		{"PowerCut", (*Medium).PowerCut, syscall.EIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := NewMedium(mib, Drop()) // which says yes to everything
			p := make([]byte, 4096)
			try := func() [3]error {
				_, werr := m.WriteAt(p, 0)
				_, rerr := m.ReadAt(p, 0)
				return [3]error{werr, rerr, m.Sync()}
			}
			if got := try(); got != [3]error{} {
				t.Errorf("with power: %v", got)
			}
			c.off(m)
			if got := try(); got != [3]error{c.want, c.want, c.want} {
				t.Errorf("without power: %v, want %v", got, c.want)
			}
			m.Plug()
			if got := try(); got != [3]error{} {
				t.Errorf("plugged in again: %v", got)
			}
		})
	}
}

// TestAPowerCutLosesPartOfWhatWasNotFlushed also holds that a flush is what makes
// the difference, and that nothing is lost without a cut.
func TestAPowerCutLosesPartOfWhatWasNotFlushed(t *testing.T) {
	const size, pieces = mib, mib / sheetSize
	p := Pattern(9, size)
	run := func(seed uint64, flush, cut bool) []byte {
		m := NewMedium(size, Volatile(seed))
		if err := write(m, p, 0); err != nil {
			t.Fatal(err)
		}
		if err := expect(m, p, 0); err != nil {
			t.Error("what is in the cache is not read:", err)
		}
		if !allZero(m.Bytes()) {
			t.Error("something came to rest without a flush")
		}
		if flush {
			if err := m.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if cut {
			m.PowerCut()
			m.Plug()
		}
		got := make([]byte, size)
		if _, err := m.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		return got
	}
	kept := func(got []byte) (n int) {
		for off := 0; off < size; off += sheetSize {
			switch piece := got[off : off+sheetSize]; {
			case bytes.Equal(piece, p[off:off+sheetSize]):
				n++
			case !allZero(piece):
				t.Errorf("the piece at %d is neither old nor new", off)
			}
		}
		return n
	}
	for _, c := range []struct {
		flush, cut bool
		all        bool
	}{{false, true, false}, {true, true, true}, {false, false, true}} {
		if n := kept(run(1, c.flush, c.cut)); (n == pieces) != c.all || n == 0 {
			t.Errorf("flushed %v, cut %v: %d of %d pieces are there", c.flush, c.cut, n, pieces)
		}
	}
	if !bytes.Equal(run(1, false, true), run(1, false, true)) {
		t.Error("the same seed lost something else the second time")
	}
	if bytes.Equal(run(1, false, true), run(2, false, true)) {
		t.Error("another seed lost the same")
	}
}

func TestNothingComesToRestAfterAPowerCut(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults []Fault
	}{
		{"Plain", nil},
		{"Volatile", []Fault{Volatile(1)}},
		{"Slow", []Fault{Rate(64*mib, 0), Volatile(1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := NewMedium(mib, c.faults...)
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() {
					for round := uint64(0); ; round++ {
						off := int64(i) * 256 << 10
						if _, err := m.WriteAt(Pattern(round, 64<<10), off); err != nil {
							return
						}
						_ = m.Sync()
					}
				})
			}
			await(t, m, func(r Record) bool { return r.N > 100 })
			m.PowerCut()
			rest := m.Bytes()
			wg.Wait()
			m.Plug()
			if err := m.Sync(); err != nil {
				t.Error(err)
			}
			if d := differences(m.Bytes(), rest); len(d) > 0 {
				t.Errorf("%d bytes changed after the cut, the first at %d", len(d), d[0])
			}
		})
	}
}

func TestACacheThatHidesLossForgetsWhenPulled(t *testing.T) {
	const size = 256 << 10
	m := NewMedium(size, Cache(size))
	p := fill(t, m, 10, size)
	if err := expect(m, p, 0); err != nil {
		t.Error("while plugged in:", err)
	}
	m.Pull()
	m.Plug()
	if err := expect(m, make([]byte, size), 0); err != nil {
		t.Error("plugged in again:", err)
	}
}

func TestCachesTakeOddWrites(t *testing.T) {
	for _, fault := range []Fault{Cache(mib), Volatile(1)} {
		m := NewMedium(100001, fault)
		m.Soil(11)
		want := m.Bytes()
		for i, c := range []struct{ off, n int }{{1, 1}, {4095, 2}, {99000, 1001}, {500, 60000}} {
			p := Pattern(uint64(i), c.n)
			if err := write(m, p, int64(c.off)); err != nil {
				t.Fatal(err)
			}
			copy(want[c.off:], p)
		}
		if err := expect(m, want, 0); err != nil {
			t.Errorf("%T: %v", fault, err)
		}
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := NewMedium(1).Await(ctx, under(Write)); err != why {
		t.Errorf("got %v, want %v", err, why)
	}
}
