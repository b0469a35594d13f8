package device

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"multidd/internal/sample"
)

func TestProbeNamesWhatIsOnACard(t *testing.T) {
	for _, k := range []struct {
		fs, label string
		command   string // what makes it; FILE is the medium
	}{
		{"ext2", "scratch", "mke2fs -q -t ext2 -L scratch FILE"},
		{"ext3", "journal one", "mke2fs -q -t ext3 -L 'journal one' FILE"},
		{"ext4", "", "mke2fs -q -t ext4 FILE"},
		{"ext4", "sixteen letters!", "mke2fs -q -t ext4 -b 4096 -L 'sixteen letters!' FILE"},
		{"vfat", "BOOT", "mkfs.vfat -F 16 -n BOOT FILE"},
		{"vfat", "bootfs", "mkfs.vfat -F 32 -n bootfs FILE"},
		{"vfat", "", "mkfs.vfat -F 12 FILE"},
		{"swap", "swappy", "mkswap -q -L swappy FILE"},
		{"LUKS", "", "echo secret | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 FILE"},
		{"LUKS", "crypt", "echo secret | cryptsetup -q luksFormat --type luks2 --label crypt --pbkdf pbkdf2 --pbkdf-force-iterations 1000 FILE"},
		{"btrfs", "pool", "mkfs.btrfs -q -L pool FILE"},
		{"f2fs", "flash", "mkfs.f2fs -q -l flash FILE"},
		{"exfat", "CAMERA", "mkfs.exfat -L CAMERA FILE"},
		{"ntfs", "", "mkfs.ntfs -q -F -f FILE"},
		{"xfs", "big", "truncate -s 400M FILE && mkfs.xfs -q -L big FILE"},
		{"squashfs", "", "mksquashfs /etc/hostname FILE -noappend -quiet"},
		{"", "", "true"},
		{"", "", "head -c 65536 /dev/urandom | dd of=FILE conv=notrunc status=none"},
	} {
		t.Run(k.fs+" "+k.label, func(t *testing.T) {
			file := scratch(t, 128<<20)
			made(t, k.command, file)
			d := Disk{Path: file, Size: 128 << 20, Sector: 512}
			System{}.probe(&d)
			if d.FS != k.fs || d.Label != k.label || d.Table != "" {
				t.Errorf("got %q %q, table %q", d.FS, d.Label, d.Table)
			}
		})
	}
}

// made runs a shell command that makes a file system.
func made(t *testing.T, command, file string) {
	t.Helper()
	words := strings.Fields(command)
	for i, w := range words {
		if i > 0 && words[i-1] != "|" && words[i-1] != "&&" {
			continue
		}
		sample.Need(t, w)
	}
	run(t, "sh", "-c", strings.ReplaceAll(command, "FILE", file))
}

func TestProbeReadsTablesAndPartitions(t *testing.T) {
	for _, k := range []struct{ table, script, part string }{
		{"mbr", "label: dos\nstart=2048,size=32768,type=c\nstart=34816,type=83\n", "1"},
		{"gpt", "label: gpt\nstart=2048,size=32768\nstart=34816\n", "2"},
	} {
		file := scratch(t, 64<<20)
		cmd := exec.Command("sfdisk", "-q", file)
		cmd.Stdin = strings.NewReader(k.script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		made(t, "mkfs.vfat -F 16 -n BOOT FILE.p1 16384 -C && dd if=FILE.p1 of=FILE bs=1M seek=1 conv=notrunc status=none", file)
		made(t, "mke2fs -q -L root -E offset=17825792 FILE 40M", file)
		d := Disk{Path: file, Size: 64 << 20, Sector: 512, Parts: []Part{
			{Name: "p1", Off: 1 << 20, Size: 16 << 20}, {Name: "p2", Off: 17 << 20, Size: 46 << 20}, {Name: "beyond", Off: 1 << 30, Size: 1 << 20},
		}}
		System{}.probe(&d)
		if d.Table != k.table || d.FS != "" {
			t.Errorf("table %q, file system %q; want %s", d.Table, d.FS, k.table)
		}
		if p := d.Parts; p[0].FS != "vfat" || p[0].Label != "BOOT" || p[1].FS != "ext2" || p[1].Label != "root" || p[2].FS != "" {
			t.Errorf("%s: partitions %+v", k.table, p)
		}
	}
	// A table for sectors of 4096, on such a device.
	l := newLoop(t, 64<<20, "--sector-size", "4096")
	cmd := exec.Command("sfdisk", "-q", l.path)
	cmd.Stdin = strings.NewReader("label: gpt\nsize=1M\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	d := find(t, l.path)
	if (System{}).probe(&d); d.Table != "gpt" {
		t.Errorf("table %q on sectors of 4096", d.Table)
	}
}

func TestABootSectorIsNoTable(t *testing.T) {
	file := scratch(t, 1<<20)
	sector := make([]byte, 512)
	copy(sector[446:], "this is code, not a table")
	copy(sector[510:], "\x55\xaa")
	if err := os.WriteFile(file, sector, 0o644); err != nil {
		t.Fatal(err)
	}
	d := Disk{Path: file, Size: 512, Sector: 512}
	if (System{}).probe(&d); d.Table != "" {
		t.Errorf("table %q", d.Table)
	}
}

func TestProbeLeavesNoTraceInTheCache(t *testing.T) {
	l := newLoop(t, 16<<20)
	made(t, "mke2fs -q -L one FILE", l.path)
	d := find(t, l.path)
	if (System{}).probe(&d); d.Label != "one" {
		t.Fatalf("label %q", d.Label)
	}
	// What changes on the medium is seen at once.
	f, err := os.OpenFile(l.file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("two"), 1024+0x78); err != nil {
		t.Fatal(err)
	}
	if (System{}).probe(&d); d.Label != "two" {
		t.Errorf("label %q", d.Label)
	}
}

func TestLabelsAreCleaned(t *testing.T) {
	file := scratch(t, 16<<20)
	made(t, "mke2fs -q FILE", file)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("\x1b[2Jx\u202ey\x00"), 1024+0x78); err != nil {
		t.Fatal(err)
	}
	d := Disk{Path: file, Size: 16 << 20, Sector: 512}
	if (System{}).probe(&d); d.Label != "xy" {
		t.Errorf("label %q", d.Label)
	}
}

func FuzzProbe(f *testing.F) {
	for _, magic := range []struct {
		off   int
		bytes string
	}{{510, "\x55\xaa"}, {1080, "\x53\xef"}, {0, "LUKS\xba\xbe\x00\x02"}, {3, "EXFAT   "}, {512, "LABELONE"}, {4086, "SWAPSPACE2"}, {1024, "\x10\x20\xf5\xf2"}} {
		b := make([]byte, 8192)
		copy(b[magic.off:], magic.bytes)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w := func(off, n int64) []byte {
			if off < 0 || n < 0 || off > int64(len(b))-n {
				return nil
			}
			return b[off : off+n]
		}
		fs, label := identifyFS(w)
		if cleanName(label) != label {
			t.Errorf("label %q of %s is not clean", label, fs)
		}
		if table := tableOf(w, 4096); table != "" && table != "mbr" && table != "gpt" {
			t.Errorf("table %q", table)
		}
	})
}

