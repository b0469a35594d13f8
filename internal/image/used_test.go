package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"multidd/internal/block"
	"multidd/internal/codec"
)

// A listed is a Mapper that knows beforehand what is used, in ascending order.
type listed struct {
	used  []block.Extent
	err   error
	wrong func(e block.Extent, parts []block.Extent) []block.Extent // what See says instead

	mu     sync.Mutex
	mapped int // times Map was called
	open   int // watches
}

func (l *listed) Map(r io.ReaderAt, size int64) (block.Map, error) {
	l.mu.Lock()
	l.mapped++
	l.mu.Unlock()
	p := make([]byte, 5000)
	if _, err := r.ReadAt(p, size/2); err != nil && err != io.EOF {
		return block.Map{}, fmt.Errorf("look: %w", err)
	}
	return block.Map{Size: size, Used: l.used}, l.err
}

func (l *listed) Watch() Watch {
	l.open++
	return &listedWatch{l: l}
}

type listedWatch struct {
	l  *listed
	at int64
}

func (w *listedWatch) See(off int64, p []byte) []block.Extent {
	if off != w.at {
		panic("a gap")
	}
	e := block.Extent{Off: off, Len: int64(len(p))}
	w.at = e.End()
	var parts []block.Extent
	for _, u := range w.l.used {
		if in := u.Intersect(e); in.Len > 0 {
			parts = append(parts, in)
		}
	}
	if w.l.wrong != nil {
		parts = w.l.wrong(e, parts)
	}
	return parts
}

func (w *listedWatch) Estimate() int64 { return 12345 }

func (w *listedWatch) Close() { w.l.open-- }

// want is the disk of which only what is used was given, over what was there.
func want(data []byte, used []block.Extent, before byte) []byte {
	b := bytes.Repeat([]byte{before}, len(data))
	for _, e := range used {
		copy(b[e.Off:e.End()], data[e.Off:])
	}
	return b
}

// given puts what a Reader gives over what was there.
func given(t *testing.T, r *Reader, size int, before byte) (disk []byte, err error) {
	t.Helper()
	disk = bytes.Repeat([]byte{before}, size)
	for {
		b, err := r.Next(t.Context())
		if err != nil {
			return disk, err
		}
		back := make([]byte, len(b.Data))
		if r.CanReread() {
			if n, err := r.ReadAt(back, b.Off); n != len(back) || err != nil && err != io.EOF {
				t.Errorf("%v once more: %d, %v", b.Extent(), n, err)
			} else if !bytes.Equal(back, b.Data) {
				t.Errorf("%v once more: other bytes", b.Extent())
			}
		}
		copy(disk[b.Off:], b.Data)
		b.Release()
	}
}

// ways are the ways in which an image may come.
var ways = []struct {
	name   string
	random bool // any place can be read
	open   func(t *testing.T, data []byte, o Options) *Image
}{
	{"raw file", true, func(t *testing.T, data []byte, o Options) *Image { return open(t, place(t, "x.img", data), o) }},
	{"seekable zst", true, func(t *testing.T, data []byte, o Options) *Image {
		return open(t, place(t, "x.img.zst", packSeekable(t, codec.Zstd, data)), o)
	}},
	{"stored copy", true, func(t *testing.T, data []byte, o Options) *Image {
		path := place(t, "x.img.gz", pack(t, codec.Gzip, data))
		o.Store = NewStore(t.TempDir(), 0)
		readTo(t, open(t, path, Options{Store: o.Store}), data)
		im := open(t, path, o)
		if !im.Stored() {
			t.Error("it was not stored")
		}
		return im
	}},
	{"raw stream", false, func(t *testing.T, data []byte, o Options) *Image {
		o.Stdin = bytes.NewReader(data)
		return open(t, "-", o)
	}},
	{"gz", false, func(t *testing.T, data []byte, o Options) *Image {
		return open(t, place(t, "x.img.gz", pack(t, codec.Gzip, data)), o)
	}},
	{"gz with a store", false, func(t *testing.T, data []byte, o Options) *Image {
		o.Store = NewStore(t.TempDir(), 0)
		return open(t, place(t, "x.img.gz", pack(t, codec.Gzip, data)), o)
	}},
}

