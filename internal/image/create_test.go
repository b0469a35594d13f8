package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"multidd/internal/block"
	"multidd/internal/codec"
)

var madeFormats = []codec.Format{codec.Raw, codec.Bzip2, codec.Gzip, codec.XZ, codec.Zstd, codec.LZ4}

// nameOf returns a path for an image in that format in a new directory.
func nameOf(t testing.TB, f codec.Format) string {
	t.Helper()
	name := "card-v2.img"
	if f != codec.Raw {
		name += "." + string(f)
	}
	return filepath.Join(t.TempDir(), name)
}

// pieces cuts what is used of a disk into writes as a reader of cards would make
// them, and some oddly.
func pieces(used []block.Extent) []block.Extent {
	r := rand.New(rand.NewPCG(60, 0))
	var all []block.Extent
	for _, e := range used {
		for e.Len > 0 {
			n := min(e.Len, 1+r.Int64N(300_000))
			all = append(all, block.Extent{Off: e.Off, Len: n})
			e = block.Extent{Off: e.Off + n, Len: e.Len - n}
		}
	}
	return all
}

// make makes an image of what is used of data, and closes it.
func makeImage(t testing.TB, path string, data []byte, used []block.Extent, o CreateOptions) Made {
	t.Helper()
	w := startImage(t, path, data, used, o)
	m, err := w.Close(int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func startImage(t testing.TB, path string, data []byte, used []block.Extent, o CreateOptions) *Writer {
	t.Helper()
	w, err := Create(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Abort)
	for _, e := range pieces(used) {
		if n, err := w.WriteAt(data[e.Off:e.End()], e.Off); n != int(e.Len) || err != nil {
			t.Fatalf("%v: %d, %v", e, n, err)
		}
	}
	return w
}

// cardUsed is a disk of which not everything is used, with what that is.
func cardUsed(size int) ([]byte, []block.Extent) {
	data := disk(61, size)
	used := []block.Extent{{Off: 0, Len: 10_000}, {Off: 12_288, Len: 5}, {Off: 200_000, Len: 150_000}, {Off: 5 << 20, Len: 100_001}, {Off: 6<<20 + 100, Len: 1}}
	if last := int64(size) - 5; last > 7<<20 {
		used = append(used, block.Extent{Off: last, Len: 5})
	}
	data[used[1].Off] = 1
	return data, used
}

func list(t testing.TB, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func wantNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := list(t, dir); !slices.Equal(got, want) {
		t.Errorf("in the directory is %q, want %q", got, want)
	}
}

func TestWhatIsMadeIsReadAsItWasWritten(t *testing.T) {
	data, used := cardUsed(9<<20 + 777)
	plain := want(data, used, 0)
	for _, f := range madeFormats {
		t.Run(string(f), func(t *testing.T) {
			path := nameOf(t, f)
			m := makeImage(t, path, data, used, CreateOptions{Digest: true, Pack: codec.WriteOptions{Workers: 3, Level: 1}})
			packed, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if m.Path != path || m.Size != int64(len(data)) || m.Used != (block.Map{Used: used}).Bytes() || m.Packed != int64(len(packed)) || m.SHA256 != sha(packed) || m.Image != sha(plain) {
				t.Errorf("made %+v", m)
			}
			base, names := filepath.Base(path), []string{"card-v2.img.bmap", "card-v2.img.sha256"}
			if f != codec.Raw {
				names = append(names, base+".sha256")
			}
			wantNames(t, filepath.Dir(path), append(slices.Clone(names), base)...)
			var beside []string
			for _, b := range m.Beside {
				beside = append(beside, filepath.Base(b))
			}
			slices.Sort(beside)
			slices.Sort(names)
			if !slices.Equal(beside, names) {
				t.Errorf("made %q, beside it %q", beside, names)
			}

			im := open(t, path, Options{Digest: true, Mapper: &listed{}})
			if im.Format() != f || im.bmap == nil || im.Size() != m.Size || len(im.expect) == 0 || len(im.Warnings()) > 0 {
				t.Errorf("it is opened as %s, map %v, size %d, %d digests, warnings %q", im.Format(), im.bmap != nil, im.Size(), len(im.expect), im.Warnings())
			}
			got, err := given(t, im.Reader(newPool(t, buffers, bufSize), m.Size), len(data), 0)
			if err != io.EOF || !bytes.Equal(got, plain) {
				t.Errorf("with its map other bytes come out: %v", err)
			}
			all, digest := read(t, path, Options{All: true, Digest: true}, 0)
			if all.err != io.EOF || !bytes.Equal(all.data, plain) || digest != m.Image {
				t.Errorf("without its map other bytes come out: %v", all.err)
			}
			if fi, err := os.Stat(path); f == codec.Raw && err == nil && fi.Sys().(*syscall.Stat_t).Blocks*512 > 2<<20 {
				t.Errorf("what is free takes room: %d bytes", fi.Sys().(*syscall.Stat_t).Blocks*512)
			}
		})
	}
}

func TestOtherToolsTakeWhatIsMade(t *testing.T) {
	data, used := cardUsed(9<<20 + 512)
	plain := want(data, used, 0)
	run := func(t *testing.T, dir, name string, args ...string) []byte {
		t.Helper()
		if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "" {
			t.Skipf("%s is not installed", name)
		}
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, &stderr)
		}
		return out
	}
	unpackers := map[codec.Format]string{
		codec.Raw: "cat", codec.Bzip2: "bzip2 -dc", codec.Gzip: "gzip -dc", codec.XZ: "xz -dc", codec.Zstd: "zstd -dc", codec.LZ4: "lz4 -dc",
	}
	for _, f := range madeFormats {
		t.Run(string(f), func(t *testing.T) {
			path := nameOf(t, f)
			dir, base := filepath.Dir(path), filepath.Base(path)
			makeImage(t, path, data, used, CreateOptions{Digest: true, Pack: codec.WriteOptions{Level: 1}})

			run(t, dir, "sha256sum", "--check", "--strict", base+".sha256")
			run(t, dir, "sh", "-c", unpackers[f]+" "+base+" | dd of=card bs=1M iflag=fullblock status=none")
			got, err := os.ReadFile(filepath.Join(dir, "card"))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s makes something else of it: %v", unpackers[f], err)
			}
			// bmaptool finds the map by itself, and compares all its checksums.
			run(t, dir, "bmaptool", "copy", base, "card2")
			got, err = os.ReadFile(filepath.Join(dir, "card2"))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("bmaptool copies something else: %v", err)
			}
			if f == codec.Raw {
				return
			}
			run(t, dir, "sh", "-c", unpackers[f]+" "+base+" > card-v2.img")
			run(t, dir, "sha256sum", "--check", "--strict", "card-v2.img.sha256")
		})
	}
	// The negative control: bmaptool notices what is not as the map says.
	t.Run("changed", func(t *testing.T) {
		path := nameOf(t, codec.Raw)
		makeImage(t, path, data, used, CreateOptions{})
		if err := writeInto(path, ^data[300_000], os.O_WRONLY, 300_000); err != nil {
			t.Fatal(err)
		}
		if _, err := exec.LookPath("bmaptool"); err != nil && os.Getenv("CI") == "" {
			t.Skip("bmaptool is not installed")
		}
		if err := exec.Command("bmaptool", "copy", path, path+".card").Run(); err == nil {
			t.Error("bmaptool takes a changed image")
		}
	})
}

