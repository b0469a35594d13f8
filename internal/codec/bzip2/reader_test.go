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
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"multidd/internal/sample"
)

// unpack reads all of packed and checks on the way that nothing is left running.
func unpack(t testing.TB, packed io.Reader, workers int) ([]byte, error) {
	t.Helper()
	before := runtime.NumGoroutine()
	r := NewReader(packed, workers)
	got, err := io.ReadAll(r)
	if _, again := r.Read(make([]byte, 1)); err != nil && again != err {
		t.Errorf("the error does not stick: first %v, then %v", err, again)
	}
	r.Close()
	noneLeft(t, before)
	return got, err
}

// noneLeft fails if there are more goroutines than before. One that was waited
// for may still be in its last instructions.
func noneLeft(t testing.TB, before int) {
	t.Helper()
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

// mustUnpack fails unless packed holds want.
func mustUnpack(t testing.TB, name string, packed, want []byte) {
	t.Helper()
	for _, workers := range []int{1, 3} {
		got, err := unpack(t, bytes.NewReader(packed), workers)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s, %d workers: %d bytes, want %d (equal: %v), error %v",
				name, workers, len(got), len(want), bytes.Equal(got, want), err)
		}
	}
}

func mustError(t *testing.T, name string, packed []byte, offset int64, reason string) {
	t.Helper()
	_, err := unpack(t, bytes.NewReader(packed), 2)
	var e *Error
	if !errors.As(err, &e) || e.Offset != offset || !strings.Contains(e.Reason, reason) {
		t.Errorf("%s: %v, want an error at byte %d about %q", name, err, offset, reason)
	}
}

// missing ends a test that needs a program that is not there: in CI that is an error.
func missing(t testing.TB, program string, err error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s must be there in CI: %v", program, err)
	}
	t.Skipf("%s is needed for this comparison: %v", program, err)
}

