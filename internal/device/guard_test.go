package device

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A guardCase is a computer on which a disk must be refused, and on which it is
// allowed once the one thing that matters is left out.
type guardCase struct {
	name   string
	disk   string // the target
	reason string // the first refusal; "" allowed
	says   string // a part of its sentence
	policy Policy
	// build makes the computer; with bad unset it leaves out what is wrong.
	build func(f *fixture, bad bool)
}

func (c guardCase) run(t *testing.T) {
	judge := func(bad bool) []Refusal {
		f := newFixture(t)
		c.build(f, bad)
		return f.Judge(f.get(c.disk), c.policy)
	}
	refusals := judge(true)
	switch {
	case len(refusals) == 0:
		t.Errorf("allowed, want %s", c.reason)
	case refusals[0].Reason != c.reason || !strings.Contains(refusals[0].Text, c.says):
		t.Errorf("got %v, want %s with %q", refusals, c.reason, c.says)
	}
	for _, r := range refusals {
		if len(r.Text) < 20 || strings.HasSuffix(r.Text, ".") {
			t.Errorf("not a sentence of the right kind: %q", r.Text)
		}
	}
	// The negative control: it is this thing that was refused and nothing else.
	if left := judge(false); len(left) > 0 {
		t.Errorf("still refused without what is wrong: %v", left)
	}
}

func usbCard(f *fixture) { f.usbDisk("sdb", "8:16", "1-2", 6, 0, card) }

func twoParts(f *fixture) {
	usbCard(f)
	f.part("sdb1", "8:17", 1<<20, gib)
	f.part("sdb2", "8:18", 2*gib, gib)
}

var fixed = Policy{AllowFixed: []string{"NV123", "SATA0001"}, MaxSize: 1 << 50}

