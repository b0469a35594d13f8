package volume

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"multidd/internal/block"
	"multidd/internal/volume/volumetest"
)

// openAt opens the file system that the part of an image holds.
func openAt(t *testing.T, open opener, im volumetest.Image, part int) fileSystem {
	t.Helper()
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	p := im.Parts[part]
	fs, err := open(io.NewSectionReader(f, p.Off, p.Len), p.Len)
	if err != nil {
		t.Fatalf("%s: %v", p.Kind, err)
	}
	return fs
}

// mapOf returns what a file system that fills size bytes uses, and checks that it
// keeps the promises of used and counts right.
func mapOf(t testing.TB, fs fileSystem, size int64) block.Map {
	t.Helper()
	m := block.Map{Size: size}
	at := int64(0)
	err := fs.used(func(e block.Extent) bool {
		if e.Off < at || e.Len < 0 {
			t.Fatalf("%v after all before %d has been told", e, at)
		}
		at = e.End()
		if n := len(m.Used) - 1; n >= 0 && m.Used[n].End() == e.Off {
			m.Used[n].Len += e.Len
		} else if e.Len > 0 {
			m.Used = append(m.Used, e)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	info := fs.info()
	if err := m.Check(); err != nil || m.End() > info.Size {
		t.Fatalf("%v; %d bytes of a file system of %d", err, m.End(), info.Size)
	}
	if info.State == Clean && m.Bytes() != info.Used {
		t.Errorf("%d bytes are told, %d counted", m.Bytes(), info.Used)
	}
	if end := info.Size; end < size { // as Look does
		m.Used = append(m.Used, block.Extent{Off: end, Len: size - end})
	}
	return m
}

// proveNoise fills all that an image has free with noise. Nothing may change.
func proveNoise(t *testing.T, im volumetest.Image, m block.Map, before []map[string]string) {
	t.Helper()
	if free := im.Size - m.Bytes(); free < im.Size/10 {
		t.Errorf("only %d of %d bytes are free", free, im.Size)
	}
	scrambled := im.Copy(t)
	scrambled.Scramble(t, m, 1)
	if wrong := scrambled.Fsck(t); len(wrong) > 0 {
		t.Errorf("noise in free space: %s", wrong[0])
	}
	if diff := scrambled.Changed(t, before); len(diff) > 0 {
		t.Errorf("noise in free space, and %d files differ: %s", len(diff), diff[0])
	}
}

// proveMap does so, and then takes a KiB out of used extents, one after the other from
// the last, until the damage is seen in a file: space that was given to a file and
// never written does not show it.
func proveMap(t *testing.T, im volumetest.Image, m block.Map) {
	t.Helper()
	before := im.Files(t)
	proveNoise(t, im, m, before)
	tried := 0
	for i := len(m.Used) - 1; i > 0 && tried < 5; i-- {
		if m.Used[i].Len < 2048 || m.Used[i].End() == im.Size {
			continue
		}
		tried++
		hole := block.Extent{Off: m.Used[i].Off + m.Used[i].Len/2&^511, Len: 1024}
		bad := im.Copy(t)
		bad.Scramble(t, block.Map{Size: im.Size, Used: []block.Extent{{Len: hole.Off}, {Off: hole.End(), Len: im.Size - hole.End()}}}, 1)
		if len(bad.Changed(t, before)) > 0 {
			return
		}
	}
	if tried > 0 {
		t.Errorf("noise in %d used extents is not noticed", tried)
	}
}

// blkid returns what blkid says about one property of a file.
func blkid(t *testing.T, path, name string) string {
	t.Helper()
	cmd := exec.Command("blkid", "-p", "-o", "value", "-s", name, path)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("blkid: %v", err)
	}
	return string(bytes.TrimSpace(out))
}

// flip returns a reader of an image with some bytes changed.
func flip(t *testing.T, im volumetest.Image, changes map[int64]byte) io.ReaderAt {
	t.Helper()
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &flipped{f, changes}
}

type flipped struct {
	io.ReaderAt
	changes map[int64]byte
}

func (f *flipped) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	for at, v := range f.changes {
		if at >= off && at < off+int64(n) {
			p[at-off] = v
		}
	}
	return n, err
}

// inOrder is a reader that fails when bytes that lie before those already read are
// read: a file system that is opened through it can be known while a disk passes by.
type inOrder struct {
	io.ReaderAt
	t  *testing.T
	at int64
}

func (r *inOrder) ReadAt(p []byte, off int64) (int, error) {
	if off < r.at && off >= headSize {
		r.t.Errorf("%d bytes at %d are read after those before %d", len(p), off, r.at)
	}
	r.at = max(r.at, off+int64(len(p)))
	return r.ReaderAt.ReadAt(p, off)
}

// fuzzOpener feeds an opener with the first bytes of a medium of any size.
func fuzzOpener(f *testing.F, open opener) {
	f.Fuzz(func(t *testing.T, head []byte, size int64) {
		if size < 0 || size > 1<<32 {
			return
		}
		r := &sparseHead{head, size}
		fs, err := open(r, size)
		if err != nil {
			if !errors.Is(err, errNotMine) && !isContent(err) {
				t.Fatalf("an error that is not about content: %v", err)
			}
			return
		}
		if got := fs.info().Size; got < 0 || got > size {
			t.Fatalf("it says it has %d of %d bytes", got, size)
		}
		mapOf(t, fs, size)
	})
}

// sparseHead is a medium of some size of which only the first bytes are not zero.
type sparseHead struct {
	head []byte
	size int64
}

func (s *sparseHead) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= s.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.size-off))
	clear(p[:n])
	if off < int64(len(s.head)) {
		copy(p[:n], s.head[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// makeSmall returns the first bytes of a file system that a program makes in a file
// of size bytes; nothing if it is not installed, except in CI.
func makeSmall(tb testing.TB, size int64, head int, program string, args ...string) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "fs")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		tb.Fatal(err)
	}
	if _, err := exec.LookPath(program); err != nil && os.Getenv("CI") == "" {
		return nil
	}
	if out, err := exec.Command(program, append(args, path)...).CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", program, err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data[:min(len(data), head)]
}