var someUsed = []block.Extent{{Off: 0, Len: 3000}, {Off: 100_000, Len: 300_000}, {Off: 400_000, Len: 512}, {Off: 900_001, Len: 9999}}

func TestOnlyWhatTheMapperCallsUsedIsGiven(t *testing.T) {
	data := disk(40, 1<<20+100)
	for _, way := range ways {
		for _, free := range []string{FreeKeep, FreeZero} {
			t.Run(way.name+", "+free, func(t *testing.T) {
				m := &listed{used: someUsed}
				im := way.open(t, data, Options{Mapper: m, Free: free})
				used := int64(3000 + 300_000 + 512 + 9999)
				total := used
				if free == FreeZero {
					total = int64(len(data))
				}
				found, ok := im.Map()
				if ok != way.random || ok && found.Bytes() != used {
					t.Errorf("Map: %v, %v", ok, found)
				}
				if n := im.Used(); way.random && n != total || !way.random && n != -1 {
					t.Errorf("Used is %d before", n)
				}
				if _, ok := im.ReaderAt(); ok != way.random {
					t.Errorf("any place can be read: %v", ok)
				}
				r := im.Reader(newPool(t, buffers, bufSize), 0)
				got, err := given(t, r, len(data), 0xaa)
				if err != io.EOF {
					t.Fatal(err)
				}
				before := byte(0xaa)
				if free == FreeZero {
					before = 0
				}
				if !bytes.Equal(got, want(data, someUsed, before)) {
					t.Error("other bytes were given")
				}
				if im.Used() != total || im.UsedHint() != total {
					t.Errorf("Used is %d, its hint %d, not %d", im.Used(), im.UsedHint(), total)
				}
				r.Close()
				if m.open != 0 {
					t.Errorf("%d watches are open", m.open)
				}
				if len(im.Warnings()) != 0 {
					t.Errorf("warnings: %q", im.Warnings())
				}
			})
		}
	}
}

// What says more than a Mapper, or asks for everything, keeps it from being asked.
func TestTheMapperIsNotAskedWhereAMapSaysIt(t *testing.T) {
	data, used := holey(2 << 20)
	for _, c := range []struct {
		name  string
		bmap  bool
		o     Options
		asked bool
	}{
		{"no map", false, Options{}, true},
		{"a map", true, Options{}, false},
		{"a map that is not to be used", true, Options{BMap: "none"}, true},
		{"everything is wanted", false, Options{All: true}, false},
	} {
		for _, f := range []codec.Format{codec.Raw, codec.Gzip} {
			packed := data
			if f != codec.Raw {
				packed = pack(t, f, data)
			}
			path := place(t, "x.img", packed)
			if c.bmap {
				write(t, path+".bmap", []byte(aMap{used: used}.text(data)))
			}
			m := &listed{used: []block.Extent{{Off: 0, Len: 4096}}}
			c.o.Mapper = m
			im := open(t, path, c.o)
			r := im.Reader(newPool(t, buffers, bufSize), 0)
			asked := m.mapped+m.open > 0
			got := readAll(t, r, 0)
			if got.err != io.EOF || asked != c.asked {
				t.Errorf("%s, %s: asked %v, %v", c.name, f, asked, got.err)
			}
			if c.o.All && !bytes.Equal(got.data, data) {
				t.Errorf("%s, %s: not everything came", c.name, f)
			}
			r.Close()
		}
	}
	m := &listed{used: someUsed}
	if _, err := Open(t.Context(), place(t, "x.img", data), Options{Mapper: m, Free: "shred"}); err == nil {
		t.Error("what is free can be shredded")
	}
}

