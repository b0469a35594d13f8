package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"multidd/internal/block"
	"multidd/internal/codec"
)

// readTo reads an image to its end, which must be good, and closes it.
func readTo(t testing.TB, im *Image, data []byte) {
	t.Helper()
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	got := readAll(t, r, 0)
	if got.err != io.EOF || !bytes.Equal(got.data, data) {
		t.Errorf("the disk is not right: %v", got.err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
}

// inStore returns the names of what is in a store: "tmp" and digests.
func inStore(t testing.TB, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		switch name := e.Name(); {
		case strings.HasPrefix(name, tmpPrefix):
			names = append(names, "tmp")
		case name != lockName:
			names = append(names, name)
		}
	}
	return names
}

func wantStore(t testing.TB, dir string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := inStore(t, dir); !slices.Equal(got, want) {
		t.Errorf("in the store is %q, want %q", got, want)
	}
}

func TestAPackedImageIsUnpackedOnce(t *testing.T) {
	data := append(disk(30, 1<<20+99), make([]byte, 2<<20)...)
	for _, f := range []codec.Format{codec.Gzip, codec.Zstd} {
		t.Run(string(f), func(t *testing.T) {
			packed := pack(t, f, data)
			path := place(t, "x.img", packed)
			dir := filepath.Join(t.TempDir(), "deep", "store")
			im := open(t, path, Options{Store: NewStore(dir, 0)})
			if im.Stored() || im.Size() != -1 {
				t.Errorf("stored %v, size %d", im.Stored(), im.Size())
			}
			readTo(t, im, data)
			wantStore(t, dir, sha(packed))
			copied := filepath.Join(dir, sha(packed), imageName)
			if b, err := os.ReadFile(copied); err != nil || !bytes.Equal(b, data) {
				t.Errorf("the copy is not right: %v", err)
			}
			fi, err := os.Stat(copied)
			if err != nil {
				t.Fatal(err)
			}
			if taken := fi.Sys().(*syscall.Stat_t).Blocks * 512; taken > 1<<20+64<<10 {
				t.Errorf("the copy takes %d bytes of the disk: zeros are not holes", taken)
			}

			// The same file under another name.
			im = open(t, place(t, "y", packed), Options{Digest: true, Store: NewStore(dir, 0)})
			if !im.Stored() || im.Size() != int64(len(data)) || im.Memory() != 0 {
				t.Errorf("stored %v, size %d, memory %d", im.Stored(), im.Size(), im.Memory())
			}
			readTo(t, im, data)
			// A file that is only as long.
			other := slices.Clone(packed)
			other[len(other)/2] ^= 1
			if im, err := Open(t.Context(), place(t, "z", other), Options{Store: NewStore(dir, 0)}); err == nil {
				if im.Stored() {
					t.Error("the copy was taken for another image")
				}
				_ = im.Close()
			}
			wantStore(t, dir, sha(packed))
		})
	}
}

func TestADamagedImageLeavesNoCopy(t *testing.T) {
	packed := pack(t, codec.Gzip, disk(31, 1<<20))
	path := place(t, "x.img", packed[:len(packed)-3])
	dir := t.TempDir()
	im := open(t, path, Options{Store: NewStore(dir, 0)})
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	wantBad(t, readAll(t, r, 0).err, "image-decode", "cut short")
	r.Close()
	wantStore(t, dir)
}

func TestTheCopyOfAMappedImageIsWhole(t *testing.T) {
	data, used := holey(2 << 20)
	data[1<<18] = 7 // not used, but there
	packed := pack(t, codec.Gzip, data)
	path := place(t, "x.img.gz", packed)
	write(t, path+".bmap", []byte(aMap{used: used}.text(data)))
	dir := t.TempDir()
	for range 2 {
		if got, _ := read(t, path, Options{Store: NewStore(dir, 0)}, 0); got.err != io.EOF {
			t.Fatal(got.err)
		}
	}
	im := open(t, path, Options{All: true, Store: NewStore(dir, 0)})
	if !im.Stored() {
		t.Error("there is no copy")
	}
	readTo(t, im, data)
}

// A lane may ask for what it missed at once, although the disk is behind.
func TestWhatNextHasReturnedCanBeReadAgain(t *testing.T) {
	data := disk(32, 2<<20+4321)
	for _, c := range []struct {
		name string
		open func(t *testing.T, o Options) *Image
	}{
		{"packed file", func(t *testing.T, o Options) *Image {
			return open(t, place(t, "x.img", pack(t, codec.Zstd, data)), o)
		}},
		{"raw standard input", func(t *testing.T, o Options) *Image {
			o.Stdin = bytes.NewReader(data)
			return open(t, "-", o)
		}},
		{"packed standard input", func(t *testing.T, o Options) *Image {
			o.Stdin = bytes.NewReader(pack(t, codec.LZ4, data))
			return open(t, "-", o)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			st := NewStore(dir, 0)
			gate := make(chan struct{})
			st.wrap = func(f file) file { return &slowFile{f, gate} }
			st.patience = time.Hour
			im := c.open(t, Options{Store: st})
			r := im.Reader(newPool(t, buffers, bufSize), 0)
			if !r.CanReread() {
				t.Fatal("it cannot be read again")
			}
			var readers sync.WaitGroup
			check := func(off, n int64) {
				p := make([]byte, n)
				if _, err := r.ReadAt(p, off); err != nil || !bytes.Equal(p, data[off:off+n]) {
					t.Errorf("%d bytes at %d: %v", n, off, err)
				}
			}
			opened := false
			for {
				b, err := r.Next(t.Context())
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				e := b.Extent()
				b.Release()
				readers.Go(func() {
					check(e.Off, e.Len)
					check(e.Off+e.Len/3, e.Len/2)
				})
				if !opened {
					opened = true
					close(gate)
				}
			}
			readers.Wait()
			check(0, int64(len(data)))
			p := make([]byte, 100)
			if n, err := r.ReadAt(p, int64(len(data))-10); n != 10 || err != io.EOF {
				t.Errorf("beyond the end: %d bytes, %v", n, err)
			}
			r.Close()
			if _, err := r.ReadAt(p, 0); err == nil {
				t.Error("it can be read after Close")
			}
			if im.isPacked() {
				if len(inStore(t, dir)) != 1 {
					t.Errorf("in the store is %q", inStore(t, dir))
				}
				return
			}
			wantStore(t, dir) // nobody could find a raw one again
		})
	}
}

func TestTwoAtOnceMakeOneEntry(t *testing.T) {
	data := disk(33, 1<<20)
	packed := pack(t, codec.Zstd, data)
	path := place(t, "x.img", packed)
	dir := t.TempDir()
	var all []*Image
	for range 3 { // all have looked before any has made it
		all = append(all, open(t, path, Options{Store: NewStore(dir, 0)}))
	}
	var work sync.WaitGroup
	for _, im := range all {
		work.Go(func() { readTo(t, im, data) })
	}
	work.Wait()
	wantStore(t, dir, sha(packed))
	readTo(t, open(t, path, Options{Store: NewStore(dir, 0)}), data)
	for _, im := range all {
		if w := im.Warnings(); len(w) > 0 {
			t.Errorf("warnings: %q", w)
		}
	}
}

// TestMain lets the test program be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("IMAGE_TEST_STORE"); dir != "" {
		readHalf(dir, os.Getenv("IMAGE_TEST_FILE"))
		return
	}
	os.Exit(m.Run())
}

