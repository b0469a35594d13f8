package devicetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
)

const mib = 1 << 20

// onBoth runs a test twice: on a medium as it is, and on the same through a real
// block device.
func onBoth(t *testing.T, size int64, faults func() []Fault, test func(t *testing.T, m *Medium, card Target)) {
	t.Run("Memory", func(t *testing.T) {
		m := NewMedium(size, faults()...)
		test(t, m, m)
	})
	t.Run("Device", func(t *testing.T) {
		m := NewMedium(size, faults()...)
		test(t, m, openDevice(t, Attach(t, m)))
	})
}

// fill writes a pattern to the whole card, a piece at a time, and flushes it.
func fill(t *testing.T, card Target, seed uint64, size int) []byte {
	t.Helper()
	p := Pattern(seed, size)
	for off := 0; off < size; off += mib / 2 {
		if err := write(card, p[off:min(off+mib/2, size)], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := card.Sync(); err != nil {
		t.Fatal("sync:", err)
	}
	return p
}

func readAll(t *testing.T, card Target, size int) []byte {
	t.Helper()
	p := make([]byte, size)
	for off := 0; off < size; off += mib {
		if _, err := card.ReadAt(p[off:min(off+mib, size)], int64(off)); err != nil {
			t.Fatalf("read at %d: %v", off, err)
		}
	}
	return p
}

// differences returns the offsets at which two slices differ.
func differences(a, b []byte) []int64 {
	if bytes.Equal(a, b) {
		return nil
	}
	var offs []int64
	for i := range a {
		if a[i] != b[i] {
			offs = append(offs, int64(i))
		}
	}
	return offs
}

// TestWhatALyingCardKeeps writes all of a card and checks what is there at rest and
// what is read back, against what the fault says of both.
func TestWhatALyingCardKeeps(t *testing.T) {
	const size, half = 2 * mib, mib
	keepHead := func(p []byte) []byte { return append(slices.Clone(p[:half]), make([]byte, half)...) }
	none := func(p []byte) []byte { return make([]byte, size) }
	same := func(p []byte) []byte { return p }
	flipped := func(p []byte) []byte {
		p = slices.Clone(p)
		for _, off := range Corners(size) {
			p[off] ^= bitAt(off)
		}
		return p
	}
	wrapped := func(p []byte) []byte { return append(slices.Clone(p[half:]), p[half:]...) }
	for _, c := range []struct {
		name   string
		fault  func() Fault
		atRest func(written []byte) []byte
		read   func(written []byte) []byte
	}{
		{"NoFault", nil, same, same},
		{"Drop", Drop, none, none},
		{"DropAfter", func() Fault { return DropAfter(half) }, keepHead, keepHead},
		{"Flip", func() Fault { return Flip(Corners(size)...) }, flipped, flipped},
		{"Limbo", func() Fault { return Limbo(half) }, keepHead, keepHead},
		{"Stale", func() Fault { return Stale(half) }, keepHead, keepHead},
		{"Wrap", func() Fault { return Wrap(half) }, func(p []byte) []byte { return append(slices.Clone(p[half:]), make([]byte, half)...) }, wrapped},
		{"Cache", func() Fault { return Cache(half) }, none, func(p []byte) []byte { return append(make([]byte, half), p[half:]...) }},
		{"Volatile", func() Fault { return Volatile(1) }, same, same},
		{"Hurried", func() Fault { return Rate(1<<40, 1<<40) }, same, same},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults := func() []Fault {
				if c.fault == nil {
					return nil
				}
				return []Fault{c.fault()}
			}
			onBoth(t, size, faults, func(t *testing.T, m *Medium, card Target) {
				p := fill(t, card, 1, size)
				if d := differences(m.Bytes(), c.atRest(p)); len(d) > 0 {
					t.Errorf("at rest %d bytes are not as the fault says, the first at %d", len(d), d[0])
				}
				if d := differences(readAll(t, card, size), c.read(p)); len(d) > 0 {
					t.Errorf("%d bytes read are not as the fault says, the first at %d", len(d), d[0])
				}
			})
		})
	}
}

func TestFlipOnceIsPutRightByASecondWrite(t *testing.T) {
	const size = mib
	onBoth(t, size, func() []Fault { return []Fault{FlipOnce(5000, 70000)} }, func(t *testing.T, m *Medium, card Target) {
		p := fill(t, card, 2, size)
		if d := differences(m.Bytes(), p); !slices.Equal(d, []int64{5000, 70000}) {
			t.Errorf("after the first write these differ: %v", d)
		}
		if err := write(card, p[4096:8192], 4096); err != nil {
			t.Fatal(err)
		}
		if d := differences(m.Bytes(), p); !slices.Equal(d, []int64{70000}) {
			t.Errorf("after the second write these differ: %v", d)
		}
	})
}