// A Mapper that is wrong about where the disk ends, or anything else that can be
// seen to be wrong, costs time and no bytes.
func TestWhatAMapperGetsWrongIsAllUsed(t *testing.T) {
	data := disk(41, 600_000)
	size := int64(len(data))
	for name, used := range map[string][]block.Extent{
		"beyond the end": {{Off: 0, Len: 4096}, {Off: size - 10, Len: 11}},
		"out of order":   {{Off: 8192, Len: 4096}, {Off: 0, Len: 4096}},
		"overlapping":    {{Off: 0, Len: 4096}, {Off: 4095, Len: 4096}},
		"empty":          {{Off: 0, Len: 0}},
		"nothing":        {},
	} {
		im := open(t, place(t, "x.img", data), Options{Mapper: &listed{used: used}})
		r := im.Reader(newPool(t, buffers, bufSize), 0)
		if got := readAll(t, r, 0); got.err != io.EOF || !bytes.Equal(got.data, data) || len(im.Warnings()) != 1 {
			t.Errorf("%s: %v, warnings %q", name, got.err, im.Warnings())
		}
		r.Close()
	}
	for name, wrong := range map[string]func(e block.Extent, parts []block.Extent) []block.Extent{
		"before": func(e block.Extent, _ []block.Extent) []block.Extent { return []block.Extent{{Off: e.Off - 1, Len: 2}} },
		"behind": func(e block.Extent, _ []block.Extent) []block.Extent {
			return []block.Extent{{Off: e.Off, Len: e.Len + 1}}
		},
		"overflowing": func(e block.Extent, _ []block.Extent) []block.Extent {
			return []block.Extent{{Off: e.End() - 1, Len: 1<<63 - 1}}
		},
		"empty": func(e block.Extent, _ []block.Extent) []block.Extent { return []block.Extent{{Off: e.Off, Len: 0}} },
		"out of order": func(e block.Extent, _ []block.Extent) []block.Extent {
			return []block.Extent{{Off: e.Off + 5, Len: 5}, {Off: e.Off, Len: 5}}
		},
	} {
		in := bytes.NewReader(data)
		im := open(t, "-", Options{Stdin: in, Mapper: &listed{wrong: wrong}})
		r := im.Reader(newPool(t, buffers, bufSize), 0)
		if got := readAll(t, r, 0); got.err != io.EOF || !bytes.Equal(got.data, data) || len(im.Warnings()) != 1 {
			t.Errorf("%s: %v, warnings %q", name, got.err, im.Warnings())
		}
		r.Close()
	}
}

// What has been given as zeros must be zeros when it is read again, even where
// more is used in turn than can be remembered.
func TestWhatIsRememberedOfAPassingDiskIsBounded(t *testing.T) {
	const size = 4 * (maxUsed + 5000)
	p := &passed{keep: true, watch: seeEvery{}}
	all := bytes.Repeat([]byte{1}, size)
	sent := make([]byte, size)
	for off := int64(0); off < size; off += 8192 {
		e := block.Extent{Off: off, Len: min(8192, size-off)}
		for _, x := range p.see(e, all[e.Off:e.End()]) {
			copy(sent[x.Off:], all[x.Off:x.End()])
		}
	}
	if len(p.used) > maxUsed+1 || !p.full {
		t.Errorf("%d extents are kept", len(p.used))
	}
	for _, off := range []int{0, 1, size / 2, size - 20_001} {
		again := bytes.Clone(all[off : off+20_000])
		blank(p.used, again, int64(off))
		if !bytes.Equal(again, sent[off:off+20_000]) {
			t.Errorf("at %d it is not as it was sent", off)
		}
	}
}

// seeEvery calls two bytes of four used.
type seeEvery struct{}

func (seeEvery) Close() {}

func (seeEvery) See(off int64, p []byte) (parts []block.Extent) {
	for i := int64(0); i < int64(len(p)); i += 4 {
		parts = append(parts, block.Extent{Off: off + i + 1, Len: 2})
	}
	return parts
}

func TestAMapperThatCannotReadIsTheImagesFault(t *testing.T) {
	data := disk(42, 600_000)
	_, err := Open(t.Context(), place(t, "x.img", data), Options{Mapper: &listed{err: errors.New("no luck")}})
	wantBad(t, err, "image-decode", "find out what of it is used: no luck")

	packed := packSeekable(t, codec.Zstd, disk(42, 9<<20))
	packed[len(packed)/2] ^= 1
	_, err = Open(t.Context(), place(t, "x.zst", packed), Options{Mapper: &listed{used: someUsed}})
	wantBad(t, err, "image-decode", "zst image is damaged at byte")
}