func TestDisksInUseAreRefused(t *testing.T) {
	for _, c := range []guardCase{
		{"the whole disk is mounted", "sdb", ReasonMounted, "umount /mnt", Policy{}, func(f *fixture, bad bool) {
			usbCard(f)
			if bad {
				f.mount("8:16", "/mnt", "ext4", "/dev/sdb", "rw")
			}
		}},
		{"a partition is mounted", "sdb", ReasonMounted, "sdb2 is mounted at /media/x y", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.mount("8:18", "/media/x y", "ext4", "/dev/sdb2", "rw")
			}
		}},
		{"mounted for the first process only", "sdb", ReasonMounted, "/mnt", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.write(f.proc("1/mountinfo"), "40 1 8:17 / /mnt rw - ext4 /dev/sdb1 rw\n")
			}
		}},
		{"swap on a partition", "sdb", ReasonMounted, "swapoff /dev/sdb2", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.swapped("/dev/sdb2")
			}
		}},
		{"swap file on a partition", "sdb", ReasonMounted, "sdb1 is mounted", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.mount("8:17", "/mnt", "ext4", "/dev/sdb1", "rw")
				f.swapped(`/mnt/swap\040file`)
			}
		}},
		{"swap on LVM", "sdb", ReasonMounted, "swapoff /dev/dm-4", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.virtual("dm-4", "253:4", gib, "sdb2")
				f.swapped("/dev/dm-4")
			}
		}},
		{"LVM on a partition is mounted", "sdb", ReasonMounted, "dm-1 is mounted at /data", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.virtual("dm-1", "253:1", gib, "sdb2")
				f.mount("253:1", "/data", "xfs", "/dev/mapper/vg-data", "rw")
			}
		}},
		{"LVM that is not mounted", "sdb", ReasonBusy, "part of dm-1", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.virtual("dm-1", "253:1", gib, "sdb2")
			}
		}},
		{"RAID, with a partition of the array mounted", "sdb", ReasonMounted, "md0p1", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			f.usbDisk("sdc", "8:32", "1-3", 7, 0, card)
			if bad {
				f.virtual("md0", "9:0", card, "sdb2", "sdc")
				f.part("md0p1", "259:9", 1<<20, gib)
				f.mount("259:9", "/raid", "ext4", "/dev/md0p1", "rw")
			}
		}},
		{"LVM on encryption on RAID", "sdb", ReasonMounted, "dm-2", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.virtual("md0", "9:0", card, "sdb2")
				f.virtual("dm-1", "253:1", card, "md0")
				f.virtual("dm-2", "253:2", card, "dm-1")
				f.mount("253:2", "/deep", "ext4", "/dev/mapper/x", "rw")
			}
		}},
		{"btrfs whose mount names its other device", "sdb", ReasonMounted, "sdb1 is mounted at /pool", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			f.usbDisk("sdc", "8:32", "1-3", 7, 0, card)
			if bad {
				group := f.sys("fs/btrfs/aa-bb/devices")
				f.check(os.MkdirAll(group, 0o755))
				f.check(os.Symlink("x", filepath.Join(group, "sdb1")))
				f.check(os.Symlink("x", filepath.Join(group, "sdc")))
				f.mount("0:44", "/pool", "btrfs", "/dev/sdc", "rw,subvol=/")
			}
		}},
		{"btrfs mounted where it cannot be seen", "sdb", ReasonMounted, "cannot be seen", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				group := f.sys("fs/btrfs/aa-bb/devices")
				f.check(os.MkdirAll(group, 0o755))
				f.check(os.Symlink("x", filepath.Join(group, "sdb1")))
			}
		}},
		{"bcachefs", "sdb", ReasonMounted, "/cool", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.check(os.MkdirAll(f.sys("fs/bcachefs/aa/dev-0"), 0o755))
				f.check(os.Symlink("../../../devices/x/sdb2", f.sys("fs/bcachefs/aa/dev-0/block")))
				f.mount("0:44", "/cool", "bcachefs", "/dev/sdb2:/dev/sdz", "rw")
			}
		}},
		{"a loop device on the disk", "sdb", ReasonBusy, "losetup -d", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.loop("loop3", "7:3", gib, "/dev/sdb2")
			}
		}},
		{"a file system mounted through a loop device on the disk", "sdb", ReasonMounted, "loop3 is mounted", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.loop("loop3", "7:3", gib, "/dev/sdb")
				f.mount("7:3", "/mnt", "ext4", "/dev/loop3", "rw")
			}
		}},
		{"a file on the disk behind a loop device that is mounted", "sdb", ReasonMounted, "sdb1 is mounted", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.mount("8:17", "/media", "ext4", "/dev/sdb1", "rw")
				f.loop("loop3", "7:3", gib, "/media/x.img (deleted)")
				f.mount("7:3", "/mnt", "ext4", "/dev/loop3", "rw")
			}
		}},
		{"an overlay over the disk", "sdb", ReasonMounted, "", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.mount("8:17", "/lo:wer, one", "ext4", "/dev/sdb1", "rw")
				f.mount("0:50", "/merged", "overlay", "overlay", `rw,lowerdir=/else:/lo\:wer\054\040one,upperdir=/u,workdir=/w`)
			}
		}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestTheSystemDiskIsRefused(t *testing.T) {
	overlayRoot := func(f *fixture) {
		f.mount("8:17", "/run/live/medium", "iso9660", "/dev/sdb1", "ro")
		f.loop("loop0", "7:0", gib, "/run/live/medium/live/filesystem.squashfs")
		f.mount("7:0", "/run/live/rootfs", "squashfs", "/dev/loop0", "ro")
		f.mount("0:60", "/run/overlay", "tmpfs", "tmpfs", "rw")
		f.mount("0:61", "/", "overlay", "overlay", "rw,lowerdir=/run/live/rootfs,upperdir=/run/overlay/rw,workdir=/run/overlay/work")
	}
	for _, c := range []guardCase{
		{"the root on a partition of a card", "mmcblk0", ReasonSystemDisk, "mmcblk0p2 is mounted at /", Policy{}, func(f *fixture, bad bool) {
			f.mmc(0, "SD", "179:0", card)
			f.part("mmcblk0p1", "179:1", 1<<20, gib)
			f.part("mmcblk0p2", "179:2", gib, gib)
			if bad {
				f.mount("179:2", "/", "ext4", "/dev/root", "rw")
			}
		}},
		{"the boot partition", "mmcblk0", ReasonSystemDisk, "/boot/firmware", Policy{}, func(f *fixture, bad bool) {
			f.mmc(0, "SD", "179:0", card)
			f.part("mmcblk0p1", "179:1", 1<<20, gib)
			if bad {
				f.mount("179:1", "/boot/firmware", "vfat", "/dev/mmcblk0p1", "rw")
			}
		}},
		{"the EFI partition", "sdb", ReasonSystemDisk, "/boot/efi", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.mount("8:17", "/boot/efi", "vfat", "/dev/sdb1", "rw")
			}
		}},
		{"/usr", "sdb", ReasonSystemDisk, "/usr", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.mount("8:18", "/usr", "ext4", "/dev/sdb2", "ro")
			}
		}},
		{"the root on LVM on encryption on NVMe", "nvme0n1", ReasonSystemDisk, "dm-1 is mounted at /", fixed, func(f *fixture, bad bool) {
			f.nvme("nvme0n1", "259:0", 1000*gib)
			f.part("nvme0n1p1", "259:1", 1<<20, gib)
			f.part("nvme0n1p3", "259:3", gib, 900*gib)
			if bad {
				f.virtual("dm-0", "253:0", 900*gib, "nvme0n1p3")
				f.virtual("dm-1", "253:1", 100*gib, "dm-0")
				f.virtual("dm-2", "253:2", 8*gib, "dm-0")
				f.mount("253:1", "/", "ext4", "/dev/mapper/vg-root", "rw")
				f.swapped("/dev/dm-2")
			}
		}},
		{"the root on RAID", "sda", ReasonSystemDisk, "md127", fixed, func(f *fixture, bad bool) {
			f.sata("sda", "8:0", 1000*gib)
			f.part("sda2", "8:2", gib, 900*gib)
			if bad {
				f.virtual("md127", "9:127", 900*gib, "sda2")
				f.mount("9:127", "/", "ext4", "/dev/md127", "rw")
			}
		}},
		{"the root on the second device of a btrfs", "sda", ReasonSystemDisk, "", fixed, func(f *fixture, bad bool) {
			f.sata("sda", "8:0", 1000*gib)
			f.nvme("nvme0n1", "259:0", 1000*gib)
			if bad {
				group := f.sys("fs/btrfs/aa-bb/devices")
				f.check(os.MkdirAll(group, 0o755))
				f.check(os.Symlink("x", filepath.Join(group, "sda")))
				f.check(os.Symlink("x", filepath.Join(group, "nvme0n1")))
				f.mount("0:30", "/", "btrfs", "/dev/nvme0n1", "rw,subvolid=256")
			}
		}},
		{"the root in a file on another system's disk", "sdb", ReasonSystemDisk, "loop0 is mounted at /", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				f.mount("8:17", "/host", "ntfs", "/dev/sdb1", "rw")
				f.loop("loop0", "7:0", gib, "/host/disks/root.disk")
				f.mount("7:0", "/", "ext4", "/dev/loop0", "rw")
			}
		}},
		{"a live system's stick, below an overlay", "sdb", ReasonSystemDisk, "is mounted at /", Policy{}, func(f *fixture, bad bool) {
			twoParts(f)
			if bad {
				overlayRoot(f)
			}
		}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestOnlyCardsAreAllowed(t *testing.T) {
	usb := func(pairs ...string) func(*fixture, bool) {
		return func(f *fixture, bad bool) {
			f.usbDisk("sdb", "8:16", "1-2", 6, 0, card)
			if bad {
				f.attrs(f.sys("class/block/sdb"), pairs...)
			}
		}
	}
	for _, c := range []guardCase{
		{"an empty slot", "sdb", ReasonEmpty, "no card in slot 1-2", Policy{}, usb("size=0")},
		{"write-protected", "sdb", ReasonReadOnly, "tab", Policy{}, usb("ro=1")},
		{"too big", "sdb", ReasonTooBig, "8.0 TB", Policy{}, usb("size=15625000000")},
		{"a CD drive", "sdb", ReasonNotACard, `type "5"`, Policy{}, usb("device/type=5")},
		{"of unknown type", "sdb", ReasonNotACard, "type", Policy{}, usb("device/type=")},
		{"of a kind unheard of", "xyz", ReasonNotACard, "no card is known", Policy{}, func(f *fixture, bad bool) {
			f.device("pci0000:00/0000:00:01.0", "pci")
			if !bad {
				f.device("pci0000:00/0000:00:01.0/x", "usb")
			}
			f.disk("pci0000:00/0000:00:01.0/x/block/xyz", "230:0", card, "removable=1")
			f.attrs(f.sys("class/block/xyz/device"), "type=0")
		}},
		{"a disk in a USB box", "sdb", ReasonNotRemovable, "USB disk", Policy{}, usb("removable=0")},
		{"eMMC", "mmcblk0", ReasonNotRemovable, "eMMC", Policy{}, func(f *fixture, bad bool) {
			f.mmc(0, map[bool]string{true: "MMC", false: "SD"}[bad], "179:0", card)
		}},
		{"mmc of unknown type", "mmcblk0", ReasonNotRemovable, "", Policy{}, func(f *fixture, bad bool) {
			f.mmc(0, map[bool]string{true: "", false: "SD"}[bad], "179:0", card)
		}},
		{"a boot area of eMMC", "mmcblk0boot0", ReasonNotACard, "special area", Policy{}, specialArea("boot0")},
		{"a general area of eMMC", "mmcblk0gp2", ReasonNotACard, "special area", Policy{}, specialArea("gp2")},
		{"the replay-protected area of eMMC", "mmcblk0rpmb", ReasonNotACard, "special area", Policy{}, specialArea("rpmb")},
		{"a device of the mapper", "dm-0", ReasonNotACard, "made by the system", Policy{Named: true}, virtualDisk("dm-0")},
		{"RAID", "md0", ReasonNotACard, "made by the system", Policy{Named: true}, virtualDisk("md0")},
		{"compressed memory", "zram0", ReasonNotACard, "made by the system", Policy{Named: true}, virtualDisk("zram0")},
		{"a memory disk", "ram0", ReasonNotACard, "made by the system", Policy{Named: true, AllowFixed: []string{"/dev/ram0"}}, virtualDisk("ram0")},
		{"a loop device that nobody named", "loop0", ReasonNotACard, "name it", Policy{}, func(f *fixture, bad bool) {
			if bad {
				f.loop("loop0", "7:0", gib, "/srv/x.img")
			} else {
				f.usbDisk("loop0", "7:0", "1-2", 6, 0, card)
			}
		}},
		{"a loop device over a disk", "loop0", ReasonNotACard, "another name for", Policy{Named: true}, func(f *fixture, bad bool) {
			usbCard(f)
			f.loop("loop0", "7:0", gib, map[bool]string{true: "/dev/sdb", false: "/srv/x.img"}[bad])
		}},
		{"a loop device with nothing behind it", "loop0", ReasonEmpty, "losetup", Policy{Named: true}, func(f *fixture, bad bool) {
			if f.disk("virtual/block/loop0", "7:0", 0); !bad {
				f.attrs(f.sys("class/block/loop0"), "size=2048", "loop/backing_file=/srv/x.img")
			}
		}},
		{"a loop device that hides what is behind it", "loop0", ReasonUnknown, "attach it again", Policy{Named: true}, func(f *fixture, bad bool) {
			if f.disk("virtual/block/loop0", "7:0", gib); !bad {
				f.attrs(f.sys("class/block/loop0"), "loop/backing_file=/srv/x.img")
			}
		}},
	} {
		t.Run(c.name, c.run)
	}
}

// specialArea is a disk that belongs to a card reader, good or bad by its name.
func specialArea(suffix string) func(*fixture, bool) {
	return func(f *fixture, bad bool) {
		f.mmc(0, map[bool]string{true: "MMC", false: "SD"}[bad], "179:0", card)
		if bad {
			f.disk("platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0"+suffix, "179:8", 4<<20)
			return
		}
		// The control has the same name, but is what it looks like on USB.
		f.usbDisk("mmcblk0"+suffix, "179:8", "1-2", 6, 0, card)
	}
}

func virtualDisk(name string) func(*fixture, bool) {
	return func(f *fixture, bad bool) {
		if bad {
			f.virtual(name, "253:0", gib)
		} else {
			f.usbDisk(name, "253:0", "1-2", 6, 0, card)
		}
	}
}

func TestBuiltInDisksNeedToBeAllowedByName(t *testing.T) {
	f := newFixture(t)
	f.nvme("nvme0n1", "259:0", 100*gib)
	f.sata("sda", "8:0", 100*gib)
	f.device("pci0000:00/0000:00:02.0", "pci")
	f.device("pci0000:00/0000:00:02.0/virtio1", "virtio")
	f.disk("pci0000:00/0000:00:02.0/virtio1/block/vda", "254:0", 100*gib)
	f.mmc(0, "MMC", "179:0", card)

	for _, c := range []struct {
		disk  string
		allow []string
		want  []string
	}{
		{"nvme0n1", nil, []string{ReasonNotRemovable}},
		{"nvme0n1", []string{"NV123"}, nil},
		{"nvme0n1", []string{f.dev("nvme0n1")}, nil},
		{"nvme0n1", []string{"NV12", "nvme0n1", "", f.dev("nvme0"), "SATA0001"}, []string{ReasonNotRemovable}},
		{"sda", []string{"SATA0001"}, nil},
		{"sda", nil, []string{ReasonNotRemovable}},
		{"vda", []string{""}, []string{ReasonNotRemovable}}, // it has no serial number
		{"vda", []string{f.dev("vda")}, nil},
		{"mmcblk0", []string{"1234abcd"}, nil},
		{"mmcblk0", nil, []string{ReasonNotRemovable}},
	} {
		if got := reasons(f.Judge(f.get(c.disk), Policy{AllowFixed: c.allow})); !slices.Equal(got, c.want) {
			t.Errorf("%s with %q allowed: got %v, want %v", c.disk, c.allow, got, c.want)
		}
	}
	// It lifts nothing else.
	f.mount("259:0", "/", "ext4", "/dev/nvme0n1", "rw")
	if got := reasons(f.Judge(f.get("nvme0n1"), Policy{AllowFixed: []string{"NV123", f.dev("nvme0n1")}, Named: true, MaxSize: 1 << 60})); !slices.Equal(got, []string{ReasonSystemDisk}) {
		t.Errorf("an allowed system disk: %v", got)
	}
}

// reasonOf returns an error's reason, or "none".
func reasonOf(err error) string {
	if e, ok := err.(interface{ Reason() string }); ok {
		return e.Reason()
	}
	return "none"
}