func TestTheBytesMadeDependOnTheDiskAlone(t *testing.T) {
	data, used := cardUsed(9 << 20)
	for _, f := range madeFormats {
		var first []byte
		for _, workers := range []int{1, 3} {
			path := nameOf(t, f)
			w, err := Create(path, CreateOptions{Pack: codec.WriteOptions{Workers: workers, Level: 1}})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range used {
				for at := e.Off; at < e.End(); at += 70_000 * int64(workers) {
					if _, err := w.WriteAt(data[at:min(e.End(), at+70_000*int64(workers))], at); err != nil {
						t.Fatal(err)
					}
				}
				if workers > 1 {
					if err := w.Hole(block.Extent{Off: e.End(), Len: min(17, int64(len(data))-e.End())}); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := w.Close(int64(len(data))); err != nil {
				t.Fatal(err)
			}
			var all []byte
			for _, name := range list(t, filepath.Dir(path)) {
				b, err := os.ReadFile(filepath.Join(filepath.Dir(path), name))
				if err != nil {
					t.Fatal(err)
				}
				all = append(append(all, name...), b...)
			}
			if first == nil {
				first = all
			}
			if !bytes.Equal(first, all) {
				t.Errorf("%s: %d workers make something else", f, workers)
			}
		}
	}
}

func TestToStandardOutputOnlyTheImageGoes(t *testing.T) {
	data, used := cardUsed(8 << 20)
	plain := want(data, used, 0)
	for _, f := range append([]codec.Format{""}, madeFormats...) {
		var out bytes.Buffer
		m := makeImage(t, "-", data, used, CreateOptions{Format: f, Digest: true, Stdout: &out, Pack: codec.WriteOptions{Level: 1}})
		if m.SHA256 != sha(out.Bytes()) || m.Packed != int64(out.Len()) || m.Image != sha(plain) || len(m.Beside) > 0 {
			t.Errorf("%q: made %+v", f, m)
		}
		is := f
		if f == "" {
			is = codec.Zstd
		}
		got, _ := read(t, place(t, "x", out.Bytes()), Options{}, 0)
		if got.err != io.EOF || !bytes.Equal(got.data, plain) || codec.Recognise(out.Bytes()) != is {
			t.Errorf("%q: other bytes come out: %v", f, got.err)
		}
	}
}

func TestTheNameSaysHowToPack(t *testing.T) {
	for name, f := range map[string]codec.Format{
		"x.img.bz2": codec.Bzip2, "x.IMG.GZ": codec.Gzip, "x.xz": codec.XZ, "x.img.zst": codec.Zstd, "x.lz4": codec.LZ4,
		"x.img": codec.Raw, "x.raw": codec.Raw, "x.dd": codec.Raw, "x": codec.Zstd, "master-2.1": codec.Zstd, "-": codec.Zstd,
	} {
		if got := FormatFor(name); got != f {
			t.Errorf("%s: %s, not %s", name, got, f)
		}
	}
	if _, err := Create(filepath.Join(t.TempDir(), "x.zip"), CreateOptions{}); err == nil {
		t.Error("a zip is made")
	}
}

// What is said of an image whose name does not say how it is packed is found
// again as well.
func TestWhatIsMadeIsFoundWhateverTheName(t *testing.T) {
	data, used := cardUsed(8 << 20)
	for _, c := range []struct {
		name string
		f    codec.Format
	}{{"master", ""}, {"master-2.1", ""}, {"x.img.gz", codec.Zstd}, {"x.img.gz", codec.Raw}, {"x.img", codec.Zstd}} {
		path := filepath.Join(t.TempDir(), c.name)
		makeImage(t, path, data, used, CreateOptions{Format: c.f, Digest: true})
		im := open(t, path, Options{})
		r := im.Reader(newPool(t, buffers, bufSize), 0)
		if got, err := given(t, r, len(data), 0); err != io.EOF || !bytes.Equal(got, want(data, used, 0)) || im.bmap == nil || len(im.expect) == 0 || len(im.Warnings()) > 0 {
			t.Errorf("%+v: %v, map %v, %d digests, warnings %q", c, err, im.bmap != nil, len(im.expect), im.Warnings())
		}
		r.Close()
	}
}

func TestTheMapSaysWhatWasWrittenInBlocks(t *testing.T) {
	for _, c := range []struct {
		name string
		used []block.Extent
		size int64
		want []block.Extent // first block and number of blocks
	}{
		{"everything", []block.Extent{{Off: 0, Len: 81_920}}, 81_920, []block.Extent{{Off: 0, Len: 20}}},
		{"nothing", nil, 81_920, []block.Extent{{Off: 0, Len: 1}}},
		{"one byte", []block.Extent{{Off: 8191, Len: 1}}, 81_920, []block.Extent{{Off: 1, Len: 1}}},
		{"across two blocks", []block.Extent{{Off: 8191, Len: 2}}, 81_920, []block.Extent{{Off: 1, Len: 2}}},
		{"neighbours", []block.Extent{{Off: 0, Len: 4096}, {Off: 4096, Len: 4096}}, 81_920, []block.Extent{{Off: 0, Len: 2}}},
		{"in neighbouring blocks", []block.Extent{{Off: 10, Len: 10}, {Off: 5000, Len: 10}}, 81_920, []block.Extent{{Off: 0, Len: 2}}},
		{"in one block", []block.Extent{{Off: 10, Len: 10}, {Off: 4000, Len: 10}}, 81_920, []block.Extent{{Off: 0, Len: 1}}},
		{"a block apart", []block.Extent{{Off: 10, Len: 10}, {Off: 8192, Len: 10}}, 81_920, []block.Extent{{Off: 0, Len: 1}, {Off: 2, Len: 1}}},
		{"a short last block", []block.Extent{{Off: 81_920, Len: 3}}, 81_930, []block.Extent{{Off: 20, Len: 1}}},
		{"a disk of one byte", []block.Extent{{Off: 0, Len: 1}}, 1, []block.Extent{{Off: 0, Len: 1}}},
	} {
		data := bytes.Repeat([]byte{7}, int(c.size))
		path := nameOf(t, codec.Raw)
		makeImage(t, path, data, c.used, CreateOptions{})
		im := open(t, path, Options{})
		var got []block.Extent
		for _, r := range im.bmap.ranges {
			got = append(got, block.Extent{Off: r.Off / mapBlock, Len: (r.Len + mapBlock - 1) / mapBlock})
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: the map has %v", c.name, got)
		}
		r := im.Reader(newPool(t, buffers, bufSize), 0)
		if got := readAll(t, r, 0); got.err != io.EOF { // the checksums are compared
			t.Errorf("%s: %v", c.name, got.err)
		}
		r.Close()
	}
}

// A disk in more pieces than a map may have has one that is coarser.
func TestAMapOfManyPiecesCanStillBeRead(t *testing.T) {
	if testing.Short() {
		t.Skip("it digests half a gigabyte")
	}
	m := &rangeMaker{h: newImageSum().h}
	at, writes := int64(0), 0
	for n := 0; n <= 8; n++ {
		for range mapRanges + 10 {
			m.write([]byte{1}, at)
			at += (m.gap() + 2) * mapBlock
			if n == 8 {
				at = min(at, m.at+20*mapBlock)
			}
			writes++
		}
	}
	text := m.text(at)
	bm, err := parseBMap([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(bm.ranges); n > 8*mapRanges+1 || n < 7*mapRanges || n == writes {
		t.Errorf("%d ranges of %d writes", n, writes)
	}
	for i := 1; i < len(bm.ranges); i++ {
		if bm.ranges[i].Off < bm.ranges[i-1].End()+mapBlock {
			t.Fatalf("range %d is not apart from the one before", i)
		}
	}
}

// Whoever ends without Close leaves nothing that could be taken for an image.
func TestAnImageThatIsNotCompleteHasNoName(t *testing.T) {
	data, used := cardUsed(8 << 20)
	for _, f := range madeFormats {
		path := nameOf(t, f)
		before := runtime.NumGoroutine()
		w := startImage(t, path, data, used, CreateOptions{Digest: true})
		for _, name := range list(t, filepath.Dir(path)) {
			if !isTemp(name) {
				t.Errorf("%s: %s is there already", f, name)
			}
		}
		if w.Packed() < 0 {
			t.Error("less than nothing was written")
		}
		w.Abort()
		w.Abort()
		wantNames(t, filepath.Dir(path))
		if _, err := w.WriteAt(data[:1], 7<<20); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: after Abort: %v", f, err)
		}
		if _, err := w.Close(8 << 20); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: Close after Abort: %v", f, err)
		}
		wantNames(t, filepath.Dir(path))
		for range 200 {
			if runtime.NumGoroutine() <= before {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > before {
			t.Errorf("%s: %d goroutines run on", f, n-before)
		}
	}
}

func TestWhatADeadProcessLeftIsSweptAway(t *testing.T) {
	path := nameOf(t, codec.Zstd)
	dir := filepath.Dir(path)
	left := func(name string) { write(t, filepath.Join(dir, name+tempMark+"0123abcd"), []byte("half")) }
	left("card-v2.img.zst")
	left("card-v2.img.bmap")
	left("card-v2.img.zst.sha256")
	keep := []string{"card-v2.img.gz" + tempMark + "0123abcd", "other.img.zst" + tempMark + "0123abcd", "card-v2.img.zst" + tempMark + "notes"}
	for _, name := range keep {
		write(t, filepath.Join(dir, name), []byte("not ours"))
	}
	other, err := Create(path, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Abort()
	wantNames(t, dir, append(keep, filepath.Base(other.file.name))...)
	// What is being made by a process that lives stays.
	w, err := Create(path, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	wantNames(t, dir, append(keep, filepath.Base(other.file.name), filepath.Base(w.file.name))...)
	// The negative control: without its lock it would have gone.
	if err := flock(other.file.f.Fd(), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	sweep(path)
	wantNames(t, dir, append(keep, filepath.Base(w.file.name))...)
}

func TestNothingIsReplacedUnlessThatIsAllowed(t *testing.T) {
	data, used := cardUsed(8 << 20)
	for _, there := range []string{"card-v2.img.zst", "card-v2.img.zst.bmap", "card-v2.img.bmap", "card-v2.img.sha256", "card-v2.img.zst.sha256"} {
		path := nameOf(t, codec.Zstd)
		dir := filepath.Dir(path)
		write(t, filepath.Join(dir, there), []byte("precious"))
		_, err := Create(path, CreateOptions{})
		if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), there+" is there already") {
			t.Errorf("%s: %v", there, err)
		}
		wantNames(t, dir, there)
		makeImage(t, path, data, used, CreateOptions{Force: true})
		wantNames(t, dir, "card-v2.img.zst", "card-v2.img.bmap", "card-v2.img.zst.sha256")
		if got, _ := read(t, path, Options{}, 0); got.err != io.EOF {
			t.Errorf("%s: %v", there, got.err)
		}
	}
	// One that comes while another is made is left alone.
	path := nameOf(t, codec.Zstd)
	w := startImage(t, path, data, used, CreateOptions{})
	write(t, path, []byte("precious"))
	if _, err := w.Close(int64(len(data))); !errors.Is(err, fs.ErrExist) {
		t.Errorf("one that came meanwhile: %v", err)
	}
	wantNames(t, filepath.Dir(path), "card-v2.img.zst")
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("it is %q, %v", b, err)
	}
}

func TestAnImageDoesNotTakeTheMapOfAnother(t *testing.T) {
	for _, there := range []string{"card-v2.img", "card-v2.img.gz", "card-v2.img.zip"} {
		path := nameOf(t, codec.Zstd)
		write(t, filepath.Join(filepath.Dir(path), there), []byte("another image"))
		for _, force := range []bool{false, true} {
			_, err := Create(path, CreateOptions{Force: force})
			if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "would be taken for its own") {
				t.Errorf("beside %s: %v", there, err)
			}
		}
	}
}

func TestAnImageIsMadeOnlyWhereFilesAre(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo.img")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		dir:                               "is a directory",
		fifo:                              "is not a plain file",
		"/dev/null":                       "is no place for an image",
		"/dev/no-such-card.img":           "is no place for an image",
		"/dev/../dev/no-such-card":        "is no place for an image",
		filepath.Join(dir, "no", "x.zst"): "no such file or directory",
	} {
		for _, force := range []bool{false, true} {
			_, err := Create(path, CreateOptions{Force: force})
			if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), tempMark) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	wantNames(t, dir, "fifo.img")
}

func TestTheDiskIsWrittenInAscendingOrder(t *testing.T) {
	for _, f := range []codec.Format{codec.Raw, codec.Zstd} {
		path := nameOf(t, f)
		w, err := Create(path, CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		if _, err := w.WriteAt(make([]byte, 100), 5000); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt([]byte("x"), 5099); err == nil {
			t.Error("it is written twice")
		}
		if err := w.Hole(block.Extent{Off: 0, Len: 5099}); err == nil {
			t.Error("what was written becomes a hole")
		}
		if _, err := w.Close(5099); err == nil || !strings.Contains(err.Error(), "byte 5099 of it has been written") {
			t.Errorf("a disk that ends before what was written: %v", err)
		}
		wantNames(t, filepath.Dir(path))
		if w, err = Create(path, CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Close(0); err == nil {
			t.Error("a disk of nothing makes an image")
		}
		wantNames(t, filepath.Dir(path))
	}
}

func TestAnImageCanBeProvedBeforeItHasItsName(t *testing.T) {
	data, used := cardUsed(8 << 20)
	for _, f := range []codec.Format{codec.Raw, codec.Zstd, codec.Gzip} {
		path := nameOf(t, f)
		w := startImage(t, path, data, used, CreateOptions{})
		temp, err := w.Finish(int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		wantNames(t, filepath.Dir(path), filepath.Base(temp))
		if got, _ := read(t, temp, Options{BMap: "none", Sums: "none"}, 0); got.err != io.EOF || !bytes.Equal(got.data, want(data, used, 0)) {
			t.Errorf("%s: under its temporary name: %v", f, got.err)
		}
		if _, err := w.WriteAt([]byte("x"), 8<<20); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: it is written on: %v", f, err)
		}
		if f == codec.Gzip { // it was not right
			w.Abort()
			wantNames(t, filepath.Dir(path))
			continue
		}
		if again, err := w.Finish(int64(len(data))); again != temp || err != nil {
			t.Errorf("%s: again: %s, %v", f, again, err)
		}
		if m, err := w.Close(int64(len(data))); err != nil || m.Size != int64(len(data)) {
			t.Errorf("%s: %+v, %v", f, m, err)
		}
		if got, _ := read(t, path, Options{}, 0); got.err != io.EOF {
			t.Errorf("%s: %v", f, got.err)
		}
	}
}

// errCrash stops a Writer at one of its steps, as a crash would.
var errCrash = errors.New("the power is gone")

// crashAt makes an image over an old one and stops before step n of completing
// it, leaving all as it is. It tells whether there was such a step.
func crashAt(t *testing.T, path string, data []byte, used []block.Extent, o CreateOptions, n int, wrong bool) bool {
	t.Helper()
	w := startImage(t, path, data, used, o)
	crashed := false
	w.step = func(string) error {
		if n--; n < 0 {
			crashed = true
			return errCrash
		}
		return nil
	}
	if wrong { // the map comes before the image
		if err := w.finish(int64(len(data))); err != nil {
			t.Fatal(err)
		}
		write(t, w.names.bmap, []byte(w.ranges.text(int64(len(data)))))
		return true
	}
	_, err := w.Close(int64(len(data)))
	if crashed != errors.Is(err, errCrash) || !crashed && err != nil {
		t.Fatalf("step %d: %v", n, err)
	}
	return crashed
}

// At whatever step the power goes: the image is the old one or the new one, whole,
// and what lies beside it never belongs to the other. The negative control lays
// the new map beside the old image.
func TestACrashLeavesNoWrongPair(t *testing.T) {
	oldData, oldUsed := cardUsed(8 << 20)
	newData, newUsed := disk(62, 8<<20), []block.Extent{{Off: 0, Len: 5000}, {Off: 3 << 20, Len: 100_000}}
	is := map[string]bool{}
	for _, fresh := range []bool{true, false} {
		for n := 0; ; n++ {
			path := nameOf(t, codec.Zstd)
			if !fresh {
				makeImage(t, path, oldData, oldUsed, CreateOptions{Digest: true})
			}
			crashed := crashAt(t, path, newData, newUsed, CreateOptions{Force: !fresh, Digest: n%2 == 0}, n, false)
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && fresh {
				if !crashed {
					t.Fatal("there is no image")
				}
				wantNames(t, filepath.Dir(path))
				is["nothing"] = true
				continue
			}
			im := open(t, path, Options{Digest: true})
			r := im.Reader(newPool(t, buffers, bufSize), 0)
			if got := readAll(t, r, 0); got.err != io.EOF {
				t.Errorf("fresh %v, step %d: %v", fresh, n, got.err)
			}
			mapped := im.bmap != nil
			switch {
			case r.Digest() == sha(want(oldData, oldUsed, 0)) && !fresh:
				is[fmt.Sprint("old ", mapped)] = true
			case r.Digest() == sha(want(newData, newUsed, 0)):
				is[fmt.Sprint("new ", mapped)] = true
			default:
				t.Errorf("step %d: neither the old nor the new image", n)
			}
			r.Close()
			for _, name := range list(t, filepath.Dir(path)) {
				if isTemp(name) {
					t.Errorf("step %d: %s is left", n, name)
				}
			}
			if !crashed {
				break
			}
		}
	}
	for _, k := range []string{"nothing", "old true", "old false", "new false", "new true"} {
		if !is[k] {
			t.Errorf("%q was never seen", k)
		}
	}
	path := nameOf(t, codec.Zstd)
	makeImage(t, path, oldData, oldUsed, CreateOptions{})
	crashAt(t, path, newData, newUsed, CreateOptions{Force: true}, 0, true)
	got, _ := read(t, path, Options{}, 0)
	wantBad(t, got.err, "image-digest", "not what its map says")
}

// A killed process cannot clean up: what it leaves must be no image either.
func TestAKilledProcessLeavesNoImage(t *testing.T) {
	if dir := os.Getenv("IMAGE_TEST_MAKE"); dir != "" {
		data, used := cardUsed(8 << 20)
		startImage(t, filepath.Join(dir, "card-v2.img.zst"), data, used, CreateOptions{})
		fmt.Println("written")
		select {}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	path := nameOf(t, codec.Zstd)
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestAKilledProcessLeavesNoImage$")
	cmd.Env = append(os.Environ(), "IMAGE_TEST_MAKE="+filepath.Dir(path))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("written"))); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	names := list(t, filepath.Dir(path))
	if len(names) != 1 || !isTemp(names[0]) {
		t.Errorf("it left %q", names)
	}
	data, used := cardUsed(8 << 20)
	makeImage(t, path, data, used, CreateOptions{})
	wantNames(t, filepath.Dir(path), "card-v2.img.zst", "card-v2.img.bmap", "card-v2.img.zst.sha256")
}

func TestAFullDiskIsSaidInOneSentence(t *testing.T) {
	data := disk(63, 5<<20)
	all := []block.Extent{{Off: 0, Len: int64(len(data))}}
	try := func(w *Writer, err error) error {
		for _, e := range pieces(all) {
			if err == nil {
				_, err = w.WriteAt(data[e.Off:e.End()], e.Off)
			}
		}
		if err == nil {
			_, err = w.Close(int64(len(data)))
		}
		if w != nil {
			w.Abort()
		}
		return err
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	w, err := Create("-", CreateOptions{Stdout: full})
	if err = try(w, err); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("standard output: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=10"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	for _, f := range []codec.Format{codec.Raw, codec.Gzip, codec.Zstd} {
		path := filepath.Join(dir, "x.img."+string(f))
		w, err := Create(path, CreateOptions{Format: f, Pack: codec.WriteOptions{Level: 1}})
		if err = try(w, err); !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), "write "+path+": there is no room left in "+dir+" after ") {
			t.Errorf("%s: %v", f, err)
		}
		wantNames(t, dir)
	}
	// No room for so much as a name.
	for i := range 9 {
		write(t, filepath.Join(dir, fmt.Sprint(i)), nil)
	}
	w, err = Create(filepath.Join(dir, "x.img"), CreateOptions{})
	if err = try(w, err); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no room left") {
		t.Errorf("no name left: %v", err)
	}
}

// The system says once that what was written did not get to the disk.
func TestAnErrorOfTheDiskIsNotForgotten(t *testing.T) {
	data, used := cardUsed(8 << 20)
	for _, f := range []codec.Format{codec.Raw, codec.Zstd} {
		path := nameOf(t, f)
		w := startImage(t, path, data, used, CreateOptions{})
		err := error(&fs.PathError{Op: "fsync", Path: "x", Err: syscall.EIO})
		w.file.failed.Store(&err)
		if _, err := w.Close(int64(len(data))); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", f, err)
		}
		wantNames(t, filepath.Dir(path))
	}
}

// An error in writing comes back, and stays.
func TestAfterAnErrorNothingIsWritten(t *testing.T) {
	broken := &brokenWriter{n: 3 << 20}
	w, err := Create("-", CreateOptions{Stdout: broken, Format: codec.Raw})
	if err != nil {
		t.Fatal(err)
	}
	data := disk(64, 1<<20)
	for i := range 10 {
		if _, err = w.WriteAt(data, int64(i)<<20); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.EPIPE) || !strings.Contains(err.Error(), "write to standard output: whoever was to read it has gone") {
		t.Errorf("the error is %v", err)
	}
	if _, again := w.WriteAt(data, 20<<20); again != err {
		t.Errorf("then %v", again)
	}
	if again := w.Hole(block.Extent{Off: 0, Len: 30 << 20}); again != err {
		t.Errorf("then %v", again)
	}
	if _, again := w.Close(40 << 20); again != err {
		t.Errorf("at the end %v", again)
	}
}

type brokenWriter struct{ n int }

func (b *brokenWriter) Write(p []byte) (int, error) {
	if b.n -= len(p); b.n < 0 {
		return 0, syscall.EPIPE
	}
	return len(p), nil
}