func TestLimboAndStaleDifferInWhatIsReadPastTheEnd(t *testing.T) {
	const size, real = 2 * mib, mib
	for _, c := range []struct {
		name  string
		fault func(int64) Fault
		zeros bool
	}{{"Limbo", Limbo, true}, {"Stale", Stale, false}} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, size, func() []Fault { return []Fault{c.fault(real)} }, func(t *testing.T, m *Medium, card Target) {
				m.Soil(3)
				old := m.Bytes()
				p := fill(t, card, 3, size)
				got := readAll(t, card, size)
				if !bytes.Equal(got[:real], p[:real]) {
					t.Error("what lies within the true capacity is wrong")
				}
				if allZero(got[real:]) != c.zeros || bytes.Equal(got[real:], old[real:]) == c.zeros {
					t.Errorf("past the true capacity: zeros %v, old %v", allZero(got[real:]), bytes.Equal(got[real:], old[real:]))
				}
			})
		})
	}
}

// TestFailuresComeWhereAndWhenAsked writes 4 pieces of 4 KiB, twice, then flushes
// twice, then reads the pieces, and looks which of these went wrong.
func TestFailuresComeWhereAndWhenAsked(t *testing.T) {
	const piece = 4096
	for _, c := range []struct {
		name  string
		fault func() Fault
		want  string // one letter an operation; upper case: failed
	}{
		{"NoFault", nil, "wwwwwwww ss rrrr"},
		{"WriteAtOffset", func() Fault { return FailAt(Write, 2*piece+512, 1, Always) }, "wwWwwwWw ss rrrr"},
		{"WriteAtOffsetOnce", func() Fault { return FailAt(Write, 2*piece, 512, 1) }, "wwWwwwww ss rrrr"},
		{"ReadAtOffset", func() Fault { return FailAt(Read, piece, piece, Always) }, "wwwwwwww ss rRrr"},
		{"BothAtOffset", func() Fault { return FailAt(Any, 0, piece, Always) }, "WwwwWwww ss Rrrr"},
		{"NthWrite", func() Fault { return Fail(Write, 5, 1) }, "wwwwwWww ss rrrr"},
		{"ThreeWrites", func() Fault { return Fail(Write, 1, 3) }, "wWWWwwww ss rrrr"},
		{"EveryWriteFrom", func() Fault { return Fail(Write, 6, Always) }, "wwwwwwWW ss rrrr"},
		{"EverySync", func() Fault { return Fail(Sync, 0, Always) }, "wwwwwwww SS rrrr"},
		{"FirstSync", func() Fault { return Fail(Sync, 0, 1) }, "wwwwwwww Ss rrrr"},
		{"NthOfAnyKind", func() Fault { return Fail(Any, 8, 1) }, "wwwwwwww Ss rrrr"},
		{"On", func() Fault {
			return On(func(op Op) error {
				if op.Kind == Read && op.Off == 3*piece {
					return syscall.EIO
				}
				return nil
			})
		}, "wwwwwwww ss rrrR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The faults are put in once the card is attached: the kernel may
			// look at a device that appears.
			onBoth(t, mib, func() []Fault { return nil }, func(t *testing.T, m *Medium, card Target) {
				if c.fault != nil {
					defer m.Inject(c.fault())()
				}
				var got []byte
				note := func(letter byte, err error) {
					if err != nil {
						letter -= 'a' - 'A'
						if !errors.Is(err, syscall.EIO) {
							t.Errorf("%c failed with %v, want EIO", letter, err)
						}
					}
					got = append(got, letter)
				}
				for i := range 8 {
					_, err := card.WriteAt(Pattern(uint64(i), piece), int64(i%4*piece))
					note('w', err)
				}
				got = append(got, ' ')
				for range 2 {
					note('s', card.Sync())
				}
				got = append(got, ' ')
				for i := range 4 {
					_, err := card.ReadAt(make([]byte, piece), int64(i*piece))
					note('r', err)
				}
				if string(got) != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
			})
		})
	}
}

func TestAWriteThatFailsHasDoneWhatComesBeforeTheBadPlace(t *testing.T) {
	m := NewMedium(mib, FailAt(Write, 6000, 1, Always))
	p := Pattern(4, 3*4096)
	n, err := m.WriteAt(p, 0)
	if n != 6000 || err != syscall.EIO {
		t.Errorf("%d bytes were taken, error %v; want 6000 and EIO", n, err)
	}
	if got := m.Bytes(); !bytes.Equal(got[:6000], p[:6000]) || !allZero(got[6000:]) {
		t.Error("at rest there is not what was taken, and nothing else")
	}
}

