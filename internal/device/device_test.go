package device

import (
	"slices"
	"strings"
	"testing"
)

const (
	gib  = 1 << 30
	card = 32 * gib
)

func TestEverySlotHasItsOwnName(t *testing.T) {
	f := newFixture(t)
	f.usbDisk("sdb", "8:16", "1-2.3", 6, 0, card)
	for lun, name := range []string{"sdc", "sdd", "sde", "sdf"} {
		f.usbDisk(name, "8:"+[]string{"32", "48", "64", "80"}[lun], "1-2.4.1", 7, lun, int64(lun%2)*card)
	}
	f.usbUnit("sdaa", "65:160", "pci0000:00/0000:00:14.0/usb2", "2-1", 8, 0, card)
	f.mmc(0, "SD", "179:0", card)
	f.nvme("nvme0n1", "259:0", 1000*gib)
	f.sata("sda", "8:0", 1000*gib)
	f.loop("loop10", "7:10", gib, "/srv/x.img")
	f.loop("loop9", "7:9", gib, "/srv/y.img")
	f.virtual("dm-0", "253:0", gib)

	want := []struct{ name, bus, slot, byPath, busID string }{
		{"dm-0", BusVirtual, "dm-0", "", ""},
		{"loop9", BusLoop, "loop9", "", ""},
		{"loop10", BusLoop, "loop10", "", ""},
		{"mmcblk0", BusMMC, "mmc0", "platform-fe340000.mmc", "mmc0"},
		{"nvme0n1", BusNVMe, "nvme0n1", "pci-0000:00:1d.0-nvme-1", ""},
		{"sda", BusSATA, "sda", "pci-0000:00:17.0-ata-1.0", ""},
		{"sdb", BusUSB, "1-2.3", "pci-0000:00:14.0-usb-0:2.3:1.0-scsi-0:0:0:0", "usb1"},
		{"sdc", BusUSB, "1-2.4.1:0", "pci-0000:00:14.0-usb-0:2.4.1:1.0-scsi-0:0:0:0", "usb1"},
		{"sdd", BusUSB, "1-2.4.1:1", "pci-0000:00:14.0-usb-0:2.4.1:1.0-scsi-0:0:0:1", "usb1"},
		{"sde", BusUSB, "1-2.4.1:2", "pci-0000:00:14.0-usb-0:2.4.1:1.0-scsi-0:0:0:2", "usb1"},
		{"sdf", BusUSB, "1-2.4.1:3", "pci-0000:00:14.0-usb-0:2.4.1:1.0-scsi-0:0:0:3", "usb1"},
		{"sdaa", BusUSB, "2-1", "pci-0000:00:14.0-usb-0:1:1.0-scsi-0:0:0:0", "usb2"},
	}
	disks, err := f.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(disks) != len(want) {
		t.Fatalf("got %d disks, want %d: %v", len(disks), len(want), disks)
	}
	for i, w := range want {
		d := disks[i]
		if d.Name != w.name || d.Bus != w.bus || d.Slot != w.slot || d.ByPath != w.byPath || d.BusID != w.busID {
			t.Errorf("got  %s %s %s %s %s\nwant %v", d.Name, d.Bus, d.Slot, d.ByPath, d.BusID, w)
		}
		if d.Path != f.dev(w.name) {
			t.Errorf("%s: path %s", w.name, d.Path)
		}
	}
}