// at is a text at an offset of a medium.
type at struct {
	off  int
	text string
}

func TestSuperblocksAreKnownWithoutTheirTools(t *testing.T) {
	for _, k := range []struct {
		fs, label string
		bytes     []at
	}{
		{"LUKS", "", []at{{0, "LUKS\xba\xbe\x00\x01"}, {24, "not a label"}}},
		{"LUKS", "crypt", []at{{0, "LUKS\xba\xbe\x00\x02"}, {24, "crypt"}}},
		{"LVM", "", []at{{512, "LABELONE"}, {536, "LVM2 001"}}},
		{"LVM", "", []at{{1536, "LABELONE"}, {1560, "LVM2 001"}}},
		{"", "", []at{{512, "LABELONE"}, {536, "LVM1 001"}}},
		{"RAID", "host:0", []at{{4096, "\xfc\x4e\x2b\xa9"}, {4128, "host:0"}}},
		{"RAID", "host:1", []at{{0, "\xfc\x4e\x2b\xa9"}, {32, "host:1"}}},
		{"btrfs", "pool", []at{{0x10040, "_BHRfS_M"}, {0x1012b, "pool"}}},
		{"xfs", "big", []at{{0, "XFSB"}, {108, "big"}}},
		{"ntfs", "", []at{{0, "\xeb\x52\x90NTFS    "}, {510, "\x55\xaa"}}},
		{"BitLocker", "", []at{{0, "\xeb\x58\x90-FVE-FS-"}, {510, "\x55\xaa"}}},
		{"iso9660", "LIVE", []at{{32769, "CD001"}, {32808, "LIVE            "}}},
		{"f2fs", "flash", []at{{1024, "\x10\x20\xf5\xf2"}, {1148, "f\x00l\x00a\x00s\x00h\x00\x00\x00"}}},
		{"erofs", "ro", []at{{1024, "\xe2\xe1\xf5\xe0"}, {1088, "ro"}}},
		{"squashfs", "", []at{{0, "hsqs"}}},
		{"UBI", "", []at{{0, "UBI#"}}},
		{"jffs2", "", []at{{0, "\x85\x19\x03\x20"}}},
		{"jffs2", "", []at{{0, "\x85\x19\x02\xe0"}}},
		{"", "", []at{{0, "\x85\x19xx"}}},
		{"swap", "s", []at{{4086, "SWAPSPACE2"}, {1052, "s"}}},
		{"swap", "", []at{{16374, "SWAPSPACE2"}}},
		{"ext journal", "", []at{{1080, "\x53\xef"}, {1120, "\x08"}}},
		{"ext2", "", []at{{1080, "\x53\xef"}}},
		{"ext3", "", []at{{1080, "\x53\xef"}, {1116, "\x04"}}},
		{"ext4", "", []at{{1080, "\x53\xef"}, {1116, "\x04"}, {1120, "\x40"}}},
		{"ext4", "", []at{{1080, "\x53\xef"}, {1124, "\x10"}}},
		// exFAT of sectors of 512 and clusters of 4096: root directory in cluster 4.
		{"exfat", "CAM", []at{{3, "EXFAT   "}, {88, "\x40"}, {96, "\x04"}, {108, "\x09\x03"}, {(64 + 16) * 512, "\x81"}, {(64+16)*512 + 32, "\x83\x03C\x00A\x00M\x00"}}},
		{"exfat", "", []at{{3, "EXFAT   "}, {88, "\x40"}, {96, "\x04"}, {108, "\x09\x03"}}},
		{"exfat", "", []at{{3, "EXFAT   "}, {108, "\xff\xff"}}},
		{"", "", []at{{3, "MSDOS5.0"}, {510, "\x55\xaa"}}},
	} {
		b := make([]byte, 128<<10)
		for _, p := range k.bytes {
			copy(b[p.off:], p.text)
		}
		file := scratch(t, 0)
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		d := Disk{Path: file, Size: int64(len(b)), Sector: 512}
		if (System{}).probe(&d); d.FS != k.fs || d.Label != k.label {
			t.Errorf("%v: got %q %q, want %q %q", k.bytes, d.FS, d.Label, k.fs, k.label)
		}
	}
}
