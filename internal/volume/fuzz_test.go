package volume

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"multidd/internal/block"
)

// pieces is a disk of size bytes that is zero but for its first bytes and its last.
func pieces(head, tail []byte, size int64) io.ReaderAt {
	return &disk{size, []block.Block{block.New(0, head, nil), block.New(size-int64(len(tail)), tail, nil)}}
}

type disk struct {
	size   int64
	pieces []block.Block
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= d.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), d.size-off))
	clear(p[:n])
	for _, b := range d.pieces {
		part := b.Extent().Intersect(block.Extent{Off: off, Len: int64(n)})
		if part.Len > 0 {
			copy(p[part.Off-off:n], b.Data[part.Off-b.Off:part.End()-b.Off])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// maxMemory bounds what looking at any disk allocates in all, in bytes.
const maxMemory = 256 * mib

// hostile looks at a disk that may hold anything. There is no error in what it holds, its map
// is a map, and as it passes by nothing is called free that is used, unless a warning says
// that this was found too late or the disk is shorter than it says.
func hostile(t *testing.T, r io.ReaderAt, size int64) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d, err := Look(r, size)
	if err != nil {
		t.Fatalf("look: %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > maxMemory {
		t.Errorf("%d bytes allocated", n)
	}
	want := d.Map()
	if err := want.Check(); err != nil {
		t.Errorf("map: %v", err)
	}
	if want.Size != size || size > 0 && want.Bytes() == 0 {
		t.Errorf("map: %d of %d bytes used", want.Bytes(), size)
	}
	if size > 8*mib {
		return
	}
	got, w := watch(t, io.NewSectionReader(r, 0, size), func() int { return 99_999 })
	cut := d.FS != nil && d.FS.Size > size
	for _, p := range d.Parts {
		cut = cut || p.End() > size || p.Len < 0
	}
	if e, ok := missing(got, want); ok && !cut && len(w.Disk().Warnings) == 0 {
		t.Errorf("as it passed: %v are called free", e)
	}
	w.Close()
}

// firstOf returns the first n bytes of a file.
func firstOf(t testing.TB, path string, n int64) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b[:min(n, int64(len(b)))]
}

func FuzzMBR(f *testing.F) {
	for _, script := range []string{
		"2048,4096,83\n",
		"63,1000,5\n5 : start=126, size=100\n6 : start=300, size=10\n",
	} {
		path := partitioned(f, 8*mib, "label: dos\n"+script, "sfdisk", "-q")
		f.Add(firstOf(f, path, 65_000), uint32(8*mib))
	}
	f.Add(append(make([]byte, 446), append(bytes.Repeat(entry(0, 5, 0, 1), 4), 0x55, 0xAA)...), uint32(512))
	f.Fuzz(func(t *testing.T, head []byte, size uint32) {
		hostile(t, pieces(head, nil, int64(size)), int64(size))
	})
}

func FuzzGPT(f *testing.F) {
	path := partitioned(f, 8*mib, "label: gpt\nstart=2048, size=2048\nsize=100\n", "sfdisk", "-q")
	whole := firstOf(f, path, 8*mib)
	f.Add(whole[:4096], whole[8*mib-33*512:], uint32(8*mib), true)
	f.Add(make([]byte, 512), whole[8*mib-33*512:], uint32(8*mib), false)
	f.Fuzz(func(t *testing.T, head, tail []byte, size uint32, seal bool) {
		if seal && len(head) >= 1024+128*128 {
			sealGPT(head) // so that what is behind the checksums is reached
		}
		hostile(t, pieces(head, tail, int64(size)), int64(size))
	})
}

func FuzzExt(f *testing.F) {
	for _, args := range [][]string{
		{"-t", "ext2", "-b", "1024", "-g", "256"},
		{"-t", "ext4", "-b", "1024", "-g", "256", "-O", "^has_journal,^metadata_csum,^uninit_bg"},
		{"-t", "ext4", "-b", "1024", "-g", "512", "-C", "2048", "-O", "bigalloc,meta_bg,^resize_inode,^has_journal"},
	} {
		path := filepath.Join(f.TempDir(), "fs")
		command(f, "mke2fs", append(append([]string{"-q", "-F", "-N", "16"}, args...), path, "1M")...)
		f.Add(firstOf(f, path, 32_000), uint64(mib), true)
	}
	f.Fuzz(func(t *testing.T, head []byte, size uint64, seal bool) {
		size %= 1 << 42
		if seal && len(head) >= 2048 {
			le.PutUint32(head[1024+0x3FC:], crc32c(^uint32(0), head[1024:1024+0x3FC]))
		}
		hostile(t, pieces(head, nil, int64(size)), int64(size))
	})
}
