package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"multidd/internal/volume/volumetest"
)

func makeExFAT(t *testing.T, size int64, empty bool, args ...string) volumetest.Image {
	t.Helper()
	return volumetest.Make(t, volumetest.Spec{Seed: 9, Parts: []volumetest.Part{{Kind: "exfat", Size: size, Args: args, Empty: empty}}})
}

var dumpExFATCounts = regexp.MustCompile(`Total Clusters:\s+(\d+)\s+Free Clusters:\s+(\d+)`)

func TestExFATMapIsSound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		size int64
		args []string
	}{
		{"as it comes", 24 * mib, nil},
		{"small clusters", 16 * mib, []string{"-c", "512"}},
		{"large clusters", 64 * mib, []string{"-c", "128K"}},
		{"bitmap beside the table", 24 * mib, []string{"--pack-bitmap"}},
		{"aligned to 64K", 24 * mib, []string{"-b", "64K"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			im := makeExFAT(t, c.size, false, c.args...)
			fs := openAt(t, openExFAT, im, 0).(*clusters)
			info := fs.info()
			if info.Kind != "exfat" || info.State != Clean {
				t.Fatalf("%+v", info)
			}
			if info.UUID != blkid(t, im.Path, "UUID") || info.Label != "Ünicode" {
				t.Errorf("the label is %q, the UUID %q", info.Label, info.UUID)
			}
			used := int64(0)
			for from, to := range fs.inUse.runs(fs.n) {
				used += to - from
			}
			out, err := exec.Command("dump.exfat", im.Path).CombinedOutput()
			if err != nil {
				t.Fatalf("dump.exfat: %v\n%s", err, out)
			}
			if got := dumpExFATCounts.FindStringSubmatch(string(out)); got == nil || got[1] != fmt.Sprint(fs.n) || got[2] != fmt.Sprint(fs.n-used) {
				t.Errorf("dump.exfat says %q, and here are %d clusters, %d of them free", got, fs.n, fs.n-used)
			}
			m := mapOf(t, fs, im.Size)
			proveMap(t, im, m)
		})
	}
}

func TestExFATThatIsNotCleanCountsAsUsedWhole(t *testing.T) {
	im := makeExFAT(t, 16*mib, true)
	data, err := os.ReadFile(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	sector := int64(1) << data[108]
	heap, root := int64(le.Uint32(data[88:]))*sector, int64(le.Uint32(data[96:]))
	rootAt := heap + (root-2)<<data[109]*sector
	fat := int64(le.Uint32(data[80:])) * sector
	for _, c := range []struct {
		name    string
		changes map[int64]byte
		state   State
		why     string
	}{
		{"clean", nil, Clean, ""},
		{"mounted", map[int64]byte{106: 2}, Dirty, "it was not cleanly unmounted"},
		{"failing", map[int64]byte{106: 4}, Dirty, "errors were met on it"},
		{"boot sectors", map[int64]byte{3 * sector: 1}, Unknown, "the checksum of its boot sectors is wrong"},
		{"version", map[int64]byte{105: 2}, Unknown, "its version 2.0 is not known"},
		{"sectors", map[int64]byte{108: 60}, Unknown, "its sectors or clusters have a size that cannot be"},
		{"clusters", map[int64]byte{109: 200}, Unknown, "its sectors or clusters have a size that cannot be"},
		{"length", map[int64]byte{79: 1}, Unknown, "it is longer than where it lies"},
		{"second table", map[int64]byte{106: 1}, Unknown, "its boot sector contradicts itself"},
		{"root directory", map[int64]byte{99: 1}, Unknown, "its boot sector contradicts itself"},
		{"no bitmap", map[int64]byte{rootAt + 32: 1}, Unknown, "it has 0 bitmaps of what is in use, not 1"},
		{"two bitmaps", map[int64]byte{rootAt + 64: 0x81}, Unknown, "it has 2 bitmaps of what is in use, not 1"},
		{"length of the bitmap", map[int64]byte{rootAt + 32 + 24: 1}, Unknown, "the bitmap of what is in use does not lie in one piece"},
		{"place of the bitmap", map[int64]byte{rootAt + 32 + 23: 1}, Unknown, "the bitmap of what is in use does not lie in one piece"},
		{"root directory in a ring", map[int64]byte{fat + 4*root: byte(root), fat + 4*root + 1: 0, fat + 4*root + 2: 0, fat + 4*root + 3: 0}, Clean, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, err := openExFAT(flip(t, im, c.changes), im.Size)
			if err != nil {
				t.Fatal(err)
			}
			info := fs.info()
			if info.State != c.state || info.Why != c.why {
				t.Errorf("%v because %q, want %v because %q", info.State, info.Why, c.state, c.why)
			}
			free := im.Size - mapOf(t, fs, im.Size).Bytes()
			if (c.state == Clean) != (free > 0) {
				t.Errorf("%d bytes are free", free)
			}
		})
	}
}

// A bitmap of many clusters must lie in one piece, since that is how systems read it.
func TestExFATBitmapInPieces(t *testing.T) {
	im := makeExFAT(t, 64*mib, true, "-c", "512", "-b", "64K")
	fs := openAt(t, openExFAT, im, 0)
	if info := fs.info(); info.State != Clean {
		t.Fatalf("%+v", info)
	}
	data, err := os.ReadFile(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	fat := int64(binary.LittleEndian.Uint32(data[80:])) << data[108]
	bad, err := openExFAT(flip(t, im, map[int64]byte{fat + 4*10: 77}), im.Size)
	if err != nil || bad.info().State != Unknown {
		t.Errorf("%v, %+v", err, bad.info())
	}
}

func TestExFATIsReadInOrder(t *testing.T) {
	im := makeExFAT(t, 64*mib, true, "-c", "512")
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := openExFAT(&inOrder{ReaderAt: f, t: t}, im.Size); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoExFATIsLeftToOthers(t *testing.T) {
	for _, data := range [][]byte{nil, make([]byte, 100), make([]byte, 4096)} {
		r := &sparseHead{data, int64(len(data))}
		if _, err := openExFAT(r, r.size); !errors.Is(err, errNotMine) {
			t.Errorf("%d zeros: %v", len(data), err)
		}
	}
}

func FuzzExFAT(f *testing.F) {
	f.Add(makeSmall(f, 4*mib, 200<<10, "mkfs.exfat", "-L", "label", "-b", "16K"), int64(4*mib))
	fuzzOpener(f, openExFAT)
}
