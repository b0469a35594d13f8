package volume

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"multidd/internal/volume/volumetest"
)

const mib = 1 << 20

// makeFAT makes an image of one FAT.
func makeFAT(t *testing.T, kind string, size int64, empty bool, args ...string) volumetest.Image {
	t.Helper()
	return volumetest.Make(t, volumetest.Spec{Seed: 7, Parts: []volumetest.Part{{Kind: kind, Size: size, Args: args, Empty: empty}}})
}

func TestFATMapIsSound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, kind string
		size       int64
		args       []string
	}{
		{"fat12", "fat12", 8 * mib, nil},
		{"fat12 of 512-byte clusters", "fat12", 2 * mib, []string{"-s", "1"}},
		{"fat16", "fat16", 24 * mib, nil},
		{"fat16 not aligned", "fat16", 16 * mib, []string{"-a", "-R", "3", "-r", "208", "-s", "2"}},
		{"fat16 of 1024-byte sectors", "fat16", 24 * mib, []string{"-S", "1024"}},
		{"fat16, one table", "fat16", 16 * mib, []string{"-f", "1"}},
		{"fat32", "fat32", 40 * mib, []string{"-s", "1"}},
		{"fat32 not aligned", "fat32", 40 * mib, []string{"-s", "1", "-a", "-R", "77"}},
		{"fat16 of 4096-byte sectors", "fat16", 24 * mib, []string{"-S", "4096", "-s", "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			im := makeFAT(t, c.kind, c.size, false, c.args...)
			fs := openAt(t, openFAT, im, 0)
			info := fs.info()
			if info.Kind != c.kind || info.State != Clean {
				t.Fatalf("%+v", info)
			}
			if info.UUID != blkid(t, im.Path, "UUID") || info.Label != "BOOT" {
				t.Errorf("the label is %q, the UUID %q", info.Label, info.UUID)
			}
			m := mapOf(t, fs, im.Size)
			agreeWithFsckFAT(t, im, fs.(*clusters))
			proveMap(t, im, m)
		})
	}
}

var fsckFATCounts = regexp.MustCompile(`(\d+)/(\d+) clusters`)

// agreeWithFsckFAT compares the number of clusters in use. What fsck.fat does not
// count is the root directory of FAT32, which it does in some versions.
func agreeWithFsckFAT(t *testing.T, im volumetest.Image, c *clusters) {
	t.Helper()
	out, err := exec.Command("fsck.fat", "-n", "-v", im.Path).CombinedOutput()
	if err != nil {
		t.Fatalf("fsck.fat: %v\n%s", err, out)
	}
	used := int64(0)
	for from, to := range c.inUse.runs(c.n) {
		used += to - from
	}
	want := fmt.Sprintf("%d/%d clusters", used, c.n)
	if got := fsckFATCounts.FindString(string(out)); got != want {
		t.Errorf("fsck.fat says %s, not %s", got, want)
	}
}

// Every cluster that mtools says belongs to a file is used.
func TestFATMapHoldsWhatMshowfatShows(t *testing.T) {
	t.Parallel()
	im := makeFAT(t, "fat16", 16*mib, false)
	fs := openAt(t, openFAT, im, 0).(*clusters)
	out, err := exec.Command("mshowfat", "-i", im.Path, "::/etc/*").CombinedOutput()
	if err != nil {
		t.Fatalf("mshowfat: %v\n%s", err, out)
	}
	seen := 0
	for _, m := range regexp.MustCompile(`<(\d+)(?:-(\d+))?>`).FindAllStringSubmatch(string(out), -1) {
		var from, to int64
		_, _ = fmt.Sscan(m[1], &from)
		if to = from; m[2] != "" {
			_, _ = fmt.Sscan(m[2], &to)
		}
		for i := from; i <= to; i++ {
			seen++
			if fs.inUse.next(i-2, fs.n, true) != i-2 {
				t.Fatalf("cluster %d of %s is free", i, m[0])
			}
		}
	}
	if seen < 20 {
		t.Errorf("%d clusters are shown:\n%s", seen, out)
	}
}

func TestFATThatIsNotCleanCountsAsUsedWhole(t *testing.T) {
	fat12 := makeFAT(t, "fat12", 4*mib, true)
	fat16 := makeFAT(t, "fat16", 16*mib, true)
	fat32 := makeFAT(t, "fat32", 40*mib, true, "-s", "1")
	const reserved16, reserved32 = 4 * 512, 32 * 512 // as mkfs.fat lays them out
	for _, c := range []struct {
		name    string
		im      volumetest.Image
		changes map[int64]byte
		state   State
		why     string
	}{
		{"fat12", fat12, nil, Clean, ""},
		{"fat16", fat16, nil, Clean, ""},
		{"fat32", fat32, nil, Clean, ""},
		{"dirty byte of fat12", fat12, map[int64]byte{0x25: 1}, Dirty, "it was not cleanly unmounted"},
		{"dirty byte of fat16", fat16, map[int64]byte{0x25: 1}, Dirty, "it was not cleanly unmounted"},
		{"dirty byte of fat32", fat32, map[int64]byte{0x41: 1}, Dirty, "it was not cleanly unmounted"},
		{"surface to be tested", fat32, map[int64]byte{0x41: 2}, Dirty, "errors were met on it"},
		{"shutdown bit of fat16", fat16, map[int64]byte{reserved16 + 3: 0x7f}, Dirty, "it was not cleanly unmounted"},
		{"error bit of fat16", fat16, map[int64]byte{reserved16 + 3: 0xbf}, Dirty, "errors were met on it"},
		{"shutdown bit of fat32", fat32, map[int64]byte{reserved32 + 7: 0x07}, Dirty, "it was not cleanly unmounted"},
		{"error bit of fat32", fat32, map[int64]byte{reserved32 + 7: 0x0b}, Dirty, "errors were met on it"},
		{"tables that differ", fat16, map[int64]byte{reserved16 + 100: 20}, Dirty, "the copies of its file allocation table differ"},
		{"a link to nowhere", fat16, map[int64]byte{reserved16 + 100: 0xf0, reserved16 + 101: 0xff}, Dirty, "its file allocation table is damaged"},
		{"another medium", fat16, map[int64]byte{reserved16: 0xf0}, Unknown, "its file allocation table does not begin as one does"},
		{"a version of fat32", fat32, map[int64]byte{42: 7, 43: 1}, Unknown, "its version 1.7 is not known"},
		{"longer than where it lies", fat32, map[int64]byte{35: 1}, Unknown, "it is longer than where it lies"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, err := openFAT(flip(t, c.im, c.changes), c.im.Size)
			if err != nil {
				t.Fatal(err)
			}
			info := fs.info()
			if info.State != c.state || info.Why != c.why {
				t.Errorf("%v because %q, want %v because %q", info.State, info.Why, c.state, c.why)
			}
			free := c.im.Size - mapOf(t, fs, c.im.Size).Bytes()
			if (c.state == Clean) != (free > 0) {
				t.Errorf("%d bytes are free", free)
			}
		})
	}
}

