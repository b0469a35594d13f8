package volume

import (
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"testing"

	"multidd/internal/volume/volumetest"
)

func TestBtrfsMapIsSound(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"as it comes", nil},
		{"data and metadata together, once", []string{"-M"}},
		{"other sums, nothing new", []string{"--csum", "sha256", "-n", "4096", "-m", "single", "-O", "^skinny-metadata,^no-holes", "-R", "^free-space-tree"}},
	} {
		t.Run(c.name, func(t *testing.T) {
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

// smallBtrfs returns a btrfs as mkfs.btrfs 6.2 leaves it, and where its nodes lie.
func smallBtrfs(tb testing.TB) (data []byte, nodes []int) {
	tb.Helper()
	f, err := os.Open("testdata/btrfs-empty.img.bz2")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if data, err = io.ReadAll(bzip2.NewReader(f)); err != nil {
		tb.Fatal(err)
	}
	fsid := data[btrfsSuper+0x20 : btrfsSuper+0x30]
	for at := 1 << 20; at+16<<10 <= len(data); at += 16 << 10 {
		if bytes.Equal(data[at+0x20:at+0x30], fsid) {
			nodes = append(nodes, at)
		}
	}
	return data, nodes
}

// sealBtrfs gives the superblock and the nodes the checksums they need.
func sealBtrfs(data []byte, nodes []int) {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	sum := func(b []byte) { binary.LittleEndian.PutUint32(b, crc32.Checksum(b[32:], castagnoli)) }
	sum(data[btrfsSuper : btrfsSuper+4096])
	for _, at := range nodes {
		sum(data[at : at+16<<10])
	}
}

func TestBtrfsThatIsNotCleanCountsAsUsedWhole(t *testing.T) {
	made, nodes := smallBtrfs(t)
	le := binary.LittleEndian
	put := func(at int, v uint64) func([]byte) {
		return func(b []byte) { le.PutUint64(b[btrfsSuper+at:], v) }
	}
	extentItem := func(change func(item []byte)) func([]byte) { // the first one, wherever it lies
		return func(b []byte) {
			for _, at := range nodes {
				if le.Uint64(b[at+0x58:]) == 2 {
					change(b[at+btrfsHeader:])
				}
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func([]byte)
		open   bool // the checksums are not put right
		state  State
		why    string
	}{
		{"as it was made", func([]byte) {}, false, Clean, ""},
		{"a log", put(0x60, 1<<20), false, Dirty, "its log has to be replayed"},
		{"failed", put(0x38, 5), false, Dirty, "errors were met on it"},
		{"zoned", put(0xbc, 0x1000), false, Unknown, "it uses features that are not known"},
		{"of a newer kernel", put(0xb4, 1<<40), false, Unknown, "it uses features that are not known"},
		{"a seed", put(0x38, 1<<32), false, Unknown, "it uses features that are not known"},
		{"two devices", put(0x88, 2), false, Unknown, "it spans more than one device"},
		{"longer than where it lies", put(0xd1, btrfsSize+1), false, Unknown, "it is longer than where it lies"},
		{"of endless length", put(0xd1, 1<<63), false, Unknown, "it is longer than where it lies"},
		{"large sectors", put(0x90, 1<<20), false, Unknown, "its superblock contradicts itself"},
		{"other sums", func(b []byte) { b[btrfsSuper+0xc4] = 3 }, false, Unknown, "its kind of checksum is not known"},
		{"a damaged superblock", put(0x78, 1), true, Unknown, "the checksum of its superblock is wrong"},
		{"other counts", put(0x78, 1), false, Dirty, "its extents and its superblock contradict each other"},
		{"no chunks", put(0x58, 1<<50), false, Dirty, "a tree leads to 1125899906842624, where nothing is"},
		{"an older commit", put(0x48, 1), false, Dirty, "its node at"},
		{"a damaged node", extentItem(func(b []byte) { b[200]++ }), true, Dirty, "its node at"},
		{"an extent elsewhere", extentItem(func(b []byte) { b[8] = 168; le.PutUint64(b, 1) }), false, Dirty, "its extent of"},
		{"a chunk on another device", func(b []byte) { b[btrfsSuper+0x32b+17+48]++ }, false, Dirty, "lies outside of it"},
		{"a raid", func(b []byte) { b[btrfsSuper+0x32b+17+24] |= 0x10 }, false, Dirty, "of a kind that one device does not have"},
		{"a cut list of chunks", func(b []byte) { b[btrfsSuper+0xa0]-- }, false, Dirty, "of a kind that one device does not have"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := bytes.Clone(made)
			c.change(data)
			if !c.open {
				sealBtrfs(data, nodes)
			}
			r := &sparseHead{data, btrfsSize}
			fs, err := openBtrfs(r, btrfsSize)
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
	data, _ := smallBtrfs(t)
	fs, err := openBtrfs(&passing{Reader: *bytes.NewReader(data)}, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if info := fs.info(); info.State != Unknown || info.Why != "it cannot be understood while it passes by" {
		t.Errorf("%+v", info)
	}
}

// passing is a reader that has only what has not been read.
type passing struct {
	bytes.Reader
	at int64
}

func (p *passing) ReadAt(b []byte, off int64) (int, error) {
	if off < p.at && off > headSize {
		return 0, errGone
	}
	p.at = off + int64(len(b))
	return p.Reader.ReadAt(b, off)
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
	places := append([]int{btrfsSuper}, nodes...)
	f.Fuzz(func(t *testing.T, changes []byte) {
		r := &replaced{sparseHead{made, btrfsSize}, map[int64][]byte{}}
		for _, at := range places {
			r.with[int64(at)] = bytes.Clone(made[at : at+16<<10])
		}
		for ; len(changes) >= 4; changes = changes[4:] {
			at := places[int(changes[0])%len(places)]
			r.with[int64(at)][int(binary.BigEndian.Uint16(changes[1:]))%(16<<10)] = changes[3]
		}
		for at, b := range r.with {
			if at == btrfsSuper {
				b = b[:4096]
			}
			binary.LittleEndian.PutUint32(b, crc32.Checksum(b[32:], crc32.MakeTable(crc32.Castagnoli)))
		}
		fs, err := openBtrfs(r, btrfsSize)
		if err != nil {
			if !errors.Is(err, errNotMine) && !isContent(err) {
				t.Fatal(err)
			}
			return
		}
		mapOf(t, fs, btrfsSize)
	})
}

// replaced is a medium with other bytes in some places, which are read as they are or not
// at all.
type replaced struct {
	sparseHead
	with map[int64][]byte
}

func (r *replaced) ReadAt(p []byte, off int64) (int, error) {
	if b := r.with[off]; len(p) <= len(b) {
		return copy(p, b), nil
	}
	return r.sparseHead.ReadAt(p, off)
}
