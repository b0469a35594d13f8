package codec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// A frames is a seekable file in the making.
type frames struct {
	packed []byte
	table  []byte
	sums   bool
	count  uint32

	plain, checked *zstd.Encoder
}

// add adds a frame, with a checksum of its own or without.
func (f *frames) add(data []byte, checksum bool) {
	if f.plain == nil {
		for _, z := range []struct {
			to  **zstd.Encoder
			crc bool
		}{{&f.plain, false}, {&f.checked, true}} {
			var err error
			*z.to, err = zstd.NewWriter(nil, zstd.WithEncoderCRC(z.crc), zstd.WithEncoderConcurrency(1),
				zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithZeroFrames(true), zstd.WithSingleSegment(true))
			if err != nil {
				panic(err)
			}
		}
	}
	one := f.checked.EncodeAll(data, nil)
	sum := uint32(0x51d8e999) // of nothing, which has none
	if len(data) > 0 {
		sum = le.Uint32(one[len(one)-4:])
	}
	if !checksum {
		one = f.plain.EncodeAll(data, nil)
	}
	f.raw(one, len(data), sum)
}

// raw adds what is said to be a frame.
func (f *frames) raw(packed []byte, size int, sum uint32) {
	f.packed = append(f.packed, packed...)
	f.table = le.AppendUint32(le.AppendUint32(f.table, uint32(len(packed))), uint32(size))
	if f.sums {
		f.table = le.AppendUint32(f.table, sum)
	}
	f.count++
}

// file returns the whole.
func (f *frames) file() []byte {
	b := append(bytes.Clone(f.packed), seekTableMagic...)
	b = le.AppendUint32(b, uint32(len(f.table)+seekTableFoot))
	b = append(b, f.table...)
	b = le.AppendUint32(b, f.count)
	flags := byte(0)
	if f.sums {
		flags = seekTableSums
	}
	return append(append(b, flags), seekTableEnd...)
}

// cutFrames makes a seekable file of data in frames of up to size bytes.
func cutFrames(data []byte, size int, sums, checksum bool) *frames {
	f := &frames{sums: sums}
	for len(data) > 0 {
		n := min(size, len(data))
		f.add(data[:n], checksum)
		data = data[n:]
	}
	return f
}

func openSeekable(packed []byte, o ReadOptions) (*Seekable, error) {
	return OpenSeekable(bytes.NewReader(packed), int64(len(packed)), o)
}

// readSeekable reads all of a seekable file in order.
func readSeekable(packed []byte, o ReadOptions) ([]byte, error) {
	s, err := openSeekable(packed, o)
	if err != nil {
		return nil, err
	}
	r := s.Reader(bytes.NewReader(packed))
	defer r.Close()
	return io.ReadAll(r)
}

func TestWhatIsPackedAsZstIsSeekableAndPlain(t *testing.T) {
	for _, size := range []int{0, 1, 4 << 20, some(13_000_001)} {
		want := sample(21, size)
		packed, err := pack(want, Zstd, WriteOptions{Workers: 3}, 100_001)
		if err != nil {
			t.Fatal(err)
		}
		if got := tool(t, packed, "zstd", "-dc"); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: zstd -d makes something else of it", size)
		}
		s, err := openSeekable(packed, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if s.Size() != int64(size) || s.count() != max(1, (size+4<<20-1)/(4<<20)) || !s.sums {
			t.Errorf("%d bytes: the table says %d, in %d frames", size, s.Size(), s.count())
		}
		if got, err := readSeekable(packed, ReadOptions{Workers: 3}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d come out, %v", size, len(got), err)
		}
		// The table as contrib/seekable_format of facebook/zstd describes it, read
		// from the end.
		foot := packed[len(packed)-9:]
		n := le.Uint32(foot)
		if le.Uint32(foot[5:]) != 0x8F92EAB1 || foot[4] != 0x80 || int(n) != s.count() {
			t.Errorf("the foot is % x", foot)
		}
		head := packed[len(packed)-9-12*int(n)-8:]
		if le.Uint32(head) != 0x184D2A5E || le.Uint32(head[4:]) != 12*n+9 {
			t.Errorf("the head is % x", head[:8])
		}
	}
}