// readHalf reads some of an image, says so, and waits for its end.
func readHalf(dir, path string) {
	im, err := Open(context.Background(), path, Options{Store: NewStore(dir, 0)})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := im.Reader(block.NewPool(buffers, bufSize), 0)
	b, err := r.Next(context.Background())
	if err == nil {
		_, err = r.ReadAt(make([]byte, len(b.Data)), 0) // it is in the file
	}
	fmt.Println("reading", err)
	_, _ = io.Copy(io.Discard, os.Stdin) // which has no end
}

func TestAProcessThatIsKilledLeavesNoEntry(t *testing.T) {
	data := disk(34, 4<<20)
	packed := pack(t, codec.Zstd, data)
	path := place(t, "x.img", packed)
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "IMAGE_TEST_STORE="+dir, "IMAGE_TEST_FILE="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 14)
	if _, err := io.ReadFull(out, said); err != nil || string(said) != "reading <nil>\n" {
		t.Fatalf("the process said %q, %v", said, err)
	}
	// While it lives, nobody takes away what it is writing.
	st := NewStore(dir, 0)
	s, err := st.begin(-1, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	wantStore(t, dir, "tmp", "tmp")
	s.finish(nil)
	s.close()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	wantStore(t, dir, "tmp")
	im := open(t, path, Options{Store: st})
	if im.Stored() {
		t.Error("what it left is taken for a copy")
	}
	readTo(t, im, data)
	wantStore(t, dir, sha(packed))
}

