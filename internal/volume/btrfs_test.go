package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"

	"multidd/internal/volume/volumetest"
)

func TestBtrfsMapIsSound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
	}{
		{"as it comes", nil},
		{"data and metadata together, once", []string{"-M"}},
		{"other sums, nothing new", []string{"--csum", "sha256", "-n", "4096", "-m", "single", "-O", "^skinny-metadata,^no-holes", "-R", "^free-space-tree"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			im := volumetest.Make(t, volumetest.Spec{Seed: 3, Parts: []volumetest.Part{{Kind: "btrfs", Size: 130 * mib, Args: c.args}}})
			fs := openAt(t, openBtrfs, im, 0)
			info := fs.info()
			if info.Kind != "btrfs" || info.State != Clean {
				t.Fatalf("%+v", info)
			}
			if info.UUID != blkid(t, im.Path, "UUID") || info.Label != "butter" {
				t.Errorf("the label is %q, the UUID %q", info.Label, info.UUID)
			}
			proveMap(t, im, mapOf(t, fs, im.Size))
		})
	}
}

// btrfsSize is that of the small one that the tests below change.
const btrfsSize = 130 * mib

const btrfsNode = 16 << 10

// smallBtrfs returns a btrfs as mkfs.btrfs 6.2 leaves it, and where its nodes lie.
func smallBtrfs(tb testing.TB) (disk *sparseDisk, nodes []int64) {
	tb.Helper()
	disk = readSparse(tb, "btrfs-empty.gz", btrfsSize)
	fsid := disk.at(btrfsSuper + 0x20)[:16]
	for at, b := range disk.blocks {
		if at >= mib && at%btrfsNode == 0 && bytes.Equal(b[0x20:0x30], fsid) {
			nodes = append(nodes, at)
		}
	}
	slices.Sort(nodes)
	return disk, nodes
}

// sealBtrfs gives the superblock and the nodes the checksums they need.
func sealBtrfs(d *sparseDisk, nodes []int64) {
	for i, at := range append([]int64{btrfsSuper}, nodes...) {
		b := make([]byte, btrfsNode)
		if i == 0 {
			b = b[:4096]
		}
		_, _ = d.ReadAt(b, at) // it has them all
		sum := crc32.Checksum(b[32:], crc32.MakeTable(crc32.Castagnoli))
		binary.LittleEndian.PutUint32(d.at(at), sum)
	}
}