func TestBitsetGivesItsRuns(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		n := rng.Int64N(100)
		b, want := newBitset(n), [][2]int64(nil)
		for i := rng.Int64N(5); i < n; {
			end := min(n, i+1+rng.Int64N(20))
			b.setRange(i, end)
			want = append(want, [2]int64{i, end})
			i = end + 1 + rng.Int64N(20)
		}
		for i := n; i < int64(len(b))*8; i++ { // what lies behind the last unit
			b.set(i)
		}
		var got [][2]int64
		for from, to := range b.runs(n) {
			got = append(got, [2]int64{from, to})
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("of %d units %v, want %v", n, got, want)
		}
	}
}

func TestClustersTellWhatLiesAroundThem(t *testing.T) {
	for _, c := range []struct {
		name string
		set  []int64
		size int64
		want []block.Extent
	}{
		{"nothing", nil, 100, []block.Extent{{Off: 0, Len: 10}}},
		{"the first", []int64{0}, 100, []block.Extent{{Off: 0, Len: 20}}},
		{"apart", []int64{2, 3, 5}, 100, []block.Extent{{Off: 0, Len: 10}, {Off: 30, Len: 20}, {Off: 60, Len: 10}}},
		{"a tail", []int64{2}, 107, []block.Extent{{Off: 0, Len: 10}, {Off: 30, Len: 10}, {Off: 100, Len: 7}}},
		{"the last and a tail", []int64{8}, 107, []block.Extent{{Off: 0, Len: 10}, {Off: 90, Len: 17}}},
		{"all", []int64{0, 1, 2, 3, 4, 5, 6, 7, 8}, 107, []block.Extent{{Off: 0, Len: 107}}},
	} {
		fs := &clusters{fs: FileSystem{Size: c.size}, first: 10, unit: 10, n: 9, inUse: newBitset(9)}
		for _, i := range c.set {
			fs.inUse.set(i)
		}
		var got []block.Extent
		if err := fs.finish().used(func(e block.Extent) bool { got = append(got, e); return true }); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		fs.fs.doubt(Dirty, "for a test")
		got = nil
		_ = fs.used(func(e block.Extent) bool { got = append(got, e); return false })
		if want := []block.Extent{{Off: 0, Len: c.size}}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s, dirty: %v", c.name, got)
		}
	}
}