func TestWhatWasNotUsedForLongestIsRemovedFirst(t *testing.T) {
	const size = 1 << 20
	dir := t.TempDir()
	paths, sums := make([]string, 4), make([]string, 4)
	for i := range paths {
		data := bytes.Repeat(disk(byte(40+i), 4096), size/4096)
		for j := range data[:size] {
			data[j] |= 1 // no holes
		}
		packed := pack(t, codec.Gzip, data)
		paths[i], sums[i] = place(t, "x.img", packed), sha(packed)
	}
	st := NewStore(dir, 3*size+size/2)
	get := func(i int) *Image {
		im := open(t, paths[i], Options{Store: st})
		r := im.Reader(newPool(t, buffers, bufSize), 0)
		if got := readAll(t, r, 0); got.err != io.EOF {
			t.Fatal(got.err)
		}
		return im
	}
	age := func(i int, h time.Duration) {
		when := time.Unix(1e9, 0).Add(-h)
		if err := os.Chtimes(filepath.Join(dir, sums[i], entryName), when, when); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		_ = get(i).Close()
	}
	wantStore(t, dir, sums[0], sums[1], sums[2])
	age(0, 3)
	age(1, 2)
	age(2, 1)
	if im := get(0); !im.Stored() { // now it is the youngest
		t.Error("there is no copy")
	} else {
		_ = im.Close()
	}
	_ = get(3).Close()
	wantStore(t, dir, sums[0], sums[2], sums[3])

	// Those in use stay, and then there is no room.
	for _, i := range []int{0, 2, 3} {
		age(i, time.Duration(i))
		defer get(i).Close()
	}
	im := get(1)
	wantStore(t, dir, sums[0], sums[2], sums[3])
	if w := im.Warnings(); len(w) != 1 || !strings.Contains(w[0], "given up") {
		t.Errorf("warnings are %q", w)
	}
	_ = im.Close()
	wantStore(t, dir, sums[0], sums[2], sums[3])
}