// A cluster that a file leads to is kept though the table calls it free, as after a
// system that wrote half of a table.
func TestFATKeepsWhatAFileLeadsTo(t *testing.T) {
	im := makeFAT(t, "fat16", 16*mib, true)
	const second = 100
	boot, err := bytesAt(flip(t, im, nil), 0, 512)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := parseFAT(boot)
	r := flip(t, im, map[int64]byte{f.start + 2*second: 200, f.start + f.table + 2*second: 200})
	fs, err := openFAT(r, im.Size)
	if err != nil || fs.info().State != Clean {
		t.Fatalf("%v, %+v", err, fs)
	}
	c := fs.(*clusters)
	for _, i := range []int64{second, 200} {
		if c.inUse.next(i-2, c.n, true) != i-2 {
			t.Errorf("cluster %d is free", i)
		}
	}
	if c.inUse.next(150-2, c.n, false) != 150-2 {
		t.Error("so is one that nobody leads to")
	}
}

func TestFATIsReadInOrder(t *testing.T) {
	for _, kind := range []string{"fat12", "fat16", "fat32"} {
		im := makeFAT(t, kind, 16*mib, true)
		f, err := os.Open(im.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := openFAT(&inOrder{ReaderAt: f, t: t}, im.Size); err != nil {
			t.Error(err)
		}
	}
}

// The border between the kinds is where Microsoft's paper draws it.
func TestFATKindByNumberOfClusters(t *testing.T) {
	for _, c := range []struct {
		clusters int64
		want     string
	}{{4084, "fat12"}, {4085, "fat16"}, {65524, "fat16"}, {65525, ""}} {
		b := make([]byte, 512)
		copy(b, "\xeb\x3c\x90")
		b[11+1] = 2              // sectors of 512 bytes
		b[13], b[14] = 1, 1      // a cluster of 1, 1 reserved
		b[16], b[17+1] = 2, 2    // 2 tables, 512 entries in the root directory
		b[21], b[22+1] = 0xf8, 1 // 256 sectors a table
		total := uint32(1 + 2*256 + 32 + c.clusters)
		b[32], b[33], b[34] = byte(total), byte(total>>8), byte(total>>16)
		b[510], b[511] = 0x55, 0xaa
		f, ok := parseFAT(b)
		if !ok || f.n != c.clusters || f.kind != c.want {
			t.Errorf("%d clusters: %+v", c.clusters, f)
		}
	}
}

// Many boot partitions are FAT32 though they have too few clusters for it. Linux and
// fsck.fat take them for what they are laid out as.
func TestFAT32OfFewClusters(t *testing.T) {
	im := makeFAT(t, "fat32", 16*mib, true)
	fs := openAt(t, openFAT, im, 0).(*clusters)
	if info := fs.info(); info.Kind != "fat32" || info.State != Clean || fs.n >= 65525 {
		t.Errorf("%+v of %d clusters", info, fs.n)
	}
	agreeWithFsckFAT(t, im, fs)
}

func TestFATLabelOfTheRootDirectoryGoesFirst(t *testing.T) {
	t.Parallel()
	im := makeFAT(t, "fat32", 40*mib, false, "-s", "1")
	if out, err := exec.Command("mlabel", "-i", im.Path, "::NEW NAME").CombinedOutput(); err != nil {
		t.Fatalf("mlabel: %v\n%s", err, out)
	}
	if got := openAt(t, openFAT, im, 0).info().Label; got != "NEW NAME" {
		t.Errorf("%q", got)
	}
}

func TestWhatIsNoFATIsLeftToOthers(t *testing.T) {
	for _, data := range [][]byte{nil, make([]byte, 100), make([]byte, 4096)} {
		r := &sparseHead{data, int64(len(data))}
		if _, err := openFAT(r, r.size); !errors.Is(err, errNotMine) {
			t.Errorf("%d zeros: %v", len(data), err)
		}
	}
}

func FuzzFAT(f *testing.F) {
	for _, args := range [][]string{{"-F", "12"}, {"-F", "16", "-s", "1"}, {"-F", "32", "-s", "1"}} {
		f.Add(makeSmall(f, 4*mib, 64<<10, "mkfs.fat", append(args, "-n", "LABEL")...), int64(4*mib))
	}
	fuzzOpener(f, openFAT)
}
