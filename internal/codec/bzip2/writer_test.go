package bzip2

import (
	"bytes"
	stdlib "compress/bzip2"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"multidd/internal/sample"
)

// some returns n, and a fraction of it under the race detector, which makes everything
// here some ten times slower and needs little data to find what it looks for.
func some(n int) int {
	if raceOn {
		return n / 8
	}
	return n
}

// packed returns what a Writer makes of p, written in pieces of up to chunk bytes.
func packed(t testing.TB, p []byte, level, workers, chunk int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, level, workers)
	if err != nil {
		t.Fatal(err)
	}
	for len(p) > 0 {
		n, err := w.Write(p[:min(chunk, len(p))])
		if err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpackedBy fails unless a program unpacks p to want.
func unpackedBy(t testing.TB, name string, p, want []byte, command ...string) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		missing(t, command[0], err)
	}
	c := exec.Command(command[0], command[1:]...)
	c.Stdin = bytes.NewReader(p)
	if got, err := c.Output(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %s makes %d bytes of it, not %d (equal: %v): %v", name, command[0], len(got), len(want), bytes.Equal(got, want), err)
	}
}

// everyoneUnpacks fails unless this package, the standard library and the programs
// unpack p to want.
func everyoneUnpacks(t testing.TB, name string, p, want []byte) {
	t.Helper()
	mustUnpack(t, name, p, want)
	if got, err := io.ReadAll(stdlib.NewReader(bytes.NewReader(p))); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: the standard library makes %d bytes of it, not %d: %v", name, len(got), len(want), err)
	}
	unpackedBy(t, name, p, want, "bzip2", "-dc")
	unpackedBy(t, name, p, want, "lbzip2", "-dc", "-n2")
}

// repeats returns data that sorters stumble over, about n bytes of each kind.
func repeats(n int) map[string][]byte {
	c := map[string][]byte{}
	fib := [2][]byte{{'a'}, {'a', 'b'}}
	for len(fib[1]) < n {
		fib[0], fib[1] = fib[1], append(bytes.Clone(fib[1]), fib[0]...)
	}
	c["Fibonacci"] = fib[1]
	thue := []byte{'a'}
	for len(thue) < n {
		for _, b := range thue[:len(thue):len(thue)] {
			thue = append(thue, b^3)
		}
	}
	c["Thue-Morse"] = thue
	for _, b := range []byte{0, 1, 0xfb, 0xff} {
		run := bytes.Repeat([]byte{b}, n*20)
		c[fmt.Sprintf("%#x", b)] = run
		c[fmt.Sprintf("%#x and a byte", b)] = append(bytes.Clone(run), 7)
		c[fmt.Sprintf("noise in %#x", b)] = append(append(bytes.Clone(run), noise(1, n/2)...), run...)
	}
	c["twice"] = bytes.Repeat(words(3, n/2), 2)
	c["seven times and a bit"] = append(bytes.Repeat(noise(3, n/8), 7), noise(3, n/9)...)
	c["ascending"] = nil
	for i := range n {
		c["ascending"] = append(c["ascending"], byte(i*250/n))
	}
	c["up and down"] = bytes.Repeat(append(bytes.Clone(c["ascending"][:n/3]), 3), 3)
	r := rand.New(rand.NewPCG(8, 8))
	for len(c["slopes"]) < n { // stars far from each other, few of each
		for b := range r.IntN(256) {
			c["slopes"] = append(c["slopes"], byte(b))
		}
	}
	two := words(4, n)
	for i := range 20 { // copies of copies
		from, to, k := r.IntN(n), r.IntN(n), r.IntN(n/4)
		copy(two[to:], two[from:min(n, from+k)])
		two[r.IntN(n)] = byte(i)
	}
	c["copies"] = two
	for _, period := range []int{2, 3, 4, 5, 6, 10, 100, 1000, 9999} {
		c[fmt.Sprintf("period %d", period)] = bytes.Repeat(noise(uint64(period), period), n/period+1)
		c[fmt.Sprintf("period %d and noise", period)] = append(bytes.Repeat(noise(uint64(period), period), n/period+1), noise(5, 50)...)
	}
	return c
}