// packedBy returns what a program makes of p.
func packedBy(t testing.TB, p []byte, name string, args ...string) []byte {
	t.Helper()
	sample.Need(t, name)
	c := exec.Command(name, append(args, "-c")...)
	c.Stdin = bytes.NewReader(p)
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

// corpus returns data of many kinds and sizes.
func corpus() map[string][]byte {
	c := map[string][]byte{
		"nothing":  {},
		"one byte": {7},
		"zeros":    make([]byte, 700_000),
		"equal":    bytes.Repeat([]byte{0xfb}, 300_003),
		"noise":    noise(1, 150_000),
		"words":    words(1, 250_000),
		"all":      {},
		"sparse":   make([]byte, 400_000),
	}
	for i := range 256 {
		c["all"] = append(c["all"], bytes.Repeat([]byte{byte(i)}, i%9)...)
	}
	r := rand.New(rand.NewPCG(3, 3))
	for range 3000 {
		c["sparse"][r.IntN(400_000)] = byte(r.IntN(4))
	}
	for _, period := range []int{1, 2, 3, 5, 7, 64, 255, 1021, 4096, 45_000} {
		c[fmt.Sprintf("period %d", period)] = bytes.Repeat(noise(uint64(period), period), 100_000/period+1)
	}
	return c
}

// mixture returns some blocks' worth of this and that.
func mixture() []byte {
	var b []byte
	r := rand.New(rand.NewPCG(3, 4))
	for i := range uint64(18) {
		n := r.IntN(120_000)
		switch r.IntN(3) {
		case 0:
			b = append(b, words(i, n)...)
		case 1:
			b = append(b, noise(i, n)...)
		default:
			b = append(b, make([]byte, 3*n)...)
		}
	}
	return b
}

func TestWhatBzip2PacksIsUnpacked(t *testing.T) {
	for name, want := range corpus() {
		mustUnpack(t, name, packedBy(t, want, "bzip2", "-1"), want)
	}
}

func TestWhatOtherProgramsPackIsUnpacked(t *testing.T) {
	want := mixture()
	for _, program := range []string{"bzip2", "lbzip2", "pbzip2"} {
		for _, level := range []string{"-1", "-9"} {
			t.Run(program+level, func(t *testing.T) {
				mustUnpack(t, "a mixture", packedBy(t, want, program, level), want)
				mustUnpack(t, "nothing", packedBy(t, nil, program, level), nil)
			})
		}
	}
}

func TestBlocksOfEverySizeNearTheLimit(t *testing.T) {
	text := words(5, 900_020)
	for n := 99_975; n <= 100_020; n += 5 {
		mustUnpack(t, fmt.Sprint(n), packedBy(t, text[:n], "bzip2", "-1"), text[:n])
	}
	for _, n := range []int{899_980, 899_981, 899_982, 900_001} {
		mustUnpack(t, fmt.Sprint(n), packedBy(t, text[:n], "bzip2", "-9"), text[:n])
	}
}

// Runs of every length end in one block, begin in the next, and meet there.
func TestRunsOfEveryLengthAtTheEndsOfBlocks(t *testing.T) {
	s := newStream(1)
	for n := 1; n < 600; n++ {
		run := bytes.Repeat([]byte{byte(n)}, n)
		s.block(sorted(short(append([]byte{0, 1}, run...))))
		s.block(sorted(short(append(run, 2, byte(n)))))
		s.block(sorted(short(run)))
	}
	mustUnpack(t, "runs", s.end().b, s.text)
}

// A long run may be written as several, and one run may follow another of the
// same byte.
func TestRunsOfOneByteFollowEachOther(t *testing.T) {
	for count := range 256 {
		s := newStream(1)
		s.block(sorted([]byte{'a', 'a', 'a', 'a', byte(count), 'a', 'a', 'a', 'a', 0, 'a', 'a', 'a', 'b'}))
		if want := 4 + count + 4 + 3 + 1; len(s.text) != want {
			t.Fatalf("the test's own decoder made %d bytes, want %d", len(s.text), want)
		}
		mustUnpack(t, fmt.Sprint(count), s.end().b, s.text)
	}
}

func TestStreamsFollowEachOther(t *testing.T) {
	a, b, empty := pack([]byte("first"), []byte("second")), pack(words(1, 5000)), newStream(3).end().b
	want := append([]byte("firstsecond"), words(1, 5000)...)
	join := func(p ...[]byte) []byte { return bytes.Join(p, nil) }
	mustUnpack(t, "two", join(a, b), want)
	mustUnpack(t, "empty ones between", join(empty, a, empty, empty, b, empty), want)
	mustUnpack(t, "an empty one alone", empty, nil)
	mustUnpack(t, "many empty ones", bytes.Repeat(empty, 40_000), nil)
	mustUnpack(t, "zeros after", join(a, b, make([]byte, 3)), want)
	mustUnpack(t, "many zeros after", join(a, b, make([]byte, 20*chunkSize+1)), want)

	const zeros = 30 * chunkSize
	mustError(t, "no stream after", join(a, []byte("x")), int64(len(a)), "follows the last one")
	mustError(t, "text after", join(a, []byte("hello, world")), int64(len(a)), "follows the last one")
	mustError(t, "a stream after zeros", join(a, make([]byte, zeros), b), int64(len(a)), "follows the last one")
	mustError(t, "not bzip2", []byte("hello, world"), 0, "not the beginning")
	mustError(t, "level 0", join([]byte("BZh0"), a[4:]), 0, "not the beginning")
	mustError(t, "zeros only", make([]byte, 100), 0, "not the beginning")
}

func TestEveryCutIsAnUnexpectedEnd(t *testing.T) {
	packed := pack([]byte("the first block"), []byte("the second block"))
	one := len(packed)
	packed = append(packed, pack([]byte("another stream"))...)
	for n := range packed {
		got, err := unpack(t, bytes.NewReader(packed[:n]), 1)
		if n == one {
			if err != nil {
				t.Errorf("cut between two streams, which cannot be seen: %v", err)
			}
			continue
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut to %d of %d bytes: %v", n, len(packed), err)
		}
		if want := "the first blockthe second blockanother stream"; !strings.HasPrefix(want, string(got)) {
			t.Errorf("cut to %d bytes: got %q", n, got)
		}
	}
	if _, err := unpack(t, bytes.NewReader(packed), 1); err != nil {
		t.Error(err) // or the loop above proves nothing
	}
}

// Whatever bit is flipped, no byte of the damaged block is returned, and what
// is accepted is what it was.
func TestEveryFlippedBitIsAnErrorOrHarmless(t *testing.T) {
	blocks := []string{"once upon a time ", "there was a block ", "of some bytes"}
	s := newStream(9)
	var starts []int // of the blocks, in bits
	for _, b := range blocks {
		starts = append(starts, s.at())
		s.block(sorted([]byte(b)))
	}
	ends := append(starts[1:], s.at())
	packed := s.end().b
	all := strings.Join(blocks, "")
	harmless := 0
	for bit := range 8 * len(packed) {
		damaged := bytes.Clone(packed)
		damaged[bit/8] ^= 0x80 >> (bit % 8)
		got, err := unpack(t, bytes.NewReader(damaged), 2)
		if err == nil {
			harmless++
			if string(got) != all {
				t.Errorf("bit %d: wrong bytes accepted: %q", bit, got)
			}
			continue
		}
		good := ""
		for i, b := range blocks {
			if bit >= 32 && bit >= ends[i] {
				good += b
			}
		}
		if string(got) != good {
			t.Errorf("bit %d: %q was returned, want %q", bit, got, good)
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("bit %d: %v is not an Error", bit, err)
		} else if bit >= 32 && bit < ends[2] && len(good) < len(all) {
			want := int64(starts[blockAt(ends, bit)] / 8)
			if e.Offset != want {
				t.Errorf("bit %d: the error names byte %d, want %d: %v", bit, e.Offset, want, err)
			}
		}
	}
	if harmless == 0 || harmless > 60 { // the level, a table that is not used, the last bits
		t.Errorf("%d flips of %d were harmless", harmless, 8*len(packed))
	}
}

// blockAt returns the index of the block that bit lies in.
func blockAt(ends []int, bit int) int {
	i := 0
	for bit >= ends[i] {
		i++
	}
	return i
}

// Damage of every kind a checksum would also find is found without it.
func TestDamageIsNamed(t *testing.T) {
	build := func(change func(*stream, *spec)) []byte {
		s, p := newStream(1), sorted([]byte("some text for a block"))
		change(s, &p)
		s.block(p)
		return s.end().b
	}
	endMark := 0
	good := build(func(s *stream, p *spec) {
		c := *s
		c.block(*p)
		endMark = c.at()
	})
	mustUnpack(t, "good", good, []byte("some text for a block"))
	mustUnpack(t, "spare selectors", build(func(_ *stream, p *spec) { p.spare = 20_000 }), []byte("some text for a block"))

	set := func(bit int, v uint64, n int) []byte {
		b := bytes.Clone(good)
		for i := range n {
			m := byte(0x80) >> ((bit + i) % 8)
			b[(bit+i)/8] &^= m
			if v>>(n-1-i)&1 != 0 {
				b[(bit+i)/8] |= m
			}
		}
		return b
	}
	const block, orig = 32, 32 + 48 + 32 + 1
	mustError(t, "magic", set(block, 0, 8), 4, "neither a block")
	mustError(t, "checksum", set(block+48, 1, 32), 4, "checksum does not match its bytes")
	mustError(t, "first row", set(orig, 21, 24), 4, "first byte is not in it")
	mustError(t, "no bytes in use", set(orig+24, 0, 16), 4, "header")
	mustError(t, "end", set(endMark+48, 1, 32), int64(endMark/8), "stream's checksum")

	big := newStream(1)
	column := bytes.Repeat([]byte{'x', 'y'}, 50_001)
	big.block(spec{column: column})
	mustError(t, "too big for its level", big.end().b, 4, "level 1 holds 100002 bytes")
	big.b[3] = '2'
	mustUnpack(t, "big enough a level", big.b, big.text)

	huge := newStream(9)
	huge.block(spec{column: bytes.Repeat([]byte{'x', 'y'}, 450_001)})
	mustError(t, "too big for any level", huge.end().b, 4, "more than 900000")

	torn := newStream(9)
	torn.block(sorted([]byte("aaaa")))
	mustError(t, "ends inside a run", torn.end().b, 4, "inside a run")
}

func TestDamageBehindGoodBlocksIsFoundThere(t *testing.T) {
	s := newStream(9)
	var ends []int
	for i := range 20 {
		s.block(sorted(noise(uint64(i), 3000)))
		ends = append(ends, len(s.b))
	}
	packed := s.end().b
	packed[ends[12]+500] ^= 1
	for _, workers := range []int{1, 2, 5} {
		got, err := unpack(t, bytes.NewReader(packed), workers)
		var e *Error
		if !errors.As(err, &e) || int(e.Offset) != ends[12]-1 && int(e.Offset) != ends[12] {
			t.Errorf("%d workers: %v, want an error near byte %d", workers, err, ends[12])
		}
		if !bytes.Equal(got, s.text[:13*3000]) {
			t.Errorf("%d workers: %d bytes before the damage, want the 39000 of the 13 good blocks", workers, len(got))
		}
	}
}

func TestAnyKindOfSourceWillDo(t *testing.T) {
	want := words(9, 30_000)
	packed := pack(want[:10_000], want[10_000:])
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"byte by byte":          iotest.OneByteReader,
		"half of what is asked": iotest.HalfReader,
		"the end with the data": iotest.DataErrReader,
		"a pipe": func(r io.Reader) io.Reader {
			pr, pw := io.Pipe()
			go func() {
				_, err := io.Copy(pw, iotest.HalfReader(r))
				pw.CloseWithError(err)
			}()
			return pr
		},
	} {
		got, err := unpack(t, wrap(bytes.NewReader(packed)), 2)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, error %v", name, len(got), err)
		}
	}
	if err := iotest.TestReader(NewReader(bytes.NewReader(packed), 2), want); err != nil {
		t.Error(err)
	}
}

