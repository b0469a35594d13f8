package volume

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"

	"multidd/internal/block"
	"multidd/internal/volume/volumetest"
)

// watch feeds a disk to a Watcher in blocks of the sizes that size returns, and returns
// the union of what it says.
func watch(t testing.TB, m medium, size func() int) (block.Map, *Watcher) {
	t.Helper()
	r := io.NewSectionReader(m, 0, m.Size())
	w := NewWatcher()
	t.Cleanup(w.Close)
	var u told
	var buf []byte
	for off := int64(0); ; {
		want := size()
		p := slices.Grow(buf[:0], want)[:want]
		n, err := io.ReadFull(r, p)
		for _, e := range w.See(off, p[:n]) {
			if e.Off < off || e.End() > off+int64(n) || e.Len <= 0 {
				t.Fatalf("%v is not in the %d bytes at %d", e, n, off)
			}
			u.use(e)
		}
		buf = p // and so what was seen is overwritten: it is not to be kept
		if off += int64(n); err != nil {
			return block.Map{Size: off, Used: u.used}, w
		}
	}
}

// missing returns the first extent of b that is not in a.
func missing(a, b block.Map) (block.Extent, bool) {
	for _, e := range b.Used {
		i, _ := slices.BinarySearchFunc(a.Used, e, func(x, y block.Extent) int {
			if x.End() <= y.Off {
				return -1
			}
			return 1
		})
		if i == len(a.Used) || a.Used[i].Intersect(e) != e {
			return e, true
		}
	}
	return block.Extent{}, false
}

// streamed checks that a Watcher calls nothing free that is used, in blocks of whatever
// size, and returns how many bytes too many it calls used at worst.
func streamed(t *testing.T, m medium, d *Disk) (extra int64) {
	t.Helper()
	want := d.Map()
	for _, size := range []int{1 << 20, 300_001} {
		got, w := watch(t, m, func() int { return size })
		if e, ok := missing(got, want); ok {
			t.Errorf("in blocks of %d: %v are called free", size, e)
		}
		extra = max(extra, got.Bytes()-want.Bytes())
		if disk := w.Disk(); !slices.Equal(disk.Map().Used, got.Used) {
			t.Errorf("in blocks of %d: its Disk has another map", size)
		}
	}
	return extra
}

func TestMissingIsNoticed(t *testing.T) {
	m := block.Map{Size: 100, Used: []block.Extent{{Off: 10, Len: 10}, {Off: 30, Len: 10}}}
	for _, c := range []struct {
		used []block.Extent
		miss bool
	}{
		{[]block.Extent{{Off: 0, Len: 100}}, false},
		{[]block.Extent{{Off: 5, Len: 15}, {Off: 30, Len: 10}}, false},
		{[]block.Extent{{Off: 10, Len: 10}}, true},
		{[]block.Extent{{Off: 11, Len: 50}}, true},
		{nil, true},
	} {
		if _, ok := missing(block.Map{Size: 100, Used: c.used}, m); ok != c.miss {
			t.Errorf("%v: %v", c.used, ok)
		}
	}
}

// A disk of every kind, with holes between the partitions and behind them.
func TestAWatcherCallsNothingFreeThatIsUsed(t *testing.T) {
	parts := func(logical bool) []volumetest.Part {
		return []volumetest.Part{
			{Kind: "fat32", Size: 40 * mib},
			{Kind: "ext4", Size: 60 * mib, Args: []string{"-b", "1024"}},
			{Kind: "ext2", Size: 20 * mib, Logical: logical},
			{Kind: "swap", Size: 4 * mib, Logical: logical},
			{Kind: "noise", Size: 2 * mib, Logical: logical},
			{Kind: "fat16", Size: 16 * mib, Logical: logical},
			{Kind: "ext4", Size: 40 * mib, Logical: logical},
		}
	}
	for _, c := range []struct {
		name string
		spec volumetest.Spec
		tail int64 // what may be taken for used behind the last partition
	}{
		{"mbr", volumetest.Spec{Table: "mbr", Parts: parts(true), Slack: 20 * mib, Seed: 3}, 20 * mib},
		{"gpt", volumetest.Spec{Table: "gpt", Parts: parts(false), Slack: 20 * mib, Seed: 4}, 0},
	} {
		im := volumetest.Make(t, c.spec)
		d := look(t, open(t, im.Path))
		want := d.Map()
		if len(d.Warnings) > 0 || len(d.Parts) != 7 || want.Bytes() > im.Size*2/3 {
			t.Fatalf("%s: %d of %d bytes used, %q", c.name, want.Bytes(), im.Size, d.Warnings)
		}
		for seed := range uint64(4) {
			rng := rand.New(rand.NewPCG(seed, 5))
			most := []int{100_000, 1 << 20, 3 << 20, 50 << 20}[seed]
			got, w := watch(t, open(t, im.Path), func() int { return 1 + rng.IntN(most) })
			if e, ok := missing(got, want); ok {
				t.Errorf("%s, seed %d: %v are called free", c.name, seed, e)
			}
			if extra := got.Bytes() - want.Bytes() - c.tail; extra > 300_000 {
				t.Errorf("%s, seed %d: %d bytes too many", c.name, seed, extra)
			}
			if now := w.Disk(); !equalParts(now.Parts, d.Parts) || len(now.Warnings) > 0 {
				t.Errorf("%s, seed %d: %+v", c.name, seed, now)
			}
		}
	}
}

