package volume

import (
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"multidd/internal/block"
	"multidd/internal/volume/volumetest"
)

func TestF2FSMapIsSound(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		args []string
	}{
		{"as it comes", 64 * mib, nil},
		{"with what is new", 96 * mib, []string{"-O", "extra_attr,sb_checksum,inode_crtime"}},
		{"sections of two segments", 160 * mib, []string{"-s", "2"}},
		{"a large node table", 96 * mib, []string{"-i"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := volumetest.Make(t, volumetest.Spec{Seed: 5, Parts: []volumetest.Part{{Kind: "f2fs", Size: c.size, Args: c.args}}})
			fs := openAt(t, openF2FS, im, 0)
			info := fs.info()
			if info.Kind != "f2fs" || info.State != Clean {
				t.Fatalf("%+v", info)
			}
			if info.UUID != blkid(t, im.Path, "UUID") || info.Label != "flash" {
				t.Errorf("the label is %q, the UUID %q", info.Label, info.UUID)
			}
			proveMap(t, im, mapOf(t, fs, im.Size))
		})
	}
}

// agedF2FS is 64 MiB that Linux 6.1 formatted, wrote, deleted and rewrote files on,
// with many checkpoints between, and unmounted.
func agedF2FS(tb testing.TB) []byte {
	tb.Helper()
	f, err := os.Open("testdata/f2fs-linux-6.1.img.bz2")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(bzip2.NewReader(f))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestF2FSMapIsSoundWhenTheKernelAgedIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f2fs.img")
	if err := os.WriteFile(path, agedF2FS(t), 0o600); err != nil {
		t.Fatal(err)
	}
	part := volumetest.Made{Part: volumetest.Part{Kind: "f2fs", Size: 64 * mib}, Extent: block.Extent{Len: 64 * mib}}
	im := volumetest.Image{Path: path, Size: 64 * mib, Parts: []volumetest.Made{part}}
	fs := openAt(t, openF2FS, im, 0)
	if info := fs.info(); info.State != Clean || info.Label != "kernel" {
		t.Fatalf("%+v", info)
	}
	proveNoise(t, im, mapOf(t, fs, im.Size), im.Files(t))
}

// offsets in the aged one
const (
	f2fsSuper = 1024
	f2fsPackA = 512 * f2fsBlock
	f2fsPackB = 1024 * f2fsBlock
)

// lastPack returns where the newer checkpoint begins.
func lastPack(data []byte) int {
	le := binary.LittleEndian
	if le.Uint64(data[f2fsPackA:]) > le.Uint64(data[f2fsPackB:]) {
		return f2fsPackA
	}
	return f2fsPackB
}

// seal gives the head and the tail of a checkpoint the checksum they need.
func seal(data []byte, pack int) {
	le := binary.LittleEndian
	tail := pack + (int(le.Uint32(data[pack+136:]))-1)*f2fsBlock
	for _, at := range []int{pack, tail} {
		b := data[at : at+f2fsBlock]
		le.PutUint32(b[f2fsBlock-4:], f2fsSum(f2fsMagic, b[:f2fsBlock-4]))
	}
}

func TestF2FSThatIsNotCleanCountsAsUsedWhole(t *testing.T) {
	made := agedF2FS(t)
	le := binary.LittleEndian
	pack := lastPack(made)
	flags := func(set, clear uint32) func([]byte) {
		return func(b []byte) {
			tail := pack + (int(le.Uint32(b[pack+136:]))-1)*f2fsBlock
			for _, at := range []int{pack + 132, tail + 132} {
				le.PutUint32(b[at:], le.Uint32(b[at:])&^clear|set)
			}
			seal(b, pack)
		}
	}
	put := func(at int, v uint32) func([]byte) {
		return func(b []byte) { le.PutUint32(b[at:], v) }
	}
	journal := pack + f2fsBlock + sitJournal
	sit := int(le.Uint32(made[f2fsSuper+80:])) * f2fsBlock
	if le.Uint16(made[journal:]) == 0 {
		t.Fatal("the journal is empty and proves nothing")
	}
	for _, c := range []struct {
		name   string
		change func([]byte)
		state  State
		why    string
	}{
		{"as it was unmounted", func([]byte) {}, Clean, ""},
		{"mounted", flags(0, 1), Dirty, "it was not cleanly unmounted"},
		{"switched off", flags(0x1000, 0), Dirty, "it was not cleanly unmounted"},
		{"to be checked", flags(0x10, 0), Dirty, "errors were met on it"},
		{"failed", flags(0x8, 0), Dirty, "errors were met on it"},
		{"growing", flags(0x4000, 0), Dirty, "its size was being changed"},
		{"no journal", put(journal, 0), Dirty, "its table of segments and its checkpoint contradict each other"},
		{"an endless journal", put(journal, 0xffff), Dirty, "its checkpoint contradicts itself"},
		{"a journal of another file system", put(journal+2, 1<<30), Dirty, "its checkpoint contradicts itself"},
		{"a table of noise", func(b []byte) {
			for i := range 2 * 512 * f2fsBlock {
				b[sit+i] = byte(i * i >> 3)
			}
		}, Dirty, "its table of segments contradicts itself"},
		{"no checkpoint", func(b []byte) { clear(b[f2fsPackA:sit]) }, Dirty, "neither of its checkpoints is whole"},
		{"a large bitmap", func(b []byte) {
			le.PutUint32(b[pack+156:], 1<<31)
			seal(b, pack)
		}, Dirty, "its checkpoint contradicts itself"},
		{"superblocks that differ", put(f2fsSuper+80, 1), Unknown, "its superblock contradicts itself"},
		{"another second superblock", put(f2fsBlock+f2fsSuper+80, 1), Dirty, "its superblocks differ"},
		{"larger blocks", put(f2fsSuper+16, 14), Unknown, "its blocks or segments have a size that is not known"},
		{"zoned", put(f2fsSuper+2180, 2), Unknown, "it uses features that are not known"},
		{"two devices", put(f2fsSuper+2200, 0x2f2f00), Unknown, "it spans more than one device"},
		{"a wrong sum", put(f2fsSuper+2180, 0x800), Unknown, "the checksum of its superblock is wrong"},
		{"longer than where it lies", put(f2fsSuper+40, 1), Unknown, "it is longer than where it lies"},
		{"stopped by errors", put(f2fsSuper+2794, 1), Dirty, "errors were met on it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := bytes.Clone(made)
			c.change(data)
			size := int64(len(data))
			fs, err := openF2FS(bytes.NewReader(data), size)
			if err != nil {
				t.Fatal(err)
			}
			info := fs.info()
			if info.State != c.state || info.Why != c.why {
				t.Errorf("%v because %q, want %v because %q", info.State, info.Why, c.state, c.why)
			}
			free := size - mapOf(t, fs, size).Bytes()
			if (c.state == Clean) != (free > 0) {
				t.Errorf("%d bytes are free", free)
			}
		})
	}
}