func TestErrorsOfTheSourceArePassedOn(t *testing.T) {
	want := []byte("some text in a block")
	packed := pack(want)
	broken := errors.New("the cable is out")
	for n := range packed {
		src := io.MultiReader(bytes.NewReader(packed[:n]), iotest.ErrReader(broken))
		if _, err := unpack(t, src, 2); !errors.Is(err, broken) || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	src := io.MultiReader(bytes.NewReader(packed), iotest.ErrReader(broken))
	if got, err := unpack(t, src, 2); !errors.Is(err, broken) || !bytes.Equal(got, want) {
		t.Errorf("after all bytes: %q, %v", got, err)
	}
}

func TestReadsOfEverySizeReturnTheSame(t *testing.T) {
	want := append(words(2, 3000), make([]byte, 3000)...)
	packed := pack(want)
	for size := 1; size < 600; size += 1 + size/20 {
		r := NewReader(bytes.NewReader(packed), 1)
		var got []byte
		p := make([]byte, size+8)
		for {
			n, err := r.Read(p[:size])
			if got = append(got, p[:n]...); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p[size:], make([]byte, 8)) {
				t.Fatalf("a read of %d bytes wrote behind them", size)
			}
		}
		r.Close()
		if !bytes.Equal(got, want) {
			t.Errorf("reads of %d bytes return something else", size)
		}
	}
}