func TestThePackedBytesDoNotDependOnTheNumberOfWorkers(t *testing.T) {
	data := sample(22, max(some(9_000_000), 4_500_000))
	for f := range unpackers {
		var first []byte
		for _, workers := range []int{1, 2, 5} {
			o, data := WriteOptions{Workers: workers, Level: 1}, data
			if f == Zstd {
				o.Level = 0
			} else {
				data = data[:some(len(data))]
			}
			packed, err := pack(data, f, o, 70_000*workers)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = packed
			}
			if !bytes.Equal(packed, first) {
				t.Errorf("%s: %d workers make other bytes than one", f, workers)
			}
		}
	}
}

func TestZerosArePackedAsIfTheyHadBeenWritten(t *testing.T) {
	for f := range unpackers {
		o := WriteOptions{Workers: 2, Level: 1}
		piece := map[Format]int{Bzip2: 100_000, XZ: 3 << 19, Zstd: 4 << 20}[f]
		if piece == 0 {
			piece = 128 << 10
		}
		for _, c := range []struct{ before, zeros, after int }{
			{0, 1, 0}, {5, 3*piece + 5, 5}, {0, 2 * piece, 1}, {piece / 4, piece - piece/4, piece / 4},
		} {
			a, b := sample(23, c.before), sample(24, c.after)
			want := append(append(bytes.Clone(a), make([]byte, c.zeros)...), b...)
			slow, err := pack(want, f, o, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			w, err := NewWriter(&out, f, o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Write(a)
			err = errors.Join(err, WriteZeros(w, int64(c.zeros)))
			_, err2 := w.Write(b)
			if err := errors.Join(err, err2, w.Close()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), slow) {
				t.Errorf("%s, %+v: other bytes come out", f, c)
			}
			if got, err := unpack(out.Bytes(), f, ReadOptions{}); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %+v: it does not come out again: %v", f, c, err)
			}
		}
	}
}