func TestEveryDecoderUnpacksWhatIsPacked(t *testing.T) {
	all := repeats(some(60_000))
	for name, data := range corpus() {
		all[name] = data
	}
	all["mixture"] = mixture()
	for name, data := range all {
		for _, level := range []int{1, 9}[:some(16)/8] {
			everyoneUnpacks(t, fmt.Sprintf("%s, level %d", name, level), packed(t, data, level, 2, 1<<20), data)
		}
	}
}

func TestEveryLevelIsPacked(t *testing.T) {
	data := append(words(7, 410_000), make([]byte, 50_000)...)
	for level := 1; level <= 9; level++ {
		p := packed(t, data, level, 2, 1<<20)
		everyoneUnpacks(t, fmt.Sprint("level ", level), p, data)
		if theirs := packedBy(t, data, "bzip2", fmt.Sprintf("-%d", level)); len(candidates(p)) != len(candidates(theirs)) {
			t.Errorf("level %d: %d blocks, bzip2 makes %d", level, len(candidates(p)), len(candidates(theirs)))
		}
	}
	for _, level := range []int{-1, 0, 10} {
		if _, err := NewWriter(io.Discard, level, 1); err == nil {
			t.Errorf("level %d is taken", level)
		}
	}
}

// However many goroutines pack it and however it is cut when it comes, the stream
// is the same.
func TestTheStreamDependsOnlyOnTheData(t *testing.T) {
	all := repeats(some(40_000))
	all["mixture"] = mixture()
	all["runs"] = runsOfEveryLength()
	for name, data := range all {
		want := packed(t, data, 1, 1, len(data)+1)
		for workers, chunk := range map[int]int{2: 1000, 3: 4099, 5: 1 << 17} {
			if got := packed(t, data, 1, workers, chunk); !bytes.Equal(got, want) {
				t.Errorf("%s: %d workers make something else of it, in pieces of %d bytes", name, workers, chunk)
			}
		}
	}
	data := runsOfEveryLength()[:30_000]
	if !bytes.Equal(packed(t, data, 1, 2, 1), packed(t, data, 1, 1, len(data))) {
		t.Error("byte by byte something else is made")
	}
}

// runsOfEveryLength are runs of up to 600 bytes, each of another byte than the last.
func runsOfEveryLength() (p []byte) {
	for n := 1; n <= 600; n++ {
		p = append(p, bytes.Repeat([]byte{byte(n * 7)}, n)...)
	}
	return p
}

// Runs of 1 to 600 bytes lie across the end of a block, at every place.
func TestRunsAcrossTheEndOfABlockArePacked(t *testing.T) {
	text := words(6, levelSize-spare)
	for n := 1; n <= 600; n += 1 + n/20 {
		for before := range min(n, some(24)) {
			cut := len(text) - before
			data := append(append(bytes.Clone(text[:cut]), bytes.Repeat([]byte{'!'}, n)...), "end"...)
			var s shortener
			s.reset(make([]byte, 0, levelSize+around), 1)
			var got []byte
			for rest := data; len(rest) > 0; {
				k := s.add(rest)
				rest = rest[k:]
				s.end()
				if len(s.dst) > levelSize {
					t.Fatalf("a block holds %d bytes", len(s.dst))
				}
				got = append(got, naiveLong(s.dst)...)
				s.reset(s.dst[:0], 1)
			}
			if !bytes.Equal(got, data) {
				t.Fatalf("a run of %d bytes, %d of them in the block, is shortened wrongly", n, before)
			}
		}
	}
	for n := 1; n <= 260; n += 37 {
		data := append(bytes.Clone(text[:len(text)-n/2]), bytes.Repeat([]byte{'!'}, n)...)
		everyoneUnpacks(t, fmt.Sprint("a run of ", n), packed(t, data, 1, 1, 999), data)
	}
}

func TestBlocksOfEverySizeNearTheLimitArePacked(t *testing.T) {
	text := words(5, 900_020)
	for n := levelSize - 25; n <= levelSize+3; n += 3 {
		everyoneUnpacks(t, fmt.Sprint(n), packed(t, text[:n], 1, 1, 1<<20), text[:n])
	}
	for _, n := range []int{maxBlock - spare, maxBlock - spare + 1} {
		everyoneUnpacks(t, fmt.Sprint(n), packed(t, text[:n], 9, 1, 1<<20), text[:n])
	}
}