// brokenWriter takes some bytes.
type brokenWriter struct{ room int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.room)
	if w.room -= n; n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

func TestWriteToCountsWhatWasWritten(t *testing.T) {
	packed := pack(make([]byte, 1_000_000))
	for _, room := range []int{0, 1, writeSize, writeSize + 1, 1_000_000} {
		r := NewReader(bytes.NewReader(packed), 1)
		n, err := r.WriteTo(&brokenWriter{room})
		if n != int64(room) || (err == nil) != (room == 1_000_000) {
			t.Errorf("room for %d bytes: WriteTo returned %d, %v", room, n, err)
		}
		r.Close()
	}
}

func TestInputOffsetGrowsToTheWholeInput(t *testing.T) {
	s := newStream(9)
	for i := range 5 {
		s.block(sorted(noise(uint64(i), 2000)))
	}
	packed := append(s.end().b, 0, 0, 0)
	r := NewReader(bytes.NewReader(packed), 2)
	defer r.Close()
	if r.InputOffset() != 0 {
		t.Errorf("InputOffset is %d before the first read", r.InputOffset())
	}
	last, text := int64(0), 0
	p := make([]byte, 500)
	for {
		n, err := r.Read(p)
		text += n
		at := r.InputOffset()
		if least := int64(text); at < last || err == nil && at < least { // noise does not shrink
			t.Errorf("InputOffset is %d after %d bytes, before it was %d", at, text, last)
		}
		if last = at; err != nil {
			break
		}
	}
	if last != int64(len(packed)) {
		t.Errorf("InputOffset is %d at the end, want %d", last, len(packed))
	}
}