// A copy that has rotted where the Mapper looks is given up when the image is
// opened, and the image is unpacked after all.
func TestACopyThatIsDamagedIsNotMapped(t *testing.T) {
	data := disk(43, 1<<20)
	packed := pack(t, codec.Gzip, data)
	path := place(t, "x.img.gz", packed)
	dir := t.TempDir()
	readTo(t, open(t, path, Options{Store: NewStore(dir, 0)}), data)
	f, err := os.OpenFile(filepath.Join(dir, sha(packed), imageName), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{7}, 10), 512<<10)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	im := open(t, path, Options{Store: NewStore(dir, 0), Mapper: &listed{used: someUsed}})
	if im.Stored() || len(im.Warnings()) != 1 {
		t.Errorf("stored %v, warnings %q", im.Stored(), im.Warnings())
	}
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	if got, err := given(t, r, len(data), 0); err != io.EOF || !bytes.Equal(got, want(data, someUsed, 0)) {
		t.Errorf("%v", err)
	}
	r.Close()
	wantStore(t, dir, sha(packed))
}

func TestASeekableImageNeedsNoStore(t *testing.T) {
	data := disk(44, 9<<20)
	packed := packSeekable(t, codec.Zstd, data)
	path := place(t, "x.img.zst", packed)
	dir := filepath.Join(t.TempDir(), "store")
	im := open(t, path, Options{Store: NewStore(dir, 0), Digest: true})
	if im.Size() != int64(len(data)) || im.Hint() != im.Size() || !im.Packed() || im.Memory() <= 0 {
		t.Errorf("size %d, hint %d, packed %v, memory %d", im.Size(), im.Hint(), im.Packed(), im.Memory())
	}
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	if !r.CanReread() {
		t.Error("it cannot be read again")
	}
	if got := readAll(t, r, 0); got.err != io.EOF || !bytes.Equal(got.data, data) || r.Digest() != sha(data) {
		t.Errorf("%v", got.err)
	}
	p := make([]byte, 1<<20)
	if n, err := r.ReadAt(p, 3<<20+5); n != len(p) || err != nil || !bytes.Equal(p, data[3<<20+5:4<<20+5]) {
		t.Errorf("ReadAt: %d, %v", n, err)
	}
	r.Close()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a store: %v", err)
	}
	// The digest of the packed file is compared all the same.
	write(t, path+".sha256", []byte(sha(data)+"  x.img.zst\n"))
	got, _ := read(t, path, Options{Store: NewStore(dir, 0)}, 0)
	wantBad(t, got.err, "image-digest", "it has the SHA-256 "+sha(packed))
}

// Fault 33, 38: a table that is damaged or changed costs the speed and nothing else.
func TestADamagedTableOfFramesCostsNoBytes(t *testing.T) {
	data := disk(45, 9<<20)
	packed := packSeekable(t, codec.Zstd, data)
	for _, back := range []int{1, 7, 9, 30, 44, 50} {
		bad := slices.Clone(packed)
		bad[len(bad)-back] ^= 4
		im := open(t, place(t, "x.img.zst", bad), Options{})
		r := im.Reader(newPool(t, buffers, bufSize), 0)
		got := readAll(t, r, 0)
		switch {
		case got.err == io.EOF && !bytes.Equal(got.data, data):
			t.Errorf("byte %d from the end: other bytes", back)
		case got.err != io.EOF:
			wantBad(t, got.err, "image-decode", "zst image")
		case r.CanReread() || len(im.Warnings()) == 0 && back > 4:
			t.Errorf("byte %d from the end: read again %v, warnings %q", back, r.CanReread(), im.Warnings())
		}
		r.Close()
	}
}

func TestASeekableImageOverwrittenWhileItIsReadIsBad(t *testing.T) {
	data := disk(46, 9<<20)
	path := place(t, "x.img.zst", packSeekable(t, codec.Zstd, data))
	im := open(t, path, Options{})
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	defer r.Close()
	b, err := r.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	overwrite(t, path, "shorter")
	_, err = r.ReadAt(make([]byte, 10), 8<<20)
	wantBad(t, err, "image-digest", "while it was being read")
	got := readAll(t, r, 0)
	wantBad(t, got.err, "image-digest", "while it was being read")
}

