package device

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestADoubtIsARefusal(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(f *fixture)
		want  string
	}{
		{"mounts unknown", func(f *fixture) { os.Remove(f.proc("self/mountinfo")) }, ReasonUnknown},
		{"mounts unreadable", func(f *fixture) {
			os.Remove(f.proc("self/mountinfo"))
			f.check(os.Mkdir(f.proc("self/mountinfo"), 0o755))
		}, ReasonUnknown},
		{"swap unreadable", func(f *fixture) {
			os.Remove(f.proc("swaps"))
			f.check(os.Mkdir(f.proc("swaps"), 0o755))
		}, ReasonUnknown},
		{"no sysfs", func(f *fixture) { os.RemoveAll(f.sys("dev")) }, ReasonUnknown},
		{"slaves unreadable", func(f *fixture) {
			f.virtual("md0", "9:0", gib)
			dir := f.sys("class/block/md0/slaves")
			os.Remove(dir)
			f.write(dir, "")
		}, ReasonUnknown},
		{"a holder of which nothing is known", func(f *fixture) { f.check(os.Symlink("x", f.sys("class/block/sdb/holders/strange0"))) }, ReasonBusy},
		{"holders unreadable", func(f *fixture) {
			dir := f.sys("class/block/sdb/holders")
			os.Remove(dir)
			f.write(dir, "")
		}, ReasonUnknown},
		{"the disk is gone", func(f *fixture) { f.unplug("sdb") }, ReasonNoSuchDevice},
		{"the name is another's", func(f *fixture) { f.check(os.Rename(f.sys("dev/block/8:16"), f.sys("dev/block/8:32"))) }, ReasonNoSuchDevice},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			usbCard(f)
			d := f.get("sdb")
			if r := f.Judge(d, Policy{}); len(r) > 0 {
				t.Fatalf("refused before anything is wrong: %v", r)
			}
			c.spoil(f)
			if got := reasons(f.Judge(d, Policy{})); !slices.Equal(got, []string{c.want}) {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
	t.Run("a kernel without swap is no doubt", func(t *testing.T) {
		f := newFixture(t)
		usbCard(f)
		os.Remove(f.proc("swaps"))
		if r := f.Judge(f.get("sdb"), Policy{}); len(r) > 0 {
			t.Error(r)
		}
	})
}

func TestTheImageIsNotOverwritten(t *testing.T) {
	// A real file, on a file system that the made-up computer has elsewhere.
	image := filepath.Join(t.TempDir(), "x.img")
	if err := os.WriteFile(image, []byte("image"), 0o644); err != nil {
		t.Fatal(err)
	}
	var s System
	real, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	p := real.locate(image)
	dev := p.file.dev.String()
	policy := Policy{Images: []string{image}, Named: true}
	plain := func(f *fixture, bad bool, cardDev, cardPart string) {
		f.usbDisk("sdb", cardDev, "1-2", 6, 0, card)
		f.part("sdb1", cardPart, 1<<20, gib)
		f.usbDisk("sdc", "8:240", "1-3", 7, 0, card)
	}
	for _, c := range []guardCase{
		{"on a partition", "sdb", ReasonSourceOnTarget, "copy it", policy, func(f *fixture, bad bool) {
			plain(f, bad, "8:16", map[bool]string{true: dev, false: "8:17"}[bad])
		}},
		{"on LVM", "sdb", ReasonSourceOnTarget, "copy it", policy, func(f *fixture, bad bool) {
			plain(f, bad, "8:16", "8:17")
			f.virtual("dm-0", dev, gib, map[bool]string{true: "sdb1", false: "sdc"}[bad])
		}},
		{"in a file on the disk, mounted through a loop device", "sdb", ReasonSourceOnTarget, "copy it", policy, func(f *fixture, bad bool) {
			plain(f, bad, "8:16", "8:17")
			f.loop("loop0", dev, gib, map[bool]string{true: "/dev/sdb1", false: "/dev/sdc"}[bad])
		}},
		{"in a file on the disk, twice removed", "sdb", ReasonSourceOnTarget, "copy it", policy, func(f *fixture, bad bool) {
			plain(f, bad, "8:16", "8:17")
			f.loop("loop1", "7:1", gib, map[bool]string{true: "/dev/sdb1", false: "/dev/sdc"}[bad])
			f.virtual("dm-0", dev, gib, "loop1")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			c.build(f, true)
			got := f.Judge(f.get(c.disk), c.policy)
			if !slices.ContainsFunc(got, func(r Refusal) bool { return r.Reason == c.reason && strings.Contains(r.Text, c.says) }) {
				t.Errorf("got %v, want %s", got, c.reason)
			}
			f = newFixture(t)
			c.build(f, false)
			if got := f.Judge(f.get(c.disk), c.policy); len(got) > 0 {
				t.Errorf("still refused without what is wrong: %v", got)
			}
		})
	}
}

func TestAnImageThatIsNowhereIsADoubt(t *testing.T) {
	f := newFixture(t)
	usbCard(f)
	if got := reasons(f.Judge(f.get("sdb"), Policy{Images: []string{"/no/such/image"}})); !slices.Equal(got, []string{ReasonUnknown}) {
		t.Errorf("got %v", got)
	}
}

func TestTheSameDiskTwiceIsRefused(t *testing.T) {
	f := newFixture(t)
	f.usbDisk("sdb", "8:16", "1-2", 6, 0, card)
	f.usbDisk("sdc", "8:32", "1-3", 7, 0, card)
	b, c := f.get("sdb"), f.get("sdc")
	if r := SameDevice([]Disk{b, c}); len(r) > 0 {
		t.Errorf("two disks are the same: %v", r)
	}
	r := SameDevice([]Disk{b, c, b})
	if len(r) != 1 || r[0].Reason != ReasonSameDevice || !strings.Contains(r[0].Text, "1-2") {
		t.Errorf("got %v", r)
	}
	x, y, z := fileDisk("x", "/srv/x"), fileDisk("y", "/srv/y"), fileDisk("./x", "/srv/x")
	if r := SameDevice([]Disk{x, y, b}); len(r) > 0 {
		t.Errorf("two files are the same: %v", r)
	}
	if r := SameDevice([]Disk{x, y, z}); len(r) != 1 {
		t.Errorf("a new file twice: %v", r)
	}
	x.file, y.file = fileID{devno{8, 1}, 5}, fileID{devno{8, 1}, 5}
	if r := SameDevice([]Disk{x, y}); len(r) != 1 {
		t.Errorf("a file with two names: %v", r)
	}
	l := Disk{Name: "loop0", Path: "/dev/loop0", Slot: "loop0", Major: 7, Bus: BusLoop, file: x.file}
	if r := SameDevice([]Disk{x, l}); len(r) != 1 {
		t.Errorf("a file and a loop device over it: %v", r)
	}
}

func TestAnImageThatDoesNotFitIsRefused(t *testing.T) {
	for _, c := range []struct {
		size, end int64
		fits      bool
	}{
		{1 << 30, 1 << 30, true}, {1 << 30, 1<<30 + 1, false}, {1<<30 - 512, 1 << 30, false}, {-1, 1 << 60, true}, {0, 0, true}, {0, 1, false},
	} {
		err := Disk{Path: "/dev/sdb", Size: c.size}.Fits(c.end)
		if (err == nil) != c.fits {
			t.Errorf("a disk of %d bytes, an image of %d: %v", c.size, c.end, err)
		}
		if err != nil && reasonOf(err) != ReasonTooSmall {
			t.Errorf("reason %q", reasonOf(err))
		}
	}
}

func TestTheSizeLimitIsTheUsers(t *testing.T) {
	f := newFixture(t)
	f.usbDisk("sdb", "8:16", "1-2", 6, 0, DefaultMaxSize)
	f.usbDisk("sdc", "8:32", "1-3", 7, 0, DefaultMaxSize+512)
	for _, c := range []struct {
		disk string
		max  int64
		want []string
	}{
		{"sdb", 0, nil}, {"sdc", 0, []string{ReasonTooBig}}, {"sdc", DefaultMaxSize + 512, nil}, {"sdb", gib, []string{ReasonTooBig}},
	} {
		if got := reasons(f.Judge(f.get(c.disk), Policy{MaxSize: c.max})); !slices.Equal(got, c.want) {
			t.Errorf("%s with limit %d: got %v, want %v", c.disk, c.max, got, c.want)
		}
	}
}

func TestAmountsAreForPeople(t *testing.T) {
	for _, c := range []struct {
		n    int64
		want string
	}{{0, "0 bytes"}, {512, "512 bytes"}, {999, "999 bytes"}, {1000, "1.0 kB"}, {999_949, "999.9 kB"}, {999_950, "1.0 MB"}, {31_914_983_424, "31.9 GB"}, {8e12, "8.0 TB"}} {
		if got := amount(c.n); got != c.want {
			t.Errorf("amount(%d) = %q, want %q", c.n, got, c.want)
		}
	}
}