func TestUnstableReadsDifferEachTimeAndOnlyThere(t *testing.T) {
	const size, off, n = mib, 64 << 10, 32 << 10
	onBoth(t, size, func() []Fault { return []Fault{Unstable(off, n, 5)} }, func(t *testing.T, m *Medium, card Target) {
		p := fill(t, card, 5, size)
		if !bytes.Equal(m.Bytes(), p) {
			t.Error("at rest there is not what was written")
		}
		seen := [][]byte{p}
		for range 4 {
			got := readAll(t, card, size)
			if !bytes.Equal(got[:off], p[:off]) || !bytes.Equal(got[off+n:], p[off+n:]) {
				t.Error("bytes outside of the range differ")
			}
			for i, before := range seen {
				if bytes.Equal(got, before) {
					t.Errorf("a read gave the same as number %d", i)
				}
			}
			seen = append(seen, got)
		}
	})
}

func TestFaultsCompose(t *testing.T) {
	const size = 2 * mib
	faults := func() []Fault { return []Fault{Wrap(mib), Flip(100), FailAt(Read, 8192, 1, 1)} }
	onBoth(t, size, faults, func(t *testing.T, m *Medium, card Target) {
		p := fill(t, card, 6, size)
		if _, err := card.ReadAt(make([]byte, 4096), mib+8192); !errors.Is(err, syscall.EIO) {
			t.Errorf("a read that wraps onto the bad place: %v", err)
		}
		want := append(slices.Clone(p[mib:]), p[mib:]...)
		want[100] ^= bitAt(100)
		want[mib+100] ^= bitAt(100)
		if d := differences(readAll(t, card, size), want); len(d) > 0 {
			t.Errorf("these differ: %v", d)
		}
	})
}

func TestFaultsComeAndGo(t *testing.T) {
	onBoth(t, mib, func() []Fault { return nil }, func(t *testing.T, m *Medium, card Target) {
		steps := []struct {
			do   func() (undo func())
			kept bool
		}{
			{func() func() { return func() {} }, true},
			{func() func() { return m.Inject(Drop()) }, false},
			{func() func() { return func() {} }, true},
			{func() func() { m.Inject(Drop()); m.Inject(Flip(0)); return m.Heal }, false},
			{func() func() { return func() {} }, true},
		}
		for i, s := range steps {
			undo := s.do()
			p := fill(t, card, uint64(i), 4096)
			undo()
			undo()
			if kept := bytes.Equal(m.Bytes()[:4096], p); kept != s.kept {
				t.Errorf("step %d: kept %v, want %v", i, kept, s.kept)
			}
		}
	})
}

func TestRotChangesWhatIsAtRest(t *testing.T) {
	m := NewMedium(mib)
	p := fill(t, m, 7, mib)
	m.Rot(0, 77, mib-1)
	if d := differences(m.Bytes(), p); !slices.Equal(d, []int64{0, 77, mib - 1}) {
		t.Errorf("these differ: %v", d)
	}
}

func TestSoiledCellsKeepTheirNoiseAroundWhatIsWritten(t *testing.T) {
	a, b := NewMedium(mib), NewMedium(mib)
	a.Soil(8)
	b.Soil(8)
	noise := a.Bytes()
	if allZero(noise) || !bytes.Equal(noise, b.Bytes()) {
		t.Error("the noise is not the same for the same seed")
	}
	if _, err := a.WriteAt(make([]byte, 4096), 4096); err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(noise)
	clear(want[4096:8192])
	if !bytes.Equal(a.Bytes(), want) {
		t.Error("zeros written did not come to rest, and nothing else")
	}
}

func TestCornersLieOnTheMedium(t *testing.T) {
	for _, size := range []int64{512, 4096, mib, 64*mib + 512} {
		offs := Corners(size)
		if !slices.Contains(offs, 0) || !slices.Contains(offs, size-1) {
			t.Errorf("size %d: the first or last byte is missing in %v", size, offs)
		}
		for _, off := range offs {
			if off < 0 || off >= size {
				t.Errorf("size %d: %d is not on it", size, off)
			}
		}
	}
}

// ExampleFail fails operation 0, then 1, then 2 …, until all of them went well.
func ExampleFail() {
	work := func(card Target) error {
		if _, err := card.WriteAt(make([]byte, 4096), 0); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if err := card.Sync(); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		if _, err := card.ReadAt(make([]byte, 4096), 0); err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		return nil
	}
	for i := 0; ; i++ {
		m := NewMedium(1<<20, Fail(Any, i, 1))
		err := work(m)
		if m.Counts().Failed == 0 {
			fmt.Println("all well:", err)
			return
		}
		fmt.Println(err)
	}
	// Output:
	// write: input/output error
	// flush: input/output error
	// read back: input/output error
	// all well: <nil>
}
