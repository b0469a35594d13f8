// Package device is the hardware: the slots of this computer, what sits in
// them, which of it may be written, and a card opened for raw, exclusive access.
// All ioctls, all reading of sysfs and all unsafe memory are in here. It knows
// nothing of images, runs or people.
//
// Everything is found in sysfs and procfs, whose paths and attributes are those
// of the Linux kernel's Documentation/ABI; neither udev nor its database is
// needed.
//
// A target is found with [System.List] or [System.Find], judged with
// [System.Judge] and opened with [System.Open], which judges it once more by the
// facts of the opened device. There is no other way to a [Card], so nothing is
// written that was not judged. Looking at a computer takes about as long for many
// targets as for one, if they are found, judged and opened together:
// [System.FindAll], [System.JudgeAll], [System.OpenAll].
package device

import (
	"cmp"
	"fmt"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A System is where the computer tells of its devices. The zero value is this
// computer; tests give made-up trees.
type System struct {
	Sys  string // instead of /sys
	Proc string // instead of /proc
	Dev  string // instead of /dev
}

func (s System) sys(p ...string) string  { return under(s.Sys, "/sys", p) }
func (s System) proc(p ...string) string { return under(s.Proc, "/proc", p) }
func (s System) dev(p ...string) string  { return under(s.Dev, "/dev", p) }

func under(root, otherwise string, p []string) string {
	return filepath.Join(cmp.Or(root, otherwise), filepath.Join(p...))
}

// What a disk is attached by; see Disk.Bus.
const (
	BusUSB     = "usb"
	BusMMC     = "mmc"
	BusSATA    = "sata"
	BusSCSI    = "scsi"
	BusNVMe    = "nvme"
	BusVirtio  = "virtio"
	BusLoop    = "loop"    // a file attached as a disk
	BusVirtual = "virtual" // made by the kernel out of other disks, memory or the network
	BusFile    = "file"    // no disk: a plain file that stands for a card
)

// A Disk is a whole disk, or a plain file that stands for one. What it says was
// true when it was looked at. Strings that come from hardware or media have gone
// through Clean.
type Disk struct {
	Name         string // as the kernel has it: "sdb"; of a file: the last part of its path
	Path         string // "/dev/sdb", or a file's absolute path
	Major, Minor int    // device number; of a file: both 0
	Size         int64  // in bytes; 0: no card in the slot; -1: a file that grows as it is written
	Sector       int    // logical sector, in bytes

	Vendor, Model string
	Serial        string // of the card if it tells one (mmc), else of the reader; "" unknown
	Bus           string // one of the constants; "" unknown

	// Slot is the place the card sits in: a USB port path such as "1-2.3", with
	// ":LUN" behind it if the reader has several; "mmc0" for a built-in reader;
	// else the kernel's name, or the file's path as it was given.
	Slot string
	// ByPath is the name udev would give below /dev/disk/by-path; "" if it would
	// not.
	ByPath string
	// BusID names what cards share their bandwidth with: the USB root hub
	// ("usb2"), the mmc host; "" unknown.
	BusID string
	// BusSpeed is that of the USB link to the reader, in Mbit/s; 0: unknown.
	BusSpeed int
	// SpeedClass is the least speed of writing that an SD card in a built-in
	// reader promises, in MB/s; 0: unknown.
	SpeedClass int

	Removable bool   // the kernel's flag: the medium can leave the drive; false for built-in mmc readers
	ReadOnly  bool   // write-protected
	DiskSeq   uint64 // differs for every medium ever put in; 0: unknown

	// Table is "mbr", "gpt" or ""; FS and Label are those of a disk without
	// partitions. Probe fills them in, and those of Parts.
	Table, FS, Label string
	Parts            []Part
	Mounts           []string // mount points of the whole disk, not of its partitions
	Holders          []string // devices of the kernel that stand on it or its partitions: "dm-0", "loop3"

	kind string // of mmc: "SD", "MMC", …; of scsi: the number of its type
	file fileID // of a plain file, or of the file behind a loop device
}

// A Part is a partition as the kernel sees it.
type Part struct {
	Name      string // "sdb1"
	Off, Size int64  // in bytes
	FS, Label string // filled in by Probe
	Mounts    []string
}

// A devno is the number of a block device.
type devno struct{ major, minor uint32 }

func (d devno) String() string { return fmt.Sprintf("%d:%d", d.major, d.minor) }

func splitDev(rdev uint64) devno { return devno{unix.Major(rdev), unix.Minor(rdev)} }

// parseDev reads "8:16".
func parseDev(s string) (devno, bool) {
	a, b, ok := strings.Cut(s, ":")
	major, err1 := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return devno{uint32(major), uint32(minor)}, ok && err1 == nil && err2 == nil
}

// A fileID tells a file from every other; the zero value is no file.
type fileID struct {
	dev devno
	ino uint64
}

func (d Disk) devno() devno { return devno{uint32(d.Major), uint32(d.Minor)} }

// List returns the whole disks of this computer in the order of their names,
// empty slots included. It reads sysfs and asks loop devices for their file; no
// other disk is opened or woken, and no rights are needed.
func (s System) List() ([]Disk, error) {
	t, err := s.load()
	if err != nil {
		return nil, err
	}
	var disks []Disk
	for _, n := range t.nodes {
		if n.disk == n && attr(n.dir, "hidden") != "1" {
			disks = append(disks, t.describe(n))
		}
	}
	sort.Slice(disks, func(i, j int) bool { return lessName(disks[i].Name, disks[j].Name) })
	return disks, nil
}

// lessName orders sdb before sdaa, and loop2 before loop10.
func lessName(a, b string) bool {
	x, y := strings.TrimRight(a, "0123456789"), strings.TrimRight(b, "0123456789")
	if x == y && len(a) != len(b) || x != y && len(x) != len(y) && strings.HasPrefix(x, "sd") && strings.HasPrefix(y, "sd") {
		return len(a) < len(b)
	}
	return a < b
}

// describe gathers what there is to know of a whole disk without opening it.
func (t *tree) describe(n *node) Disk {
	s := t.sys
	d := Disk{
		Name:      n.name,
		Path:      s.node(n.name),
		Major:     int(n.dev.major),
		Minor:     int(n.dev.minor),
		Size:      attrInt(n.dir, "size") * 512, // sysfs counts in 512 bytes, whatever the sector
		Sector:    int(attrInt(n.dir, "queue/logical_block_size")),
		Removable: attr(n.dir, "removable") == "1",
		ReadOnly:  attr(n.dir, "ro") == "1",
		DiskSeq:   uint64(attrInt(n.dir, "diskseq")),
	}
	if n.loop != nil {
		d.file = n.loop.file
	}
	s.identify(&d, n.dir)
	d.Mounts = t.mountPoints(n)
	for _, p := range n.parts {
		d.Parts = append(d.Parts, Part{
			Name:   p.name,
			Off:    attrInt(p.dir, "start") * 512,
			Size:   attrInt(p.dir, "size") * 512,
			Mounts: t.mountPoints(p),
		})
	}
	sort.Slice(d.Parts, func(i, j int) bool { return d.Parts[i].Off < d.Parts[j].Off })
	for _, h := range t.above(n)[1:] {
		if h.disk != n {
			d.Holders = append(d.Holders, h.name)
		}
	}
	return d
}

// node returns the path of a block device's node. A "!" in a kernel name stands
// for a directory.
func (s System) node(name string) string { return s.dev(strings.ReplaceAll(name, "!", "/")) }

// attr returns the text of a sysfs attribute, or "" if there is none. Attributes
// are at most a page long.
func attr(dir, name string) string {
	fd, err := openQuick(dir + "/" + name)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var b [4096]byte
	n := 0
	if err := retry(func() error { n, err = unix.Read(fd, b[:]); return err }); err != nil {
		return ""
	}
	return strings.TrimSpace(string(b[:n]))
}

func attrInt(dir, name string) int64 {
	n, _ := strconv.ParseInt(attr(dir, name), 10, 64)
	return n
}