func equalParts(a, b []Part) bool {
	return slices.EqualFunc(a, b, func(p, q Part) bool {
		same := p.FS == nil && q.FS == nil || p.FS != nil && q.FS != nil && *p.FS == *q.FS
		p.FS, q.FS = nil, nil
		return same && p == q
	})
}

func TestAWatcherKnowsEarlyHowMuchIsUsed(t *testing.T) {
	path := extFile(t, "")
	want := look(t, open(t, path))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w := NewWatcher()
	defer w.Close()
	if n, ok := w.Used(); ok {
		t.Errorf("%d bytes before anything was seen", n)
	}
	w.See(0, b[:mib])
	if n, ok := w.Used(); !ok || n != want.FS.Used {
		t.Errorf("%d, %v, want %d", n, ok, want.FS.Used)
	}
	if d := w.Disk(); d.FS.UUID != want.FS.UUID || d.Size != mib {
		t.Errorf("%+v", d)
	}
}

func TestWhatAClosedWatcherDidNotKnowIsUsed(t *testing.T) {
	b, err := os.ReadFile(extFile(t, "-O ^flex_bg,^metadata_csum,^uninit_bg"))
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	w := NewWatcher()
	w.See(0, b[:20*mib])
	w.Close()
	w.Close()
	rest := block.Extent{Off: 25 * mib, Len: 39 * mib} // behind the group of 8 MiB that has begun to pass
	if got := w.See(20*mib, b[20*mib:]); len(got) == 0 || got[len(got)-1].Intersect(rest) != rest {
		t.Errorf("after it was closed: %v", got)
	}
	NewWatcher().Close()
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines more", n-before)
	}
}

func TestAWatcherThatMissesSomethingCallsTheRestUsed(t *testing.T) {
	b, err := os.ReadFile(extFile(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, next := range []int64{mib + 1, mib - 1, 0, 40 * mib} {
		w := NewWatcher()
		defer w.Close()
		w.See(0, b[:mib])
		for range 2 {
			all := block.Extent{Off: next, Len: 5 * mib}
			if got := w.See(next, b[next:next+5*mib]); len(got) != 1 || got[0] != all {
				t.Errorf("%v are used after a jump to %d", got, next)
			}
			next += 5 * mib
		}
		if d := w.Disk(); d.Map().Bytes() != d.Size {
			t.Errorf("%+v", d.Map())
		}
	}
}

func TestAWatcherKeepsLittle(t *testing.T) {
	path := extFile(t, "")
	truncate(t, path, 200*mib)
	most := 0
	_, w := watch(t, open(t, path), func() int { return 777_777 })
	for i := range 3 {
		w := NewWatcher()
		defer w.Close()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p := make([]byte, []int{1 << 16, 1 << 20, 20 << 20}[i])
		for off := int64(0); off < 100*mib; off += int64(len(p)) {
			if _, err := f.ReadAt(p, off); err != nil {
				t.Fatal(err)
			}
			w.See(off, p)
			most = max(most, cap(w.tape.past)+cap(w.tape.head))
		}
	}
	if most > 12*mib || w.tape.past != nil {
		t.Errorf("%d bytes are kept", most)
	}
}

// The bytes that a reader wants again are there, or it is told that they are not.
func TestATapeGivesBackWhatPassedLast(t *testing.T) {
	all := make([]byte, 40*mib)
	rng := rand.NewChaCha8([32]byte{9})
	_, _ = rng.Read(all)
	var tp tape
	var at int64
	tp.wait = func() bool {
		tp.pass()
		at = tp.pos
		n := min(777_777, len(all)-int(at))
		tp.now = all[at : at+int64(n)]
		return n > 0
	}
	r := rand.New(rand.NewPCG(1, 1))
	want, gone := int64(0), 0
	for want < 35*mib {
		off := max(0, want-r.Int64N(6*mib))
		p := make([]byte, r.IntN(mib))
		switch _, err := tp.ReadAt(p, off); {
		case err != nil && off >= max(want-keep, 0):
			t.Fatalf("read %d at %d of %d: %v", len(p), off, want, err)
		case err != nil:
			gone++
		case !bytes.Equal(p, all[off:off+int64(len(p))]):
			t.Fatalf("other bytes at %d", off)
		}
		want += r.Int64N(mib)
		if _, err := tp.ReadAt(make([]byte, 1), want); err != nil {
			t.Fatal(err)
		}
	}
	if gone == 0 {
		t.Error("all that passed is kept")
	}
}

func BenchmarkWatcher(b *testing.B) {
	path := extFile(b, "")
	if err := os.Truncate(path, 0); err != nil {
		b.Fatal(err)
	}
	for _, args := range [][]string{{"-b", "4096"}, {"-b", "1024", "-O", "^flex_bg"}} {
		b.Run(fmt.Sprint(args), func(b *testing.B) {
			truncate(b, path, 4<<30)
			command(b, "mke2fs", append(append([]string{"-q", "-F", "-t", "ext4"}, args...), path)...)
			f, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			p := make([]byte, mib)
			b.SetBytes(4 << 30)
			for b.Loop() {
				w := NewWatcher()
				for off := int64(0); off < 4<<30; off += mib {
					b.StopTimer()
					if _, err := f.ReadAt(p, off); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
					w.See(off, p)
				}
				w.Close()
			}
		})
	}
}