func TestAFullDiskIsNoticedAmongZeros(t *testing.T) {
	for f := range unpackers {
		w, err := NewWriter(&full{100}, f, WriteOptions{Workers: 2, Level: 1})
		for range 100 {
			if err == nil {
				err = WriteZeros(w, 10<<20)
			}
		}
		if closing := w.Close(); err == nil {
			err = closing
		}
		if !errors.Is(err, errFull) {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// shapesOfTable are seekable files of every kind, and some that are made oddly
// but well.
func shapesOfTable(data []byte) map[string]*frames {
	odd := &frames{sums: true}
	odd.add(data[:1000], true)
	odd.add(nil, false)
	odd.raw([]byte("\x53\x2a\x4d\x18\x05\x00\x00\x00skip!"), 0, 0)
	odd.add(data[1000:50_000], false)
	odd.add(data[50_000:], true)
	return map[string]*frames{
		"plain":                 cutFrames(data, 100_000, false, false),
		"frame checksums":       cutFrames(data, 70_000, false, true),
		"table checksums":       cutFrames(data, 100_000, true, false),
		"both":                  cutFrames(data, 33_333, true, true),
		"one frame":             cutFrames(data, len(data), true, true),
		"odd":                   odd,
		"a frame for each byte": cutFrames(data[:700], 1, true, false),
	}
}

func TestAnyPlaceOfASeekableFileCanBeRead(t *testing.T) {
	data := sample(25, 200_000)
	for name, f := range shapesOfTable(data) {
		t.Run(name, func(t *testing.T) {
			packed := f.file()
			want, err := unpack(packed, Zstd, ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := readSeekable(packed, ReadOptions{Workers: 4}); err != nil || !bytes.Equal(got, want) {
				t.Errorf("in order %d bytes come out, %v", len(got), err)
			}
			s, err := openSeekable(packed, ReadOptions{Workers: 2, Ahead: 5 << 20})
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for g := range 6 {
				all.Go(func() {
					r := rand.New(rand.NewPCG(uint64(g), 5))
					for range some(200) {
						off := r.IntN(len(want) + 2)
						p := make([]byte, r.IntN(len(want)/3))
						n, err := s.ReadAt(p, int64(off))
						end := min(len(want), off+len(p))
						if n != max(0, end-off) || !bytes.Equal(p[:n], want[min(off, end):end]) || (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF {
							t.Errorf("%d bytes at %d: %d, %v", len(p), off, n, err)
						}
					}
				})
			}
			all.Wait()
			if _, err := s.ReadAt(make([]byte, 1), -1); err == nil {
				t.Error("it reads before the beginning")
			}
		})
	}
}

func TestWhatHasNoTableIsNotSeekable(t *testing.T) {
	data := sample(26, 300_000)
	f := cutFrames(data, 100_000, true, true)
	big := cutFrames(data, len(data), true, true)
	later := f.file()
	silent := &frames{}
	silent.raw(tool(t, data, "zstd", "-c"), len(data), 0)
	later[len(later)-5] |= 0x40
	for name, c := range map[string]struct {
		packed []byte
		o      ReadOptions
	}{
		"zstd":                       {tool(t, data, "zstd", "-c"), ReadOptions{}},
		"nothing":                    {nil, ReadOptions{}},
		"raw":                        {data, ReadOptions{}},
		"zeros behind the end":       {append(f.file(), 0, 0, 0, 0), ReadOptions{}},
		"a frame without its length": {silent.file(), ReadOptions{}},
		"a later kind of table":      {later, ReadOptions{}},
		"frames that are too large":  {big.file(), ReadOptions{Ahead: 2 << 20}},
	} {
		if _, err := openSeekable(c.packed, c.o); !errors.Is(err, ErrNotSeekable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is wrong with a table must not change what comes out of a file. Nothing
// may be allocated by what it says, either.
func TestATableThatDoesNotFitIsRefused(t *testing.T) {
	f := cutFrames(sample(27, 300_000), 100_000, true, true)
	good := f.file()
	for name, damage := range map[string]func(b []byte, foot int){
		"134 million frames":  func(b []byte, foot int) { copy(b[foot:], "\xff\xff\xff\x07") },
		"4 billion frames":    func(b []byte, foot int) { copy(b[foot:], "\xff\xff\xff\xff") },
		"one frame more":      func(b []byte, foot int) { b[foot]++ },
		"one frame less":      func(b []byte, foot int) { b[foot]-- },
		"no checksums":        func(b []byte, foot int) { b[foot+4] = 0 },
		"no head":             func(b []byte, foot int) { b[foot-36-8]++ },
		"a longer head":       func(b []byte, foot int) { b[foot-36-4]++ },
		"a longer frame":      func(b []byte, foot int) { b[foot-36]++ },
		"a frame beyond all":  func(b []byte, foot int) { b[foot-36+3] = 0xff },
		"cut in the table":    nil,
		"something in before": nil,
	} {
		b := bytes.Clone(good)
		switch name {
		case "cut in the table":
			b = append(b[:len(b)-30], b[len(b)-9:]...)
		case "something in before":
			b = append([]byte("x"), b...)
		default:
			damage(b, len(b)-seekTableFoot)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := openSeekable(b, ReadOptions{})
		runtime.ReadMemStats(&after)
		e, is := errors.AsType[*Error](err)
		if !is || e.Offset < 0 || e.Offset > int64(len(b)) {
			t.Errorf("%s: %v", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, n)
		}
	}
}

// A table that fits the file but lies about what is in it is refused when it is
// opened, or found out by the one who reads in order, whatever ReadAt has made of
// it. The negative control is a plain Reader, which does not look at the table,
// and takes the file.
func TestATableThatLiesIsFoundOut(t *testing.T) {
	data := sample(28, 300_000)
	f := cutFrames(data, 100_000, true, true)
	for name, c := range map[string]struct {
		lie    func(table []byte)
		opened bool // only who reads finds out
	}{
		"lengths that make up for each other": {func(b []byte) {
			le.PutUint32(b[4:], le.Uint32(b[4:])+1)
			le.PutUint32(b[16:], le.Uint32(b[16:])-1)
		}, false},
		"the last is longer": {func(b []byte) { le.PutUint32(b[28:], le.Uint32(b[28:])+1) }, false},
		"frames end elsewhere": {func(b []byte) {
			le.PutUint32(b, le.Uint32(b)+1)
			le.PutUint32(b[12:], le.Uint32(b[12:])-1)
		}, false},
		"two frames as one": {func(b []byte) {
			le.PutUint32(b, le.Uint32(b)+le.Uint32(b[12:]))
			le.PutUint32(b[4:], 200_000)
			le.PutUint32(b[12:], 0)
			le.PutUint32(b[16:], 0)
		}, false},
		"another checksum": {func(b []byte) { b[8] ^= 1 }, true},
	} {
		liar := *f
		liar.table = bytes.Clone(f.table)
		c.lie(liar.table)
		packed := liar.file()
		if _, err := openSeekable(packed, ReadOptions{}); (err == nil) != c.opened {
			t.Errorf("%s: it is opened: %v", name, err)
		}
		got, err := readSeekable(packed, ReadOptions{})
		if _, is := errors.AsType[*Error](err); !is || !bytes.HasPrefix(data, got) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if got, err := unpack(packed, Zstd, ReadOptions{}); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: a plain reader does not take it: %v", name, err)
		}
	}
	// Frames that lie as the table does: one byte is lost, and nobody but who
	// unpacks them can know.
	both := &frames{}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	one := z.EncodeAll(data[:100_000], nil)
	le.PutUint32(one[5:], 100_001)
	both.raw(one, 100_001, 0)
	both.add(data[100_000:], true)
	s, err := openSeekable(both.file(), ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAt(make([]byte, 10), 150_000); err != nil {
		t.Error(err)
	}
	if _, err := readSeekable(both.file(), ReadOptions{}); err == nil {
		t.Error("a frame that is shorter than it says is taken")
	}
}

func TestTheTablesChecksumProvesFramesThatHaveNone(t *testing.T) {
	data := sample(28, 300_000)
	for _, sums := range []bool{true, false} {
		f := cutFrames(data, 100_000, sums, false)
		at := bytes.Index(f.packed, []byte("quick brown"))
		if at < 0 {
			at = bytes.Index(f.packed, data[200:204])
		}
		packed := f.file()
		packed[at] ^= 0x20
		got, err := readSeekable(packed, ReadOptions{})
		if sums && err == nil || !sums && (err != nil || bytes.Equal(got, data)) {
			t.Errorf("checksums in the table: %v; a flipped bit: %v", sums, err)
		}
	}
}

func TestADamagedSeekableFileNeverGivesOtherBytes(t *testing.T) {
	want := sample(29, 200_000)
	f := cutFrames(want, 50_000, true, true)
	good := f.file()
	r := rand.New(rand.NewPCG(30, 0))
	for range some(600) {
		bad := bytes.Clone(good)
		at := r.IntN(len(bad))
		if r.IntN(3) == 0 {
			at = len(f.packed) + r.IntN(len(bad)-len(f.packed)) // in the table
		}
		bad[at] ^= 1 << r.IntN(8)
		if got, err := readSeekable(bad, ReadOptions{Workers: 2}); err == nil && !bytes.Equal(got, want) {
			t.Errorf("byte %d: other bytes come out, and no error", at)
		}
		s, err := openSeekable(bad, ReadOptions{})
		if err != nil {
			continue
		}
		p := make([]byte, 60_000)
		if n, err := s.ReadAt(p, 45_000); (err == nil || n == len(p)) && !bytes.Equal(p, want[45_000:105_000]) {
			t.Errorf("byte %d: ReadAt gives other bytes: %v", at, err)
		}
	}
	for _, at := range places(len(good), 40, some(60), some(300)) {
		if got, err := readSeekable(good[:at], ReadOptions{}); err == nil {
			t.Errorf("cut at %d: %d bytes, no error", at, len(got))
		}
		// It was whole when it was opened.
		s, err := openSeekable(good, ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		rd := s.Reader(bytes.NewReader(good[:at]))
		_, err = io.Copy(io.Discard, struct{ io.Reader }{rd})
		if _, is := errors.AsType[*Error](err); !is || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d since: %v", at, err)
		}
		rd.Close()
	}
	s, _ := openSeekable(good, ReadOptions{})
	rd := s.Reader(bytes.NewReader(append(bytes.Clone(good), "garbage"...)))
	defer rd.Close()
	_, err := io.Copy(io.Discard, struct{ io.Reader }{rd})
	if e, is := errors.AsType[*Error](err); !is || e.Offset != int64(len(good)) {
		t.Errorf("with something behind it: %v", err)
	}
}

// errAt is a file that cannot be read at one place.
type errAt struct {
	*bytes.Reader
	bad int64
}

func (e errAt) ReadAt(p []byte, off int64) (int, error) {
	if off <= e.bad && e.bad < off+int64(len(p)) {
		return 0, fmt.Errorf("read x: %w", syscall.EIO)
	}
	return e.Reader.ReadAt(p, off)
}

func TestTroubleWithReadingASeekableFileIsPassedOnAndNotKept(t *testing.T) {
	want := sample(31, 200_000)
	packed := cutFrames(want, 50_000, true, true).file()
	for _, bad := range []int{0, len(packed) / 2, len(packed) - 1} {
		src := &errAt{bytes.NewReader(packed), int64(bad)}
		s, err := OpenSeekable(src, int64(len(packed)), ReadOptions{})
		p := make([]byte, len(want))
		if err == nil {
			_, err = s.ReadAt(p, 0)
		}
		if _, is := errors.AsType[*Error](err); is || !errors.Is(err, syscall.EIO) {
			t.Errorf("byte %d: %v", bad, err)
		}
		if s == nil {
			continue
		}
		src.bad = -1
		if _, err := s.ReadAt(p, 0); err != nil || !bytes.Equal(p, want) {
			t.Errorf("byte %d, once it can be read again: %v", bad, err)
		}
	}
}

func TestASeekableFileIsReadWithinItsMemory(t *testing.T) {
	want := sample(32, max(some(40<<20), 12<<20))
	packed, err := pack(want, Zstd, WriteOptions{}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, workers := range []int{1, 2, 16} {
		runtime.GC()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		g := runtime.NumGoroutine()
		s, err := openSeekable(packed, ReadOptions{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		r := s.Reader(bytes.NewReader(packed))
		if s.Memory()+r.Memory() > 49<<20 {
			t.Errorf("%d workers: %d and %d bytes", workers, s.Memory(), r.Memory())
		}
		buf, back, most := make([]byte, 1<<20), make([]byte, 1<<20), uint64(0)
		for off := 0; ; off += len(buf) {
			n, err := io.ReadFull(r, buf)
			if !bytes.Equal(buf[:n], want[off:off+n]) {
				t.Fatalf("other bytes at %d", off)
			}
			if _, err := s.ReadAt(back, int64(off*7%(len(want)-len(back)))); err != nil {
				t.Fatal(err)
			}
			if off&(8<<20-1) == 0 {
				runtime.GC()
				runtime.ReadMemStats(&now)
				most = max(most, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
			}
			if err != nil {
				break
			}
		}
		if most > uint64(r.Memory()+s.Memory())+2<<20 {
			t.Errorf("%d workers: %d KiB are in use, they say %d", workers, most>>10, (r.Memory()+s.Memory())>>10)
		}
		for range 2 {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		if !settle(g) {
			t.Errorf("%d goroutines run on", runtime.NumGoroutine()-g)
		}
	}
}

func TestASeekableReaderThatIsClosedEarlyEndsEverything(t *testing.T) {
	packed := cutFrames(sample(33, 500_000), 50_000, true, true).file()
	before := runtime.NumGoroutine()
	for _, n := range []int64{0, 1, 120_000} {
		s, err := openSeekable(packed, ReadOptions{Workers: 4})
		if err != nil {
			t.Fatal(err)
		}
		r := s.Reader(bytes.NewReader(packed))
		if r.SizeHint() != 500_000 {
			t.Errorf("the hint is %d", r.SizeHint())
		}
		if _, err := io.CopyN(io.Discard, r, n); err != nil {
			t.Fatal(err)
		}
		if at := r.InputOffset(); n > 0 && (at < 0 || at >= int64(len(packed))) {
			t.Errorf("after %d bytes the offset is %d", n, at)
		}
		_ = r.Close()
		if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("a closed reader: %v", err)
		}
	}
	if !settle(before) {
		t.Error("something runs on")
	}
}

// FuzzSeekable: whoever reads a file by its table gets what a plain Reader gets,
// or an error.
func FuzzSeekable(f *testing.F) {
	for _, s := range seeds(Zstd) {
		f.Add(s)
	}
	for _, s := range shapesOfTable(sample(34, 60_000)) {
		f.Add(s.file())
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		o := ReadOptions{Workers: 2, Memory: 20 << 20, Ahead: 20 << 20}
		s, err := openSeekable(packed, o)
		if err != nil {
			if e, is := errors.AsType[*Error](err); is && (e.Offset < 0 || e.Offset > int64(len(packed))) {
				t.Errorf("the error is %v", err)
			}
			return
		}
		r := s.Reader(bytes.NewReader(packed))
		defer r.Close()
		if s.Memory()+r.Memory() > 22<<20 {
			t.Errorf("it takes %d and %d bytes", s.Memory(), r.Memory())
		}
		got, err := io.ReadAll(io.LimitReader(r, fuzzMost))
		if err != nil || len(got) == fuzzMost {
			return
		}
		want, err := unpack(packed, Zstd, o)
		if err != nil || !bytes.Equal(got, want) || s.Size() != int64(len(want)) {
			t.Errorf("by the table %d bytes, without it %d: %v", len(got), len(want), err)
		}
		back := make([]byte, len(want))
		if n, err := s.ReadAt(back, 0); n != len(want) || err != nil && err != io.EOF || !bytes.Equal(back, want) {
			t.Errorf("ReadAt: %d bytes of %d: %v", n, len(want), err)
		}
	})
}
