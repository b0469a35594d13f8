package device

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"multidd/internal/sample"
)

// A fixture is a made-up computer: trees as in /sys, /proc and /dev, for hardware
// and topologies that no test machine has. Its block devices have the majors of
// real ones, and no nodes but those made by node.
type fixture struct {
	System
	t      *testing.T
	mounts []string
	swaps  []string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	root := memoryDir(t)
	f := &fixture{System{root + "/sys", root + "/proc", root + "/dev"}, t, nil, nil}
	for _, dir := range []string{f.sys("class/block"), f.sys("dev/block"), f.sys("devices/virtual/block"), f.proc("self"), f.dev("disk/by-path"), f.dev("shm")} {
		f.check(os.MkdirAll(dir, 0o755))
	}
	f.mount("0:5", "/proc", "proc", "proc", "rw")
	f.swapped()
	return f
}

func (f *fixture) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// write makes a file below the directories of the made-up sysfs or procfs.
func (f *fixture) write(path, content string) {
	f.t.Helper()
	f.check(os.MkdirAll(filepath.Dir(path), 0o755))
	f.check(os.WriteFile(path, []byte(content), 0o644))
}

// attrs writes "name=value" pairs into a directory of sysfs.
func (f *fixture) attrs(dir string, pairs ...string) {
	f.t.Helper()
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		f.write(filepath.Join(dir, name), value+"\n")
	}
}

// device makes a device of a subsystem at a path below /sys/devices.
func (f *fixture) device(path, subsystem string, pairs ...string) string {
	f.t.Helper()
	dir := f.sys("devices", path)
	f.check(os.MkdirAll(dir, 0o755))
	f.check(os.Symlink("/sys/bus/"+subsystem, filepath.Join(dir, "subsystem")))
	f.attrs(dir, pairs...)
	return path
}

