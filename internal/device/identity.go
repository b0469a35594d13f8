package device

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// An ancestor is a device between a disk and the root of the device tree.
type ancestor struct {
	dir, name, subsystem string
}

// ancestors returns the devices a disk hangs on, the nearest first.
func (s System) ancestors(dir string) []ancestor {
	var all []ancestor
	top := s.sys("devices")
	for dir = filepath.Dir(dir); isBelow(dir, top) && dir != top; dir = filepath.Dir(dir) {
		// Not every directory is a device: "block" and "mmc_host" only sort.
		if link, err := os.Readlink(filepath.Join(dir, "subsystem")); err == nil {
			all = append(all, ancestor{dir, filepath.Base(dir), filepath.Base(link)})
		}
	}
	return all
}

// identify fills in what tells one disk and one slot from another.
func (s System) identify(d *Disk, dir string) {
	up := s.ancestors(dir)
	d.Bus = busOf(d.Name, isBelow(dir, s.sys("devices/virtual")), up)
	d.Slot = d.Name
	d.ByPath = byPath(dir, up)
	dev := filepath.Join(dir, "device")
	switch d.Bus {
	case BusMMC:
		identifyMMC(d, dev, up)
	case BusUSB:
		identifySCSI(d, dev)
		identifyUSB(d, up)
	case BusSATA, BusSCSI:
		identifySCSI(d, dev)
	case BusNVMe:
		d.Model, d.Serial = attr(dev, "model"), attr(dev, "serial")
	case BusVirtio:
		d.Serial = attr(dir, "serial")
	}
	d.Vendor, d.Model, d.Serial = cleanName(d.Vendor), cleanName(d.Model), cleanName(d.Serial)
}

// busOf tells how a disk is attached: by the outermost of the buses people know.
func busOf(name string, virtual bool, up []ancestor) string {
	if virtual {
		if strings.HasPrefix(name, "loop") {
			return BusLoop
		}
		// An NVMe disk with several paths is virtual in name only.
		if !strings.HasPrefix(name, "nvme") {
			return BusVirtual
		}
	}
	bus := ""
	for _, a := range up {
		switch a.subsystem {
		case "usb":
			return BusUSB
		case "mmc":
			return BusMMC
		case "nvme", "nvme-subsystem":
			return BusNVMe
		case "scsi":
			if bus = BusSCSI; onATA(a.dir) {
				return BusSATA
			}
		case "virtio":
			if bus == "" {
				bus = BusVirtio
			}
		}
	}
	return bus
}

// onATA tells whether a SCSI device is one in name only.
func onATA(dir string) bool {
	_, rest, ok := strings.Cut(dir, "/ata")
	return ok && rest != "" && rest[0] >= '0' && rest[0] <= '9'
}

func identifyMMC(d *Disk, dev string, up []ancestor) {
	d.kind = attr(dev, "type")
	d.Model = attr(dev, "name")
	if id, err := strconv.ParseUint(attr(dev, "manfid"), 0, 32); err == nil {
		d.Vendor = mmcMakers[id]
	}
	if d.Serial = strings.TrimPrefix(attr(dev, "serial"), "0x"); d.Serial == "" {
		d.Serial = attr(dev, "cid")
	}
	d.SpeedClass = speedClass(attr(dev, "ssr"))
	for _, a := range up {
		if a.subsystem == "mmc_host" {
			d.Slot, d.BusID = a.name, a.name
		}
	}
}

// mmcMakers are the manufacturer numbers most often met; the SD Association
// gives them out and publishes no list.
var mmcMakers = map[uint64]string{
	0x01: "Panasonic", 0x02: "Toshiba", 0x03: "SanDisk", 0x13: "Micron", 0x15: "Samsung",
	0x1b: "Samsung", 0x1d: "ADATA", 0x27: "Phison", 0x28: "Lexar", 0x31: "Silicon Power",
	0x41: "Kingston", 0x74: "Transcend", 0x76: "Patriot", 0x82: "Sony", 0xad: "Longsys",
}

// speedClass reads from the SD Status register, as 128 hex digits, the least speed
// of sequential writing in MB/s (SD Physical Layer Simplified Specification,
// 4.10.2): bits 447:440 are the speed class, 399:396 the UHS grade and 391:384 the
// video speed class.
func speedClass(ssr string) int {
	b, err := hex.DecodeString(ssr)
	if err != nil || len(b) != 64 {
		return 0
	}
	var class, grade int
	if c := b[8]; c <= 4 {
		class = [...]int{0, 2, 4, 6, 10}[c]
	}
	switch b[14] >> 4 {
	case 1:
		grade = 10
	case 3:
		grade = 30
	}
	video := int(b[15])
	if video > 90 {
		video = 0 // not one that is defined
	}
	return max(class, grade, video)
}