func TestADiskSaysWhatItIs(t *testing.T) {
	f := newFixture(t)
	f.usbDisk("sdb", "8:16", "1-2", 6, 0, card, "ro=1", "diskseq=42", "queue/logical_block_size=4096")
	f.part("sdb2", "8:18", 8*gib, 4*gib)
	f.part("sdb1", "8:17", 1<<20, gib)
	f.virtual("dm-3", "253:3", gib, "sdb2")
	f.mount("8:17", "/media/a b", "vfat", "/dev/sdb1", "rw")
	f.mount("8:17", "/media/again", "vfat", "/dev/sdb1", "rw")
	f.mmc(0, "SD", "179:0", card)

	d := f.get("sdb")
	if d.Size != card || d.Sector != 4096 || !d.ReadOnly || !d.Removable || d.DiskSeq != 42 || d.Major != 8 || d.Minor != 16 {
		t.Errorf("got %+v", d)
	}
	if d.Vendor != "Generic" || d.Model != "SD/MMC" || d.Serial != "READER-1-2" || d.BusSpeed != 480 {
		t.Errorf("got %q %q %q %d", d.Vendor, d.Model, d.Serial, d.BusSpeed)
	}
	if len(d.Parts) != 2 || d.Parts[0].Name != "sdb1" || d.Parts[0].Off != 1<<20 || d.Parts[0].Size != gib ||
		!slices.Equal(d.Parts[0].Mounts, []string{"/media/a b", "/media/again"}) || d.Parts[1].Name != "sdb2" {
		t.Errorf("partitions: %+v", d.Parts)
	}
	if !slices.Equal(d.Holders, []string{"dm-3"}) {
		t.Errorf("holders: %v", d.Holders)
	}
	m := f.get("mmcblk0")
	if m.Vendor != "SanDisk" || m.Model != "SC16G" || m.Serial != "1234abcd" || m.SpeedClass != 30 || m.kind != "SD" {
		t.Errorf("got %+v", m)
	}
	if s := f.sataSerial(); s != "SATA0001" {
		t.Errorf("serial of a SATA disk: %q", s)
	}
}

func (f *fixture) sataSerial() string {
	f.sata("sda", "8:0", gib)
	return f.get("sda").Serial
}

func TestSpeedClassIsTheBestThatIsPromised(t *testing.T) {
	ssr := func(class, grade, video string) string {
		return strings.Repeat("0", 16) + class + strings.Repeat("0", 10) + grade + video + strings.Repeat("0", 96)
	}
	for _, c := range []struct {
		ssr  string
		want int
	}{
		{ssr("00", "00", "00"), 0},
		{ssr("01", "00", "00"), 2},
		{ssr("04", "00", "00"), 10},
		{ssr("04", "30", "00"), 30},
		{ssr("04", "30", "5a"), 90},
		{ssr("ff", "f0", "ff"), 0},
		{"", 0},
		{"zz", 0},
		{ssr("04", "30", "00")[2:], 0},
	} {
		if got := speedClass(c.ssr); got != c.want {
			t.Errorf("speedClass(%q) = %d, want %d", c.ssr, got, c.want)
		}
	}
}

func TestStringsFromHardwareAreCleaned(t *testing.T) {
	f := newFixture(t)
	f.usbDisk("sdb", "8:16", "1-2", 6, 0, card)
	unit := f.sys("class/block/sdb/device")
	f.attrs(unit, "vendor=\x1b[31mEvil\x1b[0m", "model=abc\u202e\u2066gpj.exe\x07")
	f.attrs(f.sys("devices/pci0000:00/0000:00:14.0/usb1/1-2"), "serial=\x1b]0;owned\x07S1\x9b2J")
	f.mount("8:16", "/media/x\ny\x1b[1m", "vfat", "/dev/sdb", "rw")
	d := f.get("sdb")
	if d.Vendor != "Evil" || d.Model != "abcgpj.exe" || d.Serial != "S1" || d.Mounts[0] != "/media/x y" {
		t.Errorf("got %q %q %q %q", d.Vendor, d.Model, d.Serial, d.Mounts)
	}
	for _, r := range f.Judge(d, Policy{}) {
		if r.Text != strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f || r == '\u202e' {
				return -1
			}
			return r
		}, r.Text) {
			t.Errorf("refusal with control characters: %q", r.Text)
		}
	}
}

func TestADiskThatGoesAwayWhileListedIsLeftOut(t *testing.T) {
	f := newFixture(t)
	f.usbDisk("sdb", "8:16", "1-2", 6, 0, card)
	f.usbDisk("sdc", "8:32", "1-3", 7, 0, card)
	f.unplug("sdc")
	disks, err := f.List()
	if err != nil || len(disks) != 1 || disks[0].Name != "sdb" {
		t.Errorf("got %v, %v", disks, err)
	}
}

func TestHiddenDisksAreNotListed(t *testing.T) {
	f := newFixture(t)
	f.usbDisk("sdb", "8:16", "1-2", 6, 0, card, "hidden=1")
	if disks, err := f.List(); err != nil || len(disks) != 0 {
		t.Errorf("got %v, %v", disks, err)
	}
}