func TestTheStoreTouchesOnlyWhatIsItsOwn(t *testing.T) {
	dir := t.TempDir()
	foreign := []string{
		"notes.txt",
		tmpPrefix + "mine/letter",
		strings.Repeat("ab", 32) + "/letter",
		"sub/image",
	}
	for _, name := range foreign {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, path, []byte("dear"))
	}
	data := disk(50, 300<<10)
	readTo(t, open(t, place(t, "x.img", pack(t, codec.Gzip, data)), Options{Store: NewStore(dir, 1<<20)}), data)
	for _, name := range foreign {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != "dear" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAStoreThatOthersCanWriteToIsNotUsed(t *testing.T) {
	data := disk(51, 300<<10)
	packed := pack(t, codec.Gzip, data)
	path := place(t, "x.img", packed)
	dir := t.TempDir()
	readTo(t, open(t, path, Options{Store: NewStore(dir, 0)}), data)
	if im := open(t, path, Options{Store: NewStore(dir, 0)}); !im.Stored() {
		t.Error("there is no copy") // the negative control
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	im := open(t, path, Options{Store: NewStore(dir, 0)})
	if im.Stored() {
		t.Error("the copy is used")
	}
	readTo(t, im, data)
	if w := im.Warnings(); len(w) != 1 || !strings.Contains(w[0], "others can write to the store") {
		t.Errorf("warnings are %q", w)
	}
	im = open(t, path, Options{Store: NewStore(path, 0)}) // not a directory
	readTo(t, im, data)
	if len(im.Warnings()) != 1 {
		t.Errorf("warnings are %q", im.Warnings())
	}
}

// damage changes a byte of an entry's image.
func damage(t testing.TB, dir string, off int64) {
	t.Helper()
	path := filepath.Join(dir, imageName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= 0x40
	write(t, path, b)
}

func TestADamagedCopyIsNoticedAndReplaced(t *testing.T) {
	data, used := holey(3<<20 + 5)
	packed := pack(t, codec.Zstd, data)
	path := place(t, "x.img.zst", packed)
	for _, mapped := range []bool{false, true} {
		for _, at := range []int64{0, 600 << 10, 2 << 20, int64(len(data) - 1)} {
			t.Run(fmt.Sprintf("map %v byte %d", mapped, at), func(t *testing.T) {
				dir := t.TempDir()
				o := Options{Store: NewStore(dir, 0), Digest: true}
				if mapped {
					o.BMap = place(t, "map", []byte(aMap{used: used}.text(data)))
				}
				readTo(t, open(t, path, o), data)
				damage(t, filepath.Join(dir, sha(packed)), at)
				im := open(t, path, o)
				if !im.Stored() {
					t.Fatal("there is no copy")
				}
				r := im.Reader(newPool(t, buffers, bufSize), 0)
				got := readAll(t, r, len(data))
				if got.err != io.EOF || !bytes.Equal(got.data, data) || r.Digest() != sha(data) {
					t.Errorf("the disk is not right: %v", got.err)
				}
				if !slices.IsSortedFunc(got.blocks, func(a, b block.Extent) int { return int(a.Off - b.End() + 1) }) {
					t.Errorf("the blocks are %v", got.blocks)
				}
				if n := r.Stats().Decoded; n != int64(len(data)) {
					t.Errorf("%d bytes were counted", n)
				}
				p := make([]byte, len(data))
				if _, err := r.ReadAt(p, 0); err != nil || !bytes.Equal(p, data) {
					t.Errorf("read again: %v", err)
				}
				if w := im.Warnings(); len(w) != 1 || !strings.Contains(w[0], "the copy in the store was damaged") {
					t.Errorf("warnings are %q", w)
				}
				_ = im.Close()
				im = open(t, path, o)
				if !im.Stored() {
					t.Error("there is no new copy")
				}
				readTo(t, im, data)
			})
		}
	}
}

// Where the checksums of the pieces do not tell, the digest of the whole does.
// The negative control shows that nothing else would.
func TestACopyThatIsNotWhatItsDigestSaysIsRemoved(t *testing.T) {
	data := disk(52, 1<<20)
	packed := pack(t, codec.Gzip, data)
	path := place(t, "x.img", packed)
	for _, forged := range []bool{false, true} {
		dir := t.TempDir()
		o := Options{Store: NewStore(dir, 0)}
		readTo(t, open(t, path, o), data)
		entryDir := filepath.Join(dir, sha(packed))
		damage(t, entryDir, 1000)
		bad := slices.Clone(data)
		bad[1000] ^= 0x40
		var g granules
		g.add(bad)
		g.end()
		write(t, filepath.Join(entryDir, sumsName), packSums(g.crc))
		if forged {
			e, err := readEntry(entryDir)
			if err != nil {
				t.Fatal(err)
			}
			e.SHA256 = sha(bad)
			b, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(entryDir, entryName), b)
		}
		got, _ := read(t, path, o, 0)
		if forged {
			if got.err != io.EOF || !bytes.Equal(got.data, bad) {
				t.Errorf("forged: %v", got.err)
			}
			continue
		}
		wantBad(t, got.err, "image-digest", "its copy in the store was damaged, and has been removed; run again")
		wantStore(t, dir)
	}
}

// A copy may rot between being read and being read again.
func TestADamagedCopyIsNotReadAgain(t *testing.T) {
	data := disk(53, 1<<20)
	packed := pack(t, codec.Gzip, data)
	path := place(t, "x.img", packed)
	dir := t.TempDir()
	o := Options{Store: NewStore(dir, 0)}
	readTo(t, open(t, path, o), data)
	im := open(t, path, o)
	r := im.Reader(newPool(t, buffers, bufSize), 0)
	if got := readAll(t, r, 0); got.err != io.EOF {
		t.Fatal(got.err)
	}
	damage(t, filepath.Join(dir, sha(packed)), 500000)
	p := make([]byte, 10)
	if _, err := r.ReadAt(p, 500010); !errors.Is(err, errDamaged) {
		t.Errorf("got %v", err)
	}
	if _, err := r.ReadAt(p, 0); err != nil {
		t.Errorf("elsewhere: %v", err)
	}
	wantStore(t, dir)
}

func TestEntriesThatMakeNoSenseAreNotUsed(t *testing.T) {
	data := disk(54, 200<<10)
	packed := pack(t, codec.Gzip, data)
	path := place(t, "x.img", packed)
	for name, spoil := range map[string]func(dir string) error{
		"no image":       func(dir string) error { return os.Remove(filepath.Join(dir, imageName)) },
		"no sums":        func(dir string) error { return os.Remove(filepath.Join(dir, sumsName)) },
		"short sums":     func(dir string) error { return os.Truncate(filepath.Join(dir, sumsName), 3) },
		"short image":    func(dir string) error { return os.Truncate(filepath.Join(dir, imageName), 100) },
		"no entry.json":  func(dir string) error { return os.Remove(filepath.Join(dir, entryName)) },
		"torn json":      func(dir string) error { return os.Truncate(filepath.Join(dir, entryName), 20) },
		"a link":         relink,
		"another schema": func(dir string) error { return edit(dir, `"schema": 1`, `"schema": 2`) },
		"another digest": func(dir string) error { return edit(dir, sha(packed), sha(data)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := Options{Store: NewStore(dir, 0)}
			readTo(t, open(t, path, o), data)
			if err := spoil(filepath.Join(dir, sha(packed))); err != nil {
				t.Fatal(err)
			}
			im := open(t, path, o)
			if im.Stored() {
				t.Error("it is used")
			}
			readTo(t, im, data)
		})
	}
}

// relink puts a symbolic link in the place of an entry's image.
func relink(dir string) error {
	path := filepath.Join(dir, imageName)
	if err := os.Rename(path, path+".moved"); err != nil {
		return err
	}
	return os.Symlink(path+".moved", path)
}

func edit(dir, from, to string) error {
	path := filepath.Join(dir, entryName)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, bytes.Replace(b, []byte(from), []byte(to), 1), 0o600)
}