// The newer one of the checkpoints counts, and the other one if it is not whole.
func TestF2FSBelievesItsLastWholeCheckpoint(t *testing.T) {
	data := agedF2FS(t)
	newer := lastPack(data)
	older := f2fsPackA + f2fsPackB - newer
	le := binary.LittleEndian
	tail := older + (int(le.Uint32(data[older+136:]))-1)*f2fsBlock
	for _, at := range []int{older + 132, tail + 132} {
		le.PutUint32(data[at:], le.Uint32(data[at:])&^1) // not unmounted
	}
	seal(data, older)
	for _, want := range []State{Clean, Dirty} {
		fs, err := openF2FS(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if got := fs.info(); got.State != want {
			t.Errorf("%v because %q, want %v", got.State, got.Why, want)
		}
		data[newer+100]++ // half written
	}
}

// What lies on a card behind the end of a log must not look like its continuation.
func TestF2FSKeepsItsLogsWhole(t *testing.T) {
	data := agedF2FS(t)
	fs, err := openF2FS(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	c := fs.(*clusters)
	pack := lastPack(data)
	for i := range 3 {
		for _, at := range []int{36, 84} {
			s := int64(binary.LittleEndian.Uint32(data[pack+at+4*i:]))
			if end := c.inUse.next(s*f2fsSegment, c.n, false); end < (s+1)*f2fsSegment {
				t.Errorf("block %d of segment %d is free", end-s*f2fsSegment, s)
			}
		}
	}
}

func TestF2FSIsReadInOrder(t *testing.T) {
	data := agedF2FS(t)
	if _, err := openF2FS(&inOrder{ReaderAt: bytes.NewReader(data), t: t}, int64(len(data))); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoF2FSIsLeftToOthers(t *testing.T) {
	for _, data := range [][]byte{nil, make([]byte, 100), make([]byte, 16384)} {
		if _, err := openF2FS(bytes.NewReader(data), int64(len(data))); !errors.Is(err, errNotMine) {
			t.Errorf("%d zeros: %v", len(data), err)
		}
	}
}

// The pieces are fuzzed, put where they belong, and given the checksums they need.
func FuzzF2FS(f *testing.F) {
	data := agedF2FS(f)
	pack := lastPack(data)
	sit := int(binary.LittleEndian.Uint32(data[f2fsSuper+80:])) * f2fsBlock
	f.Add(data[f2fsSuper:f2fsSuper+3072], data[pack:pack+f2fsBlock], data[pack+f2fsBlock:pack+2*f2fsBlock], data[sit:sit+f2fsBlock], int64(64*mib))
	f.Fuzz(func(t *testing.T, super, head, journal, table []byte, size int64) {
		if size < 4*mib || size > 1<<30 {
			return
		}
		disk := make([]byte, 4*mib)
		copy(disk[f2fsSuper:], super[:min(len(super), 3072)])
		copy(disk[f2fsBlock+f2fsSuper:], super[:min(len(super), 3072)])
		copy(disk[f2fsPackA:], head[:min(len(head), f2fsBlock)])
		copy(disk[f2fsPackA+f2fsBlock:], journal[:min(len(journal), f2fsBlock)])
		total := binary.LittleEndian.Uint32(disk[f2fsPackA+136:])
		if total > 1 && total <= f2fsSegment && binary.LittleEndian.Uint32(disk[f2fsPackA+164:]) == f2fsBlock-4 {
			copy(disk[f2fsPackA+int(total-1)*f2fsBlock:][:f2fsBlock], disk[f2fsPackA:])
			seal(disk, f2fsPackA)
		}
		if at := int64(binary.LittleEndian.Uint32(disk[f2fsSuper+80:])) * f2fsBlock; at > f2fsPackB && at < 3*mib*2 {
			disk = append(disk, make([]byte, 8*mib)...)
			copy(disk[at:], table[:min(len(table), f2fsBlock)])
		}
		fs, err := openF2FS(&sparseHead{disk, size}, size)
		if err != nil {
			if !isContent(err) {
				t.Fatal(err)
			}
			return
		}
		mapOf(t, fs, size)
	})
}