func TestStreamsThatWereMadeHereFollowEachOther(t *testing.T) {
	a, b := words(1, 5000), noise(2, 3000)
	p := bytes.Join([][]byte{packed(t, a, 9, 1, 1000), packed(t, nil, 3, 1, 1), packed(t, b, 1, 1, 1000)}, nil)
	everyoneUnpacks(t, "three streams", p, append(bytes.Clone(a), b...))
}

// cardImage returns a piece of a realistic card image: files and free space.
func cardImage(t testing.TB, n int) []byte {
	t.Helper()
	if _, err := exec.LookPath("mke2fs"); err != nil {
		if _, err = os.Stat("/usr/sbin/mke2fs"); err != nil {
			missing(t, "mke2fs", err)
		}
	}
	path := filepath.Join(t.TempDir(), "card.img")
	if err := sample.Make(sample.Image{Path: path, Size: 48 << 20, Fill: 24 << 20}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b[4<<20:][:n]
}

func TestItIsAsSmallAsBzip2MakesIt(t *testing.T) {
	for name, data := range map[string][]byte{
		"a card image": cardImage(t, some(5<<20)),
		"words":        words(9, some(1_000_000)),
		"noise":        noise(9, some(500_000)),
		"zeros":        make([]byte, some(50_000_000)),
		"mixture":      mixture(),
	} {
		p := packed(t, data, 9, 2, 1<<20)
		theirs := packedBy(t, data, "bzip2", "-9")
		t.Logf("%s: %d bytes become %d, with bzip2 -9 %d", name, len(data), len(p), len(theirs))
		if len(p) > len(theirs)+len(theirs)/200 {
			t.Errorf("%s: %d bytes become %d, with bzip2 -9 %d", name, len(data), len(p), len(theirs))
		}
		everyoneUnpacks(t, name, p, data)
	}
}

// A full takes so many bytes and then fails.
type full struct{ room int }

var errFull = errors.New("no space left")

func (f *full) Write(p []byte) (int, error) {
	if f.room < len(p) {
		n := f.room
		f.room = 0
		return n, errFull
	}
	f.room -= len(p)
	return len(p), nil
}

func TestAnErrorInWritingComesBack(t *testing.T) {
	data := noise(3, 1_500_000)
	for _, room := range []int{0, 3, 1000, 150_000, 1_100_000} {
		before := runtime.NumGoroutine()
		w, err := NewWriter(&full{room}, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; err == nil && i < len(data); i += 50_000 {
			_, err = w.Write(data[i : i+50_000])
		}
		for range 2 {
			if closing := w.Close(); !errors.Is(closing, errFull) || err != nil && !errors.Is(err, errFull) {
				t.Errorf("room for %d bytes: %v, at the end %v", room, err, closing)
			}
		}
		noneLeft(t, before)
	}
}

func TestAClosedWriterTakesNothing(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, 9, 1)
	if err := errors.Join(err, w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	n := b.Len()
	if k, err := w.Write([]byte("more")); k != 0 || err == nil || b.Len() != n {
		t.Errorf("%d bytes were taken: %v", k, err)
	}
}

func TestAWriterTakesTheMemoryItPromises(t *testing.T) {
	if m := WriterMemory(9, 2); m > 50<<20 {
		t.Errorf("2 workers take %d bytes, more than 50 MiB", m)
	}
	const workers = 2
	var data []byte // of each kind that needs much: many stars, large groups, blocks that cannot be packed
	for i := range uint64(3) {
		data = append(append(data, noise(i, maxBlock)...), bytes.Repeat([]byte{1, 0}, maxBlock/2)...)
		data = append(data, bytes.Repeat(words(i, 1000), maxBlock/1000)...)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, peak := m.HeapInuse, uint64(0)
	w, err := NewWriter(io.Discard, 9, workers)
	for i := 0; err == nil && i < len(data); i += 100_000 {
		_, err = w.Write(data[i : i+100_000])
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if used, most := int64(peak-before), WriterMemory(9, workers)+2<<20; used > most {
		t.Errorf("%d bytes of heap were in use, more than %d", used, most)
	} else if used < most/2 {
		t.Errorf("%d bytes of heap were in use, so %d is no bound", used, most)
	}
}