func TestCloseStopsEverything(t *testing.T) {
	packed := bytes.Repeat(pack(noise(1, 20_000)), 100)
	before := runtime.NumGoroutine()
	for _, read := range []int{0, 1, 5_000, 20_000, 100_000} {
		r := NewReader(bytes.NewReader(packed), 3)
		if _, err := io.ReadFull(r, make([]byte, read)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		noneLeft(t, before)
		if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("Read after Close returned %d, %v", n, err)
		}
		r.Close()
	}
}

// A Read that waits for a source that says nothing returns when the source and
// the reader are closed.
func TestCloseEndsAReadUnderWay(t *testing.T) {
	before := runtime.NumGoroutine()
	pr, pw := io.Pipe()
	r := NewReader(pr, 2)
	result := make(chan error)
	go func() {
		_, err := r.Read(make([]byte, 10))
		result <- err
	}()
	if _, err := pw.Write([]byte("BZh9")); err != nil { // it is waiting now, or will be
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		r.Close()
		close(closed)
	}()
	if err := <-result; err == nil || err == io.EOF {
		t.Errorf("the read returned %v", err)
	}
	pr.Close()
	<-closed
	noneLeft(t, before)
}

func TestMemoryIsAsSmallAsPromised(t *testing.T) {
	if m := Memory(2); m > 24<<20 {
		t.Errorf("2 workers take %d bytes, more than 24 MiB", m)
	}
	for n := 1; n < 100; n++ {
		if m := Memory(n+1) - Memory(n); m > 9<<20 {
			t.Errorf("worker %d takes %d bytes, more than 9 MiB", n+1, m)
		}
	}
}

// A block of zeros of 46 MB in some bytes, many of them, are read in the memory
// that is said to be enough.
func TestMemoryDoesNotGrowWithTheData(t *testing.T) {
	zeros := bytes.Repeat([]byte{0, 0, 0, 0, 255}, maxBlock/5)
	column := append(bytes.Repeat([]byte{255}, maxBlock/5), make([]byte, maxBlock/5*4)...)
	if !bytes.Equal(naiveText(column, 0), zeros) {
		t.Fatal("the block is not what it should be")
	}
	s := newStream(9)
	symbols, used := encodeColumn(column)
	s.raw(symbols, used, spec{column: column})
	const workers, streams = 2, 5 // as many as there are buffers for blocks
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, peak := m.HeapInuse, uint64(0)
	r := NewReader(bytes.NewReader(bytes.Repeat(s.end().b, streams)), workers)
	defer r.Close()
	p := make([]byte, 1<<20)
	total, err := 0, error(nil)
	for i := 0; err == nil; i++ {
		var n int
		n, err = r.Read(p)
		if total += n; i%16 == 0 {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
		}
	}
	if err != io.EOF || total != streams*len(s.text) {
		t.Errorf("%d bytes, want %d; %v", total, streams*len(s.text), err)
	}
	if used, most := int64(peak-before), Memory(workers)+2<<20; used > most {
		t.Errorf("%d bytes of heap were in use, more than %d", used, most)
	}
}

// A reader that was never closed leaves nothing running at the end of its input.
func TestTheEndStopsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, packed := range [][]byte{pack([]byte("good")), []byte("not good"), nil} {
		io.ReadAll(NewReader(bytes.NewReader(packed), 2))
		noneLeft(t, before)
	}
}

func TestTheStandardLibraryAgrees(t *testing.T) {
	for name, data := range corpus() {
		packed := packedBy(t, data, "bzip2", "-1")
		want, err := io.ReadAll(stdlib.NewReader(bytes.NewReader(packed)))
		if err != nil {
			t.Fatal(err)
		}
		mustUnpack(t, name, packed, want)
	}
}