// disk makes a whole disk of size bytes at a path below /sys/devices; pairs come
// over the attributes every disk has.
func (f *fixture) disk(path, dev string, size int64, pairs ...string) string {
	f.t.Helper()
	name := filepath.Base(path)
	dir := f.sys("devices", path)
	f.attrs(dir, append([]string{"dev=" + dev, fmt.Sprintf("size=%d", size/512), "removable=0", "ro=0", "diskseq=7", "queue/logical_block_size=512", "stat=0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"}, pairs...)...)
	for _, d := range []string{"holders", "slaves"} {
		f.check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	if parent := filepath.Dir(path); filepath.Base(parent) == "block" {
		f.check(os.Symlink("../..", filepath.Join(dir, "device")))
	} else {
		f.check(os.Symlink("..", filepath.Join(dir, "device")))
	}
	f.check(os.Symlink("../../devices/"+path, f.sys("class/block", name)))
	f.check(os.Symlink("../../devices/"+path, f.sys("dev/block", dev)))
	return name
}

// part makes a partition, given in bytes.
func (f *fixture) part(name, dev string, off, size int64) string {
	f.t.Helper()
	disk := strings.TrimRight(name, "0123456789")
	if p, ok := strings.CutSuffix(disk, "p"); ok {
		disk = p
	}
	to, err := os.Readlink(f.sys("class/block", disk))
	f.check(err)
	dir := f.sys("class/block", to, name)
	f.attrs(dir, "dev="+dev, "partition=1", fmt.Sprintf("start=%d", off/512), fmt.Sprintf("size=%d", size/512))
	f.check(os.MkdirAll(filepath.Join(dir, "holders"), 0o755))
	f.check(os.Symlink(filepath.Join(to, name), f.sys("class/block", name)))
	f.check(os.Symlink(filepath.Join(to, name), f.sys("dev/block", dev)))
	return name
}

// virtual makes a disk that the kernel makes out of others.
func (f *fixture) virtual(name, dev string, size int64, slaves ...string) string {
	f.t.Helper()
	f.disk("virtual/block/"+name, dev, size)
	for _, s := range slaves {
		f.check(os.Symlink("x", f.sys("class/block", s, "holders", name)))
		f.check(os.Symlink("x", f.sys("class/block", name, "slaves", s)))
	}
	return name
}

// loop attaches a file to a loop device.
func (f *fixture) loop(name, dev string, size int64, file string) string {
	f.t.Helper()
	f.disk("virtual/block/"+name, dev, size)
	f.attrs(f.sys("class/block", name), "loop/backing_file="+file)
	return name
}

// usbDisk makes a card in a USB reader behind the first controller: bus 1 at 480
// Mbit/s. lun is the slot of the reader.
func (f *fixture) usbDisk(name, dev, port string, host, lun int, size int64, pairs ...string) string {
	f.t.Helper()
	return f.usbUnit(name, dev, "pci0000:00/0000:00:14.0/usb1", port, host, lun, size, pairs...)
}

func (f *fixture) usbUnit(name, dev, hub, port string, host, lun int, size int64, pairs ...string) string {
	f.t.Helper()
	ensure := func(path, subsystem string, pairs ...string) {
		if _, err := os.Lstat(f.sys("devices", path, "subsystem")); err != nil {
			f.device(path, subsystem, pairs...)
		}
	}
	ensure("pci0000:00/0000:00:14.0", "pci")
	ensure(hub, "usb", "speed=480")
	path := hub
	bus, rest, _ := strings.Cut(port, "-")
	at := bus + "-"
	for i, p := range strings.Split(rest, ".") {
		if i > 0 {
			at += "."
		}
		at += p
		path += "/" + at
		ensure(path, "usb", "speed=480", "serial=READER-"+at, "manufacturer=Maker", "product=Hub or reader")
	}
	path += "/" + port + ":1.0"
	ensure(path, "usb")
	path += fmt.Sprintf("/host%d", host)
	ensure(path, "scsi")
	path += fmt.Sprintf("/target%d:0:0", host)
	ensure(path, "scsi")
	path += fmt.Sprintf("/%d:0:0:%d", host, lun)
	ensure(path, "scsi", "vendor=Generic ", "model=SD/MMC          ", "type=0")
	return f.disk(path+"/block/"+name, dev, size, append([]string{"removable=1"}, pairs...)...)
}

func (f *fixture) nvme(name, dev string, size int64) string {
	f.t.Helper()
	f.device("pci0000:00/0000:00:1d.0", "pci")
	f.device("pci0000:00/0000:00:1d.0/nvme/nvme0", "nvme", "model=Fast SSD 1TB   ", "serial=  NV123  ")
	return f.disk("pci0000:00/0000:00:1d.0/nvme/nvme0/"+name, dev, size, "nsid=1")
}

func (f *fixture) sata(name, dev string, size int64) string {
	f.t.Helper()
	ata := "pci0000:00/0000:00:17.0/ata1"
	f.device("pci0000:00/0000:00:17.0", "pci")
	f.attrs(f.sys("devices", ata, "ata_port/ata1"), "port_no=1")
	f.device(ata+"/host0", "scsi")
	f.device(ata+"/host0/target0:0:0", "scsi")
	unit := f.device(ata+"/host0/target0:0:0/0:0:0:0", "scsi", "vendor=ATA", "model=Big Disk", "type=0", "vpd_pg80=\x00\x80\x00\x08SATA0001")
	return f.disk(unit+"/block/"+name, dev, size)
}

// mmc makes a card in a built-in reader; kind is "SD" or "MMC".
func (f *fixture) mmc(n int, kind, dev string, size int64, pairs ...string) string {
	f.t.Helper()
	host := fmt.Sprintf("mmc%d", n)
	at := fmt.Sprintf("platform/soc/fe34000%d.mmc", n)
	if _, err := os.Lstat(f.sys("devices/platform/soc/subsystem")); err != nil {
		f.device("platform/soc", "platform")
	}
	f.device(at, "platform")
	f.device(at+"/mmc_host/"+host, "mmc_host")
	card := f.device(at+"/mmc_host/"+host+"/"+host+":aaaa", "mmc", "type="+kind, "name=SC16G", "serial=0x1234abcd", "manfid=0x000003",
		"ssr="+strings.Repeat("0", 16)+"04"+strings.Repeat("0", 10)+"301e"+strings.Repeat("0", 96))
	return f.disk(card+"/block/mmcblk"+fmt.Sprint(n), dev, size, pairs...)
}

// mount adds a line to the mount table.
func (f *fixture) mount(dev, point, fstype, source, options string) {
	f.t.Helper()
	escape := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\n", `\012`)
	f.mounts = append(f.mounts, fmt.Sprintf("%d 1 %s / %s rw,relatime shared:1 - %s %s %s\n", len(f.mounts)+900000, dev, escape.Replace(point), fstype, escape.Replace(source), escape.Replace(options)))
	f.write(f.proc("self/mountinfo"), strings.Join(f.mounts, ""))
}

func (f *fixture) swapped(paths ...string) {
	f.t.Helper()
	f.swaps = append(f.swaps, paths...)
	text := "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	for _, p := range f.swaps {
		text += p + "\t\tpartition\t1048572\t\t0\t\t-2\n"
	}
	f.write(f.proc("swaps"), text)
}

// unplug takes a device out of the made-up sysfs.
func (f *fixture) unplug(name string) {
	f.t.Helper()
	dev := attr(f.sys("class/block", name), "dev")
	f.check(os.Remove(f.sys("class/block", name)))
	f.check(os.Remove(f.sys("dev/block", dev)))
}

// node makes a device node, which leads nowhere but can be looked at. It needs root.
func (f *fixture) node(name, dev string) string {
	f.t.Helper()
	needRoot(f.t)
	d, _ := parseDev(dev)
	path := f.dev(name)
	f.check(unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(d.major, d.minor))))
	return path
}

// get returns a disk by its kernel name.
func (f *fixture) get(name string) Disk {
	f.t.Helper()
	disks, err := f.List()
	f.check(err)
	i := slices.IndexFunc(disks, func(d Disk) bool { return d.Name == name })
	if i < 0 {
		f.t.Fatalf("%s is not listed; got %v", name, disks)
	}
	return disks[i]
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		sample.Lack(t, "needs root")
	}
}

func reasons(list []Refusal) (r []string) {
	for _, x := range list {
		r = append(r, x.Reason)
	}
	return r
}