func TestBtrfsThatIsNotCleanCountsAsUsedWhole(t *testing.T) {
	made, nodes := smallBtrfs(t)
	le := binary.LittleEndian
	put := func(at int64, v uint64) func(*sparseDisk) {
		return func(d *sparseDisk) { le.PutUint64(d.at(btrfsSuper+at), v) }
	}
	extentItem := func(change func(item []byte)) func(*sparseDisk) { // the first one, wherever it lies
		return func(d *sparseDisk) {
			for _, at := range nodes {
				if le.Uint64(d.at(at+0x58)) == 2 {
					change(d.at(at + btrfsHeader))
				}
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*sparseDisk)
		open   bool // the checksums are not put right
		state  State
		why    string
	}{
		{"as it was made", func(*sparseDisk) {}, false, Clean, ""},
		{"a log", put(0x60, 1<<20), false, Dirty, "its log has to be replayed"},
		{"failed", put(0x38, 5), false, Dirty, "errors were met on it"},
		{"zoned", put(0xbc, 0x1000), false, Unknown, "it uses features that are not known"},
		{"of a newer kernel", put(0xb4, 1<<40), false, Unknown, "it uses features that are not known"},
		{"a seed", put(0x38, 1<<32), false, Unknown, "it uses features that are not known"},
		{"two devices", put(0x88, 2), false, Unknown, "it spans more than one device"},
		{"longer than where it lies", put(0xd1, btrfsSize+1), false, Unknown, "it is longer than where it lies"},
		{"of endless length", put(0xd1, 1<<63), false, Unknown, "it is longer than where it lies"},
		{"large sectors", put(0x90, 1<<20), false, Unknown, "its superblock contradicts itself"},
		{"other sums", func(d *sparseDisk) { d.at(btrfsSuper + 0xc4)[0] = 3 }, false, Unknown, "its kind of checksum is not known"},
		{"a damaged superblock", put(0x78, 1), true, Unknown, "the checksum of its superblock is wrong"},
		{"other counts", put(0x78, 1), false, Dirty, "its extents and its superblock contradict each other"},
		{"no chunks", put(0x58, 1<<50), false, Dirty, "a tree leads to 1125899906842624, where nothing is"},
		{"an older commit", put(0x48, 1), false, Dirty, "its node at"},
		{"a damaged node", extentItem(func(b []byte) { b[200]++ }), true, Dirty, "its node at"},
		{"an extent elsewhere", extentItem(func(b []byte) { b[8] = 168; le.PutUint64(b, 1) }), false, Dirty, "its extent of"},
		{"a chunk on another device", func(d *sparseDisk) { d.at(btrfsSuper + 0x32b + 17 + 48)[0]++ }, false, Dirty, "lies outside of it"},
		{"a raid", func(d *sparseDisk) { d.at(btrfsSuper + 0x32b + 17 + 24)[0] |= 0x10 }, false, Dirty, "of a kind that one device does not have"},
		{"a cut list of chunks", func(d *sparseDisk) { d.at(btrfsSuper + 0xa0)[0]-- }, false, Dirty, "of a kind that one device does not have"},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := made.clone()
			c.change(disk)
			if !c.open {
				sealBtrfs(disk, nodes)
			}
			fs, err := openBtrfs(disk, btrfsSize)
			if err != nil {
				t.Fatal(err)
			}
			info := fs.info()
			if info.State != c.state || !strings.Contains(info.Why, c.why) {
				t.Errorf("%v because %q, want %v because %q", info.State, info.Why, c.state, c.why)
			}
			free := btrfsSize - mapOf(t, fs, btrfsSize).Bytes()
			if (c.state == Clean) != (free > 0) {
				t.Errorf("%d bytes are free", free)
			}
		})
	}
}

// A disk that passes by is known by name, and kept.
func TestBtrfsThatPassesByCountsAsUsedWhole(t *testing.T) {
	disk, _ := smallBtrfs(t)
	fs, err := openBtrfs(&passing{disk, 0}, disk.size)
	if err != nil {
		t.Fatal(err)
	}
	if info := fs.info(); info.State != Unknown || info.Why != "it cannot be understood while it passes by" {
		t.Errorf("%+v", info)
	}
}

// passing is a reader that has only what has not been read.
type passing struct {
	io.ReaderAt
	at int64
}

func (p *passing) ReadAt(b []byte, off int64) (int, error) {
	if off < p.at && off > headSize {
		return 0, errGone
	}
	p.at = off + int64(len(b))
	return p.ReaderAt.ReadAt(b, off)
}

func TestWhatIsNoBtrfsIsLeftToOthers(t *testing.T) {
	for _, data := range [][]byte{nil, make([]byte, 100), make([]byte, 70_000)} {
		if _, err := openBtrfs(bytes.NewReader(data), int64(len(data))); !errors.Is(err, errNotMine) {
			t.Errorf("%d zeros: %v", len(data), err)
		}
	}
}

// Each four bytes of the input change one byte of the superblock or of a node, which
// then gets the checksum it needs.
func FuzzBtrfs(f *testing.F) {
	made, nodes := smallBtrfs(f)
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0x60, 1, 2, 0, 0x64, 1})
	places := append([]int64{btrfsSuper}, nodes...)
	f.Fuzz(func(t *testing.T, changes []byte) {
		disk := made.clone()
		for ; len(changes) >= 4; changes = changes[4:] {
			at := places[int(changes[0])%len(places)]
			disk.at(at + int64(binary.BigEndian.Uint16(changes[1:]))%btrfsNode)[0] = changes[3]
		}
		sealBtrfs(disk, nodes)
		fs, err := openBtrfs(disk, btrfsSize)
		if err != nil {
			if !errors.Is(err, errNotMine) && !isContent(err) {
				t.Fatal(err)
			}
			return
		}
		mapOf(t, fs, btrfsSize)
	})
}