func identifySCSI(d *Disk, dev string) {
	d.Vendor, d.Model = attr(dev, "vendor"), attr(dev, "model")
	d.kind = attr(dev, "type")
	// The unit's serial number is page 0x80 of the vital product data (SPC-4,
	// 7.8.15): four bytes of header, then text.
	if b, err := os.ReadFile(filepath.Join(dev, "vpd_pg80")); err == nil && len(b) > 4 {
		d.Serial = strings.TrimSpace(string(b[4:]))
	}
}

func identifyUSB(d *Disk, up []ancestor) {
	for i, a := range up {
		if a.subsystem != "usb" || strings.Contains(a.name, ":") {
			continue // not the reader itself but one of its interfaces
		}
		d.Slot = a.name
		if lun, several := lunOf(up); several {
			d.Slot += ":" + lun
		}
		if serial := attr(a.dir, "serial"); serial != "" {
			d.Serial = serial // that of a USB bridge's unit is often made up
		}
		if strings.TrimSpace(d.Vendor) == "" {
			d.Vendor = attr(a.dir, "manufacturer")
		}
		if strings.TrimSpace(d.Model) == "" {
			d.Model = attr(a.dir, "product")
		}
		speed, _ := strconv.ParseFloat(attr(a.dir, "speed"), 64) // "1.5" is one of them
		d.BusSpeed = int(speed)
		for _, h := range up[i:] {
			if h.subsystem == "usb" {
				d.BusID = h.name // the last is the root hub
			}
		}
		return
	}
}

// lunOf returns the logical unit of a SCSI disk, and whether its target has
// others.
func lunOf(up []ancestor) (lun string, several bool) {
	for _, a := range up {
		i := strings.LastIndexByte(a.name, ':')
		if a.subsystem != "scsi" || strings.Count(a.name, ":") != 3 {
			continue
		}
		units, _ := filepath.Glob(filepath.Join(filepath.Dir(a.dir), a.name[:i+1]+"*"))
		return a.name[i+1:], len(units) > 1 || a.name[i+1:] != "0"
	}
	return "", false
}

// byPath makes the name udev gives a disk below /dev/disk/by-path, from the same
// facts as its path_id builtin. It returns "" where udev would give none.
func byPath(dir string, up []ancestor) string {
	var parts []string // the nearest first
	transport, parent := false, false
	last := "" // the subsystem whose outer devices say nothing more
	for _, a := range up {
		if a.subsystem == last {
			continue
		}
		last = ""
		switch a.subsystem {
		case "scsi":
			if strings.Count(a.name, ":") == 3 {
				p := scsiPath(a)
				if p == "" {
					return ""
				}
				parts, transport, last = append(parts, p), true, "scsi"
			}
		case "usb":
			// The interface; the devices above it are in its name.
			_, port, ok := strings.Cut(a.name, "-")
			if !ok {
				return ""
			}
			parts, transport, last = append(parts, "usb-0:"+port), true, "usb"
		case "nvme", "nvme-subsystem":
			if ns := attr(dir, "nsid"); ns != "" {
				parts, transport, last = append(parts, "nvme-"+ns), true, a.subsystem
			}
		case "virtio":
			transport, last = true, "virtio"
		case "platform":
			parts, transport, parent, last = append(parts, "platform-"+a.name), true, true, "platform"
		case "pci", "acpi":
			parts, parent, last = append(parts, a.subsystem+"-"+a.name), true, a.subsystem
		}
	}
	if !transport || !parent {
		return ""
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, "-")
}

// scsiPath is the part of a by-path name that a SCSI device makes. Host numbers
// are counted from the lowest of the same adapter, since the kernel's differ from
// boot to boot.
func scsiPath(a ancestor) string {
	var host, bus, target, lun int
	if _, err := fmt.Sscanf(a.name, "%d:%d:%d:%d", &host, &bus, &target, &lun); err != nil {
		return ""
	}
	hostDir := filepath.Dir(filepath.Dir(a.dir)) // above the target
	adapter := filepath.Dir(hostDir)
	if name := filepath.Base(adapter); onATA("/" + name) {
		port := attr(adapter, filepath.Join("ata_port", name, "port_no"))
		if bus != 0 {
			return fmt.Sprintf("ata-%s.%d.0", port, bus)
		}
		return fmt.Sprintf("ata-%s.%d", port, target)
	}
	hosts, _ := filepath.Glob(filepath.Join(adapter, "host*"))
	base := host
	for _, h := range hosts {
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(h), "host")); err == nil {
			base = min(base, n)
		}
	}
	return fmt.Sprintf("scsi-%d:%d:%d:%d", host-base, bus, target, lun)
}