// Fault 36 with what is found out on the way: what is free needs no room, but an
// image without end still has one.
func TestAPassingImageMayBeLongerThanTheCardByWhatIsFree(t *testing.T) {
	data := disk(47, 2<<20)
	m := &listed{used: someUsed}
	for _, c := range []struct {
		limit int64
		used  []block.Extent
		ok    bool
	}{
		{2 << 20, someUsed, true},
		{7 << 18, someUsed, true},
		{1 << 20, someUsed, false}, // longer by more than a quarter
		{7 << 18, append(slices.Clone(someUsed), block.Extent{Off: 7 << 18, Len: 1}), false},
	} {
		for _, free := range []string{FreeKeep, FreeZero} {
			m.used = c.used
			im := open(t, "-", Options{Stdin: bytes.NewReader(data), Mapper: m, Free: free})
			r := im.Reader(newPool(t, buffers, bufSize), c.limit)
			got := readAll(t, r, 0)
			if (got.err == io.EOF) != c.ok {
				t.Errorf("limit %d, %s: %v", c.limit, free, got.err)
			}
			if int64(len(got.data)) > c.limit {
				t.Errorf("limit %d, %s: blocks up to %d were given", c.limit, free, len(got.data))
			}
			r.Close()
		}
	}
	endless := struct{ io.Reader }{zeros{}}
	im := open(t, "-", Options{Stdin: endless, Mapper: &listed{used: someUsed[:1]}})
	r := im.Reader(newPool(t, buffers, bufSize), 1<<20)
	defer r.Close()
	wantBad(t, readAll(t, r, 0).err, "image-decode", "bigger than the largest card")
}

// With a map the whole is known: a card need only be large enough for what is used.
func TestAMappedImageFitsWhereItsUsedBytesFit(t *testing.T) {
	data := disk(48, 1<<20)
	for _, way := range ways[:3] {
		for limit, ok := range map[int64]bool{910_000: true, 909_999: false} {
			im := way.open(t, data, Options{Mapper: &listed{used: someUsed}})
			r := im.Reader(newPool(t, buffers, bufSize), limit)
			if got := readAll(t, r, 0); (got.err == io.EOF) != ok {
				t.Errorf("%s, limit %d: %v", way.name, limit, got.err)
			}
			r.Close()
		}
	}
}

func TestTheHintIsWhatThePackedFileDeclares(t *testing.T) {
	data := disk(49, 1<<20)
	for f, hint := range map[codec.Format]int64{codec.XZ: 1 << 20, codec.Zip: 1 << 20, codec.Gzip: -1, codec.Bzip2: -1} {
		im := open(t, place(t, "x", pack(t, f, data)), Options{})
		if im.Size() != -1 || im.Hint() != hint || im.UsedHint() != hint {
			t.Errorf("%s: size %d, hint %d and %d", f, im.Size(), im.Hint(), im.UsedHint())
		}
		r := im.Reader(newPool(t, buffers, bufSize), 0)
		if got := readAll(t, r, 0); got.err != io.EOF {
			t.Error(got.err)
		}
		if im.Hint() != hint {
			t.Errorf("%s: hint %d at the end", f, im.Hint())
		}
		r.Close()
	}
	// A hint that has proved wrong is none. (Fault 37)
	im := open(t, place(t, "x", pack(t, codec.Gzip, data)), Options{Mapper: &listed{used: someUsed}})
	im.declared = 900_000
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	defer r.Close()
	b, err := r.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	if im.UsedHint() != 12345 {
		t.Errorf("the watch's estimate is lost: %d", im.UsedHint())
	}
	if got := readAll(t, r, 0); got.err != io.EOF || im.Hint() != -1 {
		t.Errorf("%v, hint %d", got.err, im.Hint())
	}
}

func TestAWatchIsClosedWhateverHappens(t *testing.T) {
	data := disk(50, 1<<20)
	cut := pack(t, codec.Gzip, data)
	path := place(t, "x.gz", cut[:len(cut)/2])
	for n := range 3 {
		m := &listed{used: someUsed}
		im := open(t, path, Options{Mapper: m, Free: FreeZero})
		r := im.Reader(newPool(t, buffers, bufSize), 0)
		for range n {
			if b, err := r.Next(t.Context()); err == nil {
				b.Release()
			}
		}
		if n == 2 {
			if got := readAll(t, r, 0); !strings.Contains(got.err.Error(), "cut short") {
				t.Error(got.err)
			}
		}
		r.Close()
		if m.open != 0 {
			t.Errorf("after %d blocks the watch is open", n)
		}
		if im.Used() != -1 {
			t.Errorf("Used is %d of an image that was cut", im.Used())
		}
	}
}
