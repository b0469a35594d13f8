package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	"multidd/internal/block"
	"multidd/internal/volume/volumetest"
)

func TestF2FSMapIsSound(t *testing.T) {
	t.Parallel()
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
			t.Parallel()
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
func agedF2FS(tb testing.TB) *sparseDisk {
	tb.Helper()
	return readSparse(tb, "f2fs-linux-6.1.gz", 64*mib)
}

func TestF2FSMapIsSoundWhenTheKernelAgedIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f2fs.img")
	agedF2FS(t).writeFile(t, path)
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
func lastPack(d *sparseDisk) int64 {
	le := binary.LittleEndian
	if le.Uint64(d.at(f2fsPackA)) > le.Uint64(d.at(f2fsPackB)) {
		return f2fsPackA
	}
	return f2fsPackB
}

// packTail returns where the last block of a checkpoint lies.
func packTail(d *sparseDisk, pack int64) int64 {
	return pack + (int64(binary.LittleEndian.Uint32(d.at(pack+136)))-1)*f2fsBlock
}

// seal gives the first and the last block of a checkpoint the checksum they need.
func seal(d *sparseDisk, pack int64) {
	for _, at := range []int64{pack, packTail(d, pack)} {
		b := d.at(at)
		binary.LittleEndian.PutUint32(b[f2fsBlock-4:], f2fsSum(f2fsMagic, b[:f2fsBlock-4]))
	}
}

// setFlags changes the flags of a checkpoint.
func setFlags(d *sparseDisk, pack int64, set, drop uint32) {
	for _, at := range []int64{pack + 132, packTail(d, pack) + 132} {
		binary.LittleEndian.PutUint32(d.at(at), binary.LittleEndian.Uint32(d.at(at))&^drop|set)
	}
	seal(d, pack)
}

func TestF2FSThatIsNotCleanCountsAsUsedWhole(t *testing.T) {
	made := agedF2FS(t)
	le := binary.LittleEndian
	pack := lastPack(made)
	flags := func(set, drop uint32) func(*sparseDisk) {
		return func(d *sparseDisk) { setFlags(d, pack, set, drop) }
	}
	put := func(at int64, v uint32) func(*sparseDisk) {
		return func(d *sparseDisk) { le.PutUint32(d.at(at), v) }
	}
	journal := pack + f2fsBlock + sitJournal
	sit := int64(le.Uint32(made.at(f2fsSuper+80))) * f2fsBlock
	if le.Uint16(made.at(journal)) == 0 {
		t.Fatal("the journal is empty and proves nothing")
	}
	for _, c := range []struct {
		name   string
		change func(*sparseDisk)
		state  State
		why    string
	}{
		{"as it was unmounted", func(*sparseDisk) {}, Clean, ""},
		{"mounted", flags(0, 1), Dirty, "it was not cleanly unmounted"},
		{"switched off", flags(0x1000, 0), Dirty, "it was not cleanly unmounted"},
		{"to be checked", flags(0x10, 0), Dirty, "errors were met on it"},
		{"failed", flags(0x8, 0), Dirty, "errors were met on it"},
		{"growing", flags(0x4000, 0), Dirty, "its size was being changed"},
		{"no journal", put(journal, 0), Dirty, "its table of segments and its checkpoint contradict each other"},
		{"an endless journal", put(journal, 0xffff), Dirty, "its checkpoint contradicts itself"},
		{"a journal of another file system", put(journal+2, 1<<30), Dirty, "its checkpoint contradicts itself"},
		{"a table of noise", func(d *sparseDisk) {
			for i := range int64(2 * 512) {
				for k := range 20 { // more entries than the journal can replace
					d.at(sit + i*f2fsBlock)[k*sitEntry+7]++
				}
			}
		}, Dirty, "its table of segments contradicts itself"},
		{"no checkpoint", func(d *sparseDisk) { clear(d.at(f2fsPackA)); clear(d.at(f2fsPackB)) }, Dirty, "neither of its checkpoints is whole"},
		{"a large bitmap", func(d *sparseDisk) {
			le.PutUint32(d.at(pack+156), 1<<31)
			seal(d, pack)
		}, Dirty, "its checkpoint contradicts itself"},
		{"superblocks that differ", put(f2fsSuper+80, 1), Unknown, "its superblock contradicts itself"},
		{"another second superblock", put(f2fsBlock+f2fsSuper+80, 1), Dirty, "its superblocks differ"},
		{"larger blocks", put(f2fsSuper+16, 14), Unknown, "its blocks or segments have a size that is not known"},
		{"zoned", put(f2fsSuper+2180, 2), Unknown, "it uses features that are not known"},
		{"two devices", put(f2fsSuper+2200, 0x2f2f00), Unknown, "it spans more than one device"},
		{"a wrong sum", put(f2fsSuper+2180, 0x800), Unknown, "the checksum of its superblock is wrong"},
		{"longer than where it lies", put(f2fsSuper+40, 1), Unknown, "it is longer than where it lies"},
		{"a label without an end", func(d *sparseDisk) {
			for i := range int64(512) {
				d.at(f2fsSuper + 124 + 2*i)[0] = 'x'
				d.at(f2fsBlock + f2fsSuper + 124 + 2*i)[0] = 'x'
			}
		}, Clean, ""},
		{"stopped by errors", put(f2fsSuper+2794, 1), Dirty, "errors were met on it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := made.clone()
			c.change(disk)
			size := disk.size
			fs, err := openF2FS(disk, size)
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
	disk := agedF2FS(t)
	newer := lastPack(disk)
	setFlags(disk, f2fsPackA+f2fsPackB-newer, 0, 1) // the other one: not unmounted
	for _, want := range []State{Clean, Dirty} {
		fs, err := openF2FS(disk, disk.size)
		if err != nil {
			t.Fatal(err)
		}
		if got := fs.info(); got.State != want {
			t.Errorf("%v because %q, want %v", got.State, got.Why, want)
		}
		disk.at(newer + 100)[0]++ // half written
	}
}

// What lies on a card behind the end of a log must not look like its continuation.
func TestF2FSKeepsItsLogsWhole(t *testing.T) {
	disk := agedF2FS(t)
	fs, err := openF2FS(disk, disk.size)
	if err != nil {
		t.Fatal(err)
	}
	c := fs.(*clusters)
	pack := lastPack(disk)
	for i := range int64(3) {
		for _, at := range []int64{36, 84} {
			s := int64(binary.LittleEndian.Uint32(disk.at(pack + at + 4*i)))
			if end := c.inUse.next(s*f2fsSegment, c.n, false); end < (s+1)*f2fsSegment {
				t.Errorf("block %d of segment %d is free", end-s*f2fsSegment, s)
			}
		}
	}
}

func TestF2FSIsReadInOrder(t *testing.T) {
	disk := agedF2FS(t)
	if _, err := openF2FS(&inOrder{ReaderAt: disk, t: t}, disk.size); err != nil {
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
	aged := agedF2FS(f)
	pack := lastPack(aged)
	sit := int64(binary.LittleEndian.Uint32(aged.at(f2fsSuper+80))) * f2fsBlock
	f.Add(aged.at(f2fsSuper), aged.at(pack), aged.at(pack+f2fsBlock), aged.at(sit), int64(64*mib))
	f.Fuzz(func(t *testing.T, super, head, journal, table []byte, size int64) {
		if size < 4*mib || size > 1<<30 {
			return
		}
		disk := &sparseDisk{size, map[int64][]byte{}}
		copy(disk.at(f2fsSuper), super)
		copy(disk.at(f2fsBlock+f2fsSuper), super)
		copy(disk.at(f2fsPackA), head)
		copy(disk.at(f2fsPackA+f2fsBlock), journal)
		le := binary.LittleEndian
		if tail := packTail(disk, f2fsPackA); tail > f2fsPackA && tail < f2fsPackB && le.Uint32(disk.at(f2fsPackA+164)) == f2fsBlock-4 {
			copy(disk.at(tail), disk.at(f2fsPackA))
			seal(disk, f2fsPackA)
		}
		if at := int64(le.Uint32(disk.at(f2fsSuper+80))) * f2fsBlock; at > f2fsPackB && at < size-f2fsBlock {
			copy(disk.at(at), table)
		}
		fs, err := openF2FS(disk, size)
		if err != nil {
			if !errors.Is(err, errNotMine) && !isContent(err) {
				t.Fatal(err)
			}
			return
		}
		mapOf(t, fs, size)
	})
}
